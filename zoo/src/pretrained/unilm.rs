//! One layer of differential attention V1, between its authors' layout and Hugging Face's.
//!
//! The same numbers in other places, with `h` pairs of queries, `g` of keys, `d` channels:
//!
//! | | unilm | Hugging Face (DiffLlama) |
//! |---|---|---|
//! | softmax maps of pair `i` | `2i` and `2i + 1` | `i` and `i + h` (keys and halves of a value: `i + g`) |
//! | RoPE turns channels | `2j` and `2j + 1` ([`RopeLayout::Interleaved`]) | `j` and `j + d/2` |
//! | norm of the heads | has a weight `subln.weight [2d]` | has none: it is in the columns of `o_proj` |
//! | output matrix | `out_proj.weight` | `o_proj.weight` |
//!
//! `q_proj`, `k_proj`, `v_proj` (`.weight`) and `lambda_{q1,k1,q2,k2}` have the same names. The norm's ε
//! is no tensor: 1e-5 in unilm, `rms_norm_eps` in Hugging Face.

use super::families::scaled_columns;
use super::{layout::reordered, problem};
use crate::checkpoint::Tensors;
use crate::{RopeLayout, ZooError};
use burn::tensor::TensorData;
use std::path::Path;

const LAMBDAS: [&str; 4] = ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"];

/// A layer of unilm as Hugging Face has it. `rope` says which channels its RoPE turns together:
/// interleaved ones as released, half-split ones where queries and keys were reordered before.
///
/// # Errors
/// Missing and unknown tensors and sizes that do not fit, under the name `source`.
pub fn to_hugging_face(layer: &Tensors, rope: RopeLayout, source: &Path) -> Result<Tensors, ZooError> {
    convert(layer, rope, Direction::ToHuggingFace).map_err(|e| problem(source, e))
}

/// A layer of Hugging Face as unilm has it; the weight of the norm, which is in the output matrix, is one.
///
/// # Errors
/// As [`to_hugging_face`].
pub fn from_hugging_face(layer: &Tensors, rope: RopeLayout, source: &Path) -> Result<Tensors, ZooError> {
    convert(layer, rope, Direction::FromHuggingFace).map_err(|e| problem(source, e))
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToHuggingFace,
    FromHuggingFace,
}

fn convert(layer: &Tensors, rope: RopeLayout, direction: Direction) -> Result<Tensors, String> {
    use Direction::{FromHuggingFace, ToHuggingFace};
    let own: &[&str] = match direction {
        ToHuggingFace => &["out_proj.weight", "subln.weight"],
        FromHuggingFace => &["o_proj.weight"],
    };
    let names = [&["q_proj.weight", "k_proj.weight", "v_proj.weight"], &LAMBDAS[..], own].concat();
    let missing = names.iter().filter(|name| !layer.contains_key(**name)).map(|name| format!("missing {name}"));
    let unknown = layer.keys().filter(|name| !names.contains(&name.as_str())).map(|name| format!("unknown {name}"));
    let problems: Vec<String> = missing.chain(unknown).collect();
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }

    let d = layer["lambda_q1"].num_elements();
    if rope == RopeLayout::Interleaved && d % 2 == 1 {
        return Err(format!("lambda_q1 has {d} channels, expected an even number"));
    }
    let moved = |name: &str, channels| {
        let data = &layer[name];
        let count = data.shape().first().copied().unwrap_or(0);
        if d == 0 || count == 0 || !count.is_multiple_of(2 * d) {
            return Err(format!("{name} has {count} rows, expected pairs of {d} (the length of lambda_q1)"));
        }
        // `theirs[to]` is `unilm[from]`.
        let order: Vec<usize> = (0..count).map(|to| unilm_row(to, count / d, d, channels)).collect();
        let order = match direction {
            ToHuggingFace => order,
            FromHuggingFace => inverse(&order),
        };
        Ok(reordered(data, order.into_iter()))
    };
    let mut converted: Tensors = LAMBDAS.map(|name| (name.to_string(), layer[name].clone())).into();
    for (name, channels) in [("q_proj", rope), ("k_proj", rope), ("v_proj", RopeLayout::HalfSplit)] {
        let name = format!("{name}.weight");
        let data = moved(&name, channels)?;
        converted.insert(name, data);
    }
    match direction {
        ToHuggingFace => {
            let (matrix, norm) = (&layer["out_proj.weight"], &layer["subln.weight"]);
            let columns = matrix.shape().get(1).copied().unwrap_or(0);
            if norm.num_elements() != 2 * d || !columns.is_multiple_of(2 * d) {
                let norm = norm.num_elements();
                return Err(format!(
                    "subln.weight has {norm} numbers and out_proj.weight {columns} columns, expected {} and pairs of them",
                    2 * d
                ));
            }
            let norm: Vec<f32> = norm.iter::<f32>().collect();
            converted.insert("o_proj.weight".into(), scaled_columns(matrix, &norm));
        }
        FromHuggingFace => {
            converted.insert("out_proj.weight".into(), layer["o_proj.weight"].clone());
            converted.insert("subln.weight".into(), TensorData::new(vec![1f32; 2 * d], [2 * d]));
        }
    }
    Ok(converted)
}

/// Where unilm has row `to` of a Hugging Face matrix of `maps` heads of `d` rows.
fn unilm_row(to: usize, maps: usize, d: usize, rope: RopeLayout) -> usize {
    let (map, channel) = (to / d, to % d);
    let (half, pair) = (map / (maps / 2), map % (maps / 2));
    let channel = match rope {
        RopeLayout::Interleaved => 2 * (channel % (d / 2)) + channel / (d / 2),
        RopeLayout::HalfSplit => channel,
    };
    (2 * pair + half) * d + channel
}

fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        inverse[from] = to;
    }
    inverse
}
