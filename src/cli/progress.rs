//! Long work as it goes: a bar on a terminal, plain lines with `-v`, warnings always.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dialoguer::console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use unicode_width::UnicodeWidthStr;

use super::interrupt;
use super::terminal::{Terminal, printable};
use super::text;
use crate::ops::{Control, Event, Events};

const BAR: &str = "{line}";
const STEP: &str = "{prefix} {spinner} {msg}";
const TICK: Duration = Duration::from_millis(120);
/// Between two lines of `-v` within one part.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Follows one piece of long work.
pub struct Progress<'a> {
    terminal: &'a Terminal,
    /// What the work is on, in front of every line: the machine.
    subject: String,
    bar: Option<ProgressBar>,
    part: Mutex<Part>,
    counts: Arc<Counts>,
    warned: Mutex<HashSet<String>>,
}

/// The part that is being worked on.
struct Part {
    what: String,
    bytes: u64,
    began: Instant,
    told: Instant,
}

/// Bytes of the present part.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    skipped: AtomicU64,
    new: AtomicU64,
    /// Whether anything was ever new: only backups say so.
    counts_new: AtomicBool,
}

impl<'a> Progress<'a> {
    /// Follows work on `subject`.
    pub fn new(terminal: &'a Terminal, subject: &str) -> Progress<'a> {
        let now = Instant::now();
        let part = Part { what: String::new(), bytes: 0, began: now, told: now };
        let bar = terminal.bars.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(printable(subject));
            bar.set_style(step_style());
            bar.enable_steady_tick(TICK);
            bar
        });
        Progress {
            terminal,
            subject: subject.to_owned(),
            bar,
            part: Mutex::new(part),
            counts: Arc::default(),
            warned: Mutex::default(),
        }
    }

    /// What `ops` wants to be given.
    pub fn control(&self) -> Control<'_> {
        Control { events: self, interrupt: interrupt::flag() }
    }

    /// Takes the bar away and warns of what no event has told.
    pub fn finish<'w>(&self, warnings: impl IntoIterator<Item = &'w String>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        warnings.into_iter().for_each(|warning| self.warn(warning));
    }

    fn warn(&self, warning: &str) {
        if lock(&self.warned).insert(warning.to_owned()) {
            self.beside_the_bar(|| self.terminal.warn(&self.about(warning)));
        }
    }

    fn about(&self, text: &str) -> String {
        if self.subject.is_empty() { text.to_owned() } else { format!("{}: {text}", self.subject) }
    }

    fn tell(&self, line: &str) {
        if self.terminal.verbose {
            self.beside_the_bar(|| self.terminal.detail(&self.about(line)));
        }
    }

    /// Lets others print while the bar is away.
    pub fn beside(&self, print: impl FnOnce()) {
        self.beside_the_bar(print);
    }

    fn beside_the_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn begin(&self, what: &str, bytes: u64) {
        for count in [&self.counts.done, &self.counts.skipped, &self.counts.new] {
            count.store(0, Ordering::Relaxed);
        }
        let now = Instant::now();
        *lock(&self.part) = Part { what: what.to_owned(), bytes, began: now, told: now };
        self.tell(&format!("{what}: {}", text::bytes(bytes)));
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(bytes);
            bar.set_style(bar_style(&self.counts, &self.about(what)));
        }
    }

    fn count(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(self.counts.position());
        }
        if self.terminal.verbose {
            let mut part = lock(&self.part);
            if part.told.elapsed() >= LINE_EVERY {
                part.told = Instant::now();
                let line = format!(
                    "{}: {} of {}, {} new",
                    part.what,
                    text::bytes(self.counts.position()),
                    text::bytes(part.bytes),
                    text::bytes(self.counts.new.load(Ordering::Relaxed))
                );
                drop(part);
                self.tell(&line);
            }
        }
    }

    fn end(&self) {
        let part = lock(&self.part);
        let (done, skipped) = (self.counts.done.load(Ordering::Relaxed), self.counts.skipped.load(Ordering::Relaxed));
        let mut line = format!("{}: {} done", part.what, text::bytes(done));
        if skipped > 0 {
            line.push_str(&format!(", {} not needed", text::bytes(skipped)));
        }
        if self.counts.counts_new.load(Ordering::Relaxed) {
            line.push_str(&format!(", {} new", text::bytes(self.counts.new.load(Ordering::Relaxed))));
        }
        line.push_str(&format!(", in {}", text::duration(part.began.elapsed())));
        drop(part);
        self.tell(&line);
    }

    fn step(&self, what: &str) {
        self.tell(what);
        if let Some(bar) = &self.bar {
            bar.set_prefix(printable(&self.subject));
            bar.set_style(step_style());
            bar.set_message(printable(what));
        }
    }
}

