//! Executors that fail, and what readers hear of it.

use std::sync::Arc;
use std::time::Duration;

use engine::config::{EngineConfig, Restarts};
use engine::fake::{Fault, ManualClock};
use engine::handle::{End, Generate, Health, Refusal, Tokens};
use engine::limits::Limits;
use engine::request::{Finish, Token};
use engine::sampling::Sampling;
use engine::start;

use crate::bench::{
    AHEAD, Bench, Heard, LIMITS, STEP_TIMEOUT, at_once, config, device, ids, prompt, reach, read,
    request, soon, until,
};

/// The sampling of every second request, so that replay is seen to keep the draws.
fn drawn(number: u32) -> Sampling {
    Sampling {
        temperature: (number % 2 == 1).then_some(1.0),
        seed: u64::from(number),
        ..Sampling::default()
    }
}

/// The last of ten has a prompt of several steps.
fn text(number: u32) -> Vec<Token> {
    prompt(number, if number == 9 { 150 } else { 10 + number })
}

/// Ten requests in flight, and a device that holds its steps.
async fn ten(bench: &Bench) -> Vec<Tokens> {
    let requests = (0..10).map(|number| Generate {
        sampling: drawn(number),
        ..request(&text(number), 20)
    });
    bench.generate_held(requests).await
}

/// Ten requests over a device that fails some steps from now hear every token once.
async fn survive(steps: u64, fault: Fault) {
    survive_with(LIMITS, steps, fault).await;
    survive_with(AHEAD, steps, fault).await;
}

async fn survive_with(limits: Limits, steps: u64, fault: Fault) {
    let bench = Bench::patient_on(device(256), limits).await;
    let mut streams = ten(&bench).await;
    let step = bench.device.allow(0) + steps;
    bench.device.fail_at(step, fault);
    bench.device.release();
    if fault == Fault::Hang {
        bench.launched(step).await;
        bench.clock.advance(STEP_TIMEOUT);
    }
    for (number, tokens) in (0..).zip(&mut streams) {
        let expected = bench
            .device
            .expected_sampled(&drawn(number), &text(number), 20);
        let heard = Heard {
            starts: 1,
            tokens: expected,
            end: Some(End::Finish(Finish::Length)),
        };
        let depth = limits.depth_max;
        let case = format!("request {number}, {fault:?} after {steps} steps, depth {depth}");
        assert_eq!(read(tokens).await, heard, "{case}");
    }
    assert!(*bench.device.launched().borrow() > step, "nothing failed");
    bench.quiet().await;
    bench.device.release_hung();
    bench.handle.drain();
    soon(bench.completion.wait()).await.unwrap();
}

#[tokio::test]
async fn an_error_loses_and_repeats_no_token() {
    // The last prompt takes three steps.
    for steps in [1, 2, 7] {
        survive(steps, Fault::Error).await;
    }
    survive(3, Fault::OutOfMemory).await;
}

#[tokio::test]
async fn a_panic_loses_and_repeats_no_token() {
    survive(1, Fault::Panic).await;
    survive(8, Fault::Panic).await;
}

#[tokio::test]
async fn a_hang_loses_and_repeats_no_token() {
    survive(1, Fault::Hang).await;
    survive(9, Fault::Hang).await;
}

#[tokio::test]
async fn a_step_that_comes_back_too_late_changes_nothing() {
    let bench = Bench::patient().await;
    bench.device.fail_at(5, Fault::Hang);
    let text = prompt(1, 10);
    let mut tokens = bench.generate(request(&text, 20)).await;
    bench.launched(5).await;
    let mut heard = Vec::new();
    while heard.len() < 4 {
        heard.extend(ids(&soon(tokens.next()).await.unwrap().tokens));
    }
    bench.device.hold();
    bench.clock.advance(STEP_TIMEOUT);
    bench.launched(6).await;
    assert_eq!(bench.device.alive(), 2);
    // The next life's first step is held: what would be heard now, the late one would have said.
    bench.device.release_hung();
    until(|| bench.device.alive() == 1).await;
    assert!(at_once(tokens.next()).await.is_none());
    bench.device.release();
    heard.extend(read(&mut tokens).await.tokens);
    assert_eq!(heard, bench.device.expected_tokens(&text, 20));
    bench.quiet().await;
}

