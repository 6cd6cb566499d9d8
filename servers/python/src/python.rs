//! The launch recipe.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use server_kit::{Job, Launch, LaunchError, Server};
use tokio::process::Command;

/// Variable of the server's container with the interpreter to use, instead of the first `python3` there.
const INTERPRETER_ENV: &str = "KRUNTIME_PYTHON";
/// Defaults, which the Run may change: output as it is written, and a traceback also of a crash in C code.
const DEFAULTS: [(&str, &str); 2] = [("PYTHONUNBUFFERED", "1"), ("PYTHONFAULTHANDLER", "1")];
/// Calls a function once, as the original does: it is given `{"args": [...]}`, its answer is printed as JSON.
const CALL: &str = "import importlib, json, sys; module, function, *args = sys.argv[1:]; \
    print(json.dumps(getattr(importlib.import_module(module), function)({'args': args})))";

/// How a Run of code becomes a process of the Pod's interpreter.
#[derive(Default)]
pub struct Python {
    /// The interpreter's own path, found once: a name on the search path may be a slow wrapper.
    interpreter: OnceLock<OsString>,
}

impl Server for Python {
    async fn prepare(&self, _work_dir: &Path) -> Result<(), String> {
        let named = std::env::var_os(INTERPRETER_ENV).filter(|name| !name.is_empty());
        let found = find(&named.unwrap_or_else(|| "python3".into())).await?;
        let _ = self.interpreter.set(found);
        Ok(())
    }

    fn programs(&self) -> Vec<PathBuf> {
        self.interpreter.get().map(PathBuf::from).into_iter().collect()
    }

    fn pass_env(&self) -> Vec<String> {
        // How the image sets its interpreter up.
        ["PYTHON*", "VIRTUAL_ENV"].map(Into::into).into()
    }

    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        let python = self.interpreter.get().cloned().unwrap_or_else(|| "python3".into());
        let launch =
            DEFAULTS.iter().fold(Launch::new(python), |launch, (name, value)| launch.env(name, value));
        if !job.handler.is_empty() {
            return match job.handler.rsplit_once('.') {
                Some((module, function)) if !module.is_empty() && !function.is_empty() => {
                    Ok(launch.args(["-c", CALL, module, function]).args(&job.args))
                }
                _ => Err(LaunchError::invalid("handler", "must be MODULE.FUNCTION")),
            };
        }
        match job.entrypoint_path().filter(|path| path.is_file()) {
            Some(script) => Ok(launch.arg(script).args(&job.args)),
            None if !job.args.is_empty() => Ok(launch.args(&job.args)),
            None if job.entrypoint.is_empty() => {
                Err(LaunchError::invalid("args", "no code: give a script, -m MODULE or -c CODE"))
            }
            None => {
                let message = format!("no file {:?} in the working directory, and no args", job.entrypoint);
                Err(LaunchError::invalid("entrypoint", message))
            }
        }
    }
}

/// Asks an interpreter where it really is.
async fn find(name: &OsString) -> Result<OsString, String> {
    let shown = name.display();
    let output = Command::new(name)
        .args(["-I", "-c", "import sys; sys.stdout.write(sys.executable)"])
        .output()
        .await
        .map_err(|error| {
            format!("cannot run {shown}: {error}; {INTERPRETER_ENV} names another interpreter")
        })?;
    if !output.status.success() || output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{shown} is no Python 3: {}: {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned().into())
}

#[cfg(test)]
#[path = "python_tests.rs"]
mod tests;
