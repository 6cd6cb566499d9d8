//! The logs of containers: written line by line as kubelet does, bounded, read by `pods/log`.
//!
//! One file per start of a container, `pods/UID/logs/CONTAINER/N.log`; when it is full it becomes
//! `N.log.1`, and the `N.log.1` before it is gone.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::errors::ApiError;
use crate::object::{self, list, text};

/// Bytes after which a log file is turned over; so at most twice as much is kept.
pub const FILE_LIMIT: u64 = 10 * 1024 * 1024;

/// Longest line that is kept in one piece, as in the CRI.
const LINE_LIMIT: usize = 16 * 1024;

/// How far a log has been written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes in the present file.
    size: u64,
    /// Files filled before it.
    turned: u32,
    ended: bool,
}

/// Pod uid and container name.
type ContainerId = (String, String);

/// Where the logs are, and which of them are being written.
#[derive(Debug)]
pub struct LogBook {
    root: PathBuf,
    live: Mutex<HashMap<ContainerId, (u32, watch::Receiver<Progress>)>>,
}

/// What a client asks of `pods/log`.
#[derive(Debug, Default, Clone)]
pub struct LogQuery {
    /// Empty takes the only container.
    pub container: String,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub tail: Option<usize>,
    pub limit_bytes: Option<usize>,
}

impl LogBook {
    /// Logs below `root`, the folder of the Pods.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), live: Mutex::default() }
    }

    fn folder(&self, uid: &str, container: &str) -> PathBuf {
        self.root.join(uid).join("logs").join(container)
    }

    /// Begins the log of a start of a container.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn writer(&self, uid: &str, container: &str, start: u32) -> io::Result<LogWriter> {
        let folder = self.folder(uid, container);
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{start}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        let (progress, receiver) = watch::channel(Progress { size, ..Progress::default() });
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert((uid.to_owned(), container.to_owned()), (start, receiver));
        // The start before last can be asked for by nobody any more.
        if let Some(old) = start.checked_sub(2) {
            for name in [format!("{old}.log"), format!("{old}.log.1")] {
                drop(fs::remove_file(folder.join(name)));
            }
        }
        Ok(LogWriter { path, file, progress })
    }

    /// Forgets a Pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pod, _), _| pod != uid);
    }

    /// The log of one container of `pod`.
    ///
    /// # Errors
    /// When there is no such container, or it has not started.
    pub fn read(
        &self,
        pod: &Value,
        query: LogQuery,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, ApiError> {
        let uid = object::uid(pod);
        let container = choose(pod, &query.container)?;
        let folder = self.folder(uid, &container);
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let live = live.get(&(uid.to_owned(), container.clone())).cloned();
        let name = object::name(pod);
        let latest = match &live {
            Some((start, _)) => *start,
            None => latest_start(&folder).ok_or_else(|| waiting(pod, &container))?,
        };
        let (start, progress) = match (query.previous, latest.checked_sub(1)) {
            (false, _) => (latest, live.map(|(_, progress)| progress)),
            (true, Some(before)) if folder.join(format!("{before}.log")).exists() => (before, None),
            (true, _) => {
                return Err(ApiError::BadRequest(format!(
                    "previous terminated container {container:?} in pod {name:?} not found"
                )));
            }
        };
        let path = folder.join(format!("{start}.log"));
        let state = progress.as_ref().map(|p| *p.borrow());
        let reading = Reader::open(path, state, query).map_err(|e| ApiError::Internal(e.to_string()))?;
        Ok(reading.stream(progress))
    }
}

fn choose(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |pointer: &str| -> Vec<String> {
        list(pod, pointer).iter().map(|c| text(c, "/name").to_owned()).collect()
    };
    let (containers, init) = (names("/spec/containers"), names("/spec/initContainers"));
    let name = object::name(pod);
    if asked.is_empty() {
        return match &containers[..] {
            [one] => Ok(one.clone()),
            _ => Err(ApiError::BadRequest(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            ))),
        };
    }
    if containers.iter().chain(&init).any(|c| c == asked) {
        return Ok(asked.to_owned());
    }
    Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {name}")))
}

fn waiting(pod: &Value, container: &str) -> ApiError {
    let status = list(pod, "/status/containerStatuses").iter().find(|s| s["name"] == container);
    let reason = match status.map(|s| text(s, "/state/waiting/reason")) {
        None | Some("") => "ContainerCreating",
        Some(reason) => reason,
    };
    let name = object::name(pod);
    ApiError::BadRequest(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
}

/// The highest number of a log file in a container's folder.
fn latest_start(folder: &Path) -> Option<u32> {
    let entries = fs::read_dir(folder).ok()?;
    let number = |entry: io::Result<fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.strip_suffix(".log")?.parse().ok()
    };
    entries.filter_map(number).max()
}

/// Writes the log of one start of a container.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    progress: watch::Sender<Progress>,
}

