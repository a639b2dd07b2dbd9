//! Documents that name what the code has: metrics and flags.
//!
//! `UPDATE_DOCS=1 cargo test -p tests --test docs` writes what can be generated.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use engine::metrics::{Kind, Metric};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder above")
        .to_owned()
}

/// Series of vLLM that could be filled and are not yet.
const NOT_PROVIDED: [&str; 12] = [
    "`vllm:num_requests_waiting_by_reason`",
    "`vllm:prompt_tokens_by_source_total`",
    "`vllm:admission_rejections_total`",
    "`vllm:corrupted_requests_total`",
    "`vllm:request_time_per_output_token_seconds`",
    "`vllm:request_inference_time_seconds`",
    "`vllm:request_prefill_time_seconds`",
    "`vllm:request_decode_time_seconds`",
    "`vllm:request_max_num_generation_tokens`",
    "`vllm:request_prefill_kv_computed_tokens`",
    "`vllm:request_num_preemptions`",
    "`vllm:kv_block_*_seconds`",
];

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

/// Series of TGI that mean nothing here, or something else.
const NOT_OF_TGI: [&str; 8] = [
    "`tgi_batch_inference_count`",
    "`tgi_batch_inference_success`",
    "`tgi_batch_inference_failure`",
    "`tgi_batch_*_duration`",
    "`tgi_batch_concat`",
    "`tgi_batch_concat_duration`",
    "`tgi_batch_next_size`",
    "`tgi_batch_total_tokens`",
];

#[test]
fn the_metrics_page_is_the_metrics() {
    let page = root().join("docs/metrics.md");
    let all: Vec<Metric> = [
        engine::metrics::METRICS,
        server::metrics::METRICS,
        server::dialects::METRICS,
    ]
    .concat();
    let of = |prefix: &str, metrics: &[Metric]| -> Vec<Metric> {
        let named = |metric: &&Metric| metric.name.starts_with(prefix);
        metrics.iter().filter(named).copied().collect()
    };
    let own = |metrics: &[Metric]| table(&of("paternoster_", metrics));
    let foreign = |prefix: &str| table(&of(prefix, &all));
    let known = ["paternoster_", "vllm:", "tgi_", "te_"].map(|prefix| of(prefix, &all).len());
    assert_eq!(known.iter().sum::<usize>(), all.len(), "a name of nobody");
    let expected = format!(
        "# Metrics\n\n\
         Scraped from `/metrics` on the serving port. Generated from the tables in\n\
         `engine/src/metrics.rs`, `server/src/metrics.rs` and `server/src/dialects`; a test holds this page\n\
         to them. Labels come from closed sets. `model` is the served name; times are in seconds.\n\n\
         A series whose labels are known when the server starts is there from then on, at 0. Codes and\n\
         reasons that only mistakes of clients bring about begin with the first of them.\n\n\
         ## Engines\n\n{}\n\
         ## Edge\n\n{}\n\
         ## Names that vLLM's users know\n\n\
         The same counts under vLLM's names, for routers and dashboards that read those;\n\
         `--metrics-compat none` leaves them out.\n\n{}\n\
         Not provided: {}, and what belongs to features that are not built (adapters, speculative\n\
         decoding, external and multi-modal caches, sleep).\n\n\
         ## Names that TGI's users know\n\n\
         With `--metrics-compat tgi` (beside vLLM's: `vllm,tgi`). TGI has no label `model`; what sums over\n\
         its series sums over ours. A call is counted when it ends, its lengths have fewer buckets.\n\n{}\n\
         Not provided: {}: a step here is no batch of one kind, and requests join it without a pause.\n\n\
         ## Names that TEI's users know\n\n\
         With `--metrics-compat tei`. TEI has no label `model`; it counts the requests of its streams not\n\
         at all, and some of its single ones twice.\n\n{}",
        own(engine::metrics::METRICS),
        own(server::metrics::METRICS),
        foreign("vllm:"),
        NOT_PROVIDED.join(", "),
        foreign("tgi_"),
        NOT_OF_TGI.join(", "),
        foreign("te_"),
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

/// Replaces what stands between two markers of a page.
fn with_part(page: &str, name: &str, part: &str) -> String {
    let (begin, end) = (
        format!("<!-- generated: {name} -->\n"),
        "<!-- end of generated -->",
    );
    let (before, rest) = page.split_once(&begin).expect("a marker");
    let (_, after) = rest.split_once(end).expect("its end");
    format!("{before}{begin}{part}{end}{after}")
}

/// One line of help, as a cell of a table.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('|', "\\|")
}

fn flag_row(argument: &clap::Arg) -> String {
    let code = |text: &str| format!("`{text}`");
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    let names = argument.get_long().into_iter().chain(aliases);
    let names: Vec<String> = names.map(|name| code(&format!("--{name}"))).collect();
    let variable = argument.get_env().map(|name| code(&name.to_string_lossy()));
    let defaults = argument.get_default_values().iter();
    let default: Vec<String> = defaults
        .map(|value| code(&value.to_string_lossy()))
        .collect();
    let help = argument.get_long_help().or(argument.get_help());
    format!(
        "| {} | {} | {} | {} | {} |\n",
        names.join(", "),
        variable.unwrap_or_default(),
        default.join(", "),
        server::args::file::allowed(argument).unwrap_or_default(),
        cell(&help.expect("an explanation").to_string()),
    )
}

/// The flags of `serve`, a table for each purpose.
fn flags() -> String {
    let command = server::args::command();
    let mut purposes: Vec<(String, String)> = Vec::new();
    for argument in server::args::serve(&command).get_arguments() {
        let heading = argument.get_help_heading().expect("a purpose").to_owned();
        let row = flag_row(argument);
        match purposes.iter_mut().find(|(purpose, _)| *purpose == heading) {
            Some((_, rows)) => rows.push_str(&row),
            None => purposes.push((heading, row)),
        }
    }
    let mut text = String::new();
    for (heading, rows) in purposes {
        write!(
            text,
            "\n### {heading}\n\n\
             | flag | variable | default | range | meaning |\n|---|---|---|---|---|\n{rows}"
        )
        .expect("a String");
    }
    text.push('\n');
    text
}

/// The flags of others that are refused.
fn foreign() -> String {
    let mut text = "\n| flag of TGI or TEI | instead |\n|---|---|\n".to_owned();
    for (names, advice) in server::args::foreign::FOREIGN {
        let names: Vec<String> = names.iter().map(|name| format!("`--{name}`")).collect();
        writeln!(text, "| {} | {advice} |", names.join(", ")).expect("a String");
    }
    text.push('\n');
    text
}

fn exit_codes() -> String {
    let mut text = "\n| code | `serve` ended because |\n|---|---|\n\
                    | 0 | it was told to, and drained |\n"
        .to_owned();
    for (exit, reason) in server::exit::Exit::ALL {
        writeln!(text, "| {} | {reason} |", exit.code()).expect("a String");
    }
    text.push('\n');
    text
}

#[test]
fn the_operating_page_has_the_flags_and_exit_codes() {
    let path = root().join("docs/operating.md");
    let page = std::fs::read_to_string(&path).expect("docs/operating.md");
    let parts = [
        ("flags", flags()),
        ("foreign flags", foreign()),
        ("exit codes", exit_codes()),
    ];
    let expected = parts.iter().fold(page.clone(), |page, (name, part)| {
        with_part(&page, name, part)
    });
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // Other tests read it meanwhile: it is whole at every moment.
        let next = path.with_extension("next");
        std::fs::write(&next, &expected).expect("docs/operating.md can be written");
        std::fs::rename(&next, &path).expect("docs/operating.md can be replaced");
        return;
    }
    assert!(
        page == expected,
        "docs/operating.md is out of date: run with UPDATE_DOCS=1"
    );
}

