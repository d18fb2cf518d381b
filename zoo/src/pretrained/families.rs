//! From the tensor names of Hugging Face to ours.

use super::config::{Family, HfConfig};
use super::rows::{blocks, take};
use crate::Gate;
use crate::checkpoint::Tensors;
use burn::tensor::TensorData;

/// The tensors under the names of [`Decoder`](crate::Decoder); what no rule knows keeps its name, so
/// that it is reported as unknown. Missing ones are found when the result is applied to a model.
pub(super) fn rename(hf: &HfConfig, mut theirs: Tensors) -> Result<Tensors, String> {
    let mut ours = Tensors::new();
    let mut problems = Vec::new();
    // Buffers that old files carry and every implementation computes.
    theirs.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    if hf.tied {
        theirs.remove("lm_head.weight");
    }
    for (name, data) in theirs {
        match place(hf, &name, &data) {
            Ok(places) => ours.extend(places),
            Err(problem) => problems.push(format!("{name} {problem}")),
        }
    }
    if problems.is_empty() { Ok(ours) } else { Err(problems.join("; ")) }
}

/// What a family computes without a tensor for it and we keep in one.
pub(super) fn implied(hf: &HfConfig) -> Tensors {
    if hf.family != Family::DiffLlama {
        return Tensors::new();
    }
    // The norm of its heads has no weight: ours is one.
    let ones = || TensorData::new(vec![1.0f32; 2 * hf.head_dim], [2 * hf.head_dim]);
    (0..hf.layers).map(|layer| (format!("blocks.{layer}.mixer.lambda.norm.weight"), ones())).collect()
}

fn place(hf: &HfConfig, name: &str, data: &TensorData) -> Result<Vec<(String, TensorData)>, String> {
    let one = |name: String| Ok(vec![(name, data.clone())]);
    match name {
        "model.embed_tokens.weight" => return one("embedding".into()),
        "model.norm.weight" => return one("norm.weight".into()),
        "lm_head.weight" => return one("head".into()),
        _ => {}
    }
    let known = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let Some((layer, part)) = known else { return one(name.into()) };
    let block = format!("blocks.{layer}");
    let Some(part) = part.strip_prefix("self_attn.") else {
        return match part {
            "input_layernorm.weight" => one(format!("{block}.mixer_norm.weight")),
            "post_attention_layernorm.weight" => one(format!("{block}.feed_forward_norm.weight")),
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" | "mlp.down_proj.weight" => {
                one(format!("{block}.feed_forward.{}", &part["mlp.".len()..]))
            }
            _ => one(name.into()),
        };
    };
    let mixer = format!("{block}.mixer");
    match hf.family {
        Family::Softmax => one(format!("{mixer}.{part}")),
        Family::Gated(gate) if part == "q_proj.weight" => gated(hf, gate, &mixer, data),
        Family::Gated(_) => one(format!("{mixer}.attention.{part}")),
        Family::DiffLlama => {
            // Map m pairs with m + H/2 there, 2i with 2i + 1 here; the same for keys and values.
            let neighbours =
                |heads: usize| take(data, blocks((0..heads).map(|m| m % 2 * (heads / 2) + m / 2), hf.head_dim));
            match part {
                "q_proj.weight" => Ok(vec![(format!("{mixer}.{part}"), neighbours(hf.heads)?)]),
                "k_proj.weight" | "v_proj.weight" => Ok(vec![(format!("{mixer}.{part}"), neighbours(hf.kv_heads)?)]),
                _ => one(match part.strip_prefix("lambda_") {
                    Some(vector) => format!("{mixer}.lambda.{vector}"),
                    None => format!("{mixer}.{part}"),
                }),
            }
        }
    }
}

/// The release stacks, for every group of keys, the group's query heads and then their gates.
fn gated(hf: &HfConfig, gate: Gate, mixer: &str, data: &TensorData) -> Result<Vec<(String, TensorData)>, String> {
    let group = hf.heads / hf.kv_heads;
    let queries = group * hf.head_dim;
    let scores = group * gate.scores(hf.head_dim).expect("a family whose gate is projected");
    let each = |from: usize, rows: usize| {
        take(data, (0..hf.kv_heads).map(|g| g * (queries + scores) + from).map(|start| start..start + rows))
    };
    let rows = data.shape().to_vec().first().copied().unwrap_or(0);
    if rows != hf.kv_heads * (queries + scores) {
        return Err(format!("has {rows} rows, expected {}", hf.kv_heads * (queries + scores)));
    }
    Ok(vec![
        (format!("{mixer}.attention.q_proj.weight"), each(0, queries)?),
        (format!("{mixer}.gate_proj.weight"), each(queries, scores)?),
    ])
}
