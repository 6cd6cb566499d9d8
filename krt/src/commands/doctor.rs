//! `krt doctor`: what is wrong, and the command that mends it.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::Format;
use crate::doctor::{Verdict, gather, judge, report};
use crate::error::Error;
use crate::exit;
use crate::render::object;
use crate::session::Session;
use crate::term::Terminal;

/// Look for what is wrong with the platform; each finding comes with the command that mends it.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 when nothing keeps the platform from working, else 1.")]
pub(crate) struct DoctorArgs {
    /// Look at the Runtimes, Pods and Runs of all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: DoctorArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let facts = gather::facts(session, args.all_namespaces).await?;
    let findings = judge::findings(&facts, Timestamp::now());
    let text = match object::structured(&json!({ "findings": findings }), args.output)? {
        Some(text) => text,
        None => report(&findings, terminal.out),
    };
    terminal.data(&text)?;
    let broken = findings.iter().any(|finding| finding.verdict == Verdict::Error);
    Ok(if broken { exit::RUN_FAILED } else { exit::OK })
}
