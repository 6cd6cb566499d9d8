//! Mutual proof of the shared token; the formulas are in `events.proto`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use kruntimes_proto::{CLIENT_CONTEXT, PROOF_KEY, SERVER_CONTEXT, SESSION_KEY, TOKEN_FILE, v1};
use sha2::Sha256;
use tonic::metadata::{Binary, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::Channel;

use super::{CALL_LIMIT, CallError, bounded};

/// The secret of one start of this program (or newer, after a refusal). Never logged, never sent.
pub(super) struct Token([u8; 32]);

impl Token {
    /// Makes a token and leaves it for the server in `dir`.
    pub(super) fn write_new(dir: &Path) -> io::Result<Self> {
        let token: [u8; 32] = rand::random();
        let staged = dir.join(format!(".{TOKEN_FILE}.{}", std::process::id()));
        // A leftover of an earlier process with our id would make `create_new` fail for ever.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(hex(&token).as_bytes())?;
        drop(file);
        fs::rename(&staged, dir.join(TOKEN_FILE))?;
        Ok(Self(token))
    }

    fn sign(&self, context: &[u8], client: &[u8], server: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(context);
        mac.update(client);
        mac.update(server);
        Some(mac)
    }
}

/// Adds the proof to every call; nothing over plain TCP.
#[derive(Clone, Default)]
pub struct Proof(Option<(MetadataValue<Binary>, MetadataValue<Binary>)>);

impl Interceptor for Proof {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some((session, proof)) = &self.0 {
            request.metadata_mut().insert_bin(SESSION_KEY, session.clone());
            request.metadata_mut().insert_bin(PROOF_KEY, proof.clone());
        }
        Ok(request)
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The server does not know our token: it restarted, or we did.
    #[error("the server does not know the token")]
    Unknown,
    /// It answered without knowing the token: somebody poses as the server.
    #[error("the server could not prove that it knows the token")]
    Impostor,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Proves both sides to each other.
pub(super) async fn authenticate(channel: Channel, token: &Token) -> Result<Proof, AuthError> {
    let nonce: [u8; 32] = rand::random();
    let mut rpc = v1::runtime_events_client::RuntimeEventsClient::new(channel);
    let request = v1::AuthenticateRequest { client_nonce: nonce.to_vec() };
    let answer = match bounded("Authenticate", CALL_LIMIT, rpc.authenticate(request)).await {
        Ok(answer) => answer,
        Err(error) if error.answered && error.code == tonic::Code::Unauthenticated => {
            return Err(AuthError::Unknown);
        }
        Err(error) => return Err(error.into()),
    };
    let server = &answer.server_nonce;
    let theirs = token.sign(SERVER_CONTEXT, &nonce, server).ok_or(AuthError::Impostor)?;
    if server.len() != 32 || theirs.verify_slice(&answer.server_proof).is_err() {
        return Err(AuthError::Impostor);
    }
    let ours = token.sign(CLIENT_CONTEXT, &nonce, server).ok_or(AuthError::Impostor)?;
    let proof = MetadataValue::from_bytes(&ours.finalize().into_bytes());
    Ok(Proof(Some((MetadataValue::from_bytes(&nonce), proof))))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
