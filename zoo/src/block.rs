//! One layer: mix tokens, then work on each.

use crate::tap::Scope;
use crate::{AnyMixer, Cache, FeedForward, Init, Mixer, ModelConfig, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::Tensor;

/// `x + mixer(norm(x))`, then `x + feed_forward(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    pub mixer_norm: RmsNorm,
    pub mixer: AnyMixer,
    pub feed_forward_norm: RmsNorm,
    pub feed_forward: FeedForward,
}

impl Block {
    /// Block `layer` of the model, around its mixer.
    pub fn new(mixer: AnyMixer, config: &ModelConfig, layer: usize, init: &mut Init) -> Self {
        Self {
            mixer_norm: config.norm(init),
            mixer,
            feed_forward_norm: config.norm(init),
            feed_forward: FeedForward::new(config, layer, init),
        }
    }

    /// `[batch, time, d_model]` → the same; with a cache, the tokens follow those it holds.
    pub fn forward(&self, x: Tensor<3>, cache: Option<&mut Cache>, tap: &mut dyn Tap) -> Tensor<3> {
        let normed = self.mixer_norm.forward(x.clone());
        let mut scope = Scope::new(tap, "mixer");
        let mixed = match cache {
            None => self.mixer.forward(normed, &mut scope),
            Some(cache) => {
                let time = normed.dims()[1];
                let mixed = self.mixer.step(normed, cache, &mut scope);
                cache.advance(time);
                mixed
            }
        };
        let [normed, x] = self.feed_forward_norm.after(x, mixed);
        let worked = self.feed_forward.forward(normed, &mut Scope::new(tap, "feed_forward"));
        tap.at("out", x + worked)
    }
}
