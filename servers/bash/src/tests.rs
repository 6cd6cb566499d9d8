//! The original's rules for what is run.

use std::path::Path;

use super::*;

async fn launch(dir: &Path, entrypoint: &str, args: &[&str]) -> Result<Launch, LaunchError> {
    let mut job = Job::default();
    job.working_dir = dir.to_owned();
    job.entrypoint = entrypoint.to_owned();
    job.args = args.iter().map(ToString::to_string).collect();
    Bash.launch(&job).await
}

#[tokio::test]
async fn a_script_file_is_run_with_its_arguments() {
    let dir = tempfile::tempdir().expect("tempdir");
    let script = dir.path().join("script");
    std::fs::write(&script, "echo").expect("script");
    let expected = Launch::new("bash").arg(&script).args(["a b", "-c"]);
    assert_eq!(launch(dir.path(), "script", &["a b", "-c"]).await, Ok(expected));
}

#[tokio::test]
async fn without_a_file_the_arguments_are_the_script() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = async |args: &[&str]| launch(dir.path(), "script", args).await.expect("accepted");
    assert_eq!(run(&["echo a"]).await, Launch::new("bash").args(["-c", "echo a"]));
    assert_eq!(run(&["echo a", "echo b"]).await, Launch::new("bash").args(["-c", "echo a\necho b"]));
    assert_eq!(run(&["sh", "-c", "echo a", "x"]).await, Launch::new("sh").args(["-c", "echo a", "x"]));
    assert_eq!(run(&["/bin/bash", "-c", "echo a"]).await, Launch::new("/bin/bash").args(["-c", "echo a"]));
    assert_eq!(run(&["bash", "x"]).await, Launch::new("bash").args(["-c", "bash\nx"]));
}

#[tokio::test]
async fn nothing_to_run_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let refused = launch(dir.path(), "", &[]).await.expect_err("refused");
    assert_eq!(refused.to_string(), "args: no args or script provided");
    let refused = launch(dir.path(), "gone.sh", &[]).await.expect_err("refused");
    assert_eq!(refused.to_string(), "entrypoint: no file \"gone.sh\" in the working directory, and no args");
    std::fs::create_dir(dir.path().join("folder")).expect("folder");
    assert!(launch(dir.path(), "folder", &[]).await.is_err());
}
