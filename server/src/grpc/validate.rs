//! What a request may say. Checked here once; further in, everything is known to be in range.

use std::ops::RangeInclusive;
use std::time::Duration;

use engine::executor::Pooling;
use engine::request::{Priority, Token};
use engine::sampling::Sampling;
use proto::v1;

use crate::journal::Report;
use crate::limits::{
    ID_CHARS_MAX, LOGIT_BIAS_MAX, Limits, PRIORITY_MAX, STOP_CHARS_MAX, STOP_TOKENS_MAX,
};
use crate::status::{Fault, empty_input, input_too_large};
use crate::text::chat::{ROLE_BYTES_MAX, is_role};

/// Below this a temperature only makes the draw numerically fragile; it is greedy.
const TEMPERATURE_MIN: f32 = 1e-4;

/// The checked numbers of a generation, apart from its input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checked {
    /// How many sequences.
    pub(crate) n: u32,
    /// How each is drawn; `seed` and `stop_tokens` are completed by the caller.
    pub(crate) sampling: Sampling,
    /// The seed asked for.
    pub(crate) seed: Option<u64>,
    /// The most tokens asked for.
    pub(crate) max_tokens: Option<u32>,
    /// The stop strings.
    pub(crate) stop: Vec<String>,
    /// Whether the prompt comes first.
    pub(crate) echo: bool,
    /// The band.
    pub(crate) priority: Priority,
}

/// Checks everything that needs no tokenizer. `vocab_size` is the width of the logits, which may be
/// more than the tokenizer knows.
pub(crate) fn generate(
    request: &mut v1::GenerateRequest,
    vocab_size: u32,
    end_tokens: &[u32],
    limits: &Limits,
) -> Result<Checked, Fault> {
    not_built(request)?;
    let sampling = request.sampling.take().unwrap_or_default();
    let stopping = request.stopping.take().unwrap_or_default();
    let output = request.output.take().unwrap_or_default();
    let n = sampling.n.unwrap_or(1);
    let n_max = limits.n_max;
    if !(1..=n_max).contains(&n) {
        return Err(
            Fault::invalid("sampling.n", "N_TOO_LARGE", format!("n is 1 to {n_max}"))
                .with("n", n)
                .with("n_max", n_max),
        );
    }
    if output
        .logprobs
        .is_some_and(|logprobs| logprobs > limits.logprobs_max)
    {
        let message = format!("at most {} log probabilities", limits.logprobs_max);
        return Err(
            Fault::invalid("output.logprobs", "LOGPROBS_TOO_MANY", message)
                .with("logprobs_max", limits.logprobs_max),
        );
    }
    let seed = sampling.seed;
    let mut drawn = draw(&sampling, n, vocab_size)?;
    drawn.logprobs = output.logprobs;
    stops(&stopping, vocab_size, limits.stop_strings_max)?;
    drawn.min_tokens = stopping.min_tokens.unwrap_or(0);
    drawn.stop_tokens = stop_tokens(&stopping, end_tokens);
    tenant("tenant", &request.tenant)?;
    identifier("cache_salt", "BAD_CACHE_SALT", &request.cache_salt)?;
    identifier("request_id", "BAD_REQUEST_ID", &request.request_id)?;
    Ok(Checked {
        n,
        sampling: drawn,
        seed,
        max_tokens: stopping.max_tokens,
        stop: stopping.stop,
        echo: output.echo,
        priority: priority(request.priority)?,
    })
}

fn not_built(request: &v1::GenerateRequest) -> Result<(), Fault> {
    if request.constraint.is_some() {
        return Err(Fault::not_built("constraint"));
    }
    if !request.adapter.is_empty() {
        return Err(Fault::not_built("adapter"));
    }
    if request
        .output
        .is_some_and(|output| output.prompt_logprobs.is_some())
    {
        return Err(Fault::not_built("output.prompt_logprobs"));
    }
    Ok(())
}

