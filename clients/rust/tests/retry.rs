//! When a call is made again, against a server that fails on purpose.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::inference_server::{Inference, InferenceServer};
use paternoster_client::v1::{self, GenerateResponse};
use paternoster_client::{Error, Kind, Retry, Session, prompt};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What an attempt does: events, then perhaps a failure.
#[derive(Clone)]
enum Do {
    Started,
    Delta,
    Finished,
    Fail(Status),
}

impl Do {
    fn event(&self) -> Result<GenerateResponse, Status> {
        let event = match self {
            Self::Started => Event::Started(v1::Started::default()),
            Self::Delta => Event::Delta(v1::Delta {
                text: "ab".to_owned(),
                ..v1::Delta::default()
            }),
            Self::Finished => Event::Finished(v1::Finished::default()),
            Self::Fail(status) => return Err(status.clone()),
        };
        Ok(GenerateResponse { event: Some(event) })
    }
}

fn fail(code: Code) -> Do {
    Do::Fail(Status::new(code, "as the script says"))
}

fn pushed(pushback: &str) -> Do {
    let mut trailers = MetadataMap::new();
    trailers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    Do::Fail(Status::with_metadata(
        Code::Unavailable,
        "as the script says",
        trailers,
    ))
}

fn exhausted(reason: &str, retry_after: Option<Duration>) -> Do {
    let mut details = ErrorDetails::with_error_info(reason, "paternoster.v1", HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    let message = "as the script says";
    Do::Fail(Status::with_error_details(
        Code::ResourceExhausted,
        message,
        details,
    ))
}

/// A server that does what a script says, attempt by attempt.
#[derive(Clone)]
struct Flaky {
    script: Arc<Vec<Vec<Do>>>,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl Flaky {
    /// The events of the next attempt. After the last one it never answers.
    async fn step(&self, metadata: &MetadataMap) -> Vec<Result<GenerateResponse, Status>> {
        let attempt = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(metadata.clone());
            seen.len() - 1
        };
        match self.script.get(attempt) {
            Some(events) => events.iter().map(Do::event).collect(),
            None => future::pending().await,
        }
    }

    fn sent(&self, key: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let value =
            |metadata: &MetadataMap| metadata.get(key).unwrap().to_str().unwrap().to_owned();
        seen.iter().map(value).collect()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for Flaky {
    type GenerateStream = Answers<GenerateResponse>;
    type EmbedStreamStream = Answers<v1::EmbedResponse>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let events = self.step(request.metadata()).await;
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn complete(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        self.step(request.metadata())
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let completion = v1::Completion {
            text: "ab".to_owned(),
            ..v1::Completion::default()
        };
        Ok(Response::new(v1::CompleteResponse {
            completions: vec![completion],
            ..v1::CompleteResponse::default()
        }))
    }

    async fn embed(
        &self,
        _: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn embed_stream(
        &self,
        _: Request<Streaming<v1::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rerank(
        &self,
        _: Request<v1::RerankRequest>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn classify(
        &self,
        _: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn tokenize(
        &self,
        _: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn detokenize(
        &self,
        _: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn serve(script: Vec<Vec<Do>>) -> (Flaky, Session) {
    let flaky = Flaky {
        script: Arc::new(script),
        seen: Arc::default(),
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().add_service(InferenceServer::new(flaky.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    let session = Session::connect(format!("http://{address}")).await.unwrap();
    let quick = Retry {
        first: Duration::from_millis(1),
        ..Retry::default()
    };
    (flaky, session.with_retry(quick))
}

fn good() -> Vec<Do> {
    vec![Do::Started, Do::Delta, Do::Finished]
}

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

async fn whole(session: &Session) -> Result<String, Error> {
    let answer = spawnable(session.complete(prompt("x", 1))).await?;
    Ok(answer.completions.into_iter().map(|one| one.text).collect())
}

async fn streamed(session: &Session) -> Result<String, Error> {
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
        assert_eq!(
            flaky.seen.lock().unwrap().len(),
            2,
            "neither was tried again"
        );
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
