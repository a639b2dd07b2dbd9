//! When a call is made again, and how it ends.

use std::time::Duration;

use paternoster_client::{Error, Kind, Retry, Session, prompt};
use tonic::{Code, Request, Status};

use crate::flaky::{Do, exhausted, fail, good, pushed, serve};

struct Case {
    name: &'static str,
    script: Vec<Vec<Do>>,
    attempts: usize,
    error: Option<Kind>,
}

fn case(name: &'static str, failing: Vec<Vec<Do>>, attempts: usize, error: Option<Kind>) -> Case {
    let mut script = failing;
    script.push(good());
    Case {
        name,
        script,
        attempts,
        error,
    }
}

fn before_the_first_token() -> Vec<Case> {
    let gone = || vec![fail(Code::Unavailable)];
    let soon = Some(Duration::from_millis(1));
    let unavailable = Some(Kind::Unavailable);
    vec![
        case("nothing fails", vec![], 1, None),
        case("unavailable, then not", vec![gone(), gone()], 3, None),
        case(
            "overloaded, with a hint",
            vec![vec![exhausted("QUEUE_FULL", soon)]],
            2,
            None,
        ),
        case(
            "overloaded, without",
            vec![vec![exhausted("QUOTA", None)]],
            1,
            Some(Kind::Overloaded),
        ),
        case(
            "too large",
            vec![vec![exhausted("MESSAGE_TOO_LARGE", None)]],
            1,
            Some(Kind::Invalid),
        ),
        case(
            "a fault",
            vec![vec![fail(Code::Internal)]],
            1,
            Some(Kind::Generation),
        ),
        case(
            "no key",
            vec![vec![fail(Code::Unauthenticated)]],
            1,
            Some(Kind::Unauthenticated),
        ),
        case(
            "four and no more",
            vec![gone(), gone(), gone(), gone()],
            4,
            unavailable,
        ),
        case("pushed back", vec![vec![pushed("1")]], 2, None),
        case(
            "pushed back for good",
            vec![vec![pushed("-1")]],
            1,
            unavailable,
        ),
        case(
            "pushed back past the deadline",
            vec![vec![pushed("3600000")]],
            1,
            unavailable,
        ),
        case(
            "pushed back by garbage",
            vec![vec![pushed("soon")]],
            1,
            unavailable,
        ),
    ]
}

fn in_a_stream() -> Vec<Case> {
    let incomplete = Some(Kind::Incomplete);
    let broken = |code| vec![vec![Do::Started, Do::Delta, fail(code)]];
    vec![
        case(
            "started is no token",
            vec![vec![Do::Started, fail(Code::Unavailable)]],
            2,
            None,
        ),
        case(
            "after the first token",
            broken(Code::Unavailable),
            1,
            incomplete,
        ),
        case("a fault after it", broken(Code::Internal), 1, incomplete),
        case(
            "a good end too early",
            vec![vec![Do::Started, Do::Delta]],
            1,
            incomplete,
        ),
        case("a good end before all", vec![vec![]], 1, incomplete),
    ]
}

/// Applications spawn their calls.
fn spawnable<F: Future + Send>(call: F) -> F {
    call
}

pub(crate) async fn whole(session: &Session) -> Result<String, Error> {
    let answer = spawnable(session.complete(prompt("x", 1))).await?;
    Ok(answer.completions.into_iter().map(|one| one.text).collect())
}

pub(crate) async fn streamed(session: &Session) -> Result<String, Error> {
    let mut generation = spawnable(session.generate(prompt("x", 1))).await?;
    let mut text = String::new();
    while let Some(piece) = generation.text().await? {
        text += &piece;
    }
    Ok(text)
}

async fn check(cases: Vec<Case>, ask: impl AsyncFn(&Session) -> Result<String, Error>) {
    for case in cases {
        let (flaky, session) = serve(case.script).await;
        match (ask(&session).await, case.error) {
            (Ok(text), None) => assert_eq!(text, "ab", "{}", case.name),
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind(), kind, "{}: {error}", case.name);
                assert_eq!(
                    flaky.sent("x-request-id")[0],
                    error.request_id(),
                    "{}",
                    case.name
                );
            }
            (answer, _) => panic!("{}: {answer:?}", case.name),
        }
        assert_eq!(
            flaky.seen.lock().unwrap().len(),
            case.attempts,
            "{}",
            case.name
        );
    }
}

#[tokio::test]
async fn whole_answers_are_tried_again() {
    check(before_the_first_token(), whole).await;
}

#[tokio::test]
async fn streams_are_tried_again_before_the_first_token() {
    check(before_the_first_token(), streamed).await;
    check(in_a_stream(), streamed).await;
}

#[tokio::test]
async fn all_attempts_share_one_name_one_key_and_one_deadline() {
    let (flaky, session) = serve(vec![vec![pushed("200")], vec![pushed("200")], good()]).await;
    let session = session.with_api_key("secret").unwrap();
    assert!(!format!("{session:?}").contains("secret"));
    let mut request = Request::new(prompt("x", 1));
    request
        .metadata_mut()
        .insert("x-request-id", "mine".parse().unwrap());
    session.complete(request).await.unwrap();
    assert_eq!(flaky.sent("x-request-id"), ["mine"; 3]);
    assert_eq!(flaky.sent("authorization"), ["Bearer secret"; 3]);
    let left: Vec<u64> = flaky
        .sent("grpc-timeout")
        .iter()
        .map(|value| value.trim_end_matches('u').parse().unwrap())
        .collect();
    assert!(left[0] <= 60_000_000 && left[0] > 50_000_000, "{left:?}");
    assert!(
        left[2] + 400_000 <= left[0],
        "each attempt has what is left: {left:?}"
    );
}

#[tokio::test]
async fn a_deadline_that_passes_is_no_cancel() {
    for ask in 0..8 {
        let (flaky, session) = serve(vec![]).await;
        let session = session.with_timeout(Duration::from_millis(20 + ask));
        let unary = whole(&session).await.unwrap_err();
        assert_eq!(unary.code(), Code::DeadlineExceeded, "{unary}");
        let stream = streamed(&session).await.unwrap_err();
        assert_eq!(stream.kind(), Kind::DeadlineExceeded, "{stream}");
        // On a machine at its limit a call may not even arrive.
        let seen = flaky.seen.lock().unwrap().len();
        assert!(seen <= 2, "neither was tried again: {seen}");
    }
}

#[tokio::test]
async fn an_error_says_what_the_server_said() {
    let told = Duration::from_millis(250);
    let (_, session) = serve(vec![vec![exhausted("QUEUE_FULL", Some(told))]]).await;
    let once = Retry {
        attempts: 1,
        ..Retry::default()
    };
    let error = whole(&session.with_retry(once)).await.unwrap_err();
    assert_eq!(error.reason(), "QUEUE_FULL");
    assert_eq!(error.retry_after(), Some(told));
    assert_eq!(Status::from(error).code(), Code::ResourceExhausted);
}
