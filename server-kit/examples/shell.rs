//! A Runtime Server for tests and benchmarks: runs `args` as a command line, looks a program up in `PATH`.

use server_kit::{Job, Launch, LaunchError, Server};

struct Shell;

impl Server for Shell {
    fn options(&self) -> Vec<String> {
        vec!["stdin".into(), "mistake".into()]
    }

    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        match job.options.get("mistake").map(String::as_str) {
            Some("hang") => std::future::pending().await,
            mistake => assert!(mistake.is_none(), "a mistake of the author's"),
        }
        let (program, args) =
            job.args.split_first().ok_or_else(|| LaunchError::invalid("args", "no command"))?;
        let stdin = job.options.get("stdin").cloned().unwrap_or_default();
        Ok(Launch::new(program).args(args).stdin(stdin))
    }
}

fn main() -> std::process::ExitCode {
    server_kit::run(Shell)
}
