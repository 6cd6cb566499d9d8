//! The Runtime Server protocol (`executor.v1`): messages, clients and servers.
//!
//! Owns the wire contract only. Field numbers below 100 in `Runtime` are the
//! public kruntimes contract; `tests/golden.rs` fixes them. What a server must
//! keep beyond the messages is written in `docs/protocol.md`.

/// `executor.v1`: both services and their messages.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("executor.v1");
}

/// The encoded `FileDescriptorSet` of every file of the protocol.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata key of the session chosen by the client in `Authenticate` (32 bytes).
pub const SESSION_KEY: &str = "kruntimes-session-bin";
/// Metadata key of the client's proof (32 bytes, HMAC-SHA256).
pub const PROOF_KEY: &str = "kruntimes-proof-bin";
/// What the server signs in `Authenticate`.
pub const SERVER_CONTEXT: &[u8] = b"kruntimes server";
/// What the client signs for every call after it.
pub const CLIENT_CONTEXT: &[u8] = b"kruntimes client";
/// File names inside the folder shared by `runtimed` and the Runtime Server.
pub const SOCKET_FILE: &str = "server.sock";
/// See [`SOCKET_FILE`].
pub const TOKEN_FILE: &str = "token";
/// Environment variable that names the shared folder.
pub const SOCKET_DIR_ENV: &str = "KRUNTIME_SOCKET_DIR";

/// The socket of a folder, by a name that a socket address has room for (107 bytes, unix(7)) however long the folder's own
/// path is: `/proc/self/fd/N/server.sock`. Of use to this process only, as long as this lives.
#[derive(Debug)]
pub struct SocketName {
    _folder: std::fs::File,
    path: std::path::PathBuf,
}

impl SocketName {
    /// # Errors
    /// When the folder cannot be opened.
    pub fn within(folder: &std::path::Path) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let folder = std::fs::File::open(folder)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd()).into();
        Ok(Self { _folder: folder, path })
    }

    /// To bind or to connect to.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_has_a_name_however_long_its_folder_is() {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("x".repeat(200));
        std::fs::create_dir(&folder).expect("folder");
        assert!(UnixListener::bind(folder.join(SOCKET_FILE)).is_err(), "its own path is too long");
        let _listener =
            UnixListener::bind(SocketName::within(&folder).expect("name").path()).expect("listening");
        assert!(folder.join(SOCKET_FILE).exists());
        let name = SocketName::within(&folder).expect("name");
        UnixStream::connect(name.path()).expect("connected");
    }
}
