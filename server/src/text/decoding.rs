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

use super::utf8::Utf8Tail;

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
    Spaced {
        first: bool,
    },
    /// GPT-2's printable alphabet back to bytes, and those to UTF-8.
    ByteLevel {
        bytes: Utf8Tail,
        first: bool,
    },
    /// `<0xE4>` pieces to characters.
    ByteFallback {
        bytes: Utf8Tail,
        in_run: bool,
    },
    /// Replaces a string inside each piece.
    Replace {
        pattern: String,
        content: String,
    },
    /// All pieces become one.
    Fuse {
        first: bool,
    },
    Strip(Strip),
    Metaspace(Metaspace),
    WordPiece(WordPiece),
    /// A suffix ends a word; the last piece waits, because there the suffix is no space.
    Suffix {
        suffix: String,
        held: Option<String>,
    },
}

/// Cuts up to `start` leading and `stop` trailing `content` from each piece.
#[derive(Debug, Clone)]
struct Strip {
    content: char,
    start: usize,
    stop: usize,
    /// How many leading ones may still be cut from this piece.
    start_left: usize,
    /// Trailing ones that wait until something else follows in the same piece.
    held: usize,
}

/// SentencePiece's visible space, and whether in the first piece it was only put before the text.
#[derive(Debug, Clone)]
struct Metaspace {
    replacement: char,
    drops_first: bool,
    /// Pieces so far, counted up to the second.
    pieces: u8,
}

/// `prefix` continues a word, all else begins one. With `tidies`, punctuation is drawn to the word before.
#[derive(Debug, Clone)]
struct WordPiece {
    prefix: String,
    tidies: bool,
    first: bool,
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
                Step::Strip(_) | Step::Fuse { .. } | Step::Metaspace(_) => false,
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

impl<'a> Part<'a> {
    /// More of the piece before.
    fn more(text: &'a str) -> Self {
        Self {
            text,
            begins: false,
        }
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
            Step::Strip(Strip {
                content,
                start,
                stop,
                start_left: start,
                held: 0,
            })
        }
        "Metaspace" => {
            let is = |key: &str, value: Value| decoder.get(key) == Some(&value);
            let keeps =
                is("prepend_scheme", "never".into()) || is("add_prefix_space", false.into());
            let replacement = char_at(decoder, "replacement")?;
            Step::Metaspace(Metaspace {
                replacement,
                drops_first: !keeps,
                pieces: 0,
            })
        }
        "WordPiece" => {
            let tidies = decoder
                .get("cleanup")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            let prefix = text_at(decoder, "prefix")?.to_owned();
            Step::WordPiece(WordPiece {
                prefix,
                tidies,
                first: true,
            })
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
            Self::Strip(_) => "Strip",
            Self::Metaspace(_) => "Metaspace",
            Self::WordPiece(_) => "WordPiece",
            Self::Suffix { .. } => "BPEDecoder",
        }
    }

    fn holds_text(&self) -> bool {
        match self {
            Self::ByteLevel { bytes, .. } | Self::ByteFallback { bytes, .. } => !bytes.is_empty(),
            Self::Strip(strip) => strip.held > 0,
            Self::Suffix { held, .. } => held.is_some(),
            _ => false,
        }
    }

    fn push(&mut self, part: Part<'_>, rest: &mut [Self], out: &mut String) {
        let byte = byte_piece(part.text);
        if let (Self::ByteFallback { bytes, .. }, None) = (&mut *self, byte) {
            feed(rest, Part::more(&bytes.finish_bytewise()), out);
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
                let goes_on = std::mem::replace(in_run, byte.is_some()) && byte.is_some();
                let text = byte.map(|byte| bytes.push_bytewise(byte));
                (text.map_or(part.text.into(), Cow::from), !goes_on)
            }
            Self::Replace { pattern, content } => {
                let text = part.text.replace(pattern.as_str(), content);
                (text.into(), part.begins)
            }
            Self::Fuse { first } => (part.text.into(), std::mem::take(first)),
            Self::Strip(strip) => (strip.push(part).into(), part.begins),
            Self::Metaspace(metaspace) => (metaspace.push(part).into(), part.begins),
            Self::WordPiece(word_piece) => (word_piece.push(part.text).into(), true),
            Self::Suffix { suffix, held } => match held.replace(part.text.to_owned()) {
                Some(before) => (before.replace(suffix.as_str(), " ").into(), true),
                None => return,
            },
        };
        feed(
            rest,
            Part {
                begins,
                ..Part::more(&text)
            },
            out,
        );
    }

    fn finish(&mut self, rest: &mut [Self], out: &mut String) {
        let text = match self {
            Self::ByteLevel { bytes, first } => {
                *first = true;
                bytes.finish()
            }
            Self::ByteFallback { bytes, in_run } => {
                *in_run = false;
                bytes.finish_bytewise()
            }
            Self::Suffix { suffix, held } => {
                held.take().unwrap_or_default().replace(suffix.as_str(), "")
            }
            Self::Strip(strip) => {
                (strip.start_left, strip.held) = (strip.start, 0);
                String::new()
            }
            Self::Metaspace(metaspace) => {
                metaspace.pieces = 0;
                String::new()
            }
            Self::Spaced { first }
            | Self::Fuse { first }
            | Self::WordPiece(WordPiece { first, .. }) => {
                *first = true;
                String::new()
            }
            Self::Replace { .. } => String::new(),
        };
        if !text.is_empty() {
            feed(rest, Part::more(&text), out);
        }
    }
}

