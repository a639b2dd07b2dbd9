//! What a run has counted so far, shared by its calls.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::histogram::Times;
use crate::series::{Point, Series};
use crate::target::{Cost, Embedded, Failure};

/// Whether a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It only shows in the series.
    WarmUp,
    /// It counts.
    Measured,
}

/// What a request must keep to count as good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objective {
    /// The longest time to the first token.
    pub ttft: Option<Duration>,
    /// The longest mean time between two tokens of the request.
    pub itl: Option<Duration>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A generation, with its end.
    Completed(Cost),
    /// An embedding.
    Embedded(Embedded),
    /// We left, as planned.
    Left,
    /// The deadline that we gave it passed.
    Expired,
    /// It failed.
    Failed(Failure),
}

/// A generation's tokens so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// How many.
    pub count: u32,
    /// The time to the first, from when the request was due.
    pub ttft: Option<Duration>,
    /// From the message of the first to that of the last.
    pub span: Duration,
    /// How many came in the message of the first.
    pub first: u32,
}

impl Tokens {
    /// The mean time between tokens; `None` where all came in one message.
    fn mean_gap(&self) -> Option<Duration> {
        let later = self.count - self.first;
        (later > 0).then(|| self.span / later)
    }
}

/// Requests that ended for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// How many of them said when to come back.
    pub with_retry: u64,
}

/// Kinds of errors that are told apart; the others are counted as one.
const ERRORS_MAX: usize = 64;
/// What is kept of a code and of a reason.
const ERROR_CHARS_MAX: usize = 200;

/// Everything counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Measured requests begun, or due and never sent.
    pub begun: u64,
    /// How late they were sent.
    pub late: Times,
    /// Generations that came to their end.
    pub completed: u64,
    /// Embeddings answered, and their vectors.
    pub embedded: u64,
    /// Vectors.
    pub vectors: u64,
    /// Requests left as planned.
    pub left: u64,
    /// Requests whose deadline passed as planned.
    pub expired: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Completed requests that kept the objective.
    pub good: u64,
    /// Prompt tokens of completed requests and of embeddings, as the server counts.
    pub prompt_tokens: u64,
    /// Of them from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens received.
    pub output_tokens: u64,
    /// Messages they came in.
    pub messages: u64,
    /// Times to the first token.
    pub ttft: Times,
    /// Times between tokens: each token of a message has an equal share of the gap before it.
    pub itl: Times,
    /// Gaps between two messages with tokens, one each.
    pub gap: Times,
    /// Times of completed generations.
    pub e2e: Times,
    /// Times of embeddings.
    pub embed: Times,
    /// Errors by code and reason.
    pub errors: BTreeMap<(String, String), Errors>,
    /// When the last measured request ended.
    pub last_end: Duration,
}

/// What a progress line says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Live {
    pub(crate) in_flight: u64,
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    pub(crate) output_tokens: u64,
    pub(crate) ttft_p50_ms: f64,
    pub(crate) itl_p50_ms: f64,
}

/// Counts and series behind a lock that is held for one event.
#[derive(Debug)]
pub struct Tally {
    objective: Objective,
    state: Mutex<(Counts, Series)>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(objective: Objective) -> Self {
        Self {
            objective,
            state: Mutex::default(),
        }
    }

    /// A request that was due begins.
    pub fn begun(&self, now: Duration, due: Duration, phase: Phase) {
        let (counts, series) = &mut *self.state();
        series.begun(now);
        if phase == Phase::Measured {
            counts.begun += 1;
            counts.late.record(now.saturating_sub(due));
        }
    }

    /// A request that was due is not sent any more: too many were in flight until the end.
    pub fn unsent(&self, now: Duration, phase: Phase) {
        let (counts, series) = &mut *self.state();
        series.unsent(now);
        if phase == Phase::Measured {
            counts.begun += 1;
        }
    }

