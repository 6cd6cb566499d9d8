//! `krt local status`: whether the platform runs, and where.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use kruntimes_local::Status;
use serde_json::json;

use crate::cli::{Connection, Format};
use crate::error::Error;
use crate::exit;
use crate::render::table::pairs;
use crate::render::{age, object};
use crate::session::Session;
use crate::term::{Terminal, style};

/// Show whether the local platform runs; ends with 1 if it does not.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: StatusArgs, data_dir: PathBuf, terminal: &Terminal) -> Result<u8, Error> {
    let status = Status::read(&data_dir);
    let api = match &status {
        Some(status) => Some(answer(status).await),
        None => None,
    };
    let code = if status.is_some() { exit::OK } else { exit::RUN_FAILED };
    let value = json!({
        "running": status.is_some(),
        "dataDir": data_dir,
        "platform": status,
        "api": api.as_ref().and_then(|api| api.as_ref().ok()),
    });
    if let Some(text) = object::structured(&value, args.output)? {
        terminal.data(&text)?;
        return Ok(code);
    }
    let Some(status) = status else {
        terminal.data(&format!("the local platform is not running (folder {})\n", data_dir.display()))?;
        terminal.note("`krt local up --detach` starts it");
        return Ok(code);
    };
    let since = status.started.parse::<Timestamp>().ok();
    let api = match api {
        Some(Ok(version)) => terminal.out.paint(style::GOOD, &format!("answers (Kubernetes API {version})")),
        Some(Err(why)) => terminal.out.paint(style::BAD, &format!("does not answer: {why}")),
        None => "-".into(),
    };
    let lines = [
        ("State", terminal.out.paint(style::GOOD, "running")),
        ("Address", status.address),
        ("API", api),
        ("Process", status.pid.to_string()),
        ("Up", age::since(since, Timestamp::now())),
        ("Kubeconfig", status.kubeconfig.display().to_string()),
        ("Folder", data_dir.display().to_string()),
    ];
    terminal.data(&pairs(&lines, terminal.out))?;
    Ok(code)
}

/// The version that the API tells.
async fn answer(status: &Status) -> Result<String, String> {
    let connection = Connection {
        kubeconfig: Some(status.kubeconfig.clone()),
        request_timeout: Some(std::time::Duration::from_secs(2)),
        ..Connection::default()
    };
    let session = Session::open(&connection).await.map_err(|e| e.to_string())?;
    let asked = session.call("ask for its version", session.client.apiserver_version()).await;
    asked.map(|info| info.git_version).map_err(|e| e.to_string())
}
