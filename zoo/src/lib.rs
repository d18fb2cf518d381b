//! Attention variants as the papers define them, one file per idea.
//!
//! A decoder is a stack of blocks; a block is norm → mixer → residual → norm → feed-forward →
//! residual. Every variant is a [`Mixer`]. What happens inside is watched and patched through a
//! [`Tap`].

mod any_mixer;
mod block;
mod cache;
pub mod catalogue;
pub mod checkpoint;
mod config;
mod decoder;
mod error;
mod experts;
mod feed_forward;
mod generate;
mod init;
mod linear;
mod looped;
pub mod memory_network;
mod mixer;
pub mod mixers;
mod mtp;
mod norm;
mod position;
pub mod presets;
pub mod pretrained;
pub mod quantise;
mod sampler;
mod speculative;
pub mod tables;
pub mod tap;

pub use any_mixer::AnyMixer;
pub use block::Block;
pub use cache::Cache;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use error::ZooError;
pub use experts::{ExpertsConfig, MixtureOfExperts, load_balance};
pub use feed_forward::{FeedForward, SwiGlu};
pub use generate::{GenerateConfig, Generation, NewToken};
pub use init::Init;
pub use linear::Linear;
pub use looped::{LoopConfig, Looped};
pub use memory_network::{MemoryNetwork, MemoryNetworkConfig, SentenceEncoding, Tying};
pub use mixer::Mixer;
pub use mixers::*;
pub use mtp::MultiTokenPrediction;
pub use norm::RmsNorm;
pub use position::{Position, Rope, RopeLayout, RopeScaling};
pub use presets::preset;
pub use quantise::{Axis, CacheCodec, CacheFormat, CacheSamples, Codebooks, ProductFormat, UniformFormat};
pub use sampler::{Sampler, Sampling};
pub use speculative::Speculation;
pub use tap::{Patch, Record, Silent, Tap, Value};
