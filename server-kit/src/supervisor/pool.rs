//! The server's side: idle supervisors, and the control of a running one.
#![allow(unsafe_code, reason = "registering a descriptor with tokio")]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, oneshot};

use crate::isolation::Fences;

use super::nursery::{MARKER, MORE};
use super::sys::{receive, send, socket_pair};
use super::wire::{IN_MEMORY, IN_MESSAGE, INLINE_JOB, Job, LEASED, MAX_MESSAGE, News, Order, Report};

/// Why no supervisor could be had. Transient: it is tried again until the pool is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// The pool was shut down.
    #[error("the server is stopping")]
    Closed,
    /// A message to the supervisor failed.
    #[error("cannot reach the supervisor: {0}")]
    Supervisor(#[from] io::Error),
}

/// The three ends a command gets, and the file that its supervisor keeps open as long as it lives.
#[derive(Debug)]
pub(crate) struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub lease: Option<OwnedFd>,
}

/// Idle supervisors, made ahead by one permanent thread through the nursery.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    idle: Mutex<VecDeque<Idle>>,
    ready: Semaphore,
    state: Mutex<State>,
    /// Idle supervisors to keep.
    target: usize,
    /// The first message to each nursery.
    fences: Vec<u8>,
    /// Files that a Run may open.
    descriptors: u64,
}

#[derive(Debug, Default)]
struct State {
    nursery: Option<Arc<Nursery>>,
    /// Set while the last try to make a process failed.
    trouble: Option<String>,
    /// Who waits to hear that a killed supervisor's tree is gone.
    gone: HashMap<i32, oneshot::Sender<()>>,
    /// Supervisors asked for that did not come yet.
    coming: usize,
    closed: bool,
}

#[derive(Debug)]
struct Nursery {
    pid: i32,
    socket: OwnedFd,
}

#[derive(Debug)]
struct Idle {
    pid: i32,
    control: OwnedFd,
}

