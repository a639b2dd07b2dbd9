//! Measures the ops beside the limits of the machine: `cargo run --release -p kernels --example
//! limits -- [threads] [filter]`.
#![expect(clippy::expect_used, reason = "a program that measures")]
#![expect(unsafe_code, reason = "reads the processor time and anonymous memory")]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program that measures"
)]

use half::bf16;
use kernels::activation::{gelu_erf, silu_mul};
use kernels::attention::{AttentionShape, PagedBatch, Segment, paged_attention};
use kernels::kv::{KvCache, KvDtype, KvRows, KvShape};
use kernels::linear::{Linear, LinearShape};
use kernels::norm::{RmsNorm, rms_norm};
use kernels::{Compute, Rows};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments
        .next()
        .map_or(2, |text| text.parse().expect("a number of threads"));
    let filter = arguments.next().unwrap_or_default();
    let mut compute = Compute::new(threads);
    println!("{:?}, {threads} threads", compute.level());
    let limit = read_bandwidth(&mut compute);
    println!("read {limit:.1} GB/s");
    if "elementwise".contains(&filter) {
        elementwise(&mut compute);
    }
    for dtype in [KvDtype::Bf16, KvDtype::F32] {
        if format!("attention {dtype:?}").contains(&filter) {
            attention(&mut compute, (9, 3), dtype);
            attention(&mut compute, (32, 8), dtype);
        }
    }
    for (outputs, inputs) in [(8192, 2048), (576, 576), (3072, 576), (49152, 576)] {
        let shape = LinearShape { outputs, inputs };
        for dtype in ["bf16", "f32"] {
            if format!("linear {dtype} {outputs}").contains(&filter) {
                linear(&mut compute, shape, dtype, limit);
            }
        }
    }
}

/// The quickest of many runs, in seconds: on the wall, and of processor time per thread, which
/// stands for the wall of a quiet machine.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    busy: f64,
}

