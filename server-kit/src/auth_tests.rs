//! Proofs against an independent computation, the token's file, and wrong callers.

use std::os::unix::fs::symlink;

use tonic::metadata::MetadataValue;

use super::*;

const CLIENT: Secret = [7; SIZE];
const SERVER: Secret = [9; SIZE];

fn with_token(text: &str) -> (tempfile::TempDir, Auth) {
    let directory = tempfile::tempdir().expect("tempdir");
    std::fs::write(directory.path().join(TOKEN_FILE), text).expect("token");
    let auth = Auth::new(directory.path());
    (directory, auth)
}

fn call(session: &[u8], proof: &[u8]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(SESSION_KEY, MetadataValue::from_bytes(session));
    metadata.insert_bin(PROOF_KEY, MetadataValue::from_bytes(proof));
    metadata
}

#[test]
fn both_sides_prove_the_token_and_it_is_gone_from_the_folder() {
    let (directory, auth) = with_token(&format!("{}\n", "0f".repeat(SIZE)));
    let answer = auth.authenticate(&CLIENT, SERVER).expect("opens");
    assert_eq!(answer.proof, proof(&[0x0f; SIZE], SERVER_CONTEXT, &CLIENT, &SERVER));
    assert!(!directory.path().join(TOKEN_FILE).exists());
    let right = proof(&[0x0f; SIZE], CLIENT_CONTEXT, &CLIENT, &SERVER);
    assert_ne!(right, answer.proof, "the server's proof is not the client's");
    assert_eq!(auth.check(&call(&CLIENT, &right)), Ok(()));
    assert_eq!(auth.check(&call(&CLIENT, &answer.proof)), Err(AuthError::Proof));
    assert_eq!(auth.check(&call(&SERVER, &right)), Err(AuthError::Proof));
    assert_eq!(auth.check(&call(&CLIENT, &right[..31])), Err(AuthError::Proof));
    assert_eq!(auth.check(&MetadataMap::new()), Err(AuthError::NoSession));
    auth.authenticate(&[8; SIZE], SERVER).expect("the token stays known");
}

/// HMAC-SHA256 as RFC 4231, test case 2, computes it: the primitive is wired up right.
#[test]
fn the_proof_is_hmac_sha256() {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").expect("key");
    mac.update(b"what do ya want for nothing?");
    let bytes = mac.finalize().into_bytes();
    assert_eq!(bytes[..4], [0x5b, 0xdc, 0xc1, 0x46]);
}

#[test]
fn a_fresh_token_ends_older_sessions() {
    let (directory, auth) = with_token(&"11".repeat(SIZE));
    auth.authenticate(&CLIENT, SERVER).expect("opens");
    let old = proof(&[0x11; SIZE], CLIENT_CONTEXT, &CLIENT, &SERVER);
    std::fs::write(directory.path().join(TOKEN_FILE), "22".repeat(SIZE)).expect("token");
    auth.authenticate(&[8; SIZE], SERVER).expect("opens");
    assert_eq!(auth.check(&call(&CLIENT, &old)), Err(AuthError::Proof));
}

#[test]
fn sessions_are_bounded() {
    let (_directory, auth) = with_token(&"11".repeat(SIZE));
    let session = |index: usize| {
        let mut nonce = [0; SIZE];
        nonce[0] = u8::try_from(index).expect("small");
        nonce
    };
    for index in 0..=SESSIONS {
        auth.authenticate(&session(index), SERVER).expect("opens");
    }
    let right = |index| proof(&[0x11; SIZE], CLIENT_CONTEXT, &session(index), &SERVER);
    assert_eq!(auth.check(&call(&session(0), &right(0))), Err(AuthError::Proof), "the oldest made room");
    assert_eq!(auth.check(&call(&session(1), &right(1))), Ok(()));
}

#[test]
fn what_is_no_token_is_not_taken() {
    for text in ["", "0f", &"zz".repeat(SIZE), &"0f".repeat(SIZE + 1), &"+f".repeat(SIZE)] {
        let (_directory, auth) = with_token(text);
        assert_eq!(auth.authenticate(&CLIENT, SERVER), Err(AuthError::NoToken), "{text:?}");
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let auth = Auth::new(directory.path());
    assert_eq!(auth.authenticate(&CLIENT, SERVER), Err(AuthError::NoToken));
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "0f".repeat(SIZE)).expect("file");
    symlink(&elsewhere, directory.path().join(TOKEN_FILE)).expect("link");
    assert_eq!(auth.authenticate(&CLIENT, SERVER), Err(AuthError::NoToken), "no link is followed");
    assert_eq!(auth.authenticate(b"short", SERVER), Err(AuthError::Nonce));
}

#[test]
fn a_descendant_is_refused_and_others_are_not() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
    let pid = child.id().cast_signed();
    assert!(is_own_run(Some(pid)));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert!(is_own_run(Some(pid)), "gone, so unknown");
    assert!(!is_own_run(Some(Pid::parent().as_raw())));
    assert!(!is_own_run(Some(0)), "of another PID namespace");
    assert!(!is_own_run(None));
}