impl Pool {
    /// Starts the thread and the nursery; the first supervisors come soon after.
    /// `descriptors` is the number of files that a Run may open, unless the hard limit is lower.
    pub(crate) fn start(target: usize, descriptors: u64, fences: &Fences) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            idle: Mutex::default(),
            ready: Semaphore::new(0),
            state: Mutex::default(),
            target: target.max(1),
            fences: fences.encode(),
            descriptors,
        });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name("spawner".into()).stack_size(128 * 1024).spawn(move || {
            while let Err(error) = worker.serve() {
                let mut state = lock(&worker.state);
                if state.closed {
                    return;
                }
                tracing::error!(%error, "the nursery ended; starting another");
                state.trouble = Some(format!("cannot start processes: {error}"));
                drop(state);
                std::thread::park_timeout(Duration::from_millis(100));
            }
        })?;
        Ok(Self { shared })
    }

    /// Why no process can be started just now.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.shared.state).trouble.clone()
    }

    /// Hands `job` to an idle supervisor; waits for one when a burst has used them up.
    pub(crate) async fn start_job(
        &self,
        job: &Job,
        streams: Streams,
        confining: &[OwnedFd],
    ) -> Result<Control, PoolError> {
        loop {
            self.shared.ready.acquire().await.map_err(|_| PoolError::Closed)?.forget();
            let (idle, left) = {
                let mut pool = lock(&self.shared.idle);
                (pool.pop_front(), pool.len())
            };
            let Some(idle) = idle else { continue };
            let control = Control::new(idle, Arc::clone(&self.shared))?;
            match control.send_job(job, &streams, confining) {
                Ok(()) => {
                    // Making another takes time from the one that starts; only a burst cannot wait.
                    if left == 0 {
                        self.shared.refill();
                    }
                    return Ok(control);
                }
                // It was killed while idle; the next one.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets the nursery go on, should somebody have stopped it.
    pub(crate) fn wake(&self) {
        self.shared.wake();
    }

    /// Asks for as many supervisors as are missing. Call once a started command is on its way.
    pub(crate) fn refill(&self) {
        self.shared.refill();
    }

    /// Lets the nursery and the idle supervisors go; running ones live until their control is dropped.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.ready.close();
        lock(&self.shared.idle).clear();
        if let Some(nursery) = state.nursery.take() {
            let _ = rustix::net::shutdown(&nursery.socket, rustix::net::Shutdown::Both);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// An anonymous file in memory with `bytes`, positioned at its beginning.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("job", flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

impl Shared {
    /// One life of the nursery; ends only by an error.
    fn serve(&self) -> io::Result<()> {
        let (ours, theirs) = socket_pair()?;
        let mut nursery = spawn_nursery(theirs, self.descriptors)?;
        send(&ours, &self.fences, &[])?;
        let pid = i32::try_from(nursery.id()).map_err(io::Error::other)?;
        let there = Arc::new(Nursery { pid, socket: ours });
        {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(io::Error::other("closed"));
            }
            state.nursery = Some(Arc::clone(&there));
            state.coming = 0;
        }
        self.refill();
        let result = self.listen(&there.socket);
        lock(&self.state).nursery = None;
        // Its own child, by its own number: `waitpid` of nobody else's.
        let status = nursery.wait()?;
        result?;
        Err(io::Error::other(format!("the nursery ended with {status}")))
    }

    fn listen(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut buffer = [0u8; MAX_MESSAGE];
        while let Some((length, fds)) = receive(socket, &mut buffer)? {
            match News::decode(&buffer[..length]).map_err(io::Error::other)? {
                News::Born { pid } => {
                    let Some(control) = fds.into_iter().next() else { continue };
                    lock(&self.idle).push_back(Idle { pid, control });
                    let mut state = lock(&self.state);
                    state.trouble = None;
                    state.coming = state.coming.saturating_sub(1);
                    drop(state);
                    self.ready.add_permits(1);
                }
                News::BirthFailed { errno } => {
                    let error = io::Error::from_raw_os_error(errno);
                    tracing::warn!(%error, "no supervisor could be made");
                    {
                        let mut state = lock(&self.state);
                        state.trouble = Some(format!("cannot start processes: {error}"));
                        state.coming = state.coming.saturating_sub(1);
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                    self.refill();
                }
                News::Gone { pid, orphans } => {
                    if orphans > 0 {
                        tracing::warn!(pid, orphans, "a supervisor was killed; its processes were ended");
                    }
                    self.told(pid);
                }
            }
        }
        Ok(())
    }

    /// Asks the nursery for what is missing to the target. In a burst, when none is idle, twice as many:
    /// whoever waits takes them at once.
    fn refill(&self) {
        let idle = lock(&self.idle).len();
        let mut state = lock(&self.state);
        let wanted = if idle == 0 { 2 * self.target } else { self.target };
        let missing = wanted.saturating_sub(idle + state.coming);
        let Some(nursery) = state.nursery.clone() else { return };
        for _ in 0..missing {
            if send(&nursery.socket, MORE, &[]).is_ok() {
                state.coming += 1;
            }
        }
    }

    fn wake(&self) {
        if let Some(pid) = lock(&self.state).nursery.as_ref().and_then(|nursery| Pid::from_raw(nursery.pid)) {
            // Our own child: the number is not another's before it is waited for.
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    fn told(&self, pid: i32) {
        if let Some(waiter) = lock(&self.state).gone.remove(&pid) {
            let _ = waiter.send(());
        }
    }
}

fn spawn_nursery(socket: OwnedFd, descriptors: u64) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0(MARKER)
        .arg(descriptors.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
}

/// The server's hold on one running supervisor. Dropping it ends the Run's tree.
#[derive(Debug)]
pub(crate) struct Control {
    socket: AsyncFd<OwnedFd>,
    gone: oneshot::Receiver<()>,
    pid: i32,
    /// Stays this process, whoever inherits it. `None` where the kernel has none (before 5.3).
    pidfd: Option<OwnedFd>,
    /// Descriptors that came with reports.
    given: Vec<OwnedFd>,
    shared: Arc<Shared>,
}

impl Control {
    fn new(idle: Idle, shared: Arc<Shared>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&idle.control, true)?;
        let (sender, gone) = oneshot::channel();
        lock(&shared.state).gone.insert(idle.pid, sender);
        // SAFETY: an `OwnedFd` gives the same open descriptor as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(idle.control, Interest::READABLE) }?;
        let pidfd = Pid::from_raw(idle.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self { socket, gone, pid: idle.pid, pidfd, given: Vec::new(), shared })
    }

    fn send_job(&self, job: &Job, streams: &Streams, confining: &[OwnedFd]) -> io::Result<()> {
        let leased = if streams.lease.is_some() { LEASED } else { 0 };
        let mut message = vec![IN_MESSAGE | leased];
        message.append(&mut job.encode());
        let mut fds = vec![streams.stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()];
        fds.extend(confining.iter().map(AsFd::as_fd));
        if message.len() <= INLINE_JOB {
            fds.extend(streams.lease.as_ref().map(AsFd::as_fd));
            return send(&self.socket, &message, &fds);
        }
        let memory = memory_file(&message[1..])?;
        fds.push(memory.as_fd());
        fds.extend(streams.lease.as_ref().map(AsFd::as_fd));
        send(&self.socket, &[IN_MEMORY | leased], &fds)
    }

    /// The next report; `None` when the supervisor is gone without one.
    pub(crate) async fn report(&mut self) -> Option<Report> {
        loop {
            let mut guard = self.socket.readable().await.ok()?;
            let mut buffer = [0u8; MAX_MESSAGE];
            match guard.try_io(|socket| receive(socket.get_ref(), &mut buffer)) {
                Ok(Ok(Some((length, fds)))) => match Report::decode(&buffer[..length]) {
                    Ok(report) => {
                        self.given.extend(fds);
                        return Some(report);
                    }
                    Err(error) => {
                        tracing::error!(%error, "unreadable report of a supervisor");
                        return None;
                    }
                },
                Ok(Ok(None) | Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }

    /// The descriptors that came with [`Report::Started`].
    pub(crate) fn given(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.given)
    }

    /// Gives an order; a supervisor that is gone needs none.
    pub(crate) fn order(&self, order: Order) {
        if let Err(error) = send(&self.socket, &order.encode(), &[]) {
            tracing::debug!(%error, ?order, "supervisor did not take an order");
        }
    }

    /// Lets the supervisor go on, should somebody have stopped it, and the nursery.
    pub(crate) fn wake(&self) {
        self.signal(Signal::CONT);
        self.shared.wake();
    }

    /// Ends the supervisor itself: the nursery ends what it leaves.
    pub(crate) fn end(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            // It is gone when this fails.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// After [`Control::report`] gave `None`: waits until the nursery has ended what was left
    /// behind. False when nobody can say so.
    pub(crate) async fn orphans_gone(&mut self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(35);
        let shared = Arc::clone(&self.shared);
        let keep_awake = async {
            loop {
                shared.wake();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            gone = tokio::time::timeout(PATIENCE, &mut self.gone) => matches!(gone, Ok(Ok(()))),
            () = keep_awake => false,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        lock(&self.shared.state).gone.remove(&self.pid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
