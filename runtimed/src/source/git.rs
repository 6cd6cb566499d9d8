//! Git sources, through the `git` program: one revision, shallow, and nothing of the
//! repository or of this machine's configuration that could run a program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::Semaphore;

use super::process::{self, Finished, ProcessError};
use super::url::{UrlError, check_revision, check_url};

/// Largest single file that a fetch may write (a pack), in multiples of the tree's bound.
const PACK_FACTOR: u64 = 10;
const FETCH: &str = "fetch";
/// What git says when the program that it reads from has ended.
const NOTHING_CAME: &str = "Could not read from remote repository.";
const CHECKOUT_LIMIT: Duration = Duration::from_secs(15);
const QUICK_LIMIT: Duration = Duration::from_secs(15);

/// How to fetch.
#[derive(Debug, Clone)]
pub struct GitSettings {
    /// The program.
    pub program: PathBuf,
    /// PEM file with the CA of private servers.
    pub ca_file: Option<PathBuf>,
    /// In the format of git's credential store.
    pub credentials_file: Option<PathBuf>,
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// Host keys for ssh; without it no host is trusted.
    pub known_hosts: Option<PathBuf>,
    /// For fetching.
    pub clone_timeout: Duration,
    /// Bytes of a checked-out tree at most.
    pub max_tree: u64,
    /// Sources fetched at once.
    pub parallel: usize,
    /// Allows `file://`, for tests.
    pub allow_file: bool,
}

/// Why a source could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Refused before git saw it.
    #[error(transparent)]
    Refused(#[from] UrlError),
    /// In git's own words.
    #[error("git {step}: {message}")]
    Failed {
        /// Which step.
        step: &'static str,
        /// Git's last line, or why there is none.
        message: String,
    },
    /// The tree is too large.
    #[error("the checked-out tree exceeds {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
}

/// Fetches sources. Cloning shares the bound on parallel work.
#[derive(Debug, Clone)]
pub struct Git {
    settings: Arc<GitSettings>,
    permits: Arc<Semaphore>,
}

impl Git {
    /// With these settings.
    pub fn new(settings: GitSettings) -> Self {
        let permits = Arc::new(Semaphore::new(settings.parallel.max(1)));
        Self { settings: Arc::new(settings), permits }
    }

    /// Checks out `revision` (the default branch when absent) into `folder`, which must not
    /// exist, and says which commit that is.
    ///
    /// # Errors
    /// With git's own last line, when it fails or does not end in time.
    pub async fn check_out(
        &self,
        url: &str,
        revision: Option<&str>,
        folder: &Path,
    ) -> Result<String, GitError> {
        if !(self.settings.allow_file && url.starts_with("file://")) {
            check_url(url)?;
        }
        let revision = revision.filter(|revision| !revision.is_empty());
        if let Some(revision) = revision {
            check_revision(revision)?;
        }
        let _permit = self.permits.acquire().await;
        // An empty template: no hook comes from there either.
        let mut init = self.command(Path::new("/"));
        init.args(["init", "--quiet", "--template="]).arg(folder);
        self.step("init", init, QUICK_LIMIT).await?;
        let commit = self.fetch(url, revision, folder).await?;
        self.check_size(folder, &commit).await?;
        let mut checkout = self.command(folder);
        checkout.args(["checkout", "--quiet", "--detach", "--force", &commit]);
        self.step("checkout", checkout, CHECKOUT_LIMIT).await?;
        Ok(commit)
    }

