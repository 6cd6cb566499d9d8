//! The commands and the flags that all of them share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::term::Color;
use crate::values;

/// Submits executions to warm Runtime Pods and looks after them.
#[derive(Debug, Parser)]
#[command(
    name = "krt",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: the Run's own for `krt run` and `krt wait`; 124 out of time, 125 krt or the platform\n\
                  failed, 126 never started, 130 ctrl-c, 143 cancelled."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_short_help = true)]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command with all its flags, for the reference page and completion.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Which API to talk to, as whom, about which namespace; the words are kubectl's.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Kubeconfig file; default $KUBECONFIG, ~/.kube/config, then the local platform's.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace; default the context's.
    #[arg(long, short, global = true, value_name = "NAME", value_parser = values::object_name)]
    pub namespace: Option<String>,
    /// Cluster of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub cluster: Option<String>,
    /// User of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub user: Option<String>,
    /// Address of the API server.
    #[arg(long, short, global = true, value_name = "URL", hide_short_help = true)]
    pub server: Option<String>,
    /// Bearer token.
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub token: Option<String>,
    /// User to act as.
    #[arg(long = "as", global = true, value_name = "USER", hide_short_help = true)]
    pub as_user: Option<String>,
    /// Group to act as; may be repeated.
    #[arg(long, global = true, value_name = "GROUP", hide_short_help = true)]
    pub as_group: Vec<String>,
    /// UID to act as.
    #[arg(long, global = true, value_name = "UID", hide_short_help = true)]
    pub as_uid: Option<String>,
    /// Authority that signed the server's certificate.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub certificate_authority: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub client_certificate: Option<PathBuf>,
    /// Key of the client certificate.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub client_key: Option<PathBuf>,
    /// Name to check the server's certificate against.
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub tls_server_name: Option<String>,
    /// Do not check the server's certificate.
    #[arg(long, global = true, hide_short_help = true)]
    pub insecure_skip_tls_verify: bool,
    /// Accepted for kubectl's sake; nothing is cached.
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub cache_dir: Option<PathBuf>,
    /// Accepted for kubectl's sake; nothing is compressed.
    #[arg(long, global = true, hide = true)]
    pub disable_compression: bool,
    /// Time for each request that is not a watch or a log; 0 is no limit.
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::request_timeout, hide_short_help = true)]
    pub request_timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<commands::run::RunArgs>),
    Get(commands::get::GetArgs),
    List(commands::list::ListArgs),
    Describe(commands::describe::DescribeArgs),
    Logs(commands::logs::LogsArgs),
    Wait(commands::wait::WaitArgs),
    Cancel(commands::cancel::CancelArgs),
    Delete(commands::delete::DeleteArgs),
    Runtime(commands::runtime::RuntimeArgs),
    Doctor(commands::doctor::DoctorArgs),
    Preflight(commands::preflight::PreflightArgs),
    #[cfg(feature = "local")]
    Local(commands::local::LocalArgs),
    Version(commands::version::VersionArgs),
    Completion(commands::completion::CompletionArgs),
}

impl Command {
    /// Only the local platform serves; everything else waits for one thing at a time.
    pub(crate) fn needs_threads(&self) -> bool {
        match self {
            #[cfg(feature = "local")]
            Self::Local(args) => args.serves(),
            Self::Run(_)
            | Self::Get(_)
            | Self::List(_)
            | Self::Describe(_)
            | Self::Logs(_)
            | Self::Wait(_)
            | Self::Cancel(_)
            | Self::Delete(_)
            | Self::Runtime(_)
            | Self::Doctor(_)
            | Self::Preflight(_)
            | Self::Version(_)
            | Self::Completion(_) => false,
        }
    }
}

/// `-o` of commands that print objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide terminals.
    Wide,
    /// The object as JSON.
    Json,
    /// The object as YAML.
    Yaml,
    /// KIND/NAME, one a line.
    Name,
}

/// Where a command finds what it prints, and which Runs it means.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Runs.
    #[arg(value_name = "RUN", value_parser = values::run_name, required_unless_present = "selector", conflicts_with = "selector")]
    pub runs: Vec<String>,
    /// All Runs with these labels, for instance team=ml,stage!=test.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    pub selector: Option<String>,
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
