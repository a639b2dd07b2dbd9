//! Bytes that no gRPC library sends.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use paternoster_client::v1;
use prost::Message as _;
use server::limits::LOOKS_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;

use super::{CANARY, Ended, roomy, said, withstand, withstand_uncounted, withstand_with};
use crate::raw::{RawCall, RawClient, framed};
use crate::world::{Plan, World, ask, reason, soon};

const GENERATE: &str = "/paternoster.v1.Inference/Generate";
const COMPLETE: &str = "/paternoster.v1.Inference/Complete";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const EMBED: &str = "/paternoster.v1.Inference/Embed";

/// What a call ends with whose request is these bytes.
async fn answer(world: &World, path: &str, headers: &[(&str, &str)], bytes: Bytes) -> Status {
    let mut raw = RawClient::connect(world.address, 1 << 16).await;
    let mut call = raw.begin_with(path, headers).await;
    call.finish_with(bytes);
    call.status().await
}

/// A frame of gRPC: a flag, a length, and bytes that need not be as long.
fn frame(flag: u8, length: u32, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(length);
    frame.put_slice(bytes);
    frame.freeze()
}

fn whole(bytes: &[u8]) -> Bytes {
    frame(0, bytes.len() as u32, bytes)
}

#[tokio::test]
async fn row_04_a_message_above_the_limit() {
    withstand(async |world| {
        let large = CANARY.repeat(world.app.limits.message_bytes_max);
        let status = soon(world.client.generate(ask(&large, 1)))
            .await
            .unwrap_err();
        let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
        assert_eq!((said(&status).0, said(&status).1), expected);
        // A length alone is enough: nobody waits for 4 GiB.
        let status = answer(world, GENERATE, &[], frame(0, u32::MAX, b"")).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        vec![("Generate", Code::ResourceExhausted); 2]
    })
    .await;
}

/// Whoever needs no key has no need of long messages.
#[tokio::test]
async fn row_04_a_long_question_to_health() {
    withstand(async |world| {
        let long = HealthCheckRequest {
            service: CANARY.repeat(1000),
        };
        let status = answer(world, HEALTH, &[], framed(&long)).await;
        let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
        assert_eq!((said(&status).0, said(&status).1), expected);
        vec![("HealthCheck", Code::ResourceExhausted)]
    })
    .await;
}

/// Messages of which all is sent but the last byte: what they take together is bounded, and short
/// messages are not refused for it.
#[tokio::test]
async fn row_04_many_messages_that_do_not_end() {
    withstand(async |world| {
        let length = world.app.limits.message_bytes_max;
        let almost = frame(0, length as u32, &vec![0; length - 1]);
        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        let mut calls = Vec::new();
        // One more than there is room for, since the first bytes of each are free.
        let room = 64 * length / (length - 1 - (16 << 10));
        for _ in 0..=room {
            let mut call = raw.begin(COMPLETE, None).await;
            call.send_bytes(almost.clone());
            calls.push(call);
        }
        let mut statuses: FuturesUnordered<_> = calls.iter_mut().map(RawCall::status).collect();
        let status = soon(statuses.next()).await.unwrap();
        assert_eq!(said(&status).0, Code::ResourceExhausted, "{status:?}");
        assert_eq!(said(&status).1, "QUEUE_FULL");
        drop(statuses);
        let short = answer(world, COMPLETE, &[], framed(&ask("short", 1)));
        assert_eq!(world.stepping(short).await.code(), Code::Ok);
        calls.clear();
        let mut ended = vec![("Complete", Code::Cancelled); room];
        ended.extend([
            ("Complete", Code::ResourceExhausted),
            ("Complete", Code::Ok),
        ]);
        ended
    })
    .await;
}

/// No encoding is taken, so nothing is unpacked: a bomb is refused by its flag.
#[tokio::test]
async fn rows_05_and_06_encodings_that_are_not_taken() {
    withstand(async |world| {
        let mut ended = Vec::new();
        for encoding in ["br", "gzip", "zstd", "x".repeat(500).as_str()] {
            let headers = [("grpc-encoding", encoding)];
            let status = answer(world, GENERATE, &headers, frame(1, 4, b"bomb")).await;
            assert_eq!(status.code(), Code::Unimplemented, "{encoding}: {status:?}");
            ended.push(("Generate", Code::Unimplemented));
        }
        ended
    })
    .await;
}

