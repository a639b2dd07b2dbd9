//! `Rerank` and `Classify`: the scores of texts, alone or beside a query; scaled and ordered.

use std::sync::Arc;

use engine::executor::Output;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use proto::v1;

use super::encoding::{self, Done, Encoding, Fit, Input};
use super::scores::{Scale, best_first};
use super::validate;
use crate::app::App;
use crate::clock::Deadline;
use crate::edge::Context;
use crate::limits::EMBED_INPUTS_AT_ONCE;
use crate::registry::{Ability, Encoder, Meaning};
use crate::status::{Fault, empty_input};
use crate::text::tokenizer::Cut;

/// Orders texts by how well they answer a query.
pub(crate) async fn rerank(
    app: &App,
    context: &Context,
    request: v1::RerankRequest,
) -> Result<v1::RerankResponse, Fault> {
    validate::request_id(&request.request_id, &context.report)?;
    let encoder = app.registry.able(&request.model, Ability::Rerank)?;
    context.report.set_model(&encoder.name, &encoder.facts);
    if request.query.is_empty() {
        return Err(empty_input("query"));
    }
    encoding::check_texts("texts", &request.texts, &app.limits)?;
    let bytes_max = app.limits.input_bytes_max;
    encoding::check_pairs(&request.query, &request.texts, bytes_max)?;
    let ranks_max = match request.top_n {
        Some(0) => return Err(validate::out_of_range("top_n", "at least 1")),
        top_n => top_n.map_or(usize::MAX, |top_n| top_n as usize),
    };
    let asked = validate::deadline(request.deadline_ms)?;
    let fit = Fit::of(request.truncate, app.limits.too_long, Cut::End);
    let encoding = scores(encoder, context.deadline.or_after(asked), fit);
    let query = request.query.into();
    let done = of_pairs(&encoding, &query, &request.texts);
    let done = within(encoding.deadline, done).await?;
    let scale = Scale::of(request.raw_scores);
    let scores = lone_scores(&done, scale);
    let mut texts = request.texts;
    let mut rank = |index: usize| v1::Rank {
        index: index as u32,
        score: scores[index],
        text: request
            .return_texts
            .then(|| std::mem::take(&mut texts[index])),
    };
    let best = best_first(&scores).into_iter().take(ranks_max);
    Ok(v1::RerankResponse {
        ranks: best.map(&mut rank).collect(),
        usage: Some(usage(context, &done)),
        model: encoder.name.clone(),
    })
}

/// Sorts texts into classes.
pub(crate) async fn classify(
    app: &App,
    context: &Context,
    request: v1::ClassifyRequest,
) -> Result<v1::ClassifyResponse, Fault> {
    validate::request_id(&request.request_id, &context.report)?;
    let encoder = app.registry.able(&request.model, Ability::Classify)?;
    context.report.set_model(&encoder.name, &encoder.facts);
    encoding::check_texts("inputs", &request.inputs, &app.limits)?;
    let asked = validate::deadline(request.deadline_ms)?;
    let fit = Fit::of(request.truncate, app.limits.too_long, Cut::End);
    let encoding = scores(encoder, context.deadline.or_after(asked), fit);
    let mut inputs = request.inputs;
    let done = all(inputs.len(), |index| {
        let text = Input::Text(std::mem::take(&mut inputs[index]));
        encoding.run(text, move || format!("inputs[{index}]").into())
    });
    let done = within(encoding.deadline, done).await?;
    let usage = Some(usage(context, &done));
    let scale = Scale::of(request.raw_scores);
    let classes = |done: Done| {
        let label = |(label, score)| v1::Label { label, score };
        let labels = labelled(encoder, done, scale);
        v1::Classification {
            labels: labels.into_iter().map(label).collect(),
        }
    };
    Ok(v1::ClassifyResponse {
        classifications: done.into_iter().map(classes).collect(),
        usage,
        model: encoder.name.clone(),
    })
}

/// The scores of inputs that are asked for in this way.
fn scores(encoder: &Encoder, deadline: Deadline, fit: Fit) -> Encoding<'_> {
    Encoding {
        encoder,
        deadline,
        output: Output::Scores,
        fit,
    }
}

/// The texts beside the query.
pub(crate) async fn of_pairs(
    encoding: &Encoding<'_>,
    query: &Arc<str>,
    texts: &[String],
) -> Result<Vec<Done>, Fault> {
    all(texts.len(), |index| {
        let pair = Input::Pair(Arc::clone(query), texts[index].clone());
        encoding.run(pair, move || format!("texts[{index}]").into())
    })
    .await
}

/// All of these inputs, a bounded number at once, or none: the first error ends the others, and those
/// that wait leave the queue.
async fn all<F>(inputs: usize, mut run: impl FnMut(usize) -> F) -> Result<Vec<Done>, Fault>
where
    F: Future<Output = Result<Done, Fault>>,
{
    let work = stream::iter(0..inputs).map(|index| {
        let done = run(index);
        async move { Ok::<_, Fault>((index, done.await?)) }
    });
    // Not in order: an error at the end of the queue is not kept until those before it are done.
    let done = work.buffer_unordered(EMBED_INPUTS_AT_ONCE);
    let mut done: Vec<(usize, Done)> = done.try_collect().await?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, done)| done).collect())
}

/// The score of each input of a model with one label.
pub(crate) fn lone_scores(done: &[Done], scale: Scale) -> Vec<f32> {
    let scaled = |done: &Done| scale.apply(done.encoded.values.clone(), Meaning::EachAlone);
    let score = |done: &Done| scaled(done).first().copied();
    done.iter()
        .map(|done| score(done).unwrap_or_default())
        .collect()
}

/// The labels of one input with their scores, best first.
pub(crate) fn labelled(encoder: &Encoder, done: Done, scale: Scale) -> Vec<(String, f32)> {
    let scores = scale.apply(done.encoded.values, encoder.meaning());
    let name = |index: usize| encoder.labels().get(index).cloned().unwrap_or_default();
    best_first(&scores)
        .into_iter()
        .map(|index| (name(index), scores[index]))
        .collect()
}

async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let done = deadline.limit(Box::pin(work)).await;
    done.ok_or_else(Fault::deadline)?
}

fn usage(context: &Context, done: &[Done]) -> v1::Usage {
    let prompt_tokens = done.iter().map(|done| done.tokens).sum();
    context
        .report
        .add_work(done.len() as u32, u64::from(prompt_tokens));
    v1::Usage {
        prompt_tokens,
        ..v1::Usage::default()
    }
}
