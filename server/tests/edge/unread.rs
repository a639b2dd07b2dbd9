//! Clients that do not read, do not send, or do neither: what they hold ends in bounded time.

use std::time::Duration;

use futures_util::stream;
use paternoster_client::v1;
use server::limits::PAGES_MAX;
use tonic::{Code, Request};

use crate::raw::{RawClient, end_of};
use crate::world::{Plan, World, ask, reason, soon};

const GENERATE: &str = "/paternoster.v1.Inference/Generate";
const COMPLETE: &str = "/paternoster.v1.Inference/Complete";
const EMBED_STREAM: &str = "/paternoster.v1.Inference/EmbedStream";
const TOKENIZE: &str = "/paternoster.v1.Inference/Tokenize";
const GET_TOKENIZER: &str = "/paternoster.v1.Control/GetTokenizer";

fn plan(calls_max: usize) -> Plan {
    let mut plan = Plan::default();
    plan.limits.calls_max = calls_max;
    plan
}

/// Completes as soon as there is a place.
async fn complete_when_there_is_room(world: &World) {
    let complete = async {
        while let Err(status) = world.client.inference().complete(ask("next", 2)).await {
            assert_eq!(reason(&status).0, "QUEUE_FULL");
            tokio::task::yield_now().await;
        }
    };
    soon(complete).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_give_their_places_back() {
    let mut plan = plan(2);
    plan.limits.stream_stall_timeout = Duration::from_millis(400);
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 0).await;
    let mut unread = Vec::new();
    for _ in 0..2 {
        let mut call = raw.call(GENERATE, &ask("hello", 400)).await;
        let (_, body) = call.head().await;
        unread.push((call, body));
    }
    complete_when_there_is_room(&world).await;
    world.blocks_are_free().await;
    // A client that still does not read loses its connection, and with it what is kept for it.
    raw.closed().await;
    for series in [
        "paternoster_call_errors_total{method=\"Generate\",reason=\"CONSUMER_TOO_SLOW\"}",
        "paternoster_connections_closed_total{reason=\"stalled\"}",
    ] {
        assert!(world.measured(series) >= 1.0, "{series}");
    }
}

#[tokio::test]
async fn pages_that_nobody_reads_are_few_and_cost_their_connection() {
    let mut plan = plan(2);
    plan.limits.stream_stall_timeout = Duration::from_secs(1);
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 0).await;
    let mut unread = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = raw.get("/metrics").await;
        assert_eq!(page.status(), 200);
        unread.push(page);
    }
    assert_eq!(raw.get("/metrics").await.status(), 503);
    raw.closed().await;
}

