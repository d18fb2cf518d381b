//! A stack of blocks between an embedding and an output matrix.

use crate::tap::{Scope, Silent};
use crate::{AnyMixer, Block, Cache, Init, Mixer, ModelConfig, RmsNorm, Tap, ZooError};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A decoder of any mixer: of the catalogue by default, or of one defined elsewhere.
#[derive(Module, Debug)]
pub struct Decoder<M: Mixer = AnyMixer> {
    /// `[vocab_size, d_model]`.
    pub embedding: Param<Tensor<2>>,
    pub blocks: Vec<Block<M>>,
    pub norm: RmsNorm,
    /// `[vocab_size, d_model]`; the embedding when absent.
    pub head: Option<Param<Tensor<2>>>,
}

impl<M: Mixer> Decoder<M> {
    /// A decoder whose mixers `mixer(layer, init)` makes. `config.pattern` is not looked at.
    pub fn with_mixers(
        config: &ModelConfig,
        seed: u64,
        device: &Device,
        mut mixer: impl FnMut(usize, &mut Init) -> M,
    ) -> Result<Self, ZooError> {
        config.validate_stack()?;
        let scale = if config.scaled_residuals { (2.0 * config.layers as f64).powf(-0.5) } else { 1.0 };
        let mut init = Init::new(seed, config.init_std, config.init_std * scale, config.layers, device);
        let init = &mut init;
        Ok(Self {
            embedding: init.weight([config.vocab_size, config.d_model]),
            blocks: (0..config.layers)
                .map(|layer| {
                    let mixer = mixer(layer, init);
                    Block::new(mixer, config.d_model, config.d_ff, config.norm_eps, init)
                })
                .collect(),
            norm: RmsNorm::new(config.d_model, config.norm_eps, init),
            head: (!config.tied).then(|| init.weight([config.vocab_size, config.d_model])),
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.embedding.lazy_shape()[0]
    }

    pub fn device(&self) -> Device {
        self.embedding.val().device()
    }

    /// Token ids as a tensor `[batch, time]` on the model's device.
    ///
    /// # Errors
    /// Names the first id outside the vocabulary, or the number of ids when they do not fill the shape.
    pub fn tokens(&self, ids: &[i32], [batch, time]: [usize; 2]) -> Result<Tensor<2, Int>, ZooError> {
        if ids.len() != batch * time || ids.is_empty() {
            return Err(ZooError::TokenShape { count: ids.len(), batch, time });
        }
        let vocab_size = self.vocab_size();
        if let Some(position) = ids.iter().position(|&id| id < 0 || id as usize >= vocab_size) {
            return Err(ZooError::Token { id: ids[position].into(), position, vocab_size });
        }
        Ok(Tensor::from_data(TensorData::new(ids.to_vec(), [batch, time]), &self.device()))
    }

    /// Logits `[batch, time, vocab_size]` of token ids `[batch, time]` (made by [`Self::tokens`],
    /// which checks them).
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.forward_with(ids, &mut Silent)
    }

    /// The same while `tap` watches or patches.
    pub fn forward_with(&self, ids: Tensor<2, Int>, tap: &mut dyn Tap) -> Tensor<3> {
        self.run(ids, None, tap)
    }

    /// An empty cache.
    pub fn cache(&self) -> Vec<Cache> {
        vec![Cache::default(); self.blocks.len()]
    }

    /// Logits `[batch, 1, vocab_size]` after one more token `[batch, 1]`.
    pub fn step(&self, ids: Tensor<2, Int>, cache: &mut [Cache], tap: &mut dyn Tap) -> Tensor<3> {
        assert_eq!(ids.dims()[1], 1, "a step takes one token per sequence, got {}", ids.dims()[1]);
        assert_eq!(cache.len(), self.blocks.len(), "a cache per block, made by `cache()`");
        self.run(ids, Some(cache), tap)
    }

    fn run(&self, ids: Tensor<2, Int>, cache: Option<&mut [Cache]>, tap: &mut dyn Tap) -> Tensor<3> {
        let [batch, time] = ids.dims();
        let [_, d_model] = self.embedding.dims();
        let embedded = self.embedding.val().select(0, ids.reshape([batch * time]));
        let mut x = tap.at("embedding", embedded.reshape([batch, time, d_model]));
        let mut caches = cache.map(|c| c.iter_mut());
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut scope = Scope::new(tap, format!("blocks.{layer}"));
            x = block.forward(x, caches.as_mut().and_then(Iterator::next), &mut scope);
        }
        let matrix = self.head.as_ref().unwrap_or(&self.embedding).val();
        let x = self.norm.forward(x).reshape([batch * time, d_model]);
        let logits = x.matmul(matrix.transpose()).reshape([batch, time, self.vocab_size()]);
        tap.at("logits", logits)
    }
}
