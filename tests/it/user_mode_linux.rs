//! A small machine for judges: Linux as a process, on the host's own files, with drivers that the host's kernel may lack.
//! Needs no root. What it does says a script in `tests/judge`, its first process.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A guard against a machine that hangs, not a measure: half a minute of work takes long where much else runs.
const PATIENCE: Duration = Duration::from_secs(900);

/// A folder in memory, if there is one: the machine keeps its own memory there, and no disk has to follow its images.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Runs `script` with `images` as its block devices `ubda`, `ubdb`…, and the [`folder`] `work` to read and write in, until it
/// has made the file `done` there.
#[track_caller]
pub(crate) fn boot(script: &str, work: &Path, images: &[PathBuf]) {
    let judges = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge");
    let library = work.join("ptrace.so");
    let source = judges.join("ptrace.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()), "this story needs cc");
    let console = fs::File::create(work.join("console")).unwrap();
    let mut command = Command::new("linux.uml");
    command
        .process_group(0)
        .args(["rootfstype=hostfs", "ro", "mem=192M", "con=null", "con0=null,fd:1", "quiet"])
        .arg(format!("init={}", judges.join(script).display()))
        .arg(format!("JUDGE_WORK={}", work.display()))
        .env("LD_PRELOAD", &library)
        .env("TMPDIR", work)
        .env("HOME", work)
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console);
    for (number, image) in images.iter().enumerate() {
        // What follows a comma would be the file below.
        assert!(!image.to_str().unwrap().contains([',', ' ']), "{image:?}");
        command.arg(format!("ubd{number}={}", image.display()));
    }
    let mut machine = command.spawn().unwrap_or_else(|err| panic!("this story needs linux.uml: {err}"));
    let begin = Instant::now();
    while machine.try_wait().unwrap().is_none() {
        if begin.elapsed() > PATIENCE {
            // With the processes that it made.
            let group = rustix::process::Pid::from_child(&machine);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            panic!("user mode Linux does not end: {}", told(work));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(work.join("done").exists(), "user mode Linux did not do its work: {}", told(work));
}

/// What it said.
fn told(work: &Path) -> String {
    let file = |name| String::from_utf8_lossy(&fs::read(work.join(name)).unwrap_or_default()).into_owned();
    format!("{}\n{}", file("trouble"), file("console"))
}
