//! The models served in this process, by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use engine::executor::Pooling;
use engine::handle::{EncodeHandle, Handle, Health};
use tokio::sync::watch;
use tonic::Code;

use crate::status::Fault;
use crate::text::chat::ChatTemplate;
use crate::text::tokenizer::TokenizerPool;

/// What is known about a model, whatever it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The architecture's name in its config.json.
    pub architecture: String,
    /// The type of its weights: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// The number of its parameters.
    pub parameters: u64,
    /// Width of the logits: token ids are below this.
    pub vocab_size: u32,
    /// Tokens of the longest sequence; of an encoder's longest input.
    pub context_tokens_max: u32,
    /// Values of its vectors; where it makes none, of its hidden state.
    pub width: u32,
    /// KV bytes of one token.
    pub kv_bytes_per_token: u64,
    /// Tokens of one KV block.
    pub kv_block_tokens: u32,
    /// Tokens of one batch of an encoder.
    pub batch_tokens_max: u32,
    /// Inputs of one batch of an encoder.
    pub batch_inputs_max: u32,
    /// The commit of its files, where they came from a hub; empty where it is not known.
    pub revision: String,
}

/// Reads one of a model's text files by name; `None` if there is no such file.
pub type ReadFile = Arc<dyn Fn(&str) -> Option<Cow<'static, [u8]>> + Send + Sync>;

/// What turns a model's text into tokens.
#[derive(Clone)]
pub struct TextTools {
    /// The tokenizer, behind its bounds.
    pub pool: TokenizerPool,
    /// The chat template, if the model has one.
    pub chat: Option<ChatTemplate>,
    /// The tokenizer's files, for routers that tokenize themselves.
    pub files: ReadFile,
}

impl fmt::Debug for TextTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTools")
            .field("chat", &self.chat.is_some())
            .finish_non_exhaustive()
    }
}

/// A model that continues text.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The name requests call it by.
    pub name: String,
    /// What is known about it.
    pub facts: Facts,
    /// Its engine.
    pub handle: Handle,
    /// Its tokenizer.
    pub text: TextTools,
    /// Tokens that end a sequence.
    pub end_tokens: Vec<u32>,
}

/// A model that takes a whole text at once: to embed it, or to score it.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The name requests call it by.
    pub name: String,
    /// What is known about it.
    pub facts: Facts,
    /// Its engine.
    pub handle: EncodeHandle,
    /// Its tokenizer.
    pub text: TextTools,
    /// What it is for.
    pub task: Task,
    /// Texts that its files say to put before inputs, by name.
    pub prompts: BTreeMap<String, String>,
    /// The text that goes before an input where a request names none.
    pub default_prompt: Option<String>,
}

/// What an encoder is for, and so which of its outputs may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Vectors of texts and of their tokens: `Output::Pooled`, `Output::Tokens`.
    Embed(Vectors),
    /// Weights of the vocabulary's words, and vectors of tokens: `Output::Sparse`,
    /// `Output::Tokens`.
    Sparse,
    /// Scores of labels: `Output::Scores`. With one label it is a reranker.
    Classify {
        /// The labels, in the order of their scores.
        labels: Vec<String>,
        /// What the scores mean.
        meaning: Meaning,
    },
}

/// What a classifier's scores mean, and so how they become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// One label holds.
    OneOfAll,
    /// Each label holds or does not.
    EachAlone,
    /// They are no probabilities.
    Quantities,
}

/// What may be asked of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    /// A vector of a text.
    Embed,
    /// Vectors of its tokens.
    EmbedTokens,
    /// Weights of the vocabulary's words.
    EmbedSparse,
    /// Scores of labels.
    Classify,
    /// One score of a text beside a query.
    Rerank,
}

impl Ability {
    /// Whether an encoder for this task has it.
    pub(crate) fn is_of(self, task: &Task) -> bool {
        match task {
            Task::Embed(_) => matches!(self, Self::Embed | Self::EmbedTokens),
            Task::Sparse => matches!(self, Self::EmbedSparse | Self::EmbedTokens),
            Task::Classify { labels, .. } => match self {
                Self::Classify => true,
                Self::Rerank => labels.len() == 1,
                _ => false,
            },
        }
    }

