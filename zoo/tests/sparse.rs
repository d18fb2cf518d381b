//! What latent attention and attention to chosen blocks must agree with where they meet others.

mod common;

use burn::tensor::{Device, Tensor};
use common::compare::*;
use common::*;
use zoo::*;

fn latent() -> LatentConfig {
    LatentConfig {
        rank: Some(7),
        query_rank: Some(9),
        content_dim: Some(5),
        position_dim: Some(4),
        value_dim: Some(10),
        ..LatentConfig::new(3)
    }
}

#[test]
fn absorbed_and_expanded_steps_agree() {
    let mixer = double(latent().init(D_MODEL, &mut seeded()));
    let (mut absorbed, mut expanded) = (Cache::default(), Cache::default());
    for t in 0..8 {
        let token = || input(8).narrow(1, t, 1);
        let mut patterns = [Record::new(&["pattern"]), Record::new(&["pattern", "k", "v"])];
        let a = mixer.step(token(), &mut absorbed, &mut patterns[0]);
        let b = mixer.step(token(), &mut expanded, &mut patterns[1]);
        assert!(largest(a - b) < 1e-12, "token {t}");
        let [a, b] = patterns.each_ref().map(|record| record.get::<4>("pattern").unwrap());
        assert!(largest(a - b) < 1e-12, "pattern of token {t}");
        assert_eq!(patterns[1].get::<4>("v").unwrap().dims(), [2, 3, t + 1, 10]);
        absorbed.advance(1);
        expanded.advance(1);
    }
}

#[test]
fn a_patch_on_values_means_the_same_in_forward_and_in_step() {
    let mixer = double(latent().init(D_MODEL, &mut seeded()));
    let patch = || Patch::new("v", |_, value: Value| Value::new(value.tensor::<4>().tanh()));
    let whole = mixer.forward(input(6), &mut patch());
    let mut cache = Cache::default();
    for t in 0..6 {
        let step = mixer.step(input(6).narrow(1, t, 1), &mut cache, &mut patch());
        assert!(largest(whole.clone().narrow(1, t, 1) - step) < 1e-12, "token {t}");
        cache.advance(1);
    }
}

#[test]
fn a_token_of_latent_attention_is_kept_in_576_numbers_at_the_published_sizes() {
    let config = LatentConfig {
        rank: Some(512),
        query_rank: Some(1536),
        content_dim: Some(128),
        position_dim: Some(64),
        ..LatentConfig::new(2)
    };
    let mixer = config.init(D_MODEL, &mut seeded());
    let mut cache = Cache::default();
    mixer.step(numbers(1, [1, 1, D_MODEL], &Device::flex()).cast(burn::tensor::DType::F32), &mut cache, &mut Silent);
    assert_eq!(cache.bytes(), 576 * size_of::<f32>());
}

#[test]
fn latent_attention_without_positions_is_attention_with_factored_projections() {
    let config = LatentConfig {
        rank: Some(8),
        content_dim: Some(6),
        position_dim: Some(2),
        position: Position::None {},
        ..LatentConfig::new(4)
    };
    let mixer = double(config.init(D_MODEL, &mut seeded()));
    let mut record = Record::new(&["q", "k", "v", "latent"]);
    mixer.forward(input(7), &mut record);
    let [q, k, v] = ["q", "k", "v"].map(|name| record.get::<4>(name).unwrap());
    // The rows of W_uv of head 2 follow those of its W_uk.
    let up = mixer.kv_proj.weight.val().narrow(0, 2 * 12 + 6, 6);
    let value = record.get::<3>("latent").unwrap().matmul(up.transpose().unsqueeze());
    assert!(largest(value - v.clone().narrow(1, 2, 1).squeeze_dim(1)) < 1e-12);
    let content =
        record.get::<3>("latent").unwrap().matmul(mixer.kv_proj.weight.val().narrow(0, 24, 6).transpose().unsqueeze());
    assert!(largest(content - k.clone().narrow(1, 2, 1).narrow(3, 0, 6).squeeze_dim(1)) < 1e-12);
    // The last two channels of a key are the same in all heads, and have rows of their own.
    let common = input(7).matmul(mixer.kv_down.weight.val().narrow(0, 8, 2).transpose().unsqueeze());
    assert!(largest(k.clone().narrow(3, 6, 2) - common.unsqueeze_dim(1)) < 1e-12);
    let heads = kernels::softmax_attention(q, k, v, 8f64.powf(-0.5));
    let expected = mixer.o_proj.forward(heads.swap_dims(1, 2).reshape([2, 7, D_MODEL]));
    assert!(largest(mixer.forward(input(7), &mut Silent) - expected) < 1e-12);
}

