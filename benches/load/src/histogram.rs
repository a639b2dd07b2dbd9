//! Times in a histogram: three digits, 1 us to an hour, in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer times are counted as this.
const MAX_US: u64 = 3_600_000_000;

/// Times of one kind.
#[derive(Clone, Debug)]
pub struct Times {
    histogram: Histogram<u64>,
    /// The sum in microseconds, of which the histogram only knows three digits.
    sum_us: u128,
    /// The longest time, which the histogram rounds up.
    max_us: u64,
}

impl Default for Times {
    #[expect(clippy::expect_used, reason = "the bounds are constants")]
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_US, 3).expect("bounds that hold");
        Self {
            histogram,
            sum_us: 0,
            max_us: 0,
        }
    }
}

impl Times {
    /// Counts a time.
    pub fn record(&mut self, time: Duration) {
        self.record_n(time, 1);
    }

    /// Counts a time `n` times.
    pub fn record_n(&mut self, time: Duration, n: u32) {
        let us = (time.as_micros() as u64).min(MAX_US);
        self.histogram.saturating_record_n(us, n.into());
        self.sum_us += u128::from(us) * u128::from(n);
        self.max_us = self.max_us.max(us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The smallest time that this share does not exceed, in milliseconds; 0 of nothing.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        if self.histogram.is_empty() {
            return 0.0;
        }
        // The highest time of a bucket may be above the longest time that was counted.
        let us = self.histogram.value_at_quantile(share);
        us.min(self.max_us) as f64 / 1e3
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.sum_us = 0;
        self.max_us = 0;
    }

    /// What a report says.
    pub fn summary(&self) -> Summary {
        let count = self.count();
        Summary {
            count,
            mean: if count == 0 {
                0.0
            } else {
                self.sum_us as f64 / count as f64 / 1e3
            },
            p50: self.quantile_ms(0.5),
            p90: self.quantile_ms(0.9),
            p95: self.quantile_ms(0.95),
            p99: self.quantile_ms(0.99),
            p999: self.quantile_ms(0.999),
            max: self.quantile_ms(1.0),
        }
    }
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub p50: f64,
    /// The time that 90 % do not exceed.
    pub p90: f64,
    /// The time that 95 % do not exceed.
    pub p95: f64,
    /// The time that 99 % do not exceed.
    pub p99: f64,
    /// The time that 99.9 % do not exceed.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "these numbers are exact")]

    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut times = Times::default();
        for ms in 1..=1000 {
            times.record(Duration::from_millis(ms));
        }
        let summary = times.summary();
        for (found, exact) in [
            (summary.p50, 500.0),
            (summary.p90, 900.0),
            (summary.p95, 950.0),
            (summary.p99, 990.0),
            (summary.p999, 999.0),
        ] {
            // Three digits.
            assert!((found - exact).abs() <= exact / 1000.0, "{found} {exact}");
        }
        assert_eq!((summary.count, summary.mean), (1000, 500.5));
        assert!((999.0..=1000.0).contains(&summary.max));
    }

    #[test]
    fn nothing_and_too_much_are_counted_too() {
        let mut times = Times::default();
        assert_eq!(times.summary(), Summary::default());
        times.record(Duration::ZERO);
        times.record_n(Duration::from_hours(9), 3);
        assert_eq!(times.count(), 4);
        assert_eq!(times.summary().max, 3_600_000.0);
    }
}