impl LogWriter {
    /// Writes lines, each with its time, stream (`stdout`, `stderr`) and whether it is whole.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, stream: &str, lines: &[(Vec<u8>, bool)]) -> io::Result<()> {
        let mut out = Vec::new();
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.9fZ").to_string();
        for (line, whole) in lines {
            let tag = if *whole { "F" } else { "P" };
            out.extend_from_slice(format!("{now} {stream} {tag} ").as_bytes());
            out.extend_from_slice(line);
            out.push(b'\n');
        }
        let mut progress = *self.progress.borrow();
        if progress.size > 0 && progress.size + out.len() as u64 > FILE_LIMIT {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            progress.size = 0;
            progress.turned += 1;
        }
        self.file.write_all(&out)?;
        progress.size += out.len() as u64;
        self.progress.send_replace(progress);
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub struct LineCutter {
    rest: Vec<u8>,
}

impl LineCutter {
    /// The lines that `bytes` completes; true marks a whole line.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.rest.extend_from_slice(end);
                    self.cut(&mut lines);
                    lines.push((std::mem::take(&mut self.rest), true));
                }
                None => {
                    self.rest.extend_from_slice(piece);
                    self.cut(&mut lines);
                }
            }
        }
        lines
    }

    fn cut(&mut self, lines: &mut Vec<(Vec<u8>, bool)>) {
        while self.rest.len() > LINE_LIMIT {
            let tail = self.rest.split_off(LINE_LIMIT);
            lines.push((std::mem::replace(&mut self.rest, tail), false));
        }
    }

    /// What was not ended by a newline.
    pub fn finish(&mut self) -> Vec<(Vec<u8>, bool)> {
        if self.rest.is_empty() { Vec::new() } else { vec![(std::mem::take(&mut self.rest), true)] }
    }
}

struct Reader {
    path: PathBuf,
    file: File,
    turned: u32,
    query: LogQuery,
    /// A line that is not yet complete in the file.
    rest: Vec<u8>,
    /// Whether the last line shown was a piece, whose rest then gets no time of its own.
    piece: bool,
    /// Bytes that may still be sent.
    left: usize,
    first: Option<Bytes>,
}

impl Reader {
    /// Opens a log and reads what is there, bounded by the two files.
    fn open(path: PathBuf, state: Option<Progress>, query: LogQuery) -> io::Result<Self> {
        let mut file = File::open(&path)?;
        let mut raw = Vec::new();
        if let Ok(mut before) = File::open(path.with_extension("log.1")) {
            before.read_to_end(&mut raw)?;
        }
        file.read_to_end(&mut raw)?;
        let turned = state.unwrap_or_default().turned;
        let left = query.limit_bytes.unwrap_or(usize::MAX);
        let mut reader =
            Self { path, file, turned, query, rest: Vec::new(), piece: false, left, first: None };
        let mut lines: VecDeque<Vec<u8>> = reader.lines(&raw).into();
        if let Some(tail) = reader.query.tail {
            let ends = |l: &Vec<u8>| l.ends_with(b"\n");
            let mut surplus = lines.iter().filter(|l| ends(l)).count().saturating_sub(tail);
            while surplus > 0 {
                surplus -= usize::from(lines.pop_front().is_some_and(|l| ends(&l)));
            }
        }
        let text: Vec<u8> = lines.into_iter().flatten().collect();
        reader.first = Some(reader.bounded(text));
        Ok(reader)
    }

    fn bounded(&mut self, mut text: Vec<u8>) -> Bytes {
        text.truncate(self.left);
        self.left -= text.len();
        text.into()
    }

    /// The lines in `raw` as the client wants to see them.
    fn lines(&mut self, raw: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in raw.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                lines.extend(self.shown(&line));
            }
        }
        lines
    }

    /// `TIME STREAM TAG TEXT` as the client asked for it.
    fn shown(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (time, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if let Some(since) = self.query.since {
            let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if time < since {
                return None;
            }
        }
        let continued = std::mem::replace(&mut self.piece, tag == b"P");
        let text = if self.piece { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
        if self.query.timestamps && !continued {
            return Some([time, b" ", text].concat());
        }
        Some(text.to_vec())
    }

    /// What has been written since the last look.
    fn more(&mut self, progress: Progress) -> io::Result<Bytes> {
        let mut raw = Vec::new();
        self.file.read_to_end(&mut raw)?;
        if progress.turned != self.turned {
            self.turned = progress.turned;
            self.file = File::open(&self.path)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.read_to_end(&mut raw)?;
        }
        let text = self.lines(&raw).concat();
        Ok(self.bounded(text))
    }

    fn stream(
        self,
        progress: Option<watch::Receiver<Progress>>,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let progress = progress.filter(|_| self.query.follow);
        futures::stream::unfold((self, progress, false), |(mut reader, mut progress, mut last)| async move {
            loop {
                if let Some(first) = reader.first.take()
                    && !first.is_empty()
                {
                    return Some((Ok(first), (reader, progress, last)));
                }
                let receiver = progress.as_mut()?;
                if last || reader.left == 0 {
                    return None;
                }
                let now = *receiver.borrow_and_update();
                // The end is noted before the last look, so that nothing is missed.
                last = now.ended;
                match reader.more(now) {
                    Ok(text) if !text.is_empty() => return Some((Ok(text), (reader, progress, last))),
                    Ok(_) if last => return None,
                    Ok(_) => last = receiver.changed().await.is_err(),
                    Err(why) => {
                        tracing::warn!(%why, path = %reader.path.display(), "cannot read a log");
                        return None;
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
