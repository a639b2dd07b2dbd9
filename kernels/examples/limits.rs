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
use kernels::Compute;
use kernels::linear::{Linear, LinearShape};
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