fn draw(sampling: &v1::Sampling, n: u32, vocab_size: u32) -> Result<Sampling, Fault> {
    let field = |name, value: Option<f32>, range| number(name, value, range);
    let temperature = field("sampling.temperature", sampling.temperature, 0.0..=100.0)?;
    let top_p = share("sampling.top_p", sampling.top_p)?;
    let min_p = field("sampling.min_p", sampling.min_p, 0.0..=1.0)?;
    let typical_p = share("sampling.typical_p", sampling.typical_p)?;
    let repetition = field(
        "sampling.repetition_penalty",
        sampling.repetition_penalty,
        0.0..=100.0,
    )?;
    if repetition == Some(0.0) {
        return Err(out_of_range("sampling.repetition_penalty", "above 0"));
    }
    let frequency = field(
        "sampling.frequency_penalty",
        sampling.frequency_penalty,
        -2.0..=2.0,
    )?;
    let presence = field(
        "sampling.presence_penalty",
        sampling.presence_penalty,
        -2.0..=2.0,
    )?;
    let wants_chance = sampling.top_k.is_some()
        || top_p.is_some()
        || min_p.is_some()
        || typical_p.is_some()
        || sampling.seed.is_some()
        || n > 1;
    let temperature = temperature.or(wants_chance.then_some(1.0));
    Ok(Sampling {
        temperature: temperature.filter(|&t| t >= TEMPERATURE_MIN),
        top_k: sampling.top_k.filter(|&k| k > 0),
        top_p: top_p.filter(|&p| p < 1.0),
        min_p: min_p.filter(|&p| p > 0.0),
        typical_p: typical_p.filter(|&p| p < 1.0),
        repetition_penalty: repetition.filter(differs_from(1.0)),
        frequency_penalty: frequency.filter(differs_from(0.0)),
        presence_penalty: presence.filter(differs_from(0.0)),
        logit_bias: logit_bias(sampling, vocab_size)?,
        ..Sampling::default()
    })
}

/// Whether a parameter says something else than the value that changes nothing.
fn differs_from(neutral: f32) -> impl Fn(&f32) -> bool {
    move |value| value.to_bits() != neutral.to_bits()
}

fn number(
    field: &'static str,
    value: Option<f32>,
    range: RangeInclusive<f32>,
) -> Result<Option<f32>, Fault> {
    match value {
        // NaN is in no range.
        Some(value) if !range.contains(&value) => Err(out_of_range(
            field,
            &format!("{} to {}", range.start(), range.end()),
        )),
        other => Ok(other),
    }
}

/// A probability mass: above 0, at most 1.
fn share(field: &'static str, value: Option<f32>) -> Result<Option<f32>, Fault> {
    match number(field, value, 0.0..=1.0)? {
        Some(value) if value <= 0.0 => Err(out_of_range(field, "above 0, at most 1")),
        other => Ok(other),
    }
}

fn logit_bias(sampling: &v1::Sampling, vocab_size: u32) -> Result<Vec<(Token, f32)>, Fault> {
    const FIELD: &str = "sampling.logit_bias";
    if sampling.logit_bias.len() > LOGIT_BIAS_MAX {
        return Err(out_of_range(
            FIELD,
            &format!("at most {LOGIT_BIAS_MAX} entries"),
        ));
    }
    let mut biases: Vec<(Token, f32)> = sampling
        .logit_bias
        .iter()
        .map(|(&token, &bias)| (Token(token), bias))
        .collect();
    biases.sort_unstable_by_key(|(token, _)| *token);
    for &(Token(token), bias) in &biases {
        token_id(FIELD, token, vocab_size)?;
        number(FIELD, Some(bias), -100.0..=100.0)?;
    }
    Ok(biases)
}