    /// Its first tokens came, so long after it was due.
    pub fn first(&self, now: Duration, count: u32, ttft: Duration, phase: Phase) {
        let (counts, series) = &mut *self.state();
        series.first(now, ttft);
        series.tokens(now, count, None);
        if phase == Phase::Measured {
            counts.ttft.record(ttft);
            counts.messages += 1;
            counts.output_tokens += u64::from(count);
        }
    }

    /// More of its tokens came, so long after those before.
    pub fn tokens(&self, now: Duration, count: u32, gap: Duration, phase: Phase) {
        assert!(count > 0, "a message without tokens");
        let (counts, series) = &mut *self.state();
        series.tokens(now, count, Some(gap / count));
        if phase == Phase::Measured {
            counts.itl.record_n(gap / count, count);
            counts.gap.record(gap);
            counts.messages += 1;
            counts.output_tokens += u64::from(count);
        }
    }

    /// It ended, so long after it was due.
    pub fn ended(&self, now: Duration, ended: Ended, phase: Phase) {
        let (counts, series) = &mut *self.state();
        let (completed, failed) = match &ended.outcome {
            Outcome::Completed(_) | Outcome::Embedded(_) => (1, 0),
            Outcome::Failed(_) => (0, 1),
            Outcome::Left | Outcome::Expired => (0, 0),
        };
        series.ended(now, completed, failed);
        if phase == Phase::Measured {
            counts.last_end = counts.last_end.max(now);
            counts.ended(ended, self.objective);
        }
    }

    /// What is known so far.
    pub(crate) fn live(&self) -> Live {
        let (counts, series) = &*self.state();
        Live {
            in_flight: series.in_flight(),
            ended: counts.ended_in_all(),
            failed: counts.failed,
            output_tokens: counts.output_tokens,
            ttft_p50_ms: counts.ttft.quantile_ms(0.5),
            itl_p50_ms: counts.itl.quantile_ms(0.5),
        }
    }

    /// Reads the counts.
    pub fn with_counts<T>(&self, read: impl FnOnce(&Counts) -> T) -> T {
        read(&self.state().0)
    }

    /// The series until this time.
    pub fn points(&self, now: Duration) -> Vec<Point> {
        self.state().1.until(now)
    }

    fn state(&self) -> MutexGuard<'_, (Counts, Series)> {
        // Counting does not panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of one call.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// The time since it was due.
    pub after: Duration,
    /// Its tokens.
    pub tokens: Tokens,
}

impl Counts {
    /// Measured requests that ended in any way.
    pub fn ended_in_all(&self) -> u64 {
        self.completed + self.embedded + self.left + self.expired + self.failed
    }

    fn ended(&mut self, ended: Ended, objective: Objective) {
        match ended.outcome {
            Outcome::Completed(cost) => {
                self.completed += 1;
                self.e2e.record(ended.after);
                self.prompt_tokens += u64::from(cost.prompt_tokens);
                self.cached_tokens += u64::from(cost.cached_tokens);
                self.good += u64::from(objective.is_kept(&ended.tokens, ended.after));
            }
            Outcome::Embedded(embedded) => {
                self.embedded += 1;
                self.vectors += u64::from(embedded.vectors);
                self.prompt_tokens += u64::from(embedded.prompt_tokens);
                self.embed.record(ended.after);
            }
            Outcome::Left => self.left += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Failed(failure) => self.failed(&failure),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.failed += 1;
        let mut key = (shown(&failure.code), shown(&failure.reason));
        if self.errors.len() >= ERRORS_MAX && !self.errors.contains_key(&key) {
            key = ("others".to_owned(), String::new());
        }
        let errors = self.errors.entry(key).or_default();
        errors.count += 1;
        errors.with_retry += u64::from(failure.retry_after.is_some());
    }
}

/// What a server says of an error, fit for a line of a terminal and kept in bounded memory.
fn shown(text: &str) -> String {
    let printable = text.chars().filter(|letter| !letter.is_control());
    printable.take(ERROR_CHARS_MAX).collect()
}

impl Objective {
    /// Whether one is set.
    pub fn is_set(&self) -> bool {
        self.ttft.is_some() || self.itl.is_some()
    }

