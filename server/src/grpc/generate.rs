//! `Generate`: check, tokenize, submit, stream.

use std::num::NonZeroU32;
use std::sync::Arc;

use engine::handle::Generate;
use engine::policy::Weight;
use engine::request::Token;
use proto::v1;
use proto::v1::generate_request::Input;

use super::generation::{Generation, Logprobs, Opening};
use super::validate::{self, Checked};
use crate::app::App;
use crate::clock::{Deadline, Stopwatch};
use crate::edge::Context;
use crate::journal::Asked;
use crate::metrics;
use crate::registry::{Decoder, TextTools};
use crate::status::{Fault, empty_input};
use crate::text::chat::Message;
use crate::text::detokenize::Detokenizer;
use crate::text::stop::StopMatcher;
use crate::text::stream::TextStream;
use crate::text::tokenizer::EncodeOptions;

/// Begins a generation. What is wrong with a request is said here, before anything is streamed.
pub(crate) async fn begin(
    app: &App,
    context: &Context,
    mut request: v1::GenerateRequest,
) -> Result<Generation, Fault> {
    let report = &context.report;
    let request_id = validate::request_id(&request.request_id, report)?;
    let decoder = app.registry.decoder(&request.model)?;
    report.set_model(&decoder.name, &decoder.facts);
    report.set_asked(Asked::of(&request), &request.tenant);
    let (vocab_size, end_tokens) = (decoder.facts.vocab_size, &decoder.end_tokens);
    let checked = validate::generate(&mut request, vocab_size, end_tokens, &app.limits)?;
    let deadline = context.deadline;
    let deadline = deadline.or_after(validate::deadline(request.deadline_ms)?);
    let watch = Stopwatch::start();
    let is_text = !matches!(request.input, Some(Input::TokenIds(_)));
    let tokenized = tokenize(app, decoder, request.input.take());
    let prompt = deadline.limit(tokenized).await;
    if is_text {
        metrics::tokenized(&decoder.name, watch.elapsed());
    }
    let prompt = prompt.ok_or_else(Fault::deadline)??;
    report.expect_work(checked.n, prompt.len() as u64);
    validate::prompt_tokens(prompt.len(), app.limits.prompt_tokens_max)?;
    let tenant = context.caller.tenant(&request.tenant)?;
    let output_max = validate::output_max(&checked, prompt.len(), context_max(decoder))?;
    metrics::asked(&decoder.name, checked.n, output_max.get());
    let stops = StopMatcher::new(&checked.stop);
    let stops = stops
        .map_err(|error| Fault::invalid("stopping.stop", "STOP_TOO_LONG", error.to_string()))?;
    let echo = deadline.limit(echo(decoder, &checked, &prompt)).await;
    let echo = echo.ok_or_else(Fault::deadline)??;
    let entry = app.running.enter(&request_id);
    report.abort_with(entry.aborted.clone());
    let opening = Opening {
        entry,
        deadline,
        report: Arc::clone(report),
        request_id,
        model: decoder.name.clone(),
        prompt_tokens: prompt.len() as u32,
        logprobs: match checked.sampling.logprobs {
            Some(_) => Logprobs::Reported,
            None => Logprobs::Omitted,
        },
        stops: checked.stop.as_slice().into(),
        stop_tokens: checked.sampling.stop_tokens.as_slice().into(),
        echo,
    };
    let detokenizer = Detokenizer::after(Arc::clone(decoder.text.pool.tokenizer()), &prompt);
    let work = Work {
        prompt: prompt.into_iter().map(Token).collect(),
        output_max,
        deadline,
        tenant,
        cache_salt: request.cache_salt,
        seed: checked.seed.unwrap_or_else(|| app.ids.seed()),
    };
    // Together, so that the prompt is computed once.
    let sequences = (0..checked.n).map(|index| work.sequence(&checked, index));
    let submitted = deadline.limit(decoder.handle.generate_all(sequences)).await;
    let streams = submitted.ok_or_else(Fault::deadline)??;
    report.take_work();
    let text = || TextStream::new(detokenizer.clone(), stops.clone());
    let sequences = streams.into_iter().map(|tokens| (tokens, text()));
    Ok(Generation::new(opening, sequences.collect()))
}

