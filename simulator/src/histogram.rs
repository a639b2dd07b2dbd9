//! Times in a histogram: three digits, in bounded memory.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Times of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// Microseconds.
    histogram: Histogram<u64>,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Times {
    #[expect(clippy::expect_used, reason = "three digits are allowed")]
    fn default() -> Self {
        Self {
            histogram: Histogram::new(3).expect("three digits"),
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Times {
    /// Counts a time.
    pub(crate) fn record(&mut self, nanos: u64) {
        // It grows as far as it has to.
        let recorded = self.histogram.record(nanos / 1000);
        assert!(recorded.is_ok(), "a time of {nanos} ns is not counted");
        self.sum_ns += u128::from(nanos);
        self.max_ns = self.max_ns.max(nanos);
    }

    /// What a report says.
    pub(crate) fn summary(&self) -> Summary {
        let count = self.histogram.len();
        if count == 0 {
            return Summary::default();
        }
        let max = self.max_ns as f64 / 1e6;
        // The highest time of a bucket may be above the longest that was counted.
        let at = |share: f64| (self.histogram.value_at_quantile(share) as f64 / 1e3).min(max);
        Summary {
            count,
            mean: self.sum_ns as f64 / count as f64 / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max,
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
    /// The longest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut times = Times::default();
        assert_eq!(times.summary(), Summary::default());
        for ms in 1..=1000 {
            times.record(ms * 1_000_000);
        }
        let summary = times.summary();
        for (found, exact) in [
            (summary.p50, 500.0),
            (summary.p90, 900.0),
            (summary.p95, 950.0),
            (summary.p99, 990.0),
            (summary.mean, 500.5),
            (summary.max, 1000.0),
        ] {
            // Three digits.
            assert!((found - exact).abs() <= exact / 1000.0, "{found} {exact}");
        }
    }
}
