//! Which tiles a kernel is compiled for, and which of them a cube visits.

use crate::cuda::tile::PAD;
use cubecl::prelude::*;

/// Planes of a cube; each owns 16 rows.
pub const PLANES: u32 = 4;
/// Queries (forward, query gradient) or keys (key and value gradient) of a cube.
pub const ROWS: u32 = 16 * PLANES;

/// What multiplies the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    None,
    /// One number for every row of a head.
    Row,
    /// One for every number.
    Channel,
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Numbers of a query and a key.
    pub width: usize,
    /// Numbers of a value.
    pub value_width: usize,
    pub window: bool,
    pub softcap: bool,
    /// A score falls by the head's slope with every token of distance (ALiBi).
    pub slopes: bool,
    /// Something is added to every score.
    pub bias: bool,
    /// The gradient of what is added is asked for.
    pub bias_grad: bool,
    /// Every row has a logit of its own in its sum.
    pub sinks: bool,
    /// Weights are sigmoids of scores: no sum.
    pub sigmoid: bool,
    pub gate: Gate,
    /// Patterns of a head over the same values: two in differential attention, whose output is the difference.
    pub maps: usize,
    /// Keys of a head: as many as maps, or one that they share.
    pub key_maps: usize,
    /// Keys, in the gradient of keys and values queries, that a cube holds in shared memory at once.
    pub step: usize,
}

impl Plan {
    /// Whether there are tiles for these widths: copies move 8 bytes or 16, sums lie in registers, where those of two
    /// maps lie side by side.
    pub fn fits(&self) -> bool {
        let fits = |width: usize, most: usize| width.is_multiple_of(4) && (4..=most).contains(&width);
        fits(self.width, 256 / self.maps) && fits(self.value_width, 256)
    }

    pub const fn two_maps(&self) -> bool {
        self.maps == 2
    }

    /// Whether each of two maps has keys of its own.
    pub const fn own_keys(&self) -> bool {
        self.key_maps == 2
    }

    /// The width in shared memory: whole tiles of 16.
    pub const fn depth(width: usize) -> usize {
        width.next_multiple_of(16)
    }

    /// Numbers of a row in shared memory.
    pub const fn stride(width: usize) -> usize {
        Self::depth(width) + PAD
    }

    const fn wide(&self, limit: usize) -> bool {
        self.width > limit || self.value_width > limit
    }

    /// Steps whose sums fit into registers in the forward pass; the likeliest to be the fastest first.
    pub const fn forward_steps(&self) -> &'static [usize] {
        if self.wide(128) {
            &[32]
        } else if self.wide(64) || self.own_keys() {
            &[64, 32]
        } else {
            &[64, 128, 32]
        }
    }

    /// The same in the gradients.
    pub const fn backward_steps(&self) -> &'static [usize] {
        match self.wide(64) {
            true if self.two_maps() => &[16],
            true => &[32],
            false => &[64, 32],
        }
    }

    /// Bytes of shared memory that the largest of the kernels wants.
    pub fn shared(&self) -> usize {
        let (width, values, rows) = (Self::stride(self.width), Self::stride(self.value_width), ROWS as usize);
        let (queries, keys) = (self.maps * width, self.key_maps * width);
        // Two stages of what a cube goes over beside its rows, 2 bytes a number.
        let longest = |steps: &[usize]| steps.iter().copied().max().expect("a step");
        let forward = rows * queries + 2 * longest(self.forward_steps()) * (keys + values);
        let step = 2 * longest(self.backward_steps());
        let query_grad = rows * (queries + values) + step * (keys + values);
        let key_value_grad = rows * (keys + values) + step * (queries + values);
        2 * forward.max(query_grad).max(key_value_grad)
    }

    /// Whether the gradients of keys and of values are sums too long for the registers of one kernel.
    pub const fn split_gradients(&self) -> bool {
        self.key_maps * Self::depth(self.width) + Self::depth(self.value_width) > 256
    }
}

/// Whether the query at key `own` sees `key`.
#[cube]
pub fn visible(key: u32, own: u32, window: u32, #[comptime] windowed: bool) -> bool {
    let mut sees = key <= own;
    if windowed {
        sees = sees && own < key + window;
    }
    sees
}

