//! Token ids from text: our own small view of a tokenizer, and a pool that bounds how much of it runs at once.
//!
//! Tokenizing costs a second of CPU per megabyte and more for hostile text, so it never runs unbounded:
//! the length is checked before anything else, at most `concurrent_max` texts are tokenized at once on
//! blocking threads, at most `waiting_max` wait for their turn, and the rest is told to come back later.

use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chat::{ChatError, ChatTemplate, Message, Rendered};
use super::detokenize::{self, Decoding};
use super::hugging_face::HuggingFace;

/// What the server asks of a tokenizer. Implementations are pure: the same text gives the same ids.
pub trait Tokenize: Debug + Send + Sync {
    /// The ids of a text. Names of special tokens in the text become those tokens.
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError>;

    /// The ids of rendered chat messages. Special tokens come from the template alone: where a message
    /// names one, it stays text. None are added around it, since templates write their own.
    fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizeError>;

    /// The vocabulary entry of an id, as [`Decoding`] takes it.
    fn piece(&self, id: u32) -> Option<String>;

    /// Whether the id is a control token, which gives no text.
    fn is_special(&self, id: u32) -> bool;

    /// The texts of all control tokens.
    fn special_tokens(&self) -> &[String];

    /// The id of a vocabulary entry.
    fn id(&self, piece: &str) -> Option<u32>;

    /// Ids are below this. The model's logits may be wider.
    fn vocab_size(&self) -> usize;

    /// How pieces become text.
    fn decoding(&self) -> &Decoding;
}

/// How a text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Whether the tokens that the tokenizer puts around every text (BOS, CLS, SEP) are added.
    pub special_tokens: SpecialTokens,
    /// The most tokens to give, with the added ones; the text is cut at its end, and a final added token
    /// stays. `None` keeps all.
    pub truncate_to: Option<usize>,
}

/// Whether the tokens around a text are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// As the tokenizer's post-processor says: what models expect of a plain text.
    #[default]
    Add,
    /// The text alone.
    Omit,
}

/// The bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Texts tokenized at once on blocking threads.
    pub concurrent_max: usize,
    /// Texts that may wait for a thread; more are refused as [`TokenizeError::Busy`].
    pub waiting_max: usize,
    /// Bytes of one text (or of all messages of a chat together).
    pub text_bytes_max: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            concurrent_max: 4,
            waiting_max: 1024,
            text_bytes_max: 1 << 20,
        }
    }
}

/// Why a text has no tokens.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TokenizeError {
    /// The pool's waiting room is full; later it may not be.
    #[error("too many texts wait to be tokenized")]
    Busy,
    /// The text is longer than allowed; it was not looked at.
    #[error("the text has {bytes} bytes, more than the allowed {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        bytes_max: usize,
    },
    /// The tokenizer cannot encode this text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// Why a tokenizer.json cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenizerLoadError {
    /// Not the JSON of a tokenizer.
    #[error("tokenizer.json is not valid: {0}")]
    Invalid(String),
    /// It names a decoder this server does not know.
    #[error("tokenizer.json has an unsupported decoder: {0}")]
    Decoder(#[from] detokenize::UnknownDecoder),
}

/// A tokenizer with a bounded number of threads to run on.
#[derive(Debug, Clone)]
pub struct TokenizerPool {
    tokenizer: Arc<dyn Tokenize>,
    limits: PoolLimits,
    /// One permit for each text running or waiting.
    places: Arc<Semaphore>,
    /// One permit for each text running.
    threads: Arc<Semaphore>,
}

/// Texts below this are encoded by the caller itself: it takes less time than changing threads twice.
const INLINE_BYTES: usize = 2 << 10;

impl TokenizerPool {
    /// A pool over the tokenizer of a tokenizer.json. Truncation and padding set in the file are ignored.
    pub fn from_json(bytes: &[u8], limits: PoolLimits) -> Result<Self, TokenizerLoadError> {
        Ok(Self::new(Arc::new(HuggingFace::from_json(bytes)?), limits))
    }

    /// A pool over any tokenizer.
    pub fn new(tokenizer: Arc<dyn Tokenize>, limits: PoolLimits) -> Self {
        let concurrent_max = limits.concurrent_max.max(1);
        Self {
            tokenizer,
            limits,
            places: Arc::new(Semaphore::new(concurrent_max + limits.waiting_max)),
            threads: Arc::new(Semaphore::new(concurrent_max)),
        }
    }

    /// The ids of a text.
    pub async fn encode(
        &self,
        text: String,
        options: EncodeOptions,
    ) -> Result<Vec<u32>, TokenizeError> {
        let bytes = text.len();
        self.run(bytes, move |tokenizer| tokenizer.encode(&text, options))
            .await
    }

    /// Renders messages by the template and gives the ids, ready for the model's answer.
    ///
    /// What a message says is only ever text: see [`Tokenize::encode_rendered`].
    pub async fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: Vec<Message>,
    ) -> Result<Vec<u32>, ChatError> {
        let bytes = messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum();
        let template = template.clone();
        self.run(bytes, move |tokenizer| {
            let rendered = template.render(&messages, tokenizer.special_tokens())?;
            Ok(tokenizer.encode_rendered(&rendered)?)
        })
        .await
    }

    /// The text of a whole sequence, as a [`detokenize::Detokenizer`] gives it piece by piece.
    pub fn decode(&self, ids: &[u32]) -> String {
        detokenize::decode(&*self.tokenizer, ids)
    }

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenize> {
        &self.tokenizer
    }

    /// The bounds.
    pub fn limits(&self) -> PoolLimits {
        self.limits
    }

    async fn run<T, E>(
        &self,
        bytes: usize,
        work: impl FnOnce(&dyn Tokenize) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<TokenizeError> + Send + 'static,
    {
        let bytes_max = self.limits.text_bytes_max;
        if bytes > bytes_max {
            return Err(TokenizeError::TooLarge { bytes, bytes_max }.into());
        }
        if bytes < INLINE_BYTES {
            return work(&*self.tokenizer);
        }
        let permits = self.permits().await?;
        let tokenizer = Arc::clone(&self.tokenizer);
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&*tokenizer);
            drop(permits);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(TokenizeError::Failed(error.to_string()).into()),
        }
    }

    /// Waits for a thread. The permits go with the work, so that work whose caller went away still counts.
    async fn permits(&self) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), TokenizeError> {
        let busy = |_| TokenizeError::Busy;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(busy)?;
        let closed = |_| TokenizeError::Busy;
        let thread = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(closed)?;
        Ok((place, thread))
    }
}
