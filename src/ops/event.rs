//! Typed events of long work, and the wish to stop it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Something that happened. Byte counts are steps, not sums.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step that has no measure begins: `looking at the repository`.
    Step(&'a str),
    /// A disk, or another measured part, begins: its name, and how many bytes at most there are to do.
    Begin {
        /// What it is called.
        what: &'a str,
        /// Bytes to do.
        bytes: u64,
    },
    /// So many bytes of the present part are done: read, written or verified.
    Done(u64),
    /// So many bytes of the present part need not be done: holes, unchanged.
    Skipped(u64),
    /// So many bytes, among those done, were new to the repository.
    New(u64),
    /// The present part is finished.
    End,
    /// Something is less than asked for, or odd; it is in the report too.
    Warning(&'a str),
}

/// Who is told. Called from several threads.
pub trait Events: Sync {
    /// Takes an event; must be quick.
    fn event(&self, event: Event<'_>);
}

/// Nobody is told.
pub struct Silent;

impl Events for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// How a caller follows and stops long work.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Who is told what happens.
    pub events: &'a dyn Events,
    /// Set to stop: noticed within one segment's work.
    pub interrupt: &'a AtomicBool,
}

impl Control<'_> {
    /// Tells an event.
    pub fn tell(&self, event: Event<'_>) {
        self.events.event(event);
    }

    /// Whether to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}
