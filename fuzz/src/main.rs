//! The fuzzer: runs the judge of one target, named by the environment variable `ABBILD_FUZZ_TARGET`, on what it invents.
//!
//! In here: which target, and the limit on memory. What is judged is in `targets`, how it is run in `run.sh`.

#![no_main]

mod targets;

use std::alloc::System;
use std::sync::OnceLock;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use targets::{Judge, TARGETS};

/// What any command may need at any size, and so what no input may exceed: an allocation past it aborts.
const MEMORY_BYTES_MAX: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_BYTES_MAX);

static JUDGE: OnceLock<Judge> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("ABBILD_FUZZ_TARGET").expect("ABBILD_FUZZ_TARGET names a target; see fuzz/run.sh");
        let known = TARGETS.iter().find(|(known, _)| *known == name);
        JUDGE.get_or_init(|| known.unwrap_or_else(|| panic!("no target is called {name:?}")).1);
    },
    |input: &[u8]| JUDGE.get().expect("set before the first input")(input)
);