fn moba(block: usize, top_k: usize) -> Moba {
    double(MobaConfig { kv_heads: Some(2), block, top_k, ..MobaConfig::new(4) }.init(D_MODEL, &mut seeded()))
}

#[test]
fn as_many_blocks_as_the_text_has_are_plain_attention() {
    for (block, top_k) in [(2, 5), (3, 3), (9, 1), (50, 1)] {
        let mixer = moba(block, top_k);
        assert_eq!(difference(&mixer, &mixer.attention), 0.0, "blocks of {block}");
    }
    let mixer = moba(2, 4);
    assert!(difference(&mixer, &mixer.attention) > 1e-6);
}

#[test]
fn one_block_is_attention_inside_a_block() {
    let pattern = recorded(&moba(3, 1), input(9), "pattern");
    for first in [3, 6] {
        let inside = pattern.clone().narrow(2, first, 3).narrow(3, first, 3).sum_dim(3);
        assert!(largest(inside.clone() - inside.ones_like()) < 1e-12);
    }
}

#[test]
fn a_query_sees_the_earlier_blocks_whose_mean_key_answers_most() {
    const BLOCK: usize = 3;
    let (time, top_k) = (11, 3);
    let mixer = moba(BLOCK, top_k);
    let rows = |name| -> Vec<f64> { recorded(&mixer, input(11), name).into_data().iter::<f64>().collect() };
    let (q, k, pattern) = (rows("q"), rows("k"), rows("pattern"));
    let d = D_MODEL / 4;
    for row in 0..2 * 4 * time {
        let (batch, head, t) = (row / (4 * time), row / time % 4, row % time);
        let answer = |c: usize| -> f64 {
            let key = |s: usize, i: usize| k[((batch * 2 + head / 2) * time + s) * d + i];
            (0..d).map(|i| q[row * d + i] * (c * BLOCK..(c + 1) * BLOCK).map(|s| key(s, i)).sum::<f64>()).sum()
        };
        let mut blocks: Vec<usize> = (0..t / BLOCK).collect();
        blocks.sort_by(|&a, &b| answer(b).total_cmp(&answer(a)));
        blocks.truncate(top_k - 1);
        blocks.push(t / BLOCK);
        for s in 0..time {
            let seen = s <= t && blocks.contains(&(s / BLOCK));
            assert_eq!(pattern[row * time + s] > 0.0, seen, "head {head}, query {t}, key {s}");
        }
    }
}

#[test]
fn a_patched_choice_is_the_choice() {
    let mixer = moba(3, 2);
    let mut all = Patch::new("blocks", |_, value: Value| Value::new(value.tensor::<4>().ones_like()));
    let whole = mixer.attention.forward(input(9), &mut Silent);
    assert_eq!(largest(mixer.forward(input(9), &mut all) - whole), 0.0);
}

fn nsa(block: usize, selected: usize, window: usize) -> Nsa {
    let config = NsaConfig { kv_heads: Some(2), block, selected, window, ..NsaConfig::new(4) };
    double(config.init(D_MODEL, &mut seeded()))
}

