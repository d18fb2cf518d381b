//! Lloyd's k-means, from the start of k-means++.

use burn::tensor::{Int, IntDType, Tensor, TensorData};
use rand::{RngExt, rngs::StdRng};

/// `count` centroids of the rows of `vectors [n, width]`, `n ≥ count`: `[count, width]`.
pub(super) fn k_means(vectors: &Tensor<2>, count: usize, iterations: usize, rng: &mut StdRng) -> Tensor<2> {
    let rows: Vec<f64> = vectors.to_data().iter::<f64>().collect();
    let start = k_means_plus_plus(&rows, vectors.dims()[1], count, rng);
    lloyd(vectors, &rows, start, iterations)
}

/// The start (k-means++, Arthur and Vassilvitskii 2007): rows drawn one after the other, each with a chance in
/// proportion to its squared distance from the nearest one drawn before. For large `n` they are drawn
/// from the first `16 · count` rows, which the caller has shuffled.
fn k_means_plus_plus(rows: &[f64], width: usize, count: usize, rng: &mut StdRng) -> Vec<f64> {
    let candidates: Vec<&[f64]> = rows.chunks_exact(width).take(16 * count).collect();
    let mut distances = vec![f64::INFINITY; candidates.len()];
    let mut drawn = rng.random_range(0..candidates.len());
    let mut centroids = Vec::with_capacity(count * width);
    loop {
        centroids.extend_from_slice(candidates[drawn]);
        if centroids.len() == count * width {
            return centroids;
        }
        for (distance, row) in distances.iter_mut().zip(&candidates) {
            *distance = distance.min(squared_distance(row, candidates[drawn]));
        }
        let mut rest = rng.random::<f64>() * distances.iter().sum::<f64>();
        let reached = distances.iter().position(|&distance| {
            rest -= distance;
            distance > 0.0 && rest <= 0.0
        });
        // Where rounding leaves a rest, the last row that may be drawn; any, where all are drawn.
        drawn = reached.or(distances.iter().rposition(|&distance| distance > 0.0)).unwrap_or(drawn);
    }
}

/// Each iteration assigns every row to its nearest centroid and moves each centroid to the mean of
/// its rows; a centroid without rows moves to the row that is farthest from its own centroid. Means
/// are taken on the host, in f64 and in the order of the rows: the same seed gives the same centroids.
fn lloyd(vectors: &Tensor<2>, rows: &[f64], mut centroids: Vec<f64>, iterations: usize) -> Tensor<2> {
    let [n, width] = vectors.dims();
    let count = centroids.len() / width;
    let row = |i: usize| &rows[i * width..(i + 1) * width];
    let to_tensor = |values: &[f64]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), [count, width]), (&vectors.device(), vectors.dtype()))
    };
    let mut previous = Vec::new();
    for _ in 0..iterations {
        let nearest = nearest(vectors.clone(), to_tensor(&centroids));
        let assigned: Vec<usize> = nearest.into_data().iter::<i64>().map(|c| c as usize).collect();
        if assigned == previous {
            break;
        }
        let mut sizes = vec![0usize; count];
        let mut sums = vec![0.0; count * width];
        for (i, &c) in assigned.iter().enumerate() {
            sizes[c] += 1;
            sums[c * width..].iter_mut().zip(row(i)).for_each(|(sum, x)| *sum += x);
        }
        for (c, &size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
            for place in c * width..(c + 1) * width {
                centroids[place] = sums[place] / size as f64;
            }
        }
        let empty: Vec<usize> = (0..count).filter(|&c| sizes[c] == 0).collect();
        if !empty.is_empty() {
            let distance = |i: usize| squared_distance(row(i), &centroids[assigned[i] * width..]);
            let mut farthest: Vec<(f64, usize)> = (0..n).map(|i| (distance(i), i)).collect();
            farthest.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: equal ones in the order of the rows
            for (c, (_, i)) in empty.into_iter().zip(farthest) {
                centroids[c * width..(c + 1) * width].copy_from_slice(row(i));
            }
        }
        previous = assigned;
    }
    to_tensor(&centroids)
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Numbers of one product at a time: n rows by all centroids would not fit for large codebooks.
const AT_ONCE: usize = 1 << 24;

