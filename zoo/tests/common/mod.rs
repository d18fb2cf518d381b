//! What the suites share: every mixer small and in f64, and reproducible numbers.
#![allow(dead_code)]

pub mod compare;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use std::path::Path;
use zoo::checkpoint::{Place, Tensors};
use zoo::*;

pub const D_MODEL: usize = 24;

/// The checkpoints of `tests/parity/data` that load as they are.
pub const PRETRAINED: [&str; 9] = [
    "llama",
    "llama3",
    "qwen3",
    "gated_headwise",
    "gated_elementwise",
    "diffllama",
    "qwen3_next",
    "fla_gated_deltanet",
    "fla_kda",
];

/// Our name of a tensor of differential attention's authors, V1 or V2, in a stack of Llama's.
pub fn authors_name(name: &str) -> String {
    name.replace("model.layers.", "blocks.")
        .replace("self_attn.lambda_proj", "mixer.lambda")
        .replace("self_attn.lambda_", "mixer.lambda.")
        .replace("self_attn.subln", "mixer.lambda.norm")
        .replace("self_attn.out_proj", "mixer.o_proj")
        .replace("self_attn", "mixer")
        .replace("input_layernorm", "mixer_norm")
        .replace("post_attention_layernorm", "feed_forward_norm")
        .replace(".mlp.", ".feed_forward.")
        .replace("model.embed_tokens.weight", "embedding")
        .replace("model.norm", "norm")
        .replace("lm_head.weight", "head")
}

