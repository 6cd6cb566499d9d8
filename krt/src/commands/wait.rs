//! `krt wait`: until Runs have ended, or are in a phase.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kruntimes_api::{Phase, Run};

use crate::attach::driver::Interrupts;
use crate::cli::Selection;
use crate::error::Error;
use crate::render::run::{phase, summary};
use crate::session::{Session, Sight};
use crate::term::Terminal;
use crate::{exit, values};

/// Wait until Runs have ended, and end with the code of the first that failed.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    selection: Selection,
    /// Wait for this phase, or one that cannot lead to it any more; default: any final one.
    #[arg(long = "for", value_name = "PHASE", value_parser = values::phase)]
    phase: Option<Phase>,
    /// Wait no longer than this.
    #[arg(long, value_name = "DURATION", value_parser = values::limit)]
    timeout: Option<Duration>,
    /// Print nothing.
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) async fn run(args: WaitArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let names = session.selected(&args.selection).await?;
    let mut interrupts = Interrupts::listen()?;
    let mut waiting: FuturesUnordered<_> =
        names.iter().map(|name| until(session, name, args.phase, terminal)).collect();
    let deadline = async {
        match args.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut deadline = std::pin::pin!(deadline);
    let mut code = exit::OK;
    loop {
        let run = tokio::select! {
            () = interrupts.next() => return Ok(exit::INTERRUPTED),
            () = &mut deadline => {
                let what = format!("{} of {} Runs did not get there", waiting.len(), names.len());
                return Err(Error::Expired { what, limit: args.timeout.unwrap_or_default() });
            }
            run = waiting.next() => match run {
                Some(run) => run?,
                None => return Ok(code),
            },
        };
        if !args.quiet {
            terminal.data(&format!("{}\n", summary(&run, Timestamp::now(), terminal.out)))?;
        }
        code = if code == exit::OK { code_of(&run, args.phase) } else { code };
    }
}

/// A phase that was waited for and came is a success, whatever it says of the Run.
fn code_of(run: &Run, wanted: Option<Phase>) -> u8 {
    match wanted {
        Some(wanted) if phase(run) == wanted => exit::OK,
        Some(_) if exit::of_run(run) == exit::OK => exit::RUN_FAILED,
        Some(_) | None => exit::of_run(run),
    }
}

async fn until(
    session: &Session,
    name: &str,
    wanted: Option<Phase>,
    terminal: &Terminal,
) -> Result<Run, Error> {
    let doing = format!("watch Run {name}");
    let mut watch = std::pin::pin!(session.watch::<Run>(&doing, name));
    let mut seen = false;
    while let Some(sight) = watch.next().await {
        match sight {
            Sight::Object(run) if reached(phase(&run), wanted) => return Ok(*run),
            Sight::Object(_) => seen = true,
            Sight::Absent if seen => {
                return Err(Error::failed(format!("Run {name} was deleted before it got there"), ""));
            }
            // Its absence is refused in the API's own words, unless it has just been made.
            Sight::Absent => drop(session.run(name).await?),
            Sight::Trouble(text) => terminal.warn(&format!("{text}; trying again")),
            Sight::Refused(error) => return Err(error),
        }
    }
    Err(Error::Protocol { doing, why: "the watch ended".into() })
}

fn reached(phase: Phase, wanted: Option<Phase>) -> bool {
    phase.is_terminal() || wanted == Some(phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kruntimes_api::RunStatus;

    #[test]
    fn a_phase_that_was_waited_for_is_a_success() {
        let run = |phase| Run {
            status: Some(RunStatus { phase: Some(phase), ..RunStatus::default() }),
            ..Run::default()
        };
        assert_eq!(code_of(&run(Phase::Cancelled), Some(Phase::Cancelled)), exit::OK);
        assert_eq!(
            code_of(&run(Phase::Succeeded), Some(Phase::Running)),
            exit::RUN_FAILED,
            "it came and went"
        );
        assert_eq!(code_of(&run(Phase::Failed), Some(Phase::Running)), exit::RUN_FAILED);
        assert_eq!(code_of(&run(Phase::Cancelled), None), exit::CANCELLED);
        assert!(reached(Phase::Failed, Some(Phase::Running)) && !reached(Phase::Pending, None));
    }
}
