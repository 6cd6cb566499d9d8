//! A Git server that answers when it is told to: the files of one repository over plain HTTP on loopback.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// Longest time for which a question stays unanswered.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Gate {
    asked: bool,
    open: bool,
}

type Shared = Arc<(Mutex<Gate>, Condvar)>;

/// One commit with one file, behind a gate that is shut at first.
pub struct Origin {
    /// Held as long as it serves.
    _folder: tempfile::TempDir,
    address: SocketAddr,
    gate: Shared,
    /// The commit.
    pub commit: String,
}

impl Origin {
    /// Makes the repository, whose only file `name` has this content, and listens.
    ///
    /// # Errors
    /// When git or the network of this machine fails.
    pub fn start(name: &str, content: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let work = folder.path().join("work");
        std::fs::create_dir(&work)?;
        git(&work, &["init", "--quiet"])?;
        std::fs::write(work.join(name), content)?;
        git(&work, &["add", name])?;
        git(&work, &["commit", "--quiet", "--message=one"])?;
        git(&work, &["update-server-info"])?;
        let commit = git(&work, &["rev-parse", "HEAD"])?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, gate, root) = (listener.local_addr()?, Shared::default(), work.join(".git"));
        let shared = gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, gate) = (root.clone(), shared.clone());
                // Whoever asked may have been killed meanwhile.
                std::thread::spawn(move || answer(stream, &root, &gate).ok());
            }
        });
        Ok(Self { _folder: folder, address, gate, commit })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/origin.git", self.address)
    }

    /// Whether somebody has asked for anything.
    pub fn is_asked(&self) -> bool {
        lock(&self.gate).asked
    }

    /// From now on questions are answered.
    pub fn open(&self) {
        lock(&self.gate).open = true;
        self.gate.1.notify_all();
    }
}

fn lock(gate: &Shared) -> MutexGuard<'_, Gate> {
    gate.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn git(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut git = Command::new("git");
    git.current_dir(folder).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(arguments);
    let output = git.output().context("running git")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// One file for one connection; what asks for the newer protocol gets the files all the same and goes on with those.
fn answer(mut stream: TcpStream, root: &Path, gate: &Shared) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("no request")??;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    lock(gate).asked = true;
    gate.1.notify_all();
    let shut = gate.1.wait_timeout_while(lock(gate), PATIENCE, |gate| !gate.open);
    drop(shut.unwrap_or_else(PoisonError::into_inner));
    let path = first.split(' ').nth(1).and_then(|path| path.split('?').next()).unwrap_or_default();
    let path = path.trim_start_matches("/origin.git/");
    let body = match path.contains("..") {
        true => None,
        false => std::fs::read(PathBuf::from(root).join(path)).ok(),
    };
    let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
    Ok(())
}