/// Every mixer of the catalogue in the shapes that differ: grouped keys, partial rotation, no norm,
/// shared queries, values wider than keys, chunks shorter than the sequence.
pub fn mixers() -> Vec<(&'static str, MixerConfig)> {
    let rope = |fraction| Position::partial_rope(10_000.0, fraction);
    let rotated = |layout, scaling| Position::Rope(Rope { theta: 100.0, fraction: 1.0, layout, scaling });
    let softmax = |kv_heads, qk_norm, position| SoftmaxConfig {
        kv_heads: Some(kv_heads),
        head_dim: Some(8),
        qk_norm,
        position,
        ..SoftmaxConfig::new(4)
    };
    let gated = |kv_heads, change: &dyn Fn(&mut GatedConfig)| {
        let mut config = GatedConfig::of(softmax(kv_heads, true, rope(0.5)));
        change(&mut config);
        MixerConfig::Gated(config)
    };
    let differential = |version, heads, kv_heads| DifferentialConfig {
        kv_heads: Some(kv_heads),
        head_dim: Some(6),
        ..DifferentialConfig::new(version, heads)
    };
    let with = |change: &dyn Fn(&mut SoftmaxConfig)| {
        let mut config = softmax(2, true, rope(1.0));
        change(&mut config);
        MixerConfig::Softmax(config)
    };
    let nexus = |change: &dyn Fn(&mut NexusConfig)| {
        let mut config = NexusConfig { kv_heads: Some(2), position: rope(0.75), ..NexusConfig::new(4) };
        change(&mut config);
        MixerConfig::Nexus(config)
    };
    let moba = |change: &dyn Fn(&mut MobaConfig)| {
        let mut config = MobaConfig { head_dim: Some(8), position: rope(0.5), ..MobaConfig::new(4) };
        change(&mut config);
        MixerConfig::Moba(config)
    };
    let nsa = |change: &dyn Fn(&mut NsaConfig)| {
        let mut config = NsaConfig { head_dim: Some(8), position: rope(0.5), ..NsaConfig::new(4) };
        change(&mut config);
        MixerConfig::Nsa(config)
    };
    let yarn = RopeScaling::Yarn { factor: 4.0, original: 16.0, beta_fast: 2.0, beta_slow: 0.5, truncate: true };
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 32.0 };
    use DifferentialVersion::{V1, V2};
    use Gate::Headwise;
    use GateActivation::{Identity, NonSparseSigmoid, Silu};
    use GateCombine::Add;
    use GatePosition::{Dense, Key, Query, Value};
    vec![
        ("multi-head", MixerConfig::Softmax(softmax(4, true, rope(1.0)))),
        ("grouped-query", MixerConfig::Softmax(softmax(2, true, rope(0.5)))),
        ("multi-query without norm or position", MixerConfig::Softmax(softmax(1, false, Position::None {}))),
        ("interleaved, YaRN", MixerConfig::Softmax(softmax(2, true, rotated(RopeLayout::Interleaved, Some(yarn))))),
        ("half-split, llama3", MixerConfig::Softmax(softmax(2, true, rotated(RopeLayout::HalfSplit, Some(llama3))))),
        ("ALiBi", MixerConfig::Softmax(softmax(2, false, Position::Alibi {}))),
        ("window, soft cap", with(&|c| (c.window, c.softcap) = (Some(3), Some(0.5)))),
        ("window as long as the text, ALiBi", with(&|c| (c.window, c.position) = (Some(11), Position::Alibi {}))),
        ("sink logit, biases", with(&|c| (c.sink, c.bias) = (Some(Sink::Logit {}), true))),
        ("softmax off by one, window", with(&|c| (c.sink, c.window) = (Some(Sink::OffByOne {}), Some(4)))),
        ("key bias", with(&|c| c.sink = Some(Sink::KeyBias {}))),
        ("sigmoid", with(&|c| c.sink = Some(Sink::Sigmoid {}))),
        ("biased first token", with(&|c| c.sink = Some(Sink::FirstToken { bias: 2.0 }))),
        ("biased first token, window", with(&|c| (c.sink, c.window) = (Some(Sink::FirstToken { bias: 2.0 }), Some(4)))),
        ("gated elementwise", gated(4, &|_| ())),
        ("gated headwise, grouped", gated(2, &|c| c.gate = Headwise)),
        ("gated, shared, never closed", gated(4, &|c| (c.shared, c.activation) = (true, NonSparseSigmoid))),
        ("gated headwise, a sum", gated(2, &|c| (c.gate, c.combine, c.activation) = (Headwise, Add, Identity))),
        ("gated values, shared", gated(2, &|c| (c.position, c.shared) = (Value, true))),
        ("gated values, headwise, SiLU", gated(2, &|c| (c.position, c.gate, c.activation) = (Value, Headwise, Silu))),
        ("gated keys, a sum", gated(2, &|c| (c.position, c.combine, c.activation) = (Key, Add, Silu))),
        ("gated keys, headwise", gated(2, &|c| (c.position, c.gate) = (Key, Headwise))),
        ("gated queries", gated(2, &|c| c.position = Query)),
        ("gated queries, headwise, shared", gated(4, &|c| (c.position, c.gate, c.shared) = (Query, Headwise, true))),
        ("gated branch", gated(2, &|c| c.position = Dense)),
        ("gated branch, a sum", gated(2, &|c| (c.position, c.combine) = (Dense, Add))),
        ("gate without input", gated(2, &|c| c.gate = Gate::InputIndependent)),
        ("normed heads", gated(2, &|c| c.gate = Gate::HeadNorm)),
        ("SiLU of the heads", gated(2, &|c| c.gate = Gate::Silu)),
        ("differential V1", MixerConfig::Differential(differential(V1, 2, 2))),
        ("differential V1, grouped", MixerConfig::Differential(differential(V1, 4, 2))),
        ("differential V2", MixerConfig::Differential(differential(V2, 2, 2))),
        ("differential V2, grouped", MixerConfig::Differential(differential(V2, 4, 2))),
        ("gated delta", MixerConfig::GatedDelta(GatedDeltaConfig { chunk: 4, ..GatedDeltaConfig::new(3) })),
        ("gated delta, one tap", MixerConfig::GatedDelta(GatedDeltaConfig { conv: 1, ..GatedDeltaConfig::new(3) })),
        (
            "gated delta, shared keys, wide values, beta to 2",
            MixerConfig::GatedDelta(GatedDeltaConfig {
                allow_negative_eigenvalues: true,
                k_heads: Some(2),
                key_dim: Some(5),
                value_dim: Some(7),
                chunk: 2,
                ..GatedDeltaConfig::new(4)
            }),
        ),
        ("KDA", MixerConfig::Kda(KdaConfig { chunk: 4, ..KdaConfig::new(3) })),
        (
            "KDA, wide values, beta to 2",
            MixerConfig::Kda(KdaConfig {
                key_dim: Some(5),
                value_dim: Some(7),
                allow_negative_eigenvalues: true,
                chunk: 2,
                ..KdaConfig::new(2)
            }),
        ),
        ("DeltaNet", MixerConfig::DeltaNet(DeltaNetConfig { chunk: 4, ..DeltaNetConfig::new(3) })),
        (
            "DeltaNet, beta to 2",
            MixerConfig::DeltaNet(DeltaNetConfig {
                key_dim: Some(5),
                allow_negative_eigenvalues: true,
                ..DeltaNetConfig::new(3)
            }),
        ),
        ("GLA", MixerConfig::Gla(GlaConfig { chunk: 4, ..GlaConfig::new(3) })),
        ("RetNet", MixerConfig::RetNet(RetNetConfig { chunk: 4, ..RetNetConfig::new(3) })),
        (
            "RetNet, decays of its own",
            MixerConfig::RetNet(RetNetConfig {
                key_dim: Some(5),
                value_dim: Some(7),
                position: Position::None {},
                decays: Some(vec![1.0, 0.5]),
                ..RetNetConfig::new(2)
            }),
        ),
        (
            "linear attention",
            MixerConfig::LinearAttention(LinearAttentionConfig { chunk: 4, ..LinearAttentionConfig::new(3) }),
        ),
        (
            "linear attention, Taylor",
            MixerConfig::LinearAttention(LinearAttentionConfig {
                key_dim: Some(3),
                feature_map: FeatureMap::Taylor,
                ..LinearAttentionConfig::new(3)
            }),
        ),
        (
            "linear attention, a plain sum",
            MixerConfig::LinearAttention(LinearAttentionConfig {
                value_dim: Some(5),
                feature_map: FeatureMap::Identity,
                normalised: false,
                ..LinearAttentionConfig::new(3)
            }),
        ),
        ("Lightning", MixerConfig::Lightning(LightningConfig { chunk: 4, ..LightningConfig::new(3) })),
        (
            "Lightning as in MiniMax-01",
            MixerConfig::Lightning(LightningConfig { decays: LightningDecays::Geometric, ..LightningConfig::new(3) }),
        ),
        ("GDN-2", MixerConfig::GatedDelta2(GatedDelta2Config { chunk: 4, ..GatedDelta2Config::new(3) })),
        (
            "GDN-2, wide values, erase to 2",
            MixerConfig::GatedDelta2(GatedDelta2Config {
                key_dim: Some(5),
                value_dim: Some(7),
                allow_negative_eigenvalues: true,
                ..GatedDelta2Config::new(2)
            }),
        ),
        ("Mamba-2", MixerConfig::Mamba2(Mamba2Config { state_dim: 6, chunk: 4, ..Mamba2Config::new(3) })),
        ("forgetting", MixerConfig::Forgetting(ForgettingConfig::new(4))),
        (
            "forgetting, grouped, partial rotation",
            MixerConfig::Forgetting(ForgettingConfig {
                kv_heads: Some(2),
                head_dim: Some(8),
                qk_norm: false,
                position: rope(0.5),
                bias: 1.0,
                ..ForgettingConfig::new(4)
            }),
        ),
        ("talking heads", MixerConfig::MultiToken(MultiTokenConfig::talking_heads(4))),
        ("multi-token as released", MixerConfig::MultiToken(MultiTokenConfig::new(4))),
        (
            "multi-token, kernels of two sizes, heads in pairs, depth scaling, grouped keys",
            MixerConfig::MultiToken(MultiTokenConfig {
                kv_heads: Some(2),
                head_dim: Some(8),
                position: rope(0.5),
                before: MapMixing { kernel: Some(MapKernel { queries: 2, keys: 5 }), heads: Some(2) },
                after: MapMixing { kernel: Some(MapKernel { queries: 3, keys: 3 }), heads: None },
                norm: Some(HeadNorm { depth_scaling: true, gate: false }),
                ..MultiTokenConfig::plain(4)
            }),
        ),
        (
            "multi-token after the softmax alone, one key head",
            MixerConfig::MultiToken(MultiTokenConfig {
                kv_heads: Some(1),
                qk_norm: false,
                position: Position::None {},
                after: MapMixing { kernel: Some(MapKernel { queries: 1, keys: 7 }), heads: Some(2) },
                ..MultiTokenConfig::plain(4)
            }),
        ),
        ("nexus", MixerConfig::Nexus(NexusConfig::new(4))),
        ("nexus, shared, order 3, inner rotation", nexus(&|c| (c.order, c.inner_position) = (3, true))),
        ("nexus, own weights, order 3", nexus(&|c| (c.order, c.shared) = (3, false))),
        ("nexus, queries, own weights", nexus(&|c| (c.refine, c.shared) = (NexusRefine::Queries, false))),
        ("nexus, keys, ALiBi", nexus(&|c| (c.refine, c.position) = (NexusRefine::Keys, Position::Alibi {}))),
        (
            "nexus over queries and keys, order 3",
            nexus(&|c| (c.order, c.inner, c.head_dim) = (3, NexusInner::QueriesAndKeys, Some(8))),
        ),
        (
            "nexus over keys, inner rotation",
            nexus(&|c| (c.inner, c.refine, c.inner_position) = (NexusInner::QueriesAndKeys, NexusRefine::Keys, true)),
        ),
        ("latent", MixerConfig::Latent(LatentConfig { position_dim: Some(4), ..LatentConfig::new(4) })),
        (
            "latent, queries of low rank, wide values, partial rotation",
            MixerConfig::Latent(LatentConfig {
                rank: Some(7),
                query_rank: Some(9),
                content_dim: Some(5),
                position_dim: Some(8),
                value_dim: Some(10),
                position: rope(0.5),
                ..LatentConfig::new(3)
            }),
        ),
        ("blocks of 2, two of them", moba(&|c| (c.block, c.top_k) = (2, 2))),
        ("blocks of 3, three of them, grouped", moba(&|c| (c.block, c.top_k, c.kv_heads) = (3, 3, Some(2)))),
        ("blocks longer than the text, ALiBi", moba(&|c| (c.block, c.position) = (20, Position::Alibi {}))),
        ("sparse, grouped", nsa(&|c| (c.block, c.selected, c.window, c.kv_heads) = (2, 3, 3, Some(2)))),
        ("sparse, blocks of 3", nsa(&|c| (c.block, c.selected, c.window) = (3, 4, 1))),
        ("sparse, all longer than the text", nsa(&|_| ())),
    ]
}

