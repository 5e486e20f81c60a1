//! Parses the command line, runs one verb, and turns the outcome into an exit code.

fn main() {}
