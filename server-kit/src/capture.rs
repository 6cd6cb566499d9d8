//! Output of one execution: bounded, addressed by byte offset, never in the Run's way.
//!
//! Each stream keeps its first and its last half of the bound; what lies between is dropped, and a
//! reader sees the gap as a jump of the offset. Short output stays in memory; longer output goes to
//! a file without a name, which is gone with the server. All pipes are emptied on one thread of
//! their own, so that a slow disk holds up writers and never a call.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Kept in memory before a stream gets its file.
const IN_MEMORY: usize = 16 * 1024;
/// Read from a pipe at once.
const CHUNK: usize = 32 * 1024;
/// Read after the last process is gone at most: no pipe holds more (`fs.pipe-max-size` by default).
/// A writer outside of the Run's tree that got hold of the pipe cannot delay its end for ever.
const LAST_GULP: usize = 1024 * 1024;

/// Where captures are made and how much they keep.
#[derive(Clone, Debug)]
pub(crate) struct Capturer {
    runtime: Handle,
    directory: Arc<PathBuf>,
    /// Kept per stream, bytes.
    bound: u64,
    captured: Counter,
    dropped: Counter,
}

impl Capturer {
    /// Starts the thread. `directory` must be writable when output grows; nothing in it gets a name.
    pub(crate) fn start(
        directory: &Path,
        bound: u64,
        captured: Counter,
        dropped: Counter,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("capture".into())
            .stack_size(256 * 1024)
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self { runtime: handle, directory: Arc::new(directory.to_owned()), bound, captured, dropped })
    }

    /// Two pipes. The write ends are for the command alone: drop them once it has them.
    pub(crate) fn open(&self) -> io::Result<(Capture, Pipes, [OwnedFd; 2])> {
        let _entered = self.runtime.enter();
        let pipe = || -> io::Result<(Arc<Stream>, Receiver, OwnedFd)> {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&read, true)?;
            Ok((Arc::new(Stream::new(self)), Receiver::from_owned_fd_unchecked(read)?, write))
        };
        let (stdout, out_read, out_write) = pipe()?;
        let (stderr, err_read, err_write) = pipe()?;
        let capture = Capture { stdout, stderr };
        let pipes =
            Pipes { runtime: self.runtime.clone(), capture: capture.clone(), read: [out_read, err_read] };
        Ok((capture, pipes, [out_write, err_write]))
    }
}

/// Read ends that nobody empties yet: waking the thread that does is left until the command is on its way.
#[derive(Debug)]
pub(crate) struct Pipes {
    runtime: Handle,
    capture: Capture,
    read: [Receiver; 2],
}

impl Pipes {
    /// Begins to empty them.
    pub(crate) fn drain(self) -> Pumps {
        let done = CancellationToken::new();
        let [out, err] = self.read;
        let tasks = [(out, self.capture.stdout), (err, self.capture.stderr)]
            .map(|(pipe, stream)| self.runtime.spawn(pump(pipe, stream, done.clone())));
        Pumps { done, tasks }
    }
}

/// Both streams of one execution.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub stdout: Arc<Stream>,
    pub stderr: Arc<Stream>,
}

