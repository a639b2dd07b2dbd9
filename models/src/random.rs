//! Random numbers as functions: a counter generator for draws, a stream for dummy weights.

/// Philox 4x32-10 (Salmon and others, 2011): 128 bits for each pair of key and counter, with no
/// state between calls. A draw depends on nothing but its seed and position, so that a stream of
/// tokens can be replayed from any point and beside any other.
pub(crate) fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let (mut key0, mut key1) = (key as u32, (key >> 32) as u32);
    let [mut a, mut b, mut c, mut d] = counter;
    for _ in 0..PHILOX_ROUNDS {
        let left = u64::from(a) * u64::from(PHILOX_M0);
        let right = u64::from(c) * u64::from(PHILOX_M1);
        (a, b, c, d) = (
            (right >> 32) as u32 ^ b ^ key0,
            right as u32,
            (left >> 32) as u32 ^ d ^ key1,
            left as u32,
        );
        key0 = key0.wrapping_add(PHILOX_W0);
        key1 = key1.wrapping_add(PHILOX_W1);
    }
    [a, b, c, d]
}

/// The number in 0..1 that draws the token at `position` of a sequence with `seed`.
pub(crate) fn uniform(seed: u64, position: u32) -> f64 {
    let [high, low, ..] = philox(seed, [position, 0, 0, 0]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

/// Steele, Lea and Flood's SplitMix64: a fast stream.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// A stream of its own for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const PHILOX_ROUNDS: usize = 10;
const PHILOX_M0: u32 = 0xd251_1f53;
const PHILOX_M1: u32 = 0xcd9e_8d57;
const PHILOX_W0: u32 = 0x9e37_79b9;
const PHILOX_W1: u32 = 0xbb67_ae85;

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(
            philox(0, [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox(u64::MAX, [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_fills_its_range_evenly() {
        let mut bins = [0_u32; 10];
        for position in 0..10_000 {
            let number = uniform(7, position);
            bins[(number * 10.0) as usize] += 1;
        }
        assert!(
            bins.iter().all(|count| (900..1100).contains(count)),
            "{bins:?}"
        );
    }
}
