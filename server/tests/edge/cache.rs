//! The prefix cache over the wire: its events, and flushing it.

use paternoster_client::v1;
use paternoster_client::v1::subscribe_kv_events_response::Event;
use tonic::{Code, Streaming};

use crate::world::{World, ask, eventually, reason, soon};

/// Two full blocks and a bit.
const PROMPT: &str = "the quick brown fox jumps over the lazy dog";

async fn next(events: &mut Streaming<v1::SubscribeKvEventsResponse>) -> (u64, Event) {
    let event = soon(events.message()).await.unwrap().unwrap();
    (event.sequence, event.event.unwrap())
}

async fn generate(world: &World) {
    let asked = world.client.inference().complete(ask(PROMPT, 1)).await;
    let usage = asked.unwrap().into_inner().usage.unwrap();
    assert_eq!(usage.prompt_tokens, PROMPT.len() as u32);
    eventually(|| world.decoder().handle.stats().blocks_cached == 2).await;
}

#[tokio::test]
async fn a_router_hears_what_enters_and_leaves_the_cache() {
    let world = World::ready().await;
    let mut control = world.client.control();
    let request = v1::SubscribeKvEventsRequest {
        from_sequence: Some(0),
        ..v1::SubscribeKvEventsRequest::default()
    };
    let answer = control.subscribe_kv_events(request).await.unwrap();
    let mut events = answer.into_inner();
    let (sequence, event) = next(&mut events).await;
    assert_eq!((sequence, event), (1, Event::Cleared(v1::KvCleared {})));
    generate(&world).await;
    let (sequence, Event::Stored(stored)) = next(&mut events).await else {
        panic!("nothing is stored")
    };
    let bytes: Vec<u32> = PROMPT.bytes().take(32).map(u32::from).collect();
    assert_eq!((sequence, stored.block_tokens), (2, 16));
    assert_eq!((stored.parent_hash, stored.token_ids), (None, bytes));
    assert_eq!(stored.block_hashes.len(), 2);
    let flush = v1::FlushCacheRequest::default();
    let flushed = control.flush_cache(flush.clone()).await.unwrap();
    assert_eq!(flushed.into_inner().blocks, 2);
    let (sequence, Event::Removed(mut removed)) = next(&mut events).await else {
        panic!("nothing is removed")
    };
    removed.block_hashes.sort_unstable();
    let mut expected = stored.block_hashes;
    expected.sort_unstable();
    assert_eq!((sequence, removed.block_hashes), (3, expected));
    let flushed = control.flush_cache(flush).await.unwrap();
    assert_eq!(flushed.into_inner().blocks, 0);
    world.shutdown.cancel();
    assert!(soon(events.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn who_comes_late_hears_what_comes() {
    let world = World::ready().await;
    generate(&world).await;
    let mut control = world.client.control();
    let request = v1::SubscribeKvEventsRequest {
        model: "tiny".to_owned(),
        from_sequence: None,
    };
    let answer = control.subscribe_kv_events(request).await.unwrap();
    let flush = v1::FlushCacheRequest {
        model: "tiny".to_owned(),
    };
    control.flush_cache(flush).await.unwrap();
    let (sequence, event) = next(&mut answer.into_inner()).await;
    assert!(matches!(event, Event::Removed(_)), "{event:?}");
    assert_eq!(sequence, 3);
}

#[tokio::test]
async fn only_decoders_have_a_cache() {
    let world = World::ready().await;
    let mut control = world.client.control();
    for (model, code, why) in [
        ("nobody", Code::NotFound, "MODEL_NOT_FOUND"),
        ("vectors", Code::FailedPrecondition, "WRONG_TASK"),
    ] {
        let model = model.to_owned();
        let flush = v1::FlushCacheRequest {
            model: model.clone(),
        };
        let watch = v1::SubscribeKvEventsRequest {
            model,
            from_sequence: None,
        };
        let refused = [
            control.flush_cache(flush).await.unwrap_err(),
            control.subscribe_kv_events(watch).await.unwrap_err(),
        ];
        for status in refused {
            assert_eq!((status.code(), reason(&status).0.as_str()), (code, why));
        }
    }
}
