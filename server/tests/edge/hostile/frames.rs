//! Frames of HTTP/2 that no HTTP/2 library sends.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{roomy, withstand, withstand_uncounted};
use crate::world::{World, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The compressed header fields of a POST of gRPC, most of them names and values of the static table.
fn post(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x44, path.len() as u8];
    block.extend(path.bytes());
    // :authority x; content-type application/grpc
    block.extend(b"\x41\x01x\x5f\x10application/grpc");
    block
}

/// Whether the server says goodbye or closes within what it is sent.
async fn gives_up(world: &World, opening: &[u8], flood: &[u8], times: usize) -> bool {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _read = from.read_to_end(&mut answer).await;
        answer
    });
    let mut closed = to.write_all(PREFACE).await.is_err();
    closed |= to.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err();
    closed |= to.write_all(opening).await.is_err();
    for _ in 0..times {
        closed |= to.write_all(flood).await.is_err();
        if closed || reading.is_finished() {
            break;
        }
    }
    drop(to);
    let answer = soon(reading).await.unwrap();
    closed || says_goodbye(&answer)
}

/// Whether there is a GOAWAY with an error among these frames.
fn says_goodbye(mut bytes: &[u8]) -> bool {
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else {
            return false;
        };
        if bytes[3] == GOAWAY && payload[4..8] != [0; 4] {
            return true;
        }
        bytes = &bytes[9 + length..];
    }
    false
}

/// Each of these costs its own connection.
#[tokio::test]
async fn row_45_floods_of_frames_end_their_connection() {
    let path = "/paternoster.v1.Inference/Generate";
    let begin = frame(HEADERS, 0, 1, &post(path));
    let begun = frame(HEADERS, END_HEADERS, 1, &post(path));
    let ended = frame(HEADERS, END_HEADERS | END_STREAM, 1, &post(path));
    let filler = frame(CONTINUATION, 0, 1, &[0x40, 1, b'x', 1, b'y'].repeat(200));
    let floods: [(&str, &[u8], Vec<u8>); 6] = [
        ("CONTINUATION", &begin, filler),
        (
            "empty CONTINUATION",
            &begin,
            frame(CONTINUATION, 0, 1, &[]).repeat(50),
        ),
        ("empty DATA", &begun, frame(DATA, 0, 1, &[]).repeat(50)),
        (
            "WINDOW_UPDATE of nothing",
            &begun,
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        ("DATA after the end", &ended, frame(DATA, 0, 1, b"more")),
        (
            "a frame above the limit",
            &[],
            frame(DATA, 0, 1, &vec![0; 20_000]),
        ),
    ];
    withstand_uncounted(roomy, async |world| {
        for (name, opening, flood) in &floods {
            assert!(gives_up(world, opening, flood, 20_000).await, "{name}");
        }
    })
    .await;
}

/// Calls that are taken back in the same breath.
#[tokio::test]
async fn row_45_rapid_reset() {
    let block = post("/paternoster.v1.Inference/Generate");
    let cancel = 8u32.to_be_bytes();
    let calls: Vec<u8> = (0..5000)
        .flat_map(|call| {
            let stream = 2 * call + 1;
            let begun = frame(HEADERS, END_HEADERS, stream, &block);
            [begun, frame(RST_STREAM, 0, stream, &cancel)].concat()
        })
        .collect();
    withstand_uncounted(roomy, async |world| {
        let ping = frame(PING, 0, 0, &[0; 8]);
        assert!(
            gives_up(world, &calls, &ping, 100).await,
            "nobody stopped it"
        );
    })
    .await;
}

/// These are answered or ignored, at little cost; the connection may go on.
#[tokio::test]
async fn row_45_floods_of_pings_and_settings_change_nothing() {
    withstand(async |world| {
        for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
            let _ended = gives_up(world, &[], &flood.repeat(100), 200).await;
        }
        Vec::new()
    })
    .await;
}
