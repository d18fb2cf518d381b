//! A stack of blocks between an embedding and an output matrix.

use crate::tap::{Scope, Silent};
use crate::{AnyMixer, Block, Cache, Init, Looped, Mixer, ModelConfig, MultiTokenPrediction, RmsNorm, Tap, ZooError};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A decoder of any mixers: of the catalogue, defined elsewhere, or both.
#[derive(Module, Debug)]
pub struct Decoder {
    /// `[vocab_size, d_model]`.
    pub embedding: Param<Tensor<2>>,
    pub blocks: Vec<Block>,
    pub norm: RmsNorm,
    /// `[vocab_size, d_model]`; the embedding when absent.
    pub head: Option<Param<Tensor<2>>>,
    pub looped: Option<Looped>,
    pub mtp: Option<MultiTokenPrediction>,
}

impl Decoder {
    /// A decoder whose mixers `mixer(layer, init)` makes, that of the prediction head (`config.mtp`) as
    /// layer `config.layers`. Which mixers the configuration names is not looked at.
    ///
    /// Where they are of different types, [`AnyMixer::new`] makes one type of them:
    ///
    /// ```
    /// use burn::module::Module;
    /// use burn::tensor::{Device, Tensor};
    /// use zoo::{AnyMixer, Decoder, Linear, Mixer, Tap, preset};
    ///
    /// #[derive(Module, Debug)]
    /// struct Previous {
    ///     proj: Linear,
    /// }
    ///
    /// impl Mixer for Previous {
    ///     fn forward(&self, x: Tensor<3>, _tap: &mut dyn Tap) -> Tensor<3> {
    ///         let [batch, time, width] = x.dims();
    ///         let first = Tensor::zeros([batch, 1, width], &x.device());
    ///         self.proj.forward(Tensor::cat(vec![first, x.narrow(1, 0, time - 1)], 1))
    ///     }
    /// }
    ///
    /// let config = preset("baseline", "nano")?;
    /// let width = config.d_model;
    /// let model = Decoder::with_mixers(&config, 0, &Device::flex(), |layer, init| match layer {
    ///     0 => AnyMixer::new(Previous { proj: Linear::residual(width, width, init) }),
    ///     _ => config.mixer(layer).init(width, layer, init),
    /// })?;
    /// assert!(model.blocks[0].mixer.is::<Previous>());
    /// # Ok::<(), zoo::ZooError>(())
    /// ```
    ///
    /// # Errors
    /// A bad value in `config`.
    pub fn with_mixers<M: Mixer>(
        config: &ModelConfig,
        seed: u64,
        device: &Device,
        mut mixer: impl FnMut(usize, &mut Init) -> M,
    ) -> Result<Self, ZooError> {
        Self::assemble(config, Some(seed), device, &mut |layer, init| AnyMixer::new(mixer(layer, init)))
    }

