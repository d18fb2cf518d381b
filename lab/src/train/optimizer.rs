//! AdamW (Loshchilov and Hutter 2019) over a whole module, its moments named like the parameters.
//!
//! burn's own optimiser clips every tensor for itself and keys its state by ids that are new in
//! every process; global-norm clipping and a checkpoint that can be compared by name need this one.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
use std::path::Path;
use zoo::ZooError;
use zoo::checkpoint::{Place, Tensors};

/// ```text
/// g ← scale · gradient
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// w ← w − lr · decay · w − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
/// ```
/// Decay acts on parameters of two and more axes only: pulling a norm's weight, λ's vectors, `a_log`
/// or `dt_bias` to zero is no regularisation, it moves what they mean.
#[derive(Clone, Debug)]
pub struct AdamW {
    betas: [f64; 2],
    weight_decay: f64,
    moments: BTreeMap<String, Moments>,
    updates: usize,
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

const EPSILON: f64 = 1e-8;

impl AdamW {
    pub fn new(betas: [f64; 2], weight_decay: f64) -> Self {
        Self { betas, weight_decay, moments: BTreeMap::new(), updates: 0 }
    }

    /// Updates made so far.
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// One update of every parameter that has a gradient. `scale` multiplies the gradients (the
    /// clipping, a host number so that it costs no pass of its own).
    pub fn step<M: Module>(&mut self, module: M, gradients: &mut GradientsParams, rate: f64, scale: f64) -> M {
        self.updates += 1;
        module.map(&mut Update { optimizer: self, gradients, rate, scale, path: Place::default() })
    }

    /// The moments: `m.NAME` and `v.NAME`, flat.
    pub fn tensors(&self) -> Tensors {
        let both = |(name, moments): (&String, &Moments)| {
            [("m", &moments.first), ("v", &moments.second)]
                .map(|(kind, tensor)| (format!("{kind}.{name}"), tensor.to_data()))
        };
        self.moments.iter().flat_map(both).collect()
    }

    /// The optimiser with moments that [`Self::tensors`] gave after `updates` updates.
    ///
    /// # Errors
    /// A moment without its partner, with the name of `source`.
    pub fn with_tensors(
        mut self,
        tensors: &Tensors,
        updates: usize,
        source: &Path,
        device: &Device,
    ) -> Result<Self, ZooError> {
        let device = device.clone().without_autodiff();
        let load = |data: &TensorData| Tensor::<1>::from_data(data.clone(), (&device, data.dtype()));
        self.moments.clear();
        for (key, first) in tensors.iter().filter(|(key, _)| key.starts_with("m.")) {
            let name = &key[2..];
            let Some(second) =
                tensors.get(&format!("v.{name}")).filter(|v| v.shape() == first.shape() && v.shape().len() == 1)
            else {
                let problem = format!("v.{name} is missing or not of the shape of m.{name}");
                return Err(ZooError::Checkpoint { path: source.into(), problem });
            };
            self.moments.insert(name.into(), Moments { first: load(first), second: load(second) });
        }
        self.updates = updates;
        Ok(self)
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: &'a mut GradientsParams,
    rate: f64,
    scale: f64,
    path: Place,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let [beta1, beta2] = self.optimizer.betas;
        let updates = self.optimizer.updates as i32;
        let update = kernels::adamw::Update {
            betas: [beta1, beta2],
            scale: self.scale,
            keep: if D >= 2 { 1.0 - self.rate * self.optimizer.weight_decay } else { 1.0 },
            size: self.rate / (1.0 - beta1.powi(updates)),
            spread: (1.0 - beta2.powi(updates)).powf(-0.5),
            epsilon: EPSILON,
        };
        let moments = self.optimizer.moments.remove(&self.path.name()).map(|old| [old.first, old.second]);
        param.map(|weight| {
            let required = weight.is_require_grad();
            let (weight, [first, second]) = kernels::adamw(weight.inner(), gradient, moments, update);
            self.optimizer.moments.insert(self.path.name(), Moments { first, second });
            Tensor::from_inner(weight).set_require_grad(required)
        })
    }
}

/// `Σ g²` of every parameter that has a gradient, with the names in the same order, and the names
/// of those that have none. The sums stay on the device, so that the caller reads them together
/// with the loss.
pub fn gradient_squares<M: Module>(
    module: &M,
    gradients: &GradientsParams,
) -> (Vec<String>, Option<Tensor<1>>, Vec<String>) {
    struct Squares<'a> {
        gradients: &'a GradientsParams,
        path: Place,
        names: Vec<String>,
        flat: Vec<Tensor<1>>,
        without: Vec<String>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            match self.gradients.get::<D>(param.id) {
                Some(gradient) => {
                    self.names.push(self.path.name());
                    self.flat.push(gradient.reshape([-1]));
                }
                None => self.without.push(self.path.name()),
            }
        }
    }
    let mut visitor =
        Squares { gradients, path: Place::default(), names: Vec::new(), flat: Vec::new(), without: Vec::new() };
    module.visit(&mut visitor);
    let sums = (!visitor.flat.is_empty()).then(|| kernels::squares(visitor.flat));
    (visitor.names, sums, visitor.without)
}
