//! `Generate` and `Complete`: what comes, in which order, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use engine::clock::Clock;
use engine::fake::{Fault, ManualClock};
use engine::request::Token;
use engine::sampling::Sampling;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Events, v1};
use tonic::{Code, IntoRequest, Request, Status};

use crate::world::{Plan, World, ask, eventually, reason, soon, text};

async fn all(mut events: Events) -> Result<Vec<Event>, Status> {
    let mut seen = Vec::new();
    while let Some(event) = soon(events.next()).await? {
        seen.push(event);
    }
    Ok(seen)
}

async fn run(world: &World, request: v1::GenerateRequest) -> Vec<Event> {
    all(world.client.generate(request).await.unwrap())
        .await
        .unwrap()
}

async fn failure(world: &World, request: impl IntoRequest<v1::GenerateRequest>) -> Status {
    match world.client.generate(request).await {
        Ok(events) => all(events).await.unwrap_err(),
        Err(status) => status,
    }
}

fn text_of(events: &[Event], sequence: u32) -> String {
    let text = |event: &Event| match event {
        Event::Delta(delta) if delta.index == sequence => Some(delta.text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn ids_of(events: &[Event]) -> Vec<u32> {
    let ids = |event: &Event| match event {
        Event::Delta(delta) => delta.token_ids.clone(),
        _ => Vec::new(),
    };
    events.iter().flat_map(ids).collect()
}

fn finishes(events: &[Event]) -> Vec<&v1::Finished> {
    let mut finished = Vec::new();
    for event in events {
        if let Event::Finished(end) = event {
            finished.push(end);
        }
    }
    finished
}

#[tokio::test]
async fn a_stream_starts_flows_and_finishes_once() {
    let world = World::ready().await;
    let events = run(&world, ask("hello", 40)).await;
    let Some(Event::Started(started)) = events.first() else {
        panic!("{events:?}")
    };
    assert_eq!((started.prompt_tokens, started.cached_tokens), (5, 0));
    assert_eq!(started.model, "tiny");
    assert!(!started.request_id.is_empty());
    assert_eq!(text_of(&events, 0), world.expected_text("hello", 40));
    assert_eq!(ids_of(&events).len(), 40);
    let Some(Event::Finished(finished)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(finished.reason(), v1::FinishReason::Length);
    let usage = v1::Usage {
        prompt_tokens: 5,
        cached_tokens: 0,
        generated_tokens: 40,
    };
    assert_eq!(finished.usage, Some(usage));
    assert_eq!(finishes(&events).len(), 1);
    assert!(
        events[1..events.len() - 1]
            .iter()
            .all(|event| matches!(event, Event::Delta(_)))
    );
}

#[tokio::test]
async fn a_request_keeps_its_own_id() {
    let world = World::ready().await;
    let mut named = Request::new(ask("hello", 1));
    named
        .metadata_mut()
        .insert("x-request-id", "from-metadata".parse().unwrap());
    let answer = world.client.inference().complete(named).await.unwrap();
    assert_eq!(
        answer.metadata().get("x-request-id").unwrap(),
        "from-metadata"
    );
    assert_eq!(answer.get_ref().request_id, "from-metadata");
    let own = v1::GenerateRequest {
        request_id: "own.1".to_owned(),
        ..ask("hello", 1)
    };
    let answer = world.client.inference().complete(own).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "own.1");
    let mut odd = Request::new(ask("hello", 1));
    odd.metadata_mut()
        .insert("x-request-id", "no spaces please".parse().unwrap());
    let answer = world.client.inference().complete(odd).await.unwrap();
    assert!(!answer.get_ref().request_id.contains(' '));
}

#[tokio::test]
async fn complete_is_the_collected_stream() {
    let world = World::ready().await;
    let answer = world
        .client
        .inference()
        .complete(ask("hello", 30))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.completions.len(), 1);
    let completion = &answer.completions[0];
    assert_eq!(completion.text, world.expected_text("hello", 30));
    assert_eq!(completion.token_ids.len(), 30);
    assert_eq!(completion.reason(), v1::FinishReason::Length);
    assert_eq!(answer.usage.unwrap().generated_tokens, 30);
    assert_eq!(answer.model, "tiny");
}

#[tokio::test]
async fn sequences_of_one_request_draw_with_seeds_of_their_own() {
    let world = World::ready().await;
    let mut request = ask("hello", 12);
    request.sampling = Some(v1::Sampling {
        n: Some(3),
        seed: Some(7),
        ..v1::Sampling::default()
    });
    let events = run(&world, request).await;
    let prompt: Vec<Token> = b"hello".iter().map(|&byte| Token(byte.into())).collect();
    for index in 0..3 {
        let seed = 7 + u64::from(index);
        let sampling = Sampling {
            temperature: Some(1.0),
            seed,
            ..Sampling::default()
        };
        let expected = world.device.expected_sampled(&sampling, &prompt, 12);
        assert_eq!(text_of(&events, index), text(&expected), "sequence {index}");
    }
    let mut ends: Vec<u32> = finishes(&events)
        .iter()
        .map(|finished| finished.index)
        .collect();
    ends.sort_unstable();
    assert_eq!(ends, [0, 1, 2]);
    assert!(matches!(events[0], Event::Started(_)));
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Started(_)))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_it() {
    let world = World::ready().await;
    let whole = world.expected_text("hello", 40);
    let stop = whole[20..23].to_owned();
    let before = &whole[..whole.find(&stop).unwrap()];
    let mut request = ask("hello", 400);
    request.stopping.as_mut().unwrap().stop = vec!["0never".to_owned(), stop.clone()];
    let events = run(&world, request).await;
    assert_eq!(text_of(&events, 0), before);
    let end = finishes(&events)[0];
    assert_eq!(
        (end.reason(), end.stop.as_str()),
        (v1::FinishReason::StopString, stop.as_str())
    );
    assert_eq!(
        end.usage.unwrap().generated_tokens as usize,
        before.len() + stop.len()
    );
    world.blocks_are_free().await;
}

#[tokio::test]
async fn a_stop_token_is_a_token_without_text() {
    let world = World::ready().await;
    let whole = world.expected_text("hello", 60);
    let stop = whole.as_bytes()[25];
    let before = &whole[..whole.find(char::from(stop)).unwrap()];
    let mut request = ask("hello", 60);
    request.stopping.as_mut().unwrap().stop_token_ids = vec![stop.into()];
    let events = run(&world, request).await;
    assert_eq!(text_of(&events, 0), before);
    assert_eq!(ids_of(&events).last(), Some(&u32::from(stop)));
    let end = finishes(&events)[0];
    assert_eq!(
        (end.reason(), end.stop_token_id),
        (v1::FinishReason::Stop, Some(stop.into()))
    );
    assert_eq!(
        end.usage.unwrap().generated_tokens as usize,
        before.len() + 1
    );
}

#[tokio::test]
async fn the_models_own_end_counts_unless_it_is_ignored() {
    let world = World::ready().await;
    let whole = world.expected_text("hello", 200);
    let before = whole.split('z').next().unwrap();
    let mut request = ask("hello", 200);
    request.stopping.as_mut().unwrap().ignore_eos = false;
    assert_eq!(text_of(&run(&world, request).await, 0), before);
    assert_eq!(text_of(&run(&world, ask("hello", 200)).await, 0), whole);
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let world = World::ready().await;
    let mut request = ask("hello", 5);
    request.output = Some(v1::Output {
        logprobs: Some(2),
        ..v1::Output::default()
    });
    let answer = world
        .client
        .inference()
        .complete(request)
        .await
        .unwrap()
        .into_inner();
    let completion = &answer.completions[0];
    assert_eq!(completion.logprobs.len(), 5);
    for (logprobs, id) in completion.logprobs.iter().zip(&completion.token_ids) {
        assert_eq!((logprobs.token_id, logprobs.logprob), (*id, -0.5));
        assert_eq!(logprobs.top.len(), 2);
        assert_eq!(logprobs.top[0].token_id, *id);
    }
}

#[tokio::test]
async fn an_echo_comes_first() {
    let world = World::ready().await;
    let mut request = ask("hello", 4);
    request.output = Some(v1::Output {
        echo: true,
        ..v1::Output::default()
    });
    let events = run(&world, request).await;
    assert_eq!(
        text_of(&events, 0),
        format!("hello{}", world.expected_text("hello", 4))
    );
    assert_eq!(ids_of(&events)[..5], [104, 101, 108, 108, 111]);
    assert_eq!(finishes(&events)[0].usage.unwrap().generated_tokens, 4);
}

fn chat(role: &str, content: &str) -> v1::GenerateRequest {
    let message = v1::ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let mut request = ask("", 8);
    request.input = Some(v1::generate_request::Input::Chat(v1::Chat {
        messages: vec![message],
    }));
    request
}

#[tokio::test]
async fn tokens_and_conversations_are_prompts_too() {
    let world = World::ready().await;
    let mut tokens = ask("", 8);
    let ids = b"hello".iter().map(|&byte| byte.into()).collect();
    tokens.input = Some(v1::generate_request::Input::TokenIds(v1::TokenIds { ids }));
    assert_eq!(
        text_of(&run(&world, tokens).await, 0),
        world.expected_text("hello", 8)
    );
    assert_eq!(
        text_of(&run(&world, chat("user", "hi")).await, 0),
        world.expected_text("<user>hi>", 8)
    );
}

#[tokio::test]
async fn a_template_knows_the_date() {
    let world = World::ready().await;
    let mut dated = chat("year", "");
    dated.output = Some(v1::Output {
        echo: true,
        ..Default::default()
    });
    let text = text_of(&run(&world, dated).await, 0);
    assert!(text.starts_with("<year>2000>"), "{text}");
}

#[tokio::test]
async fn a_second_prompt_finds_the_first_ones_blocks() {
    let world = World::ready().await;
    let prompt = "a".repeat(100);
    run(&world, ask(&prompt, 2)).await;
    let events = run(&world, ask(&prompt, 2)).await;
    let Some(Event::Started(started)) = events.first() else {
        panic!("{events:?}")
    };
    assert_eq!(started.cached_tokens, 96);
    assert_eq!(finishes(&events)[0].usage.unwrap().cached_tokens, 96);
    let salted = v1::GenerateRequest {
        cache_salt: "mine".to_owned(),
        ..ask(&prompt, 2)
    };
    let events = run(&world, salted).await;
    assert!(matches!(&events[0], Event::Started(started) if started.cached_tokens == 0));
}

#[tokio::test]
async fn each_sequence_tells_what_it_found_in_the_cache() {
    let plan = Plan {
        running_max: 1,
        ..Plan::default()
    };
    let world = World::ready_with(plan).await;
    let mut request = ask(&"b".repeat(100), 2);
    request.sampling.get_or_insert_default().n = Some(2);
    let events = run(&world, request).await;
    let cached = |index| {
        let end = finishes(&events).into_iter().find(|end| end.index == index);
        end.unwrap().usage.unwrap().cached_tokens
    };
    // One runs after the other here, so the second one finds what the first one computed.
    assert_eq!([cached(0), cached(1)], [0, 96]);
}

#[tokio::test]
async fn a_dropped_stream_gives_its_blocks_back() {
    let world = World::ready().await;
    world.device.hold();
    let mut events = world.client.generate(ask("hello", 400)).await.unwrap();
    world.device.allow(3);
    assert!(matches!(
        soon(events.next()).await.unwrap(),
        Some(Event::Started(_))
    ));
    drop(events);
    world.device.release();
    world.blocks_are_free().await;
}

#[tokio::test]
async fn an_abort_by_id_ends_a_stream_with_what_it_had() {
    let world = World::ready().await;
    world.device.hold();
    let request = v1::GenerateRequest {
        request_id: "me".to_owned(),
        ..ask("hello", 400)
    };
    let mut events = world.client.generate(request).await.unwrap();
    world.device.allow(3);
    let mut letters = String::new();
    while letters.len() < 3 {
        if let Some(Event::Delta(delta)) = soon(events.next()).await.unwrap() {
            letters.push_str(&delta.text);
        }
    }
    let abort = |id: &str| v1::AbortRequest {
        request_id: id.to_owned(),
    };
    let mut control = world.client.control();
    assert_eq!(
        control.abort(abort("you")).await.unwrap().get_ref().aborted,
        0
    );
    assert_eq!(
        control.abort(abort("me")).await.unwrap().get_ref().aborted,
        1
    );
    let rest = all(events).await.unwrap();
    assert_eq!(letters, world.expected_text("hello", 3));
    let [Event::Finished(end)] = &rest[..] else {
        panic!("{rest:?}")
    };
    assert_eq!(end.reason(), v1::FinishReason::Abort);
    assert_eq!(end.usage.unwrap().generated_tokens, 3);
    world.device.release();
    world.blocks_are_free().await;
    assert_eq!(
        control.abort(abort("me")).await.unwrap().get_ref().aborted,
        0
    );
}

#[tokio::test]
async fn a_full_queue_is_an_answer_with_a_hint() {
    let plan = Plan {
        running_max: 1,
        waiting_max: 1,
        ..Plan::default()
    };
    let world = World::ready_with(plan).await;
    world.device.hold();
    let running = world.client.generate(ask("first", 500)).await.unwrap();
    let stats = || world.decoder().handle.stats();
    let runs = eventually(|| (stats().running, stats().waiting) == (1, 0));
    world.stepping(runs).await;
    let waiting = world
        .stepping(world.client.generate(ask("second", 2)))
        .await
        .unwrap();
    let status = world
        .stepping(world.client.generate(ask("third", 2)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status).0, "QUEUE_FULL");
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(
        details.retry_info().unwrap().retry_delay,
        Some(Duration::from_secs(1))
    );
    world.device.release();
    assert_eq!(finishes(&all(running).await.unwrap()).len(), 1);
    assert_eq!(finishes(&all(waiting).await.unwrap()).len(), 1);
}

#[tokio::test]
async fn more_calls_than_the_edge_takes_are_refused() {
    let mut plan = Plan::default();
    plan.limits.calls_max = 1;
    let world = World::ready_with(plan).await;
    world.device.hold();
    let first = world.client.generate(ask("first", 2)).await.unwrap();
    let status = failure(&world, ask("second", 2)).await;
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::ResourceExhausted, "QUEUE_FULL")
    );
    world.device.release();
    all(first).await.unwrap();
    assert_eq!(finishes(&run(&world, ask("third", 2)).await).len(), 1);
}

