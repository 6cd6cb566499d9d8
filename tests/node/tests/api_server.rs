//! A real API server is started, used, and ends with whoever started it. Needs the Kubernetes programs, which take minutes to build
//! when they are not in the cache: hence `ignore`, and `cargo test -p kruntimes-node -- --include-ignored` where they are wanted.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kruntimes_node::ApiServer;

/// Set in the child process of the second test, which is this program once more.
const OWNER: &str = "KRUNTIMES_NODE_TEST_OWNER";

#[test]
#[ignore = "needs the Kubernetes programs"]
fn a_server_is_used_and_leaves_nothing() {
    let server = ApiServer::start().unwrap();
    let said =
        server.kubectl().unwrap().args(["get", "namespace", "default", "-o", "name"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "namespace/default");
    let (folder, pids) = traces(server.kubeconfig());
    assert_eq!(pids.len(), 2, "etcd and the API server: {pids:?}");
    drop(server);
    assert!(!folder.exists(), "{}", folder.display());
    for pid in pids {
        assert!(!is_running(&pid), "process {pid} is left");
    }
}

/// The owner is killed, so none of its code runs any more.
#[test]
#[ignore = "needs the Kubernetes programs"]
fn a_server_ends_with_an_owner_that_is_killed() {
    if std::env::var_os(OWNER).is_some() {
        let server = ApiServer::start().unwrap();
        println!("{}", server.kubeconfig().display());
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--include-ignored", "--nocapture", "--exact", "a_server_ends_with_an_owner_that_is_killed"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    // The test harness prints its own lines before.
    let kubeconfig = lines.map(Result::unwrap).find(|line| line.ends_with("/kubeconfig")).unwrap();
    let kubeconfig = &kubeconfig[kubeconfig.find('/').unwrap()..];
    let (folder, pids) = traces(Path::new(kubeconfig));
    assert!(pids.iter().all(|pid| is_running(pid)), "{pids:?}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while folder.exists() || pids.iter().any(|pid| is_running(pid)) {
        assert!(Instant::now() < deadline, "{} or one of {pids:?} is left", folder.display());
        std::thread::yield_now();
    }
}

/// The state folder, and the processes that it names.
fn traces(kubeconfig: &Path) -> (std::path::PathBuf, Vec<String>) {
    let folder = kubeconfig.parent().unwrap().to_owned();
    let pids = std::fs::read_to_string(folder.join("pids")).unwrap();
    (folder, pids.split(' ').map(str::to_owned).collect())
}

/// A zombie is a process that nobody has waited for yet, and no longer runs.
fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
