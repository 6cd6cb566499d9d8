//! Structured logs on standard error.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, in `tracing` directive syntax, for instance `info,tonic=warn`.
pub const LOG_ENV: &str = "KRUNTIME_LOG";

/// How log lines look. Parses from `json`, `text` and `auto` (a clap value by `FromStr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For a person.
    Text,
    /// `Text` on a terminal, else `Json`.
    #[default]
    Auto,
}

impl FromStr for LogFormat {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            "auto" => Ok(Self::Auto),
            _ => Err(LoggingError::Format { given: text.to_owned() }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Auto => "auto",
        })
    }
}

/// Why logging could not be set up. Permanent.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a format.
    #[error("log format {given:?} is not one of json, text, auto")]
    Format {
        /// What was given.
        given: String,
    },
    /// The filter cannot be parsed.
    #[error("the filter in {LOG_ENV} is malformed: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A subscriber was installed before.
    #[error("logging was already set up: {0}")]
    Twice(tracing_subscriber::util::TryInitError),
}

/// Installs the process-wide subscriber; the default filter is `info`.
/// Every line goes to standard error, so that standard output stays for data.
///
/// # Errors
/// When the filter in [`LOG_ENV`] is malformed, or a subscriber is installed already.
pub fn init_logging(component: &'static str, format: LogFormat) -> Result<(), LoggingError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = match std::env::var(LOG_ENV) {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(directives)?,
        _ => EnvFilter::new("info"),
    };
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
    } else {
        builder.with_ansi(terminal).finish().try_init()
    };
    installed.map_err(LoggingError::Twice)?;
    let build = crate::build_info();
    tracing::info!(
        component,
        version = build.version,
        commit = build.commit,
        pid = std::process::id(),
        "starting"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_round_trip() {
        for format in [LogFormat::Json, LogFormat::Text, LogFormat::Auto] {
            assert_eq!(format.to_string().parse::<LogFormat>().expect("parses"), format);
        }
        let error = "xml".parse::<LogFormat>().expect_err("refused").to_string();
        assert!(error.contains("xml"), "{error}");
    }
}
