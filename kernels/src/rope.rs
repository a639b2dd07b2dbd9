//! Rotary position embedding on halves: element `i` turns with element `i + half`.

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
        let mut table = Vec::with_capacity(positions * 2 * half);
        for position in 0..positions {
            let angles = inverse_frequencies
                .iter()
                .map(|frequency| position as f64 * frequency);
            table.extend(
                angles
                    .clone()
                    .map(|angle| (angle.cos() * f64::from(scale)) as f32),
            );
            table.extend(angles.map(|angle| (angle.sin() * f64::from(scale)) as f32));
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
        _compute: &mut Compute,
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
        for (row, &position) in positions.iter().enumerate() {
            let start = position as usize * 2 * half;
            let (cos, sin) = self.table[start..start + 2 * half].split_at(half);
            for head in x.row(row).chunks_exact_mut(head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * cos[i] - b * sin[i];
                    head[i + half] = b * cos[i] + a * sin[i];
                }
            }
        }
    }
}
