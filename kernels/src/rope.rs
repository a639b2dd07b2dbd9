//! Rotary position embedding on halves: element `i` turns with element `i + half`.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::shared::SharedMut;
use crate::simd::{Kernel, LANES, Simd, vectorize};
use crate::{Compute, RowsMut};

/// Sines and cosines of every position.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    /// `[positions, 2, half]`: cosines, then sines.
    table: Vec<f32>,
}

impl RopeTable {
    /// Computes the table in f64 for `positions` positions. `scale` multiplies sines and cosines
    /// (1 but for the schemes with an attention factor).
    pub fn new(inverse_frequencies: &[f64], scale: f32, positions: usize) -> Self {
        let half = inverse_frequencies.len();
        assert!(half > 0, "a rotation needs frequencies");
        let scale = f64::from(scale);
        let mut table = Vec::with_capacity(positions * 2 * half);
        for position in 0..positions {
            let angles = inverse_frequencies
                .iter()
                .map(|frequency| position as f64 * frequency);
            table.extend(angles.clone().map(|angle| (angle.cos() * scale) as f32));
            table.extend(angles.map(|angle| (angle.sin() * scale) as f32));
        }
        Self { half, table }
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.table.len() / (2 * self.half)
    }

    /// Rotates the first `2 * inverse_frequencies.len()` elements of each head of `head_dim`
    /// elements, row `i` by `positions[i]`, in place.
    pub fn apply(
        &self,
        compute: &mut Compute,
        x: &mut RowsMut<'_>,
        head_dim: usize,
        positions: &[u32],
    ) {
        let half = self.half;
        assert_eq!(x.len(), positions.len(), "one position per row");
        assert!(
            2 * half <= head_dim && x.width().is_multiple_of(head_dim),
            "heads of {head_dim}"
        );
        let level = compute.level();
        let (x, span) = x.parts();
        let x = SharedMut::new(x);
        compute.run_chunks(span.rows, span.width, &|rows| {
            for row in rows {
                let position = positions[row] as usize;
                assert!(
                    position < self.positions(),
                    "position {position} of the table"
                );
                let turn = &self.table[position * 2 * half..(position + 1) * 2 * half];
                // SAFETY: each row belongs to one task.
                let row = unsafe { x.slice(span.range(row)) };
                vectorize(
                    level,
                    Rotate {
                        row,
                        head_dim,
                        turn,
                    },
                );
            }
        });
    }
}

struct Rotate<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    /// Cosines, then sines.
    turn: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.turn.len() / 2;
        let (cos, sin) = self.turn.split_at(half);
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            let turns = cos.chunks(LANES).zip(sin.chunks(LANES));
            let pairs = low.chunks_mut(LANES).zip(high.chunks_mut(LANES));
            for ((low, high), (cos, sin)) in pairs.zip(turns) {
                let (a, b) = (simd.load_slice(low), simd.load_slice(high));
                let (cos, sin) = (simd.load_slice(cos), simd.load_slice(sin));
                simd.store_slice(low, simd.sub(simd.mul(a, cos), simd.mul(b, sin)));
                simd.store_slice(high, simd.add(simd.mul(b, cos), simd.mul(a, sin)));
            }
        }
    }
}
