//! The rate of an open loop over time: constant, in steps and ramps, or on and off.

use std::str::FromStr;
use std::time::Duration;

use crate::units::{parse_positive, parse_time};

/// A stretch of time in which the rate is constant or changes linearly.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    /// Requests a second at its begin and at its end.
    from: f64,
    to: f64,
    /// Seconds.
    lasts: f64,
}

impl Part {
    /// Requests expected in it.
    fn requests(self) -> f64 {
        f64::midpoint(self.from, self.to) * self.lasts
    }

    /// Seconds from its begin until this many requests are expected.
    fn seconds_until(self, requests: f64) -> f64 {
        if requests <= 0.0 {
            return 0.0;
        }
        let slope = (self.to - self.from) / self.lasts;
        // The positive root of slope/2 t^2 + from t = requests, in the form that needs no division
        // by a slope of zero.
        let root = (self.from * self.from + 2.0 * slope * requests).max(0.0);
        2.0 * requests / (self.from + root.sqrt())
    }
}

/// What follows on the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    End,
    Again,
}

/// A rate over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    parts: Vec<Part>,
    then: Then,
}

impl Schedule {
    /// This many requests a second for ever.
    pub fn constant(rate: f64) -> Self {
        Self {
            parts: vec![Part {
                from: rate,
                to: rate,
                lasts: 1.0,
            }],
            then: Then::Again,
        }
    }

    /// All requests in the first part of each period, none in the rest; `rate` is the mean of both.
    pub fn on_off(rate: f64, on: Duration, off: Duration) -> Self {
        let (on, off) = (on.as_secs_f64(), off.as_secs_f64());
        let busy = rate * (on + off) / on;
        let part = |rate, lasts| Part {
            from: rate,
            to: rate,
            lasts,
        };
        Self {
            parts: vec![part(busy, on), part(0.0, off)],
            then: Then::Again,
        }
    }

    /// When this many requests are expected to have been sent; `None` after the end.
    pub fn time_of(&self, requests: f64) -> Option<Duration> {
        let mut left = requests;
        let mut begun = 0.0;
        if self.then == Then::Again {
            let period: f64 = self.parts.iter().map(|part| part.requests()).sum();
            let whole = (left / period).floor();
            left -= whole * period;
            begun = whole * self.parts.iter().map(|part| part.lasts).sum::<f64>();
        }
        for part in &self.parts {
            if left < part.requests() {
                return Some(Duration::from_secs_f64(begun + part.seconds_until(left)));
            }
            left -= part.requests();
            begun += part.lasts;
        }
        // Rounding may leave a whole period's last request here.
        (self.then == Then::Again).then(|| Duration::from_secs_f64(begun))
    }

    /// When it is over; `None` if never.
    pub fn lasts(&self) -> Option<Duration> {
        let seconds = self.parts.iter().map(|part| part.lasts).sum();
        (self.then == Then::End).then(|| Duration::from_secs_f64(seconds))
    }
}

impl FromStr for Schedule {
    type Err = String;

    /// Reads steps and ramps, as `10:30s,50:30s,50..10:1m`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<Part> = text.split(',').map(part).collect::<Result<_, _>>()?;
        if parts.iter().all(|part| part.requests() == 0.0) {
            return Err("the rate is 0 all the time".to_owned());
        }
        Ok(Self {
            parts,
            then: Then::End,
        })
    }
}

fn part(text: &str) -> Result<Part, String> {
    let (rates, lasts) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is not RATE:TIME or FROM..TO:TIME"))?;
    let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
    let lasts = parse_time(lasts)?.as_secs_f64();
    if lasts <= 0.0 {
        return Err(format!("{text:?} takes no time"));
    }
    Ok(Part {
        from: rate(from)?,
        to: rate(to)?,
        lasts,
    })
}

fn rate(text: &str) -> Result<f64, String> {
    if text.trim() == "0" {
        return Ok(0.0);
    }
    parse_positive(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(schedule: &Schedule, requests: f64) -> Option<f64> {
        schedule.time_of(requests).map(|time| time.as_secs_f64())
    }

    #[test]
    fn a_schedule_says_when_requests_are_due() {
        let constant = Schedule::constant(4.0);
        assert_eq!(seconds(&constant, 0.0), Some(0.0));
        assert_eq!(seconds(&constant, 10.0), Some(2.5));
        let steps: Schedule = "10:2s,0:3s,40:1s".parse().unwrap();
        assert_eq!(seconds(&steps, 19.0), Some(1.9));
        assert_eq!(seconds(&steps, 20.0), Some(5.0));
        assert_eq!(seconds(&steps, 40.0), Some(5.5));
        assert_eq!(seconds(&steps, 60.0), None);
        assert_eq!(steps.lasts(), Some(Duration::from_secs(6)));
        // From 0 to 10 a second in 4 s: 20 in all, a quarter of them in the first half.
        let ramp: Schedule = "0..10:4s".parse().unwrap();
        assert_eq!(seconds(&ramp, 0.0), Some(0.0));
        assert_eq!(seconds(&ramp, 5.0), Some(2.0));
        let down: Schedule = "10..0:4s".parse().unwrap();
        assert_eq!(seconds(&down, 15.0), Some(2.0));
    }

    #[test]
    fn on_and_off_keep_the_mean_rate() {
        let schedule = Schedule::on_off(10.0, Duration::from_secs(1), Duration::from_secs(4));
        // 50 in the first second of each five.
        assert_eq!(seconds(&schedule, 25.0), Some(0.5));
        assert_eq!(seconds(&schedule, 50.0), Some(5.0));
        assert_eq!(seconds(&schedule, 75.0), Some(5.5));
        assert_eq!(schedule.lasts(), None);
    }

    #[test]
    fn mistakes_are_said() {
        for bad in ["", "10", "10:0s", "0:5s", "a:5s", "1..x:5s", "10:5s,"] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}
