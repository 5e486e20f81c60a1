//! Exit codes: few, fixed, and in the manual.

use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for was done.
    Done,
    /// It failed in a way that has no code of its own.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Done, but with warnings, or not for every machine.
    Warnings,
    /// There is no repository at this place.
    NoRepository,
    /// Somebody else is at work.
    Busy,
    /// No key slot opens with this key.
    WrongKey,
    /// Stored data is damaged or missing.
    Damaged,
    /// The medium or the quota is full.
    NoSpace,
    /// The user asked to stop.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Warnings => 3,
            Exit::NoRepository => 10,
            Exit::Busy => 11,
            Exit::WrongKey => 12,
            Exit::Damaged => 13,
            Exit::NoSpace => 14,
            Exit::Interrupted => 130,
        }
    }

    /// How another run of this program ended, by its code; [`Exit::Failed`] for one that a signal ended.
    pub fn of_code(code: Option<i32>) -> Exit {
        use Exit::{Busy, Damaged, Done, Interrupted, NoRepository, NoSpace, Usage, Warnings, WrongKey};
        let all = [Done, Usage, Warnings, NoRepository, Busy, WrongKey, Damaged, NoSpace, Interrupted];
        all.into_iter().find(|exit| code == Some(exit.code().into())).unwrap_or(Exit::Failed)
    }

    /// [`Exit::Done`], or [`Exit::Warnings`] if there were any.
    pub fn done_with(warnings: bool) -> Exit {
        if warnings { Exit::Warnings } else { Exit::Done }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
