//! How a tokenizer's pieces become text: the `decoder` part of a tokenizer.json, as steps that never look back.
//!
//! A step takes pieces one by one and hands on what is final. So decoding a growing sequence costs the same
//! as decoding it once, and gives the same text wherever it is cut.
//!
//! The text equals that of the `tokenizers` library, with one deliberate difference: `ByteFallback` there
//! gives up the whole run of byte pieces when any byte of it is not UTF-8, so nothing of a run would be
//! final before its end, and a model that writes line breaks as bytes could not be stopped at one. Here
//! whole characters are handed on at once, and each byte that belongs to none becomes U+FFFD.

mod read;

use std::borrow::Cow;

use serde_json::Value;
use thiserror::Error;

use super::utf8::Utf8Tail;

/// The steps from pieces to text, in their state before the first piece.
#[derive(Debug, Clone)]
pub struct Decoding {
    steps: Vec<Step>,
    /// How many of the first steps are done by [`Self::prepare`] alone.
    prepared: usize,
}

/// A piece to which all is done that does not depend on its neighbours. See [`Decoding::prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared<'a> {
    bytes: Cow<'a, [u8]>,
    kind: Kind,
}

/// What the bytes of a prepared piece are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole characters.
    Text,
    /// Bytes of which characters are made together with those of other pieces.
    Bytes,
}

/// Characters that a step may cut from an end of a piece.
pub(super) const STRIP_MAX: usize = 16;

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
    /// A suffix ends a word. At the end of a piece it waits for the next one: in the last it is no space.
    Suffix {
        suffix: String,
        held: String,
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
        let steps = read::steps(decoder)?;
        let alone = |step: &&Step| matches!(step, Step::Replace { .. });
        let prepared = steps.iter().take_while(alone).count();
        Ok(Self { steps, prepared })
    }

    /// Does to a piece what depends on it alone. It is the same in every state.
    pub fn prepare<'a>(&self, piece: &'a str) -> Prepared<'a> {
        let (alone, rest) = self.steps.split_at(self.prepared);
        let mut text = Cow::Borrowed(piece);
        for step in alone {
            if let Step::Replace { pattern, content } = step {
                text = text.replace(pattern.as_str(), content).into();
            }
        }
        let bytes = match rest.first() {
            Some(Step::ByteLevel { .. }) => {
                let bytes = unprintable(&text);
                Some(bytes.unwrap_or_else(|| text.as_bytes().to_vec()))
            }
            Some(Step::ByteFallback { .. }) => byte_piece(&text).map(|byte| vec![byte]),
            _ => None,
        };
        match (bytes, text) {
            (Some(bytes), _) => Prepared::new(Kind::Bytes, bytes),
            (None, Cow::Borrowed(text)) => Prepared::new(Kind::Text, text.as_bytes()),
            (None, Cow::Owned(text)) => Prepared::new(Kind::Text, text.into_bytes()),
        }
    }

    /// Takes one whole piece and appends what has become final to `out`. Allocates nothing but for `out`
    /// where the decoder is that of a Llama, GPT-2 or one like them.
    pub fn push(&mut self, piece: &Prepared<'_>, out: &mut String) {
        let steps = &mut self.steps[self.prepared..];
        let bytes = &piece.bytes;
        match (steps.split_first_mut(), piece.kind) {
            (Some((Step::ByteLevel { bytes: tail, first }, rest)), Kind::Bytes) => {
                push_bytes(tail, bytes, first, rest, out);
            }
            (
                Some((
                    Step::ByteFallback {
                        bytes: tail,
                        in_run,
                    },
                    rest,
                )),
                Kind::Bytes,
            ) => {
                for &byte in &**bytes {
                    push_byte(tail, byte, in_run, rest, out);
                }
            }
            _ => {
                let text = String::from_utf8_lossy(bytes);
                feed(steps, Part::whole(&text), out);
            }
        }
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

impl<'a> Prepared<'a> {
    pub(super) fn new(kind: Kind, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            bytes: bytes.into(),
            kind,
        }
    }

    /// The same without a borrow.
    pub fn into_owned(self) -> Prepared<'static> {
        Prepared::new(self.kind, self.bytes.into_owned())
    }

    /// What is left of the piece: text, or bytes of characters.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl<'a> Part<'a> {
    /// One piece.
    fn whole(text: &'a str) -> Self {
        Self { text, begins: true }
    }

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

/// Bytes of a byte-level piece. All of them together are one piece.
fn push_bytes(
    tail: &mut Utf8Tail,
    bytes: &[u8],
    first: &mut bool,
    rest: &mut [Step],
    out: &mut String,
) {
    if rest.is_empty() {
        *first = false;
        tail.push(bytes, |text| out.push_str(text));
        return;
    }
    tail.push(bytes, |text| {
        let begins = std::mem::take(first);
        feed(rest, Part { text, begins }, out);
    });
}

