//! `krt logs`: a Run's output, with its reader's own rights to `pods/log`.

use std::collections::VecDeque;
use std::time::Instant;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::{Run, names};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::attach::driver::{self, Interrupts, Sink};
use crate::attach::logs::{Entry, Line, Reader, Stream};
use crate::attach::machine::{Filter, Machine, Options, Outcome};
use crate::error::Error;
use crate::render;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Show the output of a Run.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Run.
    #[arg(value_name = "RUN", value_parser = values::run_name)]
    run: String,
    /// Go on until the Run has ended.
    #[arg(long, short)]
    follow: bool,
    /// The last N lines only; 0 or -1 is all.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    tail: i64,
    /// One stream only.
    #[arg(long, value_name = "STREAM", value_enum, default_value_t)]
    stream: Streams,
    /// One attempt only; default: the last for a finished output, each as it comes with --follow.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    attempt: Option<i32>,
    /// Put the time before each line.
    #[arg(long)]
    timestamps: bool,
    /// Accepted for the older krt's sake; the port is not used.
    #[arg(long, value_name = "PORT", hide = true)]
    status_port: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Streams {
    /// Standard output, to standard output.
    Stdout,
    /// Standard error, to standard error.
    Stderr,
    /// Each to its own.
    #[default]
    Both,
}

impl LogsArgs {
    fn filter(&self, attempt: Option<i32>) -> Filter {
        let stream = match self.stream {
            Streams::Both => None,
            Streams::Stdout => Some(Stream::Out),
            Streams::Stderr => Some(Stream::Err),
        };
        Filter { stream, attempt }
    }

    fn last(&self) -> Option<usize> {
        usize::try_from(self.tail).ok().filter(|count| *count > 0)
    }
}

pub(crate) async fn run(args: LogsArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let run = session.run(&args.run).await?;
    let sink = Sink { terminal, notes: true, timestamps: args.timestamps, output: true };
    match args.follow {
        true => follow(&args, session, run, &sink).await,
        false => once(&args, session, &run, &sink).await,
    }
}

/// What is there.
async fn once(args: &LogsArgs, session: &Session, run: &Run, sink: &Sink<'_>) -> Result<u8, Error> {
    let status = run.status.clone().unwrap_or_default();
    let current = status.attempt;
    let attempt = args.attempt.or(current);
    let pods = match (status.assigned_pod.filter(|pod| !pod.is_empty()), args.attempt) {
        // An earlier attempt may have run in any Pod of the pool.
        (own, Some(wanted)) if Some(wanted) != current => pool(session, run, own).await?,
        (Some(pod), _) => vec![pod],
        (None, _) => {
            sink.terminal.note(&format!(
                "Run {} is {}: it has no Pod, hence no output yet",
                args.run,
                render::run::phase(run)
            ));
            return Ok(exit::OK);
        }
    };
    let mut shown = Shown::new(run, args.filter(attempt), args.last());
    let mut gone = true;
    for pod in &pods {
        gone &= !read_pod(session, run, pod, &mut shown, sink).await?;
    }
    shown.flush(sink)?;
    if gone && attempt == current && !shown.any {
        super::run::show_tail(run, sink.terminal)?;
    } else if !shown.any && args.attempt.is_some_and(|wanted| Some(wanted) != current) {
        sink.terminal.warn(&format!(
            "no Pod of Runtime {} has output of attempt {}",
            run.spec.runtime,
            attempt.unwrap_or(1)
        ));
    }
    Ok(exit::OK)
}

/// The Pods of the Run's pool, its own first.
async fn pool(session: &Session, run: &Run, own: Option<String>) -> Result<Vec<String>, Error> {
    let params = ListParams::default().labels(&format!("{}={}", names::RUNTIME_LABEL, run.spec.runtime));
    let (pods, _) = session.list("list Pods", &session.api::<Pod>(), params).await?;
    let others = pods.iter().map(ResourceExt::name_any).filter(|name| Some(name) != own.as_ref());
    Ok(own.clone().into_iter().chain(others).collect())
}

