//! A thin client of a Paternoster server.
//!
//! The messages are those of the contract, re-exported as [`v1`]. A [`Session`] is what applications
//! use: a deadline on each call, typed errors that name the request, a rule for trying again that ends
//! at the first token, and a generation that ends on the server when it is dropped. A [`Client`] is
//! the connection alone, with gRPC's own errors, for tests and load generators.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let session = paternoster_client::Session::connect("http://127.0.0.1:50051").await?;
//! let request = paternoster_client::prompt("What is a paternoster?", 64);
//! let mut generation = session.generate(request).await?;
//! while let Some(text) = generation.text().await? {
//!     print!("{text}");
//! }
//! let vectors = session.embed(["A lift that never stops."]).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod call;
mod error;
mod generation;
mod retry;
mod session;
mod tls;

use std::time::Duration;

use proto::v1::control_client::ControlClient;
use proto::v1::generate_request::Input;
use proto::v1::generate_response::Event;
use proto::v1::inference_client::InferenceClient;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{IntoRequest, Status, Streaming};

/// The messages and the generated clients.
pub use proto::v1;

pub use crate::error::{Error, Kind};
pub use crate::generation::Generation;
pub use crate::retry::Retry;
pub use crate::session::{Embeddings, Session};
pub use crate::tls::Tls;

/// What one stream may hold unread, and what all streams of a connection may together. One slow
/// reader then does not stall the others, and a server may send many small messages.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 20;
/// Embeddings of a large batch are larger than the 4 MiB that clients take by default.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// One connection to a server, without deadlines and retries. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to an address like `http://127.0.0.1:50051`.
    pub async fn connect(address: impl Into<String>) -> Result<Self, transport::Error> {
        Self::open(Endpoint::from_shared(address.into())?).await
    }

    /// Connects to an address like `https://localhost:50051`. TLS is spoken whatever its scheme says.
    pub async fn connect_tls(
        address: impl Into<String>,
        tls: Tls,
    ) -> Result<Self, transport::Error> {
        let address = address.into();
        let host = address
            .split_once("://")
            .map_or(&*address, |(_, host)| host);
        let endpoint = Endpoint::from_shared(format!("https://{host}"))?;
        Self::open(endpoint.tls_config(tls.into_config())?).await
    }

    async fn open(endpoint: Endpoint) -> Result<Self, transport::Error> {
        let endpoint = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        Ok(Self {
            channel: endpoint.connect().await?,
        })
    }

    /// A client over a channel that was made elsewhere.
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// The generated client of the service `Inference`.
    pub fn inference(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the service `Control`.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Streams a generation. Dropping the stream ends it on the server.
    pub async fn generate(
        &self,
        request: impl IntoRequest<v1::GenerateRequest>,
    ) -> Result<Events, Status> {
        let answer = self.inference().generate(request).await?;
        Ok(Events {
            stream: answer.into_inner(),
        })
    }

    /// Embeds texts with the server's first encoder; one vector for each, in order.
    pub async fn embed<T: Into<String>>(
        &self,
        inputs: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Vec<f32>>, Status> {
        let inputs = inputs.into_iter().map(Into::into).collect();
        let request = v1::EmbedRequest {
            inputs,
            ..v1::EmbedRequest::default()
        };
        let answer = self.inference().embed(request).await?.into_inner();
        Ok(answer
            .embeddings
            .into_iter()
            .map(|embedding| embedding.values)
            .collect())
    }
}

/// A request for at most `max_tokens` tokens after a text.
pub fn prompt(text: impl Into<String>, max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest {
        input: Some(Input::Prompt(text.into())),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ..v1::Stopping::default()
        }),
        ..v1::GenerateRequest::default()
    }
}

/// The events of one generation.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<v1::GenerateResponse>,
}

impl Events {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Event>, Status> {
        while let Some(response) = self.stream.message().await? {
            // A server newer than this client may send events that it does not know.
            if let Some(event) = response.event {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The next piece of text, whatever sequence it belongs to; `None` after the last.
    pub async fn text(&mut self) -> Result<Option<String>, Status> {
        while let Some(event) = self.next().await? {
            if let Event::Delta(delta) = event {
                return Ok(Some(delta.text));
            }
        }
        Ok(None)
    }
}