/// Groups in groups in groups, in a field that nobody knows.
#[tokio::test]
async fn row_15_a_message_that_nests_without_end() {
    withstand(async |world| {
        let deep = world.app.limits.message_bytes_max / 2 - 5;
        let nested = [vec![0xfb; deep], vec![0xfc; deep]].concat();
        let status = answer(world, GENERATE, &[], whole(&nested)).await;
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        vec![("Generate", Code::Internal)]
    })
    .await;
}

#[tokio::test]
async fn row_16_text_that_is_not_utf_8() {
    withstand(async |world| {
        let prompt = v1::GenerateRequest {
            model: "aaaa".to_owned(),
            ..v1::GenerateRequest::default()
        };
        let bytes: Vec<u8> = prompt
            .encode_to_vec()
            .into_iter()
            .map(|byte| if byte == b'a' { 0xff } else { byte })
            .collect();
        let status = answer(world, GENERATE, &[], whole(&bytes)).await;
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        vec![("Generate", Code::Internal)]
    })
    .await;
}

#[tokio::test]
async fn row_17_messages_that_are_cut_or_flagged() {
    withstand(async |world| {
        let message = ask(CANARY, 1).encode_to_vec();
        let cut = &message[..message.len() - 1];
        let frames = [
            whole(cut),
            frame(0, message.len() as u32 + 1, &message),
            frame(2, message.len() as u32, &message),
            frame(1, message.len() as u32, &message),
            Bytes::from_static(b"\0\0"),
            whole(&[0xff; 64]),
        ];
        let mut ended = Vec::new();
        for (line, bytes) in frames.into_iter().enumerate() {
            let status = answer(world, COMPLETE, &[], bytes).await;
            assert_eq!(status.code(), Code::Internal, "line {line}: {status:?}");
            ended.push(("Complete", Code::Internal));
        }
        ended
    })
    .await;
}

#[tokio::test]
async fn row_18_two_messages_or_none() {
    withstand(async |world| {
        let none = answer(world, EMBED, &[], Bytes::new()).await;
        assert_eq!(none.code(), Code::Internal, "{none:?}");
        let message = v1::EmbedRequest {
            inputs: vec![CANARY.to_owned()],
            ..v1::EmbedRequest::default()
        };
        let mut two = BytesMut::from(framed(&message));
        two.put_slice(&framed(&message));
        let two = answer(world, EMBED, &[], two.freeze()).await;
        vec![("Embed", Code::Internal), ("Embed", two.code())]
    })
    .await;
}

#[tokio::test]
async fn row_34_times_that_are_none() {
    withstand(async |world| {
        let mut ended = Vec::new();
        for time in ["9999999999S", "abc", "-1S", "", "1", "1x", "١S"] {
            let headers = [("grpc-timeout", time)];
            let status = answer(world, COMPLETE, &headers, framed(&ask("fine", 1))).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{time}: {status:?}");
            assert_eq!(reason(&status).0, "BAD_TIMEOUT");
            ended.push(("Complete", Code::InvalidArgument));
        }
        let headers = [("grpc-timeout", "99999999H")];
        let call = answer(world, COMPLETE, &headers, framed(&ask("fine", 1)));
        assert_eq!(world.stepping(call).await.code(), Code::Ok);
        ended.push(("Complete", Code::Ok));
        ended
    })
    .await;
}

#[tokio::test]
async fn rows_41_and_44_paths_that_are_no_methods() {
    let mut paths: Vec<String> = [
        "//paternoster.v1.Inference/Generate",
        "/paternoster.v1.inference/Generate",
        "/paternoster.v1.Inference/generate",
        "/paternoster.v1.Inference/Generate/",
        "/paternoster.v1.Inference%2fGenerate",
        "/paternoster.v1.Inference/../Control/Drain",
        "/paternoster.v1.Control/./Drain",
        "/paternoster.v1.Inference/Generate?x=1",
        "/metrics",
        "/",
    ]
    .map(str::to_owned)
    .into();
    paths.extend((0..1000).map(|number| format!("/made.up/Method{number}")));
    withstand(async |world| {
        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        let mut ended: Vec<Ended> = Vec::new();
        for path in &paths {
            let mut call = raw.call(path, &ask("", 1)).await;
            let status = call.status().await;
            // A question mark ends a path, so that one is the method itself.
            let (method, code) = if path.contains('?') {
                ("Generate", Code::InvalidArgument)
            } else {
                ("other", Code::Unimplemented)
            };
            assert_eq!(status.code(), code, "{path}: {status:?}");
            ended.push((method, code));
        }
        assert!(!world.app.lifecycle.draining.is_cancelled());
        ended
    })
    .await;
}

