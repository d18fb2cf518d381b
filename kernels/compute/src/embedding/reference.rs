use burn::tensor::{Int, Tensor};

pub fn embedding(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let ([batch, time], [_, d]) = (ids.dims(), table.dims());
    table.select(0, ids.reshape([batch * time])).reshape([batch, time, d])
}