    /// Fetches the revision alone; a commit that the server does not hand out by itself is
    /// looked for in everything it has.
    async fn fetch(&self, url: &str, revision: Option<&str>, folder: &Path) -> Result<String, GitError> {
        let until = Instant::now() + self.settings.clone_timeout;
        let wanted = revision.unwrap_or("HEAD");
        let shallow = self.fetch_refs(url, &["--depth=1"], &[wanted], folder, until).await;
        match shallow {
            Ok(()) => self.resolve("FETCH_HEAD", folder).await,
            Err(refused @ GitError::Failed { .. }) if looks_like_commit(wanted) && Instant::now() < until => {
                let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
                self.fetch_refs(url, &[], &all, folder, until).await?;
                // A branch or tag may look like a commit, too.
                for name in [
                    wanted.to_owned(),
                    format!("refs/tags/{wanted}"),
                    format!("refs/remotes/origin/{wanted}"),
                ] {
                    if let Ok(commit) = self.resolve(&name, folder).await {
                        return Ok(commit);
                    }
                }
                Err(refused)
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_refs(
        &self,
        url: &str,
        options: &[&str],
        refs: &[&str],
        folder: &Path,
        until: Instant,
    ) -> Result<(), GitError> {
        let mut fetch = self.command(folder);
        // Its own protocol and no other: no redirect leads from https to anything else.
        fetch.env("GIT_ALLOW_PROTOCOL", url.split_once("://").map_or("ssh", |(protocol, _)| protocol));
        fetch.args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]);
        fetch.args(options).arg("--").arg(url).args(refs);
        let left = until.saturating_duration_since(Instant::now());
        self.step(FETCH, fetch, left).await.map(drop)
    }

    async fn resolve(&self, name: &str, folder: &Path) -> Result<String, GitError> {
        let mut parse = self.command(folder);
        parse
            .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
            .arg(format!("{name}^{{commit}}"));
        let finished = self.step("rev-parse", parse, QUICK_LIMIT).await?;
        Ok(finished.stdout.trim().to_owned())
    }

    /// Sums the blobs before any is written.
    async fn check_size(&self, folder: &Path, commit: &str) -> Result<(), GitError> {
        let limit = self.settings.max_tree;
        let mut list = self.command(folder);
        list.args(["ls-tree", "-r", "-l", "-z", "--full-tree", commit]);
        let mut sum = TreeSize::default();
        let listed = process::run(list, u64::MAX, QUICK_LIMIT, |bytes| {
            sum.add(bytes);
            sum.total <= limit
        });
        let finished = listed.await.map_err(|error| failed("ls-tree", &error))?;
        if sum.total > limit {
            return Err(GitError::TooLarge { limit });
        }
        if finished.success { Ok(()) } else { Err(last_words("ls-tree", &finished)) }
    }

    async fn step(
        &self,
        step: &'static str,
        command: Command,
        limit: Duration,
    ) -> Result<Finished, GitError> {
        let file_limit = self.settings.max_tree.saturating_mul(PACK_FACTOR);
        let run = process::run(command, file_limit, limit, |_| true).await;
        let finished = run.map_err(|error| match error {
            // The whole budget is what a person knows, not what was left of it for this step.
            ProcessError::TimedOut(_) if step == FETCH => {
                failed(step, &ProcessError::TimedOut(self.settings.clone_timeout))
            }
            other => failed(step, &other),
        })?;
        if finished.success { Ok(finished) } else { Err(last_words(step, &finished)) }
    }

    /// `git` in `folder`, deaf to every configuration but ours.
    fn command(&self, folder: &Path) -> Command {
        let settings = &self.settings;
        let mut git = Command::new(&settings.program);
        git.current_dir(folder).env_clear();
        for name in ["PATH", "LD_LIBRARY_PATH", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
            if let Some(value) = std::env::var_os(name) {
                git.env(name, value);
            }
        }
        git.envs([
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
        ]);
        git.env("GIT_ALLOW_PROTOCOL", "none").env("GIT_SSH_COMMAND", self.ssh_command());
        for option in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "submodule.recurse=false",
            "http.followRedirects=initial",
            "credential.helper=",
            "gc.auto=0",
            "advice.detachedHead=false",
            "safe.directory=*",
        ] {
            git.args(["-c", option]);
        }
        // An optional key of a secret: a file that is not there was not given.
        if let Some(file) = settings.credentials_file.as_ref().filter(|file| file.exists()) {
            git.arg("-c").arg(option("credential.helper=store --file=", &shell_quoted(file)));
        }
        if let Some(file) = &settings.ca_file {
            git.arg("-c").arg(option("http.sslCAInfo=", file.as_os_str()));
        }
        git
    }

    fn ssh_command(&self) -> OsString {
        let mut command = OsString::from(
            "ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=10 \
             -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null",
        );
        command.push(" -o UserKnownHostsFile=");
        match &self.settings.known_hosts {
            Some(file) => command.push(shell_quoted(file)),
            None => command.push("/dev/null"),
        }
        if let Some(key) = self.settings.ssh_key.as_ref().filter(|key| key.exists()) {
            command.push(" -i ");
            command.push(shell_quoted(key));
        }
        command
    }
}

fn option(prefix: &str, value: &std::ffi::OsStr) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(value);
    text
}

fn shell_quoted(path: &Path) -> OsString {
    OsString::from(format!("'{}'", path.to_string_lossy().replace('\'', r"'\''")))
}

fn looks_like_commit(revision: &str) -> bool {
    (4..=64).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn failed(step: &'static str, error: &ProcessError) -> GitError {
    GitError::Failed { step, message: error.to_string() }
}

/// Git's last line that says something: the one it marks as fatal, when there is one.
fn last_words(step: &'static str, finished: &Finished) -> GitError {
    let lines = || finished.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let marked = lines().rfind(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let message = marked.or_else(|| lines().next_back()).unwrap_or("it failed without a word");
    // Over ssh git only knows that nothing came: the line before is ssh's or the server's and says why.
    let before = lines().take_while(|line| *line != message).last();
    let message = match before {
        Some(why) if message.ends_with(NOTHING_CAME) => format!("{why} ({message})"),
        _ => message.to_owned(),
    };
    GitError::Failed { step, message: crate::text::first_bytes(&message, 1024).to_owned() }
}

/// Sums sizes over `MODE TYPE OBJECT SIZE\tPATH\0` records that come in pieces.
#[derive(Debug, Default)]
struct TreeSize {
    total: u64,
    record: Vec<u8>,
    in_path: bool,
}

impl TreeSize {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (byte, self.in_path) {
                (0, _) => {
                    self.in_path = false;
                    self.record.clear();
                }
                (b'\t', false) => {
                    self.in_path = true;
                    let size = self.record.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                    let size = std::str::from_utf8(size).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                    self.total = self.total.saturating_add(size);
                }
                (_, false) => self.record.push(*byte),
                (_, true) => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
