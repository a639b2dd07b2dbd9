//! Attention over pages and over packed rows.

use crate::{assert_close, assert_same_bits, each_level, plain, random};
use kernels::attention::{
    AttentionShape, DistanceBias, Look, Packed, PagedBatch, Segment, packed_attention,
    paged_attention,
};
use kernels::kv::{KvCache, KvDtype, KvRows, KvShape};
use kernels::{Compute, Level, Rows};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::ops::Range;

/// A sequence whose keys and values are known, and the blocks it lies in.
struct Sequence {
    k: Vec<f32>,
    v: Vec<f32>,
    blocks: Vec<u32>,
}

struct World {
    shape: AttentionShape,
    cache: KvCache,
    sequences: Vec<Sequence>,
}

const LAYER: usize = 1;

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        window: None,
        softcap: None,
    }
}

impl World {
    /// Sequences of the given lengths in blocks that are scattered over a cache which held
    /// something that is not a number everywhere before.
    fn new(shape: AttentionShape, block_tokens: usize, dtype: KvDtype, lengths: &[usize]) -> Self {
        let needed = |length: &usize| length.div_ceil(block_tokens);
        let blocks = 1 + lengths.iter().map(needed).sum::<usize>();
        let AttentionShape {
            kv_heads, head_dim, ..
        } = shape;
        let kv = KvShape {
            layers: 2,
            blocks,
            block_tokens,
            kv_heads,
            head_dim,
        };
        let mut cache = KvCache::new(kv, dtype).unwrap();
        let width = kv_heads * head_dim;
        let slots: Vec<u32> = (0..(blocks * block_tokens) as u32).collect();
        let stale = vec![f32::NAN; slots.len() * width];
        write(&mut cache, &slots, (&stale, &stale));
        let mut next = 0;
        let mut sequences = Vec::new();
        for (index, &length) in lengths.iter().enumerate() {
            let k = random(20 + index as u64, length * width);
            let v = random(40 + index as u64, length * width);
            let blocks: Vec<u32> = (0..needed(&length))
                .map(|_| {
                    next += 1;
                    // Last block first.
                    (blocks - next) as u32
                })
                .collect();
            let slots: Vec<u32> = (0..length as u32)
                .map(|p| {
                    blocks[p as usize / block_tokens] * block_tokens as u32
                        + p % block_tokens as u32
                })
                .collect();
            write(&mut cache, &slots, (&k, &v));
            sequences.push(Sequence { k, v, blocks });
        }
        Self {
            shape,
            cache,
            sequences,
        }
    }

    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    /// Attention of query rows at some positions of each sequence.
    fn run(&self, compute: &mut Compute, q: &[f32], parts: &[(usize, Range<usize>)]) -> Vec<f32> {
        let mut tables = vec![0];
        let mut segments = Vec::new();
        let mut row = 0;
        for (index, positions) in parts {
            let first = tables.len();
            tables.extend(&self.sequences[*index].blocks);
            let rows = row..row + positions.len();
            row = rows.end;
            segments.push(Segment {
                rows,
                start: positions.start as u32,
                table: first..tables.len(),
            });
        }
        let batch = PagedBatch {
            cache: &self.cache,
            layer: LAYER,
            segments: &segments,
            tables: &tables,
        };
        let mut out = vec![f32::NAN; q.len()];
        paged_attention(
            compute,
            &self.shape,
            Rows::whole(q, self.width()),
            &batch,
            &mut out,
        );
        out
    }

