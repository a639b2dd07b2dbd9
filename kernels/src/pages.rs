//! Layout of keys and values: pages of sixteen positions for one head.
//!
//! A page holds its keys as `[step][16 positions]` lanes, so that one vector carries sixteen keys
//! and scores need no sums across a vector, then its values as `[16 / DEPTH positions][width]`
//! lanes, with the width of a head rounded up to whole vectors. A lane is one f32 or a pair of
//! bf16: two elements of a key, or the same element of two neighbouring values.

use crate::gemm::Lane;
use crate::simd::LANES;

/// Positions of a page.
pub(crate) const PAGE: usize = LANES;

/// Sizes of a page, counted in lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLayout {
    pub(crate) head_dim: usize,
    /// Steps of a dot product with a key.
    pub(crate) key_steps: usize,
    /// Lanes of a row of values.
    pub(crate) width: usize,
    /// Rows of values.
    pub(crate) value_steps: usize,
}

impl PageLayout {
    pub(crate) fn new<T: Lane>(head_dim: usize) -> Self {
        Self {
            head_dim,
            key_steps: head_dim.div_ceil(T::DEPTH),
            width: head_dim.next_multiple_of(LANES),
            value_steps: PAGE / T::DEPTH,
        }
    }

    /// Lanes of the keys: where the values begin.
    pub(crate) fn keys(&self) -> usize {
        self.key_steps * PAGE
    }

    pub(crate) fn values(&self) -> usize {
        self.value_steps * self.width
    }

    /// Lanes of a page.
    pub(crate) fn page(&self) -> usize {
        self.keys() + self.values()
    }
}

/// Lanes that keys and values can be written to and cleared in.
pub(crate) trait PageLane: Lane {
    /// Writes the key and the value of position `slot` of a page.
    fn write(page: &mut [Self], layout: &PageLayout, slot: usize, key: &[f32], value: &[f32]);
    /// Copies the values of a page, with zeros from position `slots` on.
    fn copy_values(page: &[Self], layout: &PageLayout, slots: usize, to: &mut [Self]);
}

impl PageLane for f32 {
    #[inline(always)]
    fn write(page: &mut [f32], layout: &PageLayout, slot: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = page.split_at_mut(layout.keys());
        for (lanes, key) in keys.chunks_exact_mut(PAGE).zip(key) {
            lanes[slot] = *key;
        }
        values[slot * layout.width..][..value.len()].copy_from_slice(value);
    }

    #[inline(always)]
    fn copy_values(page: &[f32], layout: &PageLayout, slots: usize, to: &mut [f32]) {
        let valid = slots * layout.width;
        to[..valid].copy_from_slice(&page[layout.keys()..][..valid]);
        to[valid..layout.values()].fill(0.0);
    }
}

impl PageLane for u32 {
    #[inline(always)]
    fn write(page: &mut [u32], layout: &PageLayout, slot: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = page.split_at_mut(layout.keys());
        for (lanes, key) in keys.chunks_exact_mut(PAGE).zip(key.chunks(2)) {
            let high = key.get(1).map_or(0, |&key| bf16_bits(key));
            lanes[slot] = bf16_bits(key[0]) | high << 16;
        }
        let values = &mut values[slot / 2 * layout.width..][..value.len()];
        if slot.is_multiple_of(2) {
            for (lane, &value) in values.iter_mut().zip(value) {
                *lane = *lane & 0xffff_0000 | bf16_bits(value);
            }
        } else {
            for (lane, &value) in values.iter_mut().zip(value) {
                *lane = *lane & 0xffff | bf16_bits(value) << 16;
            }
        }
    }

    #[inline(always)]
    fn copy_values(page: &[u32], layout: &PageLayout, slots: usize, to: &mut [u32]) {
        let values = &page[layout.keys()..];
        let whole = slots / 2 * layout.width;
        let half = slots.div_ceil(2) * layout.width;
        to[..whole].copy_from_slice(&values[..whole]);
        for (to, lane) in to[whole..half].iter_mut().zip(&values[whole..half]) {
            *to = lane & 0xffff;
        }
        to[half..layout.values()].fill(0);
    }
}

/// The nearest bf16, ties to even, without branches.
#[inline(always)]
fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fc0
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounds_like_the_library() {
        for step in 0..100_000_u32 {
            let value = f32::from_bits(step.wrapping_mul(42_949).wrapping_add(step << 13));
            let expected = bf16::from_f32(value);
            let ours = bf16::from_bits(bf16_bits(value) as u16);
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{value}"
            );
        }
    }
}
