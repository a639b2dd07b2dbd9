//! Norms, rotations, activations and sampling.

use crate::{assert_close, assert_same_bits, each_level, plain, random};
use kernels::norm::{LayerNorm, RmsNorm};
use kernels::rope::RopeTable;
use kernels::{Compute, Level, RowsMut, activation, norm, sample};

const WIDTHS: [usize; 6] = [1, 15, 64, 100, 576, 1027];

#[test]
fn norms_match_the_definition() {
    each_level(|compute| {
        for width in WIDTHS {
            let what = format!("{:?} width {width}", compute.level());
            let (rows, eps) = (75, 1e-5);
            let (x, other) = (random(1, rows * width), random(2, rows * width));
            let (weight, bias) = (random(3, width), random(4, width));
            let rms = RmsNorm {
                weight: &weight,
                eps,
            };
            let layer = LayerNorm {
                weight: &weight,
                bias: &bias,
                eps,
            };
            let sum: Vec<f32> = x.iter().zip(&other).map(|(a, b)| a + b).collect();

            let mut out = vec![f32::NAN; x.len()];
            norm::normalize(compute, &x, &rms, &mut out);
            assert_close(&out, &plain::rms(&x, &weight, f64::from(eps)), 1e-6, &what);
            let mut residual = x.clone();
            norm::add_normalize(compute, &mut residual, &other, &rms, &mut out);
            assert_same_bits(&residual, &sum, &what);
            assert_close(
                &out,
                &plain::rms(&sum, &weight, f64::from(eps)),
                1e-6,
                &what,
            );
            let mut residual = x.clone();
            norm::normalize_sum(compute, &mut residual, &other, &rms);
            assert_same_bits(&residual, &out, &what);
            norm::normalize(compute, &x, &layer, &mut out);
            assert_close(
                &out,
                &plain::layer(&x, &weight, &bias, f64::from(eps)),
                4e-6,
                &what,
            );
            let mut residual = x.clone();
            norm::normalize_sum(compute, &mut residual, &other, &layer);
            let expected = plain::layer(&sum, &weight, &bias, f64::from(eps));
            assert_close(&residual, &expected, 4e-6, &what);
            let mut residual = x.clone();
            norm::add_normalize(compute, &mut residual, &other, &layer, &mut out);
            assert_same_bits(&residual, &sum, &what);
            assert_close(&out, &expected, 4e-6, &what);
        }
    });
}

#[test]
fn head_norms_touch_their_columns_only() {
    each_level(|compute| {
        let (head_dim, stride) = (24, 24 * 5);
        let weight = random(5, head_dim);
        let x = random(6, 7 * stride);
        let mut ours = x.clone();
        let mut rows = RowsMut::new(&mut ours, stride, head_dim, 2 * head_dim);
        norm::normalize_heads(
            compute,
            &mut rows,
            &RmsNorm {
                weight: &weight,
                eps: 1e-6,
            },
        );
        for (row, (ours, x)) in ours.chunks(stride).zip(x.chunks(stride)).enumerate() {
            let what = format!("row {row}");
            let expected = plain::rms(&x[head_dim..3 * head_dim], &weight, 1e-6);
            assert_close(&ours[head_dim..3 * head_dim], &expected, 1e-6, &what);
            assert_same_bits(&ours[..head_dim], &x[..head_dim], &what);
            assert_same_bits(&ours[3 * head_dim..], &x[3 * head_dim..], &what);
        }
    });
}

#[test]
fn rotations_match_the_definition() {
    each_level(|compute| {
        for (head_dim, half) in [(8, 4), (64, 32), (80, 16), (6, 3)] {
            let frequencies: Vec<f64> = (0..half)
                .map(|i| 10_000_f64.powf(-f64::from(i) / f64::from(half)))
                .collect();
            let table = RopeTable::new(&frequencies, 1.25, 400);
            assert_eq!(table.positions(), 400);
            let positions = [0, 399, 7, 7];
            let half = half as usize;
            let x = random(7, positions.len() * 2 * head_dim);
            let mut ours = x.clone();
            table.apply(
                compute,
                &mut RowsMut::whole(&mut ours, 2 * head_dim),
                head_dim,
                &positions,
            );
            let mut expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for (head, out) in expected.chunks_mut(head_dim).enumerate() {
                let position = f64::from(positions[head / 2]);
                for i in 0..half {
                    let (sin, cos) = (position * frequencies[i]).sin_cos();
                    let (a, b) = (out[i], out[i + half]);
                    out[i] = 1.25 * (a * cos - b * sin);
                    out[i + half] = 1.25 * (b * cos + a * sin);
                }
            }
            assert_close(
                &ours,
                &expected,
                3e-7,
                &format!("{:?} {head_dim}", compute.level()),
            );
        }
    });
}

/// Relative error of each value, but for those too small to matter beside their input.
fn assert_function(ours: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    for (&ours, &expected) in ours.iter().zip(expected) {
        let error = (f64::from(ours) - expected).abs();
        assert!(
            error <= tolerance * expected.abs() + 1e-33,
            "{what}: {ours} is not {expected}, error {:.1e}",
            error / expected.abs()
        );
    }
}

