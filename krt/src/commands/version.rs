//! `krt version`: of this program, and of the server if one answers.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::{Connection, Format};
use crate::error::Error;
use crate::exit;
use crate::render::object;
use crate::session::Session;
use crate::term::Terminal;

/// A server that says nothing in this time has no version.
const PATIENCE: Duration = Duration::from_secs(2);

/// Print the versions of krt and of the server.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Ask no server.
    #[arg(long)]
    client: bool,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(
    args: VersionArgs,
    connection: &Connection,
    terminal: &Terminal,
) -> Result<u8, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("KRUNTIMES_COMMIT").unwrap_or("unknown");
    let built = option_env!("KRUNTIMES_BUILD_DATE").unwrap_or("unknown");
    let server = if args.client { None } else { server(connection).await };
    let value = json!({
        "client": {"version": version, "commit": commit, "built": built},
        "server": server.as_ref().and_then(|server| server.as_ref().ok()).map(|v| json!({"kubernetes": v})),
    });
    if let Some(text) = object::structured(&value, args.output)? {
        terminal.data(&text)?;
        return Ok(exit::OK);
    }
    let mut text = format!("krt {version}\ncommit: {commit}\nbuilt: {built}\n");
    match server {
        Some(Ok(server)) => text.push_str(&format!("server: Kubernetes API {server}\n")),
        Some(Err(why)) => terminal.note(&format!("server: {why}")),
        None => {}
    }
    terminal.data(&text)?;
    Ok(exit::OK)
}

async fn server(connection: &Connection) -> Option<Result<String, String>> {
    let session = match Session::open(connection).await {
        Ok(session) => session,
        Err(Error::NoTarget) => return Some(Err("none (no kubeconfig, no local platform)".into())),
        Err(error) => return Some(Err(error.to_string())),
    };
    let asked = session.call("ask for the server's version", session.client.apiserver_version());
    Some(match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(info)) => Ok(info.git_version),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    })
}
