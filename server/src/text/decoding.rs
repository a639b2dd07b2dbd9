//! How a tokenizer's pieces become text: the `decoder` part of a tokenizer.json, as steps that never look back.
//!
//! A step takes pieces one by one and hands on what is final. So decoding a growing sequence costs the same
//! as decoding it once, and gives the same text wherever it is cut.
//!
//! The text equals that of the `tokenizers` library, with one deliberate difference: `ByteFallback` there
//! gives up the whole run of byte pieces when any byte of it is not UTF-8, so nothing of a run would be
//! final before its end, and a model that writes line breaks as bytes could not be stopped at one. Here
//! whole characters are handed on at once, and each byte that belongs to none becomes U+FFFD.

use std::borrow::Cow;

use serde_json::Value;
use thiserror::Error;

/// The steps from pieces to text, in their state before the first piece.
#[derive(Debug, Clone)]
pub struct Decoding {
    steps: Vec<Step>,
}

/// A decoder this server does not know.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct UnknownDecoder(pub String);

#[derive(Debug, Clone)]
enum Step {
    /// No decoder: pieces are separated by spaces.
    Spaced { first: bool },
    /// GPT-2's printable alphabet back to bytes, and those to UTF-8.
    ByteLevel { bytes: Utf8Tail, first: bool },
    /// `<0xE4>` pieces to characters.
    ByteFallback { bytes: Utf8Tail, in_run: bool },
    /// Replaces a string inside each piece.
    Replace { pattern: String, content: String },
    /// All pieces become one.
    Fuse { first: bool },
    /// Cuts up to `start` leading and `stop` trailing `content` from each piece.
    Strip {
        content: char,
        start: usize,
        stop: usize,
        start_left: usize,
        held: usize,
    },
    /// SentencePiece's visible space, dropped in the first piece where it was only put before the text.
    Metaspace {
        replacement: char,
        keep: Keep,
        pieces: u8,
    },
    /// `##` continues a word, all else begins one.
    WordPiece {
        prefix: String,
        cleanup: Cleanup,
        first: bool,
    },
    /// A suffix ends a word; the last piece waits, because there the suffix is no space.
    Suffix {
        suffix: String,
        held: Option<String>,
    },
}

/// Whether the visible space of the first piece is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    FirstSpace,
    LaterSpaces,
}

/// Whether WordPiece draws punctuation to the word before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleanup {
    Off,
    On,
}

/// Part of a piece on its way through the steps.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    /// Whether a piece begins here; if not, the last one goes on.
    begins: bool,
}

impl Decoding {
    /// Reads the `decoder` value of a tokenizer.json (`null` when it has none).
    pub fn from_json(decoder: &Value) -> Result<Self, UnknownDecoder> {
        let mut steps = Vec::new();
        if decoder.is_null() {
            steps.push(Step::Spaced { first: true });
        } else {
            read(decoder, &mut steps)?;
        }
        let fused = |step: &Step| matches!(step, Step::Fuse { .. } | Step::ByteLevel { .. });
        let after = steps.iter().skip_while(|step| !fused(step)).skip(1);
        for step in after {
            let splits = match step {
                Step::Replace { pattern, .. } => pattern.chars().count() != 1,
                Step::Strip { .. } | Step::Fuse { .. } | Step::Metaspace { .. } => false,
                _ => true,
            };
            if splits {
                return Err(UnknownDecoder(format!(
                    "{} after the pieces are joined",
                    step.name()
                )));
            }
        }
        Ok(Self { steps })
    }

    /// Takes one whole piece and appends what has become final to `out`.
    pub fn push(&mut self, piece: &str, out: &mut String) {
        feed(
            &mut self.steps,
            Part {
                text: piece,
                begins: true,
            },
            out,
        );
    }

    /// The end: appends what waited for more pieces. Returns to the state before the first piece.
    pub fn finish(&mut self, out: &mut String) {
        let mut steps = &mut self.steps[..];
        while let Some((step, rest)) = steps.split_first_mut() {
            step.finish(rest, out);
            steps = rest;
        }
    }

