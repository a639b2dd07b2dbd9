//! `tei.v1.Embed`: a vector of a text, of each of its tokens, or of the vocabulary's words.

use std::sync::Arc;

use engine::executor::{Output, Pooling};
use proto::tei::v1 as tei;
use tonic::{Request, Response, Status, Streaming};

use super::cost::Cost;
use super::{Answer, Asker, Tei, large, small};
use crate::clock::Stopwatch;
use crate::edge::Context;
use crate::grpc::encoding::{self, Done, Encoding, Fit, Input};
use crate::grpc::streaming::Answers;
use crate::registry::{Ability, Encoder, Task};
use crate::status::Fault;

#[tonic::async_trait]
impl tei::embed_server::Embed for Tei {
    type EmbedStreamStream = Answers<tei::EmbedResponse>;
    type EmbedSparseStreamStream = Answers<tei::EmbedSparseResponse>;
    type EmbedAllStreamStream = Answers<tei::EmbedAllResponse>;

    async fn embed(
        &self,
        request: Request<tei::EmbedRequest>,
    ) -> Result<Response<tei::EmbedResponse>, Status> {
        self.one(request, pooled).await
    }

    async fn embed_stream(
        &self,
        request: Request<Streaming<tei::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        self.stream(request, small("tei.EmbedStream"), pooled)
    }

    async fn embed_sparse(
        &self,
        request: Request<tei::EmbedSparseRequest>,
    ) -> Result<Response<tei::EmbedSparseResponse>, Status> {
        self.one(request, sparse).await
    }

    async fn embed_sparse_stream(
        &self,
        request: Request<Streaming<tei::EmbedSparseRequest>>,
    ) -> Result<Response<Self::EmbedSparseStreamStream>, Status> {
        self.stream(request, large("tei.EmbedSparseStream"), sparse)
    }

    async fn embed_all(
        &self,
        request: Request<tei::EmbedAllRequest>,
    ) -> Result<Response<tei::EmbedAllResponse>, Status> {
        self.one(request, all).await
    }

    async fn embed_all_stream(
        &self,
        request: Request<Streaming<tei::EmbedAllRequest>>,
    ) -> Result<Response<Self::EmbedAllStreamStream>, Status> {
        self.stream(request, large("tei.EmbedAllStream"), all)
    }
}

async fn pooled(
    asker: Asker,
    context: Context,
    request: tei::EmbedRequest,
) -> Result<Answer<tei::EmbedResponse>, Fault> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::Embed)?;
    let dimensions = encoding::dimensions(request.dimensions, encoder.facts.width)?;
    let text = Text {
        inputs: request.inputs,
        prompt_name: request.prompt_name,
        fit: asker.fit(request.truncate, request.truncation_direction)?,
        begun,
    };
    let output = Output::Pooled(pooling(encoder));
    let (done, cost) = encode(&asker, &context, encoder, output, text).await?;
    let mut embeddings = done.encoded.values;
    embeddings.truncate(dimensions);
    if request.normalize.unwrap_or(true) {
        encoding::scale_to_one(&mut embeddings);
    }
    let message = tei::EmbedResponse {
        embeddings,
        metadata: Some(cost.metadata()),
    };
    Ok(Answer {
        message,
        cost: Some(cost),
    })
}

async fn sparse(
    asker: Asker,
    context: Context,
    request: tei::EmbedSparseRequest,
) -> Result<Answer<tei::EmbedSparseResponse>, Fault> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::EmbedSparse)?;
    let text = Text {
        inputs: request.inputs,
        prompt_name: request.prompt_name,
        fit: asker.fit(request.truncate, request.truncation_direction)?,
        begun,
    };
    let (done, cost) = encode(&asker, &context, encoder, Output::Sparse, text).await?;
    let values = done.encoded.sparse();
    let value = |(index, value)| tei::SparseValue { index, value };
    let message = tei::EmbedSparseResponse {
        sparse_embeddings: values.map(value).collect(),
        metadata: Some(cost.metadata()),
    };
    Ok(Answer {
        message,
        cost: Some(cost),
    })
}

async fn all(
    asker: Asker,
    context: Context,
    request: tei::EmbedAllRequest,
) -> Result<Answer<tei::EmbedAllResponse>, Fault> {
    let begun = Stopwatch::start();
    let encoder = asker.encoder(Ability::EmbedTokens)?;
    let text = Text {
        inputs: request.inputs,
        prompt_name: request.prompt_name,
        fit: asker.fit(request.truncate, request.truncation_direction)?,
        begun,
    };
    let (done, cost) = encode(&asker, &context, encoder, Output::Tokens, text).await?;
    let embedding = |row: &[f32]| tei::TokenEmbedding {
        embeddings: row.to_vec(),
    };
    let message = tei::EmbedAllResponse {
        token_embeddings: done.encoded.rows().map(embedding).collect(),
        metadata: Some(cost.metadata()),
    };
    Ok(Answer {
        message,
        cost: Some(cost),
    })
}

/// What the three kinds of requests have in common.
struct Text {
    inputs: String,
    prompt_name: Option<String>,
    fit: Fit,
    begun: Stopwatch,
}

async fn encode(
    asker: &Asker,
    context: &Context,
    encoder: &Arc<Encoder>,
    output: Output,
    text: Text,
) -> Result<(Done, Cost), Fault> {
    context.report.set_model(&encoder.name, &encoder.facts);
    asker.check("inputs", &text.inputs)?;
    let prefix = encoding::prefix(encoder, text.prompt_name.as_deref())?;
    let chars = text.inputs.chars().count();
    let encoding = Encoding {
        encoder,
        deadline: context.deadline,
        output,
        fit: text.fit,
    };
    let input = Input::Text(encoding::prefixed(prefix, text.inputs));
    let done = encoding.run(input, || "inputs".into()).await?;
    context.report.add_work(1, done.tokens.into());
    let cost = Cost::of(text.begun, chars, &done);
    Ok((done, cost))
}

/// The model's own way to make one vector of many.
fn pooling(encoder: &Encoder) -> Pooling {
    match encoder.task {
        Task::Embed(vectors) => vectors.pooling,
        Task::Sparse | Task::Classify { .. } => Pooling::Cls,
    }
}