/// The mixer of block 1 in f64.
pub fn build(config: &MixerConfig, device: &Device) -> AnyMixer {
    config.validate(D_MODEL).expect("a valid configuration");
    // Larger weights than usual, so that no term of a gradient is too small to be seen.
    let mut init = Init::new(7, 0.3, 0.3, 2, device);
    let mixer = config.init(D_MODEL, 1, &mut init);
    match config {
        // What starts as the identity, or alike in all heads, would hide every mistake in it.
        MixerConfig::MultiToken(_) | MixerConfig::Gated(_) => shaken(double(mixer)),
        _ => double(mixer),
    }
}

/// The same module with every parameter moved a little.
pub fn shaken<M: Module>(module: M) -> M {
    struct Shake(u64);
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let seed = self.0;
            param.map(|t| {
                let tracked = t.is_require_grad();
                let noise = numbers(seed, t.dims(), &t.device());
                (t.detach() + noise * 0.3).detach().set_require_grad(tracked)
            })
        }
    }
    module.map(&mut Shake(100))
}

/// The same module in f64.
pub fn double<M: Module>(module: M) -> M {
    cast(module, DType::F64)
}

/// The same module with its parameters in another precision.
pub fn cast<M: Module>(module: M, dtype: DType) -> M {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| {
                let device = t.device();
                let tracked = t.is_require_grad();
                let data = t.into_data().convert_dtype(self.0);
                Tensor::from_data(data, (&device, self.0)).set_require_grad(tracked)
            })
        }
    }
    module.map(&mut Cast(dtype))
}

