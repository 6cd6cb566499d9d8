//! The folders of the Runs: `<work dir>/<Run uid>`.
//!
//! Made per attempt, removed after it. What a Run could have shaped is opened beneath
//! the root, without following links, and only regular files are read.
//!
//! All functions block; they are called off the event loop.

mod beneath;
pub mod journal;
pub mod outputs;
mod remove;

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kruntimes_core::ids::RunUid;
use rustix::fs::{Mode, OFlags};

use outputs::OutputsError;

/// Stand-alone scripts of task Runs.
pub const SCRIPT_FILE: &str = "script";
/// The outputs file.
pub const OUTPUTS_FILE: &str = "outputs";
/// Where a Git source is checked out.
pub const REPO_FOLDER: &str = "repo";

/// Longest Run uid that can name a folder.
const MAX_NAME: usize = 128;

/// Why a workspace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The uid cannot name a folder.
    #[error("run uid {uid:?} cannot name a folder")]
    Name {
        /// As given.
        uid: String,
    },
    /// The path leads out of the folder.
    #[error("source.inlinePath: {path:?} must be a relative path without \"..\"")]
    Path {
        /// As given.
        path: String,
    },
    /// The file system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// All workspaces of this Pod. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Workspaces {
    path: PathBuf,
    root: Arc<OwnedFd>,
}

impl Workspaces {
    /// Opens the folder that holds them; it must exist.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), root: Arc::new(root) })
    }

    /// The folder of one Run.
    pub fn path_of(&self, uid: &RunUid) -> PathBuf {
        self.path.join(uid.as_str())
    }

    /// Makes an empty folder for an attempt; whatever was there is removed.
    ///
    /// # Errors
    /// When the uid is no name, or the file system refuses.
    pub fn create(&self, uid: &RunUid) -> Result<Workspace, WorkspaceError> {
        let name = folder_name(uid)?;
        let failed = |what: &str| {
            let what = format!("{what} {}", self.path_of(uid).display());
            move |source: rustix::io::Errno| WorkspaceError::Io { what, source: source.into() }
        };
        remove::remove_tree(self.root.as_fd(), name).map_err(failed("remove what is left in"))?;
        // The group is the Pod's fsGroup: a server with another uid must be able to write.
        let mode = Mode::RWXU | Mode::RWXG;
        rustix::fs::mkdirat(&*self.root, name, mode).map_err(failed("make"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&*self.root, name, flags, Mode::empty()).map_err(failed("open"))?;
        // Not narrowed by whatever umask holds.
        rustix::fs::chmodat(&*self.root, name, mode, rustix::fs::AtFlags::empty())
            .map_err(failed("open up"))?;
        Ok(Workspace { folder })
    }

    /// Removes the folder of a Run; it may be absent.
    ///
    /// # Errors
    /// When something in it resists.
    pub fn remove(&self, uid: &RunUid) -> Result<(), WorkspaceError> {
        let name = folder_name(uid)?;
        remove::remove_tree(self.root.as_fd(), name).map_err(|source| WorkspaceError::Io {
            what: format!("remove {}", self.path_of(uid).display()),
            source: source.into(),
        })
    }

    /// Reads and checks the outputs of an attempt; no file means none.
    ///
    /// # Errors
    /// When it is not a regular file, too large or malformed.
    pub fn read_outputs(
        &self,
        uid: &RunUid,
    ) -> Result<std::collections::BTreeMap<String, String>, OutputsError> {
        let unreadable = |why: String| OutputsError::Unreadable { why };
        let path = Path::new(uid.as_str()).join(OUTPUTS_FILE);
        let file = match beneath::open_regular(self.root.as_fd(), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let mut text = Vec::new();
        let limit = outputs::MAX_FILE as u64 + 1;
        file.take(limit).read_to_end(&mut text).map_err(|error| unreadable(error.to_string()))?;
        outputs::parse(&text)
    }
}

fn folder_name(uid: &RunUid) -> Result<&str, WorkspaceError> {
    let name = uid.as_str();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(WorkspaceError::Name { uid: name.to_owned() });
    }
    Ok(name)
}

/// The fresh folder of one attempt.
#[derive(Debug)]
pub struct Workspace {
    folder: OwnedFd,
}

impl Workspace {
    /// Writes a file of mode 0644; folders on the way are made.
    ///
    /// # Errors
    /// When the path leads out, or the file system refuses.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<(), WorkspaceError> {
        let outside = || WorkspaceError::Path { path: path.to_owned() };
        let mut parts = Vec::new();
        for component in Path::new(path).components() {
            match component {
                Component::Normal(part) => parts.push(part),
                _ => return Err(outside()),
            }
        }
        let (file, folders) = parts.split_last().ok_or_else(outside)?;
        self.write_parts(folders, file, content)
            .map_err(|source| WorkspaceError::Io { what: format!("write the file {path:?}"), source })
    }

    fn write_parts(
        &self,
        folders: &[&std::ffi::OsStr],
        file: &std::ffi::OsStr,
        content: &[u8],
    ) -> io::Result<()> {
        let mut at = self.folder.try_clone()?;
        for folder in folders {
            rustix::fs::mkdirat(&at, *folder, Mode::RWXU | Mode::RWXG)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, *folder, flags, Mode::empty())?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let opened = rustix::fs::openat(&at, file, flags, mode)?;
        rustix::fs::fchmod(&opened, mode)?;
        std::fs::File::from(opened).write_all(content)
    }
}

#[cfg(test)]
mod tests;
