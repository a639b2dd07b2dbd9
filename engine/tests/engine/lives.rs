//! How many lives an engine has, what costs one, and what goes on between two of them.

use std::sync::Arc;
use std::time::Duration;

use engine::config::{EngineConfig, Restarts, Timeouts};
use engine::fake::{FakeDevice, Fault, ManualClock, Place};
use engine::handle::{End, Generate, Health, Refusal, Tokens};
use engine::request::{Finish, Token};
use engine::start;

use crate::bench::{
    Bench, Heard, LIMITS, RECOVERY, START_TIMEOUT, STEP_TIMEOUT, TIMEOUTS, at_once, config, device,
    prompt, reach, read, request, soon, until,
};

/// An engine that serves, never finds a reader slow, and replaces executors like this.
async fn bench(restarts: Restarts, timeouts: Timeouts) -> Bench {
    let clock = Arc::new(ManualClock::default());
    let config = EngineConfig {
        restarts,
        timeouts,
        stall_timeout: Duration::MAX,
        ..config(&clock, LIMITS)
    };
    Bench::configured(device(256), clock, config).await
}

const RESTARTS: Restarts = Restarts {
    failures_max: 4,
    recovery: RECOVERY,
    abandoned_max: 2,
    pause: Duration::ZERO,
};

// === what costs a life ===

/// Hangs at these steps, one after the other, with tokens in between. Returns how it ended.
async fn hang_at(bench: &Bench, steps: &[u64], meanwhile: impl AsyncFn()) -> Option<End> {
    for &step in steps {
        bench.device.fail_at(step, Fault::Hang);
    }
    let mut tokens = bench.generate(request(&prompt(1, 10), 20)).await;
    for &step in steps {
        bench.launched(step).await;
        bench.clock.advance(STEP_TIMEOUT);
        meanwhile().await;
    }
    read(&mut tokens).await.end
}

#[tokio::test]
async fn hangs_use_up_the_lives_however_long_each_takes() {
    let restarts = Restarts {
        abandoned_max: 100,
        ..RESTARTS
    };
    let cases = [
        (&[3, 6, 9][..], End::Finish(Finish::Length)),
        (&[3, 6, 9, 12], End::EngineDown),
    ];
    for (steps, end) in cases {
        let bench = bench(restarts, TIMEOUTS).await;
        assert_eq!(hang_at(&bench, steps, async || {}).await, Some(end));
        bench.device.release_hung();
    }
}

#[tokio::test]
async fn only_so_many_executors_hang_at_once() {
    let restarts = Restarts {
        failures_max: 100,
        ..RESTARTS
    };
    let stuck = bench(restarts, TIMEOUTS).await;
    let end = hang_at(&stuck, &[3, 6, 9], async || {}).await;
    assert_eq!(end, Some(End::EngineDown));
    let down = soon(stuck.completion.wait()).await.unwrap_err();
    assert_eq!(
        down.reason,
        "a step made no progress for 30s; 3 executors hang"
    );
    stuck.device.release_hung();

    let slow = bench(restarts, TIMEOUTS).await;
    let come_back = async || {
        slow.launched(1).await;
        slow.device.release_hung();
        until(|| slow.device.alive() == 1).await;
    };
    let end = hang_at(&slow, &[3, 6, 9, 12], come_back).await;
    assert_eq!(end, Some(End::Finish(Finish::Length)));
}

#[tokio::test]
async fn steps_that_succeed_for_long_enough_make_up_for_failures() {
    let timeouts = Timeouts {
        step: Duration::MAX,
        ..TIMEOUTS
    };
    let cases = [
        (RECOVERY, End::Finish(Finish::Length)),
        (Duration::from_secs(59), End::EngineDown),
    ];
    for (stretch, end) in cases {
        let bench = bench(RESTARTS, timeouts).await;
        bench.device.hold();
        // Each life completes three steps and fails in its fourth.
        let failures: Vec<u64> = (1..=5).map(|life| 4 * life).collect();
        for &step in &failures {
            bench.device.fail_at(step, Fault::Error);
        }
        let mut tokens = bench.generate(request(&prompt(1, 10), 16)).await;
        for step in 1..=16 {
            bench.launched(step).await;
            if step % 4 == 2 {
                bench.clock.advance(stretch);
            }
            bench.device.allow(1);
        }
        bench.device.release();
        assert_eq!(read(&mut tokens).await.end, Some(end), "{stretch:?}");
    }
}

