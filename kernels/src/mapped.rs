//! A file mapped into memory, read-only.

use std::fs::File;
use std::io;
use std::path::Path;

/// The bytes of a file, read from disk as they are touched.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a whole file. It must not be changed or cut short while it is mapped: keep it only
    /// as long as it is being read, as a loader of weights does. What is not a regular file is an
    /// error, and is not opened: opening a pipe would wait for its writer.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = File::open(path)?;
        #[expect(
            unsafe_code,
            reason = "memmap2 leaves the contract below to its callers"
        )]
        // SAFETY: the mapping is private and never written through. What could still change the
        // bytes under us is another process writing or cutting the file; the contract above,
        // which every reader of model folders has, excludes it.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Self(map))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_mapped() {
        for path in ["/dev/zero", "/"] {
            let error = MappedFile::open(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file");
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(
            MappedFile::open(&here)
                .unwrap()
                .bytes()
                .starts_with(b"[package]")
        );
    }
}
