//! The stage of the command's own stories: a home of its own, the fixture's machine, and the command as a user runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// A home with nothing in it but the machine `web1`.
pub struct Stage {
    folder: TempDir,
}

/// What a run of the command left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Stage {
    /// With the fixture's machine in the folder `web1`.
    pub fn new() -> Stage {
        let stage = Stage::empty();
        let tar = Command::new("tar")
            .args(["-xzf", &format!("{FIXTURES}/guest.tar.gz"), "-C"])
            .arg(stage.path(""))
            .status()
            .expect("tar is needed by this test");
        assert!(tar.success());
        stage
    }

    /// With nothing at all.
    pub fn empty() -> Stage {
        Stage { folder: tempfile::tempdir().unwrap() }
    }

    /// A path on the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// The command, with nothing of this user's own taking part.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        self.command_at(Path::new(env!("CARGO_BIN_EXE_abbild")), arguments)
    }

    /// The same from another place.
    pub fn command_at<A: AsRef<OsStr>>(&self, program: &Path, arguments: &[A]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.path(""))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TZ", "UTC")
            // How full this medium is must not decide how tests end.
            .env("ABBILD_WARN_FREE", "0")
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// Runs it with a passphrase from the environment.
    pub fn run_with(&self, variable: &str, value: &str, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).env(variable, value).output().unwrap())
    }

    /// Backs `web1` up at a level, as JSON.
    #[track_caller]
    pub fn backup(&self, level: &str) -> Value {
        self.run(&["backup", "web1", "--snapshot", level, "--json"]).ok().json()
    }

    /// Every file of the default repository below `folder`.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("data/abbild/repository").join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// Text with what differs from run to run replaced: the stage's folder, ids, times, durations.
    pub fn redacted(&self, text: &str) -> String {
        let text = text.replace(self.path("").to_str().unwrap().trim_end_matches('/'), "DIR");
        text.split_inclusive([' ', '\n', ',', ':', '@']).map(redacted_word).collect::<String>()
    }
}

/// Hex of at least eight digits is an id; four digits and a dash begin a time.
fn redacted_word(word: &str) -> String {
    let core = word.trim_end_matches([' ', '\n', ',', ':', '@']);
    let is_id =
        core.len() >= 8 && core.bytes().all(|b| b.is_ascii_hexdigit()) && core.bytes().any(|b| b.is_ascii_digit());
    if is_id { word.replacen(core, "ID", 1) } else { word.to_owned() }
}

impl Run {
    /// What a run gave.
    pub fn of(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Must have ended well.
    #[track_caller]
    pub fn ok(self) -> Run {
        self.ended(0)
    }

    /// Must have ended with this code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Run {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    /// Must have said this on stderr.
    #[track_caller]
    pub fn said(self, text: &str) -> Run {
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        self
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let lines: Vec<Value> = self.json_lines();
        let [one] = lines.as_slice() else { panic!("one object, not {self:?}") };
        one.clone()
    }

    /// The JSON objects on stdout, one a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// The string at a key.
#[track_caller]
pub fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

/// What the fixture's disk is at `base`, `level1` or `current`.
pub fn expected_sum(level: &str) -> String {
    let list = std::fs::read_to_string(format!("{FIXTURES}/guest/expected.sha256")).unwrap();
    let line = list.lines().find(|line| line.ends_with(&format!("  {level}.raw"))).expect("a level of the fixture");
    line.split(' ').next().unwrap().to_owned()
}

/// SHA-256 of a file.
pub fn sum(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}
