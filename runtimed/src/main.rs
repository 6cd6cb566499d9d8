//! `runtimed`; see the library.

use std::process::ExitCode;

use runtimed::Config;

fn main() -> ExitCode {
    let config = match Config::from_command_line(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    if let Err(error) = kruntimes_daemon::init_logging("runtimed", config.log_format) {
        eprintln!("runtimed: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = runtimed::run(config) {
        tracing::error!(%error, "runtimed ends");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