/// Reads the log of one Pod to its end; false when the Pod is gone.
async fn read_pod(
    session: &Session,
    run: &Run,
    pod: &str,
    shown: &mut Shown,
    sink: &Sink<'_>,
) -> Result<bool, Error> {
    let api: Api<Pod> = session.api();
    let stream = match api.log_stream(pod, &driver::log_params(false, driver::begin(run))).await {
        Ok(stream) => stream,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
        Err(error) => return Err(session.explain(&format!("read the log of Pod {pod}"), error)),
    };
    let mut stream = std::pin::pin!(stream);
    let failed = |source| Error::io(format!("read the log of Pod {pod}"), source);
    while let Some(entries) = driver::next_entries(&mut stream, &mut shown.reader).await.map_err(failed)? {
        shown.entries(entries, sink)?;
    }
    Ok(true)
}

/// Lines on their way out: all, or the last of them.
struct Shown {
    filter: Filter,
    last: Option<usize>,
    kept: VecDeque<Line>,
    reader: Reader,
    lost: u64,
    any: bool,
}

impl Shown {
    fn new(run: &Run, filter: Filter, last: Option<usize>) -> Self {
        let reader = Reader::new(run.metadata.uid.as_deref().unwrap_or_default());
        Self { filter, last, kept: VecDeque::new(), reader, lost: 0, any: false }
    }

    fn entries(&mut self, entries: Vec<Entry>, sink: &Sink<'_>) -> Result<(), Error> {
        let mut lines = Vec::new();
        for entry in entries {
            match entry {
                Entry::Output(line) if self.filter.accepts(&line) => lines.push(line),
                Entry::Lost(bytes) => self.lost += bytes,
                Entry::Output(_) | Entry::End { .. } | Entry::Reached(_) => {}
            }
        }
        self.any |= !lines.is_empty();
        let Some(last) = self.last else { return sink.lines(&lines) };
        self.kept.extend(lines);
        self.kept.drain(..self.kept.len().saturating_sub(last));
        Ok(())
    }

    fn flush(&mut self, sink: &Sink<'_>) -> Result<(), Error> {
        sink.lines(std::mem::take(&mut self.kept).make_contiguous())?;
        if self.last.is_none() && self.lost > 0 {
            sink.terminal.warn(&super::run::lost_words(self.lost));
        }
        Ok(())
    }
}

/// What is there and what comes, until the Run has ended.
async fn follow(args: &LogsArgs, session: &Session, run: Run, sink: &Sink<'_>) -> Result<u8, Error> {
    let mut interrupts = Interrupts::listen()?;
    let filter = args.filter(args.attempt);
    let mut reader = Reader::new(run.metadata.uid.as_deref().unwrap_or_default());
    let pod =
        run.status.as_ref().and_then(|status| status.assigned_pod.clone()).filter(|pod| !pod.is_empty());
    if let (Some(_), Some(pod)) = (args.last(), pod) {
        // The stream that follows begins at the same place: what is shown or left out here is passed over there.
        let mut shown = Shown::new(&run, filter, args.last());
        read_pod(session, &run, &pod, &mut shown, sink).await?;
        shown.flush(sink)?;
        reader = shown.reader;
    }
    let options = Options { filter, cancels: false };
    let machine = Machine::new(&args.run, &run.uid().unwrap_or_default(), options, Instant::now());
    match driver::follow_from(session, run, machine, sink, &mut interrupts, reader).await? {
        Outcome::Left => Ok(exit::INTERRUPTED),
        Outcome::Deleted => Err(Error::failed(format!("Run {} was deleted", args.run), "")),
        Outcome::Ended { run, log_gone, cut_short, lost, .. } => {
            if log_gone {
                super::run::show_tail(&run, sink.terminal)?;
            } else {
                super::run::warn_of_holes(cut_short, lost, sink.terminal);
            }
            if sink.terminal.live {
                sink.terminal.note(&render::run::summary(&run, Timestamp::now(), sink.terminal.err));
            }
            Ok(exit::OK)
        }
    }
}
