//! A report for a terminal.

use std::fmt::Write as _;

use crate::histogram::Summary;
use crate::report::Report;

pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _written = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    for (name, value) in &report.setting {
        writeln!(text, "{name:<16} {value}")?;
    }
    if let Some(effort) = &report.generator {
        writeln!(text, "{:<16} {effort}", "generator")?;
    }
    writeln!(text)?;
    let (requests, tokens, rates) = (&report.requests, &report.tokens, &report.rates);
    writeln!(
        text,
        "{} requests in {:.2} s: {} completed, {} embedded, {} left, {} expired, {} failed, {} unfinished",
        requests.begun,
        report.seconds,
        requests.completed,
        requests.embedded,
        requests.left,
        requests.expired,
        requests.failed,
        requests.unfinished
    )?;
    writeln!(text)?;
    writeln!(text, "{:<16} {:>12} {:>14}", "", "total", "per second")?;
    let ended = requests.completed + requests.embedded;
    row(text, "requests", ended, rates.requests)?;
    if let (Some(good), Some(goodput)) = (requests.good, rates.goodput) {
        row(text, "good requests", good, goodput)?;
    }
    row(text, "prompt tokens", tokens.prompt, rates.prompt_tokens)?;
    row(text, "output tokens", tokens.output, rates.output_tokens)?;
    if tokens.vectors > 0 {
        row(text, "vectors", tokens.vectors, rates.vectors)?;
    }
    if tokens.prompt > 0 {
        let share = 100.0 * tokens.cached as f64 / tokens.prompt as f64;
        writeln!(
            text,
            "{:<16} {:>12} {share:>13.1}%",
            "cached tokens", tokens.cached
        )?;
    }
    writeln!(text)?;
    times(text, report)?;
    if !report.errors.is_empty() {
        writeln!(text)?;
        writeln!(
            text,
            "{:<20} {:<28} {:>9} {:>12}",
            "error", "reason", "count", "come back"
        )?;
        for error in &report.errors {
            writeln!(
                text,
                "{:<20} {:<28} {:>9} {:>12}",
                error.code, error.reason, error.count, error.with_retry
            )?;
        }
    }
    Ok(())
}

fn row(text: &mut String, name: &str, total: u64, rate: f64) -> std::fmt::Result {
    writeln!(text, "{name:<16} {total:>12} {rate:>14.1}")
}

/// The kinds of times that there were, with their names.
pub(crate) fn kinds(report: &Report) -> Vec<(&'static str, Summary)> {
    let times = &report.latencies;
    let kinds = [
        ("sent late", times.late),
        ("first token", times.ttft),
        ("between tokens", times.itl),
        ("between messages", times.gap),
        ("whole generation", times.e2e),
        ("embedding", times.embed),
    ];
    let mut kinds = Vec::from(kinds);
    kinds.retain(|(_, summary)| summary.count > 0);
    kinds
}

fn times(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "milliseconds", "count", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"
    )?;
    for (name, summary) in kinds(report) {
        write!(text, "{name:<16} {:>9}", summary.count)?;
        for value in columns(&summary) {
            write!(text, " {value:>9.2}")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// The times of a row, in the order of its headings.
pub(crate) fn columns(summary: &Summary) -> [f64; 7] {
    [
        summary.mean,
        summary.p50,
        summary.p90,
        summary.p95,
        summary.p99,
        summary.p999,
        summary.max,
    ]
}
