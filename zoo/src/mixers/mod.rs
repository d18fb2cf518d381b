//! The catalogue of mixers: one file per idea, one line per mixer in the list below.

mod differential;
mod forgetting;
mod gated;
mod latent;
mod linear;
mod moba;
mod multi_token;
mod nexus;
mod nsa;
mod sinks;
mod softmax;

pub use differential::{Differential, DifferentialConfig, DifferentialVersion, Lambda, LayerLambda, lambda_init};
pub use forgetting::{Forgetting, ForgettingConfig};
pub use gated::{Gate, GateActivation, GateCombine, GatePosition, Gated, GatedConfig};
pub use latent::{Latent, LatentConfig};
pub use linear::*;
pub use moba::{Moba, MobaConfig};
pub use multi_token::{HeadNorm, MapKernel, MapMix, MapMixing, MultiToken, MultiTokenConfig, OutputNorm};
pub use nexus::{Nexus, NexusConfig, NexusInner, NexusProjections, NexusRefine};
pub use nsa::{Nsa, NsaConfig};
pub use sinks::Sink;
pub use softmax::{Softmax, SoftmaxConfig};

use crate::error::{ZooError, divisible, positive};
use crate::{AnyMixer, Init, RmsNorm};
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// Makes [`MixerConfig`] of a list of `Mixer(Config)`, with `[layer]` where a mixer starts differently by
/// depth.
macro_rules! mixers {
    ($layer:ident: $($(#[$meta:meta])* $mixer:ident($config:ident) $([$by_layer:ident])?,)+) => {
        /// Which mixer, and its sizes. In JSON: `{"type": "softmax", "heads": 4, …}`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum MixerConfig {
            $($(#[$meta])* $mixer($config),)+
        }

        impl MixerConfig {
            /// # Errors
            /// The value that does not fit, and what would.
            pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
                match self { $(Self::$mixer(config) => config.validate(d_model),)+ }
            }

            /// How many parameters the mixer has.
            pub fn parameters(&self, d_model: usize) -> usize {
                match self { $(Self::$mixer(config) => config.parameters(d_model),)+ }
            }

            /// Whether `mixer` is of the kind that this makes.
            pub fn makes(&self, mixer: &AnyMixer) -> bool {
                match self { $(Self::$mixer(_) => mixer.is::<$mixer>(),)+ }
            }

            /// The mixer of block `layer` (counted from 0).
            pub fn init(&self, d_model: usize, $layer: usize, init: &mut Init) -> AnyMixer {
                match self { $(Self::$mixer(config) => AnyMixer::new(config.init(d_model, $($by_layer,)? init)),)+ }
            }
        }
    };
}

mixers! { layer:
    Softmax(SoftmaxConfig),
    Gated(GatedConfig),
    Differential(DifferentialConfig)[layer],
    Forgetting(ForgettingConfig),
    MultiToken(MultiTokenConfig)[layer],
    Nexus(NexusConfig),
    Latent(LatentConfig),
    Moba(MobaConfig),
    Nsa(NsaConfig),
    LinearAttention(LinearAttentionConfig),
    #[serde(rename = "retnet")]
    RetNet(RetNetConfig),
    Lightning(LightningConfig)[layer],
    Gla(GlaConfig),
    Mamba2(Mamba2Config),
    #[serde(rename = "deltanet")]
    DeltaNet(DeltaNetConfig),
    GatedDelta(GatedDeltaConfig),
    Kda(KdaConfig),
    #[serde(rename = "gated_delta_2")]
    GatedDelta2(GatedDelta2Config),
}

impl MixerConfig {
    /// Whether a decoding step keeps a state of constant size instead of the past. Such a mixer shows
    /// its pattern in `forward` only.
    pub fn is_linear(&self) -> bool {
        use MixerConfig::*;
        matches!(
            self,
            LinearAttention(_)
                | RetNet(_)
                | Lightning(_)
                | Gla(_)
                | Mamba2(_)
                | DeltaNet(_)
                | GatedDelta(_)
                | Kda(_)
                | GatedDelta2(_)
        )
    }
}

/// The sizes that every softmax attention shares, checked.
fn check_heads(d_model: usize, heads: usize, kv_heads: usize, head_dim: Option<usize>) -> Result<usize, ZooError> {
    positive("heads", heads)?;
    positive("kv_heads", kv_heads)?;
    divisible("heads", heads, "kv_heads", kv_heads)?;
    match head_dim {
        Some(d) => positive("head_dim", d),
        None => divisible("d_model", d_model, "heads", heads),
    }
}

/// In f32 what has fewer bits.
fn in_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype().size() < 4 { x.cast(FloatDType::F32) } else { x }
}

/// `[batch, time, heads · d]` → `[batch, heads, time, d]`.
fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    normed_heads(x, heads, &None)
}

/// The same with QK-norm, where there is one: of heads as they lie, before axes change places.
fn normed_heads(x: Tensor<3>, heads: usize, norm: &Option<RmsNorm>) -> Tensor<4> {
    let [batch, time, width] = x.dims();
    let x = x.reshape([batch, time, heads, width / heads]);
    let x = match norm {
        Some(norm) => norm.forward(x),
        None => x,
    };
    x.swap_dims(1, 2)
}

/// `[batch, heads, time, d]` → `[batch, time, heads · d]`.
fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, time, d] = x.dims();
    x.swap_dims(1, 2).reshape([batch, time, heads * d])
}
