//! The loop of every product: rows of inputs times panels of weights, with the sums in registers.
#![expect(unsafe_code, reason = "register tiles read through pointers")]

use crate::simd::{Format, Simd, prefetch};

/// Inputs of a register tile: where row `r` and step `s` stand.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<I> {
    pub(crate) start: *const I,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// Weights of a register tile.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<T, const P: usize> {
    /// Where each panel begins.
    pub(crate) panels: [*const T; P],
    /// What to fetch into the cache meanwhile, laid out in the same way.
    pub(crate) next: Option<[*const T; P]>,
    /// Lanes from a step to the next.
    pub(crate) step: usize,
}

/// Adds the products of `steps` steps to `R` times `P` vectors of sums.
///
/// # Safety
/// Every input and every sixteen lanes that the strides name can be read.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, F: Format<S>, const R: usize, const P: usize>(
    simd: S,
    steps: usize,
    inputs: Inputs<F::Input>,
    lanes: Lanes<F::Stored, P>,
    sums: &mut [[S::F; P]; R],
) {
    // Two loops, so that the one without fetching is as short as can be.
    // SAFETY: the caller promises that all inputs and lanes that the strides name can be read.
    unsafe {
        if lanes.next.is_some() {
            walk::<S, F, R, P, true>(simd, steps, inputs, lanes, sums);
        } else {
            walk::<S, F, R, P, false>(simd, steps, inputs, lanes, sums);
        }
    }
}

/// The loop of `multiply`.
///
/// # Safety
/// Every input and every sixteen lanes that the strides name can be read.
#[inline(always)]
unsafe fn walk<S: Simd, F: Format<S>, const R: usize, const P: usize, const FETCH: bool>(
    simd: S,
    steps: usize,
    inputs: Inputs<F::Input>,
    lanes: Lanes<F::Stored, P>,
    sums: &mut [[S::F; P]; R],
) {
    let next = lanes.next.unwrap_or(lanes.panels);
    let mut local = *sums;
    for step in 0..steps {
        let mut weights = [None; P];
        for (weights, panel) in weights.iter_mut().zip(lanes.panels) {
            // SAFETY: the caller promises that sixteen lanes of each panel can be read for each step.
            *weights = Some(unsafe { F::load(simd, panel.add(step * lanes.step)) });
        }
        if FETCH {
            for next in next {
                prefetch(next.wrapping_add(step * lanes.step));
            }
        }
        for (row, sums) in local.iter_mut().enumerate() {
            // SAFETY: the caller promises that each row has an input for each step.
            let input = unsafe { *inputs.start.add(step * inputs.step + row * inputs.row) };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                let Some(weights) = weights else { continue };
                *sum = F::step(simd, *sum, weights, input);
            }
        }
    }
    *sums = local;
}