impl Strip {
    fn push(&mut self, part: Part<'_>) -> String {
        if part.begins {
            (self.start_left, self.held) = (self.start, 0);
        }
        let mut text = String::with_capacity(part.text.len());
        for one in part.text.chars() {
            if one != self.content {
                self.start_left = 0;
                text.extend(std::iter::repeat_n(
                    self.content,
                    std::mem::take(&mut self.held),
                ));
                text.push(one);
            } else if self.start_left > 0 {
                self.start_left -= 1;
            } else if self.held < self.stop {
                self.held += 1;
            } else {
                text.push(one);
            }
        }
        text
    }
}

impl Metaspace {
    fn push(&mut self, part: Part<'_>) -> String {
        self.pieces = (self.pieces + u8::from(part.begins)).min(2);
        let drops = self.drops_first && self.pieces < 2;
        part.text
            .replace(self.replacement, if drops { "" } else { " " })
    }
}

impl WordPiece {
    fn push(&mut self, piece: &str) -> String {
        let text = match piece.strip_prefix(self.prefix.as_str()) {
            _ if std::mem::take(&mut self.first) => piece.to_owned(),
            Some(more) => more.to_owned(),
            None => format!(" {piece}"),
        };
        if self.tidies { tidy(text) } else { text }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(decoder: &Value, pieces: &[&str]) -> String {
        let mut decoding = Decoding::from_json(decoder).unwrap();
        let mut text = String::new();
        // Twice, since the end is also a new beginning.
        for _ in 0..2 {
            text.clear();
            for piece in pieces {
                decoding.push(piece, &mut text);
            }
            decoding.finish(&mut text);
        }
        text
    }

    #[test]
    fn broken_bytes_do_not_take_whole_characters_with_them() {
        let fallback = json!({ "type": "ByteFallback" });
        let check = |pieces: &[&str], expect: &str| {
            assert_eq!(decode(&fallback, pieces), expect, "{pieces:?}");
        };
        check(&["<0xE4>", "<0xB8>", "<0x96>"], "世");
        check(&["<0x0A>", "<0xFF>", "<0x0A>"], "\n\u{FFFD}\n");
        check(&["<0xE4>", "<0xB8>", "a"], "\u{FFFD}\u{FFFD}a");
        check(&["<0xE4>", "<0xB8>", "<0x41>"], "\u{FFFD}\u{FFFD}A");
        check(&["<0xE4>", "<0xC3>", "<0xA9>"], "\u{FFFD}é");
        check(&["<0xF0>", "<0x9F>", "<0x92>"], "\u{FFFD}\u{FFFD}\u{FFFD}");
        check(&["<0xE0>", "<0x80>", "<0x80>"], "\u{FFFD}\u{FFFD}\u{FFFD}");
        check(&["<0x4>", "<0xZZ>", "<0x+1>"], "<0x4><0xZZ>\u{1}");
    }

    #[test]
    fn characters_of_bytes_come_out_at_once() {
        let mut decoding = Decoding::from_json(&json!({ "type": "ByteFallback" })).unwrap();
        let mut text = String::new();
        decoding.push("<0x0A>", &mut text);
        assert_eq!((text.as_str(), decoding.holds_text()), ("\n", false));
        decoding.push("<0xE4>", &mut text);
        assert_eq!((text.as_str(), decoding.holds_text()), ("\n", true));
    }

    #[test]
    fn content_at_the_ends_is_stripped_of_each_piece() {
        let strip = json!({ "type": "Strip", "content": "_", "start": 1, "stop": 2 });
        let fused = json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }, strip] });
        let pieces = ["__a", "_b__", "_", "___"];
        assert_eq!(decode(&strip, &pieces), "_ab");
        assert_eq!(decode(&fused, &pieces), "_a_b____");
        assert_eq!(decode(&fused, &["_"]), "");
    }

    #[test]
    fn unknown_decoders_are_refused_by_name() {
        let check = |decoder: Value, expect: &str| {
            let error = Decoding::from_json(&decoder).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(json!({ "type": "CTC" }), "CTC");
        check(
            json!({ "type": "Replace", "pattern": { "Regex": "x" }, "content": "" }),
            "Replace by a regular expression",
        );
        check(
            json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }, { "type": "ByteFallback" }] }),
            "ByteFallback after the pieces are joined",
        );
        check(
            json!({ "type": "Strip", "content": "ab" }),
            "a decoder whose \"content\" is not one character",
        );
    }
}
