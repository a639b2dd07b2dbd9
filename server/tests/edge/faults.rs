//! Executors that fail under 32 streams, seen from the other end of the wire: every stream hears
//! each token once, and only the one whose numbers went wrong is told so.

use std::sync::Arc;
use std::time::Duration;

use engine::fake::{Fault, ManualClock};
use futures_util::future::join_all;
use paternoster_client::Events;
use paternoster_client::v1::generate_response::Event;
use tonic::{Code, Status};

use crate::world::{Plan, World, ask, reason, soon};

const STREAMS: usize = 32;
/// Long enough that all are in flight when a step fails.
const TOKENS: u32 = 400;
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

fn prompt(number: usize) -> String {
    format!("stream number {number}, as long as it is")
}

/// What a stream gave: its text, or why it failed.
async fn read(mut events: Events) -> Result<String, Status> {
    let (mut text, mut finished) = (String::new(), false);
    while let Some(event) = soon(events.next()).await? {
        match event {
            Event::Delta(delta) => text += &delta.text,
            Event::Finished(_) => finished = true,
            Event::Started(_) => {}
        }
    }
    assert!(finished, "a stream ended without its end");
    Ok(text)
}

/// What 32 streams hear when the step of this number from now goes wrong.
async fn heard(steps: u64, fault: Fault) -> (World, Vec<Result<String, Status>>) {
    let clock = Arc::new(ManualClock::default());
    let world = World::ready_with(Plan {
        running_max: STREAMS as u32,
        waiting_max: STREAMS as u32,
        clock: Arc::clone(&clock) as Arc<_>,
        step_timeout: STEP_TIMEOUT,
        blocks: 32 * STREAMS as u32,
        ..Plan::default()
    })
    .await;
    world.device.hold();
    let opening = (0..STREAMS).map(|number| world.client.generate(ask(&prompt(number), TOKENS)));
    let opened = world.stepping(join_all(opening)).await;
    let streams: Vec<Events> = opened.into_iter().map(Result::unwrap).collect();
    let step = world.device.allow(0) + steps;
    world.device.fail_at(step, fault);
    world.device.release();
    let reading = join_all(streams.into_iter().map(read));
    let found = if fault == Fault::Hang {
        let mut launched = world.device.launched();
        let watchdog = async {
            soon(launched.wait_for(|last| *last >= step)).await.unwrap();
            clock.advance(STEP_TIMEOUT);
        };
        tokio::join!(reading, watchdog).0
    } else {
        reading.await
    };
    world.device.release_hung();
    world.blocks_are_free().await;
    (world, found)
}

#[tokio::test]
async fn streams_outlive_an_executor_and_hear_each_token_once() {
    for (steps, fault) in [
        (1, Fault::Error),
        (30, Fault::Error),
        (20, Fault::OutOfMemory),
        (25, Fault::Panic),
        (30, Fault::Hang),
    ] {
        let (world, found) = heard(steps, fault).await;
        for (number, text) in found.into_iter().enumerate() {
            let expected = world.expected_text(&prompt(number), TOKENS as usize);
            let case = format!("stream {number}, {fault:?} after {steps} steps");
            assert_eq!(text.unwrap(), expected, "{case}");
        }
        assert_eq!(
            world.device.starts(),
            2,
            "{fault:?}: an executor and its heir"
        );
    }
}

#[tokio::test]
async fn numbers_that_are_not_finite_end_one_stream_of_many() {
    let (world, found) = heard(30, Fault::NotFinite(3)).await;
    let mut failed = Vec::new();
    for (number, text) in found.into_iter().enumerate() {
        match text {
            Ok(text) => {
                let expected = world.expected_text(&prompt(number), TOKENS as usize);
                assert_eq!(text, expected, "stream {number}");
            }
            Err(status) => failed.push((status.code(), reason(&status).0)),
        }
    }
    assert_eq!(failed, [(Code::Internal, "NUMERICAL_ERROR".to_owned())]);
    assert_eq!(world.device.starts(), 1, "nothing else was to be replaced");
}
