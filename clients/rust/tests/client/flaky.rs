//! A server that does what a script says, attempt by attempt.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::inference_server::{Inference, InferenceServer};
use paternoster_client::v1::{self, GenerateResponse};
use paternoster_client::{Retry, Session};
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What an attempt does: events, then perhaps a failure.
#[derive(Clone)]
pub(crate) enum Do {
    Started,
    Delta,
    Finished,
    Fail(Status),
    /// Nothing, for ever.
    Wait,
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
            Self::Wait => unreachable!("it is no event"),
        };
        Ok(GenerateResponse { event: Some(event) })
    }
}

pub(crate) fn fail(code: Code) -> Do {
    Do::Fail(Status::new(code, "as the script says"))
}

pub(crate) fn pushed(pushback: &str) -> Do {
    let mut trailers = MetadataMap::new();
    trailers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    Do::Fail(Status::with_metadata(
        Code::Unavailable,
        "as the script says",
        trailers,
    ))
}

pub(crate) fn exhausted(reason: &str, retry_after: Option<Duration>) -> Do {
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
pub(crate) struct Flaky {
    script: Arc<Vec<Vec<Do>>>,
    pub(crate) seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl Flaky {
    /// The events of the next attempt. After the last one it never answers.
    fn step(&self, metadata: &MetadataMap) -> Answers<GenerateResponse> {
        let attempt = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(metadata.clone());
            seen.len() - 1
        };
        let actions = self.script.get(attempt).cloned();
        let actions = actions.unwrap_or_else(|| vec![Do::Wait]);
        let waits = actions.iter().any(|action| matches!(action, Do::Wait));
        let events = actions.into_iter();
        let events = events.take_while(|action| !matches!(action, Do::Wait));
        let events = tokio_stream::iter(events.map(|action| action.event()));
        if waits {
            Box::pin(events.chain(tokio_stream::pending()))
        } else {
            Box::pin(events)
        }
    }

    /// Waits until a call has arrived.
    pub(crate) async fn asked(&self) {
        while self.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn sent(&self, key: &str) -> Vec<String> {
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
        Ok(Response::new(self.step(request.metadata())))
    }

    async fn complete(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        let mut events = self.step(request.metadata());
        while let Some(event) = events.next().await {
            event?;
        }
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

/// Starts a server; its address.
pub(crate) fn start(script: Vec<Vec<Do>>) -> (Flaky, SocketAddr) {
    let flaky = Flaky {
        script: Arc::new(script),
        seen: Arc::default(),
    };
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().add_service(InferenceServer::new(flaky.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    (flaky, address)
}

/// Connects, with short pauses.
pub(crate) async fn session(address: SocketAddr) -> Session {
    let session = Session::connect(format!("http://{address}")).await.unwrap();
    let quick = Retry {
        first: Duration::from_millis(1),
        ..Retry::default()
    };
    session.with_retry(quick)
}

/// Starts a server and connects to it.
pub(crate) async fn serve(script: Vec<Vec<Do>>) -> (Flaky, Session) {
    let (flaky, address) = start(script);
    (flaky, session(address).await)
}

pub(crate) fn good() -> Vec<Do> {
    vec![Do::Started, Do::Delta, Do::Finished]
}
