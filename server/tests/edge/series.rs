//! The series of `/metrics`: which are there from the start, and what is counted under the names of
//! others.

use std::collections::BTreeSet;
use std::path::Path;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use paternoster_client::v1;
use server::clock::EdgeClock;
use server::security::{KeyHash, Security, SecurityConfig};

use crate::world::{Plan, World, ask, eventually, reason, soon};

/// Name and labels of every series of a page; those of histograms without their values.
fn series(recorder: &PrometheusRecorder) -> BTreeSet<String> {
    let page = recorder.handle().render();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.rsplit_once(' '));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// What one series of a page stands at; 0 if there is none.
fn value(recorder: &PrometheusRecorder, name: &str) -> u64 {
    let page = recorder.handle().render();
    let lines = page.lines().filter_map(|line| line.rsplit_once(' '));
    let found = lines.filter(|(series, _)| *series == name);
    found
        .map(|(_, value)| value.parse::<f64>().unwrap() as u64)
        .sum()
}

/// Every selector of the rules: the metric and the matchers in its braces.
fn selectors(rules: &str) -> Vec<(&str, &str)> {
    let names = rules
        .match_indices("paternoster_")
        .map(|(at, _)| &rules[at..]);
    let selectors = names.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let (name, rest) = rest.split_at(end);
        let matchers = rest.strip_prefix('{')?;
        Some((name, matchers.split_once('}')?.0))
    });
    selectors.collect()
}

/// The values that a selector asks a label to have, label by label.
fn asked(matchers: &str) -> Vec<(&str, Vec<&str>)> {
    let quoted = matchers
        .split("\",")
        .map(|matcher| matcher.trim_end_matches('"'));
    let matchers = quoted.filter_map(|matcher| {
        matcher
            .split_once("=\"")
            .or_else(|| matcher.split_once("=~\""))
    });
    let known = matchers.filter(|(label, _)| !label.ends_with('!') && *label != "le");
    known
        .map(|(label, values)| (label.trim_end_matches('='), values.split('|').collect()))
        .collect()
}

#[tokio::test]
async fn what_alerts_read_is_there_from_the_start() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let plan = Plan {
        security: keyed().into(),
        ..Plan::default()
    };
    let _world = World::start(plan).await;
    let there = series(&recorder);
    let path = "../deploy/prometheus/rules.yaml";
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let rules = std::fs::read_to_string(rules).unwrap();
    let mut looked_for = 0;
    for (name, matchers) in selectors(&rules) {
        for (label, values) in asked(matchers) {
            for value in values {
                let labelled = format!("{label}=\"{value}\"");
                let of_name = |series: &&String| series.starts_with(&format!("{name}{{"));
                let found = there
                    .iter()
                    .filter(of_name)
                    .any(|series| series.contains(&labelled));
                assert!(found, "no {name} with {labelled} at the start");
                looked_for += 1;
            }
        }
    }
    assert!(
        looked_for > 20,
        "the rules were not understood: {looked_for}"
    );
}

/// One key, in the default tenant.
fn keyed() -> Security {
    let config = SecurityConfig {
        api_keys: vec![KeyHash::of(b"0123456789abcdef0123456789abcdef")],
        ..SecurityConfig::default()
    };
    Security::load(config, EdgeClock::default()).unwrap()
}

#[tokio::test]
async fn what_fails_through_the_server_begins_no_series() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let mut plan = Plan::default();
    plan.limits.calls_max = 1;
    let world = World::ready_with(plan).await;
    let before = series(&recorder);
    let mut inference = world.client.inference();
    inference.complete(ask("hello", 3)).await.unwrap();
    world.client.embed(["one", "two"]).await.unwrap();
    inference.complete(ask("", 3)).await.unwrap_err();
    world.device.hold();
    let running = world.client.generate(ask("hello", 400)).await.unwrap();
    let refused = inference.complete(ask("hello", 4)).await.unwrap_err();
    assert_eq!(reason(&refused).0, "QUEUE_FULL");
    drop(running);
    let cancelled = "paternoster_requests_total{method=\"Generate\",code=\"CANCELLED\"}";
    eventually(|| value(&recorder, cancelled) > 0).await;
    let running = "paternoster_calls_in_flight{method=\"Generate\"}";
    assert_eq!(value(&recorder, running), 0);
    let late = v1::GenerateRequest {
        deadline_ms: Some(1),
        ..ask("hello", 4)
    };
    soon(inference.complete(late)).await.unwrap_err();
    world.device.release();
    world.app.lifecycle.draining.cancel();
    let refused = inference.complete(ask("hello", 4)).await.unwrap_err();
    assert_eq!(reason(&refused).0, "DRAINING");
    let new: Vec<String> = series(&recorder).difference(&before).cloned().collect();
    assert_eq!(
        new,
        [
            "paternoster_call_errors_total{method=\"Complete\",reason=\"EMPTY_INPUT\"}",
            "paternoster_requests_total{method=\"Complete\",code=\"INVALID_ARGUMENT\"}",
        ]
    );
}

