//! What is read from files and standard input for a Run: scripts and lists of variables.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;
use crate::values::{self, EnvArg};

/// Longest inline script, in bytes; the API's own bound.
pub(crate) const MAX_SCRIPT: u64 = kruntimes_api::bounds::INLINE as u64;
/// Longest list of variables in a file, in bytes.
const MAX_ENV_FILE: u64 = 4 * 1024 * 1024;

/// Reads a script; `-` is standard input. `flag` is what the person wrote.
pub(crate) fn read(flag: &str, path: &Path) -> Result<String, Error> {
    let bytes = bounded(flag, path, MAX_SCRIPT).map_err(|error| match error {
        Error::Flag { flag, why } if why == TOO_LARGE => Error::flag(flag, too_long()),
        other => other,
    })?;
    check(
        flag,
        String::from_utf8(bytes).map_err(|e| {
            Error::flag(flag, format!("the script is not UTF-8 (byte {})", e.utf8_error().valid_up_to()))
        })?,
    )
}

/// Checks the length of a script, wherever it comes from.
pub(crate) fn check(flag: &str, script: String) -> Result<String, Error> {
    if script.is_empty() {
        return Err(Error::flag(flag, "the script is empty"));
    }
    if script.len() as u64 > MAX_SCRIPT {
        return Err(Error::flag(flag, too_long()));
    }
    if script.contains('\0') {
        return Err(Error::flag(flag, "the script contains a NUL byte"));
    }
    Ok(script)
}

fn too_long() -> String {
    format!(
        "an inline script has at most {} KiB; put a longer one into a Git repository and name it with --git URL@REF",
        MAX_SCRIPT / 1024
    )
}

const TOO_LARGE: &str = "too large";

fn bounded(flag: &str, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |e: io::Error| Error::flag(flag, format!("cannot read {shown}: {e}"));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > limit { Err(Error::flag(flag, TOO_LARGE)) } else { Ok(bytes) }
}

/// Reads a file of variables as docker does: `KEY=VALUE` or `KEY` a line, `#` comments, nothing is unquoted.
pub(crate) fn env_file(path: &Path) -> Result<Vec<EnvArg>, Error> {
    let flag = "--env-file";
    let bytes = bounded(flag, path, MAX_ENV_FILE)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::flag(flag, format!("{} is not UTF-8", path.display())))?;
    parse_env_file(&text).map_err(|why| Error::flag(flag, format!("{}: {why}", path.display())))
}

fn parse_env_file(text: &str) -> Result<Vec<EnvArg>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .enumerate()
        .map(|(at, line)| (at, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| values::env(line).map_err(|why| format!("line {}: {why}", at + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_docker_reads_them() {
        let read = parse_env_file("# a comment\n\nA=1\n  B = x\nC=\"q\"\r\nHOME\n").unwrap_err();
        assert!(read.starts_with("line 4:"), "{read}");
        let read = parse_env_file("\u{feff}A=1\n C=\"q\" \r\nHOME\n").unwrap();
        let pairs: Vec<(&str, Option<&str>)> =
            read.iter().map(|v| (v.name.as_str(), v.value.as_deref())).collect();
        assert_eq!(pairs, [("A", Some("1")), ("C", Some("\"q\" ")), ("HOME", None)]);
    }

    #[test]
    fn scripts_are_bounded_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sh");
        std::fs::write(&path, vec![b'x'; 256 * 1024]).unwrap();
        assert_eq!(read("FILE", &path).unwrap().len(), 256 * 1024);
        std::fs::write(&path, vec![b'x'; 300 * 1024]).unwrap();
        let error = read("FILE", &path).unwrap_err().to_string();
        assert!(
            error.starts_with("FILE: ") && error.contains("256 KiB") && error.contains("--git"),
            "{error}"
        );
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read("--file", &path).unwrap_err().to_string().contains("not UTF-8 (byte 1)"));
        std::fs::write(&path, "").unwrap();
        assert!(read("--file", &path).unwrap_err().to_string().contains("empty"));
        let missing = read("--file", &folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.starts_with("--file: cannot read"), "{missing}");
        assert!(check("-c", "a\0b".into()).is_err());
    }
}
