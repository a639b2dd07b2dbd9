//! Every op against an obvious reference, on every instruction set of this machine, and the
//! promise that the bits of a row depend on nothing but its own inputs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attention;
mod elementwise;
mod linear;
mod plain;

use kernels::{Compute, Level};

/// Runs a test on every instruction set that this machine has.
fn each_level(test: impl Fn(&mut Compute)) {
    for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
        test(&mut Compute::with_level(2, level));
    }
}

/// Numbers between -1 and 1 from a seed.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Fails unless all values are within `tolerance` of the expected, relative to the largest.
fn assert_close(ours: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-30, |max: f64, x| max.max(x.abs()));
    for (i, (&ours, &expected)) in ours.iter().zip(expected).enumerate() {
        let error = (f64::from(ours) - expected).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}: [{i}] is {ours}, not {expected}, error {error:.1e}"
        );
    }
}

/// Fails unless all values have the same bits.
fn assert_same_bits(ours: &[f32], expected: &[f32], what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}: length");
    for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert_eq!(
            ours.to_bits(),
            expected.to_bits(),
            "{what}: [{i}] is {ours}, not {expected}"
        );
    }
}
