//! Seeded mixers, one input, and what they make of it.

use super::{D_MODEL, largest, numbers};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use zoo::*;

pub fn seeded() -> Init {
    Init::new(7, 0.3, 0.3, 2, &Device::flex())
}

pub fn input(time: usize) -> Tensor<3> {
    numbers(11, [2, time, D_MODEL], &Device::flex())
}

/// The largest difference between what two mixers make of the same input.
pub fn difference(a: &impl Mixer, b: &impl Mixer) -> f64 {
    largest(a.forward(input(9), &mut Silent) - b.forward(input(9), &mut Silent))
}

/// `param` with `values` in row-major order.
pub fn set<const D: usize>(param: &Param<Tensor<D>>, values: Vec<f64>) -> Param<Tensor<D>> {
    param.clone().map(|old| {
        let like = (&old.device(), old.dtype());
        Tensor::from_data(TensorData::new(values.clone(), old.dims()), like)
    })
}

pub fn recorded(mixer: &impl Mixer, x: Tensor<3>, name: &str) -> Tensor<4> {
    let mut record = Record::new(&[name]);
    mixer.forward(x, &mut record);
    record.get(name).expect("recorded")
}