/// What comes out when one branch alone has a gate, of 1.
fn branch(mixer: &Nsa, branch: usize, x: Tensor<3>) -> Tensor<3> {
    let mut open = Patch::new("branches", |_, value: Value| {
        let gates: Tensor<4> = value.tensor();
        let [batch, time, heads, _] = gates.dims();
        let one = gates.clone().narrow(3, branch, 1).ones_like();
        Value::new((gates * 0.0).slice_assign([0..batch, 0..time, 0..heads, branch..branch + 1], one))
    });
    mixer.forward(x, &mut open)
}

#[test]
fn the_window_branch_is_attention_in_a_window() {
    let mixer = nsa(2, 3, 3);
    let window = SoftmaxConfig { kv_heads: Some(2), window: Some(3), ..SoftmaxConfig::new(4) };
    let window = double(window.init(D_MODEL, &mut seeded()));
    assert!(largest(branch(&mixer, 2, input(9)) - window.forward(input(9), &mut Silent)) < 1e-12);
}

#[test]
fn selecting_every_block_is_plain_attention_and_selecting_three_is_not() {
    let plain = |mixer: &Nsa| mixer.attention.forward(input(9), &mut Silent);
    let all = nsa(2, 5, 3);
    assert!(largest(branch(&all, 1, input(9)) - plain(&all)) < 1e-12);
    let three = nsa(2, 3, 3);
    assert!(largest(branch(&three, 1, input(9)) - plain(&three)) > 1e-6);
    let chosen = recorded(&three, input(9), "blocks").narrow(2, 8, 1);
    // The last query stands in block 4: blocks 0 and 3 beside its own.
    let expected = Tensor::<1>::from_data([1.0, 0.0, 0.0, 1.0], (&Device::flex(), chosen.dtype()));
    assert_eq!(largest(chosen - expected.reshape([1, 1, 1, 4])), 0.0);
}

#[test]
fn the_fourth_block_is_the_one_of_most_compressed_weight_in_its_group() {
    let (time, block) = (11, 2);
    let mixer = nsa(block, 4, 3);
    let [q, k] = ["q", "k"].map(|name| recorded(&mixer, input(time), name));
    let means: Tensor<4> = k.narrow(2, 0, 10).reshape([2, 2, 5, block, 6]).mean_dim(3).squeeze_dim(3);
    let last = q.narrow(2, 10, 1).reshape([2, 2, 2, 6]) * 6f64.powf(-0.5);
    let weights = burn::tensor::activation::softmax(last.matmul(means.transpose()), 3);
    let weights: Vec<f64> = weights.sum_dim(2).into_data().iter::<f64>().collect();
    let chosen: Vec<f64> = recorded(&mixer, input(time), "blocks").narrow(2, 10, 1).into_data().iter::<f64>().collect();
    for group in 0..4 {
        let (weights, chosen) = (&weights[group * 5..][..5], &chosen[group * 5..][..5]);
        let best = (1..4).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap();
        let expected: Vec<f64> = (0..5).map(|c| (c == 0 || c == 4 || c == best) as u8 as f64).collect();
        assert_eq!(chosen, expected, "group {group}");
    }
}

#[test]
fn the_compressed_branch_is_attention_to_means() {
    let mixer = nsa(2, 3, 3);
    let [q, k, v] = ["q", "k", "v"].map(|name| recorded(&mixer, input(8), name));
    let means = |x: Tensor<4>| -> Tensor<4> { x.reshape([2, 2, 4, 2, 6]).mean_dim(3).squeeze_dim(3) };
    // All four blocks end at or before the last token.
    let last = kernels::softmax_attention(q.narrow(2, 7, 1), means(k), means(v), 6f64.powf(-0.5));
    let expected = mixer.attention.o_proj.forward(last.swap_dims(1, 2).reshape([2, 1, D_MODEL]));
    let found = branch(&mixer, 0, input(8));
    assert!(largest(found.clone().narrow(1, 7, 1) - expected) < 1e-12);
    assert_eq!(largest(found.narrow(1, 0, 1)), 0.0, "no block ends before the second token");
}
