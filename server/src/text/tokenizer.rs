//! Token ids from text: our own small view of a tokenizer, and a pool that bounds how much of it runs at once.
//!
//! Tokenizing is slow (see [`super::room`]), so it never runs unbounded: the length is checked before
//! anything else, only so many texts are tokenized at once on blocking threads, only so many bytes of texts
//! wait for their turn, and the rest is told to come back later. What is short is done by the caller itself,
//! one text at a time.

use std::fmt::Debug;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use thiserror::Error;

use super::chat::{ChatError, ChatTemplate, Message, Rendered, TemplateError};
pub use super::control::ControlTokens;
use super::detokenize::{self, Decoding, Prepared};
pub use super::room::{PoolLimits, TokenizerRoom};

/// What the server asks of a tokenizer. Implementations are pure: the same text gives the same ids.
pub trait Tokenize: Debug + Send + Sync {
    /// The ids of a text. Names of special tokens in the text become those tokens.
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizeError>;

    /// The ids of two texts that belong together, as models that compare texts expect them. Texts that are
    /// too long together lose tokens at the longer one first.
    fn encode_pair(&self, texts: [&str; 2], options: EncodeOptions) -> Result<Pair, TokenizeError>;

    /// The tokens of a text and where in it they stand.
    fn encode_placed(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Vec<Placed>, TokenizeError>;

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
    /// The most tokens to give, with the added ones, which stay as long as there is room for them. `None`
    /// keeps all.
    pub truncate_to: Option<usize>,
    /// Where a text that is too long is cut.
    pub cut: Cut,
}

/// Where a text that is too long is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cut {
    /// It loses its end.
    #[default]
    End,
    /// It loses its beginning.
    Beginning,
}

/// Two texts as one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pair {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Which of the texts each of them counts to, as the tokenizer says.
    pub segments: Vec<u8>,
}

/// A token and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub id: u32,
    /// The bytes of the text that it stands for; `None` where it was added around the text.
    pub place: Option<Range<usize>>,
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

/// A tokenizer with a bounded number of threads to run on, which other pools may share.
#[derive(Debug, Clone)]
pub struct TokenizerPool {
    tokenizer: Arc<dyn Tokenize>,
    room: TokenizerRoom,
}

/// Texts below this are encoded by the caller itself, which takes 15 to 45 us for prose and 180 us at worst:
/// about as long as changing threads twice on a busy machine. `examples/text.rs` measures it.
const INLINE_BYTES: usize = 256;
/// As many tokens are looked up by the caller itself, in some 60 us.
const INLINE_TOKENS: usize = 4096;
/// Bytes that a template may write beside the messages: 128 for each of the most messages there may be.
const TEMPLATE_BYTES_MAX: usize = 128 << 10;
/// Bytes that a token takes of the room while it is looked up.
const TOKEN_BYTES: usize = size_of::<u32>();

impl TokenizerPool {
    /// A pool over the tokenizer of a tokenizer.json, with a room of its own. Truncation and padding set in
    /// the file are ignored.
    pub fn from_json(bytes: &[u8], limits: PoolLimits) -> Result<Self, TokenizerLoadError> {
        TokenizerRoom::new(limits).pool_from_json(bytes)
    }

    /// A pool over any tokenizer, with a room of its own.
    pub fn new(tokenizer: Arc<dyn Tokenize>, limits: PoolLimits) -> Self {
        TokenizerRoom::new(limits).pool(tokenizer)
    }

    pub(super) fn sharing(room: TokenizerRoom, tokenizer: Arc<dyn Tokenize>) -> Self {
        Self { tokenizer, room }
    }

    /// The ids of a text.
    pub async fn encode(
        &self,
        text: String,
        options: EncodeOptions,
    ) -> Result<Vec<u32>, TokenizeError> {
        self.check_bytes(text.len())?;
        self.encode_bytes(text.len(), move |tokenizer| {
            tokenizer.encode(&text, options)
        })
        .await
    }

    /// The ids of two texts that belong together. The first one may be shared with other pairs.
    pub async fn encode_pair(
        &self,
        first: Arc<str>,
        second: String,
        options: EncodeOptions,
    ) -> Result<Pair, TokenizeError> {
        let bytes = first.len() + second.len();
        self.check_bytes(bytes)?;
        self.encode_bytes(bytes, move |tokenizer| {
            tokenizer.encode_pair([&first, &second], options)
        })
        .await
    }