    /// Whether text of pieces already taken still waits for more pieces.
    pub fn holds_text(&self) -> bool {
        self.steps.iter().any(Step::holds_text)
    }
}

fn feed(steps: &mut [Step], part: Part<'_>, out: &mut String) {
    match steps.split_first_mut() {
        None => out.push_str(part.text),
        Some((step, rest)) => step.push(part, rest, out),
    }
}

// === reading the file ===

fn read(decoder: &Value, steps: &mut Vec<Step>) -> Result<(), UnknownDecoder> {
    if text_at(decoder, "type")? == "Sequence" {
        let parts = decoder.get("decoders").and_then(Value::as_array);
        let parts = parts.ok_or_else(|| UnknownDecoder("Sequence without decoders".to_owned()))?;
        return parts.iter().try_for_each(|part| read(part, steps));
    }
    steps.push(read_step(decoder)?);
    Ok(())
}

fn read_step(decoder: &Value) -> Result<Step, UnknownDecoder> {
    Ok(match text_at(decoder, "type")? {
        "ByteLevel" => Step::ByteLevel {
            bytes: Utf8Tail::default(),
            first: true,
        },
        "ByteFallback" => Step::ByteFallback {
            bytes: Utf8Tail::default(),
            in_run: false,
        },
        "Fuse" => Step::Fuse { first: true },
        "Replace" => read_replace(decoder)?,
        "Strip" => {
            let count = |key| decoder.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
            let (start, stop) = (count("start"), count("stop"));
            let content = char_at(decoder, "content")?;
            Step::Strip {
                content,
                start,
                stop,
                start_left: start,
                held: 0,
            }
        }
        "Metaspace" => {
            let never = decoder
                .get("prepend_scheme")
                .is_some_and(|scheme| scheme == "never")
                || decoder
                    .get("add_prefix_space")
                    .is_some_and(|add| add == false);
            let keep = if never {
                Keep::FirstSpace
            } else {
                Keep::LaterSpaces
            };
            Step::Metaspace {
                replacement: char_at(decoder, "replacement")?,
                keep,
                pieces: 0,
            }
        }
        "WordPiece" => {
            let on = decoder
                .get("cleanup")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            let cleanup = if on { Cleanup::On } else { Cleanup::Off };
            let prefix = text_at(decoder, "prefix")?.to_owned();
            Step::WordPiece {
                prefix,
                cleanup,
                first: true,
            }
        }
        "BPEDecoder" => Step::Suffix {
            suffix: text_at(decoder, "suffix")?.to_owned(),
            held: None,
        },
        other => return Err(UnknownDecoder(other.to_owned())),
    })
}

fn read_replace(decoder: &Value) -> Result<Step, UnknownDecoder> {
    let pattern = decoder
        .get("pattern")
        .and_then(|pattern| pattern.get("String"));
    let pattern = pattern
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    let unknown = || UnknownDecoder("Replace by a regular expression".to_owned());
    let pattern = pattern.ok_or_else(unknown)?.to_owned();
    Ok(Step::Replace {
        pattern,
        content: text_at(decoder, "content")?.to_owned(),
    })
}

fn text_at<'a>(decoder: &'a Value, key: &str) -> Result<&'a str, UnknownDecoder> {
    let text = decoder.get(key).and_then(Value::as_str);
    text.ok_or_else(|| UnknownDecoder(format!("a decoder without \"{key}\"")))
}

fn char_at(decoder: &Value, key: &str) -> Result<char, UnknownDecoder> {
    let mut chars = text_at(decoder, key)?.chars();
    match (chars.next(), chars.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(UnknownDecoder(format!(
            "a decoder whose \"{key}\" is not one character"
        ))),
    }
}