#[tokio::test]
async fn failures_apart_are_survived_and_failures_running_are_not() {
    let apart = [(4, Fault::Error), (7, Fault::Error), (10, Fault::Error)];
    let bench = Bench::patient().await;
    for (step, fault) in apart {
        bench.device.fail_at(step, fault);
    }
    let text = prompt(1, 10);
    let mut tokens = bench.generate(request(&text, 20)).await;
    let heard = read(&mut tokens).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 20));

    let bench = Bench::patient().await;
    bench.device.fail_at(4, Fault::Panic);
    bench.device.fail_at(5, Fault::Error);
    let mut tokens = bench.generate(request(&text, 20)).await;
    let heard = read(&mut tokens).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 3));
    assert_eq!(heard.end, Some(End::EngineDown));
    reach(&mut bench.handle.health(), Health::Serving).await;
    let mut next = bench.generate(request(&text, 20)).await;
    let heard = read(&mut next).await;
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 20));
}

#[tokio::test]
async fn a_row_that_is_not_finite_ends_its_own_stream_alone() {
    for limits in [LIMITS, AHEAD] {
        not_finite(limits).await;
    }
}

async fn not_finite(limits: Limits) {
    let bench = Bench::patient_on(device(256), limits).await;
    let mut streams = ten(&bench).await;
    let step = bench.device.allow(0) + 2;
    bench.device.fail_at(step, Fault::NotFinite(1));
    bench.device.release();
    let mut faults = 0;
    for (number, tokens) in (0..).zip(&mut streams) {
        let heard = read(tokens).await;
        let expected =
            bench
                .device
                .expected_sampled(&drawn(number), &text(number), heard.tokens.len());
        assert_eq!(heard.tokens, expected);
        match heard.end {
            Some(End::Finish(Finish::Fault)) => faults += 1,
            Some(End::Finish(Finish::Length)) => assert_eq!(heard.tokens.len(), 20),
            end => unreachable!("{end:?}"),
        }
    }
    assert_eq!(faults, 1);
    bench.quiet().await;
}

#[tokio::test]
async fn too_many_failures_and_the_engine_stays_down() {
    let bench = Bench::patient().await;
    let text = prompt(1, 10);
    // Four failures are allowed; tokens in between keep the request itself innocent.
    for step in [3, 6, 9, 12] {
        bench.device.fail_at(step, Fault::Error);
    }
    let mut tokens = bench.generate(request(&text, 50)).await;
    let heard = read(&mut tokens).await;
    assert_eq!(heard.end, Some(End::EngineDown));
    let expected = bench.device.expected_tokens(&text, heard.tokens.len());
    assert_eq!(heard.tokens, expected);
    reach(&mut bench.handle.health(), Health::Down).await;
    let refusal = bench.handle.generate(request(&text, 1)).await.unwrap_err();
    assert_eq!(refusal, Refusal::Unavailable);
    let down = soon(bench.completion.wait()).await.unwrap_err();
    assert_eq!(
        down.to_string(),
        "engine fake is down: executor failed: scripted"
    );
}

#[tokio::test]
async fn an_executor_that_cannot_be_made_is_not_tried_again() {
    let device = device(64);
    device.fail_starts(1);
    let clock = Arc::new(ManualClock::default());
    let (handle, completion) = start(device.executors(), config(&clock, LIMITS));
    assert!(soon(completion.wait()).await.is_err());
    assert_eq!(*handle.health().borrow(), Health::Down);
}

#[tokio::test]
async fn an_executor_that_cannot_be_made_again_is_tried_again_after_a_pause() {
    let (device, clock) = (device(64), Arc::new(ManualClock::default()));
    let restarts = Restarts {
        failures_max: 4,
        pause: Duration::from_secs(1),
        ..Restarts::default()
    };
    let config = EngineConfig {
        restarts,
        stall_timeout: Duration::MAX,
        ..config(&clock, LIMITS)
    };
    let bench = Bench::configured(device, clock, config).await;
    bench.device.fail_at(3, Fault::Error);
    bench.device.fail_starts(2);
    let text = prompt(1, 10);
    let mut tokens = bench.generate(request(&text, 20)).await;
    let health = bench.handle.health();
    let flow = async {
        loop {
            if *health.borrow() == Health::Restarting {
                bench.clock.advance(Duration::from_millis(10));
            }
            tokio::task::yield_now().await;
        }
    };
    let heard = tokio::select! {
        heard = read(&mut tokens) => heard,
        () = flow => unreachable!(),
    };
    assert_eq!(heard.tokens, bench.device.expected_tokens(&text, 20));
    assert_eq!(heard.end, Some(End::Finish(Finish::Length)));
}
