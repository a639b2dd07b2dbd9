//! Wall time, and the median of interleaved runs.

use std::time::Instant;

/// Seconds that `work` took, and what it gave.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark is there to read the clock"
)]
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed().as_secs_f64(), value)
}

/// Seconds that `work` took, and what it gave.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark is there to read the clock"
)]
pub async fn timed_async<T>(work: impl Future<Output = T>) -> (f64, T) {
    let started = Instant::now();
    let value = work.await;
    (started.elapsed().as_secs_f64(), value)
}

/// The smallest value that at least this share of the values do not exceed.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    assert!(!values.is_empty(), "a quantile needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The middle value; the mean of the middle two for an even count.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