/// The gradient of every parameter that has one, by the parameter's name.
pub fn gradients_by_name<M: Module>(module: &M, gradients: &Gradients) -> Tensors {
    struct Visitor<'a> {
        place: Place,
        gradients: &'a Gradients,
        found: Tensors,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                self.found.insert(self.place.name(), gradient.into_data());
            }
        }
    }
    let mut visitor = Visitor { place: Place::default(), gradients, found: Tensors::new() };
    module.visit(&mut visitor);
    visitor.found
}

/// Compares the gradient of every parameter with finite differences of `loss`.
pub fn assert_gradients<M: Module>(name: &str, module: &M, gradients: &Gradients, loss: impl Fn(&M) -> f64) {
    let values = checkpoint::tensors(module);
    let gradients = gradients_by_name(module, gradients);
    assert_eq!(gradients.len(), values.len(), "{name}: a parameter without gradient");
    for (parameter, gradient) in &gradients {
        assert_gradient(&format!("{name}: {parameter}"), &values[parameter], gradient, &|data| {
            let mut moved = values.clone();
            moved.insert(parameter.clone(), data);
            loss(&checkpoint::apply(module.clone(), &moved, Path::new("perturbed")).unwrap())
        });
    }
}

/// Compares a gradient with finite differences of the loss `at` the values `data`: at its largest
/// entry and two others.
pub fn assert_gradient(what: &str, data: &TensorData, gradient: &TensorData, at: &dyn Fn(TensorData) -> f64) {
    let gradient: Vec<f64> = gradient.clone().try_into_vec().unwrap();
    let numbers: Vec<f64> = data.clone().try_into_vec().unwrap();
    let largest = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
    for i in [largest, 0, gradient.len() / 2] {
        let shifted = |by: f64| {
            let mut moved = numbers.clone();
            moved[i] += by;
            at(TensorData::new(moved, data.shape().clone()))
        };
        const H: f64 = 1e-5;
        let difference = (shifted(H) - shifted(-H)) / (2.0 * H);
        let error = (difference - gradient[i]).abs() / (1e-3 + difference.abs());
        assert!(error < 1e-5, "{what}[{i}] is {} but the finite difference {difference}", gradient[i]);
    }
}

/// Reproducible numbers in (−1, 1).
pub fn numbers<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

pub fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    x.abs().max().into_scalar()
}