#[tokio::test]
async fn row_42_headers_without_end() {
    withstand(async |world| {
        let large = "x".repeat(64 << 10);
        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        let mut call = raw.begin_with(GENERATE, &[("x-large", &large)]).await;
        assert!(call.refused().await, "it was answered");
        let names: Vec<String> = (0..10_000).map(|number| format!("x-{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        let mut call = raw.begin_with(GENERATE, &many).await;
        assert!(call.refused().await, "it was answered");
        Vec::new()
    })
    .await;
}

#[tokio::test]
async fn row_46_connections_that_say_nothing() {
    let plan = || {
        let mut plan = roomy();
        plan.limits.greeting_timeout = std::time::Duration::from_millis(300);
        plan.limits.connections_per_address_max = 1000;
        plan
    };
    withstand_with(plan, async |world| {
        let silent = (0..200).map(async |number: u32| {
            let mut stream = TcpStream::connect(world.address).await.unwrap();
            if number % 2 == 1 {
                stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
            }
            let mut rest = Vec::new();
            // Closed, or reset because of what it had sent.
            let _read = soon(stream.read_to_end(&mut rest)).await;
        });
        join_all(silent).await;
        Vec::new()
    })
    .await;
}

#[tokio::test]
async fn row_48_the_other_protocol() {
    withstand(async |world| {
        let page = world.get(GENERATE).await;
        assert!(page.starts_with("HTTP/1.1 404"), "{page}");
        let post = format!(
            "POST {GENERATE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/grpc\r\ncontent-length: 0\r\n\r\n"
        );
        assert!(world.raw(&post).await.starts_with("HTTP/1.1 505"));
        let status = answer(world, "/metrics", &[], framed(&ask(CANARY, 1))).await;
        assert_eq!(status.code(), Code::Unimplemented);
        vec![("other", Code::Unimplemented)]
    })
    .await;
}

/// Calls that need no key and do not end are few on one connection, and leave room for others.
#[tokio::test]
async fn row_46_health_that_is_watched_again_and_again() {
    withstand(async |world| {
        let mut raw = RawClient::connect(world.address, 1 << 16).await;
        let request = HealthCheckRequest::default();
        let mut watched = Vec::new();
        for _ in 0..LOOKS_MAX {
            let mut watch = raw.call(WATCH, &request).await;
            let (_, mut body) = watch.head().await;
            soon(body.data()).await.unwrap().unwrap();
            watched.push((watch, body));
        }
        for path in [WATCH, HEALTH] {
            let status = raw.call(path, &request).await.status().await;
            assert_eq!(said(&status).1, "QUEUE_FULL", "{status:?}");
        }
        let mut call = raw.call(COMPLETE, &ask("beside", 1)).await;
        assert_eq!(world.stepping(call.status()).await.code(), Code::Ok);
        watched.pop();
        // The server sees it go when it looks at the next frames.
        let mut refused = 0;
        soon(async {
            while raw.call(HEALTH, &request).await.status().await.code() != Code::Ok {
                refused += 1;
            }
        })
        .await;
        let mut ended = vec![("HealthWatch", Code::Cancelled); LOOKS_MAX];
        ended.extend(vec![("HealthCheck", Code::ResourceExhausted); refused + 1]);
        ended.extend([
            ("HealthWatch", Code::ResourceExhausted),
            ("HealthCheck", Code::Ok),
            ("Complete", Code::Ok),
        ]);
        ended
    })
    .await;
}

/// One stream more than a connection may have waits in its client, or is refused; none is lost.
#[tokio::test]
async fn row_47_more_streams_than_a_connection_may_have() {
    let plan = || Plan {
        waiting_max: 600,
        ..roomy()
    };
    withstand_uncounted(plan, async |world| {
        let client = world.client.clone();
        let calls = (0..300).map(|_| {
            let mut inference = client.inference();
            async move { inference.complete(ask("many", 1)).await }
        });
        for answer in world.stepping(join_all(calls)).await {
            answer.unwrap();
        }
    })
    .await;
}
