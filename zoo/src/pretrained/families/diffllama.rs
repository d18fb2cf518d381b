//! DiffLlama: differential attention V1.

use super::{Family, LLAMAS, attention, equal_eps, is_plain, model};
use crate::pretrained::fields::rope_parameters;
use crate::pretrained::layout::Place;
use crate::{DifferentialConfig, DifferentialVersion, MixerConfig};
use burn::tensor::TensorData;
use serde_json::json;

pub(super) const DIFFLLAMA: Family = Family {
    model_type: "diffllama",
    class: "DiffLlama",
    stack: LLAMAS,
    read: |fields| {
        fields.off(&["attention_bias", "mlp_bias"]);
        let softmax = attention(fields, 1e-5, None, 1.0)?;
        let (heads, kv_heads) = (softmax.heads, softmax.kv_heads());
        if !heads.is_multiple_of(2) || !kv_heads.is_multiple_of(2) {
            fields.problem(format!("num_attention_heads {heads} and num_key_value_heads {kv_heads} must be even"));
        }
        // Two of its softmax maps are a head of ours.
        let mixer = DifferentialConfig {
            kv_heads: Some(kv_heads / 2),
            head_dim: softmax.head_dim,
            norm_eps: softmax.norm_eps,
            position: softmax.position,
            ..DifferentialConfig::new(DifferentialVersion::V1, heads / 2)
        };
        model(fields, 1e-5, vec![MixerConfig::Differential(mixer)])
    },
    computes: |config| {
        let first = matches!(&config.pattern[0], MixerConfig::Differential(d) if d.version == DifferentialVersion::V1);
        is_plain(config) && first
    },
    write: |config| {
        let differential = of(&config.pattern[0]);
        equal_eps(config.norm_eps, differential.norm_eps)?;
        Ok(json!({
            "num_attention_heads": 2 * differential.heads,
            "num_key_value_heads": 2 * differential.kv_heads(),
            "head_dim": differential.head_dim(config.d_model),
            "rope_parameters": rope_parameters(&differential.position, false)?,
        }))
    },
    mixer: |mixer, d_model| {
        let config = of(mixer);
        let d = config.head_dim(d_model);
        let mut places = vec![Place::same("self_attn.o_proj.weight", "mixer.o_proj.weight")];
        for (name, pairs) in [("q_proj", config.heads), ("k_proj", config.kv_heads()), ("v_proj", config.kv_heads())] {
            // Map m is paired with m + H/2 there, 2i with 2i + 1 here; the same for keys and values.
            let ours = format!("mixer.{name}.weight");
            let map = |m: usize| m % pairs * 2 + m / pairs;
            let rows = (0..2 * pairs).map(|m| (ours.as_str(), map(m) * d..(map(m) + 1) * d));
            places.push(Place::stacked(format!("self_attn.{name}.weight"), rows));
        }
        for vector in ["q1", "k1", "q2", "k2"] {
            places.push(Place::same(format!("self_attn.lambda_{vector}"), format!("mixer.lambda.{vector}")));
        }
        places
    },
    // The norm of its heads has no weight: ours is one.
    implied: |config| {
        let width = 2 * of(&config.pattern[0]).head_dim(config.d_model);
        let ones = || TensorData::new(vec![1.0f32; width], [width]);
        (0..config.layers).map(|layer| (norm(layer), ones())).collect()
    },
    // So ours goes into the matrix behind it.
    fold: |config, ours| {
        for layer in 0..config.layers {
            let weight: Vec<f32> = ours.remove(&norm(layer)).expect("a norm per block").iter::<f32>().collect();
            let matrix = ours.get_mut(&format!("blocks.{layer}.mixer.o_proj.weight")).expect("a matrix per block");
            *matrix = scaled_columns(matrix, &weight);
        }
    },
};

fn of(mixer: &MixerConfig) -> &DifferentialConfig {
    match mixer {
        MixerConfig::Differential(config) => config,
        _ => unreachable!("made by `read` or seen by `computes`"),
    }
}

fn norm(layer: usize) -> String {
    format!("blocks.{layer}.mixer.lambda.norm.weight")
}

/// A matrix with its columns scaled, the weights repeated for every head.
pub(in crate::pretrained) fn scaled_columns(matrix: &TensorData, weight: &[f32]) -> TensorData {
    let scaled: Vec<f32> = matrix.iter::<f32>().enumerate().map(|(i, w)| w * weight[i % weight.len()]).collect();
    TensorData::new(scaled, matrix.shape().clone())
}
