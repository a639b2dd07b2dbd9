//! Characters from bytes that come in any pieces.

/// Bytes that begin a character whose rest has not come: at most three.
#[derive(Debug, Clone, Default)]
pub(super) struct Utf8Tail(Vec<u8>);

impl Utf8Tail {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends bytes and takes all characters that are whole; bytes that can never become one are U+FFFD,
    /// one for each longest beginning of a character, as `String::from_utf8_lossy` has it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
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
    pub(super) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0.clear();
        text
    }

    /// As [`Self::push`], but U+FFFD for each byte that belongs to no character.
    pub(super) fn push_bytewise(&mut self, byte: u8) -> String {
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
    pub(super) fn finish_bytewise(&mut self) -> String {
        let bytes = std::mem::take(&mut self.0);
        std::iter::repeat_n(char::REPLACEMENT_CHARACTER, bytes.len()).collect()
    }
}

/// Whether these bytes are a true beginning of a character that more bytes can complete.
fn may_go_on(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
}