    /// The same by definition.
    fn expect(&self, q: &[f32], parts: &[(usize, Range<usize>)], rounded: Rounded) -> Vec<f64> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
            softcap,
        } = self.shape;
        let mut rows = q.chunks(self.width());
        let mut out = Vec::new();
        for (index, positions) in parts {
            let sequence = &self.sequences[*index];
            let (k, v) = match rounded {
                Rounded::Nothing => (sequence.k.clone(), sequence.v.clone()),
                _ => (plain::round(&sequence.k), plain::round(&sequence.v)),
            };
            for (position, q) in positions.clone().zip(&mut rows) {
                let q = if rounded == Rounded::All {
                    plain::round(q)
                } else {
                    q.to_vec()
                };
                let first = window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
                for (head, q) in q.chunks(head_dim).enumerate() {
                    let kv_head = head / (heads / kv_heads);
                    let at = |p: usize| {
                        let start = (p * kv_heads + kv_head) * head_dim;
                        (&k[start..start + head_dim], &v[start..start + head_dim])
                    };
                    let scores = (f64::from(scale), softcap.map(f64::from));
                    out.extend(plain::attend(q, first..position + 1, scores, at));
                }
            }
        }
        out
    }
}

/// What the machine rounds to bf16 beside what the cache holds.
#[derive(Clone, Copy, PartialEq)]
enum Rounded {
    Nothing,
    Cache,
    All,
}

fn write(cache: &mut KvCache, slots: &[u32], (k, v): (&[f32], &[f32])) {
    let width = cache.shape().kv_heads * cache.shape().head_dim;
    let rows = KvRows {
        slots,
        k: Rows::whole(k, width),
        v: Rows::whole(v, width),
    };
    cache.write(&mut Compute::with_level(1, Level::Portable), LAYER, &rows);
}

/// f32: 3e-6 of the largest value. bf16: the weights are rounded too, 2^-9 each at most.
fn check(world: &World, compute: &mut Compute, parts: &[(usize, Range<usize>)]) {
    let rows: usize = parts.iter().map(|(_, positions)| positions.len()).sum();
    let q: Vec<f32> = random(60, rows * world.width())
        .iter()
        .map(|q| q * 3.0)
        .collect();
    let ours = world.run(compute, &q, parts);
    let dot = compute.level() == Level::Avx512Bf16;
    let (rounded, tolerance) = match world.cache.dtype() {
        KvDtype::F32 => (Rounded::Nothing, 3e-6),
        KvDtype::Bf16 if dot => (Rounded::All, 4e-3),
        KvDtype::Bf16 => (Rounded::Cache, 3e-6),
    };
    let expected = world.expect(&q, parts, rounded);
    let what = format!(
        "{:?} {:?} {:?} {parts:?}",
        compute.level(),
        world.shape,
        world.cache.dtype()
    );
    assert_close(&ours, &expected, tolerance, &what);
}

#[test]
fn paged_matches_the_definition() {
    let shapes = [
        (1, 1, 2),
        (4, 4, 16),
        (9, 3, 64),
        (8, 1, 32),
        (2, 1, 80),
        (6, 2, 17),
        (2, 2, 256),
    ];
    each_level(|compute| {
        for (heads, kv_heads, head_dim) in shapes {
            for dtype in [KvDtype::F32, KvDtype::Bf16] {
                let shape = shape(heads, kv_heads, head_dim);
                let world = World::new(shape, 16, dtype, &[1, 130, 70]);
                check(&world, compute, &[(0, 0..1), (1, 129..130), (2, 3..70)]);
                check(&world, compute, &[(2, 0..70), (1, 65..130)]);
            }
        }
    });
}

#[test]
fn windows_caps_and_large_blocks() {
    each_level(|compute| {
        for dtype in [KvDtype::F32, KvDtype::Bf16] {
            for (window, softcap) in [
                (Some(1), None),
                (Some(70), None),
                (Some(600), Some(2.0)),
                (None, Some(5.0)),
            ] {
                let shape = AttentionShape {
                    window,
                    softcap,
                    ..shape(4, 2, 32)
                };
                let world = World::new(shape, 32, dtype, &[1200, 40]);
                check(&world, compute, &[(0, 1199..1200), (1, 0..40)]);
                check(&world, compute, &[(0, 500..560), (1, 39..40)]);
            }
        }
    });
}

