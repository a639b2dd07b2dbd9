//! HTTP/1.1 on the same port, and connections that say nothing or too much.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::raw::RawClient;
use crate::world::{Plan, World, ask, soon};

#[tokio::test]
async fn probes_follow_the_engines() {
    let world = World::ready().await;
    assert!(world.get("/health").await.starts_with("HTTP/1.1 200"));
    assert!(world.get("/ready").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_are_rendered_with_help_and_buckets() {
    let world = World::ready().await;
    world
        .client
        .inference()
        .complete(ask("hello", 3))
        .await
        .unwrap();
    let mut inference = world.client.inference();
    inference.complete(ask("", 3)).await.unwrap_err();
    world.client.embed(["lift"]).await.unwrap();
    let page = world.get("/metrics").await;
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    for series in [
        "paternoster_requests_total{method=\"Complete\",code=\"OK\"}",
        "paternoster_requests_total{method=\"Embed\",code=\"OK\"}",
        "paternoster_calls_in_flight{method=\"Complete\"} ",
        "paternoster_build_info{version=",
        "paternoster_model_info{model=\"tiny\",architecture=\"Fake\",dtype=\"f32\"} 1",
        "paternoster_generation_tokens_total{model=\"tiny\"}",
        "paternoster_connections ",
        "paternoster_panics_total",
        "paternoster_call_errors_total{method=\"Complete\",reason=\"EMPTY_INPUT\"} ",
        "vllm:prompt_tokens_cached_total{model_name=\"tiny\",engine=\"0\"} ",
        "vllm:request_params_n_bucket{model_name=\"tiny\",engine=\"0\",le=\"1\"} ",
        "vllm:request_params_max_tokens_bucket{model_name=\"tiny\",engine=\"0\",le=\"5\"} ",
        "paternoster_tokenize_seconds_bucket{model=\"tiny\"",
        "paternoster_tokenize_seconds_bucket{model=\"vectors\"",
        "# HELP paternoster_requests_total ",
        "vllm:time_to_first_token_seconds_bucket{",
        "vllm:num_requests_running{",
    ] {
        assert!(page.contains(series), "no {series} in:\n{page}");
    }
}

#[tokio::test]
async fn what_is_not_a_page_is_not_found() {
    let world = World::ready().await;
    assert!(world.get("/version").await.starts_with("HTTP/1.1 404"));
    assert!(
        world
            .get("/paternoster.v1.Inference/Generate")
            .await
            .starts_with("HTTP/1.1 404")
    );
    let post =
        "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(world.raw(post).await.starts_with("HTTP/1.1 405"));
    let grpc = "POST /paternoster.v1.Inference/Embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
    assert!(world.raw(grpc).await.starts_with("HTTP/1.1 505"));
    let web = "POST /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
               content-type: application/grpc-web\r\ncontent-length: 0\r\n\r\n";
    assert!(world.raw(web).await.starts_with("HTTP/1.1 415"));
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let mut plan = Plan::default();
    plan.limits.greeting_timeout = Duration::from_millis(20);
    let world = World::ready_with(plan).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let mut byte = [0];
    assert_eq!(soon(silent.read(&mut byte)).await.unwrap(), 0);
    assert!(world.raw("PRI * HTTP/2.0\r\n").await.is_empty());
    world
        .client
        .inference()
        .complete(ask("still here", 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn connections_above_the_cap_are_closed() {
    let mut plan = Plan::default();
    plan.limits.connections_max = 2;
    let world = World::ready_with(plan).await;
    let _second = TcpStream::connect(world.address).await.unwrap();
    let mut third = TcpStream::connect(world.address).await.unwrap();
    let mut byte = [0];
    assert_eq!(soon(third.read(&mut byte)).await.unwrap(), 0);
    world
        .client
        .inference()
        .complete(ask("still here", 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_without_calls_is_told_to_leave() {
    let mut plan = Plan::default();
    plan.limits.connection_idle_timeout = Duration::from_millis(20);
    let world = World::ready_with(plan).await;
    world.device.hold();
    // Its connection may be told to leave before the call begins; the next call gets another one.
    let running = loop {
        if let Ok(running) = world.client.generate(ask("hello", 5)).await {
            break running;
        }
    };
    let idle = async || {
        let silent = RawClient::connect(world.address, 1 << 16).await;
        silent.closed().await;
    };
    let counted = async || {
        let page = world.get("/metrics").await;
        let series = "paternoster_connections_closed_total{reason=\"idle\"} ";
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    // The client's own connection may have been told too, before its call began.
    let before = counted().await;
    // One after the other, so that the stream meets several looks.
    idle().await;
    idle().await;
    idle().await;
    // The connection of the stream is not one of them.
    assert_eq!(counted().await - before, 3);
    drop(running);
    world.device.release();
}
