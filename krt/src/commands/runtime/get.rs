//! `krt runtime get`.

use clap::Args;
use jiff::Timestamp;

use crate::cli::Format;
use crate::error::Error;
use crate::render::object;
use crate::render::runtime::card;
use crate::render::table::Columns;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Show a Runtime in a few lines.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Runtime.
    #[arg(value_name = "RUNTIME", value_parser = values::runtime_name)]
    name: String,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: GetArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let runtime = session.runtime(&args.name).await?;
    let now = Timestamp::now();
    let text = match object::structured(&object::manifest(&runtime)?, args.output)? {
        Some(text) => text,
        None if args.output == Format::Name => object::name(&runtime),
        None if args.output == Format::Wide => {
            let columns = Columns { namespace: false, wide: true };
            let mut table = columns.table::<kruntimes_api::Runtime>();
            table.push(columns.row(&runtime, now));
            table.render(terminal.out)
        }
        None => card(&runtime, now, terminal.out),
    };
    terminal.data(&text)?;
    Ok(exit::OK)
}
