//! What is to be done inside, as both sides see it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A program to run inside the machine, at the same path as outside.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Job {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Added to a short environment of the machine's own (`PATH`, `HOME`).
    pub environment: BTreeMap<String, String>,
}

/// Where the job lies on the machine's disk.
pub const JOB_FILE: &str = "job.json";
/// Where the kernel modules lie in the initial file system, with a list in the order of loading.
pub const MODULES: &str = "modules";
/// The list.
pub const MODULE_LIST: &str = "modules/list";

/// The serial ports: what each carries.
pub const OUTPUT: &str = "/dev/ttyS1";
pub const ERRORS: &str = "/dev/ttyS2";
/// One line when the machine is up, one with the exit status or the trouble.
pub const STATUS: &str = "/dev/ttyS3";

/// What the machine says about itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// The disk is mounted, the program is about to start.
    Up,
    /// The program ended; a signal is 128 and its number.
    Ended(u8),
    /// The program could not be started.
    Trouble(String),
}
