//! The bash server: inline scripts, script files with arguments, and plain command lines.
//!
//! As the original has it: `entrypoint` names a file in the working directory (runtimed writes an
//! inline script there); when there is no such file, `args` are the script.

use std::process::ExitCode;

use server_kit::{Job, Launch, LaunchError, Server};

struct Bash;

impl Server for Bash {
    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        let script = job.entrypoint_path().filter(|path| path.is_file());
        match (script, job.args.as_slice()) {
            (Some(path), args) => Ok(Launch::new("bash").arg(path).args(args)),
            (None, []) if job.entrypoint.is_empty() => {
                Err(LaunchError::invalid("args", "no args or script provided"))
            }
            (None, []) => {
                let message = format!("no file {:?} in the working directory, and no args", job.entrypoint);
                Err(LaunchError::invalid("entrypoint", message))
            }
            (None, [shell, flag, ..]) if is_shell(shell) && flag == "-c" => {
                Ok(Launch::new(shell).args(&job.args[1..]))
            }
            (None, lines) => Ok(Launch::new("bash").arg("-c").arg(lines.join("\n"))),
        }
    }
}

fn is_shell(program: &str) -> bool {
    matches!(program, "sh" | "bash" | "/bin/sh" | "/bin/bash" | "/usr/bin/sh" | "/usr/bin/bash")
}

fn main() -> ExitCode {
    server_kit::run(Bash)
}

#[cfg(test)]
mod tests;
