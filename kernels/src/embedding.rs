//! Tables of vectors looked up by id: tokens, positions, types.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::shared::SharedMut;
use crate::{Compute, OutOfMemory};
use half::bf16;

/// A table of rows, in f32 or bf16.
#[derive(Debug)]
pub struct Embedding {
    width: usize,
    table: Table,
}

#[derive(Debug)]
enum Table {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Embedding {
    /// Keeps a table `[rows, width]`.
    pub fn from_f32(width: usize, table: &[f32]) -> Result<Self, OutOfMemory> {
        assert!(
            width > 0 && table.len().is_multiple_of(width),
            "rows of {width}"
        );
        Ok(Self {
            width,
            table: Table::F32(copy(table)?),
        })
    }

    /// Keeps a table `[rows, width]`.
    pub fn from_bf16(width: usize, table: &[bf16]) -> Result<Self, OutOfMemory> {
        assert!(
            width > 0 && table.len().is_multiple_of(width),
            "rows of {width}"
        );
        Ok(Self {
            width,
            table: Table::Bf16(copy(table)?),
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let elements = match &self.table {
            Table::F32(table) => table.len(),
            Table::Bf16(table) => table.len(),
        };
        elements / self.width
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.table {
            Table::F32(table) => size_of_val(table.as_slice()),
            Table::Bf16(table) => size_of_val(table.as_slice()),
        }
    }

    /// Overwrites `out` `[tokens, width]` with the rows of `tokens`.
    pub fn gather(&self, compute: &mut Compute, tokens: &[u32], out: &mut [f32]) {
        self.each(compute, tokens, out, |out, value| *out = value);
    }

    /// Adds the rows of `tokens` to `out` `[tokens, width]`.
    pub fn gather_add(&self, compute: &mut Compute, tokens: &[u32], out: &mut [f32]) {
        self.each(compute, tokens, out, |out, value| *out += value);
    }

    fn each(
        &self,
        compute: &mut Compute,
        tokens: &[u32],
        out: &mut [f32],
        apply: impl Fn(&mut f32, f32) + Sync,
    ) {
        let width = self.width;
        assert_eq!(out.len(), tokens.len() * width, "gathered rows");
        let out = SharedMut::new(out);
        compute.run_chunks(tokens.len(), width, &|rows| {
            for row in rows {
                let token = tokens[row] as usize;
                assert!(token < self.rows(), "token {token} of {}", self.rows());
                // SAFETY: each row of the output belongs to one task.
                let out = unsafe { out.slice(row * width..(row + 1) * width) };
                match &self.table {
                    Table::F32(table) => {
                        let values = &table[token * width..(token + 1) * width];
                        out.iter_mut()
                            .zip(values)
                            .for_each(|(out, &value)| apply(out, value));
                    }
                    Table::Bf16(table) => {
                        let values = &table[token * width..(token + 1) * width];
                        let values = values.iter().map(|value| widen(*value));
                        out.iter_mut()
                            .zip(values)
                            .for_each(|(out, value)| apply(out, value));
                    }
                }
            }
        });
    }
}

fn copy<T: Copy>(table: &[T]) -> Result<Vec<T>, OutOfMemory> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(table.len())
        .map_err(|_| OutOfMemory {
            bytes: size_of_val(table) as u64,
        })?;
    copy.extend_from_slice(table);
    Ok(copy)
}

// The shift alone becomes vector instructions; `to_f32` also looks for what is not a number.
fn widen(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}
