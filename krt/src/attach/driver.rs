//! Carries out what the [`machine`](super::machine) decides.

use std::time::{Duration, Instant};

use futures::{AsyncBufRead, AsyncBufReadExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::{Run, names};
use kube::api::{Api, LogParams};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::logs::{Entry, Line, Reader, Stream};
use super::machine::{Action, Event, Machine, Outcome};
use crate::error::Error;
use crate::session::{Session, Sight};
use crate::term::{Spinner, Terminal};

/// Blocks of the log that may wait between the network and the terminal.
const QUEUE: usize = 16;
/// How far clocks of the API server and the node may be apart, in seconds.
const SKEW: i64 = 60;
/// Pauses between attempts to reopen a log, doubled up to the second.
const REOPEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How lines are shown.
pub struct Sink<'a> {
    /// Where.
    pub terminal: &'a Terminal,
    /// Words of krt's own, too.
    pub notes: bool,
    /// A time before each line.
    pub timestamps: bool,
    /// The output itself; otherwise it is read and dropped.
    pub output: bool,
}

impl Sink<'_> {
    /// Shows lines, in as few writes as their streams allow.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn lines(&self, lines: &[Line]) -> Result<(), Error> {
        if !self.output {
            return Ok(());
        }
        for block in lines.chunk_by(|one, next| one.stream == next.stream) {
            let mut bytes = Vec::with_capacity(block.iter().map(|line| line.bytes.len()).sum());
            for line in block {
                if let Some(time) = line.time.filter(|_| self.timestamps) {
                    bytes.extend_from_slice(format!("{time:.6} ").as_bytes());
                }
                bytes.extend_from_slice(&line.bytes);
            }
            self.terminal.bytes(block[0].stream == Stream::Err, &bytes)?;
        }
        Ok(())
    }

    fn note(&self, text: &str) {
        if self.notes {
            self.terminal.note(text);
        }
    }
}