fn stops(stopping: &v1::Stopping, vocab_size: u32, stops_max: usize) -> Result<(), Fault> {
    if stopping.max_tokens == Some(0) {
        return Err(max_tokens("max_tokens is at least 1"));
    }
    if let (Some(min), Some(max)) = (stopping.min_tokens, stopping.max_tokens)
        && min > max
    {
        return Err(min_tokens(min, max));
    }
    if stopping.stop.len() > stops_max {
        let message = format!("at most {stops_max} stop strings");
        return Err(Fault::invalid("stopping.stop", "STOP_TOO_MANY", message)
            .with("stops", stopping.stop.len())
            .with("stops_max", stops_max));
    }
    for (index, stop) in stopping.stop.iter().enumerate() {
        let field = format!("stopping.stop[{index}]");
        if stop.is_empty() {
            return Err(Fault::invalid(
                field,
                "EMPTY_INPUT",
                "a stop string is not empty",
            ));
        }
        if stop.chars().nth(STOP_CHARS_MAX).is_some() {
            let message = format!("a stop string has at most {STOP_CHARS_MAX} characters");
            return Err(
                Fault::invalid(field, "STOP_TOO_LONG", message).with("chars_max", STOP_CHARS_MAX)
            );
        }
    }
    if stopping.stop_token_ids.len() > STOP_TOKENS_MAX {
        let message = format!("at most {STOP_TOKENS_MAX} stop tokens");
        return Err(
            Fault::invalid("stopping.stop_token_ids", "STOP_TOO_MANY", message)
                .with("stops", stopping.stop_token_ids.len())
                .with("stops_max", STOP_TOKENS_MAX),
        );
    }
    token_ids(
        "stopping.stop_token_ids",
        &stopping.stop_token_ids,
        vocab_size,
    )
}

