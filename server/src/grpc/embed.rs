//! `Embed` and `EmbedStream`: check, tokenize, submit each input by itself, so that inputs of all
//! calls share batches; cut, scale, answer in order.

use std::sync::Arc;

use engine::executor::{EncodeInput, Output, Pooling};
use engine::request::Token;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use proto::v1;
use tonic::{Code, Status, Streaming};

use super::validate;
use crate::app::App;
use crate::clock::{Deadline, Stopwatch};
use crate::edge::{Context, Timeout};
use crate::limits::{EMBED_INPUTS_AT_ONCE, EMBED_REQUESTS_AT_ONCE, Limits, TooLong};
use crate::metrics;
use crate::registry::{Encoder, Vectors};
use crate::status::{Fault, empty_input, input_too_large};
use crate::text::tokenizer::{Cut, EncodeOptions, SpecialTokens};

/// Answers one request.
pub(crate) async fn embed(
    app: &App,
    context: &Context,
    request: v1::EmbedRequest,
) -> Result<v1::EmbedResponse, Fault> {
    let report = &context.report;
    validate::request_id(&request.request_id, report)?;
    let (encoder, own) = app.registry.embedder(&request.model)?;
    report.set_model(&encoder.name);
    let deadline = context.deadline;
    let deadline = deadline.or_after(validate::deadline(request.deadline_ms)?);
    let work = Work::of((encoder, own), &app.limits, deadline, &request)?;
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
) -> impl Stream<Item = Result<v1::EmbedResponse, Status>> {
    let draining = app.lifecycle.draining.clone();
    let idle_timeout = app.limits.stream_idle_timeout;
    let bounded = stream::unfold(requests, move |mut requests| {
        let draining = draining.clone();
        async move {
            let next = Deadline::after(idle_timeout);
            let read = tokio::select! {
                biased;
                () = draining.cancelled() => Some(Err(Fault::draining().into())),
                read = requests.next() => read.map(|read| read.map_err(canonical)),
                () = next.sleep() => Some(Err(Fault::message_overdue().into())),
            };
            read.map(|read| (read, requests))
        }
    });
    let deadline = (context.timeout == Timeout::Asked).then_some(context.deadline);
    let answers = bounded
        .map(move |request| {
            let (app, mut context) = (Arc::clone(&app), context.clone());
            async move {
                let request = request?;
                if context.timeout == Timeout::Longest {
                    context.deadline = Deadline::after(app.limits.request_timeout_max);
                }
                let place = Arc::clone(&app.calls).acquire_owned();
                let place = context.deadline.limit(place).await;
                // A stream takes a place for each of its requests: between them it may be silent.
                let _place = place
                    .ok_or_else(Fault::deadline)?
                    .map_err(|_| app.no_place())?;
                let answer = Box::pin(embed(&app, &context, request)).await?;
                Ok::<_, Status>(answer)
            }
        })
        .buffered(EMBED_REQUESTS_AT_ONCE);
    until_error(Box::pin(answers), deadline)
}

/// Ends a stream with its first error, or when its time has passed.
fn until_error<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Unpin,
    deadline: Option<Deadline>,
) -> impl Stream<Item = Result<T, Status>> {
    stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        let answer = match deadline {
            None => answers.next().await?,
            Some(deadline) => match deadline.limit(answers.next()).await {
                Some(answer) => answer?,
                None => Err(Fault::deadline().into()),
            },
        };
        let go_on = answer.is_ok().then_some(answers);
        Some((answer, go_on))
    })
}

/// The library's code for a message above the limit, rewritten as the edge does for single ones.
fn canonical(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Fault::message_too_large(status.message()).into(),
        _ => status,
    }
}

