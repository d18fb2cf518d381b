//! Rows cut out of a text.

use crate::Batch;

/// One window per row, starting where `start` says.
pub(super) fn windows(text: &[u8], batch: usize, time: usize, start: impl Fn(usize) -> usize) -> Batch {
    let mut out = Batch::with_capacity(batch, time);
    for row in 0..batch {
        let from = start(row);
        let window = &text[from..=from + time];
        out.ids.extend(window[..time].iter().map(|&b| i32::from(b)));
        out.targets.extend(window[1..].iter().map(|&b| i32::from(b)));
    }
    out.mask.resize(batch * time, 1.0);
    out
}

/// The number nearest below n/φ that shares no factor with n, so its multiples visit all n slots.
pub(super) fn spread(n: usize) -> usize {
    let golden = (n as f64 * 0.618_033_988_75) as usize;
    let coprime = |&stride: &usize| {
        let (mut a, mut b) = (stride, n);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    (1..=golden).rev().find(coprime).unwrap_or(1)
}
