//! The paged cache of keys and values, and the only place that knows its layout.

use crate::{Compute, Rows};
use half::bf16;

/// Size of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Attention layers.
    pub layers: usize,
    /// Blocks of each layer; block 0 is the null block that padding writes to.
    pub blocks: usize,
    /// Tokens of a block: a multiple of 16.
    pub block_tokens: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head: even.
    pub head_dim: usize,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// 32 bits an element.
    F32,
    /// 16 bits an element; queries and attention weights may be rounded to bf16 too.
    Bf16,
}

/// Rows to write into a layer of the cache.
#[derive(Clone, Copy, Debug)]
pub struct KvRows<'a> {
    /// `block * block_tokens + offset` for each row.
    pub slots: &'a [u32],
    /// Keys, rows of `kv_heads * head_dim`, already rotated.
    pub k: Rows<'a>,
    /// Values, rows of `kv_heads * head_dim`.
    pub v: Rows<'a>,
}

/// Keys and values of every layer in blocks.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    dtype: KvDtype,
    /// `[layers][blocks][block_tokens][2][kv_heads][head_dim]`.
    data: Vec<f32>,
}

impl KvShape {
    /// Bytes of keys and values of one token over all layers.
    pub fn bytes_per_token(&self, dtype: KvDtype) -> usize {
        let element = match dtype {
            KvDtype::F32 => 4,
            KvDtype::Bf16 => 2,
        };
        self.layers * 2 * self.kv_heads * self.head_dim * element
    }

    /// Bytes of a whole cache of this shape.
    pub fn bytes(&self, dtype: KvDtype) -> usize {
        self.bytes_per_token(dtype) * self.blocks * self.block_tokens
    }
}

impl KvCache {
    /// A cache of zeros; memory of blocks that are never written is never touched.
    pub fn new(shape: KvShape, dtype: KvDtype) -> Self {
        assert!(
            shape.block_tokens > 0 && shape.block_tokens.is_multiple_of(16),
            "{shape:?}"
        );
        assert!(
            shape.head_dim > 0 && shape.head_dim.is_multiple_of(2),
            "{shape:?}"
        );
        let elements = shape.bytes(KvDtype::F32) / 4;
        Self {
            shape,
            dtype,
            data: vec![0.0; elements],
        }
    }

    /// Size of the cache.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How elements are stored.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> usize {
        self.shape.bytes(self.dtype)
    }

    /// Writes keys and values of `rows` into `layer`. When a slot stands twice (only the null
    /// block may), its content is one of the rows.
    pub fn write(&mut self, _compute: &mut Compute, layer: usize, rows: &KvRows<'_>) {
        let width = self.shape.kv_heads * self.shape.head_dim;
        assert!(
            layer < self.shape.layers,
            "layer {layer} of {:?}",
            self.shape
        );
        assert_eq!(
            (rows.k.width(), rows.v.width()),
            (width, width),
            "width of k and v"
        );
        assert_eq!(
            (rows.k.len(), rows.v.len()),
            (rows.slots.len(), rows.slots.len()),
            "slots"
        );
        for (row, &slot) in rows.slots.iter().enumerate() {
            let slot = slot as usize;
            assert!(
                slot < self.shape.blocks * self.shape.block_tokens,
                "slot {slot}"
            );
            let start = self.token(layer, slot);
            let dtype = self.dtype;
            let both = rows.k.row(row).iter().chain(rows.v.row(row));
            for (to, &from) in self.data[start..start + 2 * width].iter_mut().zip(both) {
                *to = match dtype {
                    KvDtype::F32 => from,
                    KvDtype::Bf16 => bf16::from_f32(from).to_f32(),
                };
            }
        }
    }

    fn token(&self, layer: usize, slot: usize) -> usize {
        let width = self.shape.kv_heads * self.shape.head_dim;
        (layer * self.shape.blocks * self.shape.block_tokens + slot) * 2 * width
    }

    pub(crate) fn key(&self, layer: usize, slot: usize, head: usize) -> &[f32] {
        let start = self.token(layer, slot) + head * self.shape.head_dim;
        &self.data[start..start + self.shape.head_dim]
    }

    pub(crate) fn value(&self, layer: usize, slot: usize, head: usize) -> &[f32] {
        let width = self.shape.kv_heads * self.shape.head_dim;
        let start = self.token(layer, slot) + width + head * self.shape.head_dim;
        &self.data[start..start + self.shape.head_dim]
    }
}
