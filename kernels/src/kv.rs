//! The paged cache of keys and values.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::buffer::{Buffer, OutOfMemory};
use crate::pages::{PAGE, PageLane, PageLayout};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, vectorize};
use crate::{Compute, Rows};
use std::ops::Range;

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
    /// Elements of a head, at most 256.
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
    data: Data,
}

/// `[layers][blocks][block_tokens / 16][kv_heads]` pages of lanes.
#[derive(Debug)]
enum Data {
    F32(Buffer<f32>),
    Bf16(Buffer<u32>),
}

impl KvShape {
    /// Bytes of keys and values of one token over all layers. A head whose width is not a
    /// multiple of 16 is stored wider.
    pub fn bytes_per_token(&self, dtype: KvDtype) -> usize {
        let page = match dtype {
            KvDtype::F32 => PageLayout::new::<f32>(self.head_dim).page(),
            KvDtype::Bf16 => PageLayout::new::<u32>(self.head_dim).page(),
        };
        // A lane has four bytes, and a page sixteen tokens.
        (self.layers * self.kv_heads * page * 4).div_ceil(PAGE)
    }

    /// Bytes of a whole cache of this shape.
    pub fn bytes(&self, dtype: KvDtype) -> usize {
        self.bytes_per_token(dtype) * self.blocks * self.block_tokens
    }

    /// Pages of a layer.
    fn pages(&self) -> usize {
        self.blocks * self.block_tokens / PAGE * self.kv_heads
    }
}

impl KvCache {
    /// A cache of zeros; memory of blocks that are never written is never touched.
    pub fn new(shape: KvShape, dtype: KvDtype) -> Result<Self, OutOfMemory> {
        let KvShape {
            block_tokens,
            head_dim,
            ..
        } = shape;
        assert!(
            block_tokens > 0 && block_tokens.is_multiple_of(PAGE),
            "{shape:?}"
        );
        assert!((1..=256).contains(&head_dim), "{shape:?}");
        let pages = shape.layers * shape.pages();
        let data = match dtype {
            KvDtype::F32 => Data::F32(Buffer::zeroed(
                pages * PageLayout::new::<f32>(head_dim).page(),
            )?),
            KvDtype::Bf16 => Data::Bf16(Buffer::zeroed(
                pages * PageLayout::new::<u32>(head_dim).page(),
            )?),
        };
        Ok(Self { shape, data })
    }

    /// Size of the cache.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How elements are stored.
    pub fn dtype(&self) -> KvDtype {
        match self.data {
            Data::F32(_) => KvDtype::F32,
            Data::Bf16(_) => KvDtype::Bf16,
        }
    }

    /// Bytes of the whole cache, touched or not.
    pub fn bytes(&self) -> usize {
        self.shape.bytes(self.dtype())
    }

    /// Writes keys and values of `rows` into `layer`. When a slot stands twice (only the null
    /// block may), its content is that of the last row.
    pub fn write(&mut self, compute: &mut Compute, layer: usize, rows: &KvRows<'_>) {
        let KvShape {
            layers,
            blocks,
            block_tokens,
            kv_heads,
            head_dim,
        } = self.shape;
        let width = kv_heads * head_dim;
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
        let slots = (blocks * block_tokens) as u64;
        assert!(
            rows.slots.iter().all(|&slot| u64::from(slot) < slots),
            "slots of {slots}"
        );
        match &mut self.data {
            Data::F32(data) => {
                let part = part(data.len(), layers, layer);
                write(compute, self.shape, &mut data[part], rows);
            }
            Data::Bf16(data) => {
                let part = part(data.len(), layers, layer);
                write(compute, self.shape, &mut data[part], rows);
            }
        }
    }

    /// Copies keys and values of block `from` into block `to`, in every layer.
    pub fn copy(&mut self, from: u32, to: u32) {
        let KvShape { layers, blocks, .. } = self.shape;
        let (from, to) = (from as usize, to as usize);
        assert!(from < blocks && to < blocks, "{from} to {to} of {blocks}");
        match &mut self.data {
            Data::F32(data) => copy(data, layers * blocks, blocks, (from, to)),
            Data::Bf16(data) => copy(data, layers * blocks, blocks, (from, to)),
        }
    }

    /// The pages of a layer, by dtype.
    pub(crate) fn layer(&self, layer: usize) -> Pages<'_> {
        let layers = self.shape.layers;
        match &self.data {
            Data::F32(data) => Pages::F32(&data[part(data.len(), layers, layer)]),
            Data::Bf16(data) => Pages::Bf16(&data[part(data.len(), layers, layer)]),
        }
    }
}

/// Pages of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pages<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

/// The lanes of a layer among those of all layers.
fn part(lanes: usize, layers: usize, layer: usize) -> Range<usize> {
    assert!(layer < layers, "layer {layer} of {layers}");
    layer * (lanes / layers)..(layer + 1) * (lanes / layers)
}

/// Copies one block of each layer. `count` blocks of all layers lie one behind the other.
fn copy<T: Copy>(lanes: &mut [T], count: usize, blocks: usize, (from, to): (usize, usize)) {
    let size = lanes.len() / count;
    for layer in (0..count).step_by(blocks) {
        let first = (layer + from) * size;
        lanes.copy_within(first..first + size, (layer + to) * size);
    }
}

fn write<T: PageLane>(compute: &mut Compute, shape: KvShape, lanes: &mut [T], rows: &KvRows<'_>) {
    let level = compute.level();
    let layout = PageLayout::new::<T>(shape.head_dim);
    let lanes = SharedMut::new(lanes);
    let work = rows.slots.len() * shape.head_dim * 4;
    // By heads and not by rows: rows of padding share a slot.
    compute.run_chunks(shape.kv_heads, work, &|heads| {
        for head in heads {
            vectorize(
                level,
                Write {
                    lanes,
                    layout,
                    kv_heads: shape.kv_heads,
                    head,
                    rows,
                },
            );
        }
    });
}

struct Write<'a, T: PageLane> {
    lanes: SharedMut<'a, T>,
    layout: PageLayout,
    kv_heads: usize,
    head: usize,
    rows: &'a KvRows<'a>,
}

impl<T: PageLane> Kernel for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let size = self.layout.page();
        let columns = self.head * self.layout.head_dim..(self.head + 1) * self.layout.head_dim;
        for (row, &slot) in self.rows.slots.iter().enumerate() {
            let slot = slot as usize;
            let page = (slot / PAGE * self.kv_heads + self.head) * size;
            // SAFETY: pages of a head belong to one task.
            let page = unsafe { self.lanes.slice(page..page + size) };
            let (key, value) = (self.rows.k.row(row), self.rows.v.row(row));
            T::write(
                page,
                &self.layout,
                slot % PAGE,
                &key[columns.clone()],
                &value[columns.clone()],
            );
        }
    }
}
