//! Variants and sizes by name.

use crate::{
    DeltaNetConfig, DifferentialConfig, DifferentialVersion, ExpertsConfig, ForgettingConfig, Gate, GatedConfig,
    GatedDelta2Config, GatedDeltaConfig, GlaConfig, KdaConfig, LatentConfig, LightningConfig, LinearAttentionConfig,
    LoopConfig, Mamba2Config, MixerConfig, MobaConfig, ModelConfig, MultiTokenConfig, NexusConfig, NsaConfig, Position,
    RetNetConfig, SoftmaxConfig, ZooError,
};

pub use crate::catalogue::VARIANTS;

/// `(name, d_model, layers, heads)`; a head has at least 16 channels.
const SIZES: [(&str, usize, usize, usize); 4] =
    [("nano", 32, 4, 2), ("tiny", 64, 4, 4), ("small", 128, 4, 4), ("medium", 512, 12, 8)];

/// The names of the sizes.
pub fn sizes() -> impl Iterator<Item = &'static str> {
    SIZES.iter().map(|(name, ..)| *name)
}

/// A model of `variant` at `size`, all variants of a size with the same parameter count to within
/// 1 %: the feed-forward width takes up the difference.
///
/// # Errors
/// An unknown name is answered with the valid ones.
pub fn preset(variant: &str, size: &str) -> Result<ModelConfig, ZooError> {
    let Some(&(_, d_model, layers, heads)) = SIZES.iter().find(|(name, ..)| *name == size) else {
        return Err(ZooError::Unknown { what: "size", name: size.into(), valid: sizes().map(String::from).collect() });
    };
    // 8/3 · d_model to a multiple of 8, the usual width of SwiGLU.
    let d_ff = (8 * d_model / 3).div_ceil(8) * 8;
    let baseline = ModelConfig::new(d_model, d_ff, layers, vec![MixerConfig::Softmax(SoftmaxConfig::new(heads))]);
    self::variant(variant, heads, baseline.clone())?.with_parameters(baseline.parameters())
}

/// `base` with the mixers of a variant whose baseline has `heads` heads, and with what else it is
/// made of.
pub fn variant(name: &str, heads: usize, base: ModelConfig) -> Result<ModelConfig, ZooError> {
    let base = ModelConfig { pattern: pattern(name, heads)?, ..base };
    Ok(match name {
        // The depth stays, the weights are those of one block.
        "looped" => ModelConfig { layers: 1, looped: Some(LoopConfig::new(base.layers)), ..base },
        "qwen3-next" => {
            // Narrow experts leave room for the block that predicts ahead.
            let experts = ExpertsConfig::new(4, base.d_model.div_ceil(8));
            let mtp = base.pattern.last().cloned();
            ModelConfig { zero_centred: true, tied: false, experts: Some(experts), mtp, ..base }
        }
        _ => base,
    })
}

/// The layer pattern of a variant whose baseline has `heads` heads.
pub fn pattern(variant: &str, heads: usize) -> Result<Vec<MixerConfig>, ZooError> {
    let gated = |gate| MixerConfig::Gated(GatedConfig { gate, ..GatedConfig::new(heads) });
    let delta = MixerConfig::GatedDelta(GatedDeltaConfig::new(heads));
    Ok(match variant {
        "baseline" | "looped" => vec![MixerConfig::Softmax(SoftmaxConfig::new(heads))],
        "gated" => vec![gated(Gate::Elementwise)],
        "gated-headwise" => vec![gated(Gate::Headwise)],
        // Half the heads, each with two patterns: the paper's rule at equal head_dim.
        "differential" => {
            vec![MixerConfig::Differential(DifferentialConfig::new(DifferentialVersion::V1, (heads / 2).max(1)))]
        }
        "differential-v2" => vec![MixerConfig::Differential(DifferentialConfig::new(DifferentialVersion::V2, heads))],
        "linear-attention" => vec![MixerConfig::LinearAttention(LinearAttentionConfig::new(heads))],
        "retnet" => vec![MixerConfig::RetNet(RetNetConfig::new(heads))],
        "lightning" => vec![MixerConfig::Lightning(LightningConfig::new(heads))],
        "gla" => vec![MixerConfig::Gla(GlaConfig::new(heads))],
        // With the published 128 channels, B and C alone would outweigh the small baselines.
        "mamba2" => vec![MixerConfig::Mamba2(Mamba2Config { state_dim: 32, ..Mamba2Config::new(heads) })],
        "deltanet" => vec![MixerConfig::DeltaNet(DeltaNetConfig::new(heads))],
        "gated-delta" => vec![delta],
        "kda" => vec![MixerConfig::Kda(KdaConfig::new(heads))],
        "gated-delta-2" => vec![MixerConfig::GatedDelta2(GatedDelta2Config::new(heads))],
        "hybrid" => vec![delta.clone(), delta.clone(), delta, gated(Gate::Elementwise)],
        "qwen3-next" => {
            let mut full = GatedConfig::new(heads);
            full.attention.zero_centred = true;
            full.attention.position = Position::partial_rope(10_000.0, 0.25);
            vec![delta.clone(), delta.clone(), delta, MixerConfig::Gated(full)]
        }
        "forgetting" => vec![MixerConfig::Forgetting(ForgettingConfig::new(heads))],
        "talking-heads" => vec![MixerConfig::MultiToken(MultiTokenConfig::talking_heads(heads))],
        "multi-token" => vec![MixerConfig::MultiToken(MultiTokenConfig::new(heads))],
        "nexus" => vec![MixerConfig::Nexus(NexusConfig::new(heads))],
        "latent" => vec![MixerConfig::Latent(LatentConfig::new(heads))],
        // Blocks for texts of a few hundred tokens.
        "moba" => vec![MixerConfig::Moba(MobaConfig { block: 16, ..MobaConfig::new(heads) })],
        "nsa" => {
            vec![MixerConfig::Nsa(NsaConfig { block: 8, selected: 4, window: 16, ..NsaConfig::new(heads) })]
        }
        _ => {
            let valid = VARIANTS.map(String::from).to_vec();
            return Err(ZooError::Unknown { what: "variant", name: variant.into(), valid });
        }
    })
}
