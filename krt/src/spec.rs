//! From the flags of `krt run` to the Run, checked as the API would check it.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::run::{EnvVar, Function, Mode, Resources, RetryPolicy, Source, Task};
use kruntimes_api::{Reason, Run, RunSpec, bounds, duration};
use kube::api::ObjectMeta;

use crate::commands::run::{Request, RunArgs};
use crate::error::Error;
use crate::script;
use crate::values::{EnvArg, Git};

/// Prefix of names that the API chooses.
const GENERATE_NAME: &str = "run-";

/// Looks up a variable of krt's own environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Builds the Run. Files are read, nothing is sent.
pub(crate) fn build(args: &RunArgs, environment: Environment<'_>) -> Result<Run, Error> {
    let (source, file_name) = source(args)?;
    let spec = RunSpec {
        runtime: args.runtime.clone(),
        mode: Some(mode(args, source.as_ref())?),
        source: named(source, args, file_name)?,
        env: env(args, environment)?,
        resources: resources(args)?,
        timeout: args.timeout.clone(),
        pending_timeout: args.pending_timeout.clone(),
        retry_policy: retry_policy(args)?,
        ttl_seconds_after_finished: args.ttl.as_deref().map(ttl).transpose()?,
        priority: args.priority,
        account: word("--account", args.account.as_ref())?,
        queue: word("--queue", args.queue.as_ref())?,
        submitter: word("--submitter", args.submitter.as_ref())?,
        options: options(args)?,
        ..RunSpec::default()
    };
    let labels: BTreeMap<String, String> = args.label.iter().cloned().collect();
    let metadata = ObjectMeta {
        name: args.name.clone(),
        generate_name: args.name.is_none().then(|| GENERATE_NAME.to_owned()),
        labels: (!labels.is_empty()).then_some(labels),
        ..ObjectMeta::default()
    };
    Ok(Run { metadata, spec, status: None })
}

/// The source, and the name of the file that it was read from.
fn source(args: &RunArgs) -> Result<(Option<Source>, Option<String>), Error> {
    if let Some(text) = &args.command {
        let inline = Some(script::check("--command", text.clone())?);
        return Ok((Some(Source { inline, ..Source::default() }), None));
    }
    let file =
        args.script.as_ref().map(|path| ("FILE", path)).or(args.file.as_ref().map(|path| ("--file", path)));
    if let Some((flag, path)) = file {
        let inline = Some(script::read(flag, path)?);
        return Ok((Some(Source { inline, ..Source::default() }), base_name(path)));
    }
    let (flag, git) = match (&args.git, &args.repo_url) {
        (Some(git), _) => ("--git", git.clone()),
        (None, Some(url)) => ("--repo-url", Git { url: url.clone(), reference: None }),
        (None, None) => {
            let why = "needs --git or --repo-url";
            return args
                .commit_sha
                .as_ref()
                .map_or(Ok((None, None)), |_| Err(Error::flag("--commit-sha", why)));
        }
    };
    let commit_sha = match (git.reference, args.commit_sha.clone()) {
        (Some(_), Some(_)) => return Err(Error::flag("--commit-sha", "--git names a reference already")),
        (reference, sha) => reference.or(sha),
    };
    if commit_sha.as_ref().is_some_and(|sha| sha.is_empty() || sha.len() > 256 || sha.starts_with('-')) {
        return Err(Error::flag("--commit-sha", "must be a branch, tag or commit of at most 256 characters"));
    }
    if args.entrypoint.is_none() && args.handler.is_none() && args.args.is_empty() {
        return Err(Error::flag(
            flag,
            "say what to execute: --entrypoint PATH, --handler, or a command after --",
        ));
    }
    Ok((Some(Source { repo_url: Some(git.url), commit_sha, ..Source::default() }), None))
}

fn base_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    (path != Path::new("-")).then(|| name.to_owned())
}

