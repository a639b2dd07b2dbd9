//! What happened in each second of a run, in bounded memory: when there are too many seconds,
//! neighbours are folded into one.

use std::time::Duration;

use serde::Serialize;

use crate::histogram::Times;

/// Points kept at most.
const POINTS_MAX: usize = 1200;

/// What happened in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Where it begins, in seconds of the run.
    pub begin: f64,
    /// How many seconds it has.
    pub seconds: f64,
    /// Requests begun.
    pub begun: u64,
    /// Requests that ended as they should.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Tokens received.
    pub output_tokens: u64,
    /// Requests in flight, the most at the end of a second.
    pub in_flight: u64,
    /// Times to the first token, in milliseconds; 0 where there was none. Of folded seconds: the
    /// worst.
    pub ttft_p50: f64,
    /// As above.
    pub ttft_p99: f64,
    /// Times between tokens, in milliseconds.
    pub itl_p50: f64,
    /// As above.
    pub itl_p99: f64,
}

impl Point {
    fn fold(self, next: Self) -> Self {
        Self {
            begin: self.begin,
            seconds: self.seconds + next.seconds,
            begun: self.begun + next.begun,
            completed: self.completed + next.completed,
            failed: self.failed + next.failed,
            output_tokens: self.output_tokens + next.output_tokens,
            in_flight: self.in_flight.max(next.in_flight),
            ttft_p50: self.ttft_p50.max(next.ttft_p50),
            ttft_p99: self.ttft_p99.max(next.ttft_p99),
            itl_p50: self.itl_p50.max(next.itl_p50),
            itl_p99: self.itl_p99.max(next.itl_p99),
        }
    }
}

/// The points of a run.
#[derive(Debug, Default)]
pub struct Series {
    points: Vec<Point>,
    /// Seconds in each full point, as a power of two.
    folds: u32,
    /// Seconds that are not in `points` yet, fewer than a full point has.
    partial: Option<Point>,
    /// The second that is filled now, and its number.
    now: Point,
    second: u64,
    ttft: Times,
    itl: Times,
    in_flight: u64,
}

impl Series {
    /// A request begins.
    pub(crate) fn begun(&mut self, time: Duration) {
        self.reach(time);
        self.in_flight += 1;
        self.now.begun += 1;
    }

    /// A request was never sent.
    pub(crate) fn unsent(&mut self, time: Duration) {
        self.reach(time);
        self.now.begun += 1;
    }

    /// A request ended: well, badly, or because it was left.
    pub(crate) fn ended(&mut self, time: Duration, completed: u64, failed: u64) {
        self.reach(time);
        self.in_flight -= 1;
        self.now.completed += completed;
        self.now.failed += failed;
    }

    /// A first token came.
    pub(crate) fn first(&mut self, time: Duration, after: Duration) {
        self.reach(time);
        self.ttft.record(after);
    }

    /// Tokens came after a gap, which is each one's share of it.
    pub(crate) fn tokens(&mut self, time: Duration, count: u32, gap: Option<Duration>) {
        self.reach(time);
        self.now.output_tokens += u64::from(count);
        if let Some(gap) = gap {
            self.itl.record_n(gap, count);
        }
    }

    /// Requests begun and not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// All points until this time.
    pub(crate) fn until(&mut self, time: Duration) -> Vec<Point> {
        self.reach(time);
        let mut points = self.points.clone();
        points.extend(self.partial);
        let mut last = self.close();
        last.seconds = time.as_secs_f64() - self.second as f64;
        // What is left of a second says little.
        if last.seconds >= 0.5 {
            points.push(last);
        }
        points
    }

    /// Closes the seconds before the one of `time`.
    fn reach(&mut self, time: Duration) {
        while self.second < time.as_secs() {
            let closed = self.close();
            self.ttft.clear();
            self.itl.clear();
            self.second += 1;
            self.now = Point::default();
            self.push(closed);
        }
    }

    fn close(&self) -> Point {
        Point {
            begin: self.second as f64,
            seconds: 1.0,
            in_flight: self.in_flight,
            ttft_p50: self.ttft.quantile_ms(0.5),
            ttft_p99: self.ttft.quantile_ms(0.99),
            itl_p50: self.itl.quantile_ms(0.5),
            itl_p99: self.itl.quantile_ms(0.99),
            ..self.now
        }
    }

    fn push(&mut self, point: Point) {
        let whole = match self.partial.take() {
            Some(partial) => partial.fold(point),
            None => point,
        };
        if whole.seconds < f64::from(1_u32 << self.folds) {
            self.partial = Some(whole);
            return;
        }
        self.points.push(whole);
        if self.points.len() >= POINTS_MAX {
            self.points = self
                .points
                .chunks(2)
                .map(|pair| pair.iter().copied().reduce(Point::fold).unwrap_or_default())
                .collect();
            self.folds += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "these numbers are exact")]

    use super::*;

    #[test]
    fn each_second_has_what_happened_in_it() {
        let at = Duration::from_millis;
        let mut series = Series::default();
        series.begun(at(100));
        series.first(at(300), at(200));
        series.tokens(at(300), 1, None);
        series.begun(at(900));
        series.tokens(at(2500), 4, Some(at(550)));
        series.ended(at(2600), 1, 0);
        series.ended(at(2700), 0, 1);
        let points = series.until(at(3400));
        assert_eq!(points.len(), 3);
        let column = |of: fn(&Point) -> u64| points.iter().map(of).collect::<Vec<_>>();
        assert_eq!(column(|point| point.begun), [2, 0, 0]);
        assert_eq!(column(|point| point.in_flight), [2, 2, 0]);
        assert_eq!(column(|point| point.output_tokens), [1, 0, 4]);
        assert_eq!(column(|point| point.completed), [0, 0, 1]);
        assert_eq!(column(|point| point.failed), [0, 0, 1]);
        assert_eq!(points[0].ttft_p99, 200.0);
        assert_eq!(points[1].ttft_p99, 0.0);
        assert_eq!(points[2].itl_p50, 550.0);
    }

    #[test]
    fn a_long_run_keeps_its_sums_in_few_points() {
        let mut series = Series::default();
        for second in 0..5000 {
            series.begun(Duration::from_secs(second));
        }
        let points = series.until(Duration::from_secs(5000));
        assert!(points.len() <= POINTS_MAX, "{}", points.len());
        assert_eq!(points.iter().map(|point| point.begun).sum::<u64>(), 5000);
        let seconds: f64 = points.iter().map(|point| point.seconds).sum();
        assert_eq!(seconds, 5000.0);
    }
}
