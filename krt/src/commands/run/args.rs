//! The flags of `krt run`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::Format;
use crate::values::{self, Amounts, EnvArg, Git};

/// Run a script or command in a warm Pod and show its output.
///
/// The output is streamed as the Run produces it, and krt ends with the Run's own exit code.
/// Ctrl-c asks the Run to end; a second ctrl-c leaves it to itself.
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:\n  \
    krt run -c 'echo hello'\n  \
    krt run -- 'echo hello world'\n  \
    krt run job.sh --env STAGE=test --timeout 10m --retries 2\n  \
    cat job.sh | krt run -\n  \
    krt run --git https://example.com/team/jobs.git@main --entrypoint train.sh -- --epochs 3\n  \
    krt run -r gpu --request nvidia.com/gpu=1 --detach train.sh")]
pub(crate) struct RunArgs {
    /// Script file; - is standard input.
    #[arg(value_name = "FILE", conflicts_with_all = ["command", "file", "git", "repo_url"])]
    pub script: Option<PathBuf>,
    /// Arguments; without any source, what to execute.
    ///
    /// They reach the Runtime Server as they are. A bash server takes a single one as a command, several as the lines
    /// of a script (`-- 'cd sub' 'make all'`), and `bash -c COMMAND` as it is; a python server takes them as
    /// the arguments of its interpreter.
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,

    /// Runtime to run in.
    #[arg(long, short, value_name = "NAME", default_value = "bash", value_parser = values::runtime_name)]
    pub runtime: String,
    /// Name of the Run; default: run- and some characters that the API chooses.
    #[arg(long, value_name = "NAME", value_parser = values::object_name)]
    pub name: Option<String>,
    /// Label; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::label)]
    pub label: Vec<(String, String)>,

    /// Script text.
    #[arg(long, short, value_name = "SCRIPT", conflicts_with_all = ["file", "git", "repo_url"], help_heading = "Source")]
    pub command: Option<String>,
    /// Script file; - is standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["git", "repo_url"], help_heading = "Source")]
    pub file: Option<PathBuf>,
    /// Git repository and branch, tag or commit.
    #[arg(long, value_name = "URL[@REF]", value_parser = values::git, conflicts_with = "repo_url", help_heading = "Source")]
    pub git: Option<Git>,
    /// Git repository.
    #[arg(long, value_name = "URL", value_parser = values::repository, help_heading = "Source")]
    pub repo_url: Option<String>,
    /// Branch, tag or commit of --repo-url or --git.
    #[arg(long, value_name = "REF", help_heading = "Source")]
    pub commit_sha: Option<String>,
    /// File to execute, relative to the working directory.
    #[arg(long, value_name = "PATH", help_heading = "Source")]
    pub entrypoint: Option<String>,
    /// Function to call, MODULE.FUNCTION, instead of a file.
    #[arg(long, value_name = "HANDLER", conflicts_with = "entrypoint", help_heading = "Source")]
    pub handler: Option<String>,
    /// File name that the script gets for --handler; default: its own.
    #[arg(long, value_name = "PATH", requires = "handler", help_heading = "Source")]
    pub inline_path: Option<String>,

    /// Variable; without a value it is taken from krt's environment. May be repeated.
    #[arg(long, short, value_name = "KEY[=VALUE]", value_parser = values::env, help_heading = "Environment")]
    pub env: Vec<EnvArg>,
    /// File with KEY=VALUE lines; may be repeated. --env wins.
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    pub env_file: Vec<PathBuf>,
    /// Option for the Runtime Server; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::option, help_heading = "Environment")]
    pub option: Vec<(String, String)>,

    /// What to hold while it runs, for instance cpu=2,nvidia.com/gpu=1. May be repeated.
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = Parser(values::requests), help_heading = "Resources")]
    pub request: Vec<Request>,
    /// Enforced ceilings of cpu, memory, pids and ephemeral-storage. May be repeated.
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = Parser(values::limits), help_heading = "Resources")]
    pub limit: Vec<Request>,

    /// Time for each attempt, from its start.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Time and retries")]
    pub timeout: Option<String>,
    /// Time to wait for a start at most.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Time and retries")]
    pub pending_timeout: Option<String>,
    /// Further attempts after a failed one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=99), allow_negative_numbers = true, help_heading = "Time and retries")]
    pub retries: Option<i32>,
    /// Attempts in all, with the first (the older spelling of --retries).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=100), allow_negative_numbers = true, conflicts_with = "retries", hide_short_help = true, help_heading = "Time and retries")]
    pub retry_attempts: Option<i32>,
    /// Pause before the second attempt; doubled each time.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Time and retries")]
    pub retry_backoff: Option<String>,
    /// Reason to retry for, for instance NonZeroExit; default: all. May be repeated or separated by commas.
    #[arg(long, value_name = "REASON", value_delimiter = ',', help_heading = "Time and retries")]
    pub retry_on: Vec<String>,
    /// Time after the end at which the Run is deleted.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Time and retries")]
    pub ttl: Option<String>,

    /// Higher goes first.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Queueing")]
    pub priority: Option<i32>,
    /// Accounting word.
    #[arg(long, value_name = "WORD", help_heading = "Queueing")]
    pub account: Option<String>,
    /// Accounting word.
    #[arg(long, value_name = "WORD", help_heading = "Queueing")]
    pub queue: Option<String>,
    /// Who submits; default: your name as the API knows it.
    #[arg(long, value_name = "NAME", help_heading = "Queueing")]
    pub submitter: Option<String>,

    /// Wait for the end and show the output (the default).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true, help_heading = "Output")]
    pub wait: Option<bool>,
    /// Print the name and do not wait.
    #[arg(long, short, conflicts_with = "wait", help_heading = "Output")]
    pub detach: bool,
    /// Print the Run that would be created, and create nothing.
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// Print the Run in this form: after its end, or with --detach or --dry-run at once.
    #[arg(long, short, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub output: Option<Format>,
    /// No words of krt's own on standard error.
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// One `--request` or `--limit`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request(pub Amounts);

/// A parser whose result is a list by itself, which clap would otherwise take for repetition.
#[derive(Clone)]
struct Parser(fn(&str) -> Result<Amounts, String>);

impl clap::builder::TypedValueParser for Parser {
    type Value = Request;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Request, clap::Error> {
        let parse = self.0;
        let wrapped = move |text: &str| parse(text).map(Request);
        clap::builder::TypedValueParser::parse_ref(&wrapped, command, argument, value)
    }
}

impl RunArgs {
    /// Whether to stay until the end.
    pub fn waits(&self) -> bool {
        !self.detach && self.wait.unwrap_or(true)
    }
}