/// The nearest of `centroids [count, width]` to each row of `vectors [n, width]`: `[n]`.
pub(super) fn nearest(vectors: Tensor<2>, centroids: Tensor<2>) -> Tensor<1, Int> {
    let rows_at_once = (AT_ONCE / centroids.dims()[0]).max(1);
    nearest_in_chunks(vectors, centroids, rows_at_once)
}

fn nearest_in_chunks(vectors: Tensor<2>, centroids: Tensor<2>, rows_at_once: usize) -> Tensor<1, Int> {
    let n = vectors.dims()[0];
    // |x − c|² without |x|², which is the same for all c.
    let norms = centroids.clone().square().sum_dim(1).transpose(); // [1, count]
    let chunks = (0..n).step_by(rows_at_once).map(|first| {
        let rows = vectors.clone().narrow(0, first, rows_at_once.min(n - first));
        let distances = norms.clone() - rows.matmul(centroids.clone().transpose()) * 2.0;
        distances.argmin(1).flatten(0, 1).cast(IntDType::I32)
    });
    Tensor::cat(chunks.collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};
    use rand::SeedableRng;

    fn tensor(values: Vec<f64>, width: usize) -> Tensor<2> {
        let shape = [values.len() / width, width];
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
    }

    fn run(vectors: &Tensor<2>, count: usize, iterations: usize, seed: u64) -> Tensor<2> {
        k_means(vectors, count, iterations, &mut StdRng::seed_from_u64(seed))
    }

    fn distortion(vectors: &Tensor<2>, centroids: &Tensor<2>) -> f64 {
        let found = centroids.clone().select(0, nearest(vectors.clone(), centroids.clone()));
        (vectors.clone() - found).square().sum().into_scalar()
    }

    fn cloud(n: usize, width: usize) -> Tensor<2> {
        let mut rng = StdRng::seed_from_u64(5);
        tensor((0..n * width).map(|_| rng.random::<f64>().powi(3)).collect(), width)
    }

    fn values(x: Tensor<2>) -> Vec<f64> {
        x.into_data().iter().collect()
    }

    #[test]
    fn centroids_are_the_means_of_their_clusters() {
        let points = vec![0.0, 100.0, 2.0, 104.0, 7.0, 99.0];
        assert_eq!(values(lloyd(&tensor(points.clone(), 1), &points, vec![1.0, 90.0], 5)), [3.0, 101.0]);
    }

    #[test]
    fn more_iterations_never_do_worse() {
        let points = cloud(300, 2);
        let errors: Vec<f64> = (0..12).map(|i| distortion(&points, &run(&points, 16, i, 3))).collect();
        assert!(errors.is_sorted_by(|a, b| b <= a) && errors[11] < 0.8 * errors[0], "{errors:?}");
    }

    #[test]
    fn as_many_centroids_as_different_vectors_lose_nothing() {
        let twice = Tensor::cat(vec![cloud(20, 2), cloud(20, 2)], 0);
        for count in [20, 25] {
            let centroids = run(&twice, count, 25, 1);
            assert_eq!(distortion(&twice, &centroids), 0.0, "{count}");
        }
    }

    #[test]
    fn a_centroid_that_no_vector_chooses_moves_to_the_vector_served_worst() {
        let points = vec![0.0, 1.0, 2.0, 50.0];
        let centroids = values(lloyd(&tensor(points.clone(), 1), &points, vec![1.0, 1e6], 5));
        assert_eq!(centroids, [1.0, 50.0]);
    }

    #[test]
    fn the_same_seed_gives_the_same_centroids_and_another_seed_others() {
        let points = cloud(200, 2);
        let data = |seed| run(&points, 8, 3, seed).into_data();
        assert_eq!(data(1), data(1));
        assert_ne!(data(1), data(2));
    }

    #[test]
    fn a_search_in_chunks_is_the_same_search() {
        let (points, centroids) = (cloud(10, 2), cloud(7, 2));
        let search = |chunk| nearest_in_chunks(points.clone(), centroids.clone(), chunk).into_data();
        assert_eq!(search(3), search(10));
    }
}
