//! What becomes of vectors that were encoded.

use super::common::*;
use super::{observed, uniform};
use burn::tensor::{DType, Device, Tensor};
use zoo::*;

/// `[1, 1, rows, width]` through a slot of keys.
fn stored(x: &Tensor<4>, codec: &CacheCodec) -> Tensor<4> {
    let mut cache = Cache::new(codec.clone());
    for t in 0..x.dims()[2] {
        cache.append("k", x.clone().narrow(2, t, 1), 2);
    }
    cache.get("k").expect("appended")
}

/// Sums of twelve numbers in (−1, 1), which lie like a bell.
fn bell(shape: [usize; 4]) -> Tensor<4> {
    (0..12).map(|seed| numbers(seed + 50, shape, &Device::flex())).reduce(|a, b| a + b).expect("twelve")
}

fn mean_square(x: Tensor<4>) -> f64 {
    x.square().mean().into_scalar()
}

#[test]
fn a_uniform_code_is_off_by_half_a_step_at_most_and_the_ends_come_back() {
    let x = numbers(38, [2, 3, 12, 8], &Device::flex());
    for (axis, dim) in [(Axis::Token, 3), (Axis::Channel, 2)] {
        for bits in [2, 3, 4, 8] {
            let found = stored(&Tensor::cat(vec![x.clone(), x.clone()], 2), &uniform(bits, axis, axis, 12));
            let found = found.narrow(2, 0, 12); // the second half is recent
            let step = (x.clone().max_dim(dim) - x.clone().min_dim(dim)) / ((1 << bits) - 1) as f64;
            let error = (x.clone() - found.clone()).abs();
            assert!(largest((error - step * 0.5).clamp_min(0.0)) < 1e-12, "{bits} bits by {axis}");
            let ends = largest(x.clone().max_dim(dim) - found.clone().max_dim(dim))
                + largest(x.clone().min_dim(dim) - found.min_dim(dim));
            assert!(ends < 1e-12, "{bits} bits by {axis}");
        }
    }
}

#[test]
fn equal_numbers_come_back_as_they_are() {
    let x = Tensor::<4>::full([1, 1, 9, 4], 1.7, (&Device::flex(), DType::F64));
    for axis in [Axis::Token, Axis::Channel] {
        assert_eq!(largest(stored(&x, &uniform(2, axis, axis, 4)) - x.clone()), 0.0, "{axis}");
    }
}

#[test]
fn a_centroid_comes_back_as_itself() {
    let x = bell([1, 1, 300, 6]);
    let format = ProductFormat { recent: 16, ..ProductFormat::new(3, 4) };
    let books = Codebooks::train(&format, &observed(&x)).unwrap();
    let centroids = books.get("k").unwrap().centroids.clone();
    assert_eq!(centroids.dims(), [3, 16, 2]);
    let vectors = centroids.swap_dims(0, 1).reshape([1, 1, 16, 6]);
    let twice = Tensor::cat(vec![vectors.clone(), vectors], 2);
    assert_eq!(largest(stored(&twice, &CacheCodec::Product(books)) - twice), 0.0);
}

#[test]
fn learned_levels_are_closer_than_even_ones() {
    // Sub-spaces of one channel: k-means chooses 16 levels where the numbers are, a uniform code
    // spaces them evenly from end to end.
    let x = bell([1, 1, 512, 4]);
    let format = CacheFormat::Product(ProductFormat { recent: 256, ..ProductFormat::new(4, 4) });
    let learned = mean_square(stored(&x, &format.fit(&observed(&x)).unwrap()) - x.clone());
    let even = mean_square(stored(&x, &uniform(4, Axis::Channel, Axis::Channel, 256)) - x);
    assert!(learned < 0.8 * even, "{learned} against {even}");
}

#[test]
fn a_large_channel_harms_the_others_by_token_and_neither_by_channel_nor_in_sub_spaces() {
    let x = bell([1, 1, 512, 8]);
    let large = x.clone()
        * Tensor::<4>::from_floats([[[[1., 1., 1., 1., 1., 1., 1., 100.]]]], &Device::flex()).cast(DType::F64);
    // Of the channels that did not grow, as a multiple of what it was before the eighth did.
    let harm = |codec: &dyn Fn(&Tensor<4>) -> CacheCodec| {
        let error = |x: &Tensor<4>| mean_square((stored(x, &codec(x)) - x.clone()).narrow(3, 0, 6));
        error(&large) / error(&x)
    };
    let by = |axis| move |_: &Tensor<4>| uniform(4, axis, axis, 128);
    let product = |x: &Tensor<4>| {
        CacheFormat::Product(ProductFormat { recent: 128, ..ProductFormat::new(4, 6) }).fit(&observed(x)).unwrap()
    };
    assert!(harm(&by(Axis::Token)) > 100.0);
    assert!((harm(&by(Axis::Channel)) - 1.0).abs() < 1e-9);
    assert!((harm(&product) - 1.0).abs() < 0.2);
}
