//! The terminal: colours only where they are wanted, data and words on their own streams.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::Error;

/// `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR or CLICOLOR=0 is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Whether styles are written at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Palette {
    on: bool,
}

impl Palette {
    /// With colours or without.
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// `text` in `style`, or as it is.
    pub fn paint(self, style: Style, text: &str) -> String {
        if !self.on || style == Style::new() || text.is_empty() {
            return text.to_owned();
        }
        format!("{}{text}{}", style.render(), style.render_reset())
    }
}

/// Styles by meaning.
pub mod style {
    use super::{AnsiColor, Style};

    /// Went well.
    pub const GOOD: Style = AnsiColor::Green.on_default();
    /// Went wrong.
    pub const BAD: Style = AnsiColor::Red.on_default();
    /// Deserves a look.
    pub const WARN: Style = AnsiColor::Yellow.on_default();
    /// Under way.
    pub const BUSY: Style = AnsiColor::Cyan.on_default();
    /// Headings.
    pub const HEAD: Style = Style::new().bold();
    /// Of lesser weight.
    pub const DIM: Style = Style::new().dimmed();
    /// Nothing special.
    pub const PLAIN: Style = Style::new();
}

/// The streams of this process and how they may be written.
#[derive(Debug)]
pub struct Terminal {
    /// For data.
    pub out: Palette,
    /// For words.
    pub err: Palette,
    /// Standard error is a terminal: a spinner may turn.
    pub live: bool,
}

impl Terminal {
    /// Looks at the streams, the environment and `--color`.
    pub fn new(color: Color) -> Self {
        let decide = |auto: ColorChoice| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto != ColorChoice::Never,
        };
        Self {
            out: Palette::new(decide(AutoStream::choice(&io::stdout()))),
            err: Palette::new(decide(AutoStream::choice(&io::stderr()))),
            live: io::stderr().is_terminal(),
        }
    }

    /// Writes data.
    ///
    /// # Errors
    /// [`Error::ClosedPipe`] when nobody reads any more.
    pub fn data(&self, text: &str) -> Result<(), Error> {
        self.bytes(false, text.as_bytes())
    }

    /// Writes bytes as they are, to standard error when `err` is set.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn bytes(&self, err: bool, bytes: &[u8]) -> Result<(), Error> {
        let written = match err {
            true => io::stderr().lock().write_all(bytes),
            false => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
        };
        written.map_err(|source| Error::io("write the output", source))
    }

    /// One line for the person. A closed standard error is nobody's loss.
    pub fn note(&self, text: &str) {
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// Something that deserves a look.
    pub fn warn(&self, text: &str) {
        self.note(&format!("{} {text}", self.err.paint(style::WARN, "warning:")));
    }

    /// Says what failed and what to do next.
    pub fn error(&self, error: &Error) {
        self.note(&format!("{} {error}", self.err.paint(style::BAD.bold(), "error:")));
        if let Some(hint) = error.hint() {
            self.note(&format!("{} {hint}", self.err.paint(style::BUSY, "hint:")));
        }
    }

    /// A spinner that shows only on a terminal.
    pub fn spinner(&self) -> Spinner {
        Spinner { live: self.live, bar: None }
    }
}

/// A line that turns on standard error while a person waits.
#[derive(Debug)]
pub struct Spinner {
    live: bool,
    bar: Option<ProgressBar>,
}

impl Spinner {
    /// Shows `text`, or takes the line away.
    pub fn show(&mut self, text: Option<&str>) {
        match text {
            Some(text) if self.live => {
                let bar = self.bar.get_or_insert_with(|| {
                    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                    if let Ok(look) = ProgressStyle::with_template("{spinner} {msg}") {
                        bar.set_style(look);
                    }
                    bar.enable_steady_tick(std::time::Duration::from_millis(120));
                    bar
                });
                bar.set_message(text.to_owned());
            }
            Some(_) => {}
            None => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }

    /// Does `write` while the line is out of the way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.show(None);
    }
}
