//! `krt runtime list`.

use clap::Args;
use jiff::Timestamp;
use kruntimes_api::Runtime;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::cli::Format;
use crate::error::Error;
use crate::exit;
use crate::render::object;
use crate::render::table::Columns;
use crate::session::Session;
use crate::term::Terminal;

/// List Runtimes.
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub(crate) struct ListArgs {
    /// In all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: ListArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let api = session.api_in::<Runtime>(args.all_namespaces);
    let (mut runtimes, _) = session.list("list Runtimes", &api, ListParams::default()).await?;
    runtimes.sort_by_cached_key(|runtime| (runtime.namespace(), runtime.name_any()));
    if let Some(text) = object::structured(&object::list(&runtimes)?, args.output)? {
        terminal.data(&text)?;
    } else if args.output == Format::Name {
        terminal.data(&runtimes.iter().map(object::name).collect::<String>())?;
    } else if runtimes.is_empty() {
        terminal.note("no Runtimes; `krt runtime create NAME --image IMAGE` makes one");
    } else {
        let columns = Columns { namespace: args.all_namespaces, wide: args.output == Format::Wide };
        let (mut table, now) = (columns.table::<Runtime>(), Timestamp::now());
        runtimes.iter().for_each(|runtime| table.push(columns.row(runtime, now)));
        terminal.data(&table.render(terminal.out))?;
    }
    Ok(exit::OK)
}
