//! The laboratory: train a decoder, look inside it, compare variants, draw what was found.
//!
//! `train` makes a [`Run`] of a [`TrainConfig`]; the functions of [`probe`](crate::probe) read one
//! number out of a trained decoder each; [`compare`](crate::compare::compare) trains variants at
//! equal parameters on equal data and says how sure the difference is; `plot` draws, and `show` is how
//! values look in a notebook.

pub mod compare;
pub mod device;
mod error;
pub mod heap;
pub mod memory;
pub mod plot;
pub mod probe;
pub mod show;
mod table;
pub mod train;

pub use compare::{CompareConfig, Comparison, Variant, VariantRun, compare};
pub use device::{DeviceError, describe, device};
pub use error::LabError;
pub use memory::{
    HopAttention, MemoryEpoch, MemoryRecipe, MemoryRun, MemoryScore, hop_attention, memory_score, train_memory_network,
};
pub use show::Show;
pub use table::{Frame, Row, read_parquet, write_parquet};
pub use train::{History, Run, TrainConfig, Trainer, train};
