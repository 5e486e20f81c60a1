//! What goes wrong while a mount is served: said once each, in words, to whoever mounted.

use std::collections::HashSet;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

/// Different messages kept apart; beyond it, nothing new is said until some are forgotten.
const MESSAGES_MAX: usize = 1000;

/// Where a mount's faults go.
pub struct Log {
    say: Box<dyn Fn(&str) + Send + Sync>,
    said: Mutex<HashSet<String>>,
}

impl Log {
    /// Hands each message to `say`, the same one once.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Log {
        Log { say: Box::new(say), said: Mutex::default() }
    }

    /// Says that `what` failed, with every cause.
    pub fn say(&self, what: &str, error: &(dyn Error + 'static)) {
        let mut message = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        self.words(&message);
    }

    /// Says it.
    pub fn words(&self, message: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == MESSAGES_MAX {
            said.clear();
        }
        if said.insert(message.to_owned()) {
            (self.say)(message);
        }
    }
}
