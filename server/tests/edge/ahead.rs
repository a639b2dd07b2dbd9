//! Clients that send ahead of the work.

use futures_util::future::join_all;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::raw::{RawCall, RawClient};
use crate::tei::embed;
use crate::world::{World, soon};

/// A client that sends ahead whatever the windows let it on several streams, each message in a frame of
/// its own, is held back by them before the protocol's own limit on small frames ends its connection.
#[tokio::test]
async fn small_frames_sent_far_ahead_on_eight_streams_are_answered() {
    const STREAMS: usize = 8;
    // More frames of 8 bytes than the window of a stream has room for.
    const COUNT: usize = 10_000;
    let world = World::ready().await;
    world.encoder.hold();
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        let mut call = raw.begin("/tei.v1.Embed/EmbedStream", None).await;
        for _ in 0..COUNT {
            call.send(&embed("x"));
        }
        calls.push(call);
    }
    // What the windows let through is there before any of it is worked on.
    for _ in 0..200 {
        let request = HealthCheckRequest::default();
        let mut check = raw.call("/grpc.health.v1.Health/Check", &request).await;
        assert_eq!(check.status().await.code(), Code::Ok);
    }
    world.encoder.release();
    for answers in join_all(calls.iter_mut().map(answers)).await {
        assert!(answers >= 500, "{answers}");
    }
}

/// Counts the messages of an answer's beginning.
async fn answers(call: &mut RawCall) -> usize {
    let (_, mut body) = call.head().await;
    let (mut bytes, mut answers) = (Vec::new(), 0);
    while answers < 500 {
        let part = soon(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        bytes.extend_from_slice(&part);
        while bytes.len() >= 5 {
            let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
            if bytes.len() < 5 + length {
                break;
            }
            bytes.drain(..5 + length);
            answers += 1;
        }
    }
    answers
}