#[test]
fn activations_match_the_definition() {
    each_level(|compute| {
        let x: Vec<f32> = (-8000..8000)
            .map(|i| i as f32 / 1000.0)
            .chain([-80.0, 80.0])
            .collect();
        let map = |f: fn(f64) -> f64| -> Vec<f64> { x.iter().map(|&x| f(f64::from(x))).collect() };
        let mut ours = x.clone();
        activation::gelu_erf(compute, &mut ours);
        // Without fused products the error of a square grows in the tail.
        let tail = if compute.level() == Level::Portable {
            8e-6
        } else {
            1e-6
        };
        assert_function(&ours, &map(plain::gelu_erf), tail, "gelu erf");
        let mut ours = x.clone();
        activation::gelu_tanh(compute, &mut ours);
        assert_function(&ours[1..], &map(plain::gelu_tanh)[1..], 1e-5, "gelu tanh");
        let mut ours = x.clone();
        activation::tanh(compute, &mut ours);
        assert_close(&ours, &map(f64::tanh), 3e-7, "tanh");
        let mut ours = x.clone();
        activation::relu(compute, &mut ours);
        assert_close(&ours, &map(|x| x.max(0.0)), 0.0, "relu");
        let mut lost = [f32::NAN, 1.0];
        activation::relu(compute, &mut lost);
        assert!(lost[0].is_nan(), "relu hides no failure");
        for ffn in [1, 17, 100] {
            let rows = x.len() / ffn / 2;
            let gate_up = &x[..rows * 2 * ffn];
            let expect = |f: fn(f64) -> f64| -> Vec<f64> {
                let row = |row: &[f32]| -> Vec<f64> {
                    let (gate, up) = row.split_at(ffn);
                    let pairs = gate.iter().zip(up);
                    pairs
                        .map(|(&gate, &up)| f(f64::from(gate)) * f64::from(up))
                        .collect()
                };
                gate_up.chunks(2 * ffn).flat_map(row).collect()
            };
            let mut out = vec![f32::NAN; rows * ffn];
            activation::silu_mul(compute, gate_up, ffn, &mut out);
            assert_function(&out, &expect(plain::silu), 1e-6, "silu");
            activation::gelu_tanh_mul(compute, gate_up, ffn, &mut out);
            assert_function(&out, &expect(plain::gelu_tanh), 1e-5, "gelu tanh mul");
            activation::gelu_erf_mul(compute, gate_up, ffn, &mut out);
            assert_function(&out, &expect(plain::gelu_erf), tail, "gelu erf mul");
        }
    });
}

/// The bits of a row are those it has alone, whatever rows and threads are beside it.
#[test]
fn rows_do_not_know_each_other() {
    each_level(|compute| {
        let (width, rows) = (600, 64);
        let x = random(8, rows * width);
        let weight = random(9, width);
        let rms = RmsNorm {
            weight: &weight,
            eps: 1e-5,
        };
        let layer = LayerNorm {
            weight: &weight,
            bias: &weight,
            eps: 1e-5,
        };
        let ops = |compute: &mut Compute, x: &[f32]| {
            let mut outs = [
                vec![0.0; x.len()],
                x.to_vec(),
                x.to_vec(),
                vec![0.0; x.len() / 2],
                vec![0.0; x.len()],
            ];
            norm::normalize(compute, x, &rms, &mut outs[0]);
            norm::normalize_sum(compute, &mut outs[1], x, &layer);
            activation::gelu_erf(compute, &mut outs[2]);
            activation::silu_mul(compute, x, width / 2, &mut outs[3]);
            norm::add_normalize(compute, &mut x.to_vec(), x, &layer, &mut outs[4]);
            outs
        };
        for threads in 1..=3 {
            let together = ops(&mut Compute::with_level(threads, compute.level()), &x);
            for (row, x) in x.chunks(width).enumerate() {
                for (alone, together) in ops(compute, x).iter().zip(&together) {
                    let part = &together[row * alone.len()..][..alone.len()];
                    assert_same_bits(alone, part, &format!("{threads} threads, row {row}"));
                }
            }
        }
    });
}

#[test]
fn sampling_reads_a_row() {
    each_level(|compute| read_a_row(compute.level()));
}

fn read_a_row(level: Level) {
    let mut logits = random(10, 5000);
    logits[17] = 3.0;
    logits[4000] = 3.0;
    assert_eq!(sample::argmax(level, &logits), Some((17, 3.0)));
    let expected = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
    assert!((f64::from(sample::log_sum_exp(level, &logits)) - expected).abs() < 1e-5);
    let mut best = vec![(0, 0.0)];
    sample::top_k(level, &logits, 40, &mut best);
    let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    assert_eq!(best, sorted[..40]);
    sample::top_k(level, &logits[..3], 40, &mut best);
    assert_eq!(best.len(), 3);
    sample::top_k(level, &logits, 0, &mut best);
    assert!(best.is_empty());
    logits[5] = f32::NAN;
    logits[6] = f32::NEG_INFINITY;
    sample::top_k(level, &logits, 6000, &mut best);
    let rest = sorted.iter().filter(|(index, _)| !(5..7).contains(index));
    assert!(best.iter().eq(rest));
    logits[5] = 0.0;
    logits[6] = 0.0;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 2500, 4999] {
            let mut logits = logits.clone();
            logits[place] = bad;
            assert_eq!(sample::argmax(level, &logits), None, "{bad} at {place}");
        }
    }
    assert_eq!(sample::argmax(level, &[]), None);
    assert!(sample::log_sum_exp(level, &[]) == f32::NEG_INFINITY);
    assert!((sample::log_sum_exp(level, &[1000.0, 1000.0]) - 1_000.693_1).abs() < 1e-3);
    let by = sample::Scale {
        best: 3.0,
        factor: 4.0,
        floor: -11.5,
    };
    let mut scaled = vec![f32::NAN; 3];
    sample::scale(level, &logits[..4999], by, &mut scaled);
    let expected: Vec<f32> = logits[..4999]
        .iter()
        .map(|x| ((x - 3.0) * 4.0).max(-11.5))
        .collect();
    assert_same_bits(&scaled, &expected, "scaled");
    assert!(scaled.contains(&-11.5) && scaled.contains(&0.0));
}
