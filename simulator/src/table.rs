//! Results for a terminal.

use std::fmt::Write as _;

use crate::histogram::Summary;
use crate::report::Report;

/// Tenants that a table shows.
const TENANTS_SHOWN: usize = 16;

pub(crate) fn report(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _written = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    for (name, value) in &report.setting {
        writeln!(text, "{name:<16} {value}")?;
    }
    let (requests, rates) = (&report.requests, &report.rates);
    writeln!(
        text,
        "\n{} requests in {:.1} s: {} completed, {} rejected, {} expired\n",
        requests.begun, report.seconds, requests.completed, requests.rejected, requests.expired
    )?;
    writeln!(text, "{:<16} {:>12} {:>14}", "", "total", "per second")?;
    row(text, "requests", requests.completed, rates.requests)?;
    row(text, "good requests", requests.good, rates.goodput)?;
    row(
        text,
        "prompt tokens",
        requests.prompt_tokens,
        rates.prompt_tokens,
    )?;
    row(
        text,
        "output tokens",
        requests.output_tokens,
        rates.output_tokens,
    )?;
    writeln!(
        text,
        "\n{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "milliseconds", "count", "mean", "p50", "p90", "p95", "p99", "max"
    )?;
    let times = &report.latencies;
    times_row(text, "first token", &times.ttft)?;
    times_row(text, "between tokens", &times.itl)?;
    times_row(text, "whole request", &times.e2e)?;
    summary(text, report)?;
    tenants(text, report)
}

fn summary(text: &mut String, report: &Report) -> std::fmt::Result {
    let (kv, steps) = (&report.kv, &report.steps);
    writeln!(text)?;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for (name, value) in [
        ("good share", percent(report.good_share())),
        ("fairness (Jain)", format!("{:.4}", report.fairness)),
        ("prefix hits", percent(kv.hit_rate)),
        (
            "KV cache",
            format!(
                "{} held on average, {} at most; {} evictions",
                percent(kv.use_mean),
                percent(kv.use_peak),
                kv.evictions
            ),
        ),
        ("preemptions", kv.preemptions.to_string()),
        (
            "steps",
            format!(
                "{} of {:.2} ms, {:.0} tokens and {:.0} sequences on average; replicas busy {}",
                steps.count,
                steps.mean_ms,
                steps.tokens,
                steps.sequences,
                percent(steps.busy)
            ),
        ),
    ] {
        writeln!(text, "{name:<16} {value}")?;
    }
    Ok(())
}

fn tenants(text: &mut String, report: &Report) -> std::fmt::Result {
    if report.tenants.len() < 2 {
        return Ok(());
    }
    writeln!(
        text,
        "\n{:<16} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9} {:>9} {:>11}",
        "tenant",
        "requests",
        "completed",
        "rejected",
        "good",
        "ttft p50",
        "ttft p99",
        "itl p50",
        "itl p99",
        "service/s"
    )?;
    for tenant in report.tenants.iter().take(TENANTS_SHOWN) {
        let requests = &tenant.requests;
        writeln!(
            text,
            "{:<16} {:>9} {:>9} {:>9} {:>9} {:>10.1} {:>10.1} {:>9.1} {:>9.1} {:>11.0}",
            tenant.name,
            requests.begun,
            requests.completed,
            requests.rejected,
            requests.good,
            tenant.ttft.p50,
            tenant.ttft.p99,
            tenant.itl.p50,
            tenant.itl.p99,
            tenant.service
        )?;
    }
    match report.tenants.len().saturating_sub(TENANTS_SHOWN) {
        0 => Ok(()),
        more => writeln!(text, "and {more} more tenants"),
    }
}

fn row(text: &mut String, name: &str, total: u64, rate: f64) -> std::fmt::Result {
    writeln!(text, "{name:<16} {total:>12} {rate:>14.1}")
}

fn times_row(text: &mut String, name: &str, times: &Summary) -> std::fmt::Result {
    write!(text, "{name:<16} {:>9}", times.count)?;
    let values = [
        times.mean, times.p50, times.p90, times.p95, times.p99, times.max,
    ];
    for value in values {
        write!(text, " {value:>9.1}")?;
    }
    writeln!(text)
}

/// Columns that are as wide as what stands in them, the first ones to the left.
pub(crate) fn columns(rows: &[Vec<String>], to_the_left: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            let _written = if at < to_the_left {
                write!(line, "{gap}{cell:<width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
