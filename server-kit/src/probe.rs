//! `--probe`: what would keep Runs apart in this place, told as one line of JSON instead of serving.
//!
//! `krt preflight` runs a server so in a Pod and reads the line from the Pod's log.

use std::io::Write as _;

use kruntimes_proto::v1::{AccountingSource, DescribeResponse, IsolationLevel};
use serde::Serialize;

use crate::isolation::{Axis, Ladder};
use crate::usage;

/// The line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    server: Server,
    /// Of this place: release of the kernel, the server's user.
    kernel: String,
    user: u32,
    isolation: Vec<Told>,
    accounting: Vec<Source>,
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    version: String,
}

/// As in `RuntimeInstance.status.isolation`, and what would give more.
#[derive(Debug, Serialize)]
struct Told {
    axis: String,
    level: &'static str,
    mechanism: String,
    reason: String,
    remedies: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Source {
    figure: String,
    source: String,
}

/// Prints the line, in one write.
pub(crate) fn tell(describe: &DescribeResponse, ladder: &Ladder) -> std::io::Result<()> {
    let mut line = serde_json::to_string(&report(describe, ladder))?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

fn report(describe: &DescribeResponse, ladder: &Ladder) -> Report {
    let isolation = Axis::ALL.into_iter().flat_map(|axis| {
        let told = ladder.record().axes.iter().find(|told| told.axis == axis.name());
        told.map(|told| Told {
            axis: told.axis.clone(),
            level: match told.level() {
                IsolationLevel::None => "None",
                IsolationLevel::Soft => "Soft",
                IsolationLevel::Hard => "Hard",
            },
            mechanism: told.mechanism.clone(),
            reason: told.reason.clone(),
            remedies: ladder.remedies(axis).to_vec(),
        })
    });
    let source = |known: AccountingSource| Source { figure: known.figure, source: known.source };
    Report {
        server: Server { name: describe.name.clone(), version: describe.version.clone() },
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        user: rustix::process::getuid().as_raw(),
        isolation: isolation.collect(),
        accounting: usage::sources(ladder.counters()).into_iter().map(source).collect(),
    }
}
