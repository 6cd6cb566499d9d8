//! What is started for which request, and that it is an interpreter.

use std::path::Path;

use super::*;

async fn launch(dir: &Path, entrypoint: &str, args: &[&str]) -> Result<Launch, LaunchError> {
    let mut job = Job::default();
    job.working_dir = dir.to_owned();
    job.entrypoint = entrypoint.to_owned();
    job.args = args.iter().map(ToString::to_string).collect();
    Python::default().launch(&job).await
}

fn python() -> Launch {
    Launch::new("python3").env("PYTHONUNBUFFERED", "1").env("PYTHONFAULTHANDLER", "1")
}

#[tokio::test]
async fn a_script_wins_over_what_python_itself_takes() {
    let dir = tempfile::tempdir().expect("folder");
    let script = dir.path().join("script");
    std::fs::write(&script, "print(1)").expect("script");
    let run = async |entrypoint: &str, args: &[&str]| launch(dir.path(), entrypoint, args).await;
    assert_eq!(run("script", &["-m", "x"]).await, Ok(python().arg(&script).args(["-m", "x"])));
    assert_eq!(run("", &["-m", "json.tool", "a"]).await, Ok(python().args(["-m", "json.tool", "a"])));
    assert_eq!(run("gone", &["-c", "print(1)"]).await, Ok(python().args(["-c", "print(1)"])));
}

#[tokio::test]
async fn nothing_to_run_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let refused = launch(dir.path(), "", &[]).await.expect_err("refused").to_string();
    assert_eq!(refused, "args: no code: give a script, -m MODULE or -c CODE");
    let refused = launch(dir.path(), "gone.py", &[]).await.expect_err("refused").to_string();
    assert_eq!(refused, "entrypoint: no file \"gone.py\" in the working directory, and no args");
    let mut job = Job::default();
    job.handler = "function".into();
    let refused = Python::default().launch(&job).await.expect_err("refused").to_string();
    assert_eq!(refused, "handler: must be MODULE.FUNCTION");
}

#[tokio::test]
async fn a_handler_is_called_once() {
    let mut job = Job::default();
    job.handler = "package.tool.main".into();
    job.args = vec!["a".into()];
    let launch = Python::default().launch(&job).await;
    assert_eq!(launch, Ok(python().args(["-c", CALL, "package.tool", "main", "a"])));
}

#[tokio::test]
async fn what_is_no_interpreter_stops_the_server_with_its_name() {
    let gone = find(&"no-such-python".into()).await.expect_err("not there");
    assert!(gone.contains("no-such-python") && gone.contains(INTERPRETER_ENV), "{gone}");
    let other = find(&"false".into()).await.expect_err("no Python");
    assert!(other.contains("false is no Python 3"), "{other}");
}
