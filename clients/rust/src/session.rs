//! A session: a connection with deadlines, retries and typed errors.

use std::time::Duration;

use tonic::metadata::errors::InvalidMetadataValue;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{IntoRequest, IntoStreamingRequest, Request, Response, Status, Streaming};

use crate::call::Call;
use crate::error::Error;
use crate::generation::Generation;
use crate::retry::Retry;
use crate::tls::Tls;
use crate::{Client, v1};

/// The deadline of a call unless a session has another.
const TIMEOUT: Duration = Duration::from_mins(1);

/// One connection to a server. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
    timeout: Option<Duration>,
    retry: Retry,
    api_key: Option<MetadataValue<Ascii>>,
}

impl Session {
    /// Connects to an address like `http://127.0.0.1:50051`.
    pub async fn connect(address: impl Into<String>) -> Result<Self, tonic::transport::Error> {
        let client = Client::connect(address).await?;
        Ok(Self::over(client))
    }

    /// Connects to an address like `https://localhost:50051`.
    pub async fn connect_tls(
        address: impl Into<String>,
        tls: Tls,
    ) -> Result<Self, tonic::transport::Error> {
        let client = Client::connect_tls(address, tls).await?;
        Ok(Self::over(client))
    }

    /// A session over a connection that was made elsewhere.
    pub fn over(client: Client) -> Self {
        Self {
            client,
            timeout: Some(TIMEOUT),
            retry: Retry::default(),
            api_key: None,
        }
    }

    /// The same connection with another deadline for each call; `None` is none.
    #[must_use]
    pub fn with_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// The same connection with another rule for trying again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same connection with a key that is sent with every call.
    pub fn with_api_key(mut self, key: &str) -> Result<Self, InvalidMetadataValue> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
        value.set_sensitive(true);
        self.api_key = Some(value);
        Ok(self)
    }

    /// Streams a generation. Dropping it ends it on the server.
    ///
    /// What stands in the request's metadata is sent along, as `traceparent` and `x-request-id`.
    pub async fn generate(
        &self,
        request: impl IntoRequest<v1::GenerateRequest>,
    ) -> Result<Generation, Error> {
        let (metadata, _, message) = request.into_request().into_parts();
        Generation::open(self.client.clone(), self.begin(metadata), message).await
    }

    /// Generates and returns the whole answer.
    pub async fn complete(
        &self,
        request: impl IntoRequest<v1::GenerateRequest>,
    ) -> Result<v1::CompleteResponse, Error> {
        self.call(request, async |client, request| {
            client.inference().complete(request).await
        })
        .await
    }

    /// Embeds texts with the server's first encoder; one vector for each, in order.
    pub async fn embed<T: Into<String>>(
        &self,
        inputs: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let request = v1::EmbedRequest {
            inputs: inputs.into_iter().map(Into::into).collect(),
            ..v1::EmbedRequest::default()
        };
        let embed = async |client: Client, request| client.inference().embed(request).await;
        let answer = self.call(request, embed).await?;
        let vectors = answer.embeddings.into_iter();
        Ok(vectors.map(|embedding| embedding.values).collect())
    }

    /// Embeds any number of batches: one answer for each, in order. It is not tried again, because
    /// its input is gone.
    pub async fn embed_stream(
        &self,
        batches: impl IntoStreamingRequest<Message = v1::EmbedRequest>,
    ) -> Result<Embeddings, Error> {
        let (metadata, _, batches) = batches.into_streaming_request().into_parts();
        let call = self.begin(metadata);
        let mut inference = self.client.inference();
        let opened = call.bound(inference.embed_stream(call.request(batches)));
        match opened.await {
            Ok(answer) => Ok(Embeddings {
                stream: answer.into_inner(),
                call,
            }),
            Err(status) => Err(call.error(status, false)),
        }
    }

    /// Makes any unary call with the deadline, the retries and the errors of this session:
    ///
    /// ```no_run
    /// # use paternoster_client::{Error, Session, v1};
    /// # async fn example(session: Session) -> Result<(), Error> {
    /// let request = v1::GetLoadRequest::default();
    /// let load = session
    ///     .call(request, async |client, request| client.control().get_load(request).await)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call<M: Clone, R>(
        &self,
        request: impl IntoRequest<M>,
        attempt: impl AsyncFn(Client, Request<M>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error> {
        let (metadata, _, message) = request.into_request().into_parts();
        let mut call = self.begin(metadata);
        loop {
            let request = call.request(message.clone());
            match call.bound(attempt(self.client.clone(), request)).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => call.again(status, false).await?,
            }
        }
    }

    fn begin(&self, mut metadata: MetadataMap) -> Call {
        if let Some(key) = &self.api_key {
            metadata.insert("authorization", key.clone());
        }
        Call::begin(metadata, self.timeout, self.retry)
    }
}

/// The answers to batches of texts. Dropping them ends the work on the server.
#[derive(Debug)]
pub struct Embeddings {
    stream: Streaming<v1::EmbedResponse>,
    call: Call,
}

impl Embeddings {
    /// The answer to the next batch; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<v1::EmbedResponse>, Error> {
        let next = self.call.bound(self.stream.message()).await;
        next.map_err(|status| self.call.error(status, false))
    }
}
