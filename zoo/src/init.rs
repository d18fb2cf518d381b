//! Seeded initial weights, the same on every device.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{SeedableRng, rngs::StdRng};

/// Draws initial weights. The numbers come from one seeded generator on the host, never from a
/// device's own, so a seed means the same model on the CPU and on a GPU.
pub struct Init {
    rng: StdRng,
    device: Device,
    std: f64,
    residual_std: f64,
    layers: usize,
}

impl Init {
    /// Weights are N(0, `std`²); those that write to the residual stream are N(0, `residual_std`²).
    pub fn new(seed: u64, std: f64, residual_std: f64, layers: usize, device: &Device) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), device: device.clone(), std, residual_std, layers }
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
        let values = kernels::random::normal(&mut self.rng, shape.iter().product(), std);
        self.param(values, shape)
    }

    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], low: f64, high: f64) -> Param<Tensor<D>> {
        let values = kernels::random::uniform(&mut self.rng, shape.iter().product(), low, high);
        self.param(values, shape)
    }

    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f64) -> Param<Tensor<D>> {
        self.draw(shape, |_| value)
    }

    /// The matrices of `count` SwiGLU networks in three stacks, gates and ups `[count, d_ff, d_model]` and downs
    /// `[count, d_model, d_ff]`: the numbers that as many [`SwiGlu::new`](crate::SwiGlu::new) draw one after the other.
    pub fn networks(&mut self, count: usize, d_model: usize, d_ff: usize) -> [Param<Tensor<3>>; 3] {
        let (each, stds) = (d_model * d_ff, [self.std, self.std, self.residual_std]);
        let mut stacks = stds.map(|_| Vec::<f32>::with_capacity(count * each));
        for _ in 0..count {
            for (stack, std) in stacks.iter_mut().zip(stds) {
                stack.extend(kernels::random::normal(&mut self.rng, each, std));
            }
        }
        let [gate, up, down] = stacks;
        let wide = [count, d_ff, d_model];
        [self.param(gate, wide), self.param(up, wide), self.param(down, [count, d_model, d_ff])]
    }

    /// `shape` filled by `draw`, row-major.
    pub fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut draw: impl FnMut(&mut StdRng) -> f64,
    ) -> Param<Tensor<D>> {
        let values = (0..shape.iter().product()).map(|_| draw(&mut self.rng) as f32).collect();
        self.param(values, shape)
    }

    fn param<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }
}
