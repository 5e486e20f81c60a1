//! What a copy could not keep: each kind of thing once, counted, with the first file that lost it and why.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use serde::Serialize;

/// What was not kept, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// What the target would not take.
    pub lost: BTreeMap<&'static str, Loss>,
    /// What was not tried: only root can keep it, or an archive has no form for it.
    pub not_tried: BTreeMap<&'static str, Loss>,
}

/// Something that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Of how many files.
    pub count: u64,
    /// The first of them.
    pub first: String,
    /// Why.
    pub reason: String,
}

impl Losses {
    /// Notes that `what` of the file at `place` was not kept.
    pub fn lost(&mut self, what: &'static str, place: &str, reason: &dyn Display) {
        note(&mut self.lost, what, place, reason);
    }

    /// Notes that `what` of the file at `place` was not even tried to be kept.
    pub fn not_tried(&mut self, what: &'static str, place: &str, reason: &dyn Display) {
        note(&mut self.not_tried, what, place, reason);
    }

    /// A line for each kind that the target would not take.
    pub fn lines(&self) -> Vec<String> {
        self.lost.iter().map(|(what, loss)| loss.line(what)).collect()
    }

    /// A line for each kind that was not tried.
    pub fn lines_not_tried(&self) -> Vec<String> {
        self.not_tried.iter().map(|(what, loss)| loss.line(what)).collect()
    }
}

impl Loss {
    fn line(&self, what: &str) -> String {
        let mut line = format!("not kept: {what} of {}", self.first);
        if self.count > 1 {
            // Writing to a string does not fail.
            let _ = write!(line, " and {} more", self.count - 1);
        }
        line + ": " + &self.reason
    }
}

fn note(losses: &mut BTreeMap<&'static str, Loss>, what: &'static str, place: &str, reason: &dyn Display) {
    let first = || Loss { count: 0, first: place.to_owned(), reason: reason.to_string() };
    losses.entry(what).or_insert_with(first).count += 1;
}
