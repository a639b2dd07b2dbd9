//! One text, or two that belong together, through an encoder: tokenized, checked, encoded. `Embed`,
//! `Rerank`, `Classify` and what `tei.v1` has of them differ in what they make of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use engine::executor::{EncodeInput, Encoded, Output};
use engine::request::Token;

use super::validate;
use crate::clock::{Deadline, Stopwatch};
use crate::dialects;
use crate::limits::{Limits, TooLong};
use crate::metrics;
use crate::registry::Encoder;
use crate::status::{Fault, empty_input, input_too_large};
use crate::text::tokenizer::{Cut, EncodeOptions, Pair, SpecialTokens};

/// What all inputs of a request share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding<'a> {
    /// The model.
    pub(crate) encoder: &'a Encoder,
    /// When the answer must be there.
    pub(crate) deadline: Deadline,
    /// What is wanted.
    pub(crate) output: Output,
    /// What happens to an input that is too long.
    pub(crate) fit: Fit,
}

/// What happens to an input that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is cut.
    Cut(Cut),
    /// It is refused.
    Refused,
}

impl Fit {
    /// As a request's field `truncate` says, else as the server does by itself.
    pub(crate) fn of(truncate: bool, own: TooLong, cut: Cut) -> Self {
        match own {
            TooLong::Refused if !truncate => Self::Refused,
            TooLong::Refused | TooLong::Cut => Self::Cut(cut),
        }
    }
}

/// What is encoded.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A text.
    Text(String),
    /// Two texts that belong together; the first one may belong to others too.
    Pair(Arc<str>, String),
}

/// An input that was encoded.
#[derive(Debug)]
pub(crate) struct Done {
    /// What it gave.
    pub(crate) encoded: Encoded,
    /// Its tokens, special ones included.
    pub(crate) tokens: u32,
    /// Where its time went.
    pub(crate) times: Times,
}

/// Where the time of an input went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Turning it into tokens, the wait for a thread included.
    pub(crate) tokenized: Duration,
    /// Waiting for its batch.
    pub(crate) queued: Duration,
    /// Its batch.
    pub(crate) computed: Duration,
}

impl Encoding<'_> {
    /// Encodes one input; `field` is its name in the request.
    pub(crate) async fn run(
        &self,
        input: Input,
        field: impl Fn() -> Cow<'static, str>,
    ) -> Result<Done, Fault> {
        let model = &self.encoder.name;
        dialects::begun(model, self.output);
        let watch = Stopwatch::start();
        let tokens = self.tokenize(input).await;
        let tokenized = watch.elapsed();
        metrics::tokenized(model, tokenized);
        let Pair { ids, segments } = tokens.map_err(|fault| fault.at(field()))?;
        self.check(&ids, &field)?;
        let tokens = ids.len() as u32;
        let input = EncodeInput {
            tokens: ids.into_iter().map(Token).collect(),
            segments: segments.into(),
            output: self.output,
        };
        let remaining = Some(self.deadline.remaining());
        let (encoded, timing) = self.encoder.handle.encode_timed(input, remaining).await?;
        let times = Times {
            tokenized,
            queued: timing.queued,
            computed: timing.computed,
        };
        dialects::encoded(model, self.output, tokens, times);
        Ok(Done {
            encoded,
            tokens,
            times,
        })
    }

    async fn tokenize(&self, input: Input) -> Result<Pair, Fault> {
        let tokens_max = self.encoder.facts.context_tokens_max as usize;
        let (truncate_to, cut) = match self.fit {
            Fit::Cut(cut) => (Some(tokens_max), cut),
            Fit::Refused => (None, Cut::End),
        };
        let options = EncodeOptions {
            special_tokens: SpecialTokens::Add,
            truncate_to,
            cut,
        };
        let pool = &self.encoder.text.pool;
        Ok(match input {
            Input::Pair(first, second) => pool.encode_pair(first, second, options).await?,
            Input::Text(text) => Pair {
                ids: pool.encode(text, options).await?,
                segments: Vec::new(),
            },
        })
    }

    fn check(&self, ids: &[u32], field: impl Fn() -> Cow<'static, str>) -> Result<(), Fault> {
        let tokens_max = self.encoder.facts.context_tokens_max as usize;
        if ids.is_empty() {
            return Err(empty_input(field()));
        }
        if ids.len() > tokens_max {
            let tokens = ids.len();
            let message = format!("the input has {tokens} tokens, more than {tokens_max}");
            return Err(Fault::invalid(field(), "CONTEXT_LENGTH_EXCEEDED", message)
                .with("tokens", tokens)
                .with("tokens_max", tokens_max));
        }
        // A tokenizer may know more tokens than the model has vectors for.
        validate::token_ids("inputs", ids, self.encoder.facts.vocab_size)
            .map_err(|fault| fault.at(field()))
    }
}