/// The bits of a row are the same in one call or in many, with whatever chunks and threads.
#[test]
fn rows_do_not_know_each_other() {
    each_level(|compute| {
        for (dtype, window) in [
            (KvDtype::F32, None),
            (KvDtype::Bf16, None),
            (KvDtype::F32, Some(90)),
        ] {
            let shape = AttentionShape {
                window,
                ..shape(6, 2, 48)
            };
            let world = World::new(shape, 16, dtype, &[600, 33]);
            let width = world.width();
            let q = random(61, 633 * width);
            let (long, short) = q.split_at(600 * width);
            let mut alone = Vec::new();
            for (position, q) in long.chunks(width).enumerate() {
                alone.extend(world.run(compute, q, &[(0, position..position + 1)]));
            }
            for threads in 1..=3 {
                let compute = &mut Compute::with_level(threads, compute.level());
                let whole = world.run(compute, &q, &[(0, 0..600), (1, 0..33)]);
                assert_same_bits(&whole[..600 * width], &alone, "one prompt");
                for cut in [1, 16, 63, 64, 100, 513, 599] {
                    let first = world.run(compute, &q[..cut * width], &[(0, 0..cut)]);
                    assert_same_bits(&first, &alone[..cut * width], "first chunk");
                    let swapped = [short, &long[cut * width..]].concat();
                    let second = world.run(compute, &swapped, &[(1, 0..33), (0, cut..600)]);
                    assert_same_bits(&second[33 * width..], &alone[cut * width..], "second chunk");
                    assert_same_bits(&second[..33 * width], &whole[600 * width..], "the other");
                }
            }
        }
    });
}

#[test]
fn packed_matches_the_definition() {
    each_level(|compute| {
        for (heads, kv_heads, head_dim, window, look) in [
            (12, 12, 32, None, Look::Around),
            (4, 2, 64, Some(20), Look::Around),
            (3, 1, 20, None, Look::Around),
            (2, 2, 64, Some(128), Look::Around),
            (4, 2, 32, None, Look::Back),
            (4, 1, 16, Some(20), Look::Back),
        ] {
            let shape = AttentionShape {
                window,
                ..shape(heads, kv_heads, head_dim)
            };
            let lengths = [1, 128, 17, 0, 64, 200];
            let mut cu_lengths = vec![0];
            cu_lengths.extend(lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            }));
            let rows = *cu_lengths.last().unwrap() as usize;
            let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
            let stride = width + 2 * kv_width;
            let qkv = random(62, rows * stride);
            let packed = Packed {
                q: Rows::new(&qkv, stride, 0, width),
                k: Rows::new(&qkv, stride, width, kv_width),
                v: Rows::new(&qkv, stride, width + kv_width, kv_width),
                cu_lengths: &cu_lengths,
                bias: None,
                look,
            };
            let mut ours = vec![f32::NAN; rows * width];
            packed_attention(compute, &shape, &packed, &mut ours);
            let mut expected = Vec::new();
            for ends in cu_lengths.windows(2) {
                let all = ends[0] as usize..ends[1] as usize;
                for row in all.clone() {
                    let (before, after) = match (look, window) {
                        (Look::Around, None) => (rows, rows),
                        (Look::Around, Some(window)) => (window as usize / 2, window as usize / 2),
                        (Look::Back, None) => (rows, 0),
                        (Look::Back, Some(window)) => (window as usize - 1, 0),
                    };
                    let seen =
                        all.start.max(row.saturating_sub(before))..all.end.min(row + after + 1);
                    for (head, q) in packed.q.row(row).chunks(head_dim).enumerate() {
                        let kv_head = head / (heads / kv_heads);
                        let columns = kv_head * head_dim..(kv_head + 1) * head_dim;
                        let at = |p: usize| {
                            (
                                &packed.k.row(p)[columns.clone()],
                                &packed.v.row(p)[columns.clone()],
                            )
                        };
                        let scores = (f64::from(shape.scale), None);
                        expected.extend(plain::attend(q, seen.clone(), scores, at));
                    }
                }
            }
            assert_close(
                &ours,
                &expected,
                3e-6,
                &format!("{:?} {shape:?}", compute.level()),
            );
        }
    });
}