#[tokio::test]
async fn an_executor_that_is_never_made_ends_the_engine() {
    let (device, clock) = (device(64), Arc::new(ManualClock::default()));
    device.hang_starts();
    let (handle, completion) = start(device.executors(), config(&clock, LIMITS));
    until(|| device.starts() == 1).await;
    clock.advance(START_TIMEOUT);
    let down = soon(completion.wait()).await.unwrap_err();
    assert_eq!(down.reason, "the executor was not made within 600s");
    assert_eq!(*handle.health().borrow(), Health::Down);
    device.release_hung();

    let bench = bench(RESTARTS, TIMEOUTS).await;
    bench.device.fail_at(3, Fault::Error);
    bench.device.hang_starts();
    let mut tokens = bench.generate(request(&prompt(1, 10), 20)).await;
    until(|| bench.device.starts() == 2).await;
    bench.clock.advance(START_TIMEOUT);
    assert_eq!(read(&mut tokens).await.end, Some(End::EngineDown));
    assert!(soon(bench.completion.wait()).await.is_err());
    bench.device.release_hung();
}

#[tokio::test]
async fn a_step_that_gets_on_does_not_hang() {
    let bench = bench(RESTARTS, TIMEOUTS).await;
    bench.device.hold();
    let mut tokens = bench.generate(request(&prompt(1, 10), 5)).await;
    bench.launched(1).await;
    for _ in 0..4 {
        bench.clock.advance(STEP_TIMEOUT / 2);
        bench.device.get_on();
    }
    bench.device.release();
    assert_eq!(read(&mut tokens).await.tokens.len(), 5);
    assert_eq!(bench.device.starts(), 1);
}

// === who pays for it ===

/// A token that stands in the sixth prompt alone.
const POISON: Token = Token(90_000);

fn text(number: u32) -> Vec<Token> {
    let mut text = prompt(number, 5 + number % 4);
    if number == 5 {
        text.push(POISON);
    }
    text
}

#[tokio::test]
async fn a_poisonous_request_ends_alone() {
    // In `release` it has had all it wanted, and is gone.
    let cases = [
        (Place::Admit, 3, Some(0)),
        (Place::Launch, 3, Some(0)),
        (Place::Wait, 3, Some(0)),
        (Place::Release, 2, None),
    ];
    for (place, starts, heard_by_poison) in cases {
        let bench = bench(RESTARTS, TIMEOUTS).await;
        bench.device.poison(POISON, place);
        let requests = (0..10).map(|number| request(&text(number), 20));
        let mut streams = bench.generate_held(requests).await;
        bench.device.release();
        for (number, tokens) in (0..).zip(&mut streams) {
            let poisoned = (number == 5).then_some(heard_by_poison).flatten();
            let expected = bench
                .device
                .expected_tokens(&text(number), poisoned.unwrap_or(20));
            let end = match poisoned {
                Some(_) => End::EngineDown,
                None => End::Finish(Finish::Length),
            };
            let heard = read(tokens).await;
            let case = format!("request {number}, poison in {place:?}");
            assert_eq!((heard.tokens, heard.end), (expected, Some(end)), "{case}");
        }
        until(|| bench.device.starts() == starts).await;
        reach(&mut bench.handle.health(), Health::Serving).await;
        bench.quiet().await;
    }
}

#[tokio::test]
async fn who_only_waited_is_not_to_blame() {
    let limits = engine::limits::Limits {
        running_max: 1,
        ..LIMITS
    };
    let clock = Arc::new(ManualClock::default());
    let config = EngineConfig {
        stall_timeout: Duration::MAX,
        ..config(&clock, limits)
    };
    let bench = Bench::configured(device(256), clock, config).await;
    // The one that runs fails twice running; the others wait each time.
    bench.device.fail_at(2, Fault::Error);
    bench.device.fail_at(3, Fault::Panic);
    let requests = (0..4).map(|number| request(&text(number), 6));
    let mut streams = bench.generate_held(requests).await;
    bench.device.release();
    let ends = [End::EngineDown, END, END, END];
    for ((number, tokens), end) in (0..).zip(&mut streams).zip(ends) {
        assert_eq!(read(tokens).await.end, Some(end), "request {number}");
    }
}