    /// What it is to use it.
    fn verb(self) -> &'static str {
        match self {
            Self::Embed | Self::EmbedTokens => "embed",
            Self::EmbedSparse => "make sparse embeddings",
            Self::Classify => "classify",
            Self::Rerank => "rerank",
        }
    }
}

/// How an encoder makes one vector of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Its own way to make one vector of many.
    pub pooling: Pooling,
    /// Whether it scales vectors to length 1 by itself.
    pub normalize: bool,
}

impl Encoder {
    /// The labels it scores; none where it is no classifier.
    pub(crate) fn labels(&self) -> &[String] {
        match &self.task {
            Task::Classify { labels, .. } => labels,
            Task::Embed(_) | Task::Sparse => &[],
        }
    }

    /// What its scores mean.
    pub(crate) fn meaning(&self) -> Meaning {
        match self.task {
            Task::Classify { meaning, .. } => meaning,
            Task::Embed(_) | Task::Sparse => Meaning::OneOfAll,
        }
    }
}

/// A model of any kind.
#[derive(Clone, Debug)]
pub enum Served {
    /// It continues text.
    Decoder(Arc<Decoder>),
    /// It takes a whole text at once.
    Encoder(Arc<Encoder>),
}

impl Served {
    /// The name requests call it by.
    pub fn name(&self) -> &str {
        match self {
            Self::Decoder(decoder) => &decoder.name,
            Self::Encoder(encoder) => &encoder.name,
        }
    }

    /// What is known about it.
    pub fn facts(&self) -> &Facts {
        match self {
            Self::Decoder(decoder) => &decoder.facts,
            Self::Encoder(encoder) => &encoder.facts,
        }
    }

    /// Its tokenizer.
    pub fn text(&self) -> &TextTools {
        match self {
            Self::Decoder(decoder) => &decoder.text,
            Self::Encoder(encoder) => &encoder.text,
        }
    }

    /// The state of its engine, now and later.
    pub fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Decoder(decoder) => decoder.handle.health(),
            Self::Encoder(encoder) => encoder.handle.health(),
        }
    }

    /// Takes no new work; running work goes on.
    pub(crate) fn drain(&self) {
        match self {
            Self::Decoder(decoder) => decoder.handle.drain(),
            Self::Encoder(encoder) => encoder.handle.drain(),
        }
    }

    /// Ends everything that still runs.
    pub(crate) fn abort_all(&self) {
        match self {
            Self::Decoder(decoder) => decoder.handle.abort_all(),
            Self::Encoder(encoder) => encoder.handle.abort_all(),
        }
    }
}

/// The models, in the order of the command line. Names are unique.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    models: Vec<Served>,
}

/// Two models with one name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("two models are named {0}")]
pub struct DuplicateName(pub String);

/// Longest name of a model, in characters.
const NAME_CHARS_MAX: usize = 193;

impl Registry {
    /// The registry of these models.
    pub fn new(models: Vec<Served>) -> Result<Self, DuplicateName> {
        for (index, model) in models.iter().enumerate() {
            if models[..index]
                .iter()
                .any(|earlier| earlier.name() == model.name())
            {
                return Err(DuplicateName(model.name().to_owned()));
            }
        }
        Ok(Self { models })
    }

    /// All models.
    pub fn models(&self) -> &[Served] {
        &self.models
    }

    /// The models of this name; all of them where it is empty.
    pub(crate) fn select(&self, name: &str) -> Result<Vec<&Served>, Fault> {
        if name.is_empty() {
            return Ok(self.models.iter().collect());
        }
        Ok(vec![self.named(name)?])
    }

    /// The model of this name, of whatever kind; the first of all where it is empty.
    pub(crate) fn any(&self, name: &str) -> Result<&Served, Fault> {
        if !name.is_empty() {
            return self.named(name);
        }
        self.models
            .first()
            .ok_or_else(|| not_found("no model is served".to_owned()))
    }

