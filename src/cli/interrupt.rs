//! Ctrl-C and SIGTERM: long work is asked to stop, and ends in order. A second Ctrl-C ends the process at once; that is
//! safe too, it only leaves an unfinished file behind.
//!
//! The handler is installed when long work begins, so that before it, at a prompt, Ctrl-C does what it always does.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::Exit;

static WANTED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// The wish to stop, for [`Control`](crate::ops::Control).
pub fn flag() -> &'static AtomicBool {
    INSTALLED.call_once(|| {
        // Without a handler Ctrl-C ends the process at once: less orderly, still safe.
        let _ = ctrlc::set_handler(|| {
            if WANTED.swap(true, Ordering::Relaxed) {
                std::process::exit(Exit::Interrupted.code().into());
            }
        });
    });
    &WANTED
}
