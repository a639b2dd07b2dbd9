//! `SubscribeKvEvents`: what changes in a model's prefix cache, for routers that send a request
//! where its beginning is known.

use std::sync::Arc;

use engine::kv_log::{KvChange, KvEvent, KvEvents};
use futures_util::{Stream, stream};
use proto::v1;
use proto::v1::subscribe_kv_events_response::Event;
use tonic::Status;

use crate::app::App;

/// The events of one subscription, until the server drains.
pub(crate) fn answers(
    app: Arc<App>,
    events: KvEvents,
) -> impl Stream<Item = Result<v1::SubscribeKvEventsResponse, Status>> {
    stream::unfold((app, events), |(app, mut events)| async move {
        let event = tokio::select! {
            () = app.lifecycle.draining.cancelled() => return None,
            event = events.next() => event,
        };
        Some((Ok(answer(event)), (app, events)))
    })
}

fn answer(event: KvEvent) -> v1::SubscribeKvEventsResponse {
    let change = match event.change {
        KvChange::Cleared => Event::Cleared(v1::KvCleared {}),
        KvChange::Removed { hashes } => Event::Removed(v1::KvRemoved {
            block_hashes: hashes.iter().map(|hash| short(hash.0)).collect(),
        }),
        KvChange::Stored {
            hashes,
            parent,
            tokens,
        } => Event::Stored(v1::KvStored {
            block_hashes: hashes.iter().map(|hash| short(hash.0)).collect(),
            parent_hash: parent.map(|hash| short(hash.0)),
            block_tokens: (tokens.len() / hashes.len().max(1)) as u32,
            token_ids: tokens.iter().map(|token| token.0).collect(),
        }),
    };
    v1::SubscribeKvEventsResponse {
        sequence: event.sequence,
        event: Some(change),
    }
}

/// The first eight of a hash's sixteen bytes.
fn short(hash: u128) -> u64 {
    hash as u64
}
