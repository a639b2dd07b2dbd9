//! A socket in the file system, for callers on this machine.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A listening socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`. A socket that a process left behind is replaced, one that somebody
    /// listens at and any other file are not.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let left = std::fs::symlink_metadata(path);
        if left.is_ok_and(|left| left.file_type().is_socket()) && UnixStream::connect(path).is_err()
        {
            std::fs::remove_file(path)?;
        }
        Ok(Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Whoever comes next replaces it.
        let _removed = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_at_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(
            UnixSocket::bind(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        UnixSocket::bind(&path).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
