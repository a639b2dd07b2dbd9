//! The linear layer and the tables.

use crate::{assert_close, assert_same_bits, each_level, plain, random};
use half::bf16;
use kernels::activation::{Activation, gelu_erf, gelu_tanh, relu, tanh};
use kernels::embedding::Embedding;
use kernels::linear::{Linear, LinearShape};
use kernels::{Compute, Level};

const SHAPES: [(usize, usize); 8] = [
    (1, 1),
    (3, 5),
    (16, 32),
    (50, 33),
    (96, 64),
    (81, 601),
    (33, 1100),
    // More steps than one block has, for one row too.
    (17, 4200),
];

fn halves(weight: &[f32]) -> Vec<bf16> {
    weight.iter().map(|&x| bf16::from_f32(x)).collect()
}

#[test]
fn forward_matches_the_definition() {
    each_level(|compute| {
        for (outputs, inputs) in SHAPES {
            let shape = LinearShape { outputs, inputs };
            let weight = random(1, outputs * inputs);
            let bias = random(2, outputs);
            let rounded = plain::round(&weight);
            let f32 = Linear::from_f32(shape, &weight, Some(&bias)).unwrap();
            let bf16 = Linear::from_bf16(shape, &halves(&weight), Some(&bias)).unwrap();
            let bare = Linear::from_f32(shape, &weight, None).unwrap();
            for rows in [1, 2, 3, 5, 8, 13, 33] {
                let what = format!("{:?} {rows} rows of {shape:?}", compute.level());
                let x = random(3, rows * inputs);
                let mut y = vec![f32::NAN; rows * outputs];
                f32.forward(compute, &x, &mut y);
                let expected = plain::linear(&x, &weight, Some(&bias), inputs);
                assert_close(&y, &expected, 2e-6, &what);
                bare.forward(compute, &x, &mut y);
                let expected = plain::linear(&x, &weight, None, inputs);
                assert_close(&y, &expected, 2e-6, &what);
                bf16.forward(compute, &x, &mut y);
                // Only this level rounds the inputs too.
                let dot = compute.level() == Level::Avx512Bf16;
                let x = if dot { plain::round(&x) } else { x };
                let expected = plain::linear(&x, &rounded, Some(&bias), inputs);
                assert_close(&y, &expected, 2e-6, &what);
            }
        }
    });
}

/// The bits of a row are those it has alone, whatever rows and threads are beside it.
#[test]
fn rows_do_not_know_each_other() {
    each_level(|compute| {
        for (outputs, inputs) in [(50, 33), (96, 640), (200, 1100)] {
            let shape = LinearShape { outputs, inputs };
            let weight = random(4, outputs * inputs);
            let x = random(5, 300 * inputs);
            let layers = [
                Linear::from_f32(shape, &weight, None).unwrap(),
                Linear::from_bf16(shape, &halves(&weight), None).unwrap(),
            ];
            for layer in layers {
                let mut alone = vec![0.0; 300 * outputs];
                for (x, y) in x.chunks(inputs).zip(alone.chunks_mut(outputs)) {
                    layer.forward(compute, x, y);
                }
                for threads in 1..=3 {
                    let compute = &mut Compute::with_level(threads, compute.level());
                    for rows in (1..=33).chain([300]) {
                        for first in [0, 300 - rows] {
                            let mut y = vec![f32::NAN; rows * outputs];
                            layer.forward(compute, &x[first * inputs..][..rows * inputs], &mut y);
                            let what =
                                format!("{:?} {threads} threads {rows} rows", compute.level());
                            assert_same_bits(
                                &y,
                                &alone[first * outputs..][..rows * outputs],
                                &what,
                            );
                        }
                    }
                }
            }
        }
    });
}

/// Fused or one after the other: the same bits, whatever block of steps is the last.
#[test]
fn an_activation_changes_no_bit_of_its_own() {
    each_level(|compute| {
        for (outputs, inputs) in [(1, 1), (50, 33), (200, 1100)] {
            let shape = LinearShape { outputs, inputs };
            let weight = random(7, outputs * inputs);
            let bias = random(8, outputs);
            for layer in [
                Linear::from_f32(shape, &weight, Some(&bias)).unwrap(),
                Linear::from_bf16(shape, &halves(&weight), None).unwrap(),
            ] {
                for rows in [1, 5, 13, 300] {
                    let x = random(9, rows * inputs);
                    let mut apart = vec![f32::NAN; rows * outputs];
                    let mut fused = apart.clone();
                    layer.forward(compute, &x, &mut apart);
                    gelu_erf(compute, &mut apart);
                    layer.forward_activated(compute, &x, Activation::GeluErf, &mut fused);
                    assert_same_bits(&fused, &apart, "erf");
                    layer.forward(compute, &x, &mut apart);
                    gelu_tanh(compute, &mut apart);
                    layer.forward_activated(compute, &x, Activation::GeluTanh, &mut fused);
                    assert_same_bits(&fused, &apart, "gelu tanh");
                    layer.forward(compute, &x, &mut apart);
                    relu(compute, &mut apart);
                    layer.forward_activated(compute, &x, Activation::Relu, &mut fused);
                    assert_same_bits(&fused, &apart, "relu");
                    layer.forward(compute, &x, &mut apart);
                    tanh(compute, &mut apart);
                    layer.forward_activated(compute, &x, Activation::Tanh, &mut fused);
                    assert_same_bits(&fused, &apart, "tanh");
                }
            }
        }
    });
}

#[test]
fn gathered_rows_are_the_weights() {
    each_level(|compute| {
        let (rows, width) = (37, 13);
        let table = random(6, rows * width);
        let tokens = [36, 0, 5, 5, 17];
        let pick = |table: &[f32]| -> Vec<f32> {
            tokens
                .iter()
                .flat_map(|&t| table[t as usize * width..][..width].to_vec())
                .collect()
        };
        let shape = LinearShape {
            outputs: rows,
            inputs: width,
        };
        let mut out = vec![f32::NAN; tokens.len() * width];
        Linear::from_f32(shape, &table, None)
            .unwrap()
            .gather(compute, &tokens, &mut out);
        assert_same_bits(&out, &pick(&table), "linear f32");
        Linear::from_bf16(shape, &halves(&table), None)
            .unwrap()
            .gather(compute, &tokens, &mut out);
        assert_same_bits(&out, &pick(&plain::round(&table)), "linear bf16");
        Embedding::from_f32(width, &table)
            .unwrap()
            .gather(compute, &tokens, &mut out);
        assert_same_bits(&out, &pick(&table), "embedding f32");
        let embedding = Embedding::from_bf16(width, &halves(&table)).unwrap();
        embedding.gather_add(compute, &tokens, &mut out);
        let sums: Vec<f32> = pick(&table)
            .iter()
            .zip(pick(&plain::round(&table)))
            .map(|(a, b)| a + b)
            .collect();
        assert_same_bits(&out, &sums, "added bf16");
        assert_eq!((embedding.rows(), embedding.width()), (rows, width));
    });
}
