//! Which API to talk to: flags, kubeconfig, the local platform, or the Pod's own cluster, in this order.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

use crate::cli::Connection;
use crate::error::Error;

/// An API, and who we are to it.
pub(crate) struct Target {
    pub config: Config,
    pub namespace: String,
    /// It is the local platform of this machine.
    pub local: bool,
}

/// Finds the target.
pub(crate) async fn resolve(connection: &Connection) -> Result<Target, Error> {
    let mut target = match find(connection)? {
        Found::Kubeconfig { kubeconfig, path, local } => load(connection, *kubeconfig, &path, local).await?,
        Found::Server(uri) => {
            let config = Config::new(uri);
            Target { namespace: config.default_namespace.clone(), config, local: false }
        }
        Found::InCluster => {
            let config = Config::incluster()
                .map_err(|e| Error::Kubeconfig { path: "of this Pod".into(), why: e.to_string() })?;
            Target { namespace: config.default_namespace.clone(), config, local: false }
        }
    };
    apply_flags(connection, &mut target.config)?;
    if let Some(namespace) = &connection.namespace {
        target.namespace.clone_from(namespace);
    }
    Ok(target)
}

enum Found {
    Kubeconfig { kubeconfig: Box<Kubeconfig>, path: String, local: bool },
    Server(http::Uri),
    InCluster,
}

fn find(connection: &Connection) -> Result<Found, Error> {
    if let Some(path) = &connection.kubeconfig {
        return read(path, false);
    }
    let environment = Kubeconfig::from_env()
        .map_err(|e| Error::Kubeconfig { path: "of $KUBECONFIG".into(), why: e.to_string() })?;
    if let Some(kubeconfig) = environment {
        return Ok(Found::Kubeconfig {
            kubeconfig: Box::new(kubeconfig),
            path: "of $KUBECONFIG".into(),
            local: false,
        });
    }
    if let Some(home) = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"))
        && home.exists()
    {
        return read(&home, false);
    }
    if let Some(server) = &connection.server {
        return server_uri(server).map(Found::Server);
    }
    if let Some(path) = local_kubeconfig() {
        return read(&path, true);
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(Found::InCluster);
    }
    Err(Error::NoTarget)
}

#[cfg(feature = "local")]
fn local_kubeconfig() -> Option<PathBuf> {
    let status = kruntimes_local::Status::read(&crate::commands::local::default_data_dir()?)?;
    Some(status.kubeconfig)
}

#[cfg(not(feature = "local"))]
fn local_kubeconfig() -> Option<PathBuf> {
    None
}

fn read(path: &Path, local: bool) -> Result<Found, Error> {
    let shown = path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path)
        .map_err(|e| Error::Kubeconfig { path: shown.clone(), why: e.to_string() })?;
    Ok(Found::Kubeconfig { kubeconfig: Box::new(kubeconfig), path: shown, local })
}

fn server_uri(text: &str) -> Result<http::Uri, Error> {
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri =
        full.parse().map_err(|e: http::uri::InvalidUri| Error::flag("--server", format!("{text:?}: {e}")))?;
    match uri.host() {
        Some(_) => Ok(uri),
        None => Err(Error::flag("--server", format!("{text:?} names no host"))),
    }
}

async fn load(
    connection: &Connection,
    kubeconfig: Kubeconfig,
    path: &str,
    local: bool,
) -> Result<Target, Error> {
    let failed = |why: String| Error::Kubeconfig { path: path.to_owned(), why };
    let options = KubeConfigOptions {
        context: connection.context.clone(),
        cluster: connection.cluster.clone(),
        user: connection.user.clone(),
    };
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| failed(e.to_string()))?;
    let namespace = config.default_namespace.clone();
    // A copy of the local platform's kubeconfig still means the local platform.
    let local = local || is_local(&config.cluster_url);
    Ok(Target { config, namespace, local })
}

#[cfg(feature = "local")]
fn is_local(uri: &http::Uri) -> bool {
    let data_dir = crate::commands::local::default_data_dir();
    let kubeconfig = data_dir.and_then(|dir| Kubeconfig::read_from(dir.join("kubeconfig")).ok());
    let server = kubeconfig.and_then(|k| k.clusters.into_iter().next()?.cluster?.server);
    server.and_then(|s| s.parse::<http::Uri>().ok()).is_some_and(|s| s.authority() == uri.authority())
}

#[cfg(not(feature = "local"))]
fn is_local(_: &http::Uri) -> bool {
    false
}

fn apply_flags(connection: &Connection, config: &mut Config) -> Result<(), Error> {
    if let Some(server) = &connection.server {
        config.cluster_url = server_uri(server)?;
    }
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    if let Some(token) = &connection.token {
        // The secret's own type belongs to another crate; a kubeconfig's user is made from JSON as well.
        let user = serde_json::json!({ "token": token });
        config.auth_info =
            serde_json::from_value::<AuthInfo>(user).map_err(|e| Error::flag("--token", e.to_string()))?;
    }
    if let Some(certificate) = shown(&connection.client_certificate) {
        config.auth_info.client_certificate = Some(certificate);
        config.auth_info.client_certificate_data = None;
    }
    if let Some(key) = shown(&connection.client_key) {
        config.auth_info.client_key = Some(key);
        config.auth_info.client_key_data = None;
    }
    if let Some(user) = &connection.as_user {
        config.auth_info.impersonate = Some(user.clone());
    }
    if !connection.as_group.is_empty() {
        config.auth_info.impersonate_groups = Some(connection.as_group.clone());
    }
    if let Some(uid) = &connection.as_uid {
        config.auth_info.impersonate_uid = Some(uid.clone());
    }
    if let Some(authority) = &connection.certificate_authority {
        std::fs::metadata(authority)
            .map_err(|e| Error::flag("--certificate-authority", format!("{}: {e}", authority.display())))?;
        config.root_cert_file = Some(authority.clone());
    }
    if let Some(name) = &connection.tls_server_name {
        config.tls_server_name = Some(name.clone());
    }
    config.accept_invalid_certs |= connection.insecure_skip_tls_verify;
    Ok(())
}
