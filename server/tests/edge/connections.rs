//! How many connections there may be, how long each may stay, and what is answered where.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Client, v1};
use server::transport::UnixSocket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::raw::{RawClient, end_of};
use crate::world::{Plan, REVISION, World, ask, eventually, reason, soon};

const GENERATE: &str = "/paternoster.v1.Inference/Generate";
/// What begins a connection of HTTP/2, and an empty frame of settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How many connections were closed or told to leave for a reason, in all tests together.
async fn closed(world: &World, reason: &str) -> u64 {
    let page = world.get("/metrics").await;
    let series = format!("paternoster_connections_closed_total{{reason=\"{reason}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Returns when the server has closed the connection; what it sent until then does not matter.
async fn ended(mut stream: TcpStream) {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _read = soon(stream.read_to_end(&mut answer)).await;
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let mut plan = Plan::default();
    plan.limits.connections_per_address_max = 3;
    let world = World::ready_with(plan).await;
    let before = closed(&world, "over_address_limit").await;
    let _second = TcpStream::connect(world.address).await.unwrap();
    let third = TcpStream::connect(world.address).await.unwrap();
    let elsewhere = TcpStream::connect(world.address).await.unwrap();
    ended(elsewhere).await;
    drop(third);
    // Its place is free once the server has seen it go.
    let after = soon(async {
        loop {
            let page = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let mut stream = TcpStream::connect(world.address).await.unwrap();
            let mut answer = String::new();
            let _sent = stream.write_all(page.as_bytes()).await;
            let _read = stream.read_to_string(&mut answer).await;
            if !answer.is_empty() {
                return closed(&world, "over_address_limit").await;
            }
        }
    })
    .await;
    assert!(after > before);
    world
        .client
        .inference()
        .complete(ask("still here", 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn silent_connections_and_half_prefaces_are_closed_beside_a_healthy_one() {
    let mut plan = Plan::default();
    plan.limits.greeting_timeout = Duration::from_millis(200);
    plan.limits.connections_per_address_max = 1000;
    let world = World::ready_with(plan).await;
    let before = closed(&world, "silent").await;
    let mut connections = Vec::new();
    for number in 0..800 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        if number % 2 == 1 {
            let half = &HELLO[..=number / 2 % 23];
            // It may have been closed already.
            let _sent = stream.write_all(half).await;
        }
        connections.push(stream);
    }
    let complete = async || {
        let asked = ask("still here", 1);
        soon(world.client.inference().complete(asked))
            .await
            .unwrap();
    };
    complete().await;
    for stream in connections {
        ended(stream).await;
    }
    complete().await;
    assert!(closed(&world, "silent").await - before >= 400);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed() {
    let mut plan = Plan::default();
    plan.limits.keepalive_interval = Duration::from_millis(20);
    // Long enough for a healthy peer on a machine that is busy with other things.
    plan.limits.keepalive_timeout = Duration::from_millis(500);
    let world = World::ready_with(plan).await;
    let mut frozen = TcpStream::connect(world.address).await.unwrap();
    frozen.write_all(HELLO).await.unwrap();
    ended(frozen).await;
    world
        .client
        .inference()
        .complete(ask("still here", 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_learns_how_many_calls_a_connection_takes() {
    let mut plan = Plan::default();
    plan.limits.streams_per_connection_max = 2;
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let mut call = raw.call(GENERATE, &ask("hello", 1)).await;
    assert_eq!(call.status().await.code(), Code::Ok);
    assert_eq!(raw.streams_max(), 2);
}

#[tokio::test]
async fn an_old_connection_leaves_after_its_calls() {
    let mut plan = Plan::default();
    plan.limits.connection_age_max = Some(Duration::from_millis(50));
    let world = World::ready_with(plan).await;
    world.device.hold();
    // A connection may be told to leave before the call begins; the next call gets another one.
    let mut running = loop {
        if let Ok(running) = world.client.generate(ask("hello", 20)).await {
            break running;
        }
    };
    let before = closed(&world, "aged").await;
    // Another connection, younger than the stream's, is told to leave in the meantime.
    for _ in 0..3 {
        RawClient::connect(world.address, 1 << 16)
            .await
            .closed()
            .await;
    }
    assert!(closed(&world, "aged").await - before >= 3);
    world.device.release();
    let mut text = String::new();
    while let Some(event) = soon(running.next()).await.unwrap() {
        if let Event::Delta(delta) = event {
            text += &delta.text;
        }
    }
    assert_eq!(text, world.expected_text("hello", 20));
}

#[tokio::test]
async fn a_connection_without_a_call_is_told_to_leave() {
    let mut plan = Plan::default();
    plan.limits.connection_idle_timeout = Duration::from_millis(500);
    let world = World::ready_with(plan).await;
    let idle = "paternoster_connections_closed_total{reason=\"idle\"}";
    let before = world.measured(idle);
    world.device.hold();
    let mut busy = RawClient::connect(world.address, 1 << 16).await;
    let mut running = busy.call(GENERATE, &ask("hello", 20)).await;
    let mut between = RawClient::connect(world.address, 1 << 16).await;
    let status = between.call(GENERATE, &ask("", 1)).await.status().await;
    assert_eq!(reason(&status).0, "EMPTY_INPUT");
    between.closed().await;
    RawClient::connect(world.address, 1 << 16)
        .await
        .closed()
        .await;
    assert!(world.measured(idle) - before >= 2.0);
    // Several idle times have passed, and its call has not ended.
    world.device.release();
    assert_eq!(running.status().await.code(), Code::Ok);
    busy.closed().await;
}

#[tokio::test]
async fn what_only_watches_does_not_keep_an_old_connection() {
    let mut plan = Plan::default();
    plan.limits.connection_age_max = Some(Duration::from_secs(1));
    plan.limits.request_timeout_max = Duration::from_millis(50);
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let request = HealthCheckRequest::default();
    let mut watch = raw.call("/grpc.health.v1.Health/Watch", &request).await;
    // It has begun before the connection is old.
    let (_, mut body) = watch.head().await;
    soon(body.data()).await.unwrap().unwrap();
    raw.closed().await;
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paternoster.sock");
    let world = World::ready_with(Plan {
        unix: Some(UnixSocket::bind(&path).unwrap()),
        ..Plan::default()
    })
    .await;
    let to = path.clone();
    let connect = tower::service_fn(move |_uri| {
        let to = to.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(to).await?)) }
    });
    let endpoint = Endpoint::from_static("http://server");
    let channel = endpoint.connect_with_connector(connect).await.unwrap();
    let client = Client::over(channel);
    client.inference().complete(ask("hello", 2)).await.unwrap();
    drop(client);
    world.shutdown.cancel();
    world.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn at_the_entrance_of_probes_there_is_health_and_no_work() {
    let probes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = probes.local_addr().unwrap();
    let world = World::ready_with(Plan {
        probes: Some(probes),
        ..Plan::default()
    })
    .await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    let client = Client::over(channel);
    let status = client.generate(ask("hello", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut control = client.control();
    let status = control.drain(v1::DrainRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    for page in ["/health", "/ready", "/metrics"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{page}: {answer}");
    }
    // It stays until the end, and says that the server is about to leave.
    world.device.hold();
    let running = world.client.generate(ask("hello", 5)).await.unwrap();
    world.shutdown.cancel();
    soon(world.app.lifecycle.draining.cancelled()).await;
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.get_ref().status(), ServingStatus::NotServing);
    world.device.release();
    drop(running);
    world.ended().await;
}

#[tokio::test]
async fn an_odd_path_comes_to_no_method() {
    let world = World::ready().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    for path in [
        "//paternoster.v1.Inference/Generate",
        "/paternoster.v1.Inference//Generate",
        "/paternoster.v1.Inference/Generate/",
        "/paternoster.v1.inference/generate",
        "/paternoster%2ev1.Inference/Generate",
        "/paternoster.v1.Inference/%47enerate",
        "/x/../paternoster.v1.Inference/Generate",
        "/grpc.health.v1.Health/../paternoster.v1.Control/Drain",
    ] {
        let status = raw.call(path, &ask("hello", 1)).await.status().await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        assert_eq!(reason(&status).0, "NOT_IMPLEMENTED", "{path}");
    }
    assert_eq!(*world.device.launched().borrow(), 0, "nothing was computed");
}

#[tokio::test]
async fn a_timeout_that_cannot_be_read_is_an_error() {
    let world = World::ready().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    for timeout in ["9999999999S", "abc", "-1S", "1", "S", "1 S", "1.5S"] {
        let mut call = raw.begin(GENERATE, Some(timeout)).await;
        let status = call.status().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{timeout}");
        assert_eq!(reason(&status).0, "BAD_TIMEOUT", "{timeout}");
    }
    let mut call = raw.begin(GENERATE, Some("99999999H")).await;
    call.finish(&ask("hello", 1));
    assert_eq!(call.status().await.code(), Code::Ok);
}

#[tokio::test]
async fn the_end_of_an_answer_tells_what_was_done() {
    let world = World::ready().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    for path in [GENERATE, "/paternoster.v1.Inference/Complete"] {
        let mut call = raw.call(path, &ask("hello", 3)).await;
        let (head, body) = call.head().await;
        assert!(head.contains_key("x-request-id"));
        let status = end_of(body).await;
        let told = |name: &str| status.metadata().get(name).unwrap().to_str().unwrap();
        assert_eq!(told("x-request-id"), head["x-request-id"].to_str().unwrap());
        assert_eq!(told("x-model-id"), "tiny");
        assert_eq!(told("x-model-revision"), REVISION);
        assert_eq!(told("x-prompt-tokens"), "5");
        assert_eq!(told("x-cached-tokens"), "0");
        assert_eq!(told("x-generated-tokens"), "3");
        let queued: u64 = told("x-queue-time-ms").parse().unwrap();
        let first: u64 = told("x-ttft-ms").parse().unwrap();
        assert!(queued <= first);
    }
    let embed = v1::EmbedRequest {
        inputs: vec!["one".to_owned(), "two".to_owned()],
        ..v1::EmbedRequest::default()
    };
    let mut call = raw.call("/paternoster.v1.Inference/Embed", &embed).await;
    let status = call.status().await;
    assert_eq!(status.metadata().get("x-prompt-tokens").unwrap(), "6");
    assert_eq!(status.metadata().get("x-model-id").unwrap(), "vectors");
    for unknown in ["x-cached-tokens", "x-model-revision"] {
        assert!(!status.metadata().contains_key(unknown), "{unknown}");
    }
    let mut check = raw
        .call(
            "/grpc.health.v1.Health/Check",
            &HealthCheckRequest::default(),
        )
        .await;
    let status = check.status().await;
    assert!(!status.metadata().contains_key("x-prompt-tokens"));
    eventually(|| world.decoder().handle.stats().blocks_active == 0).await;
}
