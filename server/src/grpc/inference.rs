//! The service `paternoster.v1.Inference`: each method hands over to its file.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use proto::v1;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::generation::Generation;
use super::{complete, embed, generate, tokenize};
use crate::app::App;
use crate::clock::Deadline;
use crate::status::Fault;

/// The service over one server's state.
pub(crate) struct Inference {
    app: Arc<App>,
}

impl Inference {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn begin(&self, request: Request<v1::GenerateRequest>) -> Result<Generation, Status> {
        let deadline = deadline(&self.app, &request);
        let (metadata, _, message) = request.into_parts();
        Ok(Box::pin(generate::begin(&self.app, &metadata, deadline, message)).await?)
    }
}

/// The end of a call's time, as the edge has set it.
fn deadline<T>(app: &App, request: &Request<T>) -> Deadline {
    let set = request.extensions().get::<Deadline>();
    set.copied()
        .unwrap_or_else(|| Deadline::after(app.limits.request_timeout_max))
}

fn with_request_id<T>(message: T, request_id: &str) -> Response<T> {
    let mut response = Response::new(message);
    // Request ids are checked to be characters that metadata can hold.
    if let Ok(value) = MetadataValue::try_from(request_id) {
        response.metadata_mut().insert("x-request-id", value);
    }
    response
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::inference_server::Inference for Inference {
    type GenerateStream = Answers<v1::GenerateResponse>;
    type EmbedStreamStream = Answers<v1::EmbedResponse>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let generation = Box::new(self.begin(request).await?);
        let request_id = generation.request_id.clone();
        let events = stream::unfold(generation, |mut generation| async move {
            let event = generation.next().await?;
            let response = event.map(|event| v1::GenerateResponse { event: Some(event) });
            Some((response, generation))
        });
        Ok(with_request_id(Box::pin(events), &request_id))
    }

    async fn complete(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        let answer = complete::collect(self.begin(request).await?).await?;
        let request_id = answer.request_id.clone();
        Ok(with_request_id(answer, &request_id))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let deadline = deadline(&self.app, &request);
        let (metadata, _, message) = request.into_parts();
        let (request_id, answer) = embed::embed(&self.app, &metadata, deadline, message).await?;
        Ok(with_request_id(answer, &request_id))
    }

    async fn embed_stream(
        &self,
        request: Request<Streaming<v1::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let timeout = request.metadata().get("grpc-timeout").is_some();
        let deadline = timeout.then(|| deadline(&self.app, &request));
        let (metadata, _, requests) = request.into_parts();
        let answers = embed::stream(Arc::clone(&self.app), metadata, deadline, requests);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn rerank(
        &self,
        _request: Request<v1::RerankRequest>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        Err(Fault::method_not_built("Rerank").into())
    }

    async fn classify(
        &self,
        _request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        Err(Fault::method_not_built("Classify").into())
    }

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        Ok(Response::new(
            tokenize::tokenize(&self.app, request.into_inner()).await?,
        ))
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        Ok(Response::new(tokenize::detokenize(
            &self.app,
            &request.into_inner(),
        )?))
    }
}
