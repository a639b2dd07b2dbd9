//! A `paternoster.v1` server as a target.

use std::time::Duration;

use paternoster_client::v1::control_client::ControlClient;
use paternoster_client::v1::generate_request::Input;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::inference_client::InferenceClient;
use paternoster_client::{Client, Tls, v1};
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::plan::{Ask, End};
use crate::prompts::{Prompt, words};
use crate::target::{Cost, Embedded, Failure, Piece, Pieces, Target};

/// A field sent with every call, as an API key.
pub type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

/// Connections to one server.
#[derive(Debug)]
pub struct Grpc {
    connections: Vec<InferenceClient<Channel>>,
    control: ControlClient<Channel>,
    headers: Vec<Header>,
    model: String,
}

impl Grpc {
    /// Opens the connections.
    pub async fn connect(
        address: &str,
        connections: usize,
        model: String,
        headers: Vec<Header>,
        tls: Option<Tls>,
    ) -> Result<Self, tonic::transport::Error> {
        let open = async || match tls.clone() {
            Some(tls) => Client::connect_tls(address, tls).await,
            None => Client::connect(address).await,
        };
        let first = open().await?;
        let control = first.control();
        let mut opened = vec![first.inference()];
        while opened.len() < connections {
            opened.push(open().await?.inference());
        }
        Ok(Self {
            connections: opened,
            control,
            headers,
            model,
        })
    }

    /// Ids of tokens are below this, of the model that is asked.
    pub async fn vocabulary(&self) -> Result<u32, Failure> {
        let request = self.request(v1::ListModelsRequest {});
        let listed = self.control.clone().list_models(request).await;
        let models = listed
            .map_err(|status| failure(&status))?
            .into_inner()
            .models;
        let mut decoders = models
            .into_iter()
            .filter(|model| model.task() == v1::Task::Generate);
        decoders
            .find(|model| self.model.is_empty() || model.name == self.model)
            .map(|model| model.vocab_size)
            .ok_or_else(|| Failure {
                code: "NOT_FOUND".to_owned(),
                reason: "MODEL_NOT_FOUND".to_owned(),
                retry_after: None,
            })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        request
    }

    fn connection(&self, number: usize) -> InferenceClient<Channel> {
        self.connections[number % self.connections.len()].clone()
    }
}

impl Target for Grpc {
    type Pieces = Events;

    async fn generate(&self, connection: usize, ask: &Ask) -> Result<Events, Failure> {
        let request = v1::GenerateRequest {
            model: self.model.clone(),
            input: Some(match &ask.prompt {
                Prompt::Text(text) => Input::Prompt(text.clone()),
                Prompt::Ids(ids) => Input::TokenIds(v1::TokenIds { ids: ids.clone() }),
            }),
            stopping: Some(v1::Stopping {
                max_tokens: Some(ask.output),
                ignore_eos: ask.end == End::Length,
                ..v1::Stopping::default()
            }),
            deadline_ms: ask.kind.deadline.map(|time| time.as_millis().max(1) as u64),
            ..v1::GenerateRequest::default()
        };
        let request = self.request(request);
        let answer = self.connection(connection).generate(request).await;
        let stream = answer.map_err(|status| failure(&status))?.into_inner();
        Ok(Events { stream })
    }

    async fn embed(&self, connection: usize, ask: &Ask) -> Result<Embedded, Failure> {
        let inputs = [&ask.prompt].into_iter().chain(&ask.more);
        let request = v1::EmbedRequest {
            model: self.model.clone(),
            inputs: inputs.map(text).collect(),
            truncate: true,
            ..v1::EmbedRequest::default()
        };
        let request = self.request(request);
        let answer = self.connection(connection).embed(request).await;
        let answer = answer.map_err(|status| failure(&status))?.into_inner();
        Ok(Embedded {
            vectors: answer.embeddings.len() as u32,
            prompt_tokens: answer.usage.map_or(0, |usage| usage.prompt_tokens),
        })
    }
}

/// Only generations take token ids: an embedding has as many words in their place.
fn text(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Ids(ids) => words(ids),
    }
}

/// The events of a generation.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<v1::GenerateResponse>,
}

impl Pieces for Events {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            let message = self.stream.message().await;
            let Some(message) = message.map_err(|status| failure(&status))? else {
                return Ok(None);
            };
            // A server newer than this client may send events that it does not know.
            if let Some(event) = message.event {
                return Ok(Some(piece(&event)));
            }
        }
    }
}

fn piece(event: &Event) -> Piece {
    match event {
        Event::Started(_) => Piece::Started,
        Event::Delta(delta) => Piece::Tokens(delta.token_ids.len() as u32),
        Event::Finished(finished) => {
            let usage = finished.usage.unwrap_or_default();
            Piece::Finished(Cost {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
            })
        }
    }
}

fn failure(status: &Status) -> Failure {
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    Failure {
        code: code(status.code()).to_owned(),
        reason: details
            .error_info()
            .map(|info| info.reason.clone())
            .unwrap_or_default(),
        retry_after: retry.map(|delay| delay.min(Duration::from_hours(1))),
    }
}

/// The name of a code, as the protocol writes it.
fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Reads `name: value`.
pub fn parse_header(text: &str) -> Result<Header, String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "use NAME: VALUE".to_owned())?;
    let name = name.trim().to_ascii_lowercase();
    let key = name
        .parse()
        .map_err(|_| format!("{name:?} is no name of a header"))?;
    // The value may be a secret, and is not repeated.
    let value: MetadataValue<Ascii> = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of {name} is not ASCII"))?;
    if value.to_str().is_err() {
        return Err(format!("the value of {name} is not ASCII"));
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_becomes_its_code_and_reason() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "QUEUE_FULL",
            "paternoster.v1",
            std::collections::HashMap::new(),
        );
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let failure = failure(&status);
        assert_eq!(
            (failure.code.as_str(), failure.reason.as_str()),
            ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        );
        assert_eq!(failure.retry_after, Some(Duration::from_millis(250)));
        let bare = super::failure(&Status::unavailable("gone"));
        assert_eq!(
            (bare.code.as_str(), bare.retry_after),
            ("UNAVAILABLE", None)
        );
    }

    #[test]
    fn a_bad_header_is_refused_without_its_value() {
        assert!(parse_header("Authorization: Bearer x").is_ok());
        assert!(parse_header("no colon").is_err());
        let error = parse_header("x-key: s\u{e9}cret").unwrap_err();
        assert!(!error.contains("cret"), "{error}");
    }
}
