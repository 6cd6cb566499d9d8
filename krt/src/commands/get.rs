//! `krt get`: what became of Runs, in a few lines or as objects.

use clap::Args;
use jiff::Timestamp;
use kruntimes_api::Run;

use crate::cli::Format;
use crate::error::Error;
use crate::render::object;
use crate::render::run::card;
use crate::render::table::Columns;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Show Runs by name.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Runs.
    #[arg(value_name = "RUN", required = true, value_parser = values::run_name)]
    runs: Vec<String>,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: GetArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let mut runs = Vec::new();
    for name in &args.runs {
        runs.push(session.run(name).await?);
    }
    terminal.data(&text(&runs, args.output, terminal)?)?;
    Ok(exit::OK)
}

fn text(runs: &[Run], format: Format, terminal: &Terminal) -> Result<String, Error> {
    let now = Timestamp::now();
    let value = match runs {
        [one] => object::manifest(one)?,
        many => object::list(many)?,
    };
    if let Some(text) = object::structured(&value, format)? {
        return Ok(text);
    }
    Ok(match (format, runs) {
        (Format::Name, _) => runs.iter().map(object::name).collect(),
        (Format::Table, [one]) => card(one, now, terminal.out),
        _ => {
            let columns = Columns { namespace: false, wide: format == Format::Wide };
            let mut table = columns.table::<Run>();
            runs.iter().for_each(|run| table.push(columns.row(run, now)));
            table.render(terminal.out)
        }
    })
}
