//! Certificates, keys and tokens of one node: made anew each time, worth nothing once it is down.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::process::write;

/// Every name under which the API server is reached: from the host and the node, from its components, from Pods.
const NAMES: [&str; 6] =
    ["127.0.0.1", "localhost", "10.88.0.1", "10.96.0.1", "kubernetes.default", "kubernetes.default.svc"];

/// Makes `pki/` (`ca.crt server.crt server.key sa.key sa.pub tokens.csv`) and `kubeconfig` in a folder.
pub fn make(folder: &Path, port: u16) -> Result<()> {
    let pki = folder.join("pki");
    std::fs::create_dir_all(&pki).with_context(|| format!("cannot make {}", pki.display()))?;

    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "kruntimes tests");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(NAMES.map(str::to_owned))?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = server.signed_by(&server_key, &authority)?;

    write(&pki.join("ca.crt"), authority.pem())?;
    write(&pki.join("server.crt"), server.pem())?;
    write(&pki.join("server.key"), server_key.serialize_pem())?;
    // Signs the tokens of service accounts.
    let service_accounts = KeyPair::generate()?;
    write(&pki.join("sa.key"), service_accounts.serialize_pem())?;
    write(&pki.join("sa.pub"), service_accounts.public_key_pem())?;

    let token = uuid::Uuid::new_v4();
    write(&pki.join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n"))?;
    // JSON is YAML: what reads a kubeconfig reads this.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "node", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": pki.join("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": token.to_string()}}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "admin"}}],
        "current-context": "node",
    });
    write(&folder.join("kubeconfig"), serde_json::to_vec_pretty(&config)?)
}