const END: End = End::Finish(Finish::Length);

// === between two lives ===

/// An engine without an executor, in the pause after an attempt to make one, and two streams of 20
/// tokens in flight: the second one has this time-out.
async fn between_lives(timeout: Duration) -> (Bench, Vec<Tokens>) {
    between_lives_of(20, timeout).await
}

/// As [`between_lives`], with so many tokens in the first stream.
async fn between_lives_of(output_max: u32, timeout: Duration) -> (Bench, Vec<Tokens>) {
    let restarts = Restarts {
        pause: Duration::from_mins(1),
        ..RESTARTS
    };
    // Tests move the clock until the pause is over, while others may already be at work.
    let patient = Timeouts {
        step: Duration::MAX,
        start: Duration::MAX,
    };
    let bench = bench(restarts, patient).await;
    let hasty = Generate {
        timeout: Some(timeout),
        ..request(&text(1), 20)
    };
    let streams = bench
        .generate_held([request(&text(0), output_max), hasty])
        .await;
    bench.device.fail_next(Fault::Error);
    bench.device.fail_starts(1);
    bench.device.release();
    reach(&mut bench.handle.health(), Health::Restarting).await;
    until(|| bench.device.starts() == 2).await;
    (bench, streams)
}

fn executors(device: &FakeDevice) -> (u64, usize) {
    (device.starts(), device.alive())
}

#[tokio::test]
async fn a_restart_is_no_end() {
    let (bench, mut streams) = between_lives(Duration::MAX).await;
    let refused = at_once(bench.handle.generate(request(&text(2), 1))).await;
    assert_eq!(refused.unwrap().unwrap_err(), Refusal::Unavailable);
    let stats = bench.handle.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.blocks_active),
        (0, 2, 0)
    );
    until(|| {
        bench.clock.advance(Duration::from_secs(1));
        bench.device.starts() == 3
    })
    .await;
    for (number, tokens) in (0..).zip(&mut streams) {
        let heard = Heard {
            starts: 1,
            tokens: bench.device.expected_tokens(&text(number), 20),
            end: Some(END),
        };
        assert_eq!(read(tokens).await, heard);
    }
    assert_eq!(*bench.handle.health().borrow(), Health::Serving);
}

#[tokio::test]
async fn a_deadline_passes_between_two_lives() {
    let (bench, mut streams) = between_lives(Duration::from_secs(5)).await;
    bench.clock.advance(Duration::from_secs(5));
    let end = read(&mut streams[1]).await.end;
    assert_eq!(end, Some(End::Finish(Finish::Deadline)));
    assert_eq!(executors(&bench.device), (2, 0));
}

#[tokio::test]
async fn aborting_all_does_not_wait_for_a_life() {
    let (bench, mut streams) = between_lives(Duration::MAX).await;
    bench.handle.abort_all();
    for tokens in &mut streams {
        let end = read(tokens).await.end;
        assert_eq!(end, Some(End::Finish(Finish::Abort)));
    }
    // Nothing is left to restart for.
    bench.handle.drain();
    soon(bench.completion.wait()).await.unwrap();
    assert_eq!(executors(&bench.device), (2, 0));
}

#[tokio::test]
async fn a_drain_waits_for_those_who_are_still_to_come_back() {
    // The first one ends with the token that clears it, and leaves the new life without work.
    let (bench, mut streams) = between_lives_of(3, Duration::MAX).await;
    bench.handle.drain();
    for tokens in &mut streams {
        assert_eq!(read(tokens).await.end, Some(END));
    }
    soon(bench.completion.wait()).await.unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_the_pause() {
    let (bench, mut streams) = between_lives(Duration::MAX).await;
    bench.handle.drain();
    assert_eq!(*bench.handle.health().borrow(), Health::Draining);
    for tokens in &mut streams {
        assert_eq!(read(tokens).await.end, Some(END));
    }
    soon(bench.completion.wait()).await.unwrap();
    assert_eq!(executors(&bench.device), (3, 0));
}
