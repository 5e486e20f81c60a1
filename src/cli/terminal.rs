//! What is printed, where, and in which form: results on stdout, all else on stderr. A closed pipe is no error.
//!
//! Text that comes from a machine or a repository may hold escape sequences; nothing leaves this room without its control
//! characters replaced.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use serde::Serialize;

use super::arguments::{Color, Global};
use super::exit::Exit;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// Width where it cannot be found out.
const COLUMNS_DEFAULT: usize = 80;

/// Where and how this run prints.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Results are JSON.
    pub json: bool,
    /// No progress, and nothing on success.
    pub quiet: bool,
    /// Steps are told in plain lines.
    pub verbose: bool,
    /// A progress bar may be drawn on stderr.
    pub bars: bool,
    color: bool,
}

impl Terminal {
    /// As the options and the environment want it.
    pub fn new(global: &Global) -> Terminal {
        let is_terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Terminal {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            bars: is_terminal && !dumb && !global.quiet && !global.no_progress,
            color: match global.color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => is_terminal && !no_color && !dumb,
            },
        }
    }

    /// Prints a result for people; not if JSON is wanted.
    ///
    /// # Errors
    /// If stdout cannot take it; a closed pipe can.
    pub fn result(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { stdout(&printable_lines(text)) }
    }

    /// Prints a result that is to be read by a program: not a byte is replaced.
    ///
    /// # Errors
    /// As [`Terminal::result`].
    pub fn result_as_is(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { stdout(text) }
    }

    /// Prints what was done; not with `-q`, and not if JSON is wanted.
    ///
    /// # Errors
    /// As [`Terminal::result`].
    pub fn done(&self, text: &str) -> anyhow::Result<()> {
        if self.quiet { Ok(()) } else { self.result(text) }
    }

    /// Prints a result as JSON, one line, if that is wanted.
    ///
    /// # Errors
    /// As [`Terminal::result`].
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        stdout(&format!("{}\n", serde_json::to_string(value).context("cannot write the result as JSON")?))
    }

    /// Says something that is no result; not with `-q`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            stderr(&format!("{}\n", printable_lines(text)));
        }
    }

    /// Tells a step, with `-v`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            stderr(&format!("{}\n", printable_lines(text)));
        }
    }

    /// Warns, always.
    pub fn warn(&self, text: &str) {
        stderr(&format!("{} {}\n", self.styled(WARNING, "warning:"), printable(text)));
    }

    /// Tells an error with its causes and what to do about it.
    pub fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        let mut text = format!("{} {}\n", self.styled(ERROR, "error:"), printable(message));
        for cause in causes {
            text.push_str(&format!("  cause: {}\n", printable(cause)));
        }
        for line in hint.into_iter().flat_map(str::lines) {
            text.push_str(&format!("  {} {}\n", self.styled(HINT, "hint:"), printable(line)));
        }
        stderr(&text);
    }

    /// Whether a person can be asked something.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Columns of stdout, if it is a terminal.
    pub fn columns(&self) -> Option<usize> {
        let term = dialoguer::console::Term::stdout();
        term.is_term().then(|| term.size_checked().map_or(COLUMNS_DEFAULT, |(_, columns)| usize::from(columns)))
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Prints an error as JSON, whatever else is known of the command line.
pub fn print_json_error(message: &str, causes: &[String], hint: Option<&str>, exit: Exit) {
    // If stdout does not take it, the text on stderr still says it.
    let _ = stdout(&format!("{}\n", json_error(message, causes, hint, exit)));
}

/// An error as JSON.
pub fn json_error(message: &str, causes: &[String], hint: Option<&str>, exit: Exit) -> serde_json::Value {
    serde_json::json!({
        "error": { "message": message, "causes": causes, "hint": hint, "exit_code": exit.code() }
    })
}

/// `text` without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn stdout(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Nobody can be told if stderr is closed.
fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\n\u{9b}c ü"), "a\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}c ü");
        assert_eq!(printable_lines("a\x07\nb"), "a\u{fffd}\nb");
    }
}
