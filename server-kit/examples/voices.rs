//! A Runtime Server with a resource of its own: two voices, each of which one Run at a time can greet with.

use server_kit::resources::{Indexed, ResourceProvider};
use server_kit::{Job, Launch, LaunchError, Server};

struct Voices;

impl Server for Voices {
    fn resources(&self) -> Vec<Box<dyn ResourceProvider>> {
        vec![Box::new(Indexed::new("example.com/voice", ["alto", "bass"]).env("VOICE"))]
    }

    async fn launch(&self, job: &Job) -> Result<Launch, LaunchError> {
        let [name] = job.args.as_slice() else {
            return Err(LaunchError::invalid("args", "expected one name"));
        };
        let script = r#"echo "Hello, $1, from ${VOICE:-nobody}!""#;
        Ok(Launch::new("bash").args(["-c", script, "greet", name]))
    }
}

fn main() -> std::process::ExitCode {
    server_kit::run(Voices)
}
