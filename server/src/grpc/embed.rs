//! `Embed` and `EmbedStream`: check, tokenize, submit each input by itself, so that inputs of all
//! calls share batches; cut, scale, answer in order.

use std::sync::Arc;

use engine::executor::Output;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use proto::v1;
use tonic::Streaming;

use super::encoding::{self, Encoding, Fit, Input};
use super::streaming::{self, Answers, Flow, Until};
use super::validate;
use crate::app::App;
use crate::clock::Deadline;
use crate::edge::Context;
use crate::limits::{EMBED_INPUTS_AT_ONCE, EMBED_REQUESTS_AT_ONCE, TooLong};
use crate::registry::{Encoder, Vectors};
use crate::status::Fault;
use crate::text::tokenizer::Cut;

/// Answers one request.
pub(crate) async fn embed(
    app: &App,
    context: &Context,
    request: v1::EmbedRequest,
) -> Result<v1::EmbedResponse, Fault> {
    let report = &context.report;
    validate::request_id(&request.request_id, report)?;
    let (encoder, own) = app.registry.embedder(&request.model)?;
    report.set_model(&encoder.name, &encoder.facts);
    let deadline = context.deadline;
    let deadline = deadline.or_after(validate::deadline(request.deadline_ms)?);
    encoding::check_texts("inputs", &request.inputs, &app.limits)?;
    let work = Work::of((encoder, own), app.limits.too_long, deadline, &request)?;
    let encoded = stream::iter(request.inputs.into_iter().enumerate())
        .map(|(index, text)| work.encode(index, text))
        .buffered(EMBED_INPUTS_AT_ONCE)
        .try_collect::<Vec<(v1::Embedding, u32)>>();
    let encoded = deadline
        .limit(Box::pin(encoded))
        .await
        .ok_or_else(Fault::deadline)??;
    let prompt_tokens = encoded.iter().map(|(_, tokens)| tokens).sum();
    report.add_work(encoded.len() as u32, u64::from(prompt_tokens));
    Ok(v1::EmbedResponse {
        embeddings: encoded
            .into_iter()
            .map(|(embedding, _)| embedding)
            .collect(),
        usage: Some(v1::Usage {
            prompt_tokens,
            ..v1::Usage::default()
        }),
        model: encoder.name.clone(),
    })
}

/// Answers a stream of requests in order, a bounded number of them at once. The first error ends it.
pub(crate) fn stream(
    app: Arc<App>,
    context: Context,
    requests: Streaming<v1::EmbedRequest>,
) -> Answers<v1::EmbedResponse> {
    let work = Arc::clone(&app);
    streaming::answers(app, context, requests, FLOW, move |context, request| {
        let app = Arc::clone(&work);
        async move { embed(&app, &context, request).await }
    })
}

const FLOW: Flow = Flow {
    method: "EmbedStream",
    at_once: EMBED_REQUESTS_AT_ONCE,
    place: Until::Answered,
};

/// What all inputs of a request share.
struct Work<'a> {
    encoding: Encoding<'a>,
    prefix: &'a str,
    dimensions: usize,
    scale: Scale,
}

/// What happens to the length of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// It becomes 1.
    ToOne,
    /// It stays.
    Kept,
}

impl<'a> Work<'a> {
    fn of(
        (encoder, own): (&'a Encoder, Vectors),
        too_long: TooLong,
        deadline: Deadline,
        request: &v1::EmbedRequest,
    ) -> Result<Self, Fault> {
        let dimensions = encoding::dimensions(request.dimensions, encoder.facts.width)?;
        let normalize = request.normalize.unwrap_or(own.normalize);
        let named = (!request.prompt_name.is_empty()).then_some(&*request.prompt_name);
        let pooling = validate::pooling(request.pooling, own.pooling)?;
        Ok(Self {
            encoding: Encoding {
                encoder,
                deadline,
                output: Output::Pooled(pooling),
                fit: Fit::of(request.truncate, too_long, Cut::End),
            },
            prefix: encoding::prefix(encoder, named)?,
            dimensions,
            scale: if normalize { Scale::ToOne } else { Scale::Kept },
        })
    }

    async fn encode(&self, index: usize, text: String) -> Result<(v1::Embedding, u32), Fault> {
        let text = Input::Text(encoding::prefixed(self.prefix, text));
        let field = || format!("inputs[{index}]").into();
        let done = self.encoding.run(text, field).await?;
        let mut values = done.encoded.values;
        values.truncate(self.dimensions);
        if self.scale == Scale::ToOne {
            encoding::scale_to_one(&mut values);
        }
        Ok((v1::Embedding { values }, done.tokens))
    }
}
