//! Rows of a matrix in another order, for layouts that differ in nothing else.

use burn::tensor::TensorData;
use std::ops::Range;

/// The rows of `data [rows, ..]` that `ranges` name, in their order. f32.
pub(super) fn take(data: &TensorData, ranges: impl IntoIterator<Item = Range<usize>>) -> Result<TensorData, String> {
    let mut shape = data.shape().to_vec();
    let rows = *shape.first().ok_or("is a single number, expected rows")?;
    let width: usize = shape[1..].iter().product();
    let values = data.clone().convert::<f32>().try_into_vec::<f32>().map_err(|e| format!("{e:?}"))?;
    let mut taken = Vec::with_capacity(values.len());
    for range in ranges {
        if range.end > rows {
            return Err(format!("has {rows} rows, expected at least {}", range.end));
        }
        taken.extend_from_slice(&values[range.start * width..range.end * width]);
    }
    shape[0] = taken.len() / width.max(1);
    Ok(TensorData::new(taken, shape))
}

/// Blocks of `size` rows in the order `order`.
pub(super) fn blocks(order: impl IntoIterator<Item = usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    order.into_iter().map(move |block| block * size..(block + 1) * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_rows_come_out_in_the_order_asked_for() {
        let data = TensorData::new((0..8).map(|i| i as f32).collect::<Vec<_>>(), [4, 2]);
        let taken = take(&data, blocks([1, 0], 2)).unwrap();
        assert_eq!(taken.shape().to_vec(), [4, 2]);
        assert_eq!(taken.try_into_vec::<f32>().unwrap(), [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn too_few_rows_are_an_error() {
        let data = TensorData::new(vec![0.0f32; 4], [2, 2]);
        assert!(take(&data, blocks([0, 1], 2)).unwrap_err().contains("2 rows, expected at least 4"));
    }
}