/// A byte piece. A run of them is one piece.
fn push_byte(
    tail: &mut Utf8Tail,
    byte: u8,
    in_run: &mut bool,
    rest: &mut [Step],
    out: &mut String,
) {
    if !std::mem::replace(in_run, true) {
        feed(rest, Part::whole(""), out);
    }
    tail.push_bytewise(byte, |text| feed(rest, Part::more(text), out));
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
            Self::Suffix { held, .. } => !held.is_empty(),
            _ => false,
        }
    }

    fn push(&mut self, part: Part<'_>, rest: &mut [Self], out: &mut String) {
        let (text, begins): (Cow<'_, str>, bool) = match self {
            Self::Spaced { first } => {
                let space = if std::mem::take(first) { "" } else { " " };
                feed(rest, Part::whole(space), out);
                (part.text.into(), false)
            }
            Self::ByteLevel { bytes, first } => {
                let raw = unprintable(part.text);
                let raw = raw.as_deref().unwrap_or(part.text.as_bytes());
                return push_bytes(bytes, raw, first, rest, out);
            }
            Self::ByteFallback { bytes, in_run } => {
                if let Some(byte) = byte_piece(part.text) {
                    return push_byte(bytes, byte, in_run, rest, out);
                }
                *in_run = false;
                bytes.finish_bytewise(|text| feed(rest, Part::more(text), out));
                (part.text.into(), true)
            }
            Self::Replace { pattern, content } if part.text.contains(pattern.as_str()) => {
                let text = part.text.replace(pattern.as_str(), content);
                (text.into(), part.begins)
            }
            Self::Replace { .. } => (part.text.into(), part.begins),
            Self::Fuse { first } => (part.text.into(), std::mem::take(first)),
            Self::Strip(strip) => (strip.push(part), part.begins),
            Self::Metaspace(metaspace) => (metaspace.push(part).into(), part.begins),
            Self::WordPiece(word_piece) => (word_piece.push(part.text).into(), true),
            Self::Suffix { suffix, held } => {
                let before = held.replace(suffix.as_str(), " ");
                feed(rest, Part::more(&before), out);
                let certain = part.text.find(suffix.as_str()).unwrap_or(part.text.len());
                part.text[certain..].clone_into(held);
                (part.text[..certain].into(), true)
            }
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
        let mut give = |text: &str| feed(rest, Part::more(text), out);
        match self {
            Self::ByteLevel { bytes, first } => {
                *first = true;
                bytes.finish(give);
            }
            Self::ByteFallback { bytes, in_run } => {
                *in_run = false;
                bytes.finish_bytewise(give);
            }
            Self::Suffix { suffix, held } => {
                give(&std::mem::take(held).replace(suffix.as_str(), ""));
            }
            Self::Strip(strip) => (strip.start_left, strip.held) = (strip.start, 0),
            Self::Metaspace(metaspace) => metaspace.pieces = 0,
            Self::Spaced { first }
            | Self::Fuse { first }
            | Self::WordPiece(WordPiece { first, .. }) => *first = true,
            Self::Replace { .. } => {}
        }
    }
}

impl Strip {
    fn push<'a>(&mut self, part: Part<'a>) -> Cow<'a, str> {
        if part.begins {
            (self.start_left, self.held) = (self.start, 0);
        }
        // A Llama's whole text but its first character.
        if (self.start_left, self.stop) == (0, 0) {
            return part.text.into();
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
        text.into()
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
                decoding.push(&decoding.prepare(piece).into_owned(), &mut text);
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
        decoding.push(&decoding.prepare("<0x0A>"), &mut text);
        assert_eq!((text.as_str(), decoding.holds_text()), ("\n", false));
        decoding.push(&decoding.prepare("<0xE4>"), &mut text);
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
        // A run of byte pieces is one piece.
        let start = json!({ "type": "Strip", "content": "_", "start": 1, "stop": 0 });
        let bytes = json!({ "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, start] });
        let pieces = ["<0x5F>", "<0x5F>", "a", "<0x5F>", "b"];
        assert_eq!(decode(&bytes, &pieces), "_ab");
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
        let replace = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "String": pattern }, "content": content });
        let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "decoders": steps });
        check(sequence(vec![replace("▁", " "); 17]), "more than 16 steps");
        let growth = "Replace makes text more than 8 times longer";
        check(sequence(vec![replace("a", "aa"); 4]), growth);
        check(replace("a", "123456789"), growth);
        assert!(Decoding::from_json(&sequence(vec![replace("a", "aa"); 3])).is_ok());
        check(
            json!({ "type": "Strip", "content": "_", "start": 17, "stop": 0 }),
            "Strip of more than 16 characters",
        );
        check(
            json!({ "type": "Strip", "content": "ab" }),
            "a decoder whose \"content\" is not one character",
        );
    }
}
