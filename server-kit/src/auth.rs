//! Who may call: proof of the token that `runtimed` left in the shared folder.
//!
//! The token itself never travels. `Authenticate` takes a client nonce and answers a server nonce
//! and the server's proof; each later call carries the client's. See `events.proto` for the formulas.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use kruntimes_proto::{CLIENT_CONTEXT, PROOF_KEY, SERVER_CONTEXT, SESSION_KEY, TOKEN_FILE};
use nix::unistd::Pid;
use sha2::Sha256;
use tonic::metadata::MetadataMap;

use crate::supervisor::parent_of;

/// Nonces, tokens and proofs.
const SIZE: usize = 32;
type Secret = [u8; SIZE];

/// Sessions kept at most; the oldest makes room.
const SESSIONS: usize = 64;

/// Why a call is not let in. All of them are `UNAUTHENTICATED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("no token was left in the shared folder yet")]
    NoToken,
    #[error("client_nonce must be {SIZE} bytes")]
    Nonce,
    #[error("the call carries no session; authenticate first")]
    NoSession,
    #[error("the session is not known or its proof is wrong; authenticate again")]
    Proof,
}

/// What the server answers to Authenticate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub nonce: Secret,
    pub proof: Secret,
}

/// The token, and the sessions that proved it.
#[derive(Debug)]
pub(crate) struct Auth {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Secret>,
    sessions: VecDeque<(Secret, Secret)>,
}

impl Auth {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: Mutex::default() }
    }

    /// Opens a session. Takes a fresh token from the folder when there is one, and removes it there.
    pub(crate) fn authenticate(&self, client_nonce: &[u8], nonce: Secret) -> Result<Answer, AuthError> {
        let client: Secret = client_nonce.try_into().map_err(|_| AuthError::Nonce)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = take_token(&self.directory.join(TOKEN_FILE)) {
            // Whoever wrote it is the runtimed of now: sessions of an older one end.
            state.sessions.clear();
            state.token = Some(fresh);
        }
        let token = state.token.ok_or(AuthError::NoToken)?;
        let expected = proof(&token, CLIENT_CONTEXT, &client, &nonce);
        state.sessions.retain(|(session, _)| *session != client);
        if state.sessions.len() >= SESSIONS {
            state.sessions.pop_front();
        }
        state.sessions.push_back((client, expected));
        Ok(Answer { nonce, proof: proof(&token, SERVER_CONTEXT, &client, &nonce) })
    }

    /// Checks the proof that a call carries.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<(), AuthError> {
        let bytes = |key| metadata.get_bin(key).and_then(|value| value.to_bytes().ok());
        let (Some(session), Some(given)) = (bytes(SESSION_KEY), bytes(PROOF_KEY)) else {
            return Err(AuthError::NoSession);
        };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.sessions.iter().find(|(known, _)| known.as_slice() == &*session);
        match known {
            Some((_, expected)) if same(expected, &given) => Ok(()),
            _ => Err(AuthError::Proof),
        }
    }
}

/// Compares without telling by its time where the difference is.
fn same(expected: &Secret, given: &[u8]) -> bool {
    let Ok(given) = <&Secret>::try_from(given) else { return false };
    let difference = expected.iter().zip(given).fold(0u8, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn proof(token: &Secret, context: &[u8], client: &Secret, server: &Secret) -> Secret {
    // A key of any length is accepted; this one is 32 bytes.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(token) else { return [0; SIZE] };
    mac.update(context);
    mac.update(client);
    mac.update(server);
    mac.finalize().into_bytes().into()
}

/// Reads a token of 64 hex digits and removes its file. Anything else in its place is left alone.
fn take_token(path: &Path) -> Option<Secret> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        tracing::warn!(path = %path.display(), "the token is not a regular file");
        return None;
    }
    let mut text = String::new();
    file.take(2 * SIZE as u64 + 2).read_to_string(&mut text).ok()?;
    let token = from_hex(text.trim_end());
    if token.is_none() {
        tracing::warn!(path = %path.display(), "the token is not {} hex digits", 2 * SIZE);
    } else if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "the token could not be removed");
    }
    token
}

fn from_hex(text: &str) -> Option<Secret> {
    let mut secret = [0; SIZE];
    if text.len() != 2 * SIZE || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(secret)
}

/// Whether a caller descends from this server: only a process of a Run does. A caller of another
/// PID namespace (the usual `runtimed`) has no number here, or one that does not lead to us.
pub(crate) fn is_own_run(peer: Option<i32>) -> bool {
    let own = Pid::this();
    let Some(mut pid) = peer.filter(|pid| *pid > 0).map(Pid::from_raw) else { return false };
    // The caller may be the process that runs the server, in a test; never a child of it.
    while pid.as_raw() > 1 {
        match parent_of(pid) {
            Some(parent) if parent != own => pid = parent,
            // Or it is gone already: nobody waits for an answer.
            _ => return true,
        }
    }
    false
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