fn quickest(threads: usize, mut run: impl FnMut(usize)) -> Seconds {
    let start = Instant::now();
    let mut best = Seconds {
        wall: f64::MAX,
        busy: f64::MAX,
    };
    let mut rounds = 0;
    while rounds < 12 || (start.elapsed().as_secs_f64() < 0.5 && rounds < 2000) {
        let (wall, busy) = (Instant::now(), processor_seconds());
        run(rounds);
        best.busy = best.busy.min((processor_seconds() - busy) / threads as f64);
        best.wall = best.wall.min(wall.elapsed().as_secs_f64());
        rounds += 1;
    }
    best
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

/// Read bandwidth in GB/s, by summing an array larger than the caches.
fn read_bandwidth(compute: &mut Compute) -> f64 {
    let mut map = memmap2::MmapMut::map_anon(512 << 20).expect("memory");
    let _ = map.advise(memmap2::Advice::HugePage);
    map.fill(1);
    // SAFETY: every bit pattern is an integer.
    let words = unsafe { map.align_to::<u32>().1 };
    let seconds = quickest(compute.threads(), |_| {
        compute.run(words.len() >> 17, &|chunk| {
            let part = &words[chunk << 17..(chunk + 1) << 17];
            black_box(part.iter().fold(0_u32, |sum, word| sum ^ word));
        });
    });
    size_of_val(words) as f64 / seconds.busy / 1e9
}

fn linear(compute: &mut Compute, shape: LinearShape, dtype: &str, limit: f64) {
    let LinearShape { outputs, inputs } = shape;
    let weight: Vec<f32> = (0..outputs * inputs)
        .map(|i| (i % 251) as f32 / 251.0 - 0.5)
        .collect();
    let halves: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
    let element = if dtype == "f32" { 4 } else { 2 };
    // Weights that together do not fit into the caches.
    let copies = (400_000_000 / (outputs * inputs * element)).clamp(2, 400);
    let layers: Vec<Linear> = (0..copies)
        .map(|_| match dtype {
            "f32" => Linear::from_f32(shape, &weight, None),
            _ => Linear::from_bf16(shape, &halves, None),
        })
        .collect();
    for rows in [1, 2, 4, 8, 16, 32, 64, 256, 512] {
        let x: Vec<f32> = (0..rows * inputs)
            .map(|i| (i % 127) as f32 / 127.0 - 0.5)
            .collect();
        let mut y = vec![0.0; rows * outputs];
        let seconds = quickest(compute.threads(), |round| {
            layers[round % copies].forward(compute, &x, &mut y);
        });
        let bandwidth = layers[0].bytes() as f64 / seconds.busy / 1e9;
        let flops = 2.0 * (rows * outputs * inputs) as f64 / seconds.busy / 1e9;
        println!(
            "linear {dtype} {outputs}x{inputs} rows {rows:4}: wall {:8.1} us, busy {:8.1} us, {bandwidth:6.1} GB/s ({:3.0} %) {flops:7.1} GFLOP/s",
            seconds.wall * 1e6,
            seconds.busy * 1e6,
            100.0 * bandwidth / limit,
        );
    }
}

/// Decode and prompt attention of `heads` over `kv_heads` heads of 64 elements.
fn attention(compute: &mut Compute, (heads, kv_heads): (usize, usize), dtype: KvDtype) {
    let head_dim = 64;
    let scale = 0.125;
    let shape = AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        window: None,
        softcap: None,
    };
    for (sequences, before, tokens) in [
        (1, 1023, 1_usize),
        (1, 16383, 1),
        (8, 1023, 1),
        (32, 255, 1),
        (1, 0, 512),
        (1, 0, 4096),
    ] {
        let length = before + tokens;
        let blocks = length.div_ceil(16);
        let kv = KvShape {
            layers: 1,
            blocks: 1 + sequences * blocks,
            block_tokens: 16,
            kv_heads,
            head_dim,
        };
        let mut cache = KvCache::new(kv, dtype);
        let slots: Vec<u32> = (16..(kv.blocks * 16) as u32).collect();
        let width = kv_heads * head_dim;
        let data: Vec<f32> = (0..slots.len() * width)
            .map(|i| (i % 89) as f32 / 89.0)
            .collect();
        let rows = Rows::whole(&data, width);
        cache.write(
            compute,
            0,
            &KvRows {
                slots: &slots,
                k: rows,
                v: rows,
            },
        );
        let tables: Vec<u32> = (1..kv.blocks as u32).collect();
        let segments: Vec<Segment> = (0..sequences)
            .map(|i| Segment {
                rows: i * tokens..(i + 1) * tokens,
                start: before as u32,
                table: i * blocks..(i + 1) * blocks,
            })
            .collect();
        let q = vec![0.5; sequences * tokens * heads * head_dim];
        let mut out = vec![0.0; q.len()];
        let seconds = quickest(compute.threads(), |_| {
            let batch = PagedBatch {
                cache: &cache,
                layer: 0,
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
        let flops = 4.0 * (seen * heads * head_dim) as f64 / seconds.busy / 1e9;
        let bytes = (sequences * length * kv.bytes_per_token(dtype)) as f64 / seconds.busy / 1e9;
        println!(
            "attention {dtype:?} {heads}/{kv_heads} heads, {sequences} x {tokens} rows after {before:5}: wall {:8.1} us, busy {:8.1} us, {bytes:6.1} GB/s {flops:6.1} GFLOP/s",
            seconds.wall * 1e6,
            seconds.busy * 1e6,
        );
    }
}

/// The small ops, at the sizes of one token and of a prompt.
fn elementwise(compute: &mut Compute) {
    let width = 576;
    for rows in [1, 512] {
        let x = vec![0.5; rows * width];
        let gate_up = vec![0.5; rows * 3072];
        let weight = vec![1.0; width];
        let mut out = vec![0.0; rows * 1536];
        let mut row = |name: &str, floats: usize, run: &mut dyn FnMut(&mut Compute, &mut [f32])| {
            let seconds = quickest(compute.threads(), |_| run(compute, &mut out));
            println!(
                "{name} rows {rows:4}: wall {:8.2} us, busy {:8.2} us, {:6.2} floats/ns",
                seconds.wall * 1e6,
                seconds.busy * 1e6,
                floats as f64 / seconds.busy / 1e9
            );
        };
        let norm = RmsNorm {
            weight: &weight,
            eps: 1e-5,
        };
        row("rms_norm", x.len(), &mut |compute, out| {
            rms_norm(compute, &x, &norm, &mut out[..x.len()])
        });
        row("silu_mul", gate_up.len() / 2, &mut |compute, out| {
            silu_mul(compute, &gate_up, 1536, out)
        });
        row("gelu_erf", rows * 1536, &mut |compute, out| {
            gelu_erf(compute, out)
        });
    }
}