impl Events for Progress<'_> {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Step(what) => self.step(what),
            Event::Begin { what, bytes } => self.begin(what, bytes),
            Event::Done(bytes) => self.count(&self.counts.done, bytes),
            Event::Skipped(bytes) => self.count(&self.counts.skipped, bytes),
            Event::New(bytes) => {
                self.counts.counts_new.store(true, Ordering::Relaxed);
                self.counts.new.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::End => self.end(),
            Event::Warning(warning) => self.warn(warning),
        }
    }
}

impl Counts {
    fn position(&self) -> u64 {
        self.done.load(Ordering::Relaxed) + self.skipped.load(Ordering::Relaxed)
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn step_style() -> ProgressStyle {
    ProgressStyle::with_template(STEP).expect("the template is well-formed")
}

/// The rate is that of bytes worked on: what is skipped would make it absurd.
fn bar_style(counts: &Arc<Counts>, subject: &str) -> ProgressStyle {
    let counts = Arc::clone(counts);
    let subject = printable(subject);
    let line = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let seconds = state.elapsed().as_secs_f64().max(0.001);
        let rate = counts.done.load(Ordering::Relaxed) as f64 / seconds;
        let mut parts = vec![
            format!("{} of {}", text::bytes(state.pos()), text::bytes(state.len().unwrap_or(0))),
            format!("{}/s", text::bytes(rate as u64)),
            format!("{} left", text::duration(Duration::from_secs(state.eta().as_secs()))),
        ];
        if counts.counts_new.load(Ordering::Relaxed) {
            parts.push(format!("{} new", text::bytes(counts.new.load(Ordering::Relaxed))));
        }
        let columns = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let _ = out.write_str(&fitted(&subject, state.fraction(), &parts, columns));
    };
    ProgressStyle::with_template(BAR).expect("the template is well-formed").with_key("line", line)
}

/// One line of less than `columns`: as many of `parts` as have room, the first ones first, and a bar in what is left. A
/// line that wraps could not be drawn over.
fn fitted(subject: &str, fraction: f32, parts: &[String], columns: usize) -> String {
    const BAR_COLUMNS_MIN: usize = 8;
    const BAR_COLUMNS_MAX: usize = 30;
    let room = columns.saturating_sub(1);
    let mut line = format!("{subject} {:3.0} %", fraction.clamp(0.0, 1.0) * 100.0);
    let mut used = line.width();
    if used > room {
        return line.chars().rev().take(room / 2).collect::<Vec<_>>().into_iter().rev().collect();
    }
    let mut shown = String::new();
    for (number, part) in parts.iter().enumerate() {
        let part = format!("{}{part}", if number == 0 { "  " } else { ", " });
        if used + part.width() > room {
            break;
        }
        used += part.width();
        shown.push_str(&part);
    }
    let left = room.saturating_sub(used + "  []".len()).min(BAR_COLUMNS_MAX);
    if left >= BAR_COLUMNS_MIN {
        let full = (left as f32 * fraction.clamp(0.0, 1.0)) as usize;
        line.push_str(&format!("  [{}{}]", "=".repeat(full), " ".repeat(left - full)));
    }
    line + &shown
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_wraps_and_loses_its_end_first() {
        let parts = ["1.0 GiB of 2.0 GiB", "99.9 MiB/s", "9.0 s left"].map(str::to_owned);
        for (columns, expected) in [
            (80, "web1: scsi0:0  50 %  [==========         ]  1.0 GiB of 2.0 GiB, 99.9 MiB/s, 9.0 s left"),
            (60, "web1: scsi0:0  50 %  1.0 GiB of 2.0 GiB, 99.9 MiB/s"),
            (50, "web1: scsi0:0  50 %  1.0 GiB of 2.0 GiB"),
            (24, "web1: scsi0:0  50 %"),
            (10, "50 %"),
            (0, ""),
        ] {
            let line = fitted("web1: scsi0:0", 0.5, &parts, columns);
            assert!(line.width() < columns.max(1), "{columns}: {line}");
            if columns < 80 {
                assert_eq!(line.trim_start(), expected, "{columns}");
            } else {
                assert!(line.contains("[=") && line.ends_with(", 9.0 s left"), "{line}");
            }
        }
    }
}
