//! A Runtime Server that greets whoever a Run names.

use server_kit::{Job, Launch, LaunchError, Server};

struct Hello;

impl Server for Hello {
    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        let [name] = job.args.as_slice() else {
            return Err(LaunchError::invalid("args", "expected one name"));
        };
        Ok(Launch::new("echo").arg(format!("Hello, {name}!")))
    }
}

fn main() -> std::process::ExitCode {
    server_kit::run(Hello)
}
