//! The files of models' tokenizers, as they are handed out: each is read once and cut lazily, so
//! that what a call costs in memory is one part.

use std::sync::Arc;

use futures_util::stream::{self, Stream};
use proto::v1;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::registry::{Registry, Served};
use crate::status::Fault;

/// The files that are handed out.
const FILES: [&str; 3] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// Bytes of one part of a file.
const PART_BYTES_MAX: usize = 256 << 10;
/// Calls that are answered at once.
pub(crate) const CALLS_MAX: usize = 8;

/// One file, whole.
#[derive(Debug)]
struct File {
    name: &'static str,
    text: String,
}

/// The files of one model.
type Files = Arc<[File]>;

/// The files of every model, each read when it is first asked for.
#[derive(Debug)]
pub(crate) struct TokenizerFiles {
    models: Vec<(String, OnceCell<Files>)>,
    calls: Arc<Semaphore>,
}

impl TokenizerFiles {
    /// Nothing is read yet.
    pub(crate) fn new(registry: &Registry) -> Self {
        let name = |model: &Served| (model.name().to_owned(), OnceCell::new());
        Self {
            models: registry.models().iter().map(name).collect(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// The parts of a model's files, in order.
    pub(crate) async fn parts(
        &self,
        model: &Served,
    ) -> Result<impl Stream<Item = Result<v1::GetTokenizerResponse, Status>> + use<>, Fault> {
        let call = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            Fault::queue_full(format!("{CALLS_MAX} calls of GetTokenizer run already"))
        })?;
        let cell = self.models.iter().find(|(name, _)| name == model.name());
        let Some((_, cell)) = cell else {
            return Err(Fault::panic());
        };
        let files = cell.get_or_try_init(|| read(model.clone())).await?;
        let cursor = Cursor {
            files: Arc::clone(files),
            file: 0,
            offset: 0,
            _call: call,
        };
        Ok(stream::unfold(cursor, |mut cursor| async move {
            let part = cursor.next()?;
            Some((Ok(part), cursor))
        }))
    }
}

async fn read(model: Served) -> Result<Files, Fault> {
    let read = tokio::task::spawn_blocking(move || {
        let file = |name| {
            let bytes = (model.text().files)(name)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Some(File { name, text })
        };
        FILES.into_iter().filter_map(file).collect()
    });
    read.await.map_err(|_| Fault::panic())
}

/// Where one call is in its files.
struct Cursor {
    files: Files,
    file: usize,
    offset: usize,
    _call: OwnedSemaphorePermit,
}

impl Cursor {
    /// The next part, cut between characters.
    fn next(&mut self) -> Option<v1::GetTokenizerResponse> {
        loop {
            let file = self.files.get(self.file)?;
            let rest = &file.text[self.offset..];
            if rest.is_empty() {
                (self.file, self.offset) = (self.file + 1, 0);
                continue;
            }
            let part = &rest[..rest.floor_char_boundary(PART_BYTES_MAX)];
            self.offset += part.len();
            return Some(v1::GetTokenizerResponse {
                file: file.name.to_owned(),
                text: part.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_between_characters_and_make_up_their_files() {
        let file = |name, text: &str| File {
            name,
            text: text.to_owned(),
        };
        let long = "ü".repeat(PART_BYTES_MAX);
        let permits = Arc::new(Semaphore::new(1));
        let mut cursor = Cursor {
            files: [
                file("a", &format!("x{long}")),
                file("b", ""),
                file("c", "y"),
            ]
            .into(),
            file: 0,
            offset: 0,
            _call: permits.try_acquire_owned().unwrap(),
        };
        let parts: Vec<_> = std::iter::from_fn(|| cursor.next()).collect();
        let sizes: Vec<usize> = parts.iter().map(|part| part.text.len()).collect();
        assert_eq!(sizes, [PART_BYTES_MAX - 1, PART_BYTES_MAX, 2, 1]);
        let first: String = parts[..3].iter().map(|part| part.text.as_str()).collect();
        assert_eq!(first, format!("x{long}"));
        assert_eq!((parts[2].file.as_str(), parts[3].file.as_str()), ("a", "c"));
    }
}
