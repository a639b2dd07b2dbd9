//! Token ids from text: our own small view of a tokenizer, and a pool that bounds how much of it runs at once.
//!
//! Tokenizing takes up to two seconds and 430 MB for a megabyte of hostile text (measured: full stops and line
//! breaks, byte-level BPE), half a second and 200 MB for a megabyte of prose, so it never runs unbounded:
//! the length is checked before anything else, at most `concurrent_max` texts are tokenized at once on
//! blocking threads, at most `waiting_bytes_max` bytes of texts wait for their turn, and the rest is told to come back later.

use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chat::{ChatError, ChatTemplate, Message, Rendered};
pub use super::control::ControlTokens;
use super::detokenize::{self, Decoding, Prepared};
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
    fn control_tokens(&self) -> &ControlTokens;

    /// The id of a vocabulary entry.
    fn id(&self, piece: &str) -> Option<u32>;

    /// Ids are below this. The model's logits may be wider.
    fn vocab_size(&self) -> usize;

    /// How pieces become text.
    fn decoding(&self) -> &Decoding;

    /// What an id gives to a text, for [`Decoding::push`]; `None` for control tokens and unknown ids.
    /// Called for every token of every answer, so a tokenizer has them ready.
    fn prepared(&self, id: u32) -> Option<Prepared<'_>> {
        if self.is_special(id) {
            return None;
        }
        let piece = self.piece(id)?;
        Some(self.decoding().prepare(&piece).into_owned())
    }
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
    /// Bytes of texts that may be there, running or waiting for a thread; more are refused as
    /// [`TokenizeError::Busy`]. One text always finds room.
    pub waiting_bytes_max: usize,
    /// Bytes of one text (or of all messages of a chat together).
    pub text_bytes_max: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            concurrent_max: 4,
            waiting_bytes_max: 64 << 20,
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
    /// It is larger than any tokenizer is.
    #[error("tokenizer.json exceeds a limit: {0}")]
    Limit(String),
}

