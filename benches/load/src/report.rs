//! What a run found, to be printed, kept as JSON or drawn.

use std::time::Duration;

use serde::Serialize;

use crate::effort::Effort;
use crate::histogram::Summary;
use crate::series::Point;
use crate::tally::{Counts, Objective, Tally};

/// A run's result. Times in it are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of the generator.
    pub version: String,
    /// What was asked for, as pairs of a name and a value.
    pub setting: Vec<(String, String)>,
    /// What the generator itself took of its machine, the warm-up included; absent where the system
    /// does not say.
    pub generator: Option<Effort>,
    /// Seconds from the end of the warm-up until the last measured request ended.
    pub seconds: f64,
    /// Requests by how they ended.
    pub requests: Requests,
    /// Tokens.
    pub tokens: TokenCounts,
    /// Of all these, how many a second.
    pub rates: Rates,
    /// Times by their kind.
    pub latencies: Latencies,
    /// Errors, the most frequent first.
    pub errors: Vec<ErrorCount>,
    /// What happened in each second.
    pub series: Vec<Point>,
}

/// Measured requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Begun, or due and never sent because too many were in flight.
    pub begun: u64,
    /// Generations that came to their end.
    pub completed: u64,
    /// Embedding requests that were answered.
    pub embedded: u64,
    /// Left by us after some tokens, as planned.
    pub left: u64,
    /// Ended by the deadline that we gave them.
    pub expired: u64,
    /// Failed.
    pub failed: u64,
    /// In flight when the run ended, or never sent.
    pub unfinished: u64,
    /// Completed within the objective; absent if none is set.
    pub good: Option<u64>,
}

/// Tokens of measured requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TokenCounts {
    /// Of prompts, of requests that came to their end.
    pub prompt: u64,
    /// Of them from the prefix cache.
    pub cached: u64,
    /// Received.
    pub output: u64,
    /// Messages they came in.
    pub messages: u64,
    /// Vectors received.
    pub vectors: u64,
}

/// How many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Requests completed or embedded.
    pub requests: f64,
    /// Prompt tokens.
    pub prompt_tokens: f64,
    /// Tokens received.
    pub output_tokens: f64,
    /// Vectors received.
    pub vectors: f64,
    /// Requests completed within the objective; absent if none is set.
    pub goodput: Option<f64>,
}

/// Times by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// From when a request was due until it was sent.
    pub late: Summary,
    /// From when a request was due to its first token.
    pub ttft: Summary,
    /// Between tokens; each token of a message has an equal share of the gap before the message.
    pub itl: Summary,
    /// Between two messages with tokens of one request.
    pub gap: Summary,
    /// From when a generation was due to its end.
    pub e2e: Summary,
    /// From when an embedding was due to its answer.
    pub embed: Summary,
}

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// The code.
    pub code: String,
    /// The reason; may be empty.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// How many of them said when to come back.
    pub with_retry: u64,
}

/// When a run began to count, and when it ended.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The end of the warm-up.
    pub from: Duration,
    /// The end of the run.
    pub until: Duration,
}

impl Report {
    /// Reads a tally.
    pub fn new(
        tally: &Tally,
        span: Span,
        objective: Objective,
        setting: Vec<(String, String)>,
        generator: Option<Effort>,
    ) -> Self {
        let series = tally.points(span.until);
        tally.with_counts(|counts| {
            // A run that was cut has been receiving until its end.
            let unfinished = counts.begun - counts.ended_in_all();
            let end = if unfinished > 0 || counts.begun == 0 {
                span.until
            } else {
                counts.last_end
            };
            let seconds = end.saturating_sub(span.from).as_secs_f64();
            let good = objective.is_set().then_some(counts.good);
            let rate = |count: u64| count as f64 / seconds.max(1e-9);
            Self {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                setting,
                generator,
                seconds,
                requests: Requests {
                    begun: counts.begun,
                    completed: counts.completed,
                    embedded: counts.embedded,
                    left: counts.left,
                    expired: counts.expired,
                    failed: counts.failed,
                    unfinished,
                    good,
                },
                tokens: TokenCounts {
                    prompt: counts.prompt_tokens,
                    cached: counts.cached_tokens,
                    output: counts.output_tokens,
                    messages: counts.messages,
                    vectors: counts.vectors,
                },
                rates: Rates {
                    requests: rate(counts.completed + counts.embedded),
                    prompt_tokens: rate(counts.prompt_tokens),
                    output_tokens: rate(counts.output_tokens),
                    vectors: rate(counts.vectors),
                    goodput: good.map(rate),
                },
                latencies: Latencies {
                    late: counts.late.summary(),
                    ttft: counts.ttft.summary(),
                    itl: counts.itl.summary(),
                    gap: counts.gap.summary(),
                    e2e: counts.e2e.summary(),
                    embed: counts.embed.summary(),
                },
                errors: errors(counts),
                series,
            }
        })
    }

