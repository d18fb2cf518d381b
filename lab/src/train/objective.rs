//! What a step minimises: the cross-entropy, and what some parts of a model ask for beside it.

use super::TrainConfig;
use burn::tensor::{FloatDType, Tensor};
use datasets::Batch;
use zoo::{Decoder, Tap, Value, ZooError, load_balance};

/// The cross-entropy of the next token, and the whole objective, both `[1]`:
///
/// ```text
/// L = CE + mtp_weight · CE of the token after the next + balance_weight · balance of the routers
///        + ponder_weight · mean ponder
/// ```
/// with the terms for which the model has parts.
pub(super) fn objective(
    model: &Decoder,
    config: &TrainConfig,
    data: &Batch,
) -> Result<(Tensor<1>, Tensor<1>), ZooError> {
    let [batch, time] = [data.batch, data.time];
    let ids = model.tokens(&data.ids, [batch, time])?;
    model.tokens(&data.targets, [batch, time])?; // are they in the vocabulary?
    let mut parts = Parts::default();
    let (hidden, ahead) = model.hidden_ahead(ids, &mut parts);
    let matrix = model.output_matrix();
    let cross_entropy = |hidden: Tensor<3>, targets: &[i32], mask: &[f32]| {
        kernels::cross_entropy(hidden.flatten(0, 1), matrix.clone(), targets, mask)
    };
    let loss = cross_entropy(hidden, &data.targets, &data.mask);
    let mut whole = loss.clone();
    if let Some(ahead) = ahead {
        // Row t predicts the target of t + 1.
        let mask: Vec<f32> = data.mask.chunks(time).flat_map(|row| row[1..].to_vec()).collect();
        let targets: Vec<i32> = data.targets.chunks(time).flat_map(|row| row[1..].to_vec()).collect();
        if mask.iter().any(|&weight| weight != 0.0) {
            whole = whole + cross_entropy(ahead, &targets, &mask) * config.mtp_weight;
        }
    }
    let per_token = config.model.experts.as_ref().map_or(1, |experts| experts.per_token);
    if let Some(balance) = load_balance(&parts.routers, per_token) {
        whole = whole + balance * config.balance_weight;
    }
    if let Some(ponder) = parts.ponder {
        whole = whole + ponder.mean() * config.ponder_weight;
    }
    Ok((loss, whole))
}

/// Keeps, with their gradients, the values that the objective needs, in f32 whatever the model computes in.
#[derive(Default)]
struct Parts {
    routers: Vec<Tensor<3>>,
    ponder: Option<Tensor<2>>,
}

impl Tap for Parts {
    fn wants(&self, name: &str) -> bool {
        name.ends_with(".router") || name == "ponder"
    }
    fn visit(&mut self, name: &str, value: Value) -> Value {
        match name {
            "ponder" => self.ponder = Some(value.clone().tensor::<2>().cast(FloatDType::F32)),
            _ => self.routers.push(value.clone().tensor::<3>().cast(FloatDType::F32)),
        }
        value
    }
}
