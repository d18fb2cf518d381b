//! The rows of a table that tokens ask for.

mod cpu;
#[allow(clippy::manual_div_ceil, clippy::manual_is_multiple_of, clippy::assign_op_pattern)]
// the kernels' language has none of them
pub mod cuda;
mod reference;

use crate::cuda::{Asked, with_gpu};
use crate::operator::{TOO_LARGE, choose_with_cuda, input, run, run_on_cpu, whole};
use crate::selftest::Case;
use crate::trace::Implementation;
use burn::tensor::{Int, Tensor};

/// Shapes: `table [vocab, d]`, `ids [batch, time]` → `[batch, time, d]`.
///
/// # Panics
/// On the CPU, when an id is not in the vocabulary; a GPU does not tell.
pub fn embedding(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [vocab, width] = table.dims();
    let inputs = [input(table)];
    let numbers = ids.shape().num_elements() * width;
    let kernels = |asked: &Asked| if numbers < 1 << 31 { asked.in_f32() } else { Err(TOO_LARGE) };
    match choose_with_cuda("embedding", inputs.iter().flatten(), kernels) {
        Implementation::Cpu => {
            let shape = ids.dims();
            let data = ids.into_data();
            let ids = data.iter::<i64>().map(|id| match usize::try_from(id) {
                Ok(id) if id < vocab => id,
                _ => panic!("expected ids below {vocab}, got {id}"),
            });
            Tensor::from_dispatch(run_on_cpu(cpu::Embedding { ids: ids.collect(), shape }, inputs))
        }
        Implementation::Cuda => with_gpu!(inputs, B => {
            let operator = cuda::GpuEmbedding::<B> { ids: whole::<B, 2>(ids) };
            Tensor::from_dispatch(run::<B, _, 1>(operator, inputs))
        }),
        Implementation::Reference => {
            let [table] = inputs.map(|x| Tensor::from_dispatch(x.expect("a table is always there")));
            reference::embedding(table, ids)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    fn case(name: &str, vocab: usize, d: usize, [batch, time]: [usize; 2], step: usize) -> Case {
        Case::new("embedding", name, &[("table", &[vocab, d])], move |x| {
            let table = x.get::<2>("table");
            let ids: Vec<i32> = (0..batch * time).map(|t| ((t * step + t * t / 7) % vocab) as i32).collect();
            let ids = burn::tensor::TensorData::new(ids, [batch, time]);
            let device = table.device().without_autodiff();
            embedding(table, Tensor::from_data(ids, &device)).reshape([-1])
        })
    }
    vec![
        case("one token of one", 1, 3, [1, 1], 0),
        case("every token the same", 5, 16, [3, 25], 0),
        case("rows that nobody asks for", 300, 16, [3, 25], 11),
        case("on several threads", 256, 60, [4, 500], 3),
        case("wide rows", 50, 132, [2, 75], 3),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn one_pass_gives_the_output_and_gradient_of_the_reference() {
        crate::selftest::agree(cases(), 1e-12);
    }

    #[test]
    #[should_panic(expected = "expected ids below 4, got -1")]
    fn an_id_outside_the_vocabulary_is_refused() {
        let device = Device::flex();
        embedding(Tensor::ones([4, 2], &device), Tensor::from_data([[1, -1]], &device));
    }
}