    /// The decoder of this name; the first one where it is empty.
    pub(crate) fn decoder(&self, name: &str) -> Result<&Arc<Decoder>, Fault> {
        let decoder = |model: &'_ Served| matches!(model, Served::Decoder(_));
        match self.of_kind(name, "generate", decoder)? {
            Served::Decoder(decoder) => Ok(decoder),
            Served::Encoder(encoder) => Err(wrong_task(&encoder.name, "generate")),
        }
    }

    /// The model of this name that makes vectors, and how; the first one where it is empty.
    pub(crate) fn embedder(&self, name: &str) -> Result<(&Arc<Encoder>, Vectors), Fault> {
        let vectors = |model: &'_ Served| match model {
            Served::Encoder(encoder) => match encoder.task {
                Task::Embed(vectors) => Some(vectors),
                _ => None,
            },
            Served::Decoder(_) => None,
        };
        let model = self.of_kind(name, "embed", |model| vectors(model).is_some())?;
        match (model, vectors(model)) {
            (Served::Encoder(encoder), Some(vectors)) => Ok((encoder, vectors)),
            _ => Err(wrong_task(model.name(), "embed")),
        }
    }

    /// The encoder of this name, which has this ability; the first one that has it where it is empty.
    pub(crate) fn able(&self, name: &str, ability: Ability) -> Result<&Arc<Encoder>, Fault> {
        if name.is_empty() {
            let none = || not_found(format!("no served model can {}", ability.verb()));
            return self.first_able(ability).ok_or_else(none);
        }
        match self.named(name)? {
            Served::Encoder(encoder) if ability.is_of(&encoder.task) => Ok(encoder),
            other => Err(wrong_task(other.name(), ability.verb())),
        }
    }

    /// The first encoder that has this ability.
    pub(crate) fn first_able(&self, ability: Ability) -> Option<&Arc<Encoder>> {
        self.encoders().find(|encoder| ability.is_of(&encoder.task))
    }

    /// All decoders, in their order.
    pub(crate) fn decoders(&self) -> impl Iterator<Item = &Arc<Decoder>> {
        self.models.iter().filter_map(|model| match model {
            Served::Decoder(decoder) => Some(decoder),
            Served::Encoder(_) => None,
        })
    }

    /// All encoders, in their order.
    pub(crate) fn encoders(&self) -> impl Iterator<Item = &Arc<Encoder>> {
        self.models.iter().filter_map(|model| match model {
            Served::Encoder(encoder) => Some(encoder),
            Served::Decoder(_) => None,
        })
    }

    fn of_kind(
        &self,
        name: &str,
        task: &str,
        fits: impl Fn(&Served) -> bool,
    ) -> Result<&Served, Fault> {
        if !name.is_empty() {
            return self.named(name);
        }
        let first = self.models.iter().find(|model| fits(model));
        first.ok_or_else(|| not_found(format!("no served model can {task}")))
    }

    fn named(&self, name: &str) -> Result<&Served, Fault> {
        if let Some(model) = self.models.iter().find(|model| model.name() == name) {
            return Ok(model);
        }
        if is_name(name) {
            return Err(not_found(format!("no model is named {name}")));
        }
        let message = "a model's name is made of letters, digits and . _ - /, 193 at most";
        Err(Fault::invalid("model", "BAD_MODEL_ID", message))
    }
}

/// Whether this can be the name of a model: `name` or `owner/name`, and no path.
pub(crate) fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    name.len() <= NAME_CHARS_MAX && name.split('/').count() <= 2 && name.split('/').all(part)
}

fn not_found(message: String) -> Fault {
    Fault::new(Code::NotFound, "MODEL_NOT_FOUND", message).at("model")
}

fn wrong_task(name: &str, task: &str) -> Fault {
    Fault::new(
        Code::FailedPrecondition,
        "WRONG_TASK",
        format!("model {name} cannot {task}"),
    )
    .at("model")
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_no_paths() {
        for good in [
            "demo",
            "Qwen2.5-0.5B",
            "sentence-transformers/all-MiniLM-L6-v2",
            "_x",
        ] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "../../etc",
            "/etc",
            "a//b",
            "a/b/c",
            "a\0",
            "%2e%2e",
            "a b",
            "a/",
            "..",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(!is_name(&"a".repeat(194)));
    }
}