#[tokio::test]
async fn a_large_answer_that_nobody_reads_keeps_its_place_until_the_stall_timeout() {
    let mut plan = plan(1);
    plan.limits.stream_stall_timeout = Duration::from_secs(1);
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 1).await;
    // One message of more than 100 KiB.
    let message = v1::TokenizeRequest {
        input: Some(v1::tokenize_request::Input::Prompt("x".repeat(16 << 10))),
        ..v1::TokenizeRequest::default()
    };
    let mut call = raw.call(TOKENIZE, &message).await;
    let (_, mut body) = call.head().await;
    let first = soon(body.data()).await.unwrap().unwrap();
    assert_eq!(first.len(), 1);
    let other = world.client.inference().complete(ask("next", 2)).await;
    assert_eq!(reason(&other.unwrap_err()).0, "QUEUE_FULL");
    complete_when_there_is_room(&world).await;
    raw.open_window(1 << 16);
    let status = end_of(body).await;
    let found = (status.code(), reason(&status).0);
    let expected = (Code::ResourceExhausted, "CONSUMER_TOO_SLOW".to_owned());
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_large_part_that_is_read_slowly_but_steadily_is_not_cut() {
    let mut plan = Plan::default();
    plan.limits.stream_stall_timeout = Duration::from_secs(1);
    let world = World::ready_with(plan).await;
    let beats = v1::WatchLoadRequest {
        model: String::new(),
        interval_ms: Some(100),
    };
    let beats = world.client.control().watch_load(beats).await.unwrap();
    let mut beats = beats.into_inner();
    let mut raw = RawClient::connect(world.address, 8 << 10).await;
    // Its first part alone is 256 KiB.
    let message = v1::GetTokenizerRequest::default();
    let mut call = raw.call(GET_TOKENIZER, &message).await;
    let (_, mut body) = call.head().await;
    for _ in 0..20 {
        assert!(soon(beats.message()).await.unwrap().is_some());
        let part = soon(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    assert_eq!(end_of(body).await.code(), Code::Ok);
}

#[tokio::test]
async fn a_deadline_holds_while_nobody_reads_and_is_said_afterwards() {
    let world = World::ready_with(plan(1)).await;
    let mut raw = RawClient::connect(world.address, 0).await;
    let mut call = raw.begin(GENERATE, Some("500m")).await;
    call.finish(&ask("hello", 400));
    let (_, body) = call.head().await;
    complete_when_there_is_room(&world).await;
    raw.open_window(1 << 16);
    let status = end_of(body).await;
    let found = (status.code(), reason(&status).0);
    let expected = (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned());
    assert_eq!(found, expected);
    assert_eq!(status.metadata().get("x-prompt-tokens").unwrap(), "5");
}

#[tokio::test]
async fn an_abort_reaches_a_stream_that_nobody_reads() {
    let mut plan = plan(1);
    plan.limits.stream_stall_timeout = Duration::from_mins(1);
    let world = World::ready_with(plan).await;
    world.device.hold();
    let mut raw = RawClient::connect(world.address, 0).await;
    let named = v1::GenerateRequest {
        request_id: "unread".to_owned(),
        ..ask("hello", 400)
    };
    let mut call = raw.call(GENERATE, &named).await;
    let (head, body) = call.head().await;
    assert_eq!(head.get("x-request-id").unwrap(), "unread");
    world.device.allow(3);
    let request_id = named.request_id;
    let abort = v1::AbortRequest { request_id };
    let mut control = world.client.control();
    assert_eq!(control.abort(abort).await.unwrap().get_ref().aborted, 1);
    world.device.release();
    complete_when_there_is_room(&world).await;
    raw.open_window(1 << 16);
    assert_eq!(reason(&end_of(body).await).0, "REQUEST_ABORTED");
}

#[tokio::test]
async fn calls_that_are_taken_back_give_their_places_back() {
    let world = World::ready_with(plan(2)).await;
    for _ in 0..3 {
        world.device.hold();
        let begin = async {
            let mut running = Vec::new();
            while running.len() < 2 {
                // The places of the last ones come back when the server has seen them go.
                running.extend(world.client.generate(ask("hello", 400)).await.ok());
            }
            running
        };
        drop(soon(Box::pin(world.stepping(begin))).await);
        world.device.release();
        complete_when_there_is_room(&world).await;
    }
}

#[tokio::test]
async fn half_a_request_takes_no_place_and_is_not_waited_for() {
    let mut plan = plan(1);
    plan.limits.message_timeout = Duration::from_millis(40);
    let world = World::ready_with(plan).await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let mut half = [
        raw.begin(GENERATE, None).await,
        raw.begin(COMPLETE, None).await,
    ];
    let complete = world.client.inference().complete(ask("whole", 2)).await;
    complete.unwrap();
    for call in &mut half {
        let status = call.status().await;
        let found = (status.code(), reason(&status).0);
        let expected = (Code::DeadlineExceeded, "MESSAGE_OVERDUE".to_owned());
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_silent_stream_of_requests_takes_no_place_and_ends() {
    let mut plan = plan(1);
    plan.limits.stream_idle_timeout = Duration::from_millis(40);
    let world = World::ready_with(plan).await;
    let mut inference = world.client.inference();
    let answers = inference.embed_stream(stream::pending());
    let mut answers = answers.await.unwrap().into_inner();
    world.client.embed(["beside it"]).await.unwrap();
    let status = soon(answers.message()).await.unwrap_err();
    let found = (status.code(), reason(&status).0);
    let expected = (Code::DeadlineExceeded, "MESSAGE_OVERDUE".to_owned());
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_stream_of_requests_keeps_the_deadline_it_asked_for() {
    let world = World::ready().await;
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let mut call = raw.begin(EMBED_STREAM, Some("30m")).await;
    let status = call.status().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn what_only_watches_keeps_its_deadline_too() {
    let mut plan = Plan::default();
    plan.limits.stream_stall_timeout = Duration::from_millis(40);
    let world = World::ready_with(plan).await;
    let mut request = Request::new(v1::WatchLoadRequest {
        model: String::new(),
        interval_ms: Some(60_000),
    });
    request.set_timeout(Duration::from_millis(500));
    let loads = world.client.control().watch_load(request).await.unwrap();
    let mut loads = loads.into_inner();
    assert!(soon(loads.message()).await.unwrap().is_some());
    let status = soon(loads.message()).await.unwrap_err();
    assert_eq!(reason(&status).0, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn the_tokenizer_is_read_once_and_handed_to_a_few_at_a_time() {
    let world = World::ready().await;
    let mut raw = RawClient::connect(world.address, 0).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let message = v1::GetTokenizerRequest::default();
        let mut call = raw.call(GET_TOKENIZER, &message).await;
        let (_, body) = call.head().await;
        unread.push((call, body));
    }
    let mut control = world.client.control();
    let ninth = control.get_tokenizer(v1::GetTokenizerRequest::default());
    let status = soon(ninth).await.unwrap_err();
    assert_eq!(reason(&status).0, "QUEUE_FULL");
    assert_eq!(world.files_read(), 3, "each of the three files once");
}