/// A tokenizer with a bounded number of threads to run on.
#[derive(Debug, Clone)]
pub struct TokenizerPool {
    tokenizer: Arc<dyn Tokenize>,
    limits: PoolLimits,
    /// One permit for each byte of the texts running or waiting.
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
            places: Arc::new(Semaphore::new(
                limits
                    .waiting_bytes_max
                    .max(limits.text_bytes_max)
                    .max(INLINE_BYTES),
            )),
            threads: Arc::new(Semaphore::new(concurrent_max)),
        }
    }

    /// The ids of a text.
    pub async fn encode(
        &self,
        text: String,
        options: EncodeOptions,
    ) -> Result<Vec<u32>, TokenizeError> {
        self.check_bytes(text.len())?;
        if text.len() < INLINE_BYTES {
            return self.tokenizer.encode(&text, options);
        }
        self.on_thread(text.len(), move |tokenizer| {
            tokenizer.encode(&text, options)
        })
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
        let message_bytes = |message: &Message| message.role.len() + message.content.len();
        let bytes = messages.iter().map(message_bytes).sum();
        self.check_bytes(bytes)?;
        let template = template.clone();
        // Always on a thread: a template is a program, and a bad one takes long over a short message.
        self.on_thread(bytes, move |tokenizer| {
            let rendered = template.render(&messages, tokenizer.control_tokens())?;
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

    fn check_bytes(&self, bytes: usize) -> Result<(), TokenizeError> {
        let bytes_max = self.limits.text_bytes_max;
        if bytes > bytes_max {
            return Err(TokenizeError::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Runs work on a blocking thread. A panic there goes on in the caller.
    async fn on_thread<T, E>(
        &self,
        bytes: usize,
        work: impl FnOnce(&dyn Tokenize) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<TokenizeError> + Send + 'static,
    {
        let permits = self.permits(bytes).await?;
        let tokenizer = Arc::clone(&self.tokenizer);
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&*tokenizer);
            drop(permits);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels blocking work.
                Err(_) => Err(TokenizeError::Busy.into()),
            },
        }
    }

    /// Waits for a thread. The permits go with the work, so that work whose caller went away still counts.
    async fn permits(
        &self,
        bytes: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), TokenizeError> {
        let busy = |_| TokenizeError::Busy;
        // A short text is not free either.
        let bytes = u32::try_from(bytes.max(INLINE_BYTES)).map_err(|_| TokenizeError::Busy)?;
        let place = Arc::clone(&self.places)
            .try_acquire_many_owned(bytes)
            .map_err(busy)?;
        let closed = |_| TokenizeError::Busy;
        let thread = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(closed)?;
        Ok((place, thread))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::runtime::Builder;

    use super::super::samples::{
        self, byte_level, library, pool, sentence_piece, unigram, word_piece,
    };
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn encode(pool: &TokenizerPool, text: &str, options: EncodeOptions) -> Vec<u32> {
        block_on(pool.encode(text.to_owned(), options)).unwrap()
    }

    const PLAIN: EncodeOptions = EncodeOptions {
        special_tokens: SpecialTokens::Omit,
        truncate_to: None,
    };

    #[test]
    fn truncation_keeps_the_last_added_token() {
        let pool = pool(&word_piece());
        let check = |truncate_to, expect: &[u32]| {
            let options = EncodeOptions {
                truncate_to,
                ..EncodeOptions::default()
            };
            assert_eq!(
                encode(&pool, "Hello world, hello!", options),
                expect,
                "{truncate_to:?}"
            );
        };
        // [CLS] is 2, [SEP] 3, and nothing pads or cuts at 128, as the file says.
        check(None, &[2, 5, 6, 17, 5, 18, 3]);
        check(Some(7), &[2, 5, 6, 17, 5, 18, 3]);
        check(Some(4), &[2, 5, 6, 3]);
        check(Some(2), &[2, 3]);
        check(Some(1), &[2]);
        check(Some(0), &[]);
        let omit = EncodeOptions {
            truncate_to: Some(2),
            ..PLAIN
        };
        assert_eq!(encode(&pool, "Hello world", omit), [5, 6]);
        assert_eq!(encode(&pool, &"hello ".repeat(300), PLAIN).len(), 300);
    }

    #[test]
    fn a_vocabulary_answers_for_its_pieces() {
        let pool = pool(&byte_level());
        let tokenizer = pool.tokenizer();
        let start = tokenizer.id("<|im_start|>").unwrap();
        assert!(tokenizer.is_special(start) && !tokenizer.is_special(start + 2));
        assert_eq!(tokenizer.piece(start).as_deref(), Some("<|im_start|>"));
        assert_eq!(tokenizer.vocab_size(), start as usize + 4);
        assert_eq!(
            (tokenizer.id("nothing"), tokenizer.piece(start + 4)),
            (None, None)
        );
        assert_eq!(
            pool.decode(&encode(&pool, "hello wörld 世", PLAIN)),
            "hello wörld 世"
        );
    }

    #[test]
    fn files_that_cannot_work_are_refused() {
        let load = |sample: String| {
            TokenizerPool::from_json(sample.as_bytes(), PoolLimits::default()).unwrap_err()
        };
        assert!(matches!(
            load("{".to_owned()),
            TokenizerLoadError::Invalid(_)
        ));
        assert!(matches!(
            load("{}".to_owned()),
            TokenizerLoadError::Invalid(_)
        ));
        let odd = samples::with_decoder(word_piece(), serde_json::json!({ "type": "CTC" }));
        assert!(matches!(
            load(odd.to_string()),
            TokenizerLoadError::Decoder(_)
        ));
    }

    #[test]
    fn files_larger_than_any_tokenizer_are_refused() {
        let check = |bytes: &[u8], expect: &str| {
            let error = TokenizerPool::from_json(bytes, PoolLimits::default()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("tokenizer.json exceeds a limit: {expect}")
            );
        };
        let edited = |edit: fn(&mut serde_json::Value)| {
            let mut sample = byte_level();
            edit(&mut sample);
            sample.to_string().into_bytes()
        };
        check(
            &vec![b' '; (64 << 20) + 1],
            "the file of 67108865 bytes, more than 67108864",
        );
        let far = edited(|sample| sample["model"]["vocab"]["far"] = u32::MAX.into());
        check(&far, "token ids up to 4294967295, more than 4194304");
        let long = edited(|sample| {
            sample["added_tokens"][2]["content"] = "x".repeat((64 << 10) + 1).into();
        });
        check(&long, "token 267 has more than 65536 bytes");
        let control = edited(|sample| {
            sample["added_tokens"][0]["content"] = "x".repeat(1 << 20).into();
        });
        check(
            &control,
            "the control tokens of 1048599 bytes, more than 1048576",
        );
    }

    #[test]
    fn prepared_pieces_are_those_of_their_texts() {
        for sample in [byte_level(), sentence_piece(), word_piece(), unigram()] {
            let tokenizer = samples::tokenizer(&sample);
            for id in 0..tokenizer.vocab_size() as u32 + 2 {
                let piece = tokenizer.piece(id).filter(|_| !tokenizer.is_special(id));
                let expect = piece
                    .as_deref()
                    .map(|piece| tokenizer.decoding().prepare(piece));
                assert_eq!(tokenizer.prepared(id), expect, "{id}");
            }
        }
    }

    #[test]
    fn a_long_text_is_refused_unseen_and_a_full_pool_says_so() {
        let limits = PoolLimits {
            concurrent_max: 1,
            waiting_bytes_max: 10_000,
            text_bytes_max: 4096,
        };
        let sample = byte_level().to_string();
        let pool = TokenizerPool::from_json(sample.as_bytes(), limits).unwrap();
        let text = |bytes: usize| "a".repeat(bytes);
        block_on(async {
            let too_large = pool.encode(text(4097), PLAIN).await;
            assert_eq!(
                too_large,
                Err(TokenizeError::TooLarge {
                    bytes: 4097,
                    bytes_max: 4096
                })
            );

            let running = pool.permits(4096).await.unwrap();
            let mut waiting = Box::pin(pool.encode(text(4096), PLAIN));
            assert!(ready(&mut waiting).await.is_none());
            assert_eq!(
                pool.encode(text(4096), PLAIN).await,
                Err(TokenizeError::Busy)
            );
            // Short texts need no thread.
            assert!(pool.encode(text(9), PLAIN).await.is_ok());
            // A caller that goes away leaves its place, and the next one waits in it.
            drop(waiting);
            let mut waiting = Box::pin(pool.encode(text(4096), PLAIN));
            assert!(ready(&mut waiting).await.is_none());
            drop(running);
            assert_eq!(waiting.await.unwrap().len(), 4096);
            assert_eq!(pool.places.available_permits(), 10_000);
        });
    }

    /// The result of a future if it is there without waiting.
    async fn ready<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        tokio::select! { biased; result = future => Some(result), () = std::future::ready(()) => None }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..samples::same_cases() })]

        #[test]
        fn ids_are_those_of_the_library(
            text in "(hello|the|world| |  |世|é|</s>|<s>|<[|]im_start[|]>|<think>|[SEP]|\\PC|[a-z.]){0,20}",
            truncate_to in prop::option::of(0usize..12),
        ) {
            for sample in [byte_level(), sentence_piece(), word_piece(), unigram()] {
                let pool = pool(&sample);
                for (special_tokens, add) in [(SpecialTokens::Add, true), (SpecialTokens::Omit, false)] {
                    let mut library = library(&sample);
                    let added = library.encode("", true).unwrap().len();
                    let max_length = truncate_to.unwrap_or(usize::MAX / 2);
                    // The library overflows where not even the added tokens have room.
                    let max_length = max_length.max(added);
                    let truncation =
                        tokenizers::TruncationParams { max_length, ..tokenizers::TruncationParams::default() };
                    library.with_truncation(Some(truncation)).unwrap();
                    let expect = library.encode(text.as_str(), add).unwrap().get_ids().to_vec();
                    let options = EncodeOptions { special_tokens, truncate_to: Some(max_length) };
                    prop_assert_eq!(encode(&pool, &text, options), expect);
                }
            }
        }
    }
}
