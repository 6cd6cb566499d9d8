//! `krt cancel`: asks Runs to end.

use clap::Args;
use futures::StreamExt;
use kruntimes_api::Run;

use crate::cli::Selection;
use crate::error::Error;
use crate::exit;
use crate::render::run::phase;
use crate::session::{Session, Sight};
use crate::term::Terminal;

/// Ask Runs to end; a Run that has ended already is left as it is.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    selection: Selection,
    /// Wait until they have ended.
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn run(args: CancelArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let names = session.selected(&args.selection).await?;
    if names.is_empty() {
        terminal.note("no Runs match");
    }
    for name in &names {
        let run = session.cancel(name).await?;
        if phase(&run).is_terminal() {
            terminal.data(&format!("Run {name} has ended already ({})\n", phase(&run)))?;
        } else {
            terminal.data(&format!("Cancellation requested for Run {name}\n"))?;
        }
    }
    if args.wait {
        for name in &names {
            ended(session, name, terminal).await?;
        }
    }
    Ok(exit::OK)
}

async fn ended(session: &Session, name: &str, terminal: &Terminal) -> Result<(), Error> {
    let mut watch = std::pin::pin!(session.watch::<Run>(&format!("watch Run {name}"), name));
    while let Some(sight) = watch.next().await {
        match sight {
            Sight::Object(run) if phase(&run).is_terminal() => {
                return terminal.data(&format!("Run {name} has ended ({})\n", phase(&run)));
            }
            Sight::Absent => return Ok(()),
            Sight::Object(_) => {}
            Sight::Trouble(text) => terminal.warn(&format!("{text}; trying again")),
            Sight::Refused(error) => return Err(error),
        }
    }
    Ok(())
}
