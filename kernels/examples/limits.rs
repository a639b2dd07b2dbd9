//! Measures the ops beside the limits of the machine:
//! `cargo run --release -p kernels --example limits -- [threads] [filter]`.
//!
//! The limits are measured first: memory is read by summing an array larger than the caches, and
//! products are counted on weights that stay in the first-level cache. Weights and caches of keys
//! and values are cycled through 400 MB, so that they come from memory as in a network.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that measures and prints"
)]
#![expect(unsafe_code, reason = "reads the processor time and anonymous memory")]

use half::bf16;
use kernels::activation::{gelu_erf, silu_mul};
use kernels::attention::{AttentionShape, PagedBatch, Segment, paged_attention};
use kernels::kv::{KvCache, KvDtype, KvRows, KvShape};
use kernels::linear::{Linear, LinearShape};
use kernels::norm::{RmsNorm, normalize};
use kernels::sample::{argmax, log_sum_exp, top_k};
use kernels::{Compute, Rows};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments
        .next()
        .map_or(2, |text| text.parse().expect("a number of threads"));
    let filter = arguments.next().unwrap_or_default();
    let mut bench = Bench {
        compute: Compute::new(threads),
        gigabytes: 0.0,
        filter,
    };
    println!("{:?}, {threads} threads", bench.compute.level());
    bench.limits();
    bench.small();
    for (outputs, inputs) in [
        (8192, 2048),
        (2048, 8192),
        (576, 576),
        (3072, 576),
        (49152, 576),
    ] {
        for dtype in ["bf16", "f32"] {
            bench.linear(LinearShape { outputs, inputs }, dtype);
        }
    }
    for dtype in [KvDtype::Bf16, KvDtype::F32] {
        for heads in [(9, 3), (32, 8)] {
            for load in [
                (1, 1023, 1),
                (1, 16383, 1),
                (8, 1023, 1),
                (32, 255, 1),
                (1, 0, 512),
                (1, 0, 4096),
            ] {
                bench.attention(heads, dtype, load);
            }
        }
    }
}

struct Bench {
    compute: Compute,
    /// Read bandwidth per second.
    gigabytes: f64,
    filter: String,
}

/// Of many runs, in seconds: the quickest and the median on the wall, and the least time that
/// counts: for one thread that of its processor, which stands for the wall of a quiet machine; for
/// more, whose processor times are only known roughly, the wall.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    median: f64,
    counted: f64,
}

