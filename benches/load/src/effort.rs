//! What the generator itself takes of its machine: where that is much, its own times are in the report.

use std::fmt;
use std::thread::available_parallelism;
use std::time::Duration;

use serde::Serialize;

/// Processor time of the generator over a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effort {
    /// Of all its threads.
    pub cpu_seconds: f64,
    /// Cores that it may use.
    pub cores: u32,
    /// The share of their time.
    pub share: f64,
}

/// A generator with less to itself may be what is measured.
const SHARE_MAX: f64 = 0.7;

impl Effort {
    /// Of a run of this length, from what [`used`] said before and after.
    pub(crate) fn new(
        before: Option<Duration>,
        after: Option<Duration>,
        run: Duration,
    ) -> Option<Self> {
        let took = after?.saturating_sub(before?).as_secs_f64();
        let cores = available_parallelism().map_or(1, |cores| cores.get() as u32);
        Some(Self {
            cpu_seconds: took,
            cores,
            share: took / (run.as_secs_f64().max(1e-9) * f64::from(cores)),
        })
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.share;
        write!(
            f,
            "{:.2} s of processor time, {percent:.0}% of {} cores",
            self.cpu_seconds, self.cores
        )?;
        if self.share > SHARE_MAX {
            f.write_str(": it may be what is measured")?;
        }
        Ok(())
    }
}

/// Processor time of this process so far; `None` where the system does not say.
pub(crate) fn used() -> Option<Duration> {
    parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Linux counts in hundredths of a second here, whatever the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);

/// The fields after the name, which is in parentheses and may hold anything: the 12th and the 13th
/// are the times in user and in kernel mode.
fn parse(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, kernel) = (times.next()?.ok()?, times.next()?.ok()?);
    Some(TICK * user.saturating_add(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 9 1 1";
        assert_eq!(parse(stat), Some(Duration::from_secs(3)));
        for bad in ["", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194304 100 0 0 0 x 50"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_busy_generator_says_so() {
        let effort = |seconds: u64| {
            let run = Duration::from_secs(10);
            let before = Some(Duration::from_secs(1));
            Effort::new(before, Some(Duration::from_secs(1 + seconds)), run).unwrap()
        };
        let (idle, busy) = (effort(0), effort(1_000_000));
        assert!(idle.share < 1e-9 && !idle.to_string().contains("measured"));
        assert!(
            busy.to_string().contains("it may be what is measured"),
            "{busy}"
        );
        assert_eq!(Effort::new(None, None, Duration::ZERO), None);
    }
}
