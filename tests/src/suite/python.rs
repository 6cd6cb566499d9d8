//! The python server: what a person who writes Python expects of it.

use anyhow::ensure;
use kruntimes_api::Reason;
use kruntimes_api::run::Phase;
use serde_json::{Value, json};

use crate::cluster::{PYTHON_IMAGE, container, output, phase, stdout};
use crate::{Case, Cluster};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("python_inline", inline),
        Case::new("python_module_and_args", module_and_args),
        Case::new("python_traceback", traceback),
        Case::new("python_exit_codes", exit_codes),
    ]
}

/// Where Runs start the programs of the machine.
pub fn local_cases() -> Vec<Case> {
    vec![Case::new("python_in_a_home_that_is_closed_to_others", closed_home)]
}

async fn pool(cluster: &Cluster) -> anyhow::Result<()> {
    let spec = json!({"capacity": {"resources": {"runs": 4}}});
    cluster.pool("python", PYTHON_IMAGE, 1, spec).await
}

fn code(text: &str) -> Value {
    json!({"runtime": "python", "source": {"inline": text}})
}

async fn inline(cluster: Cluster) -> anyhow::Result<()> {
    pool(&cluster).await?;
    let text = "import os, sys\n\
        assert sys.version_info.major == 3\n\
        print('over', os.environ['KRUNTIME_RUN_NAME'])\n\
        open(os.environ['KRUNTIME_OUTPUTS'], 'a').write('answer=%d\\n' % (6 * 7))\n";
    cluster.submit("r", code(text)).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    ensure!(status.outputs.get("answer").map(String::as_str) == Some("42"), "{:?}", status.outputs);
    let log = stdout(cluster.krt(&["logs", "r"])).await?;
    ensure!(log.trim() == "over r", "{log:?}");
    Ok(())
}

async fn module_and_args(cluster: Cluster) -> anyhow::Result<()> {
    pool(&cluster).await?;
    let task = |args: &[&str]| json!({"runtime": "python", "mode": {"task": {"args": args}}});
    cluster.submit("m", task(&["-m", "calendar", "2026", "2"])).await?;
    cluster.submit("c", task(&["-c", "import sys; print(sys.argv[1:])", "a b", "-x"])).await?;
    for (name, words) in [("m", "February 2026"), ("c", "['a b', '-x']")] {
        let status = cluster.end(name).await?;
        ensure!(phase(&status) == Phase::Succeeded, "{name}: {status:?}");
        let log = stdout(cluster.krt(&["logs", name])).await?;
        ensure!(log.contains(words), "{name}: {log:?}");
    }
    let function = json!({"runtime": "python", "mode": {"function": {"handler": "tool.main"}},
        "source": {"inline": "def main(event):\n    return [event, 6 * 7]\n", "inlinePath": "tool.py"}});
    cluster.submit("f", function).await?;
    let status = cluster.end("f").await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    let log = stdout(cluster.krt(&["logs", "f"])).await?;
    ensure!(log.trim() == r#"[{"args": []}, 42]"#, "{log:?}");
    cluster.submit("nothing", json!({"runtime": "python"})).await?;
    let status = cluster.end("nothing").await?;
    ensure!(status.reason == Some(Reason::InvalidRun), "{status:?}");
    ensure!(status.message.as_deref().unwrap_or_default().contains("-m MODULE"), "{status:?}");
    Ok(())
}

/// The last lines of a traceback are in the status, also when the code never flushes anything itself.
async fn traceback(cluster: Cluster) -> anyhow::Result<()> {
    pool(&cluster).await?;
    cluster.submit("r", code("def deep(n):\n    return 1 / n\n\ndeep(0)\n")).await?;
    let status = cluster.end("r").await?;
    ensure!(phase(&status) == Phase::Failed && status.exit_code == Some(1), "{status:?}");
    let tail = status.log_tail.unwrap_or_default();
    for words in ["Traceback (most recent call last)", "line 2, in deep", "return 1 / n", "ZeroDivisionError"]
    {
        ensure!(tail.contains(words), "{words:?} in {tail:?}");
    }
    let shown = stdout(cluster.krt(&["describe", "r"])).await?;
    ensure!(shown.contains("ZeroDivisionError"), "{shown}");
    Ok(())
}

/// The platform's own folder lies in a home of mode 0700, and so does the interpreter.
async fn closed_home(cluster: Cluster) -> anyhow::Result<()> {
    let (home, _) = cluster.shared_file("venv")?;
    std::fs::create_dir_all(home.join("bin"))?;
    let mut asked = std::process::Command::new("python3");
    asked.args(["-c", "import sys; print(sys.executable)"]);
    let real = stdout(asked).await?;
    let interpreter = home.join("bin/python3");
    std::os::unix::fs::symlink(real.trim(), &interpreter)?;
    let mut container = container();
    container["image"] = json!(PYTHON_IMAGE);
    container["env"] = json!([{"name": "KRUNTIME_PYTHON", "value": interpreter}]);
    let spec = json!({"template": {"spec": {"containers": [container]}}});
    cluster.pool("python", PYTHON_IMAGE, 1, spec).await?;
    let text =
        "import os, sys\nopen(os.environ['KRUNTIME_OUTPUTS'], 'a').write('at=%s\\n' % sys.executable)\n";
    let status = cluster.run("r", code(text)).await?;
    ensure!(phase(&status) == Phase::Succeeded, "{status:?}");
    ensure!(status.outputs.get("at").map(std::path::Path::new) == Some(&interpreter), "{:?}", status.outputs);
    Ok(())
}

async fn exit_codes(cluster: Cluster) -> anyhow::Result<()> {
    pool(&cluster).await?;
    let text = "import sys; sys.exit(7)";
    let run = output(cluster.krt(&["run", "--runtime", "python", "-c", text])).await?;
    ensure!(run.status.code() == Some(7), "{run:?}");
    cluster.submit("abort", code("import ctypes; ctypes.string_at(0)")).await?;
    let status = cluster.end("abort").await?;
    ensure!(status.exit_code == Some(128 + 11), "{status:?}");
    ensure!(status.log_tail.unwrap_or_default().contains("Segmentation fault"), "says where it crashed");
    Ok(())
}