#[test]
fn the_health_flags_are_in_the_operating_page() {
    let page =
        std::fs::read_to_string(root().join("docs/operating.md")).expect("docs/operating.md");
    let command = server::args::command();
    let health = command.find_subcommand("health").expect("a sub-command");
    for argument in health.get_arguments() {
        let flag = argument.get_long().expect("there are only flags");
        assert!(
            page.contains(&format!("`--{flag}`")),
            "--{flag} is not explained"
        );
        // The page says which of them reads the environment.
        let reads = matches!(flag, "port" | "health-port");
        assert_eq!(argument.get_env().is_some(), reads, "--{flag}");
    }
    for name in ["info", "download", "verify"] {
        let command = command.find_subcommand(name).expect("a sub-command");
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(
                flag == "help" || page.contains(&format!("`--{flag}`")),
                "--{flag} of {name} is not explained"
            );
        }
    }
}

/// Every name in the last column of the table of `SECURITY.md`.
fn named_tests(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    let names = last.flat_map(|(_, names)| names.split('`').skip(1).step_by(2));
    names.filter(|name| name.contains('_')).collect()
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = std::fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let mut code = String::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("UTF-8");
            if path.is_dir() && !name.starts_with('.') && !name.starts_with("target") {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| ending == "rs" || ending == "py")
            {
                code.push_str(&std::fs::read_to_string(&path).expect("a text"));
            }
        }
    }
    let names = named_tests(&page);
    assert!(names.len() > 50, "the table was not understood: {names:?}");
    for name in names {
        let rust = format!("fn {name}(");
        let python = format!("def {name}(");
        assert!(
            code.contains(&rust) || code.contains(&python),
            "no test {name}"
        );
    }
}

#[test]
fn the_example_configuration_is_one() {
    let path = root().join("deploy/paternoster.toml");
    let path = path.to_str().expect("a path");
    let read = |path: &str| {
        let args = server::args::Args::read(["paternoster", "serve", "--config", path]);
        let command = args.expect("deploy/paternoster.toml").command;
        let server::args::Command::Serve(args) = command else {
            unreachable!("it was asked to serve")
        };
        args
    };
    assert_eq!(read(path).limits.drain_timeout.as_secs(), 60);
    // What is commented out is right as well.
    let text = std::fs::read_to_string(path).expect("the example");
    let on: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = "))
                .unwrap_or(line)
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let all = folder.path().join("all.toml");
    std::fs::write(&all, on.join("\n")).expect("a file");
    let args = read(all.to_str().expect("a path"));
    assert_eq!(args.models.model_id.len(), 2);
}
