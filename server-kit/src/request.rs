//! From the wire to a checked request: every refusal names its field.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use kruntimes_proto::v1;
use kruntimes_traces::Place;
use nix::sys::signal::Signal;

use crate::environment::PassList;
use crate::server::{Job, Launch};
use crate::supervisor::wire;
use crate::table::{ExecutionId, Fence, Limits, Warning};

/// Variables in one request at most.
const MAX_ENV: usize = 4096;
/// The longest grace that a request may ask for: one day.
const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Where commands are looked up when neither the Run nor the server has a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `INVALID_ARGUMENT`: what is wrong with which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub(crate) struct Invalid {
    pub field: String,
    pub message: String,
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), message: message.into() }
}

/// A request that was checked as far as it can be without the server author.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub id: ExecutionId,
    pub fence: Fence,
    pub job: Job,
    pub limits: Limits,
    pub outputs: String,
    pub artifacts: String,
    /// Where its span belongs; a malformed word is none.
    pub trace: Option<Place>,
}

/// Checks an execution id.
pub(crate) fn execution_id(id: &str) -> Result<ExecutionId, Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > 128 || !id.bytes().all(allowed) {
        return Err(invalid("id", "must be 1 to 128 bytes of [A-Za-z0-9._-]"));
    }
    Ok(ExecutionId::from(id))
}

impl Request {
    /// `now` is the wall clock, for the absolute deadline.
    pub(crate) fn check(
        wire: v1::ExecuteRequest,
        options: &[String],
        work_dir: &Path,
        now_micros: i64,
    ) -> Result<Self, Invalid> {
        let id = execution_id(&wire.id)?;
        for (index, arg) in wire.args.iter().enumerate() {
            no_nul(&format!("args[{index}]"), arg)?;
        }
        check_env(&wire.env)?;
        let working_dir = check_working_dir(&wire.working_dir, work_dir)?;
        check_entrypoint(&wire.entrypoint)?;
        no_nul("handler", &wire.handler)?;
        for path in [("outputs_path", &wire.outputs_path), ("artifacts_path", &wire.artifacts_path)] {
            no_nul(path.0, path.1)?;
        }
        if let Some(key) = wire.options.keys().find(|key| !options.contains(key)) {
            let known = if options.is_empty() { "none".to_owned() } else { options.join(", ") };
            return Err(invalid(
                format!("options[{key}]"),
                format!("unknown option; this server accepts: {known}"),
            ));
        }
        let limits = check_limits(&wire, now_micros)?;
        let fence = Fence { attempt: wire.attempt, assignment: wire.assignment };
        let job = Job {
            id: wire.id,
            attempt: wire.attempt,
            args: wire.args,
            env: wire.env.into_iter().collect(),
            entrypoint: wire.entrypoint,
            handler: wire.handler,
            working_dir,
            options: wire.options.into_iter().collect(),
            resources: wire.resources.into_iter().collect(),
            held: Vec::new(),
            device_paths: Vec::new(),
            limits: wire.limits.into_iter().collect(),
            namespace: wire.namespace,
            run_name: wire.run_name,
            submitter: wire.submitter,
        };
        let trace = Place::parse(&wire.traceparent);
        Ok(Self { id, fence, job, limits, outputs: wire.outputs_path, artifacts: wire.artifacts_path, trace })
    }