/// Ctrl-c and polite requests to stop.
pub struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// From now on these signals are events.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn listen() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |source| Error::io("listen for ctrl-c", source);
        Ok(Self {
            int: signal(SignalKind::interrupt()).map_err(failed)?,
            term: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Follows `run` until the machine is done.
///
/// # Errors
/// When the Run cannot be watched, or standard output is closed.
pub async fn follow(
    session: &Session,
    run: Run,
    machine: Machine,
    sink: &Sink<'_>,
) -> Result<Outcome, Error> {
    let mut interrupts = Interrupts::listen()?;
    let reader = Reader::new(run.metadata.uid.as_deref().unwrap_or_default());
    follow_from(session, run, machine, sink, &mut interrupts, reader).await
}

/// As [`follow`]; what `reader` has read already is not shown again.
///
/// # Errors
/// As [`follow`].
pub async fn follow_from(
    session: &Session,
    run: Run,
    mut machine: Machine,
    sink: &Sink<'_>,
    interrupts: &mut Interrupts,
    reader: Reader,
) -> Result<Outcome, Error> {
    let name = run.metadata.name.clone().unwrap_or_default();
    let source = Source { session: session.clone(), since: begin(&run), reader };
    let mut watch = std::pin::pin!(session.watch::<Run>(&format!("watch Run {name}"), &name));
    let (sender, mut log) = mpsc::channel(QUEUE);
    let mut readers = JoinSet::new();
    let mut spinner = sink.terminal.spinner();
    let mut event = Event::Run(Box::new(run));
    loop {
        for action in machine.handle(event, Instant::now()) {
            match action {
                Action::Open(pod) => {
                    readers.spawn(source.clone().read(pod, sender.clone()));
                }
                Action::Write(lines) => spinner.aside(|| sink.lines(&lines))?,
                Action::Note(text) => spinner.aside(|| sink.note(&text)),
                Action::Waiting(text) => turn(&mut spinner, sink, text.as_deref()),
                Action::Cancel => {
                    // A Run that ends by itself meanwhile refuses nothing; a real refusal is worth a word.
                    if let Err(error) = session.cancel(&name).await {
                        spinner.aside(|| sink.terminal.error(&error));
                    }
                }
                Action::Done(outcome) => return Ok(outcome),
            }
        }
        event = tokio::select! {
            biased;
            () = interrupts.next() => Event::Interrupt,
            // Before the Run: what was printed before an end is shown before it.
            Some(event) = log.recv() => event,
            sight = watch.next() => match sight {
                Some(Sight::Object(run)) => Event::Run(run),
                Some(Sight::Absent) => Event::Absent,
                Some(Sight::Trouble(text)) => Event::Trouble(format!("{text}; trying again")),
                Some(Sight::Refused(error)) => return Err(error),
                None => return Err(Error::Protocol { doing: format!("watch Run {name}"), why: "the watch ended".into() }),
            },
            () = sleep_until(machine.deadline()) => Event::Tick,
        };
    }
}

fn turn(spinner: &mut Spinner, sink: &Sink<'_>, text: Option<&str>) {
    if sink.notes || text.is_none() {
        spinner.show(text);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// No line of the Run is older than this.
pub fn begin(run: &Run) -> Option<Timestamp> {
    let created = run.metadata.creation_timestamp.as_ref()?.0;
    created.checked_sub(SignedDuration::from_secs(SKEW)).ok()
}

/// Parameters of `pods/log` for the container that carries the output.
pub fn log_params(follow: bool, since: Option<Timestamp>) -> LogParams {
    LogParams {
        container: Some(names::RUNTIMED_CONTAINER.to_owned()),
        follow,
        since_time: since,
        ..LogParams::default()
    }
}

#[derive(Clone)]
struct Source {
    session: Session,
    since: Option<Timestamp>,
    reader: Reader,
}

impl Source {
    /// Reads the log of `pod` until nobody listens or the Pod is gone; a stream that ends is opened again,
    /// for it ends with every restart of the container.
    async fn read(mut self, pod: String, to: mpsc::Sender<Event>) {
        let pods: Api<Pod> = self.session.api();
        let mut pause = REOPEN.0;
        loop {
            match pods.log_stream(&pod, &log_params(true, self.since())).await {
                Ok(stream) => {
                    self.reader.restart();
                    match self.pass_on(stream, &to).await {
                        Passed::Nobody => return,
                        Passed::Ended { any: true } => pause = REOPEN.0,
                        Passed::Ended { any: false } => {}
                    }
                }
                // 400: the container has not started; everything but a refusal may pass.
                Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                    let why = if status.code == 404 {
                        "the Pod is gone".to_owned()
                    } else {
                        status.message.clone()
                    };
                    drop(to.send(Event::LogClosed { pod, why }).await);
                    return;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = to.closed() => return,
            }
            pause = (pause * 2).min(REOPEN.1);
        }
    }

    /// A stream that is opened again need not begin at the beginning.
    fn since(&self) -> Option<Timestamp> {
        let reached =
            self.reader.reached().and_then(|time| time.checked_sub(SignedDuration::from_secs(SKEW)).ok());
        reached.max(self.since)
    }

    async fn pass_on(&mut self, stream: impl AsyncBufRead, to: &mpsc::Sender<Event>) -> Passed {
        let mut stream = std::pin::pin!(stream);
        let mut any = false;
        while let Some(entries) = next_entries(&mut stream, &mut self.reader).await.unwrap_or(None) {
            any = true;
            if !entries.is_empty() && to.send(Event::Log(entries)).await.is_err() {
                return Passed::Nobody;
            }
        }
        Passed::Ended { any }
    }
}

/// What the next block of a log says; none at its end.
///
/// # Errors
/// As the stream.
pub async fn next_entries(
    stream: &mut (impl AsyncBufRead + Unpin),
    reader: &mut Reader,
) -> std::io::Result<Option<Vec<Entry>>> {
    let block = stream.fill_buf().await?;
    if block.is_empty() {
        return Ok(None);
    }
    let (entries, length) = (reader.read(block, Instant::now()), block.len());
    stream.consume_unpin(length);
    Ok(Some(entries))
}

enum Passed {
    Nobody,
    Ended { any: bool },
}