/// What the script is called: only a function needs to know.
fn named(source: Option<Source>, args: &RunArgs, file_name: Option<String>) -> Result<Option<Source>, Error> {
    let Some(mut source) = source else { return Ok(None) };
    if args.handler.is_some() && source.inline.is_some() {
        let name = args.inline_path.clone().or(file_name);
        let name = name.ok_or_else(|| {
            Error::flag(
                "--handler",
                "a script from -c or standard input needs a file name: --inline-path PATH",
            )
        })?;
        let refused = name.len() > 4096 || name.split('/').any(|part| matches!(part, "" | "." | ".."));
        if refused {
            return Err(Error::flag("--inline-path", "must be relative, without empty, . or .. segments"));
        }
        source.inline_path = Some(name);
    } else if args.inline_path.is_some() {
        return Err(Error::flag("--inline-path", "goes with --handler and a script"));
    }
    Ok(Some(source))
}

fn mode(args: &RunArgs, source: Option<&Source>) -> Result<Mode, Error> {
    let inline = source.is_some_and(|source| source.inline.is_some());
    if let Some(handler) = &args.handler {
        if !args.args.is_empty() {
            return Err(Error::flag("--handler", "takes no arguments after --"));
        }
        if handler.is_empty() || handler.len() > 512 {
            return Err(Error::flag("--handler", "must have 1 to 512 characters"));
        }
        let function = Function { handler: Some(handler.clone()), idle_timeout_seconds: None };
        return Ok(Mode { function: Some(function), task: None });
    }
    if inline && !args.args.is_empty() {
        let why =
            "a script gets no arguments: hand them over with --env, or take it from a repository (--git)";
        return Err(Error::flag("-- ARGS", why));
    }
    if inline && args.entrypoint.is_some() {
        return Err(Error::flag(
            "--entrypoint",
            "cannot be used with a script: the script is what is executed",
        ));
    }
    if source.is_none() && args.args.is_empty() && args.entrypoint.is_none() {
        let why = "nothing to run: give a script file, -c SCRIPT, --git URL, or a command after --";
        return Err(Error::flag("FILE", why));
    }
    if let Some(entrypoint) = &args.entrypoint {
        let outside = entrypoint.starts_with('/') || entrypoint.split('/').any(|part| part == "..");
        if outside || entrypoint.is_empty() || entrypoint.len() > 4096 {
            return Err(Error::flag("--entrypoint", "must be a relative path, without .. segments"));
        }
    }
    if args.args.len() > 256 {
        return Err(Error::flag("-- ARGS", format!("at most 256 arguments, not {}", args.args.len())));
    }
    if let Some(at) = args.args.iter().position(|arg| arg.len() > 8192) {
        return Err(Error::flag("-- ARGS", format!("argument {} has more than 8192 bytes", at + 1)));
    }
    let task = Task { entrypoint: args.entrypoint.clone(), args: args.args.clone() };
    Ok(Mode { task: Some(task), function: None })
}

/// Files first, then `--env`; the last value of a name counts.
fn env(args: &RunArgs, environment: Environment<'_>) -> Result<Vec<EnvVar>, Error> {
    let mut given: Vec<(&str, EnvArg)> = Vec::new();
    for path in &args.env_file {
        given.extend(script::env_file(path)?.into_iter().map(|variable| ("--env-file", variable)));
    }
    given.extend(args.env.iter().cloned().map(|variable| ("--env", variable)));
    let mut merged: Vec<EnvVar> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (flag, EnvArg { name, value }) in given {
        let value = match value.or_else(|| environment(&name)) {
            Some(value) => value,
            None => {
                let why =
                    format!("{name} is not set in the environment of krt (or not UTF-8); give {name}=VALUE");
                return Err(Error::flag(flag, why));
            }
        };
        let variable = EnvVar { name: name.clone(), value: Some(value), value_from: None };
        match places.get(&name) {
            Some(&place) => merged[place] = variable,
            None => {
                places.insert(name, merged.len());
                merged.push(variable);
            }
        }
    }
    if merged.len() > bounds::ENV {
        let flag = if args.env_file.is_empty() { "--env" } else { "--env-file" };
        let why = format!("a Run has at most {} variables, not {}", bounds::ENV, merged.len());
        return Err(Error::flag(flag, why));
    }
    Ok(merged)
}

