//! An interpreter that the server can start and its Runs cannot.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// Somewhere outside /tmp, which Runs may have for themselves.
fn folder(mode: u32) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("kruntimes-").tempdir_in("/var/tmp").expect("folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).expect("mode");
    folder
}

/// A server that uses the interpreter in `home`.
fn server(home: &Path, work: &Path) -> Command {
    let mut server = Command::new(env!("CARGO_BIN_EXE_python-server"));
    server.args(["--port=0", "--bind-address=127.0.0.1", "--cgroup-parent=none"]);
    server.arg(format!("--work-dir={}", work.display()));
    server.env("KRUNTIME_PYTHON", home.join("bin/python3")).stdin(Stdio::null());
    server
}

/// Where Runs have ids of their own, a home that others cannot enter holds nothing for them.
#[test]
fn a_server_whose_runs_cannot_reach_the_interpreter_does_not_start() {
    let (home, work) = (folder(0o700), folder(0o755));
    let real =
        Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("runs");
    let real = String::from_utf8(real.stdout).expect("a path");
    std::fs::create_dir(home.path().join("bin")).expect("folder");
    symlink(real.trim(), home.path().join("bin/python3")).expect("link");
    let probe = server(home.path(), work.path()).arg("--probe").output().expect("runs");
    if !String::from_utf8_lossy(&probe.stdout).contains("own-uid\"") {
        println!("skipped: this place gives out no ids");
        return;
    }
    let said = server(home.path(), work.path()).output().expect("ends by itself");
    let said = String::from_utf8_lossy(&said.stderr);
    let home = home.path().display().to_string();
    for words in ["Runs cannot start", "bin/python3", "a user id of its own", &format!("{home} is closed")] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
}