#[tokio::test]
async fn a_deadline_ends_a_stream_wherever_it_was_set() {
    let world = World::ready().await;
    world.device.hold();
    let own = v1::GenerateRequest {
        deadline_ms: Some(30),
        ..ask("hello", 400)
    };
    let status = failure(&world, own).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    world.device.release();
    world.blocks_are_free().await;
}

/// A server whose decoder's engine holds the step after three tokens, and the hand on its clock.
async fn held_after_three() -> (World, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let plan = Plan {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Plan::default()
    };
    let world = World::ready_with(plan).await;
    world.device.hold();
    world.device.allow(3);
    (world, clock)
}

/// Lets the time of 20 s pass during the fourth step, which then ends.
async fn pass_the_deadline(world: &World, clock: &ManualClock) {
    let mut launched = world.device.launched();
    soon(launched.wait_for(|&steps| steps >= 4)).await.unwrap();
    clock.advance(Duration::from_secs(21));
    world.device.allow(1);
}

#[tokio::test]
async fn a_deadline_tells_what_was_done_until_then() {
    let (world, clock) = held_after_three().await;
    let request = v1::GenerateRequest {
        deadline_ms: Some(20_000),
        ..ask("hello", 400)
    };
    let mut inference = world.client.inference();
    let complete = inference.complete(request);
    let late = async {
        pass_the_deadline(&world, &clock).await;
        std::future::pending::<()>().await;
    };
    let status = tokio::select! {
        done = soon(complete) => done.unwrap_err(),
        () = late => unreachable!("it is pending"),
    };
    let found = (status.code(), reason(&status).0);
    assert_eq!(
        found,
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned())
    );
    assert_eq!(status.metadata().get("x-prompt-tokens").unwrap(), "5");
    assert_eq!(status.metadata().get("x-generated-tokens").unwrap(), "4");
    world.device.release();
    world.blocks_are_free().await;
}

