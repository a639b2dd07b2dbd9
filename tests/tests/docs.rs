//! Documents that name what the code has: metrics and flags.
//!
//! `UPDATE_DOCS=1 cargo test -p tests --test docs` writes what can be generated.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use engine::metrics::{Kind, Metric};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder above")
        .to_owned()
}

fn table(metrics: &[Metric]) -> String {
    let mut text = "| metric | type | labels | what it says |\n|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels = metric.labels.join(", ");
        writeln!(
            text,
            "| `{}` | {kind} | {labels} | {} |",
            metric.name, metric.help
        )
        .expect("a String");
    }
    text
}

#[test]
fn the_metrics_page_is_the_metrics() {
    let page = root().join("docs/metrics.md");
    let (own, vllm): (Vec<Metric>, Vec<Metric>) = engine::metrics::METRICS
        .iter()
        .partition(|metric| !metric.name.starts_with("vllm:"));
    let expected = format!(
        "# Metrics\n\n\
         Scraped from `/metrics` on the serving port. Generated from the tables in\n\
         `engine/src/metrics.rs` and `server/src/metrics.rs`; a test holds this page to them. Labels come\n\
         from closed sets. `model` is the served name; times are in seconds.\n\n\
         ## Engines\n\n{}\n\
         ## Edge\n\n{}\n\
         ## Names that vLLM's users know\n\n\
         The same counts under vLLM's names, for routers and dashboards that read those.\n\n{}",
        table(&own),
        table(server::metrics::METRICS),
        table(&vllm),
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &expected).expect("docs/metrics.md can be written");
    }
    let found = std::fs::read_to_string(&page).expect("docs/metrics.md");
    assert!(
        found == expected,
        "docs/metrics.md is out of date: run with UPDATE_DOCS=1"
    );
}

#[test]
fn every_flag_is_in_the_operating_page() {
    let page =
        std::fs::read_to_string(root().join("docs/operating.md")).expect("docs/operating.md");
    let command = server::args::Args::command();
    for name in ["serve", "health"] {
        let command = command.find_subcommand(name).expect("a sub-command");
        for argument in command.get_arguments() {
            let flag = argument.get_long().expect("there are only flags");
            if flag == "help" {
                continue;
            }
            assert!(
                page.contains(&format!("`--{flag}`")),
                "--{flag} is not explained"
            );
            // The page says which sub-command reads the environment.
            assert_eq!(
                argument.get_env().is_some(),
                name == "serve",
                "the variable of {name} --{flag}"
            );
        }
    }
}
