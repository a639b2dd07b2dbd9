//! Characters from bytes that come in any pieces.

/// The beginning of a character whose rest has not come: at most three bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Utf8Tail {
    bytes: [u8; 4],
    len: u8,
}

/// What stands for bytes that are no character.
const REPLACEMENT: &str = "\u{FFFD}";

impl Utf8Tail {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes bytes and gives all characters that are whole; bytes that can never become one are U+FFFD,
    /// one for each longest beginning of a character, as `String::from_utf8_lossy` has it.
    pub(super) fn push(&mut self, bytes: &[u8], mut give: impl FnMut(&str)) {
        let bytes = self.complete(bytes, &mut give);
        if let Ok(text) = std::str::from_utf8(bytes) {
            give(text);
            return;
        }
        let mut left = bytes.len();
        for chunk in bytes.utf8_chunks() {
            give(chunk.valid());
            let invalid = chunk.invalid();
            left -= chunk.valid().len() + invalid.len();
            if left == 0 && may_go_on(invalid) {
                self.keep(invalid);
            } else if !invalid.is_empty() {
                give(REPLACEMENT);
            }
        }
    }

    /// The end: an unfinished character is one U+FFFD.
    pub(super) fn finish(&mut self, mut give: impl FnMut(&str)) {
        if std::mem::take(&mut self.len) > 0 {
            give(REPLACEMENT);
        }
    }

    /// As [`Self::push`], but U+FFFD for each byte that belongs to no character.
    pub(super) fn push_bytewise(&mut self, byte: u8, mut give: impl FnMut(&str)) {
        if self.go_on(byte, &mut give) {
            return;
        }
        // The bytes before were the beginning of a character that this byte does not go on with.
        self.finish_bytewise(&mut give);
        if !self.go_on(byte, &mut give) {
            give(REPLACEMENT);
        }
    }

    /// As [`Self::finish`], but U+FFFD for each byte.
    pub(super) fn finish_bytewise(&mut self, mut give: impl FnMut(&str)) {
        for _ in 0..std::mem::take(&mut self.len) {
            give(REPLACEMENT);
        }
    }

    /// Ends the character that waits, if there is one, and answers the bytes that are not part of it.
    fn complete<'a>(&mut self, mut bytes: &'a [u8], give: &mut impl FnMut(&str)) -> &'a [u8] {
        while let (false, Some((&byte, rest))) = (self.is_empty(), bytes.split_first()) {
            if self.go_on(byte, give) {
                bytes = rest;
            } else {
                self.finish(&mut *give);
            }
        }
        bytes
    }

    /// Takes the next byte of a character and gives it when it is whole. Answers whether the byte was one.
    fn go_on(&mut self, byte: u8, give: &mut impl FnMut(&str)) -> bool {
        let before = usize::from(self.len);
        self.bytes[before] = byte;
        let bytes = &self.bytes[..=before];
        match std::str::from_utf8(bytes) {
            Ok(character) => {
                give(character);
                self.len = 0;
                true
            }
            Err(_) if may_go_on(bytes) => {
                self.len += 1;
                true
            }
            Err(_) => false,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.len = bytes.len() as u8;
    }
}

/// Whether these bytes are a true beginning of a character that more bytes can complete.
fn may_go_on(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples;
    use super::*;

    proptest! {
        #![proptest_config(samples::same_cases())]

        #[test]
        fn bytes_in_any_pieces_give_what_they_give_together(
            pieces in prop::collection::vec(
                prop::collection::vec(prop_oneof![
                    Just(b'a'), Just(0xE4), Just(0xB8), Just(0x96), Just(0xF0), Just(0xC3), Just(0xED), Just(0xA0), any::<u8>(),
                ], 0..6), 0..8),
        ) {
            let bytes = pieces.concat();
            let (mut tail, mut text) = (Utf8Tail::default(), String::new());
            for piece in &pieces {
                tail.push(piece, |part| text.push_str(part));
                prop_assert!(String::from_utf8_lossy(&bytes).starts_with(&text));
            }
            tail.finish(|part| text.push_str(part));
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));

            // Bytewise: as many U+FFFD as there are bytes beside characters.
            let (mut tail, mut text) = (Utf8Tail::default(), String::new());
            for &byte in &bytes {
                tail.push_bytewise(byte, |part| text.push_str(part));
            }
            tail.finish_bytewise(|part| text.push_str(part));
            let expect: String = bytes.utf8_chunks()
                .map(|chunk| chunk.valid().to_owned() + &REPLACEMENT.repeat(chunk.invalid().len()))
                .collect();
            prop_assert_eq!(text, expect);
        }
    }
}
