//! What may be said to a person, whatever an image or a definition says.

/// Longest message that a tired person would still read. File names make up most of it: those of the image, of its
/// parent, and of where that was looked for.
const BYTES_MAX: usize = 16 << 10;

/// Panics if a message has no end.
pub(super) fn is_short(message: &str) {
    assert!(message.len() <= BYTES_MAX, "a message of {} bytes", message.len());
}

/// Panics if a message has no end, or would steer a terminal. Terminals are safe in any case (`cli` replaces control
/// characters); this is for rooms that promise it themselves.
pub(super) fn can_be_shown(message: &str) {
    is_short(message);
    assert!(!message.chars().any(char::is_control), "control characters: {message:?}");
}
