//! Where softmax attention puts the weight that it has no use for.
//!
//! A softmax row sums to one, so a head with nothing to say must look somewhere; trained models
//! learn to look at the first token (Xiao et al. 2023; Gu et al. 2024, arXiv 2410.10781). Each of
//! these gives the row another way out, or (the last) an invitation to measure what a sink does:
//!
//! | [`Sink`] | weights `A_ts` | parameters | source |
//! |---|---|---|---|
//! | `Logit` | `e^{s_ts} / (e^{z_h} + Σ_j e^{s_tj})`, `z_h` learned | `H` | gpt-oss 2025 (`sinks`) |
//! | `OffByOne` | the same with `z_h = 0` | none | Miller 2023, softmax₁ |
//! | `KeyBias` | the same with `z = q_t · k*_g / √d`: a key without a value | `H_kv · d` | Gu et al. 2024 |
//! | `Sigmoid` | `σ(s_ts)`, no normalisation | none | Gu et al. 2024 |
//! | `FirstToken` | softmax, with `bias` added to the score of token 0 | none | for perturbation experiments |
//!
//! `k*` is not rotated. At its start `Logit` is `OffByOne`.

use crate::Init;
use crate::error::ZooError;
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use kernels::Normaliser;
use serde::{Deserialize, Serialize};

/// What stands beside the keys, see the [module's table](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sink {
    Logit {},
    OffByOne {},
    KeyBias {},
    Sigmoid {},
    FirstToken { bias: f64 },
}

/// The learned part of a sink.
#[derive(Clone, Debug)]
pub(super) struct SinkShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Sink {
    pub fn validate(&self) -> Result<(), ZooError> {
        match *self {
            Self::FirstToken { bias } if !bias.is_finite() => {
                let (value, expected) = (bias.to_string(), "a finite number".into());
                Err(ZooError::Invalid { name: "bias of the first token", value, expected })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn parameters(&self, shape: &SinkShape) -> usize {
        match self {
            Self::Logit {} => shape.heads,
            Self::KeyBias {} => shape.kv_heads * shape.head_dim,
            Self::OffByOne {} | Self::Sigmoid {} | Self::FirstToken { .. } => 0,
        }
    }

    /// The logits `[heads, 1]` or the key `[kv_heads, head_dim]`.
    pub(super) fn init(&self, shape: &SinkShape, init: &mut Init) -> Option<Param<Tensor<2>>> {
        match self {
            Self::Logit {} => Some(init.constant([shape.heads, 1], 0.0)),
            Self::KeyBias {} => Some(init.weight([shape.kv_heads, shape.head_dim])),
            Self::OffByOne {} | Self::Sigmoid {} | Self::FirstToken { .. } => None,
        }
    }

    /// For queries `[batch, heads, time, d]`, with what [`Self::init`] made.
    pub(super) fn normaliser(&self, learned: Option<Tensor<2>>, q: &Tensor<4>, scale: f64) -> Normaliser {
        let [batch, heads, time, d] = q.dims();
        let learned = || learned.expect("made by `init` of the same sink");
        let sink = match self {
            Self::Sigmoid {} => return Normaliser::Sigmoid,
            Self::FirstToken { .. } => None,
            Self::OffByOne {} => Some(Tensor::zeros([1, 1, 1, 1], (&q.device(), q.dtype()))),
            Self::Logit {} => Some(learned().reshape([1, heads, 1, 1])),
            Self::KeyBias {} => {
                let key = learned();
                let [kv_heads, _] = key.dims();
                let queries = q.clone().reshape([batch, kv_heads, heads / kv_heads * time, d]);
                let logits = (queries * scale).matmul(key.reshape([1, kv_heads, d, 1]));
                Some(logits.reshape([batch, heads, time, 1]))
            }
        };
        Normaliser::Softmax { sink }
    }

    /// What is added to the scores of the keys at positions `first ..  first + source`.
    pub(super) fn bias(&self, first: usize, source: usize, like: &Tensor<4>) -> Option<Tensor<4>> {
        let Self::FirstToken { bias } = *self else { return None };
        let values: Vec<f64> = (first..first + source).map(|s| if s == 0 { bias } else { 0.0 }).collect();
        Some(Tensor::from_data(TensorData::new(values, [1, 1, 1, source]), (&like.device(), like.dtype())))
    }
}
