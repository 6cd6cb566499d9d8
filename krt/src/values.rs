//! The values of flags. Each parser answers with what is wrong; clap puts the flag's name before it.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::{Phase, bounds, duration, names};

/// Longest name of an object.
pub const MAX_NAME: usize = 253;
/// Longest part of a label.
const MAX_LABEL: usize = 63;
/// Resources of which there are only whole ones, whatever a Runtime defines.
const WHOLE: [&str; 3] = [names::RUNS_RESOURCE, "pids", "nvidia.com/gpu"];
/// Resources that can be limited.
const LIMITS: [&str; 4] = ["cpu", "memory", "pids", "ephemeral-storage"];

/// A duration of more than zero, kept as it was written.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<String, String> {
    match duration::parse(text) {
        Ok(length) if length.is_zero() => Err("must be more than 0s".into()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A duration for krt itself.
///
/// # Errors
/// When it is none.
pub fn limit(text: &str) -> Result<std::time::Duration, String> {
    duration(text).and_then(|text| duration::parse(&text).map_err(|e| e.to_string()))
}

/// `--request-timeout` as kubectl takes it: seconds, or a duration; `0` is no limit.
///
/// # Errors
/// When it is neither.
pub fn request_timeout(text: &str) -> Result<std::time::Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(std::time::Duration::from_secs(seconds.into()));
    }
    duration::parse(text).map_err(|error| error.to_string())
}

/// Name of an object: RFC 1123 subdomain.
///
/// # Errors
/// When the API would refuse it.
pub fn object_name(text: &str) -> Result<String, String> {
    if text.len() > MAX_NAME {
        return Err(format!("a name has at most {MAX_NAME} characters, this one has {}", text.len()));
    }
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || c == '-')
    };
    if text.split('.').all(part) {
        Ok(text.to_owned())
    } else {
        Err("a name has lower-case letters, digits, '-' and '.', and starts and ends with a letter or digit"
            .into())
    }
}

/// A Run as a person may name it: `NAME`, `run/NAME`, `runs/NAME` or `run.kruntimes.io/NAME`.
///
/// # Errors
/// As [`object_name`].
pub fn run_name(text: &str) -> Result<String, String> {
    let bare = ["run.kruntimes.io/", "runs.kruntimes.io/", "runs/", "run/", "rn/"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    object_name(bare.unwrap_or(text))
}

/// Name of a Runtime: a label value, 1 to 63 characters.
///
/// # Errors
/// When the API would refuse it.
pub fn runtime_name(text: &str) -> Result<String, String> {
    let bare = ["runtime.kruntimes.io/", "runtimes.kruntimes.io/", "runtimes/", "runtime/", "rt/"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    let name = bare.unwrap_or(text);
    if name.is_empty() {
        return Err("is empty".into());
    }
    label_value(name)?;
    Ok(name.to_owned())
}

/// Name of a Runtime that is to be made: a part of a label besides, so shorter.
///
/// # Errors
/// When the API would refuse it.
pub fn new_runtime_name(text: &str) -> Result<String, String> {
    let name = runtime_name(text).and_then(|name| object_name(&name))?;
    if name.len() > bounds::RUNTIME_NAME {
        let most = bounds::RUNTIME_NAME;
        return Err(format!(
            "the name of a Runtime has at most {most} characters, this one has {}",
            name.len()
        ));
    }
    Ok(name)
}

fn label_value(text: &str) -> Result<(), String> {
    if text.len() > MAX_LABEL {
        return Err(format!("has at most {MAX_LABEL} characters, this one has {}", text.len()));
    }
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| ends(c) || matches!(c, '-' | '_' | '.');
    if text.is_empty() || (text.starts_with(ends) && text.ends_with(ends) && text.chars().all(inner)) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} must have letters, digits, '-', '_' and '.', and start and end with a letter or digit"
        ))
    }
}

fn qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            object_name(prefix).map_err(|why| format!("the part before '/' is no domain: {why}"))?;
            name
        }
        None => text,
    };
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    label_value(name).map_err(|why| format!("the name {why}"))
}

/// `KEY=VALUE`, a label.
///
/// # Errors
/// When the API would refuse it.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must have the form KEY=VALUE")?;
    qualified_name(key)?;
    label_value(value).map_err(|why| format!("the value {why}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE`, an option for the Runtime Server.
///
/// # Errors
/// Without a key, or with too long a value.
pub fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("must have the form KEY=VALUE".into()),
        Some((_, value)) if value.len() > 8192 => Err("a value has at most 8192 bytes".into()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// A variable; without a value it is taken from krt's own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvArg {
    /// Name.
    pub name: String,
    /// Value, if one was given.
    pub value: Option<String>,
}

/// `KEY=VALUE` or `KEY`.
///
/// # Errors
/// When the API would refuse it.
pub fn env(text: &str) -> Result<EnvArg, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("the variable has no name (KEY=VALUE)".into());
    }
    if name.contains(char::is_whitespace) || name.contains('\0') {
        return Err(format!("{name:?} is no name of a variable"));
    }
    let length = |text: &str| text.chars().count();
    if length(name) > bounds::ENV_NAME || value.as_deref().map_or(0, length) > bounds::ENV_VALUE {
        let (name_bound, value_bound) = (bounds::ENV_NAME, bounds::ENV_VALUE);
        return Err(format!("{name:.40}: a name has at most {name_bound} characters, a value {value_bound}"));
    }
    Ok(EnvArg { name: name.to_owned(), value })
}

