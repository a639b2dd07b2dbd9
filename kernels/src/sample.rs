//! Reading a row of logits: the best, the best few, the log of the sum of exponentials.

use std::cmp::Ordering;

/// The index and value of the largest logit, ties to the lowest index. `None` when the row is
/// empty or a value is not finite.
pub fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (index, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, value)| logit > value) {
            best = Some((index as u32, logit));
        }
    }
    best
}

/// `ln(sum(exp(logits)))`; minus infinity for an empty row.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return max;
    }
    max + logits
        .iter()
        .map(|logit| (logit - max).exp())
        .sum::<f32>()
        .ln()
}

/// Fills `best` with the `k` largest logits and their indices, best first, ties to the lowest
/// index. Values that are not a number are left out.
pub fn top_k(logits: &[f32], k: usize, best: &mut Vec<(u32, f32)>) {
    best.clear();
    best.extend(
        logits
            .iter()
            .enumerate()
            .map(|(index, &logit)| (index as u32, logit)),
    );
    best.retain(|(_, logit)| !logit.is_nan());
    best.sort_unstable_by(|a, b| before(*a, *b));
    best.truncate(k);
}

fn before(a: (u32, f32), b: (u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1)
        .unwrap_or(Ordering::Equal)
        .then(a.0.cmp(&b.0))
}
