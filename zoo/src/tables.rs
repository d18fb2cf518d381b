//! Papers' tables, row by row.

use crate::error::{ZooError, divisible};
use crate::{Gate, GateActivation, GateCombine, GatePosition, GatedConfig, MixerConfig, SoftmaxConfig};

/// A row of a paper's tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: &'static str,
    /// The numbers of the tables that have the row.
    pub tables: &'static [usize],
    pub mixer: MixerConfig,
    /// By how many the experts of the feed-forward networks are more than the baseline's.
    pub more_experts: usize,
}

/// Gated attention (Qiu et al. 2025, arXiv 2505.06708): every row of table 1 (all forms of gates), 3
/// (kinds of non-linearity) and 4 (how sparse gates are, and what becomes of the sink).
///
/// `baseline` is the attention without a gate; in the paper 32 heads of 128 channels over 4 key heads,
/// with a `d_model` of 2048. The rows differ in size:
/// [`ModelConfig::with_parameters`](crate::ModelConfig::with_parameters) makes models of them equal.
///
/// # Errors
/// A baseline that does not fit `d_model`, or one that cannot have twice as many key heads.
pub fn gated_attention(baseline: &SoftmaxConfig, d_model: usize) -> Result<Vec<Row>, ZooError> {
    use GatePosition::{Dense, Key, Query, Value};
    baseline.validate(d_model)?;
    let (heads, kv_heads) = (baseline.heads, baseline.kv_heads());
    divisible("heads", heads, "twice kv_heads", 2 * kv_heads)?;

    let softmax = |heads, kv_heads| {
        let head_dim = Some(baseline.head_dim(d_model));
        MixerConfig::Softmax(SoftmaxConfig { heads, kv_heads: Some(kv_heads), head_dim, ..baseline.clone() })
    };
    let gated = |change: &dyn Fn(&mut GatedConfig)| {
        let mut config = GatedConfig::of(baseline.clone());
        change(&mut config);
        MixerConfig::Gated(config)
    };
    let row = |name, tables, mixer| Row { name, tables, mixer, more_experts: 0 };
    let add = |activation| gated(&move |c| (c.combine, c.activation) = (GateCombine::Add, activation));
    Ok(vec![
        row("baseline", &[1, 3, 4], MixerConfig::Softmax(baseline.clone())),
        row("twice the key heads", &[1], softmax(heads, 2 * kv_heads)),
        row("half as many more query heads", &[1], softmax(heads + heads / 2, kv_heads)),
        Row { more_experts: 4, ..row("four more experts", &[1], MixerConfig::Softmax(baseline.clone())) },
        row("G1 elementwise", &[1, 3, 4], gated(&|_| ())),
        row("G2 elementwise", &[1, 3, 4], gated(&|c| c.position = Value)),
        row("G3 elementwise", &[1], gated(&|c| c.position = Key)),
        row("G4 elementwise", &[1], gated(&|c| c.position = Query)),
        row("G5 elementwise", &[1], gated(&|c| c.position = Dense)),
        row("G1 headwise", &[1, 4], gated(&|c| c.gate = Gate::Headwise)),
        row("G2 headwise", &[1], gated(&|c| (c.gate, c.position) = (Gate::Headwise, Value))),
        row("G1 head-shared", &[1, 4], gated(&|c| c.shared = true)),
        row("G2 head-shared", &[1], gated(&|c| (c.shared, c.position) = (true, Value))),
        row("G1 additive SiLU", &[1, 3], add(GateActivation::Silu)),
        row("G1 SiLU", &[1], gated(&|c| c.activation = GateActivation::Silu)),
        row("head norm", &[3], gated(&|c| c.gate = Gate::HeadNorm)),
        row("SiLU without a gate", &[3], gated(&|c| c.gate = Gate::Silu)),
        row("G1 additive identity", &[3], add(GateActivation::Identity)),
        row("G1 input-independent", &[4], gated(&|c| c.gate = Gate::InputIndependent)),
        row("G1 NS-sigmoid", &[4], gated(&|c| c.activation = GateActivation::NonSparseSigmoid)),
    ])
}
