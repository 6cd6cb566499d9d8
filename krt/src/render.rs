//! What commands print: pure functions from objects to text.
//!
//! Nothing here reads a clock or writes a stream, so that every form has a snapshot.

pub mod age;
pub mod object;
pub mod preflight;
pub mod quantity;
pub mod run;
pub mod run_describe;
pub mod runtime;
pub mod runtime_describe;
pub mod table;

use anstyle::Style;
use kruntimes_api::Phase;

use crate::term::style;

/// The colour of a phase.
pub fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Pending => style::WARN,
        Phase::Scheduled | Phase::Running | Phase::Ready => style::BUSY,
        Phase::Succeeded => style::GOOD,
        Phase::Failed | Phase::Timeout => style::BAD,
        Phase::Cancelled => style::DIM,
    }
}

/// Text from an object, safe for a terminal: control characters are shown, not obeyed.
/// Line ends stay when `lines` is set, otherwise they become spaces.
pub fn printable(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' if lines => out.push('\n'),
            '\n' | '\t' => out.push(' '),
            '\r' => {}
            c if c.is_control() || is_bidi(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Characters that reorder what stands around them.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text`, or `-` when there is none.
pub fn or_dash(text: Option<&str>) -> String {
    match text {
        Some(text) if !text.is_empty() => printable(text, false),
        _ => "-".into(),
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