#[tokio::test]
async fn calls_are_counted_once_more_under_the_names_of_tgi_and_tei() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let world = World::ready().await;
    let mut inference = world.client.inference();
    inference.complete(ask("hello", 3)).await.unwrap();
    inference.complete(ask("", 3)).await.unwrap_err();
    let nobody = v1::GenerateRequest {
        model: "nobody".to_owned(),
        ..ask("hello", 3)
    };
    inference.complete(nobody).await.unwrap_err();
    world.client.embed(["one", "two"]).await.unwrap();
    world.client.embed(["three"]).await.unwrap();
    world.client.embed([""]).await.unwrap_err();
    world.get("/metrics").await;
    for (series, expected) in [
        ("tgi_request_count{model=\"tiny\"}", 2),
        ("tgi_request_success{model=\"tiny\"}", 1),
        ("tgi_request_failure{model=\"tiny\",err=\"validation\"}", 1),
        ("tgi_request_failure{model=\"tiny\",err=\"overloaded\"}", 0),
        ("tgi_request_failure{model=\"\",err=\"validation\"}", 1),
        ("tgi_request_duration_count{model=\"tiny\"}", 1),
        ("tgi_request_queue_duration_count{model=\"tiny\"}", 1),
        (
            "tgi_request_mean_time_per_token_duration_count{model=\"tiny\"}",
            1,
        ),
        ("tgi_request_input_length_sum{model=\"tiny\"}", 5),
        ("tgi_request_max_new_tokens_sum{model=\"tiny\"}", 3),
        ("tgi_request_generated_tokens_sum{model=\"tiny\"}", 3),
        ("tgi_batch_max_total_tokens{model=\"tiny\"}", 4096),
        ("tgi_queue_size{model=\"tiny\"}", 0),
        ("te_request_count{model=\"vectors\",method=\"batch\"}", 1),
        ("te_request_count{model=\"vectors\",method=\"single\"}", 2),
        ("te_request_success{model=\"vectors\",method=\"batch\"}", 1),
        ("te_request_success{model=\"vectors\",method=\"single\"}", 1),
        (
            "te_request_failure{model=\"vectors\",err=\"validation\"}",
            1,
        ),
        ("te_request_duration_count{model=\"vectors\"}", 2),
        ("te_embed_count{model=\"vectors\"}", 3),
        ("te_embed_success{model=\"vectors\"}", 3),
        ("te_embed_duration_count{model=\"vectors\"}", 3),
        ("te_request_queue_duration_count{model=\"vectors\"}", 3),
        ("te_predict_count{model=\"vectors\"}", 0),
        ("te_request_input_length_sum{model=\"vectors\"}", 11),
        ("te_batch_next_tokens_sum{model=\"vectors\"}", 11),
        ("te_queue_size{model=\"vectors\"}", 0),
    ] {
        let there = self::series(&recorder).contains(series);
        let found = value(&recorder, series);
        assert!(
            there && found == expected,
            "{series} {found}, not {expected}"
        );
    }
}

#[tokio::test]
async fn requests_of_streams_are_requests_to_tei() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let world = World::ready().await;
    let request = |text: &str| v1::EmbedRequest {
        inputs: vec![text.to_owned()],
        ..v1::EmbedRequest::default()
    };
    let requests = futures_util::stream::iter(["one", "two", ""].map(request));
    let mut inference = world.client.inference();
    let mut answers = inference.embed_stream(requests).await.unwrap().into_inner();
    while let Ok(Some(_)) = soon(answers.message()).await {}
    for (series, expected) in [
        ("te_request_count{model=\"vectors\",method=\"single\"}", 3),
        ("te_request_success{model=\"vectors\",method=\"single\"}", 2),
        (
            "te_request_failure{model=\"vectors\",err=\"validation\"}",
            1,
        ),
        (
            "paternoster_stream_messages_total{method=\"EmbedStream\",code=\"OK\"}",
            2,
        ),
    ] {
        assert_eq!(value(&recorder, series), expected, "{series}");
    }
}
