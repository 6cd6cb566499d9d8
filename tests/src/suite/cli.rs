//! `krt` as a person uses it, also wrongly.

use std::io::Write;

use anyhow::ensure;
use serde_json::Value;

use crate::cluster::{BASH_IMAGE, output, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("cli_run_passes_streams_and_code", run_streams),
        Case::new("cli_run_forms", run_forms),
        Case::new("cli_get_list_describe_logs", looking),
        Case::new("cli_wait_cancel_delete", acting),
        Case::new("cli_runtime", runtime),
        Case::new("cli_mistakes", mistakes),
    ]
}

async fn run_streams(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let result = output(cluster.krt(&["run", "-r", "bash", "-c", "echo out; echo err >&2; exit 7"])).await?;
    let (out, err) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    ensure!(result.status.code() == Some(7), "{:?}\n{out}\n{err}", result.status);
    ensure!(out == "out\n", "stdout carries the Run's own: {out:?}");
    ensure!(err.contains("err"), "stderr: {err:?}");
    let slow = output(cluster.krt(&["run", "-c", "sleep 600", "--timeout", "1s"])).await?;
    ensure!(slow.status.code() == Some(124), "{slow:?}");
    Ok(())
}

async fn run_forms(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let mut file = tempfile::Builder::new().suffix(".sh").tempfile()?;
    writeln!(file, "echo from=$FROM")?;
    let path = file.path().to_string_lossy().into_owned();
    ensure!(stdout(cluster.krt(&["run", &path, "--env", "FROM=file"])).await? == "from=file\n");
    ensure!(stdout(cluster.krt(&["run", "-f", &path, "--env", "FROM=flag"])).await? == "from=flag\n");
    let mut values = tempfile::NamedTempFile::new()?;
    writeln!(values, "# comment\nFROM=env file")?;
    let values = values.path().to_string_lossy().into_owned();
    ensure!(stdout(cluster.krt(&["run", &path, "--env-file", &values])).await? == "from=env file\n");
    ensure!(stdout(cluster.krt(&["run", "--", "echo one"])).await? == "one\n");
    let mut command = tokio::process::Command::from(cluster.krt(&["run", "-"]));
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        use tokio::io::AsyncWriteExt;
        stdin.write_all(b"echo from stdin").await?;
    }
    let result = tokio::time::timeout(crate::cluster::PATIENCE, child.wait_with_output()).await??;
    ensure!(result.stdout == b"from stdin\n", "{result:?}");
    let dry = stdout(cluster.krt(&[
        "run",
        "-c",
        "true",
        "--dry-run",
        "-o",
        "yaml",
        "--request",
        "cpu=2,nvidia.com/gpu=1",
    ]))
    .await?;
    ensure!(dry.contains("kind: Run") && dry.contains("nvidia.com/gpu"), "{dry}");
    let name = stdout(cluster.krt(&["run", "-c", "exit 3", "--detach"])).await?;
    let name = name.trim().rsplit('/').next().unwrap_or_default().to_owned();
    ensure!(cluster.end(&name).await?.exit_code == Some(3), "{name}");
    Ok(())
}

async fn looking(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    cluster
        .run_script(
            "good",
            "for i in 1 2 3; do echo line $i; done; echo warned >&2; echo answer=42 >> $KRUNTIME_OUTPUTS",
        )
        .await?;
    cluster.run_script("bad", "exit 4").await?;
    let list = stdout(cluster.krt(&["list"])).await?;
    ensure!(list.contains("good") && list.contains("bad") && list.contains("Succeeded"), "{list}");
    let failed = stdout(cluster.krt(&["list", "--phase", "Failed", "-o", "name"])).await?;
    ensure!(failed.contains("bad") && !failed.contains("good"), "{failed}");
    let json: Value = serde_json::from_str(&stdout(cluster.krt(&["get", "good", "-o", "json"])).await?)?;
    ensure!(json["kind"] == "Run" && json["apiVersion"] == "kruntimes.io/v1alpha1", "{json}");
    ensure!(json["status"]["outputs"]["answer"] == "42", "{json}");
    let described = stdout(cluster.krt(&["describe", "good"])).await?;
    for word in ["Succeeded", "answer", "wall_seconds", "rusage", "Completed", "kill"] {
        ensure!(described.contains(word), "describe lacks {word}:\n{described}");
    }
    let logs = stdout(cluster.krt(&["logs", "good"])).await?;
    ensure!(logs == "line 1\nline 2\nline 3\n", "{logs:?}");
    let last = stdout(cluster.krt(&["logs", "good", "--stream", "stdout", "--tail", "1"])).await?;
    ensure!(last == "line 3\n", "{last:?}");
    ensure!(stdout(cluster.krt(&["logs", "good", "-f"])).await? == logs, "following an ended Run ends");
    ensure!(
        stdout(cluster.krt(&["logs", "good", "--stream", "stderr"])).await?.is_empty(),
        "stderr goes to stderr"
    );
    Ok(())
}

async fn acting(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    cluster.script("r", "sleep 600").await?;
    cluster.phase("r", kruntimes_api::run::Phase::Running).await?;
    stdout(cluster.krt(&["cancel", "r"])).await?;
    let waited = output(cluster.krt(&["wait", "r"])).await?;
    ensure!(!waited.status.success(), "waiting for a cancelled Run: {waited:?}");
    stdout(cluster.krt(&["delete", "r"])).await?;
    cluster.gone("r").await
}

async fn runtime(cluster: Cluster) -> anyhow::Result<()> {
    stdout(cluster.krt(&[
        "runtime",
        "create",
        "tools",
        "--image",
        BASH_IMAGE,
        "--replicas",
        "1",
        "--capacity",
        "runs=3",
    ]))
    .await?;
    cluster.ready("tools", 1).await?;
    ensure!(stdout(cluster.krt(&["runtime", "list"])).await?.contains("tools"));
    let described = stdout(cluster.krt(&["runtime", "describe", "tools"])).await?;
    ensure!(described.contains("tools") && described.contains("runs"), "{described}");
    stdout(cluster.krt(&["runtime", "scale", "tools", "--replicas", "2"])).await?;
    cluster.ready("tools", 2).await?;
    ensure!(stdout(cluster.krt(&["run", "-r", "tools", "-c", "echo hello"])).await? == "hello\n");
    Ok(())
}

/// Each mistake: a non-zero exit, and a message that names what to change.
async fn mistakes(cluster: Cluster) -> anyhow::Result<()> {
    cluster.bash_pool(1, 4).await?;
    let cases: [(&[&str], &str); 8] = [
        (&["run", "-c", "true", "--timeout", "abc"], "--timeout"),
        (&["run", "-c", "true", "--request", "cpu"], "--request"),
        (&["run", "-c", "true", "--env", "=x"], "--env"),
        (&["run"], "-c"),
        (&["run", "/no/such/file.sh"], "/no/such/file.sh"),
        (&["get", "no-such-run"], "no-such-run"),
        (&["logs", "no-such-run"], "no-such-run"),
        (&["runtime", "describe", "no-such-runtime"], "no-such-runtime"),
    ];
    for (arguments, word) in cases {
        let result = output(cluster.krt(arguments)).await?;
        let error = String::from_utf8_lossy(&result.stderr);
        ensure!(!result.status.success(), "{arguments:?} succeeded");
        ensure!(error.contains(word), "{arguments:?} does not name {word}: {error}");
        ensure!(!error.contains("panicked"), "{error}");
    }
    Ok(())
}