    /// What `make` makes of each token of a text and the part of the text that it stands for; of one that was
    /// added around the text, its vocabulary entry.
    pub async fn encode_placed<T: Send + 'static>(
        &self,
        text: String,
        special_tokens: SpecialTokens,
        make: impl Fn(Placed, String) -> T + Send + 'static,
    ) -> Result<Vec<T>, TokenizeError> {
        self.check_bytes(text.len())?;
        self.encode_bytes(text.len(), move |tokenizer| {
            let said = |token: &Placed| match &token.place {
                Some(place) => {
                    let bytes = text.as_bytes().get(place.clone()).unwrap_or_default();
                    String::from_utf8_lossy(bytes).into_owned()
                }
                None => tokenizer.piece(token.id).unwrap_or_default(),
            };
            let tokens = tokenizer.encode_placed(&text, special_tokens)?;
            let tokens = tokens.into_iter().map(|token| {
                let said = said(&token);
                make(token, said)
            });
            Ok(tokens.collect())
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
        let rendered_bytes_max = self
            .limits()
            .text_bytes_max
            .saturating_add(TEMPLATE_BYTES_MAX);
        let template = template.clone();
        // Always on a thread: a template is a program, and a bad one takes long over a short message.
        self.on_thread(bytes, move |tokenizer| {
            let rendered = template.render(&messages, tokenizer.control_tokens())?;
            let bytes = rendered.text.len();
            if bytes > rendered_bytes_max {
                let message =
                    format!("it made {bytes} bytes of text, more than {rendered_bytes_max}");
                return Err(TemplateError::Limit(message).into());
            }
            Ok(tokenizer.encode_rendered(&rendered)?)
        })
        .await
    }

    /// The text of a whole sequence, as a [`detokenize::Detokenizer`] gives it piece by piece.
    pub async fn decode(&self, ids: Vec<u32>) -> Result<String, TokenizeError> {
        self.on_tokens(ids, |tokenizer, ids| detokenize::decode(tokenizer, &ids))
            .await
    }

    /// As [`TokenizerPool::decode`], with the texts of control tokens.
    pub async fn decode_all(&self, ids: Vec<u32>) -> Result<String, TokenizeError> {
        self.on_tokens(ids, |tokenizer, ids| {
            detokenize::decode_all(tokenizer, &ids)
        })
        .await
    }

    /// The text of a sequence that goes on: [`detokenize::Detokenizer::after`] gives the rest.
    pub async fn decode_beginning(&self, ids: Vec<u32>) -> Result<String, TokenizeError> {
        self.on_tokens(ids, |tokenizer, ids| {
            detokenize::decode_beginning(tokenizer, &ids)
        })
        .await
    }

    /// What `make` makes of each id and its vocabulary entry; of an unknown id's, which is empty.
    pub async fn pieces<T: Send + 'static>(
        &self,
        ids: Vec<u32>,
        make: impl Fn(u32, String) -> T + Send + 'static,
    ) -> Result<Vec<T>, TokenizeError> {
        self.on_tokens(ids, move |tokenizer, ids| {
            let piece = |id| make(id, tokenizer.piece(id).unwrap_or_default());
            ids.into_iter().map(piece).collect()
        })
        .await
    }

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Arc<dyn Tokenize> {
        &self.tokenizer
    }

    /// The bounds.
    pub fn limits(&self) -> PoolLimits {
        self.room.limits()
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), TokenizeError> {
        let bytes_max = self.limits().text_bytes_max;
        if bytes > bytes_max {
            return Err(TokenizeError::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Encodes so many bytes of text: few are done at once, by the caller itself.
    async fn encode_bytes<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&dyn Tokenize) -> Result<T, TokenizeError> + Send + 'static,
    ) -> Result<T, TokenizeError> {
        if bytes >= INLINE_BYTES {
            return self.on_thread(bytes, work).await;
        }
        let result = work(&*self.tokenizer);
        let_others_run().await;
        result
    }

    /// Runs work that takes some 15 ns for each token, on a blocking thread if there are many.
    async fn on_tokens<T: Send + 'static>(
        &self,
        ids: Vec<u32>,
        work: impl FnOnce(&dyn Tokenize, Vec<u32>) -> T + Send + 'static,
    ) -> Result<T, TokenizeError> {
        if ids.len() <= INLINE_TOKENS {
            return Ok(work(&*self.tokenizer, ids));
        }
        let bytes = ids.len() * TOKEN_BYTES;
        self.on_thread(bytes, move |tokenizer| Ok(work(tokenizer, ids)))
            .await
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
        let permits = self.room.permits(bytes).await?;
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
}

/// Ends this poll of the caller, which is polled again at once. A caller of many futures takes them by
/// turns then, but would take all in one poll if each went on (and `yield_now` of tokio tells only the
/// runtime, not such a caller).
async fn let_others_run() {
    let mut polled = false;
    poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream::{self, StreamExt as _};
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
        cut: Cut::End,
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
    fn a_pair_loses_tokens_at_its_longer_text() {
        let pool = pool(&samples::word_piece_for_pairs());
        let check = |truncate_to, cut, ids: &[u32], segments: &[u8]| {
            let options = EncodeOptions {
                truncate_to,
                cut,
                ..EncodeOptions::default()
            };
            let pair = pool.encode_pair("hello".into(), "do not don a the".to_owned(), options);
            let pair = block_on(pair).unwrap();
            assert_eq!(
                (&*pair.ids, &*pair.segments),
                (ids, segments),
                "{truncate_to:?}"
            );
        };
        let whole = [2, 5, 3, 7, 8, 12, 24, 25, 3];
        check(None, Cut::End, &whole, &[0, 0, 0, 1, 1, 1, 1, 1, 1]);
        check(Some(6), Cut::End, &[2, 5, 3, 7, 8, 3], &[0, 0, 0, 1, 1, 1]);
        check(
            Some(6),
            Cut::Beginning,
            &[2, 5, 3, 24, 25, 3],
            &[0, 0, 0, 1, 1, 1],
        );
        check(Some(2), Cut::End, &[2, 3], &[0, 0]);
        check(Some(0), Cut::End, &[], &[]);
    }

    #[test]
    fn a_placed_token_says_what_it_stands_for() {
        let pool = pool(&word_piece());
        let make = |token: Placed, said: String| (token.id, said, token.place);
        let text = "Hello  世!".to_owned();
        let tokens = block_on(pool.encode_placed(text, SpecialTokens::Add, make)).unwrap();
        let expect = [
            (2, "[CLS]", None),
            (5, "Hello", Some(0..5)),
            (22, "世", Some(7..10)),
            (18, "!", Some(10..11)),
            (3, "[SEP]", None),
        ];
        let expect = expect.map(|(id, said, place)| (id, said.to_owned(), place));
        assert_eq!(tokens, expect);
    }

    #[test]
    fn control_tokens_are_left_in_a_text_where_asked() {
        let pool = pool(&word_piece());
        let ids = vec![2, 5, 6, 3];
        let without = block_on(pool.decode(ids.clone())).unwrap();
        assert_eq!(without, "hello world");
        let with = block_on(pool.decode_all(ids.clone())).unwrap();
        assert_eq!(with, library(&word_piece()).decode(&ids, false).unwrap());
        assert_eq!(with, "[CLS] hello world [SEP]");
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
            block_on(pool.decode(encode(&pool, "hello wörld 世", PLAIN))).unwrap(),
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
        let merge_of_all = serde_json::json!({ "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "model": { "type": "BPE", "vocab": { "h": 0, "e": 1 }, "merges": ["h e"] } });
        assert_eq!(
            load(merge_of_all.to_string()),
            TokenizerLoadError::Invalid("the library panics on it".to_owned())
        );
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

            let running = pool.room.permits(4096).await.unwrap();
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
            assert_eq!(pool.room.places.available_permits(), 10_000);
        });
    }

    #[test]
    fn a_caller_of_many_short_texts_encodes_few_of_them_in_one_poll() {
        let counting = Arc::new(Counting::default());
        let pool = TokenizerPool::new(counting.clone(), PoolLimits::default());
        let encoded = || counting.encoded.load(Ordering::Relaxed);
        block_on(async {
            let short = |_| pool.encode("short".to_owned(), PLAIN);
            let mut all = Box::pin(
                stream::iter(0..128)
                    .map(short)
                    .buffered(128)
                    .collect::<Vec<_>>(),
            );
            assert!(ready(&mut all).await.is_none());
            assert!((1..=2).contains(&encoded()), "{} at once", encoded());
            assert_eq!(all.await.len(), 128);
            assert_eq!(encoded(), 128);
        });
    }

    /// Counts the texts and gives no tokens.
    #[derive(Debug)]
    struct Counting {
        encoded: AtomicUsize,
        other: Arc<dyn Tokenize>,
    }

    impl Default for Counting {
        fn default() -> Self {
            let other = Arc::clone(pool(&byte_level()).tokenizer());
            let encoded = AtomicUsize::new(0);
            Self { encoded, other }
        }
    }

    impl Tokenize for Counting {
        fn encode(&self, _: &str, _: EncodeOptions) -> Result<Vec<u32>, TokenizeError> {
            self.encoded.fetch_add(1, Ordering::Relaxed);
            Ok(Vec::new())
        }
        fn encode_pair(&self, _: [&str; 2], _: EncodeOptions) -> Result<Pair, TokenizeError> {
            self.encoded.fetch_add(1, Ordering::Relaxed);
            Ok(Pair::default())
        }
        fn encode_placed(&self, _: &str, _: SpecialTokens) -> Result<Vec<Placed>, TokenizeError> {
            self.encoded.fetch_add(1, Ordering::Relaxed);
            Ok(Vec::new())
        }
        fn encode_rendered(&self, _: &Rendered) -> Result<Vec<u32>, TokenizeError> {
            self.encode("", PLAIN)
        }
        fn piece(&self, id: u32) -> Option<String> {
            self.other.piece(id)
        }
        fn is_special(&self, id: u32) -> bool {
            self.other.is_special(id)
        }
        fn control_tokens(&self) -> &ControlTokens {
            self.other.control_tokens()
        }
        fn id(&self, piece: &str) -> Option<u32> {
            self.other.id(piece)
        }
        fn vocab_size(&self) -> usize {
            self.other.vocab_size()
        }
        fn decoding(&self) -> &Decoding {
            self.other.decoding()
        }
    }

    #[test]
    fn many_tokens_are_looked_up_on_a_thread_and_few_at_once() {
        let limits = PoolLimits {
            concurrent_max: 1,
            ..PoolLimits::default()
        };
        let sample = byte_level().to_string();
        let pool = TokenizerPool::from_json(sample.as_bytes(), limits).unwrap();
        let (few, many) = (vec![97; INLINE_TOKENS], vec![97; INLINE_TOKENS + 1]);
        let piece = |_, text: String| text;
        block_on(async {
            let running = pool.room.permits(1).await.unwrap();
            let text = ready(&mut Box::pin(pool.decode(few.clone()))).await;
            assert_eq!(text.unwrap().unwrap(), "a".repeat(INLINE_TOKENS));
            let pieces = ready(&mut Box::pin(pool.pieces(few, piece))).await;
            assert_eq!(pieces.unwrap().unwrap()[0], "a");

            let mut text = Box::pin(pool.decode(many.clone()));
            let mut beginning = Box::pin(pool.decode_beginning(many.clone()));
            let mut pieces = Box::pin(pool.pieces(many, piece));
            assert!(ready(&mut text).await.is_none());
            assert!(ready(&mut beginning).await.is_none());
            assert!(ready(&mut pieces).await.is_none());
            drop(running);
            let expect = "a".repeat(INLINE_TOKENS + 1);
            assert_eq!(text.await.unwrap(), expect);
            assert_eq!(beginning.await.unwrap(), expect);
            assert_eq!(pieces.await.unwrap().concat(), expect);
        });
    }

    #[test]
    fn pools_that_share_a_room_keep_its_bounds_together() {
        let room = TokenizerRoom::new(PoolLimits {
            concurrent_max: 1,
            waiting_bytes_max: 10_000,
            text_bytes_max: 4096,
        });
        let of = |sample: serde_json::Value| room.pool_from_json(sample.to_string().as_bytes());
        let (one, other) = (of(byte_level()).unwrap(), of(word_piece()).unwrap());
        let text = || "a".repeat(4096);
        block_on(async {
            let mut first = Box::pin(one.encode(text(), PLAIN));
            let running = room.permits(4096).await.unwrap();
            assert!(ready(&mut first).await.is_none());
            assert_eq!(other.encode(text(), PLAIN).await, Err(TokenizeError::Busy));
            drop(running);
            assert_eq!(first.await.unwrap().len(), 4096);
            assert!(other.encode(text(), PLAIN).await.is_ok());
        });
    }

    #[test]
    fn a_template_that_makes_far_more_than_it_was_given_is_refused() {
        let pool = TokenizerPool::from_json(
            byte_level().to_string().as_bytes(),
            PoolLimits {
                text_bytes_max: 1000,
                ..PoolLimits::default()
            },
        )
        .unwrap();
        let template = "{% for _ in range(150) %}{{ messages[0].content }}{% endfor %}";
        let template = ChatTemplate::from_config(b"{}", Some(template.as_bytes())).unwrap();
        let encode = |content: String| {
            let role = "user".to_owned();
            let messages = vec![Message { role, content }];
            block_on(pool.encode_chat(template.as_ref().unwrap(), messages))
        };
        assert_eq!(encode("x".repeat(880)).unwrap().len(), 132_000);
        let expect = "it made 132150 bytes of text, more than 132072".to_owned();
        assert_eq!(
            encode("x".repeat(881)),
            Err(ChatError::Template(TemplateError::Limit(expect)))
        );
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
                    let options = EncodeOptions { special_tokens, truncate_to: Some(max_length), cut: Cut::End };
                    prop_assert_eq!(encode(&pool, &text, options), expect);
                }
            }
        }

        #[test]
        fn pairs_are_those_of_the_library(
            first in "(hello|the|world| |世|é|[SEP]|\\PC|[a-z.]){0,20}",
            second in "(hello|the|world| |世|é|</s>|\\PC|[a-z.]){0,20}",
            truncate_to in prop::option::of(0usize..16),
            left in prop::bool::ANY,
        ) {
            let (cut, direction) = if left {
                (Cut::Beginning, tokenizers::TruncationDirection::Left)
            } else {
                (Cut::End, tokenizers::TruncationDirection::Right)
            };
            for sample in [samples::word_piece_for_pairs(), word_piece(), sentence_piece(), byte_level()] {
                let pool = pool(&sample);
                let mut library = library(&sample);
                let added = library.encode(("", ""), true).unwrap().len();
                // The library asks for room for those of one text even here.
                let added = added.max(library.encode("", true).unwrap().len());
                let max_length = truncate_to.unwrap_or(usize::MAX / 2).max(added);
                let truncation = tokenizers::TruncationParams {
                    max_length, direction, ..tokenizers::TruncationParams::default()
                };
                library.with_truncation(Some(truncation)).unwrap();
                let expect = library.encode((first.as_str(), second.as_str()), true).unwrap();
                let segments = expect.get_type_ids().iter().map(|&id| id as u8).collect();
                let expect = Pair { ids: expect.get_ids().to_vec(), segments };
                let options = EncodeOptions { truncate_to: Some(max_length), cut, ..EncodeOptions::default() };
                let got = block_on(pool.encode_pair(first.as_str().into(), second.clone(), options)).unwrap();
                prop_assert_eq!(&got, &expect);
                prop_assert_eq!(got.ids.len(), got.segments.len());
            }
        }

        #[test]
        fn texts_cut_at_their_beginning_and_places_are_those_of_the_library(
            text in "(hello|the|world| |  |世|é|</s>|<s>|[SEP]|\\PC|[a-z.]){0,20}",
            max_length in 2usize..12,
        ) {
            for sample in [byte_level(), sentence_piece(), word_piece(), unigram()] {
                let pool = pool(&sample);
                let mut library = library(&sample);
                let expect = library.encode(text.as_str(), true).unwrap();
                let places = pool.encode_placed(text.clone(), SpecialTokens::Add, |token, _| token);
                let places = block_on(places).unwrap();
                prop_assert_eq!(places.len(), expect.len());
                for (at, token) in places.iter().enumerate() {
                    prop_assert_eq!(token.id, expect.get_ids()[at]);
                    let (start, end) = expect.get_offsets()[at];
                    let added = expect.get_special_tokens_mask()[at] == 1;
                    prop_assert_eq!(token.place.clone(), (!added).then_some(start..end));
                }
                let truncation = tokenizers::TruncationParams {
                    max_length,
                    direction: tokenizers::TruncationDirection::Left,
                    ..tokenizers::TruncationParams::default()
                };
                library.with_truncation(Some(truncation)).unwrap();
                let expect = library.encode(text.as_str(), true).unwrap().get_ids().to_vec();
                let options = EncodeOptions {
                    truncate_to: Some(max_length), cut: Cut::Beginning, ..EncodeOptions::default()
                };
                prop_assert_eq!(encode(&pool, &text, options), expect);
            }
        }
    }
}