#[tokio::test]
async fn the_deadline_of_the_call_counts_on_streams() {
    let (world, clock) = held_after_three().await;
    let mut request = Request::new(ask("hello", 400));
    // The client's own timer looks at the beginning of the answer only.
    request.set_timeout(Duration::from_secs(20));
    let mut events = world.client.generate(request).await.unwrap();
    assert!(soon(events.next()).await.unwrap().is_some());
    pass_the_deadline(&world, &clock).await;
    let status = all(events).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(status.metadata().get("x-generated-tokens").unwrap(), "4");
    world.device.release();
}

#[tokio::test]
async fn the_servers_own_limit_is_a_deadline_too() {
    let mut plan = Plan::default();
    plan.limits.request_timeout_max = Duration::from_millis(30);
    let world = World::ready_with(plan).await;
    world.device.hold();
    let mut patient = ask("hello", 400);
    patient.deadline_ms = Some(60_000);
    assert_eq!(
        failure(&world, patient).await.code(),
        Code::DeadlineExceeded
    );
    world.device.release();
}

#[tokio::test]
async fn values_that_are_not_finite_cost_their_own_stream_only() {
    let world = World::ready().await;
    world.device.hold();
    let sick = world.client.generate(ask("sick", 20)).await.unwrap();
    eventually(|| world.device.admitted() == 1).await;
    world.device.fail_next(Fault::NotFinite(0));
    world.device.release();
    let sound = world.client.generate(ask("sound", 20)).await.unwrap();
    let status = all(sick).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).0.as_str()),
        (Code::Internal, "NUMERICAL_ERROR")
    );
    assert_eq!(
        text_of(&all(sound).await.unwrap(), 0),
        world.expected_text("sound", 20)
    );
}

#[tokio::test]
async fn strangers_in_the_batch_change_no_text() {
    let world = World::ready().await;
    let prompts: Vec<String> = (0..24)
        .map(|number| format!("prompt number {number}"))
        .collect();
    let world = &world;
    let running = prompts.iter().map(|prompt| {
        let mut request = ask(prompt, 50);
        request.priority = (prompt.len() % 3) as i32;
        async move { (prompt, run_when_free(world, request).await) }
    });
    for (prompt, text) in futures_util::future::join_all(running).await {
        assert_eq!(text, world.expected_text(prompt, 50), "{prompt}");
    }
    world.blocks_are_free().await;
}

/// Comes back as long as the queue is full, as a client should.
async fn run_when_free(world: &World, request: v1::GenerateRequest) -> String {
    loop {
        match world.client.generate(request.clone()).await {
            Ok(events) => return text_of(&all(events).await.unwrap(), 0),
            Err(status) => assert_eq!(reason(&status).0, "QUEUE_FULL"),
        }
        tokio::task::yield_now().await;
    }
}