/// That a request has as many texts as it may, none of them empty, with no more bytes together.
pub(crate) fn check_texts(
    field: &'static str,
    texts: &[String],
    limits: &Limits,
) -> Result<(), Fault> {
    let (bytes_max, texts_max) = (limits.input_bytes_max, limits.embed_inputs_max);
    if texts.is_empty() {
        return Err(empty_input(field));
    }
    if texts.len() > texts_max {
        return Err(too_many(field, texts.len(), texts_max));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > bytes_max {
        return Err(input_too_large(field, bytes, bytes_max));
    }
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(empty_input(format!("{field}[{index}]"))),
        None => Ok(()),
    }
}

/// A request has more texts than it may.
pub(crate) fn too_many(field: &'static str, texts: usize, texts_max: usize) -> Fault {
    let message = format!("{texts} {field} are more than {texts_max}");
    Fault::invalid(field, "TOO_MANY_INPUTS", message)
        .with("inputs", texts)
        .with("inputs_max", texts_max)
}

/// That texts which are each read beside the same query have no more bytes together, the query counted
/// with each of them.
pub(crate) fn check_pairs(query: &str, texts: &[String], bytes_max: usize) -> Result<(), Fault> {
    let bytes: usize = texts.iter().map(|text| query.len() + text.len()).sum();
    if bytes > bytes_max {
        return Err(input_too_large("texts", bytes, bytes_max));
    }
    Ok(())
}

/// The text that goes before each input: that of a prompt's name, else the model's default.
pub(crate) fn prefix<'a>(encoder: &'a Encoder, name: Option<&str>) -> Result<&'a str, Fault> {
    let Some(name) = name else {
        return Ok(encoder.default_prompt.as_deref().unwrap_or_default());
    };
    let prompt = encoder.prompts.get(name).map(String::as_str);
    prompt.ok_or_else(|| {
        let known: Vec<&str> = encoder.prompts.keys().map(String::as_str).collect();
        let message = format!("the model has no such prompt; it has: {}", known.join(", "));
        Fault::invalid("prompt_name", "UNKNOWN_PROMPT_NAME", message)
    })
}

/// A text with what goes before it.
pub(crate) fn prefixed(prefix: &str, text: String) -> String {
    if prefix.is_empty() {
        return text;
    }
    format!("{prefix}{text}")
}

/// Keeps the leading values of a vector.
pub(crate) fn dimensions(asked: Option<u32>, width: u32) -> Result<usize, Fault> {
    let dimensions = asked.unwrap_or(width);
    if (1..=width).contains(&dimensions) {
        return Ok(dimensions as usize);
    }
    Err(
        validate::out_of_range("dimensions", &format!("1 to {width}"))
            .with("dimensions", dimensions)
            .with("dimensions_max", width),
    )
}

/// Scales a vector to length 1; a vector of zeros stays.
pub(crate) fn scale_to_one(values: &mut [f32]) {
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