    /// The same without a type of its own for every closure, so that it is compiled once. None is drawn without a
    /// seed.
    pub(crate) fn assemble(
        config: &ModelConfig,
        seed: Option<u64>,
        device: &Device,
        mixer: &mut dyn FnMut(usize, &mut Init) -> AnyMixer,
    ) -> Result<Self, ZooError> {
        config.validate_stack()?;
        let scale = if config.scaled_residuals { (2.0 * config.layers as f64).powf(-0.5) } else { 1.0 };
        let drawn = |seed| Init::new(seed, config.init_std, config.init_std * scale, config.layers, device);
        let init = &mut seed.map_or_else(|| Init::blank(config.layers, device), drawn);
        Ok(Self {
            embedding: init.weight([config.vocab_size, config.d_model]),
            blocks: (0..config.layers)
                .map(|layer| {
                    let mixer = mixer(layer, init);
                    Block::new(mixer, config, layer, init)
                })
                .collect(),
            norm: config.norm(init),
            head: (!config.tied).then(|| init.weight([config.vocab_size, config.d_model])),
            looped: config.looped.as_ref().map(|looped| looped.init(config.layers, config.d_model, init)),
            mtp: config.mtp.as_ref().map(|_| {
                let mixer = mixer(config.layers, init);
                MultiTokenPrediction::new(mixer, config, init)
            }),
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
        let hidden = self.hidden(ids, None, tap);
        tap.at("logits", self.logits(hidden))
    }

    /// The same, and what the prediction head makes of it: logits `[batch, time − 1, vocab_size]`,
    /// row `t` for token `t + 2`. None where there is no such head, or no token after the first.
    pub fn forward_ahead(&self, ids: Tensor<2, Int>, tap: &mut dyn Tap) -> (Tensor<3>, Option<Tensor<3>>) {
        let (hidden, ahead) = self.hidden_ahead(ids, tap);
        let ahead = ahead.map(|ahead| self.logits(ahead));
        (tap.at("logits", self.logits(hidden)), ahead)
    }

    /// What [`Self::forward_ahead`] makes its logits of, by [`Self::output_matrix`]: `[batch, time, d_model]`
    /// and `[batch, time − 1, d_model]`. A loss needs no more, and not all logits at once.
    pub fn hidden_ahead(&self, ids: Tensor<2, Int>, tap: &mut dyn Tap) -> (Tensor<3>, Option<Tensor<3>>) {
        let hidden = self.hidden(ids.clone(), None, tap);
        let ahead = self.mtp.as_ref().filter(|_| ids.dims()[1] > 1).map(|mtp| {
            let known = ids.dims()[1] - 1;
            let next = self.embed(ids.narrow(1, 1, known));
            mtp.forward(hidden.clone().narrow(1, 0, known), next, None, &mut Scope::new(tap, "mtp"))
        });
        (hidden, ahead)
    }

    /// `[vocab_size, d_model]`.
    pub fn output_matrix(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).val()
    }

    /// How many blocks run; looped ones count as often as they do.
    pub fn depth(&self) -> usize {
        let layers = self.blocks.len();
        self.looped.as_ref().map_or(layers, |looped| looped.depth(layers))
    }

    /// An empty cache for every block that runs.
    pub fn cache(&self) -> Vec<Cache> {
        vec![Cache::default(); self.depth()]
    }

    /// Logits `[batch, time, vocab_size]` of more tokens `[batch, time]`, which follow those of the cache:
    /// one at a time while a text is written, its whole beginning at once.
    pub fn step(&self, ids: Tensor<2, Int>, cache: &mut [Cache], tap: &mut dyn Tap) -> Tensor<3> {
        assert_eq!(cache.len(), self.depth(), "a cache per block, made by `cache()`");
        let hidden = self.hidden(ids, Some(cache), tap);
        tap.at("logits", self.logits(hidden))
    }

    /// The residual stream after its last norm, `[batch, time, d_model]`.
    pub(crate) fn hidden(&self, ids: Tensor<2, Int>, cache: Option<&mut [Cache]>, tap: &mut dyn Tap) -> Tensor<3> {
        let mut x = tap.at("embedding", self.embed(ids));
        let mut caches = cache.map(|caches| caches.iter_mut());
        let mut depth = 0;
        let mut run = |blocks: &[Block], mut x: Tensor<3>, tap: &mut dyn Tap| {
            for block in blocks {
                let mut scope = Scope::new(tap, format!("blocks.{depth}"));
                x = block.forward(x, caches.as_mut().and_then(Iterator::next), &mut scope);
                depth += 1;
            }
            x
        };
        x = match &self.looped {
            None => run(&self.blocks, x, tap),
            Some(looped) => {
                x = run(&self.blocks[..looped.first], x, tap);
                let group = &self.blocks[looped.first..=looped.last];
                x = looped.run(x, tap, |x, tap| run(group, x, tap));
                run(&self.blocks[looped.last + 1..], x, tap)
            }
        };
        self.norm.forward(x)
    }

    /// `[batch, time]` → `[batch, time, d_model]`.
    pub(crate) fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        kernels::embedding(self.embedding.val(), ids)
    }

    /// `[batch, time, d_model]` → `[batch, time, vocab_size]`.
    pub(crate) fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        kernels::linear(hidden, self.output_matrix(), None)
    }
}
