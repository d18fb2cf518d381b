//! Multi-token prediction (DeepSeek-V3 2024, arXiv 2412.19437; the head of Qwen3-Next): one more block
//! that predicts the token after the next.
//!
//! ```text
//! x_t = W [ norm_e(E[token t+1]) ; norm_h(h_t) ]        h_t: the trunk's state after its last norm
//! logits of token t+2 = head(norm(block(x)_t))          embedding and head are the trunk's
//! ```
//! In training it is one more loss; in decoding it drafts a token that the trunk then checks.
//!
//! Parameters: `2·D² + 3·D` and a block.

use crate::{AnyMixer, Block, Cache, Init, Linear, ModelConfig, RmsNorm, Tap};
use burn::module::Module;
use burn::tensor::Tensor;

#[derive(Module, Debug)]
pub struct MultiTokenPrediction {
    pub embedding_norm: RmsNorm,
    pub hidden_norm: RmsNorm,
    /// `[d_model, 2 · d_model]`: the embedding's half first.
    pub proj: Linear,
    pub block: Block,
    pub norm: RmsNorm,
}

impl MultiTokenPrediction {
    pub fn new(mixer: AnyMixer, config: &ModelConfig, init: &mut Init) -> Self {
        Self {
            embedding_norm: config.norm(init),
            hidden_norm: config.norm(init),
            proj: Linear::new(2 * config.d_model, config.d_model, init),
            block: Block::new(mixer, config, config.layers, init),
            norm: config.norm(init),
        }
    }

    /// What the head turns into logits, from the trunk's states and the embeddings of the tokens
    /// after them, both `[batch, time, d_model]`.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        next: Tensor<3>,
        cache: Option<&mut Cache>,
        tap: &mut dyn Tap,
    ) -> Tensor<3> {
        let both = Tensor::cat(vec![self.embedding_norm.forward(next), self.hidden_norm.forward(hidden)], 2);
        self.norm.forward(self.block.forward(self.proj.forward(both), cache, tap))
    }
}