// === impl Step ===

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Spaced { .. } => "no decoder",
            Self::ByteLevel { .. } => "ByteLevel",
            Self::ByteFallback { .. } => "ByteFallback",
            Self::Replace { .. } => "Replace",
            Self::Fuse { .. } => "Fuse",
            Self::Strip { .. } => "Strip",
            Self::Metaspace { .. } => "Metaspace",
            Self::WordPiece { .. } => "WordPiece",
            Self::Suffix { .. } => "BPEDecoder",
        }
    }

    fn holds_text(&self) -> bool {
        match self {
            Self::ByteLevel { bytes, .. } | Self::ByteFallback { bytes, .. } => !bytes.is_empty(),
            Self::Strip { held, .. } => *held > 0,
            Self::Suffix { held, .. } => held.is_some(),
            _ => false,
        }
    }

    fn push(&mut self, part: Part<'_>, rest: &mut [Self], out: &mut String) {
        let byte = byte_piece(part.text);
        if let (Self::ByteFallback { bytes, .. }, None) = (&mut *self, byte) {
            let broken = bytes.finish_bytewise();
            feed(
                rest,
                Part {
                    text: &broken,
                    begins: false,
                },
                out,
            );
        }
        let (text, begins): (Cow<'_, str>, bool) = match self {
            Self::Spaced { first } => {
                let space = if std::mem::take(first) { "" } else { " " };
                (format!("{space}{}", part.text).into(), true)
            }
            Self::ByteLevel { bytes, first } => {
                let raw = unprintable(part.text);
                let raw = raw.as_deref().unwrap_or(part.text.as_bytes());
                (bytes.push(raw).into(), std::mem::take(first))
            }
            Self::ByteFallback { bytes, in_run } => {
                let begins = !(std::mem::replace(in_run, byte.is_some()) && byte.is_some());
                let text = byte.map(|byte| bytes.push_bytewise(byte));
                (text.map_or(part.text.into(), Cow::from), begins)
            }
            Self::Replace { pattern, content } => {
                let text = part.text.replace(pattern.as_str(), content);
                (text.into(), part.begins)
            }
            Self::Fuse { first } => (part.text.into(), std::mem::take(first)),
            Self::Strip { .. } => (self.strip(part).into(), part.begins),
            Self::Metaspace { .. } => (self.metaspace(part).into(), part.begins),
            Self::WordPiece { .. } => (self.word_piece(part.text).into(), true),
            Self::Suffix { suffix, held } => match held.replace(part.text.to_owned()) {
                Some(before) => (before.replace(suffix.as_str(), " ").into(), true),
                None => return,
            },
        };
        feed(
            rest,
            Part {
                text: &text,
                begins,
            },
            out,
        );
    }

    /// Counts pieces up to the second.
    fn metaspace(&mut self, part: Part<'_>) -> String {
        let Self::Metaspace {
            replacement,
            keep,
            pieces,
        } = self
        else {
            unreachable!()
        };
        *pieces = pieces.saturating_add(u8::from(part.begins)).min(2);
        let space = if *pieces < 2 && *keep == Keep::LaterSpaces {
            ""
        } else {
            " "
        };
        part.text.replace(*replacement, space)
    }

    fn word_piece(&mut self, piece: &str) -> String {
        let Self::WordPiece {
            prefix,
            cleanup,
            first,
        } = self
        else {
            unreachable!()
        };
        let text = match piece.strip_prefix(prefix.as_str()) {
            _ if std::mem::take(first) => piece.to_owned(),
            Some(more) => more.to_owned(),
            None => format!(" {piece}"),
        };
        if *cleanup == Cleanup::On {
            tidy(text)
        } else {
            text
        }
    }

    /// Trailing content may be cut, so it waits until something else follows in the same piece.
    fn strip(&mut self, part: Part<'_>) -> String {
        let Self::Strip {
            content,
            start,
            stop,
            start_left,
            held,
        } = self
        else {
            unreachable!()
        };
        if part.begins {
            (*start_left, *held) = (*start, 0);
        }
        let mut text = String::with_capacity(part.text.len());
        for one in part.text.chars() {
            if one != *content {
                *start_left = 0;
                text.extend(std::iter::repeat_n(*content, std::mem::take(held)));
                text.push(one);
            } else if *start_left > 0 {
                *start_left -= 1;
            } else if *held < *stop {
                *held += 1;
            } else {
                text.push(one);
            }
        }
        text
    }

    fn finish(&mut self, rest: &mut [Self], out: &mut String) {
        let mut give = |text: &str| {
            if !text.is_empty() {
                feed(
                    rest,
                    Part {
                        text,
                        begins: false,
                    },
                    out,
                );
            }
        };
        match self {
            Self::ByteLevel { bytes, first } => {
                give(&bytes.finish());
                *first = true;
            }
            Self::ByteFallback { bytes, in_run } => {
                give(&bytes.finish_bytewise());
                *in_run = false;
            }
            Self::Suffix { suffix, held } => {
                give(&held.take().unwrap_or_default().replace(suffix.as_str(), ""));
            }
            Self::Strip {
                start,
                start_left,
                held,
                ..
            } => (*start_left, *held) = (*start, 0),
            Self::Metaspace { pieces, .. } => *pieces = 0,
            Self::Spaced { first } | Self::Fuse { first } | Self::WordPiece { first, .. } => {
                *first = true;
            }
            Self::Replace { .. } => {}
        }
    }
}

