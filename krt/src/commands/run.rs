//! `krt run`: creates a Run, shows its output while it runs, ends with its code.

mod args;

use std::time::Instant;

use jiff::Timestamp;
use kruntimes_api::{Phase, Run, Runtime};
use kruntimes_traces::Traces;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};

pub(crate) use args::{Request, RunArgs};

use crate::attach::driver::{self, Sink};
use crate::attach::machine::{Machine, Options, Outcome};
use crate::cli::{Connection, Format};
use crate::error::Error;
use crate::render::{self, object};
use crate::session::Session;
use crate::term::Terminal;
use crate::trace::Submission;
use crate::{exit, names, spec};

/// Most Runtimes that are listed for somebody who named none of them.
const LISTED: usize = 20;

pub(crate) async fn run(args: RunArgs, connection: &Connection, terminal: &Terminal) -> Result<u8, Error> {
    let mut run = spec::build(&args, &|name| std::env::var(name).ok())?;
    if args.dry_run {
        // Without a cluster a manifest can be written, too. Who will submit it is not known yet.
        let session = Session::open(connection).await;
        run.metadata.namespace = connection.namespace.clone().or(session.ok().map(|s| s.namespace));
        return print(&run, args.output.unwrap_or(Format::Yaml), terminal).map(|()| exit::OK);
    }
    if !args.quiet
        && let Some(words) = lines_not_words(&run)
    {
        terminal.note(&words);
    }
    let session = Session::open(connection).await?;
    let traces = Traces::from_environment("krt");
    let mut submission = Submission::begin(traces, &|name| std::env::var(name).ok());
    submission.sign(&mut run);
    let ended = submit(&session, run, &args, terminal, &mut submission).await;
    submission.end(&ended).await;
    ended
}

/// Creates the Run and sees to its end, unless that is not wanted.
async fn submit(
    session: &Session,
    mut run: Run,
    args: &RunArgs,
    terminal: &Terminal,
    submission: &mut Submission,
) -> Result<u8, Error> {
    if run.spec.submitter.is_none() {
        run.spec.submitter = session.whoami("create the Run").await?;
    }
    let (created, runtime) = create(session, &run).await?;
    submission.saw(&created);
    if let Some(words) = runtime {
        let advice = format!("the Run waits until it exists; `krt cancel {}` ends it", created.name_any());
        terminal.warn(&format!("{words}\n         {advice}"));
    }
    if !args.waits() {
        return detached(&created, args, terminal).map(|()| exit::OK);
    }
    watch_to_end(session, created, args, terminal, submission).await
}

/// Said to whoever seems to have written one command in several words: a bash server takes each as a line, as the
/// original's does. Only the name tells that it is one.
fn lines_not_words(run: &Run) -> Option<String> {
    let task = run.spec.mode.as_ref()?.task.as_ref()?;
    let shell = |word: &str| matches!(word.rsplit('/').next(), Some("sh" | "bash"));
    match task.args.as_slice() {
        [first, flag, ..] if shell(first) && flag == "-c" => None,
        [first, _, ..]
            if run.spec.source.is_none()
                && task.entrypoint.is_none()
                && run.spec.runtime.starts_with("bash")
                && !first.contains(char::is_whitespace) =>
        {
            let quoted = task.args.join(" ");
            Some(format!(
                "each of the {} words after -- is a line of the script; for one command quote it: krt run -- '{quoted:.200}'",
                task.args.len()
            ))
        }
        _ => None,
    }
}

/// Creates the Run; the words are about a Runtime that does not exist. Both requests go out at once.
async fn create(session: &Session, run: &Run) -> Result<(Run, Option<String>), Error> {
    let (api, params) = (session.api::<Run>(), PostParams::default());
    let runtimes = session.api::<Runtime>();
    let creation = session.call("create the Run", api.create(&params, run));
    let look = session.call("get the Runtime", runtimes.get_metadata_opt(&run.spec.runtime));
    let (created, found) = tokio::join!(creation, look);
    let created = created?;
    // Whoever may create Runs need not be allowed to read Runtimes.
    let missing = matches!(found, Ok(None));
    Ok((created, if missing { Some(missing_runtime(session, &run.spec.runtime).await) } else { None }))
}

async fn missing_runtime(session: &Session, name: &str) -> String {
    let namespace = &session.namespace;
    let mut words = format!("there is no Runtime {name} in namespace {namespace}");
    let Ok((runtimes, _)) =
        session.list("list Runtimes", &session.api::<Runtime>(), ListParams::default()).await
    else {
        return words;
    };
    let existing: Vec<String> = runtimes.iter().map(ResourceExt::name_any).collect();
    if existing.is_empty() {
        return format!("{words}, nor any other; `krt runtime create {name} --image IMAGE` makes it");
    }
    words.push_str(&format!(
        "; there are: {}",
        existing.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ")
    ));
    if existing.len() > LISTED {
        words.push_str(&format!(" and {} more", existing.len() - LISTED));
    }
    if let Some(meant) = names::nearest(name, existing.iter().map(String::as_str)) {
        words.push_str(&format!("; did you mean {meant}?"));
    }
    words
}

