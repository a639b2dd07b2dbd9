//! A report as one HTML page: no script, no file beside it, nothing loaded from elsewhere.

use std::fmt::Write as _;

use crate::report::Report;
use crate::series::Point;
use crate::svg::{Chart, Line};
use crate::table::{columns, kinds};

pub(crate) fn render(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _written = write(&mut page, report);
    page
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #222; --pale: #8886; --l0: #1769aa; --l1: #d9730d; --l2: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --l0: #6cb6ff; --l1: #f0a35e; --l2: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 86rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--pale); }
th:first-child, td.name { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
svg { width: 100%; } svg text { font-size: 12px; fill: var(--ink); }
.title { font-weight: 600; } .x { text-anchor: middle; } .y, .key { text-anchor: end; }
.grid { stroke: var(--pale); fill: none; } .line { fill: none; stroke-width: 1.6; }
.line.l0 { stroke: var(--l0); } .line.l1 { stroke: var(--l1); } .line.l2 { stroke: var(--l2); }
svg .key.l0 { fill: var(--l0); } svg .key.l1 { fill: var(--l1); } svg .key.l2 { fill: var(--l2); }
";

fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>paternoster bench</title>\n\
         <style>{STYLE}</style>\n<h1>paternoster bench</h1>"
    )?;
    totals(page, report)?;
    latencies(page, report)?;
    errors(page, report)?;
    charts(page, &report.series)?;
    writeln!(page, "<h2>Setting</h2>\n<table>")?;
    for (name, value) in &report.setting {
        writeln!(
            page,
            "<tr><td class=\"name\">{}<td class=\"name\">{}",
            escaped(name),
            escaped(value)
        )?;
    }
    if let Some(effort) = &report.generator {
        writeln!(
            page,
            "<tr><td class=\"name\">generator<td class=\"name\">{effort}"
        )?;
    }
    writeln!(
        page,
        "<tr><td class=\"name\">version<td class=\"name\">{}\n</table>\n</html>",
        escaped(&report.version)
    )
}

fn totals(page: &mut String, report: &Report) -> std::fmt::Result {
    let (requests, tokens, rates) = (&report.requests, &report.tokens, &report.rates);
    writeln!(
        page,
        "<p>{} requests in {:.2} s: {} completed, {} embedded, {} left, {} expired, {} failed, \
         {} unfinished.</p>\n<table>\n<tr><th><th>total<th>per second",
        requests.begun,
        report.seconds,
        requests.completed,
        requests.embedded,
        requests.left,
        requests.expired,
        requests.failed,
        requests.unfinished
    )?;
    let ended = requests.completed + requests.embedded;
    let mut rows = vec![("requests", ended, rates.requests)];
    if let (Some(good), Some(goodput)) = (requests.good, rates.goodput) {
        rows.push(("good requests", good, goodput));
    }
    rows.push(("prompt tokens", tokens.prompt, rates.prompt_tokens));
    rows.push(("output tokens", tokens.output, rates.output_tokens));
    rows.push(("vectors", tokens.vectors, rates.vectors));
    for (name, total, rate) in rows {
        writeln!(
            page,
            "<tr><td class=\"name\">{name}<td>{total}<td>{rate:.1}"
        )?;
    }
    writeln!(page, "</table>")
}

fn latencies(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        page,
        "<table>\n<tr><th>milliseconds<th>count<th>mean<th>p50<th>p90<th>p95<th>p99<th>p99.9<th>max"
    )?;
    for (name, summary) in kinds(report) {
        write!(page, "<tr><td class=\"name\">{name}<td>{}", summary.count)?;
        for value in columns(&summary) {
            write!(page, "<td>{value:.2}")?;
        }
        writeln!(page)?;
    }
    writeln!(page, "</table>")
}

fn errors(page: &mut String, report: &Report) -> std::fmt::Result {
    if report.errors.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<table>\n<tr><th>error<th>reason<th>count<th>told when to come back"
    )?;
    for error in &report.errors {
        writeln!(
            page,
            "<tr><td class=\"name\">{}<td class=\"name\">{}<td>{}<td>{}",
            escaped(&error.code),
            escaped(&error.reason),
            error.count,
            error.with_retry
        )?;
    }
    writeln!(page, "</table>")
}

fn charts(page: &mut String, series: &[Point]) -> std::fmt::Result {
    let line = |name, value: fn(&Point) -> f64| {
        let at = |point: &Point| (point.begin + point.seconds, value(point));
        Line {
            name,
            points: series.iter().map(at).collect(),
        }
    };
    let charts = [
        (
            "Requests",
            "per second",
            vec![
                line("completed", |point| point.completed as f64 / point.seconds),
                line("begun", |point| point.begun as f64 / point.seconds),
                line("failed", |point| point.failed as f64 / point.seconds),
            ],
        ),
        (
            "Output tokens",
            "per second",
            vec![line("tokens", |point| {
                point.output_tokens as f64 / point.seconds
            })],
        ),
        (
            "First token",
            "ms",
            vec![
                line("median", |point| point.ttft_p50),
                line("99th percentile", |point| point.ttft_p99),
            ],
        ),
        (
            "Between tokens",
            "ms",
            vec![
                line("median", |point| point.itl_p50),
                line("99th percentile", |point| point.itl_p99),
            ],
        ),
        (
            "In flight",
            "requests",
            vec![line("requests", |point| point.in_flight as f64)],
        ),
    ];
    writeln!(page, "<div class=\"charts\">")?;
    for (title, unit, lines) in charts {
        let chart = Chart {
            title,
            unit,
            lines: &lines,
        };
        write!(page, "{}", chart.svg())?;
    }
    writeln!(page, "</div>")
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