impl Bench {
    fn quickest(&mut self, mut run: impl FnMut(&mut Compute, usize)) -> Seconds {
        let start = Instant::now();
        let mut best = Seconds {
            wall: f64::MAX,
            median: f64::MAX,
            counted: f64::MAX,
        };
        let mut walls = Vec::new();
        let mut rounds = 0;
        while rounds < 12 || (start.elapsed().as_secs_f64() < 0.5 && rounds < 5000) {
            let (wall, busy) = (Instant::now(), processor_seconds());
            run(&mut self.compute, rounds);
            let threads = self.compute.threads();
            walls.push(wall.elapsed().as_secs_f64());
            let busy = processor_seconds() - busy;
            best.counted = best
                .counted
                .min(if threads == 1 { busy } else { walls[rounds] });
            rounds += 1;
        }
        walls.sort_by(f64::total_cmp);
        best.wall = walls[0];
        best.median = walls[walls.len() / 2];
        best
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    fn report(&self, name: &str, seconds: Seconds, bytes: f64, flops: f64) {
        let bandwidth = bytes / seconds.counted / 1e9;
        println!(
            "{name}: wall {:9.1} us (median {:9.1}), counted {:9.1} us, {bandwidth:6.1} GB/s ({:3.0} %), {:6.1} GFLOP/s",
            seconds.wall * 1e6,
            seconds.median * 1e6,
            seconds.counted * 1e6,
            100.0 * bandwidth / self.gigabytes,
            flops / seconds.counted / 1e9
        );
    }

    fn limits(&mut self) {
        let mut map = memmap2::MmapMut::map_anon(512 << 20).expect("memory");
        // Without huge pages the same memory reads a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(1);
        // SAFETY: every bit pattern is an integer.
        let words = unsafe { map.align_to::<u32>().1 };
        let seconds = self.quickest(|compute, _| {
            compute.run(words.len() >> 18, &|chunk| {
                // Four streams at once keep more of the memory busy than one.
                let part = &words[chunk << 18..(chunk + 1) << 18];
                let (left, right) = part.split_at(1 << 17);
                let (left, right) = (left.split_at(1 << 16), right.split_at(1 << 16));
                let pairs = left.0.iter().zip(left.1).zip(right.0.iter().zip(right.1));
                black_box(pairs.fold(0_u32, |sum, ((a, b), (c, d))| sum ^ a ^ b ^ c ^ d));
            });
        });
        self.gigabytes = size_of_val(words) as f64 / seconds.counted / 1e9;
        println!("limit: memory is read at {:.1} GB/s", self.gigabytes);
        let shape = LinearShape {
            outputs: 512,
            inputs: 256,
        };
        for dtype in ["bf16", "f32"] {
            let layer = layer(shape, dtype);
            let x = vec![0.5; 240 * shape.inputs];
            let mut y = vec![0.0; 240 * shape.outputs];
            let seconds = self.quickest(|compute, _| layer.forward(compute, &x, &mut y));
            let flops = 2.0 * (240 * shape.outputs * shape.inputs) as f64 / seconds.counted / 1e9;
            println!("limit: products of {dtype} in cache at {flops:.1} GFLOP/s");
        }
        let wall = self.quickest(|compute, _| compute.run(2, &|_| ())).wall;
        println!("sharing out two empty tasks: {:.2} us", wall * 1e6);
    }

    fn linear(&mut self, shape: LinearShape, dtype: &str) {
        let LinearShape { outputs, inputs } = shape;
        let name = format!("linear {dtype} {outputs}x{inputs}");
        if !self.wants(&name) {
            return;
        }
        let first = layer(shape, dtype);
        let copies = (400_000_000 / first.bytes()).clamp(2, 400);
        let mut layers = vec![first];
        layers.extend((1..copies).map(|_| layer(shape, dtype)));
        for rows in [1, 2, 4, 8, 16, 32, 64, 256, 512] {
            let x: Vec<f32> = (0..rows * inputs)
                .map(|i| (i % 127) as f32 / 127.0 - 0.5)
                .collect();
            let mut y = vec![0.0; rows * outputs];
            let seconds = self.quickest(|compute, round| {
                layers[round % copies].forward(compute, &x, &mut y);
            });
            let flops = 2.0 * (rows * outputs * inputs) as f64;
            let name = format!("{name} rows {rows:4}");
            self.report(&name, seconds, layers[0].bytes() as f64, flops);
        }
    }

    /// A cache with numbers in all blocks but the null block.
    fn filled(&mut self, kv: KvShape, dtype: KvDtype) -> KvCache {
        let mut cache = KvCache::new(kv, dtype).expect("memory");
        let width = kv.kv_heads * kv.head_dim;
        let slots: Vec<u32> = (16..(kv.blocks * 16) as u32).collect();
        let data: Vec<f32> = (0..slots.len() * width)
            .map(|i| (i % 89) as f32 / 89.0)
            .collect();
        let rows = Rows::whole(&data, width);
        for layer in 0..kv.layers {
            cache.write(
                &mut self.compute,
                layer,
                &KvRows {
                    slots: &slots,
                    k: rows,
                    v: rows,
                },
            );
        }
        cache
    }

    /// Attention of some sequences with `tokens` rows each after `before` others.
    fn attention(
        &mut self,
        (heads, kv_heads): (usize, usize),
        dtype: KvDtype,
        (sequences, before, tokens): (usize, usize, usize),
    ) {
        let name = format!(
            "attention {dtype:?} {heads}/{kv_heads} heads, {sequences:2} x {tokens:4} rows after {before:5}"
        );
        if !self.wants(&name) {
            return;
        }
        let (head_dim, length) = (64, before + tokens);
        let blocks = length.div_ceil(16);
        let all = 1 + sequences * blocks;
        let mut kv = KvShape {
            layers: 1,
            blocks: all,
            block_tokens: 16,
            kv_heads,
            head_dim,
        };
        kv.layers = (400_000_000 / kv.bytes(dtype)).clamp(2, 100);
        let cache = self.filled(kv, dtype);
        let tables: Vec<u32> = (1..kv.blocks as u32).collect();
        let segment = |i: usize| Segment {
            rows: i * tokens..(i + 1) * tokens,
            start: before as u32,
            table: i * blocks..(i + 1) * blocks,
        };
        let segments: Vec<Segment> = (0..sequences).map(segment).collect();
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 0.125,
            window: None,
            softcap: None,
        };
        let q = vec![0.5; sequences * tokens * heads * head_dim];
        let mut out = vec![0.0; q.len()];
        let seconds = self.quickest(|compute, round| {
            let layer = round % kv.layers;
            let batch = PagedBatch {
                cache: &cache,
                layer,
                segments: &segments,
                tables: &tables,
            };
            paged_attention(
                compute,
                &shape,
                Rows::whole(&q, heads * head_dim),
                &batch,
                &mut out,
            );
        });
        let seen = sequences * tokens * (before + tokens.div_ceil(2));
        let bytes = sequences * length * kv.bytes_per_token(dtype) / kv.layers;
        self.report(
            &name,
            seconds,
            bytes as f64,
            4.0 * (seen * heads * head_dim) as f64,
        );
    }

