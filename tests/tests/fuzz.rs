//! Replays the corpora of the fuzzers in `fuzz/`, and changes of them that are the same in every run.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

/// Bytes on which something depends in one of the formats.
const ODD: &[u8] = &[0, 0x7f, 0x80, 0xff, b'"', b'{'];
/// Changed inputs for each input of a corpus.
const CHANGES: usize = 20_000;

/// Every fuzzer: its name, and what takes the bytes.
fn targets() -> impl Iterator<Item = &'static (&'static str, fn(&[u8]))> {
    let targets = [
        server::fuzz::TARGETS,
        models::fuzz::TARGETS,
        hub::fuzz::TARGETS,
    ];
    targets.into_iter().flatten()
}

/// The inputs of a fuzzer.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = std::fs::read_dir(&folder).expect("a corpus");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a file"))
        .collect()
}

/// Numbers that look like chance and are always the same (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).expect("64 bits") % bound.max(1)
    }

    /// A copy with one to four changes: a bit, a byte, a cut, a repetition, or a part of another input.
    fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = ODD[self.below(ODD.len())],
                2 => bytes.truncate(at),
                3 => {
                    let part = bytes[at..bytes.len().min(at + 8)].repeat(1 + self.below(16));
                    bytes.splice(at..at, part);
                }
                _ => {
                    let from = self.below(other.len());
                    let to = from + self.below(other.len() - from);
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
        bytes
    }
}

#[test]
fn hostile_bytes_are_answered() {
    for (name, target) in targets() {
        let corpus = corpus(name);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for input in &corpus {
            target(input);
            for _ in 0..CHANGES {
                let other = &corpus[numbers.below(corpus.len())];
                let changed = numbers.change(input, other);
                let answered = std::panic::catch_unwind(|| target(&changed));
                assert!(
                    answered.is_ok(),
                    "{name}: {:?}",
                    changed.escape_ascii().to_string()
                );
            }
        }
    }
}

#[test]
fn every_fuzzer_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let files = std::fs::read_dir(folder).expect("the fuzzers").map(|file| {
        let path = file.expect("an entry").path();
        path.file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    });
    let mut files: Vec<String> = files.collect();
    files.sort();
    let mut names: Vec<&str> = targets().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(files, names);
}
