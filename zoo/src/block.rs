//! One layer: mix tokens, then work on each.

use crate::tap::Scope;
use crate::{Cache, Init, Mixer, RmsNorm, SwiGlu, Tap};
use burn::module::Module;
use burn::tensor::Tensor;

/// `x + mixer(norm(x))`, then `x + feed_forward(norm(x))`.
#[derive(Module, Debug)]
pub struct Block<M: Mixer> {
    pub mixer_norm: RmsNorm,
    pub mixer: M,
    pub feed_forward_norm: RmsNorm,
    pub feed_forward: SwiGlu,
}

impl<M: Mixer> Block<M> {
    pub fn new(mixer: M, d_model: usize, d_ff: usize, eps: f64, init: &mut Init) -> Self {
        Self {
            mixer_norm: RmsNorm::new(d_model, eps, init),
            mixer,
            feed_forward_norm: RmsNorm::new(d_model, eps, init),
            feed_forward: SwiGlu::new(d_model, d_ff, init),
        }
    }

    /// `[batch, time, d_model]` → the same; with a cache, the tokens follow those it holds.
    pub fn forward(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let normed = self.mixer_norm.forward(x.clone());
        let mut scope = Scope::new(tap, "mixer");
        let mixed = match cache {
            None => self.mixer.forward(normed, &mut scope),
            Some(cache) => {
                let mixed = self.mixer.step(normed, cache, &mut scope);
                cache.advance(1);
                mixed
            }
        };
        let x = x + mixed;
        let worked = self.feed_forward.forward(self.feed_forward_norm.forward(x.clone()));
        tap.at("out", x + worked)
    }
}