    /// `after`: when it ended. An answer without a token has made its reader wait until then.
    fn is_kept(self, tokens: &Tokens, after: Duration) -> bool {
        let within = |time: Option<Duration>, bound: Option<Duration>| match (time, bound) {
            (Some(time), Some(bound)) => time <= bound,
            _ => true,
        };
        let first = tokens.ttft.unwrap_or(after);
        within(Some(first), self.ttft) && within(tokens.mean_gap(), self.itl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(ttft: u64, span: u64, count: u32) -> Ended {
        Ended {
            outcome: Outcome::Completed(Cost::default()),
            after: Duration::from_millis(ttft + span),
            tokens: Tokens {
                count,
                ttft: Some(Duration::from_millis(ttft)),
                span: Duration::from_millis(span),
                first: 1,
            },
        }
    }

    fn without_tokens(after: u64) -> Ended {
        Ended {
            after: Duration::from_millis(after),
            tokens: Tokens::default(),
            ..completed(0, 0, 1)
        }
    }

    #[test]
    fn good_requests_keep_both_times() {
        let tally = Tally::new(Objective {
            ttft: Some(Duration::from_millis(100)),
            itl: Some(Duration::from_millis(10)),
        });
        let now = Duration::from_secs(1);
        for ended in [
            completed(100, 100, 11), // good: 10 ms a token
            completed(101, 0, 1),    // late
            completed(50, 200, 11),  // slow
            completed(50, 0, 1),     // good: no gap at all
            without_tokens(100),     // good: it ended in time
            without_tokens(101),     // late
        ] {
            tally.begun(now, now, Phase::Measured);
            tally.ended(now, ended, Phase::Measured);
        }
        tally.with_counts(|counts| assert_eq!((counts.completed, counts.good), (6, 3)));
    }

    #[test]
    fn each_token_of_a_message_has_its_share_of_the_gap() {
        let tally = Tally::new(Objective::default());
        let at = Duration::from_millis;
        tally.begun(at(0), at(0), Phase::Measured);
        tally.first(at(50), 1, at(50), Phase::Measured);
        tally.tokens(at(90), 4, at(40), Phase::Measured);
        tally.tokens(at(96), 1, at(6), Phase::Measured);
        tally.with_counts(|counts| {
            assert_eq!((counts.output_tokens, counts.messages), (6, 3));
            assert_eq!(counts.itl.count(), 5);
            assert!((counts.itl.quantile_ms(0.8) - 10.0).abs() < 0.02);
            assert_eq!(counts.gap.count(), 2);
            assert!((counts.gap.quantile_ms(1.0) - 40.0).abs() < 0.001);
        });
    }

    #[test]
    fn warming_up_counts_nothing_and_errors_are_bounded() {
        let tally = Tally::new(Objective::default());
        let now = Duration::ZERO;
        tally.begun(now, now, Phase::WarmUp);
        tally.first(now, 1, now, Phase::WarmUp);
        tally.ended(now, completed(1, 1, 1), Phase::WarmUp);
        for code in 0..100 {
            let failure = Failure {
                code: format!("{code:03}\u{1b}{}", "x".repeat(500)),
                reason: "a\nb".to_owned(),
                retry_after: (code == 0).then_some(now),
            };
            let outcome = Outcome::Failed(failure);
            let ended = Ended {
                outcome,
                ..completed(1, 1, 1)
            };
            tally.begun(now, now, Phase::Measured);
            tally.ended(now, ended, Phase::Measured);
        }
        tally.with_counts(|counts| {
            assert_eq!(
                (counts.begun, counts.completed, counts.failed),
                (100, 0, 100)
            );
            assert_eq!(counts.output_tokens, 0);
            assert_eq!(counts.errors.len(), ERRORS_MAX + 1);
            let others = &counts.errors[&("others".to_owned(), String::new())];
            assert_eq!(others.count, 36);
            let first = (format!("000{}", "x".repeat(197)), "ab".to_owned());
            assert_eq!(counts.errors[&first].with_retry, 1);
        });
    }
}