/// Amounts by resource name, in the order in which they were written.
pub type Amounts = Vec<(String, Quantity)>;

/// `cpu=2,nvidia.com/gpu=1`.
///
/// # Errors
/// On a malformed name or quantity, a negative amount, or a part of something indivisible.
pub fn requests(text: &str) -> Result<Amounts, String> {
    text.split(',').map(amount).collect()
}

/// As [`requests`], for what can be limited.
///
/// # Errors
/// As there, and on a resource that has no limit.
pub fn limits(text: &str) -> Result<Amounts, String> {
    let amounts = requests(text)?;
    match amounts.iter().find(|(name, _)| !LIMITS.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("{name} cannot be limited; these can: {}", LIMITS.join(", "))),
        None => Ok(amounts),
    }
}

fn amount(text: &str) -> Result<(String, Quantity), String> {
    let (name, amount) =
        text.split_once('=').ok_or_else(|| format!("{text:?} must have the form NAME=AMOUNT"))?;
    qualified_name(name).map_err(|why| format!("{name:?}: {why}"))?;
    let parsed = quantity(amount).map_err(|why| format!("{name}={amount}: {why}"))?;
    if parsed.negative {
        return Err(format!("{name}={amount}: an amount cannot be negative"));
    }
    if !parsed.whole && WHOLE.contains(&name) {
        return Err(format!("{name}={amount}: {name} comes in whole numbers only"));
    }
    Ok((name.to_owned(), Quantity(amount.to_owned())))
}

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    negative: bool,
    whole: bool,
}

/// Checks the form of a Kubernetes quantity: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
fn quantity(text: &str) -> Result<Parsed, String> {
    let malformed = || "is no quantity (examples: 2, 500m, 1.5, 4Gi)".to_owned();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if text.len() > 64 || (integer.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty());
    let sub_unit = match suffix {
        "" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => false,
        "n" | "u" | "m" => true,
        _ => match exponent.map(str::parse::<i32>) {
            Some(Ok(power)) => power < 0,
            Some(Err(_)) | None => return Err(malformed()),
        },
    };
    let zero = number.chars().all(|c| matches!(c, '0' | '.'));
    let whole = zero || (!sub_unit && fraction.trim_end_matches('0').is_empty());
    Ok(Parsed { negative: negative && !zero, whole })
}

/// A phase by its word, in any case.
///
/// # Errors
/// With the list of the words.
pub fn phase(text: &str) -> Result<Phase, String> {
    Phase::ALL.into_iter().find(|phase| phase.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let words: Vec<&str> = Phase::ALL.iter().map(|phase| phase.as_str()).collect();
        format!("is no phase; the phases are {}", words.join(", "))
    })
}

/// What git may be asked to fetch: https, ssh, `user@host:path`, or http on this machine.
///
/// # Errors
/// On any other scheme, or over-long text.
pub fn repository(text: &str) -> Result<String, String> {
    if text.len() > 2048 {
        return Err("a repository's address has at most 2048 characters".into());
    }
    let loopback = |rest: &str| {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        host == "localhost" || host.starts_with("127.")
    };
    let scp = |text: &str| {
        text.split_once(':')
            .is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.is_empty())
    };
    let fine = match text.split_once("://") {
        Some(("https" | "ssh", rest)) => !rest.is_empty() && !rest.starts_with('/'),
        Some(("http", rest)) => loopback(rest),
        Some(_) => false,
        None => scp(text),
    };
    let why = "must be https://HOST/PATH, ssh://HOST/PATH or USER@HOST:PATH";
    if fine && !text.contains(char::is_whitespace) { Ok(text.to_owned()) } else { Err(why.into()) }
}

/// A repository and what to check out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// Address.
    pub url: String,
    /// Branch, tag or commit.
    pub reference: Option<String>,
}

/// `URL` or `URL@REF`. The `@` of `user@host` is none that separates.
///
/// # Errors
/// As [`repository`], and on an empty REF.
pub fn git(text: &str) -> Result<Git, String> {
    let path = match text.split_once("://") {
        Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
        None => text.find(':').unwrap_or(0),
    };
    let (url, reference) = match text.get(path..).and_then(|rest| rest.find('@')) {
        Some(at) => (&text[..path + at], Some(&text[path + at + 1..])),
        None => (text, None),
    };
    if reference.is_some_and(|r| r.is_empty() || r.len() > 256 || r.starts_with('-')) {
        return Err("the part after '@' must be a branch, tag or commit of at most 256 characters".into());
    }
    Ok(Git { url: repository(url)?, reference: reference.map(str::to_owned) })
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
