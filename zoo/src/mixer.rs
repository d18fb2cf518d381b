//! The one interface of all attention variants.

use crate::{Cache, Tap};
use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;
use std::fmt::Debug;

/// Mixes tokens: `[batch, time, d_model]` → `[batch, time, d_model]`, causally (output `t` depends
/// on the inputs `0 ..= t` alone).
///
/// The input is the block's normed residual stream; the output is added to it. Only `forward` must
/// be written: a mixer of a few lines trains, decodes, is probed and compared like the built-in
/// ones.
pub trait Mixer: Module + ModuleDisplay + Debug + Sized + Sync + 'static {
    fn forward(&self, x: Tensor<3>, tap: &mut dyn Tap) -> Tensor<3>;

    /// More tokens, `[batch, time, d_model]`; equal to the last ones of `forward` over all so far, however
    /// the tokens are divided into steps.
    ///
    /// The default keeps every input and runs `forward` over them: right for any causal mixer, and
    /// slow, so that a mixer with a state or keys to keep brings its own.
    fn step(&self, x: Tensor<3>, cache: &mut Cache, tap: &mut dyn Tap) -> Tensor<3> {
        let time = x.dims()[1];
        let history = cache.append("history", x, 1);
        let earlier = history.dims()[1] - time;
        self.forward(history, tap).narrow(1, earlier, time)
    }
}