/// What all inputs of a request share.
struct Work<'a> {
    encoder: &'a Encoder,
    deadline: Deadline,
    prefix: &'a str,
    pooling: Pooling,
    dimensions: usize,
    scale: Scale,
    too_long: TooLong,
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
        limits: &Limits,
        deadline: Deadline,
        request: &v1::EmbedRequest,
    ) -> Result<Self, Fault> {
        inputs(&request.inputs, limits)?;
        let width = encoder.facts.width;
        let dimensions = request.dimensions.unwrap_or(width);
        if !(1..=width).contains(&dimensions) {
            return Err(
                validate::out_of_range("dimensions", &format!("1 to {width}"))
                    .with("dimensions", dimensions)
                    .with("dimensions_max", width),
            );
        }
        let normalize = request.normalize.unwrap_or(own.normalize);
        Ok(Self {
            encoder,
            deadline,
            prefix: prefix(encoder, &request.prompt_name)?,
            pooling: validate::pooling(request.pooling, own.pooling)?,
            dimensions: dimensions as usize,
            scale: if normalize { Scale::ToOne } else { Scale::Kept },
            too_long: if request.truncate {
                TooLong::Cut
            } else {
                limits.too_long
            },
        })
    }

    async fn encode(&self, index: usize, text: String) -> Result<(v1::Embedding, u32), Fault> {
        let tokens_max = self.encoder.facts.context_tokens_max as usize;
        let options = EncodeOptions {
            special_tokens: SpecialTokens::Add,
            truncate_to: (self.too_long == TooLong::Cut).then_some(tokens_max),
            cut: Cut::End,
        };
        let text = if self.prefix.is_empty() {
            text
        } else {
            format!("{}{text}", self.prefix)
        };
        let field = || format!("inputs[{index}]");
        let watch = Stopwatch::start();
        let tokens = self.encoder.text.pool.encode(text, options).await;
        metrics::tokenized(&self.encoder.name, watch.elapsed());
        let tokens = tokens.map_err(|error| Fault::from(error).at(field()))?;
        if tokens.is_empty() {
            return Err(empty_input(field()));
        }
        if tokens.len() > tokens_max {
            let message = format!(
                "the input has {} tokens, more than {tokens_max}",
                tokens.len()
            );
            return Err(Fault::invalid(field(), "CONTEXT_LENGTH_EXCEEDED", message)
                .with("tokens", tokens.len())
                .with("tokens_max", tokens_max));
        }
        // A tokenizer may know more tokens than the model has vectors for.
        validate::token_ids("inputs", &tokens, self.encoder.facts.vocab_size)
            .map_err(|fault| fault.at(field()))?;
        let count = tokens.len() as u32;
        let input = EncodeInput {
            tokens: tokens.into_iter().map(Token).collect(),
            segments: Arc::default(),
            output: Output::Pooled(self.pooling),
        };
        let mut values = self
            .encoder
            .handle
            .encode(input, Some(self.deadline.remaining()))
            .await?
            .values;
        values.truncate(self.dimensions);
        if self.scale == Scale::ToOne {
            scale_to_one(&mut values);
        }
        Ok((v1::Embedding { values }, count))
    }
}

fn inputs(inputs: &[String], limits: &Limits) -> Result<(), Fault> {
    let (bytes_max, inputs_max) = (limits.input_bytes_max, limits.embed_inputs_max);
    if inputs.is_empty() {
        return Err(empty_input("inputs"));
    }
    if inputs.len() > inputs_max {
        let message = format!("{} inputs are more than {inputs_max}", inputs.len());
        return Err(Fault::invalid("inputs", "TOO_MANY_INPUTS", message)
            .with("inputs", inputs.len())
            .with("inputs_max", inputs_max));
    }
    let bytes: usize = inputs.iter().map(String::len).sum();
    if bytes > bytes_max {
        return Err(input_too_large("inputs", bytes, bytes_max));
    }
    match inputs.iter().position(String::is_empty) {
        Some(index) => Err(empty_input(format!("inputs[{index}]"))),
        None => Ok(()),
    }
}

/// The text that goes before each input.
fn prefix<'a>(encoder: &'a Encoder, prompt_name: &str) -> Result<&'a str, Fault> {
    if prompt_name.is_empty() {
        return Ok(encoder.default_prompt.as_deref().unwrap_or_default());
    }
    encoder
        .prompts
        .get(prompt_name)
        .map(String::as_str)
        .ok_or_else(|| {
            let known: Vec<&str> = encoder.prompts.keys().map(String::as_str).collect();
            let message = format!("the model has no such prompt; it has: {}", known.join(", "));
            Fault::invalid("prompt_name", "UNKNOWN_PROMPT_NAME", message)
        })
}

/// Scales a vector to length 1; a vector of zeros stays.
fn scale_to_one(values: &mut [f32]) {
    let length = values
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    if length > 0.0 {
        for value in values {
            *value = (f64::from(*value) / length) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scale_to_one;

    #[test]
    fn a_vector_is_scaled_to_length_one_and_zeros_stay() {
        let mut values = [3.0_f32, 4.0];
        scale_to_one(&mut values);
        assert_eq!(values.map(f32::to_bits), [0.6_f32, 0.8].map(f32::to_bits));
        let mut zeros = [0.0_f32; 3];
        scale_to_one(&mut zeros);
        assert_eq!(zeros.map(f32::to_bits), [0; 3]);
    }
}
