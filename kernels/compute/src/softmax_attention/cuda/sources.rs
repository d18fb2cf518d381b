//! The instances of these kernels that the table of `cuda-kernels.md` holds.

use super::backward::{self, Of};
use super::forward;
use super::plan::{PLANES, Plan};
use crate::cuda::source::{BF16, Source, expand, source};
use cubecl::prelude::*;

/// The delta of every row.
pub fn delta(plan: Plan) -> Source {
    source(
        &format!("attention_delta {}", name(plan)),
        cube(),
        |t| expand!(backward::attention_delta::AttentionDelta, t, [out out_grad log_sum sinks delta sink_grad], [rows heads time], plan, BF16),
    )
}

pub fn forward(plan: Plan) -> Source {
    source(
        &format!("attention_forward {}", name(plan)),
        cube(),
        |t| expand!(forward::attention_forward::AttentionForward, t, [query key value slopes sinks out log_sum], [time source kv_heads window scale cap], plan, BF16),
    )
}

pub fn query_grad(plan: Plan) -> Source {
    source(
        &format!("attention_query_grad {}", name(plan)),
        cube(),
        |t| expand!(backward::attention_query_grad::AttentionQueryGrad, t, [query key value slopes out_grad log_sum delta grad], [time source kv_heads window scale cap gradient_scale], plan, BF16),
    )
}

pub fn key_value_grad(plan: Plan, of: Of) -> Source {
    let which = match of {
        Of::KeyAndValue => "",
        Of::Key => ", keys",
        Of::Value => ", values",
    };
    source(
        &format!("attention_key_value_grad {}{which}", name(plan)),
        cube(),
        |t| expand!(backward::attention_key_value_grad::AttentionKeyValueGrad, t, [query key value slopes out_grad log_sum delta key_grad value_grad], [time source heads window scale cap gradient_scale], plan, of, BF16),
    )
}

fn cube() -> CubeDim {
    CubeDim::new_2d(32, PLANES)
}

fn name(plan: Plan) -> String {
    let mut name = format!("{} {}", plan.width, plan.value_width);
    for (has, what) in
        [(plan.window, " window"), (plan.softcap, " cap"), (plan.slopes, " slopes"), (plan.sinks, " sinks")]
    {
        if has {
            name += what;
        }
    }
    name
}

/// Usual widths, the wider values of DIFF, and everything at once where it is hardest, at the widest.
pub fn all() -> Vec<Source> {
    let everything =
        |width| Plan { window: true, softcap: true, slopes: true, sinks: true, ..Plan::plain(width, width) };
    let plans = [Plan::plain(64, 64), Plan::plain(128, 128), Plan::plain(64, 128), everything(256)];
    let of = |plan: Plan| match plan.split_gradients() {
        true => vec![Of::Key, Of::Value],
        false => vec![Of::KeyAndValue],
    };
    plans
        .into_iter()
        .flat_map(|plan| {
            let mut sources = vec![forward(plan), delta(plan), query_grad(plan)];
            sources.extend(of(plan).into_iter().map(|of| key_value_grad(plan, of)));
            sources
        })
        .collect()
}