    /// The small ops, at the sizes of one token and of a prompt.
    fn small(&mut self) {
        if !self.wants("small") {
            return;
        }
        let width = 576;
        let weight = vec![1.0; width];
        let norm = RmsNorm {
            weight: &weight,
            eps: 1e-5,
        };
        for rows in [1, 512] {
            let x = vec![0.5; rows * width];
            let gate_up = vec![0.5; rows * 3072];
            let mut out = vec![0.0; rows * 1536];
            let bytes = |floats: usize| (4 * floats) as f64;
            let seconds = self.quickest(|compute, _| {
                normalize(compute, &x, &norm, &mut out[..x.len()]);
            });
            self.report(
                &format!("small normalize rows {rows:3}"),
                seconds,
                bytes(2 * x.len()),
                0.0,
            );
            let seconds = self.quickest(|compute, _| silu_mul(compute, &gate_up, 1536, &mut out));
            self.report(
                &format!("small silu_mul rows {rows:3}"),
                seconds,
                bytes(rows * 4608),
                0.0,
            );
            let seconds = self.quickest(|compute, _| gelu_erf(compute, &mut out));
            self.report(
                &format!("small gelu_erf rows {rows:3}"),
                seconds,
                bytes(rows * 3072),
                0.0,
            );
        }
        let logits: Vec<f32> = (0..49152)
            .map(|i| (i * 7919 % 49152) as f32 / 1000.0)
            .collect();
        let bytes = size_of_val(logits.as_slice()) as f64;
        let level = self.compute.level();
        let mut best = Vec::new();
        let seconds = self.quickest(|_, _| {
            black_box(argmax(level, &logits));
        });
        self.report("small argmax of 49152", seconds, bytes, 0.0);
        let seconds = self.quickest(|_, _| {
            black_box(log_sum_exp(level, &logits));
        });
        self.report("small log_sum_exp of 49152", seconds, bytes, 0.0);
        let seconds = self.quickest(|_, _| top_k(level, &logits, 50, &mut best));
        self.report("small top 50 of 49152", seconds, bytes, 0.0);
    }
}

fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn layer(shape: LinearShape, dtype: &str) -> Linear {
    let count = shape.outputs * shape.inputs;
    let weight: Vec<f32> = (0..count).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    if dtype == "f32" {
        return Linear::from_f32(shape, &weight, None).expect("memory");
    }
    let weight: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
    Linear::from_bf16(shape, &weight, None).expect("memory")
}
