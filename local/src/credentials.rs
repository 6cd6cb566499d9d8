//! The platform's token and certificate: made once, kept in a file that only its user can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot keep the credentials in {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the credentials in {path} do not parse (remove the file to get new ones): {why}")]
    Parse { path: String, why: String },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What proves a client to the platform, and the platform to a client.
///
/// Stock clients send a bearer token over TLS only, hence the certificate; it is its own authority.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub token: String,
    certificate: String,
    key: String,
}

impl Credentials {
    /// Reads them from `path`, or makes them and writes them there (mode 0600).
    ///
    /// # Errors
    /// When the file cannot be read, written or understood.
    pub fn load_or_make(path: &Path) -> Result<Self, CredentialsError> {
        let shown = || path.display().to_string();
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| CredentialsError::Parse { path: shown(), why: e.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self::make()?;
                write_private(path, json!(made).to_string().as_bytes())
                    .map_err(|source| CredentialsError::File { path: shown(), source })?;
                Ok(made)
            }
            Err(source) => Err(CredentialsError::File { path: shown(), source }),
        }
    }

    fn make() -> Result<Self, CredentialsError> {
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)?;
        let token: [u8; 32] = rand::random();
        Ok(Self {
            token: token.iter().map(|b| format!("{b:02x}")).collect(),
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }

    /// The server's side of TLS.
    ///
    /// # Errors
    /// When the kept certificate or key is damaged.
    pub fn acceptor(&self) -> Result<TlsAcceptor, CredentialsError> {
        let parse = |why: String| CredentialsError::Parse { path: "the credentials file".into(), why };
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let certificate = certificate.map_err(|e| parse(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| parse(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_no_client_auth().with_single_cert(vec![certificate], key))
            .map_err(|e| parse(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// A kubeconfig for the platform at `address`, with `namespace` as its default one.
    pub fn kubeconfig(&self, address: std::net::SocketAddr, namespace: &str) -> Value {
        let name = "kruntimes-local";
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": STANDARD.encode(&self.certificate),
            }}],
            "users": [{"name": name, "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        })
    }
}

/// Writes a file that only its owner can read, by rename, so that nobody sees half of it.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}
