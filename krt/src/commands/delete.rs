//! `krt delete`: removes Runs, with what is known of them.

use clap::Args;
use futures::StreamExt;
use kruntimes_api::Run;
use kube::api::DeleteParams;

use crate::cli::Selection;
use crate::error::Error;
use crate::exit;
use crate::session::{Session, Sight};
use crate::term::Terminal;

/// Delete Runs; one that is under way is ended.
#[derive(Debug, Args)]
#[command(visible_alias = "rm")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    selection: Selection,
    /// Wait until they are gone.
    #[arg(long)]
    wait: bool,
    /// Runs that do not exist are fine.
    #[arg(long)]
    ignore_not_found: bool,
}

pub(crate) async fn run(args: DeleteArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let names = session.selected(&args.selection).await?;
    if names.is_empty() {
        terminal.note("no Runs match");
    }
    let api = session.api::<Run>();
    for name in &names {
        match session.call(&format!("delete Run {name}"), api.delete(name, &DeleteParams::default())).await {
            Ok(_) => terminal.data(&format!("Run {name} deleted\n"))?,
            Err(error) if args.ignore_not_found && error.api_code() == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    if args.wait {
        for name in &names {
            gone(session, name, terminal).await?;
        }
    }
    Ok(exit::OK)
}

async fn gone(session: &Session, name: &str, terminal: &Terminal) -> Result<(), Error> {
    let mut watch = std::pin::pin!(session.watch::<Run>(&format!("watch Run {name}"), name));
    while let Some(sight) = watch.next().await {
        match sight {
            Sight::Absent => return Ok(()),
            Sight::Object(_) => {}
            Sight::Trouble(text) => terminal.warn(&format!("{text}; trying again")),
            Sight::Refused(error) => return Err(error),
        }
    }
    Ok(())
}