/// The model's own end tokens, unless they are ignored, and those asked for.
fn stop_tokens(stopping: &v1::Stopping, end_tokens: &[u32]) -> Vec<Token> {
    let own = if stopping.ignore_eos {
        &[][..]
    } else {
        end_tokens
    };
    let mut tokens: Vec<Token> = own
        .iter()
        .chain(&stopping.stop_token_ids)
        .copied()
        .map(Token)
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// A prompt has no more tokens than the server takes, if that is less than the model takes.
pub(crate) fn prompt_tokens(count: usize, max: Option<u32>) -> Result<(), Fault> {
    match max {
        Some(max) if count > max as usize => Err(prompt_too_long(count, max)),
        _ => Ok(()),
    }
}

fn prompt_too_long(tokens: usize, tokens_max: u32) -> Fault {
    let message = format!("the prompt has {tokens} tokens, more than {tokens_max}");
    Fault::invalid("input", "CONTEXT_LENGTH_EXCEEDED", message)
        .with("tokens", tokens)
        .with("tokens_max", tokens_max)
}

/// How many tokens may come after a prompt of `prompt_tokens`, where `context` is the most the
/// model (and its KV memory) takes.
pub(crate) fn output_max(
    checked: &Checked,
    prompt_tokens: usize,
    context: u32,
) -> Result<std::num::NonZeroU32, Fault> {
    let left = u32::try_from(prompt_tokens)
        .ok()
        .and_then(|prompt| context.checked_sub(prompt));
    let Some(left) = left.and_then(std::num::NonZeroU32::new) else {
        return Err(prompt_too_long(prompt_tokens, context.saturating_sub(1)));
    };
    let asked = checked
        .max_tokens
        .and_then(std::num::NonZeroU32::new)
        .unwrap_or(left);
    if asked > left {
        let message = format!(
            "prompt and max_tokens are {prompt_tokens} + {asked} tokens, more than {context}"
        );
        return Err(max_tokens(&message)
            .with("max_tokens", asked.get())
            .with("left", left.get()));
    }
    if checked.sampling.min_tokens > asked.get() {
        return Err(min_tokens(checked.sampling.min_tokens, asked.get()));
    }
    Ok(asked)
}

/// Every token is below the width of the logits.
pub(crate) fn token_ids(field: &'static str, ids: &[u32], vocab_size: u32) -> Result<(), Fault> {
    ids.iter()
        .try_for_each(|&id| token_id(field, id, vocab_size))
}

/// The role of a message is a name. Templates put it between control tokens.
pub(crate) fn role(index: usize, role: &str) -> Result<(), Fault> {
    let field = format!("chat.messages[{index}].role");
    if role.is_empty() {
        return Err(empty_input(field));
    }
    if role.len() > ROLE_BYTES_MAX {
        return Err(input_too_large(field, role.len(), ROLE_BYTES_MAX));
    }
    if is_role(role) {
        return Ok(());
    }
    let message = "a role is made of letters, digits and _ - .";
    Err(Fault::invalid(field, "BAD_ROLE", message))
}

fn token_id(field: &'static str, id: u32, vocab_size: u32) -> Result<(), Fault> {
    if id < vocab_size {
        return Ok(());
    }
    let message = format!("token {id} is not below {vocab_size}");
    Err(Fault::invalid(field, "TOKEN_ID_OUT_OF_RANGE", message)
        .with("id", id)
        .with("vocab_size", vocab_size))
}

fn max_tokens(message: &str) -> Fault {
    Fault::invalid("stopping.max_tokens", "MAX_TOKENS_OUT_OF_RANGE", message)
}

fn min_tokens(min: u32, max: u32) -> Fault {
    let message = format!("min_tokens {min} is more than the {max} tokens there can be");
    Fault::invalid("stopping.min_tokens", "MIN_TOKENS_OUT_OF_RANGE", message)
        .with("min_tokens", min)
        .with("max_tokens", max)
}

/// A number outside its range.
pub(crate) fn out_of_range(field: &'static str, range: &str) -> Fault {
    Fault::invalid(field, "OUT_OF_RANGE", format!("{field} is {range}"))
}

fn priority(band: i32) -> Result<Priority, Fault> {
    match i8::try_from(band) {
        Ok(narrow) if (-PRIORITY_MAX..=PRIORITY_MAX).contains(&band) => Ok(Priority(narrow)),
        _ => Err(out_of_range("priority", "-100 to 100")),
    }
}

/// Checks that something can be the name of a tenant.
pub(crate) fn tenant(field: &'static str, name: &str) -> Result<(), Fault> {
    if name.chars().nth(ID_CHARS_MAX).is_some() || name.chars().any(char::is_control) {
        let message = "a tenant is at most 128 characters, none of them control characters";
        return Err(Fault::invalid(field, "BAD_TENANT", message));
    }
    Ok(())
}

fn identifier(field: &'static str, reason: &'static str, text: &str) -> Result<(), Fault> {
    if text.is_empty() || is_identifier(text) {
        return Ok(());
    }
    let message = format!("{field} is at most {ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ -");
    Err(Fault::invalid(field, reason, message))
}

/// Whether this can be the id of a request.
pub(crate) fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= ID_CHARS_MAX
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The id a request has: its own, else the one its call goes by already.
pub(crate) fn request_id(own: &str, report: &Report) -> Result<String, Fault> {
    identifier("request_id", "BAD_REQUEST_ID", own)?;
    if !own.is_empty() {
        report.set_request_id(own);
    }
    Ok(report.request_id())
}

/// The time a request asks for.
pub(crate) fn deadline(deadline_ms: Option<u64>) -> Result<Option<Duration>, Fault> {
    match deadline_ms {
        Some(0) => Err(out_of_range("deadline_ms", "at least 1")),
        other => Ok(other.map(Duration::from_millis)),
    }
}

/// The pooling a request asks for.
pub(crate) fn pooling(value: i32, own: Pooling) -> Result<Pooling, Fault> {
    match v1::Pooling::try_from(value) {
        Ok(v1::Pooling::Unspecified) => Ok(own),
        Ok(v1::Pooling::Cls) => Ok(Pooling::Cls),
        Ok(v1::Pooling::Mean) => Ok(Pooling::Mean),
        Ok(v1::Pooling::LastToken) => Ok(Pooling::LastToken),
        Err(_) => Err(Fault::invalid(
            "pooling",
            "UNKNOWN_ENUM",
            format!("there is no pooling {value}"),
        )),
    }
}
