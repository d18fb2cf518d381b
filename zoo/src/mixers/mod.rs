//! The catalogue: one file per idea.

mod differential;
mod forgetting;
mod gated;
mod gated_delta;
mod latent;
mod moba;
mod multi_token;
mod nexus;
mod nsa;
mod sinks;
mod softmax;

pub use differential::{Differential, DifferentialConfig, DifferentialVersion, Lambda, LayerLambda, lambda_init};
pub use forgetting::{Forgetting, ForgettingConfig};
pub use gated::{Gate, Gated, GatedConfig};
pub use gated_delta::{GatedDelta, GatedDeltaConfig};
pub use latent::{Latent, LatentConfig};
pub use moba::{Moba, MobaConfig};
pub use multi_token::{HeadNorm, MapKernel, MapMix, MapMixing, MultiToken, MultiTokenConfig, OutputNorm};
pub use nexus::{Nexus, NexusConfig, NexusInner, NexusProjections, NexusRefine};
pub use nsa::{Nsa, NsaConfig};
pub use sinks::Sink;
pub use softmax::{Softmax, SoftmaxConfig};

use crate::error::{ZooError, divisible, positive};
use crate::{Cache, Init, Mixer, Tap};
use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which mixer, and its sizes. In JSON: `{"type": "softmax", "heads": 4, …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MixerConfig {
    Softmax(SoftmaxConfig),
    Gated(GatedConfig),
    Differential(DifferentialConfig),
    GatedDelta(GatedDeltaConfig),
    Forgetting(ForgettingConfig),
    MultiToken(MultiTokenConfig),
    Nexus(NexusConfig),
    Latent(LatentConfig),
    Moba(MobaConfig),
    Nsa(NsaConfig),
}

/// Any mixer of the catalogue, for configurations read from JSON and for hybrids.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // a handful per model, and burn's derive takes no boxes
pub enum AnyMixer {
    Softmax(Softmax),
    Gated(Gated),
    Differential(Differential),
    GatedDelta(GatedDelta),
    Forgetting(Forgetting),
    MultiToken(MultiToken),
    Nexus(Nexus),
    Latent(Latent),
    Moba(Moba),
    Nsa(Nsa),
}

macro_rules! each {
    ($any:expr, $family:ident, $inner:ident => $body:expr) => {
        match $any {
            $family::Softmax($inner) => $body,
            $family::Gated($inner) => $body,
            $family::Differential($inner) => $body,
            $family::GatedDelta($inner) => $body,
            $family::Forgetting($inner) => $body,
            $family::MultiToken($inner) => $body,
            $family::Nexus($inner) => $body,
            $family::Latent($inner) => $body,
            $family::Moba($inner) => $body,
            $family::Nsa($inner) => $body,
        }
    };
}

impl MixerConfig {
    pub fn validate(&self, d_model: usize) -> Result<(), ZooError> {
        each!(self, MixerConfig, config => config.validate(d_model))
    }

    /// How many parameters the mixer has.
    pub fn parameters(&self, d_model: usize) -> usize {
        each!(self, MixerConfig, config => config.parameters(d_model))
    }

    /// The mixer of block `layer` (counted from 0).
    pub fn init(&self, d_model: usize, layer: usize, init: &mut Init) -> AnyMixer {
        match self {
            MixerConfig::Softmax(config) => AnyMixer::Softmax(config.init(d_model, init)),
            MixerConfig::Gated(config) => AnyMixer::Gated(config.init(d_model, init)),
            MixerConfig::Differential(config) => AnyMixer::Differential(config.init(d_model, layer, init)),
            MixerConfig::GatedDelta(config) => AnyMixer::GatedDelta(config.init(d_model, init)),
            MixerConfig::Forgetting(config) => AnyMixer::Forgetting(config.init(d_model, init)),
            MixerConfig::MultiToken(config) => AnyMixer::MultiToken(config.init(d_model, layer, init)),
            MixerConfig::Nexus(config) => AnyMixer::Nexus(config.init(d_model, init)),
            MixerConfig::Latent(config) => AnyMixer::Latent(config.init(d_model, init)),
            MixerConfig::Moba(config) => AnyMixer::Moba(config.init(d_model, init)),
            MixerConfig::Nsa(config) => AnyMixer::Nsa(config.init(d_model, init)),
        }
    }
}

impl Mixer for AnyMixer {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3> {
        each!(self, AnyMixer, mixer => mixer.forward(x, tap))
    }
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        each!(self, AnyMixer, mixer => mixer.step(x, cache, tap))
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

/// `[batch, time, heads · d]` → `[batch, heads, time, d]`.
fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, time, width] = x.dims();
    x.reshape([batch, time, heads, width / heads]).swap_dims(1, 2)
}

/// `[batch, heads, time, d]` → `[batch, time, heads · d]`.
fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, time, d] = x.dims();
    x.swap_dims(1, 2).reshape([batch, time, heads * d])
}