/// The reference gets it through the keys: each has one element more, which is the bias, where
/// every query has the inverse of the scale.
#[test]
fn a_bias_follows_the_distance() {
    each_level(|compute| {
        let (heads, head_dim, lengths) = (3, 20, [1_u32, 70, 600]);
        let shape = shape(heads, heads, head_dim);
        let values = random(80, heads * 1201);
        let value =
            |head: usize, distance: isize| 3.0 * values[head * 1201 + (distance + 600) as usize];
        let bias = DistanceBias::new(heads, 600, value);
        let rows = lengths.iter().sum::<u32>() as usize;
        let width = heads * head_dim;
        let qkv = random(81, rows * 3 * width);
        let packed = Packed {
            q: Rows::new(&qkv, 3 * width, 0, width),
            k: Rows::new(&qkv, 3 * width, width, width),
            v: Rows::new(&qkv, 3 * width, 2 * width, width),
            cu_lengths: &[0, 1, 71, 671],
            bias: Some(&bias),
            look: Look::Around,
        };
        let mut ours = vec![f32::NAN; rows * width];
        packed_attention(compute, &shape, &packed, &mut ours);
        for row in [0, 1, 40, 70, 71, 300, 582, 583, 670] {
            let all = match row {
                0 => 0..1,
                1..71 => 1..71,
                _ => 71..671,
            };
            for head in 0..heads {
                let columns = head * head_dim..(head + 1) * head_dim;
                let longer = |key: &[f32], element: f32| {
                    let mut key = key.to_vec();
                    key.push(element);
                    key
                };
                let q = longer(&packed.q.row(row)[columns.clone()], 1.0 / shape.scale);
                let keys: Vec<Vec<f32>> = (0..rows)
                    .map(|p| {
                        let distance = p as isize - row as isize;
                        let bias = if all.contains(&p) {
                            value(head, distance)
                        } else {
                            0.0
                        };
                        longer(&packed.k.row(p)[columns.clone()], bias)
                    })
                    .collect();
                let at = |p: usize| (keys[p].as_slice(), &packed.v.row(p)[columns.clone()]);
                let scores = (f64::from(shape.scale), None);
                let expected = plain::attend(&q, all.clone(), scores, at);
                let what = format!("{:?} row {row} head {head}", compute.level());
                let ours = &ours[row * width..(row + 1) * width][columns.clone()];
                assert_close(ours, &expected, 2e-5, &what);
            }
        }
    });
}

/// Whatever sequences are packed together, over however many threads: each has the bits it has
/// alone.
#[test]
fn packed_sequences_do_not_know_each_other() {
    let run = |compute: &mut Compute, shape: &AttentionShape, qkv: &[f32], lengths: &[usize]| {
        let (width, kv_width) = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let stride = width + 2 * kv_width;
        let mut cu_lengths = vec![0];
        cu_lengths.extend(lengths.iter().scan(0, |end, length| {
            *end += *length as u32;
            Some(*end)
        }));
        let packed = Packed {
            q: Rows::new(qkv, stride, 0, width),
            k: Rows::new(qkv, stride, width, kv_width),
            v: Rows::new(qkv, stride, width + kv_width, kv_width),
            cu_lengths: &cu_lengths,
            bias: None,
            look: Look::Around,
        };
        let mut out = vec![f32::NAN; lengths.iter().sum::<usize>() * width];
        packed_attention(compute, shape, &packed, &mut out);
        out
    };
    let lengths = proptest::collection::vec(0..90_usize, 1..14);
    let strategy = (lengths, 1..4_usize, 1..3_usize, 1..40_usize, 1..4_usize);
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(
        &strategy,
        |(lengths, kv_heads, group, head_dim, threads)| {
            let shape = shape(group * kv_heads, kv_heads, head_dim);
            let stride = (group + 2) * kv_heads * head_dim;
            let qkv = random(70, lengths.iter().sum::<usize>() * stride);
            let together = run(&mut Compute::new(threads), &shape, &qkv, &lengths);
            let (mut qkv, mut together) = (qkv.as_slice(), together.as_slice());
            let mut single = Compute::new(1);
            for &length in &lengths {
                let (own, later) = qkv.split_at(length * stride);
                let (ours, others) = together.split_at(length * group * kv_heads * head_dim);
                let alone = run(&mut single, &shape, own, &[length]);
                assert_same_bits(ours, &alone, &format!("{lengths:?}"));
                (qkv, together) = (later, others);
            }
            Ok(())
        },
    );
    outcome.unwrap();
}

