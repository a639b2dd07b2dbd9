//! Calls that end before their time, and what is thrown away with them.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use paternoster_client::v1::generate_response::Event;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{CANARY, Ended, roomy, said, withstand, withstand_uncounted, withstand_with};
use crate::raw::RawClient;
use crate::world::{Plan, World, ask, eventually, reason, soon};

const GENERATE: &str = "/paternoster.v1.Inference/Generate";

/// Begins a call, takes as many tokens as said, and goes away.
async fn leave_after(world: &World, tokens: usize, asked: u32) -> Ended {
    let begun = world.client.generate(ask(CANARY, asked));
    let mut events = world.stepping(begun).await.unwrap();
    if tokens > 0 {
        let reading = async {
            let mut seen = 0;
            while seen < tokens {
                if let Some(Event::Delta(delta)) = events.next().await.unwrap() {
                    seen += delta.token_ids.len();
                }
            }
        };
        world.stepping(reading).await;
    }
    drop(events);
    ("Generate", Code::Cancelled)
}

#[tokio::test]
async fn row_31_cancelled_before_the_first_token_and_on_the_way() {
    withstand(async |world| {
        let mut ended = Vec::new();
        for tokens in [0, 1, 7] {
            ended.push(leave_after(world, tokens, 200).await);
        }
        ended
    })
    .await;
}

/// The client goes away while the step runs that makes the last token.
#[tokio::test]
async fn row_31_cancelled_on_the_last_token() {
    for asked in 1..4 {
        let world = World::ready_with(roomy()).await;
        world.device.hold();
        let events = world.client.generate(ask(CANARY, asked)).await.unwrap();
        let mut launched = world.device.launched();
        for step in 1..u64::from(asked) {
            soon(launched.wait_for(|&now| now >= step)).await.unwrap();
            world.device.allow(1);
        }
        soon(launched.wait_for(|&now| now >= u64::from(asked)))
            .await
            .unwrap();
        drop(events);
        world.device.release();
        world.blocks_are_free().await;
        eventually(|| world.device.admitted() == 0).await;
        world
            .client
            .inference()
            .complete(ask("next", 2))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn row_32_a_client_that_does_not_read() {
    let plan = || {
        let mut plan = roomy();
        plan.limits.stream_stall_timeout = Duration::from_millis(300);
        plan
    };
    withstand_with(plan, async |world| {
        let mut raw = RawClient::connect(world.address, 0).await;
        let mut calls = Vec::new();
        for _ in 0..4 {
            calls.push(raw.call(GENERATE, &ask(CANARY, 100)).await);
        }
        let heads = join_all(calls.iter_mut().map(async |call| call.head().await));
        let _heads = world.stepping(heads).await;
        // Its connection goes with it.
        raw.closed().await;
        vec![("Generate", Code::ResourceExhausted); 4]
    })
    .await;
}

#[tokio::test]
async fn row_33_deadlines_of_a_moment() {
    withstand(async |world| {
        let mut ended = Vec::new();
        for milliseconds in [1, 5, 20] {
            let mut request = ask(CANARY, 100);
            request.deadline_ms = Some(milliseconds);
            let call = async {
                let mut events = world.client.generate(request).await?;
                while events.next().await?.is_some() {}
                Ok::<(), tonic::Status>(())
            };
            let status = soon(call).await.unwrap_err();
            assert_eq!(said(&status).1, "DEADLINE_EXCEEDED");
            ended.push(("Generate", Code::DeadlineExceeded));
        }
        ended
    })
    .await;
}

#[tokio::test]
async fn row_35_a_full_queue() {
    let plan = || Plan {
        waiting_max: 4,
        ..roomy()
    };
    withstand_uncounted(plan, async |world| {
        let mut calls: FuturesUnordered<_> = (0..64)
            .map(async |_| world.client.generate(ask(CANARY, 100)).await)
            .collect();
        let refused = world.stepping(async {
            loop {
                match calls.next().await {
                    Some(Ok(_inside)) => {}
                    Some(Err(status)) => break status,
                    None => panic!("it never fills"),
                }
            }
        });
        let refused = refused.await;
        let found = (refused.code(), reason(&refused).0);
        assert_eq!(found, (Code::ResourceExhausted, "QUEUE_FULL".to_owned()));
        assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
        assert!(refused.get_error_details().retry_info().is_some());
    })
    .await;
}

/// The pool is too small for everybody: some give way, and every text stays what it is alone.
#[tokio::test]
async fn row_38_kv_memory_that_runs_out_on_the_way() {
    let world = World::ready_with(Plan {
        blocks: 33,
        ..roomy()
    })
    .await;
    let calls = (0..6).map(async |number| {
        let prompt = format!("hungry {number}");
        let answer = world.client.inference().complete(ask(&prompt, 300)).await;
        let text = answer.unwrap().into_inner().completions.remove(0).text;
        (text, world.expected_text(&prompt, 300))
    });
    for (text, expected) in soon(join_all(calls)).await {
        assert_eq!(text, expected);
    }
    assert!(
        world.decoder().handle.stats().preemptions > 0,
        "nobody gave way"
    );
    world.blocks_are_free().await;
}
