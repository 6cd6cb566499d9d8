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
