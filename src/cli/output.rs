//! Results that come one by one or as bytes: stdout with a buffer, and the news that nobody reads it any more.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;

use anyhow::Context as _;
use serde::Serialize;

const BUFFER_BYTES: usize = 64 << 10;

/// Stdout for a stream of results.
pub struct Output {
    out: BufWriter<Stdout>,
    /// Somebody watches: nothing waits in the buffer.
    watched: bool,
}

impl Output {
    /// Stdout.
    pub fn new() -> Output {
        Output { out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()), watched: io::stdout().is_terminal() }
    }

    /// Writes bytes as they are; breaks when nobody reads them any more.
    ///
    /// # Errors
    /// If stdout cannot take them, other than because it was closed.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<ControlFlow<()>> {
        let written = self.out.write_all(bytes).and_then(|()| if self.watched { self.out.flush() } else { Ok(()) });
        match written {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(error),
        }
    }

    /// Writes a value as a line of JSON.
    ///
    /// # Errors
    /// As [`Output::bytes`].
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<ControlFlow<()>> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// As [`Output::bytes`].
    pub fn finish(mut self) -> anyhow::Result<()> {
        match self.out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
            _ => Ok(()),
        }
    }
}