/// The bytes a piece of the printable alphabet stands for; `None` if a character is not of it.
fn unprintable(piece: &str) -> Option<Vec<u8>> {
    piece.chars().map(byte_of).collect()
}

/// GPT-2's alphabet: visible Latin-1 stands for itself, the other 68 bytes follow in order from U+0100.
fn byte_of(printable: char) -> Option<u8> {
    let code = u32::from(printable);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The byte of a piece like `<0xE4>`.
fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// Undoes the spaces a tokenizer of English puts before punctuation and contractions.
fn tidy(mut text: String) -> String {
    for (spaced, tight) in TIDY {
        if text.contains(spaced) {
            text = text.replace(spaced, tight);
        }
    }
    text
}

const TIDY: [(&str, &str); 11] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

// === impl Utf8Tail ===

/// Bytes that begin a character whose rest has not come: at most three.
#[derive(Debug, Clone, Default)]
struct Utf8Tail(Vec<u8>);

impl Utf8Tail {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends bytes and takes all characters that are whole; bytes that can never become one are U+FFFD,
    /// one for each longest beginning of a character, as `String::from_utf8_lossy` has it.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.0.len());
        let mut taken = 0;
        for chunk in self.0.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() || (taken + invalid.len() == self.0.len() && may_go_on(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
        self.0.drain(..taken);
        text
    }

    /// The end: an unfinished character is one U+FFFD.
    fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0.clear();
        text
    }

    /// As [`Self::push`], but U+FFFD for each byte that belongs to no character.
    fn push_bytewise(&mut self, byte: u8) -> String {
        self.0.push(byte);
        if may_go_on(&self.0) {
            return String::new();
        }
        if std::str::from_utf8(&self.0).is_ok() {
            return self.finish();
        }
        // The bytes before were the beginning of a character that this byte does not go on with.
        self.0.pop();
        let broken = self.finish_bytewise();
        broken + &self.push_alone(byte)
    }

    /// A byte after nothing.
    fn push_alone(&mut self, byte: u8) -> String {
        self.0.push(byte);
        if byte.is_ascii() {
            self.finish()
        } else if may_go_on(&self.0) {
            String::new()
        } else {
            self.finish_bytewise()
        }
    }

    /// As [`Self::finish`], but U+FFFD for each byte.
    fn finish_bytewise(&mut self) -> String {
        let bytes = std::mem::take(&mut self.0);
        std::iter::repeat_n(char::REPLACEMENT_CHARACTER, bytes.len()).collect()
    }
}

/// Whether these bytes are a true beginning of a character that more bytes can complete.
fn may_go_on(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
}
