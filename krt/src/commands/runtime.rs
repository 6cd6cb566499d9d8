//! `krt runtime`: pools of warm Pods.

mod create;
mod describe;
mod get;
mod list;
mod scale;

use clap::{Args, Subcommand};

use crate::cli::Connection;
use crate::error::Error;
use crate::session::Session;
use crate::term::Terminal;

/// Look after Runtimes, the pools of warm Pods.
#[derive(Debug, Args)]
#[command(visible_alias = "rt", subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct RuntimeArgs {
    #[command(subcommand)]
    command: RuntimeCommand,
}

#[derive(Debug, Subcommand)]
enum RuntimeCommand {
    List(list::ListArgs),
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Create(create::CreateArgs),
    Scale(scale::ScaleArgs),
}

pub(crate) async fn run(
    args: RuntimeArgs,
    connection: &Connection,
    terminal: &Terminal,
) -> Result<u8, Error> {
    match args.command {
        RuntimeCommand::List(args) => list::run(args, &Session::open(connection).await?, terminal).await,
        RuntimeCommand::Get(args) => get::run(args, &Session::open(connection).await?, terminal).await,
        RuntimeCommand::Describe(args) => {
            describe::run(args, &Session::open(connection).await?, terminal).await
        }
        RuntimeCommand::Create(args) => create::run(args, connection, terminal).await,
        RuntimeCommand::Scale(args) => scale::run(args, &Session::open(connection).await?, terminal).await,
    }
}
