//! What each token id gives to a text, made once at load: looking it up allocates nothing.

use super::decoding::{Kind, Prepared};
use super::tokenizer::TokenizerLoadError;

/// One entry for each id.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// The bytes of all entries, one after the other.
    bytes: Vec<u8>,
    /// Where in `bytes` each entry ends; the one before it ends where it begins.
    ends: Vec<u32>,
    kinds: Vec<Entry>,
}

/// What an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// No token.
    Unknown,
    /// A control token, which gives no text.
    Control,
    Piece(Kind),
}

/// Ids a vocabulary may have; published ones have at most some 300,000.
pub(super) const IDS_MAX: usize = 1 << 22;
/// Bytes of one prepared entry; published ones have a few hundred.
pub(super) const PIECE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all entries.
const BYTES_MAX: usize = 256 << 20;

impl Vocabulary {
    /// Adds the next id: a token with text, or none.
    pub(super) fn push(&mut self, piece: Option<Prepared<'_>>) -> Result<(), TokenizerLoadError> {
        let Some(piece) = piece else {
            self.end(Entry::Unknown);
            return Ok(());
        };
        let id = self.ends.len();
        let bytes = piece.bytes();
        if bytes.len() > PIECE_BYTES_MAX {
            let message = format!("token {id} has more than {PIECE_BYTES_MAX} bytes");
            return Err(TokenizerLoadError::Limit(message));
        }
        if self.bytes.len() + bytes.len() > BYTES_MAX {
            let message = format!("all tokens together have more than {BYTES_MAX} bytes");
            return Err(TokenizerLoadError::Limit(message));
        }
        self.bytes.extend_from_slice(bytes);
        self.end(Entry::Piece(piece.kind()));
        Ok(())
    }

    /// Adds the next id: a control token.
    pub(super) fn push_control(&mut self) {
        self.end(Entry::Control);
    }

    fn end(&mut self, entry: Entry) {
        // `BYTES_MAX` fits in 32 bits.
        self.ends.push(self.bytes.len() as u32);
        self.kinds.push(entry);
    }

    /// How many ids there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the id is a control token.
    pub(super) fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Entry::Control)
    }

    /// What the id gives to a text: nothing if it is a control token or unknown.
    pub(super) fn prepared(&self, id: u32) -> Option<Prepared<'_>> {
        let id = id as usize;
        let Entry::Piece(kind) = *self.kinds.get(id)? else {
            return None;
        };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        let bytes = &self.bytes[start as usize..self.ends[id] as usize];
        Some(Prepared::new(kind, bytes))
    }
}