/// The prompt's text and tokens, if they are to come first.
async fn echo(
    decoder: &Decoder,
    checked: &Checked,
    prompt: &[u32],
) -> Result<Option<(String, Vec<u32>)>, Fault> {
    if !checked.echo {
        return Ok(None);
    }
    let text = decoder.text.pool.decode_beginning(prompt.to_vec()).await?;
    Ok(Some((text, prompt.to_vec())))
}

/// What all sequences of a request share.
struct Work {
    prompt: Arc<[Token]>,
    output_max: NonZeroU32,
    deadline: Deadline,
    tenant: String,
    cache_salt: String,
    seed: u64,
}

impl Work {
    /// What the engine is asked for one sequence.
    fn sequence(&self, checked: &Checked, index: u32) -> Generate {
        let mut sampling = checked.sampling.clone();
        sampling.seed = self.seed.wrapping_add(u64::from(index));
        Generate {
            prompt: Arc::clone(&self.prompt),
            sampling,
            output_max: self.output_max,
            priority: checked.priority,
            timeout: Some(self.deadline.remaining()),
            tenant: self.tenant.clone(),
            weight: Weight::ONE,
            cache_salt: self.cache_salt.clone(),
        }
    }
}

/// The longest sequence: the model's, or what its KV memory holds if that is less.
fn context_max(decoder: &Decoder) -> u32 {
    let blocks = decoder.handle.stats().blocks_total;
    let held = blocks.saturating_mul(decoder.facts.kv_block_tokens);
    // No block is counted before the executor is there; its engine then refuses by itself.
    if held == 0 {
        decoder.facts.context_tokens_max
    } else {
        held.min(decoder.facts.context_tokens_max)
    }
}

async fn tokenize(app: &App, decoder: &Decoder, input: Option<Input>) -> Result<Vec<u32>, Fault> {
    let tokens = match input {
        None => return Err(empty_input("input")),
        Some(Input::Prompt(text)) => prompt(&decoder.text, text, EncodeOptions::default()).await?,
        Some(Input::TokenIds(tokens)) => {
            validate::token_ids("token_ids.ids", &tokens.ids, decoder.facts.vocab_size)?;
            tokens.ids
        }
        Some(Input::Chat(conversation)) => chat(&decoder.text, conversation, (app.now)()).await?,
    };
    if tokens.is_empty() {
        return Err(empty_input("input"));
    }
    // A tokenizer may know more tokens than the model has logits.
    validate::token_ids("input", &tokens, decoder.facts.vocab_size)?;
    Ok(tokens)
}

/// The tokens of a text.
pub(crate) async fn prompt(
    text: &TextTools,
    prompt: String,
    options: EncodeOptions,
) -> Result<Vec<u32>, Fault> {
    text.pool
        .encode(prompt, options)
        .await
        .map_err(|error| Fault::from(error).at("prompt"))
}

/// The tokens of a conversation that is held at `now`, in seconds since 1970.
pub(crate) async fn chat(text: &TextTools, chat: v1::Chat, now: i64) -> Result<Vec<u32>, Fault> {
    if chat.messages.is_empty() {
        return Err(empty_input("chat.messages"));
    }
    for (index, message) in chat.messages.iter().enumerate() {
        validate::role(index, &message.role)?;
    }
    let Some(template) = &text.chat else {
        let message = "the model has no chat template; send prompt or token_ids";
        return Err(Fault::invalid("chat", "CHAT_TEMPLATE", message));
    };
    let turn = |message: v1::ChatMessage| Message {
        role: message.role,
        content: message.content,
    };
    let messages = chat.messages.into_iter().map(turn).collect();
    text.pool
        .encode_chat(&template.at(now), messages)
        .await
        .map_err(|error| Fault::from(error).at("chat"))
}