/// The steps of `step` keys, from and up to, that any of the queries `row .. row + ROWS` sees.
#[cube]
pub fn key_steps(
    row: u32,
    time: u32,
    source: u32,
    window: u32,
    #[comptime] windowed: bool,
    #[comptime] step: u32,
) -> (u32, u32) {
    let own = source - time + row;
    let mut first = 0u32.runtime();
    if windowed {
        first = select(own + 1 > window, own + 1 - window, 0);
    }
    let end = select(own + ROWS < source, own + ROWS, source);
    (first / step, (end + step - 1) / step)
}

/// The steps of `step` queries, from and up to, that see any of the keys `row .. row + ROWS`. When none does, up to is not
/// above from.
#[cube]
pub fn query_steps(
    row: u32,
    time: u32,
    source: u32,
    window: u32,
    #[comptime] windowed: bool,
    #[comptime] step: u32,
) -> (u32, u32) {
    let cached = source - time;
    let first = select(row > cached, row - cached, 0);
    let mut end = time;
    if windowed {
        // The last of these keys is seen by the query `window − 1` after it.
        let last = row + ROWS - 1 + window;
        end = select(last > cached, last - cached, 0);
        end = select(end < time, end, time);
    }
    (first / step, (end + step - 1) / step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (time, source, window) of every kind: odd lengths, a cache, windows from one key to more than there are.
    fn problems() -> Vec<(u32, u32, Option<u32>)> {
        let lengths = [(1, 1), (1, 500), (63, 63), (75, 75), (500, 500), (129, 700), (64, 64), (65, 128)];
        let windows = [None, Some(1), Some(3), Some(64), Some(100), Some(1000)];
        lengths.iter().flat_map(|&(t, s)| windows.map(|w| (t, s, w))).collect()
    }

    fn sees(t: u32, s: u32, (time, source, window): (u32, u32, Option<u32>)) -> bool {
        visible(s, source - time + t, window.unwrap_or(0), window.is_some())
    }

    #[test]
    fn a_query_sees_itself_and_the_keys_of_its_window() {
        for problem @ (time, source, window) in problems() {
            for t in 0..time {
                let own = source - time + t;
                let seen = (0..source).filter(|&s| sees(t, s, problem)).count() as u32;
                assert_eq!(seen, (own + 1).min(window.unwrap_or(u32::MAX)), "{problem:?}, query {t}");
                assert!(sees(t, own, problem), "{problem:?}, query {t}");
            }
        }
    }

    #[test]
    fn the_steps_of_a_cube_hold_every_visible_key_and_begin_and_end_with_one() {
        for problem @ (time, source, window) in problems() {
            for step in [16, 32, 64] {
                for row in (0..time).step_by(ROWS as usize) {
                    let (first, end) = key_steps(row, time, source, window.unwrap_or(0), window.is_some(), step);
                    let used = |s: u32| (row..time.min(row + ROWS)).any(|t| sees(t, s, problem));
                    let expected: Vec<u32> = (0..source).filter(|&s| used(s)).map(|s| s / step).collect();
                    assert_eq!(first, *expected.first().unwrap(), "{problem:?}, rows from {row}");
                    let rows_end = time.min(row + ROWS);
                    // A last cube with fewer queries may visit one step that only absent queries would see.
                    assert!(end > *expected.last().unwrap(), "{problem:?}, rows from {row}");
                    if rows_end == row + ROWS {
                        assert_eq!(end, expected.last().unwrap() + 1, "{problem:?}, rows from {row}");
                    }
                    assert!(end <= source.div_ceil(step));
                }
            }
        }
    }

    #[test]
    fn the_steps_of_a_block_of_keys_hold_every_query_that_sees_one() {
        for problem @ (time, source, window) in problems() {
            for step in [16, 32, 64] {
                for row in (0..source).step_by(ROWS as usize) {
                    let (first, end) = query_steps(row, time, source, window.unwrap_or(0), window.is_some(), step);
                    let used = |t: u32| (row..source.min(row + ROWS)).any(|s| sees(t, s, problem));
                    let expected: Vec<u32> = (0..time).filter(|&t| used(t)).map(|t| t / step).collect();
                    match (expected.first(), expected.last()) {
                        (Some(&from), Some(&last)) => {
                            assert_eq!(first, from, "{problem:?}, keys from {row}");
                            assert!(end > last && end <= time.div_ceil(step), "{problem:?}, keys from {row}");
                        }
                        _ => assert!(end <= first, "{problem:?}, keys from {row}: {first}..{end}"),
                    }
                }
            }
        }
    }
}