fn detached(run: &Run, args: &RunArgs, terminal: &Terminal) -> Result<(), Error> {
    match args.output {
        Some(format) if format != Format::Name => print(run, format, terminal),
        Some(_) => terminal.data(&object::name(run)),
        None => terminal.data(&format!("{}\n", run.name_any())),
    }
}

async fn watch_to_end(
    session: &Session,
    run: Run,
    args: &RunArgs,
    terminal: &Terminal,
    submission: &mut Submission,
) -> Result<u8, Error> {
    let name = run.name_any();
    let options = Options { cancels: true, ..Options::default() };
    let machine = Machine::new(&name, &run.uid().unwrap_or_default(), options, Instant::now());
    // The object is the data then, so that it can be piped on; the output is in `krt logs`.
    let structured = args.output.is_some();
    let sink = Sink { terminal, notes: !args.quiet, timestamps: false, output: !structured };
    match driver::follow(session, run, machine, &sink).await? {
        Outcome::Deleted => Err(Error::failed(format!("Run {name} was deleted before it ended"), "")),
        Outcome::Left => {
            if !args.quiet {
                terminal.note(&format!(
                    "left {name} to itself: `krt logs -f {name}` follows it, `krt wait {name}` waits"
                ));
            }
            Ok(exit::INTERRUPTED)
        }
        Outcome::Ended { run, log_gone, cut_short, lost, interrupted } => {
            submission.saw(&run);
            if !structured && log_gone {
                show_tail(&run, terminal)?;
            } else if !structured {
                // Even with --quiet: whoever takes the output for whole must not be wrong.
                warn_of_holes(cut_short, lost, terminal);
            }
            if let Some(format) = args.output {
                print(&run, format, terminal)?;
            }
            if !args.quiet {
                terminal.note(&render::run::summary(&run, Timestamp::now(), terminal.err));
            }
            let cancelled = render::run::phase(&run) == Phase::Cancelled;
            Ok(if interrupted && cancelled { exit::INTERRUPTED } else { exit::of_run(&run) })
        }
    }
}

/// Says that output is missing.
pub(crate) fn warn_of_holes(cut_short: bool, lost: u64, terminal: &Terminal) {
    if lost > 0 {
        terminal.warn(&lost_words(lost));
    }
    if cut_short {
        terminal.warn("the end of the output was not seen; the log may be incomplete");
    }
}

/// How much output is missing, and why.
pub(crate) fn lost_words(bytes: u64) -> String {
    let amount = render::quantity::figure(bytes as f64, "bytes");
    format!("{amount} of the output are missing: the Pod's log was turned over before they were read")
}

/// What the status kept of the output.
pub(crate) fn show_tail(run: &Run, terminal: &Terminal) -> Result<(), Error> {
    let status = run.status.as_ref();
    let pod = status.and_then(|status| status.assigned_pod.clone()).unwrap_or_default();
    match status.and_then(|status| status.log_tail.as_deref()).filter(|tail| !tail.is_empty()) {
        Some(tail) => {
            terminal.warn(&format!(
                "Pod {pod} and its log are gone; this is the end of the output, as the Run's status kept it"
            ));
            terminal.data(tail)?;
            if tail.ends_with('\n') { Ok(()) } else { terminal.data("\n") }
        }
        None => {
            terminal.warn(&format!(
                "Pod {pod} and its log are gone, and the Run's status kept nothing of the output"
            ));
            Ok(())
        }
    }
}

/// Prints a Run in a format.
pub(crate) fn print(run: &Run, format: Format, terminal: &Terminal) -> Result<(), Error> {
    let text = match object::structured(&object::manifest(run)?, format)? {
        Some(text) => text,
        None if format == Format::Name => object::name(run),
        None => render::run::card(run, Timestamp::now(), terminal.out),
    };
    terminal.data(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_in_several_words_is_noticed() {
        let words = |runtime: &str, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let run = serde_json::json!({
                "metadata": {}, "spec": {"runtime": runtime, "mode": {"task": {"args": args}}},
            });
            lines_not_words(&serde_json::from_value(run).unwrap())
        };
        let hint = words("bash", &["echo", "hello", "world"]).unwrap();
        assert!(hint.ends_with("krt run -- 'echo hello world'"), "{hint}");
        assert_eq!(words("bash", &["echo hello"]), None);
        assert_eq!(words("bash", &["/bin/sh", "-c", "echo"]), None);
        assert_eq!(words("bash", &["cd sub", "make all"]), None, "lines are what was meant");
        assert_eq!(words("python", &["job.py", "--fast"]), None);
    }
}
