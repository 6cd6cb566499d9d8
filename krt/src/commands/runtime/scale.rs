//! `krt runtime scale`.

use std::time::Duration;

use clap::Args;
use kruntimes_api::Runtime;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::create::ready;
use crate::error::Error;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Change the number of Pods of a Runtime; 0 parks it.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Runtime.
    #[arg(value_name = "RUNTIME", value_parser = values::runtime_name)]
    name: String,
    /// Pods.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
    replicas: i32,
    /// Wait until its Pods take Runs.
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this.
    #[arg(long, value_name = "DURATION", value_parser = values::limit, requires = "wait", default_value = "5m")]
    timeout: Duration,
}

pub(crate) async fn run(args: ScaleArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let api = session.api::<Runtime>();
    let patch = Patch::Merge(json!({"spec": {"replicas": args.replicas}}));
    // Through the scale subresource: the right to change nothing but the size is enough.
    let doing = format!("scale Runtime {}", args.name);
    session.call(&doing, api.patch_scale(&args.name, &PatchParams::default(), &patch)).await?;
    terminal.data(&format!("Runtime {} scaled to {}\n", args.name, args.replicas))?;
    if args.wait {
        let runtime = session.runtime(&args.name).await?;
        ready(session, &runtime, args.timeout, terminal).await?;
    }
    Ok(exit::OK)
}
