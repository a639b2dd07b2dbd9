//! A rate with a memory of one minute: what is not used is saved up for a minute, what is used too
//! much is owed. Time is an argument.

use std::num::NonZeroU64;
use std::time::Duration;

const MINUTE: f64 = 60.0;

/// What may be used of one thing, minute by minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    per_minute: f64,
    /// Negative where more was used than there was.
    balance: f64,
    /// When the balance was that.
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_minute: NonZeroU64, now: Duration) -> Self {
        let per_minute = per_minute.get() as f64;
        Self {
            per_minute,
            balance: per_minute,
            at: now,
        }
    }

    /// Another rate from now on; what is owed stays.
    pub(super) fn set_rate(&mut self, per_minute: NonZeroU64, now: Duration) {
        self.refill(now);
        self.per_minute = per_minute.get() as f64;
        self.balance = self.balance.min(self.per_minute);
    }

    /// How long until `count` are there; nothing if they are.
    pub(super) fn wait(&mut self, count: u32, now: Duration) -> Duration {
        self.refill(now);
        let missing = (f64::from(count) - self.balance).max(0.0);
        Duration::from_secs_f64(missing * MINUTE / self.per_minute)
    }

    /// Whether nothing of it was used for a minute, or all of that came back.
    pub(super) fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.balance >= self.per_minute
    }

    /// Uses `count`, there or not.
    pub(super) fn charge(&mut self, count: u64, now: Duration) {
        self.refill(now);
        // Whoever owes a day's worth owes no more: a number that nobody meant must not last.
        let floor = -self.per_minute * 60.0 * 24.0;
        self.balance = (self.balance - count as f64).max(floor);
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let refilled = self.balance + passed * self.per_minute / MINUTE;
        self.balance = refilled.min(self.per_minute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(per_minute: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(per_minute).unwrap(), Duration::ZERO)
    }

    #[test]
    fn a_minutes_worth_is_there_at_once_and_then_the_rate() {
        let mut bucket = of(60);
        for _ in 0..60 {
            assert_eq!(bucket.wait(1, Duration::ZERO), Duration::ZERO);
            bucket.charge(1, Duration::ZERO);
        }
        assert_eq!(bucket.wait(1, Duration::ZERO), SECOND);
        assert_eq!(bucket.wait(1, SECOND / 2), SECOND / 2);
        assert_eq!(bucket.wait(1, SECOND), Duration::ZERO);
        bucket.charge(1, SECOND);
        assert_eq!(bucket.wait(1, SECOND), SECOND);
    }

    #[test]
    fn nothing_is_saved_up_beyond_a_minute() {
        let mut bucket = of(60);
        let hour = 3600 * SECOND;
        assert_eq!(bucket.wait(61, hour), SECOND);
        bucket.charge(60, hour);
        assert_eq!(bucket.wait(1, hour), SECOND);
    }

    #[test]
    fn debts_are_paid_and_bounded() {
        let mut bucket = of(60);
        bucket.charge(180, Duration::ZERO);
        assert_eq!(bucket.wait(1, Duration::ZERO), 121 * SECOND);
        assert_eq!(bucket.wait(1, 121 * SECOND), Duration::ZERO);
        bucket.charge(u64::MAX, 121 * SECOND);
        let day = 24 * 3600 * SECOND;
        assert_eq!(bucket.wait(1, 121 * SECOND), day + SECOND);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = of(60);
        bucket.charge(60, 100 * SECOND);
        assert_eq!(bucket.wait(1, 50 * SECOND), SECOND);
        assert_eq!(bucket.wait(1, 101 * SECOND), Duration::ZERO);
    }

    #[test]
    fn a_new_rate_forgives_nothing_and_fills_nothing() {
        let mut bucket = of(60);
        bucket.charge(90, Duration::ZERO);
        bucket.set_rate(NonZeroU64::new(600).unwrap(), Duration::ZERO);
        assert_eq!(bucket.wait(1, Duration::ZERO), SECOND * 31 / 10);
        bucket.set_rate(NonZeroU64::new(6).unwrap(), 3600 * SECOND);
        assert_eq!(bucket.wait(7, 3600 * SECOND), 10 * SECOND);
    }
}
