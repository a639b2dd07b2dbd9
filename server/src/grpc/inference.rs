//! The service `paternoster.v1.Inference`: each method hands over to its file.

use std::sync::Arc;

use futures_util::stream;
use proto::v1;
use tonic::{Request, Response, Status, Streaming};

use super::generation::Generation;
use super::streaming::Answers;
use super::{complete, embed, generate, rank, tokenize};
use crate::app::App;
use crate::edge::Context;
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
        let (context, message) = self.taken(request)?;
        Ok(Box::pin(generate::begin(&self.app, &context, message)).await?)
    }

    /// A message that has arrived, and its call, which takes its place among those that run.
    fn taken<T>(&self, request: Request<T>) -> Result<(Context, T), Status> {
        let (context, message) = parts(request)?;
        context.take_place(&self.app)?;
        Ok((context, message))
    }
}

/// A message and what the edge knows of its call.
pub(crate) fn parts<T>(mut request: Request<T>) -> Result<(Context, T), Status> {
    let context = request.extensions_mut().remove::<Context>();
    // The edge gives one to every call; without it, nothing would bound this one.
    let context = context.ok_or_else(Fault::panic)?;
    Ok((context, request.into_inner()))
}

#[tonic::async_trait]
impl v1::inference_server::Inference for Inference {
    type GenerateStream = Answers<v1::GenerateResponse>;
    type EmbedStreamStream = Answers<v1::EmbedResponse>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let generation = Box::new(self.begin(request).await?);
        let events = stream::unfold(generation, |mut generation| async move {
            let event = generation.next().await?;
            let response = event.map(|event| v1::GenerateResponse { event: Some(event) });
            Some((response, generation))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn complete(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        Ok(Response::new(
            complete::collect(self.begin(request).await?).await?,
        ))
    }

    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, Status> {
        let (context, message) = self.taken(request)?;
        Ok(Response::new(
            embed::embed(&self.app, &context, message).await?,
        ))
    }

    async fn embed_stream(
        &self,
        request: Request<Streaming<v1::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let (context, requests) = parts(request)?;
        let answers = embed::stream(Arc::clone(&self.app), context, requests);
        Ok(Response::new(answers))
    }

    async fn rerank(
        &self,
        request: Request<v1::RerankRequest>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        let (context, message) = self.taken(request)?;
        Ok(Response::new(
            rank::rerank(&self.app, &context, message).await?,
        ))
    }

    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        let (context, message) = self.taken(request)?;
        Ok(Response::new(
            rank::classify(&self.app, &context, message).await?,
        ))
    }

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        let (context, message) = self.taken(request)?;
        Ok(Response::new(
            tokenize::tokenize(&self.app, &context, message).await?,
        ))
    }

    async fn detokenize(
        &self,
        request: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        let (context, message) = self.taken(request)?;
        Ok(Response::new(
            tokenize::detokenize(&self.app, &context, message).await?,
        ))
    }
}