fn resources(args: &RunArgs) -> Result<Option<Resources>, Error> {
    let requests = amounts("--request", &args.request)?;
    let limits = amounts("--limit", &args.limit)?;
    let any = !requests.is_empty() || !limits.is_empty();
    Ok(any.then_some(Resources { requests, limits }))
}

fn amounts(flag: &str, given: &[Request]) -> Result<BTreeMap<String, Quantity>, Error> {
    let mut amounts = BTreeMap::new();
    for (name, amount) in given.iter().flat_map(|request| &request.0) {
        if amounts.insert(name.clone(), amount.clone()).is_some() {
            return Err(Error::flag(flag, format!("{name} is given twice")));
        }
    }
    if amounts.len() > bounds::RESOURCES {
        return Err(Error::flag(
            flag,
            format!("at most {} resources, not {}", bounds::RESOURCES, amounts.len()),
        ));
    }
    Ok(amounts)
}

fn retry_policy(args: &RunArgs) -> Result<Option<RetryPolicy>, Error> {
    let attempts =
        args.retries.map(|retries| retries + 1).or(args.retry_attempts).filter(|attempts| *attempts > 0);
    if attempts.is_none_or(|attempts| attempts < 2) {
        let flag =
            [("--retry-backoff", args.retry_backoff.is_some()), ("--retry-on", !args.retry_on.is_empty())]
                .into_iter()
                .find_map(|(flag, given)| given.then_some(flag));
        if let Some(flag) = flag {
            return Err(Error::flag(flag, "means nothing without --retries"));
        }
    }
    if args.retry_on.len() > 32 || args.retry_on.iter().any(|reason| reason.is_empty() || reason.len() > 128)
    {
        return Err(Error::flag("--retry-on", "at most 32 reasons of 1 to 128 characters"));
    }
    for given in &args.retry_on {
        let known = Reason::ALL.iter().flat_map(|reason| [reason.as_str(), reason.condition_word()]);
        if !known.clone().any(|word| word == given) {
            let near = known.map(str::to_owned).collect::<Vec<_>>();
            let meant = crate::names::nearest(given, near.iter().map(String::as_str));
            let advice = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            return Err(Error::flag("--retry-on", format!("{given:?} is no reason{advice}")));
        }
    }
    Ok(attempts.map(|attempts| RetryPolicy {
        max_attempts: Some(attempts),
        backoff: args.retry_backoff.clone(),
        retryable_reasons: args.retry_on.clone(),
        max_infrastructure_retries: None,
    }))
}

/// Whole seconds, rounded up, so that nothing is deleted early.
fn ttl(text: &str) -> Result<i32, Error> {
    let length = duration::parse(text).map_err(|e| Error::flag("--ttl", e.to_string()))?;
    let seconds = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i32::try_from(seconds).map_err(|_| Error::flag("--ttl", "is too long"))
}

fn word(flag: &str, given: Option<&String>) -> Result<Option<String>, Error> {
    match given {
        Some(word) if word.is_empty() || word.len() > 253 => {
            Err(Error::flag(flag, "must have 1 to 253 characters"))
        }
        other => Ok(other.cloned()),
    }
}

fn options(args: &RunArgs) -> Result<BTreeMap<String, String>, Error> {
    let options: BTreeMap<String, String> = args.option.iter().cloned().collect();
    if options.len() > 32 {
        return Err(Error::flag("--option", format!("at most 32 options, not {}", options.len())));
    }
    Ok(options)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