    /// As JSON, for programs.
    pub fn json(&self) -> String {
        // Nothing in a report can fail to be written: its keys are strings.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As a table, for a terminal.
    pub fn table(&self) -> String {
        crate::table::render(self)
    }

    /// As one HTML page with plots, for people.
    pub fn html(&self) -> String {
        crate::html::render(self)
    }
}

fn errors(counts: &Counts) -> Vec<ErrorCount> {
    let mut errors: Vec<ErrorCount> = counts
        .errors
        .iter()
        .map(|((code, reason), errors)| ErrorCount {
            code: code.clone(),
            reason: reason.clone(),
            count: errors.count,
            with_retry: errors.with_retry,
        })
        .collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.count));
    errors
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "these numbers are exact")]

    use super::*;
    use crate::tally::{Ended, Outcome, Phase, Tokens};
    use crate::target::{Cost, Embedded, Failure};

    /// A report of a fixed run of six seconds, the first of them a warm-up.
    fn fixed() -> Report {
        let objective = Objective {
            ttft: Some(Duration::from_millis(120)),
            itl: None,
        };
        let tally = Tally::new(objective);
        let at = Duration::from_millis;
        for number in 0..50_u64 {
            let due = at(number * 100);
            let phase = if due < at(1000) {
                Phase::WarmUp
            } else {
                Phase::Measured
            };
            let ttft = at(100 + number);
            tally.begun(due + at(number % 2), due, phase);
            tally.first(due + ttft, 1, ttft, phase);
            tally.tokens(due + ttft + at(30), 3, at(30), phase);
            let outcome = match number % 10 {
                7 => Outcome::Left,
                8 => Outcome::Failed(Failure {
                    code: "RESOURCE_EXHAUSTED".to_owned(),
                    reason: "QUEUE_<FULL>".to_owned(),
                    retry_after: Some(at(100)),
                }),
                9 => Outcome::Embedded(Embedded {
                    vectors: 2,
                    prompt_tokens: 9,
                }),
                _ => Outcome::Completed(Cost {
                    prompt_tokens: 20,
                    cached_tokens: 16,
                }),
            };
            let ended = Ended {
                outcome,
                after: ttft + at(40),
                tokens: Tokens {
                    count: 4,
                    ttft: Some(ttft),
                    span: at(30),
                    first: 1,
                },
            };
            tally.ended(due + ttft + at(40), ended, phase);
        }
        tally.begun(at(5000), at(5000), Phase::Measured);
        let setting = vec![("target".to_owned(), "http://127.0.0.1:50051".to_owned())];
        let generator = Effort {
            cpu_seconds: 1.5,
            cores: 2,
            share: 0.125,
        };
        let span = Span {
            from: at(1000),
            until: at(6000),
        };
        Report {
            version: "0.0.0".to_owned(),
            ..Report::new(&tally, span, objective, setting, Some(generator))
        }
    }

    #[test]
    fn a_fixed_run_gives_this_report() {
        let report = fixed();
        assert_eq!(report.seconds, 5.0);
        assert_eq!(report.requests.begun, 41);
        assert_eq!(report.requests.unfinished, 1);
        assert_eq!(report.rates.requests, 32.0 / 5.0);
        insta::assert_snapshot!("report_json", report.json());
        insta::assert_snapshot!("report_table", report.table());
        insta::assert_snapshot!("report_html", report.html());
    }
}
