//! The commands, one file each. A command turns flags into requests and objects into output;
//! what it decides is elsewhere.

pub(crate) mod cancel;
pub(crate) mod completion;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod list;
#[cfg(feature = "local")]
pub(crate) mod local;
pub(crate) mod logs;
pub(crate) mod preflight;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod version;
pub(crate) mod wait;

use crate::cli::{Cli, Command};
use crate::error::Error;
use crate::session::Session;
use crate::term::Terminal;

/// Does what the person asked for and says with which code to end.
pub(crate) async fn dispatch(cli: Cli, terminal: &Terminal) -> Result<u8, Error> {
    let connection = &cli.connection;
    match cli.command {
        Command::Run(args) => run::run(*args, connection, terminal).await,
        Command::Get(args) => get::run(args, &Session::open(connection).await?, terminal).await,
        Command::List(args) => list::run(args, &Session::open(connection).await?, terminal).await,
        Command::Describe(args) => describe::run(args, &Session::open(connection).await?, terminal).await,
        Command::Doctor(args) => doctor::run(args, &Session::open(connection).await?, terminal).await,
        Command::Preflight(args) => preflight::run(args, connection, terminal).await,
        Command::Logs(args) => logs::run(args, &Session::open(connection).await?, terminal).await,
        Command::Wait(args) => wait::run(args, &Session::open(connection).await?, terminal).await,
        Command::Cancel(args) => cancel::run(args, &Session::open(connection).await?, terminal).await,
        Command::Delete(args) => delete::run(args, &Session::open(connection).await?, terminal).await,
        Command::Runtime(args) => runtime::run(args, connection, terminal).await,
        #[cfg(feature = "local")]
        Command::Local(args) => local::run(args, terminal).await,
        Command::Version(args) => version::run(args, connection, terminal).await,
        Command::Completion(args) => completion::run(args, terminal),
    }
}