    /// The job for the supervisor. The environment, weakest first: what passes from the server, what fences and
    /// trace ask for, the author's, the Run's, the two paths that the caller decided, what tells of the
    /// Run's leases.
    pub(crate) fn command(
        &self,
        launch: &Launch,
        passed: &PassList,
        asked: Vec<(&'static str, Vec<u8>)>,
        leased: Vec<(String, String)>,
    ) -> Result<wire::Job, Invalid> {
        let mut env: BTreeMap<Vec<u8>, Vec<u8>> = passed.variables();
        env.extend(asked.into_iter().map(|(name, value)| (name.into(), value)));
        for (name, value) in &launch.env {
            env.insert(name.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        for (name, value) in &self.job.env {
            env.insert(name.clone().into_bytes(), value.clone().into_bytes());
        }
        for (name, path) in [("KRUNTIME_OUTPUTS", &self.outputs), ("KRUNTIME_ARTIFACTS_DIR", &self.artifacts)]
        {
            if !path.is_empty() {
                env.insert(name.into(), path.clone().into_bytes());
            }
        }
        env.extend(leased.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())));
        let search = env.get(b"PATH".as_slice()).map_or(DEFAULT_PATH.as_bytes(), Vec::as_slice);
        let programs = candidates(launch.program.as_bytes(), search);
        let cwd = launch.cwd.as_deref().unwrap_or(&self.job.working_dir);
        let args = [launch.program.as_os_str()].into_iter().chain(launch.args.iter().map(AsRef::as_ref));
        Ok(wire::Job {
            cwd: c_string("cwd", cwd.as_os_str().as_bytes().to_vec())?,
            programs: programs.into_iter().map(|path| c_string("program", path)).collect::<Result<_, _>>()?,
            args: args.map(|arg| c_string("args", arg.as_bytes().to_vec())).collect::<Result<_, _>>()?,
            env: env
                .into_iter()
                .map(|(name, value)| c_string("env", [name, b"=".to_vec(), value].concat()))
                .collect::<Result<_, _>>()?,
            parts: Vec::new(),
        })
    }
}

fn c_string(field: &str, bytes: Vec<u8>) -> Result<CString, Invalid> {
    CString::new(bytes).map_err(|_| invalid(field, "holds a NUL byte"))
}

/// The paths to try for `program`, as a shell does: as it is when it holds a slash, else along `search`.
fn candidates(program: &[u8], search: &[u8]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let directories =
        search.split(|b| *b == b':').map(|dir| if dir.is_empty() { b".".as_slice() } else { dir });
    directories.map(|dir| [dir, b"/", program].concat()).collect()
}

fn no_nul(field: &str, text: &str) -> Result<(), Invalid> {
    if text.contains('\0') { Err(invalid(field, "holds a NUL byte")) } else { Ok(()) }
}

fn check_env(env: &std::collections::HashMap<String, String>) -> Result<(), Invalid> {
    if env.len() > MAX_ENV {
        return Err(invalid("env", format!("{} variables, at most {MAX_ENV}", env.len())));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid(format!("env[{}]", name.escape_debug()), "not a variable name"));
        }
        no_nul(&format!("env[{name}]"), value)?;
    }
    Ok(())
}

fn check_working_dir(given: &str, default: &Path) -> Result<PathBuf, Invalid> {
    no_nul("working_dir", given)?;
    match given {
        "" => Ok(default.to_owned()),
        absolute if absolute.starts_with('/') => Ok(PathBuf::from(absolute)),
        _ => Err(invalid("working_dir", format!("{given:?} is not an absolute path"))),
    }
}

fn check_entrypoint(entrypoint: &str) -> Result<(), Invalid> {
    no_nul("entrypoint", entrypoint)?;
    let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if Path::new(entrypoint).components().all(inside) {
        return Ok(());
    }
    Err(invalid("entrypoint", format!("{entrypoint:?} must be a relative path without \"..\"")))
}

fn check_limits(wire: &v1::ExecuteRequest, now_micros: i64) -> Result<Limits, Invalid> {
    let timeout = match wire.timeout_seconds {
        0 => None,
        seconds if seconds > 0 => Some(Duration::from_secs(seconds.unsigned_abs())),
        seconds => return Err(invalid("timeout_seconds", format!("{seconds} is negative"))),
    };
    let deadline = match wire.deadline {
        0 => None,
        at if at > 0 => Some(Duration::from_micros(u64::try_from(at - now_micros).unwrap_or(0))),
        at => return Err(invalid("deadline", format!("{at} is negative"))),
    };
    let end = timeout.into_iter().chain(deadline).min();
    let grace = Duration::from_secs(wire.grace_seconds.into());
    if grace > MAX_GRACE {
        return Err(invalid("grace_seconds", format!("{} is more than a day", wire.grace_seconds)));
    }
    let warning = match (wire.warn_signal.as_str(), end) {
        ("", _) => None,
        (name, end) => {
            let signal = signal_by_name(name)
                .ok_or_else(|| invalid("warn_signal", format!("{name:?} is not a signal name")))?;
            let before = Duration::from_secs(wire.warn_seconds.into());
            end.map(|end| Warning { signal: signal as i32, after: end.saturating_sub(before) })
        }
    };
    Ok(Limits { end_after: end, grace: (!grace.is_zero()).then_some(grace), warning })
}

/// `USR1`, `SIGUSR1`, in any case.
fn signal_by_name(name: &str) -> Option<Signal> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse().ok()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