/// What empties the pipes of one execution.
#[derive(Debug)]
pub(crate) struct Pumps {
    done: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Pumps {
    /// Call when every process is gone: takes what the pipes still hold, then closes them.
    pub(crate) async fn finish(self) {
        self.done.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

async fn pump(pipe: Receiver, stream: Arc<Stream>, done: CancellationToken) {
    let mut open = true;
    while open {
        tokio::select! {
            biased;
            () = done.cancelled() => break,
            ready = pipe.readable() => {
                open = ready.is_ok() && swallow(&stream, CHUNK, |buffer| pipe.try_read(buffer));
            }
        }
    }
    if open {
        // From the pipe itself: what a short Run wrote may be there before the runtime has heard of it.
        swallow(&stream, LAST_GULP, |buffer| Ok(rustix::io::read(&pipe, buffer)?));
    }
    stream.end();
}

/// Reads what is there, up to about `most`; false at the end of the pipe.
fn swallow(stream: &Stream, most: usize, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> bool {
    let mut buffer = [0u8; CHUNK];
    let mut taken = 0;
    while taken < most {
        match read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => {
                taken += length;
                stream.append(&buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    store: Mutex<Store>,
    grown: watch::Sender<()>,
    captured: Counter,
    dropped: Counter,
}

/// Bytes of a stream, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of the first byte; greater than asked for when bytes were dropped there.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Nothing follows this piece, now or later.
    pub last: bool,
}

impl Stream {
    fn new(capturer: &Capturer) -> Self {
        Self {
            store: Mutex::new(Store::new(capturer.bound, Arc::clone(&capturer.directory))),
            grown: watch::Sender::new(()),
            captured: capturer.captured.clone(),
            dropped: capturer.dropped.clone(),
        }
    }

    fn append(&self, bytes: &[u8]) {
        let dropped = self.store().append(bytes);
        self.captured.inc_by(bytes.len() as u64);
        self.dropped.inc_by(dropped);
        self.grown.send_replace(());
    }

    fn end(&self) {
        self.store().ended = true;
        self.grown.send_replace(());
    }

    /// Up to `most` bytes from `offset`.
    pub(crate) fn read(&self, offset: u64, most: usize) -> Piece {
        self.store().read(offset, most)
    }

    /// Changes whenever something was added, or the end came.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    /// The last `most` bytes as text, cut between characters; invalid bytes are replaced.
    pub(crate) fn tail(&self, most: usize) -> String {
        let store = self.store();
        let mut from = store.total.saturating_sub(most as u64);
        let mut bytes = Vec::new();
        loop {
            let piece = store.read(from, most);
            if piece.data.is_empty() {
                break;
            }
            from = piece.offset + piece.data.len() as u64;
            bytes.extend(piece.data);
        }
        let cut = store.total > most as u64;
        let ended = store.ended;
        drop(store);
        text(&bytes, cut, !ended)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `cut`: the first bytes may be the rest of a character. `open`: the last ones may be the beginning of one.
fn text(bytes: &[u8], cut: bool, open: bool) -> String {
    let continuation = |byte: &&u8| (**byte & 0b1100_0000) == 0b1000_0000;
    let skip = if cut { bytes.iter().take(3).take_while(continuation).count() } else { 0 };
    let mut bytes = &bytes[skip..];
    if open
        && let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
    {
        bytes = &bytes[..error.valid_up_to()];
    }
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Debug)]
struct Store {
    /// Half of the bound.
    half: u64,
    total: u64,
    memory: Vec<u8>,
    file: Option<File>,
    /// The file could not be made or written; what came later is dropped.
    broken: bool,
    ended: bool,
    directory: Arc<PathBuf>,
}

impl Store {
    fn new(bound: u64, directory: Arc<PathBuf>) -> Self {
        let half = (bound / 2).max(IN_MEMORY as u64);
        Self { half, total: 0, memory: Vec::new(), file: None, broken: false, ended: false, directory }
    }

    /// Returns how many bytes were dropped, these or older ones.
    fn append(&mut self, bytes: &[u8]) -> u64 {
        if self.file.is_none() && !self.broken {
            if self.memory.len() + bytes.len() <= IN_MEMORY {
                self.memory.extend_from_slice(bytes);
                self.total += bytes.len() as u64;
                return 0;
            }
            self.spill();
        }
        if self.broken {
            self.total += bytes.len() as u64;
            return bytes.len() as u64;
        }
        let before = self.lost();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (position, room) = self.place(self.total);
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            let written = self.file.as_ref().map(|file| file.write_all_at(now, position));
            if let Some(Err(error)) = written {
                tracing::warn!(%error, "output can no longer be kept");
                self.broken = true;
                self.file = None;
                self.memory = Vec::new();
                self.total += rest.len() as u64;
                return self.total;
            }
            self.total += now.len() as u64;
            rest = later;
        }
        self.lost() - before
    }

    fn lost(&self) -> u64 {
        self.total.saturating_sub(2 * self.half)
    }

    /// Where the byte at `offset` lies in the file, and how many can follow it there.
    fn place(&self, offset: u64) -> (u64, u64) {
        match offset.checked_sub(self.half) {
            None => (offset, self.half - offset),
            Some(behind) => {
                let within = behind % self.half;
                (self.half + within, self.half - within)
            }
        }
    }

    fn spill(&mut self) {
        match unnamed_file(&self.directory).and_then(|file| file.write_all_at(&self.memory, 0).map(|()| file))
        {
            Ok(file) => {
                self.file = Some(file);
                self.memory = Vec::new();
            }
            Err(error) => {
                tracing::warn!(%error, directory = %self.directory.display(), "no file for output; it is cut");
                self.broken = true;
            }
        }
    }

    fn read(&self, offset: u64, most: usize) -> Piece {
        let kept_head = self.half.min(self.total);
        let tail = if self.lost() > 0 { self.total - self.half } else { kept_head };
        let (offset, end) = if self.broken {
            // Without the file only what memory holds is left.
            let held = self.memory.len() as u64;
            if offset < held { (offset, held) } else { (self.total, self.total) }
        } else if offset < kept_head {
            (offset, kept_head)
        } else {
            (offset.clamp(tail, self.total), self.total)
        };
        let mut length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(most);
        let data = match &self.file {
            None => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.memory.len());
                self.memory[from..(from + length).min(self.memory.len())].to_vec()
            }
            Some(file) => {
                let (position, room) = self.place(offset);
                length = length.min(usize::try_from(room).unwrap_or(usize::MAX));
                let mut data = vec![0; length];
                match file.read_exact_at(&mut data, position) {
                    Ok(()) => data,
                    Err(error) => {
                        tracing::warn!(%error, "kept output can no longer be read");
                        Vec::new()
                    }
                }
            }
        };
        let last = self.ended && (data.is_empty() || offset + data.len() as u64 == self.total);
        Piece { offset, data, last }
    }
}

/// A file that never had a name, or lost it at once where the file system cannot do that.
fn unnamed_file(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let unnamed = options.clone().custom_flags(nix::libc::O_TMPFILE).open(directory);
    if let Ok(file) = unnamed {
        return Ok(file);
    }
    let path = directory.join(format!(".output-{:032x}", rand::random::<u128>()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