#[test]
fn a_copied_block_holds_what_the_first_one_does() {
    for (dtype, block_tokens) in [(KvDtype::F32, 16), (KvDtype::Bf16, 16), (KvDtype::Bf16, 32)] {
        let shape = shape(4, 2, 48);
        let mut world = World::new(shape, block_tokens, dtype, &[40, 40, 7]);
        let [from, to] = [0, 1].map(|index: usize| world.sequences[index].blocks.clone());
        for (&from, &to) in from.iter().zip(&to) {
            world.cache.copy(from, to);
        }
        let (k, v) = (world.sequences[0].k.clone(), world.sequences[0].v.clone());
        world.sequences[1] = Sequence { k, v, blocks: to };
        let compute = &mut Compute::new(1);
        check(&world, compute, &[(0, 38..40), (1, 0..40), (2, 5..7)]);
    }
}

#[test]
fn cache_sizes_are_counted() {
    let shape = KvShape {
        layers: 3,
        blocks: 5,
        block_tokens: 16,
        kv_heads: 2,
        head_dim: 64,
    };
    assert_eq!(shape.bytes_per_token(KvDtype::F32), 3 * 2 * 2 * 64 * 4);
    assert_eq!(shape.bytes_per_token(KvDtype::Bf16), 3 * 2 * 2 * 64 * 2);
    let cache = KvCache::new(shape, KvDtype::Bf16).unwrap();
    assert_eq!(cache.bytes(), shape.bytes_per_token(KvDtype::Bf16) * 5 * 16);
    assert_eq!((cache.shape(), cache.dtype()), (shape, KvDtype::Bf16));
}

/// Attends to three positions of one sequence with segments and a window that a caller made up.
fn attend_to(segments: &[Segment], window: Option<u32>) {
    let compute = &mut Compute::new(1);
    let shape = AttentionShape {
        window,
        ..shape(1, 1, 16)
    };
    let world = World::new(shape, 16, KvDtype::F32, &[3]);
    let (q, mut out) = (vec![0.0; 3 * 16], vec![0.0; 3 * 16]);
    let batch = PagedBatch {
        cache: &world.cache,
        layer: LAYER,
        segments,
        tables: &world.sequences[0].blocks,
    };
    paged_attention(compute, &shape, Rows::whole(&q, 16), &batch, &mut out);
}

fn rows(start: usize, end: usize) -> Segment {
    Segment {
        rows: Range { start, end },
        start: 0,
        table: 0..1,
    }
}

/// After a reversed one two segments could have the same rows, and two threads write to them.
#[test]
#[should_panic(expected = "rows of Segment")]
fn rows_of_a_segment_do_not_run_backwards() {
    attend_to(&[rows(0, 2), rows(2, 1), rows(1, 3)], None);
}

#[test]
#[should_panic(expected = "at least itself")]
fn a_window_holds_a_position() {
    attend_to(&[rows(0, 3)], Some(0));
}
