//! Seeded initial weights, the same on every device.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{SeedableRng, rngs::StdRng};

/// Draws initial weights. The numbers come from one seeded generator on the host, never from a
/// device's own, so a seed means the same model on the CPU and on a GPU.
pub struct Init {
    /// None where weights come from elsewhere.
    rng: Option<StdRng>,
    device: Device,
    std: f64,
    residual_std: f64,
    layers: usize,
}

impl Init {
    /// Weights are N(0, `std`²); those that write to the residual stream are N(0, `residual_std`²).
    pub fn new(seed: u64, std: f64, residual_std: f64, layers: usize, device: &Device) -> Self {
        Self { rng: Some(StdRng::seed_from_u64(seed)), device: device.clone(), std, residual_std, layers }
    }

    /// For weights that are read from a file: nothing is drawn, and a weight that is looked at before is zero.
    pub(crate) fn blank(layers: usize, device: &Device) -> Self {
        Self { rng: None, device: device.clone(), std: 0.0, residual_std: 0.0, layers }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many layers the model has (some mixers start differently by depth).
    pub fn layers(&self) -> usize {
        self.layers
    }

    pub fn weight<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.normal(shape, self.std)
    }

    /// For a projection whose output is added to the residual stream.
    pub fn residual<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.normal(shape, self.residual_std)
    }

    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.param(shape, |rng| kernels::random::normal(rng, shape.iter().product(), std))
    }

    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64) -> Param<Tensor<D>> {
        self.param(shape, |rng| kernels::random::uniform(rng, shape.iter().product(), low, high))
    }

    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f64) -> Param<Tensor<D>> {
        self.draw(shape, |_| value)
    }

    /// The matrices of `count` SwiGLU networks in three stacks, gates and ups `[count, d_ff, d_model]` and downs
    /// `[count, d_model, d_ff]`: the numbers that as many [`SwiGlu::new`](crate::SwiGlu::new) draw one after the other.
    pub fn networks(&mut self, count: usize, d_model: usize, d_ff: usize) -> [Param<Tensor<3>>; 3] {
        let (each, stds) = (d_model * d_ff, [self.std, self.std, self.residual_std]);
        let mut stacks = stds.map(|_| Vec::<f32>::new());
        if let Some(rng) = &mut self.rng {
            stacks.iter_mut().for_each(|stack| stack.reserve_exact(count * each));
            for _ in 0..count {
                for (stack, std) in stacks.iter_mut().zip(stds) {
                    stack.extend(kernels::random::normal(rng, each, std));
                }
            }
        }
        let [gate, up, down] = stacks;
        let wide = [count, d_ff, d_model];
        [self.param(wide, |_| gate), self.param(wide, |_| up), self.param([count, d_model, d_ff], |_| down)]
    }

    /// `shape` filled by `draw`, row-major.
    pub fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut draw: impl FnMut(&mut StdRng) -> f64,
    ) -> Param<Tensor<D>> {
        self.param(shape, |rng| (0..shape.iter().product()).map(|_| draw(rng) as f32).collect())
    }

    fn param<const D: usize>(
        &mut self,
        shape: [usize; D],
        values: impl FnOnce(&mut StdRng) -> Vec<f32>,
    ) -> Param<Tensor<D>> {
        if let Some(rng) = &mut self.rng {
            return Param::from_tensor(Tensor::from_data(TensorData::new(values(rng), shape), &self.device));
        }
        let zeros = move |device: &Device, tracked| Tensor::<D>::zeros(shape, device).set_require_grad(tracked);
        Param::uninitialized(ParamId::new(), zeros, self.device.clone(), true, shape.into())
    }
}
