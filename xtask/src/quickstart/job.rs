//! The job: the sources in eight parts, a Run for each, and the results.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Platform, RUNTIME, printed};
use crate::workspace::{TextFile, Workspace};

/// Runs at once.
const PARTS: usize = 8;
/// A Run carries its script; the API takes this much.
const MAX_SCRIPT: usize = 256 * 1024;
const SCRIPT: &str = "examples/wordcount/count.sh";

/// A share of the sources.
pub struct Part {
    pub files: usize,
    pub lines: usize,
    pub bytes: usize,
    script: String,
}

/// A Run as `krt run -o json` prints it; only what is shown.
#[derive(Debug, Deserialize)]
pub struct Run {
    pub metadata: Metadata,
    pub status: Status,
}

#[derive(Debug, Deserialize)]
pub struct Metadata {
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub assigned_pod: Option<String>,
    pub queued_time: Option<String>,
    pub scheduled_time: Option<String>,
    pub start_time: Option<String>,
    pub completion_time: Option<String>,
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    pub usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub last: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub source: String,
}

impl Run {
    /// A number among the outputs.
    pub fn output(&self, name: &str) -> Result<usize> {
        let text = self
            .status
            .outputs
            .get(name)
            .with_context(|| format!("{} has no output {name}", self.metadata.name))?;
        text.parse().with_context(|| format!("{}: output {name} is {text}", self.metadata.name))
    }

    /// The sum of the named figures; none when one is missing.
    pub fn usage(&self, names: &[&str]) -> Option<f64> {
        let figures = &self.status.usage.as_ref()?.last;
        names
            .iter()
            .map(|name| figures.iter().find(|figure| figure.name == *name).map(|figure| figure.value))
            .sum()
    }
}

/// Cuts the sources into parts of about one size and makes each a script.
pub fn parts(workspace: &Workspace) -> Result<Vec<Part>> {
    let is_source = |file: &TextFile| {
        [".rs", ".proto", ".md", ".sh", ".toml", ".yaml", ".go"].iter().any(|end| file.path.ends_with(end))
    };
    let sources = workspace.texts()?.into_iter().filter(is_source).collect();
    let counting = workspace.read(SCRIPT);
    shares(sources).into_iter().map(|share| part(workspace, &share, &counting)).collect()
}

/// The largest file goes to the smallest share, and so on.
fn shares(mut files: Vec<TextFile>) -> Vec<Vec<TextFile>> {
    files.sort_by_key(|file| std::cmp::Reverse(file.text.len()));
    let mut shares: Vec<(usize, Vec<TextFile>)> = (0..PARTS).map(|_| (0, Vec::new())).collect();
    for file in files {
        if let Some(smallest) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            smallest.0 += file.text.len();
            smallest.1.push(file);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

/// The files travel inside the script, so that the job needs nothing from this machine and runs on any cluster.
fn part(workspace: &Workspace, share: &[TextFile], counting: &str) -> Result<Part> {
    let mut pack = Command::new("bash");
    pack.args(["-c", "tar --create --gzip --no-recursion --files-from=- | base64"])
        .current_dir(&workspace.root);
    let list: String = share.iter().map(|file| format!("{}\n", file.path)).collect();
    let archive = printed(pack, &list).context("cannot pack the sources with tar and base64")?;
    let script = format!(
        "set -euo pipefail\nmkdir files\nbase64 --decode <<'ARCHIVE' | tar --extract --gzip --directory files\n{archive}ARCHIVE\n{counting}"
    );
    if script.len() > MAX_SCRIPT {
        bail!("a part of the sources makes a script of {} bytes; a Run takes {MAX_SCRIPT}", script.len());
    }
    Ok(Part {
        files: share.len(),
        lines: share.iter().map(|file| file.text.matches('\n').count()).sum(),
        bytes: share.iter().map(|file| file.text.len()).sum(),
        script,
    })
}

/// Submits all parts at once and waits for all.
pub fn submit(platform: &Platform, parts: &[Part]) -> Result<Vec<Run>> {
    std::thread::scope(|scope| {
        let waiting: Vec<_> = parts.iter().map(|part| scope.spawn(|| submit_one(platform, part))).collect();
        let ended = waiting.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the quickstart died"),
        });
        ended.collect()
    })
}

fn submit_one(platform: &Platform, part: &Part) -> Result<Run> {
    let mut krt = platform.krt();
    krt.args(["run", "--quiet", "--runtime", RUNTIME, "--label", "example=wordcount", "--timeout", "60s"]);
    krt.args(["--output", "json", "--file", "-"]).stderr(Stdio::inherit());
    let printed = printed(krt, &part.script)?;
    serde_json::from_str(&printed).context("krt printed something else than a Run")
}

/// What the Runs counted must be what is here.
pub fn verify(parts: &[Part], runs: &[Run]) -> Result<()> {
    for (part, run) in parts.iter().zip(runs) {
        for (name, here) in [("files", part.files), ("lines", part.lines), ("bytes", part.bytes)] {
            let there = run.output(name)?;
            if there != here {
                bail!("{} counted {there} {name}; there are {here}", run.metadata.name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_about_one_size_and_nothing_is_lost() {
        let file = |size: usize| TextFile { path: size.to_string(), text: "x".repeat(size) };
        let shares = shares((1..=100).map(file).collect());
        let sizes: Vec<usize> =
            shares.iter().map(|share| share.iter().map(|file| file.text.len()).sum()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 5050);
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 100, "{sizes:?}");
    }

    #[test]
    fn a_wrong_count_is_found() {
        let part = Part { files: 2, lines: 10, bytes: 100, script: String::new() };
        let run = |lines: &str| -> Run {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "r"},
                "status": {"outputs": {"files": "2", "lines": lines, "bytes": "100"}},
            }))
            .unwrap()
        };
        assert!(verify(&[part], &[run("10")]).is_ok());
        let part = Part { files: 2, lines: 10, bytes: 100, script: String::new() };
        assert!(verify(&[part], &[run("9")]).unwrap_err().to_string().contains("9 lines"));
    }
}
