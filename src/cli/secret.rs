//! Where the secret that opens a repository comes from: a key file, a file or command that gives the passphrase, the
//! environment, or the person at the terminal. Never the command line.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::failure::Usage;
use super::terminal::Terminal;
use crate::repo::keys::{KeyFile, Secret};

/// Longest passphrase taken from a file or command.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// Where the secret comes from.
#[derive(Debug)]
pub enum SecretSource {
    /// A key file.
    KeyFile(PathBuf),
    /// The first line of a file.
    PasswordFile(PathBuf),
    /// What a shell command prints.
    PasswordCommand {
        /// The command.
        command: String,
        /// What it was named by: a variable or an option.
        named: &'static str,
    },
    /// An environment variable.
    PasswordVariable(&'static str),
    /// The person at the terminal.
    Ask,
}

/// The variables that say where a repository's secret comes from.
pub struct Variables {
    /// A file whose first line is the passphrase.
    pub file: &'static str,
    /// A shell command that prints it.
    pub command: &'static str,
    /// The passphrase.
    pub password: &'static str,
}

/// Those of the repository.
pub const VARIABLES: Variables =
    Variables { file: "ABBILD_PASSWORD_FILE", command: "ABBILD_PASSWORD_COMMAND", password: "ABBILD_PASSWORD" };

impl SecretSource {
    /// The key file that was named; else the first variable that is set; else the terminal.
    pub fn choose(key_file: Option<&Path>, variables: &Variables) -> SecretSource {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(file) = key_file {
            SecretSource::KeyFile(file.to_owned())
        } else if let Some(file) = variable(variables.file) {
            SecretSource::PasswordFile(file.into())
        } else if let Some(command) = variable(variables.command) {
            let command = command.to_string_lossy().into_owned();
            SecretSource::PasswordCommand { command, named: variables.command }
        } else if variable(variables.password).is_some() {
            SecretSource::PasswordVariable(variables.password)
        } else {
            SecretSource::Ask
        }
    }

    /// The secret that is to open `place`.
    pub fn secret(&self, terminal: &Terminal, place: &str) -> anyhow::Result<Secret> {
        match self {
            SecretSource::Ask => {
                require_terminal(terminal)?;
                Ok(Secret::Passphrase(ask(&format!("Passphrase of {place}: "))?))
            }
            other => other.without_asking(),
        }
    }

    /// The secret for something new: one that is typed is typed twice, and a key file that is not there is made.
    pub fn new_secret(&self, terminal: &Terminal, place: &str) -> anyhow::Result<Secret> {
        match self {
            SecretSource::Ask => {
                require_terminal(terminal)?;
                Ok(Secret::Passphrase(ask_twice(terminal, place)?))
            }
            SecretSource::KeyFile(path) if !path.exists() => {
                let key = KeyFile::generate(&path.display().to_string());
                key.save(path)?;
                terminal.say(&format!("made the key file {}", path.display()));
                Ok(Secret::KeyFile(key))
            }
            other => other.without_asking(),
        }
    }

    fn without_asking(&self) -> anyhow::Result<Secret> {
        let passphrase = match self {
            SecretSource::KeyFile(path) => return Ok(Secret::KeyFile(KeyFile::load(path)?)),
            SecretSource::PasswordFile(path) => from_file(path)?,
            SecretSource::PasswordCommand { command, named } => from_command(command, named)?,
            SecretSource::PasswordVariable(name) => {
                let value = std::env::var(name).with_context(|| format!("{name} is no UTF-8 text"))?;
                Zeroizing::new(value)
            }
            SecretSource::Ask => anyhow::bail!("there is nobody to ask"),
        };
        Ok(Secret::Passphrase(passphrase))
    }
}

/// The first line of a file.
pub fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let read = || -> std::io::Result<Zeroizing<String>> { first_line(&mut std::fs::File::open(path)?) };
    let line = read().with_context(|| format!("cannot read the password file {}", path.display()))?;
    if line.is_empty() {
        let hint = "its first line is the passphrase";
        return Err(Usage::new(format!("the password file {} is empty", path.display()), hint).into());
    }
    Ok(line)
}

fn from_command(command: &str, named: &str) -> anyhow::Result<Zeroizing<String>> {
    // The command itself is not quoted: it may hold what is better not in a log.
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot run {named}"))?;
    let unreadable = || format!("cannot read what {named} prints");
    let mut out = child.stdout.take().with_context(unreadable)?;
    let line = first_line(&mut out).with_context(unreadable)?;
    drop(out);
    let status = child.wait().with_context(|| format!("cannot wait for {named}"))?;
    if !status.success() {
        anyhow::bail!("{named} failed ({status})");
    }
    if line.is_empty() {
        anyhow::bail!("{named} printed no passphrase");
    }
    Ok(line)
}

fn first_line(input: &mut dyn Read) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    input.take(PASSPHRASE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn require_terminal(terminal: &Terminal) -> anyhow::Result<()> {
    if terminal.can_ask() {
        return Ok(());
    }
    let hint = "set ABBILD_KEY_FILE, ABBILD_PASSWORD_FILE or ABBILD_PASSWORD_COMMAND, or name a --key-file";
    Err(Usage::new("no key: there is no terminal to ask for a passphrase", hint).into())
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    Ok(Zeroizing::new(rpassword::prompt_password(prompt).context("cannot ask for the passphrase")?))
}

/// Asks for a new passphrase until it was typed twice alike.
pub fn ask_twice(terminal: &Terminal, place: &str) -> anyhow::Result<Zeroizing<String>> {
    require_terminal(terminal)?;
    loop {
        let first = ask(&format!("New passphrase of {place}: "))?;
        if first.is_empty() {
            terminal.say("an empty passphrase protects nothing");
            continue;
        }
        if *first == *ask("The same again: ")? {
            return Ok(first);
        }
        terminal.say("they differ; once more");
    }
}
