//! Where secrets come from: a key file, the environment, a file, a command, a prompt. Never an argument, which the process list shows.
//! What is read is wiped after use.

use super::args::Global;
use super::signals::Asking;
use super::ui::Ui;
use crate::crypto::secret::{KeyFile, Secret};
use crate::env::Random;
use crate::repository::host::{HostKey, is_host_key};
use crate::{Error, Result};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Longest secret or identity file that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// Which of a command's secrets: the one that opens the repository, or a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Opens the repository.
    Current,
    /// For a new key slot.
    New,
}

impl Which {
    fn variable(self, suffix: &str) -> String {
        match self {
            Which::Current => format!("RESEAL_PASSPHRASE{suffix}"),
            Which::New => format!("RESEAL_NEW_PASSPHRASE{suffix}"),
        }
    }
}

/// The secret that opens the repository.
pub fn current(global: &Global, ui: &Ui) -> Result<Secret> {
    if let Some(path) = &global.key_file {
        return key_file(path, ui);
    }
    if let Some(text) = given(Which::Current, ui)? {
        return Secret::passphrase(&text);
    }
    let text = prompt("Passphrase of the repository: ", &missing(Which::Current))?;
    Secret::passphrase(&text)
}

/// The put-only key that `--key-file` names, when it is one.
pub fn host_key(global: &Global, ui: &Ui) -> Result<Option<HostKey>> {
    let Some(path) = &global.key_file else { return Ok(None) };
    let text = read(path)?;
    if !is_host_key(&text) {
        return Ok(None);
    }
    warn_if_shared(path, ui);
    HostKey::parse(&text).map(Some).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
}

/// Whether a secret can be had without asking anybody.
pub fn is_given(global: &Global) -> bool {
    global.key_file.is_some() || ["", "_FILE", "_COMMAND"].iter().any(|s| variable(&Which::Current.variable(s)).is_some())
}

/// A secret for a new slot, and where the user keeps it, in words. A key file is made when it is not there.
pub fn fresh(which: Which, key_file_path: Option<&Path>, random: &dyn Random, ui: &Ui) -> Result<(Secret, String)> {
    if let Some(path) = key_file_path {
        return if path.exists() {
            Ok((key_file(path, ui)?, format!("the key file {}", path.display())))
        } else {
            let file = KeyFile::generate(random)?;
            write_new(path, file.encode().as_bytes())?;
            Ok((Secret::KeyFile(file), format!("the new key file {}", path.display())))
        };
    }
    if let Some(text) = given(which, ui)? {
        return Ok((Secret::passphrase(&text)?, "the passphrase given".to_string()));
    }
    let first = prompt("New passphrase: ", &missing(which))?;
    // Refused before it has to be typed again.
    let secret = Secret::passphrase(&first)?;
    let second = prompt("The same passphrase again: ", &missing(which))?;
    if *first != *second {
        return Err(Error::Usage("the two passphrases are not the same; nothing was changed".into()));
    }
    Ok((secret, "your passphrase".to_string()))
}

fn missing(which: Which) -> String {
    let v = |s: &str| which.variable(s);
    let flag = if which == Which::Current { "--key-file" } else { "--new-key-file" };
    format!(
        "no secret was given and there is no terminal to ask on; set {} (a file that holds it), {} (a command that prints it) or {}, or use {flag}",
        v("_FILE"),
        v("_COMMAND"),
        v("")
    )
}

fn variable(name: &str) -> Option<Zeroizing<String>> {
    let text = std::env::var_os(name)?;
    Some(Zeroizing::new(text.into_string().unwrap_or_default()))
}

fn given(which: Which, ui: &Ui) -> Result<Option<Zeroizing<String>>> {
    let (plain, file, command) = (which.variable(""), which.variable("_FILE"), which.variable("_COMMAND"));
    let named = |name: &str, text: Zeroizing<String>| {
        if text.is_empty() { Err(Error::Usage(format!("the passphrase from {name} is empty"))) } else { Ok(Some(text)) }
    };
    if let Some(text) = variable(&plain) {
        return named(&plain, text);
    }
    if let Some(path) = variable(&file) {
        let path = PathBuf::from(path.as_str());
        warn_if_shared(&path, ui);
        return named(&file, first_line(&read(&path)?));
    }
    match variable(&command) {
        Some(line) => named(&command, first_line(&run(&command, &line)?)),
        None => Ok(None),
    }
}

/// Editors and `echo` end a file with a line end that nobody means.
fn first_line(text: &str) -> Zeroizing<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_string())
}

fn run(name: &str, line: &str) -> Result<Zeroizing<String>> {
    let bad = |what: String| Error::Usage(format!("the command in {name} {what}"));
    let _asking = Asking::new();
    let mut child =
        Command::new("sh").arg("-c").arg(line).stdout(Stdio::piped()).spawn().map_err(|e| bad(format!("cannot be started: {e}")))?;
    let mut text = Zeroizing::new(Vec::new());
    if let Some(out) = child.stdout.take() {
        out.take(LIMIT).read_to_end(&mut text).map_err(|e| bad(format!("cannot be read: {e}")))?;
    }
    let status = child.wait().map_err(|e| bad(format!("cannot be waited for: {e}")))?;
    if !status.success() {
        return Err(bad(format!("failed ({status})")));
    }
    utf8(text).ok_or_else(|| bad("printed something that is not UTF-8 text".to_string()))
}

fn utf8(bytes: Zeroizing<Vec<u8>>) -> Option<Zeroizing<String>> {
    std::str::from_utf8(&bytes).ok().map(|t| Zeroizing::new(t.to_string()))
}

fn key_file(path: &Path, ui: &Ui) -> Result<Secret> {
    warn_if_shared(path, ui);
    let text = read(path)?;
    if is_host_key(&text) {
        return Err(Error::Refused(format!(
            "{} is a put-only key: with it `reseal backup` adds archives; it opens, lists and deletes none. Whoever may do that has a passphrase or a full key file",
            path.display()
        )));
    }
    KeyFile::parse(&text).map(Secret::KeyFile).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
}

fn warn_if_shared(path: &Path, ui: &Ui) {
    if let Ok(meta) = std::fs::metadata(path)
        && meta.is_file()
        && meta.permissions().mode() & 0o077 != 0
    {
        ui.warn(&format!("{} can be read by others; chmod 600 it", path.display()));
    }
}

/// A file that holds a secret or an identity.
pub fn read(path: &Path) -> Result<Zeroizing<String>> {
    // A missing one is a mistake in the command or the environment, not a failure of the machine.
    let file = File::open(path).map_err(|e| Error::Usage(format!("cannot read {}: {e}", path.display())))?;
    bounded(file, &path.display().to_string())
}

/// An identity file, or standard input for `-`. Its text names a person: it is wiped after use and never shown.
pub fn identities(path: &Path, ui: &Ui) -> Result<Zeroizing<String>> {
    if path.as_os_str() == "-" {
        let _asking = Asking::new();
        return bounded(std::io::stdin().lock(), "standard input");
    }
    warn_if_shared(path, ui);
    read(path)
}

fn bounded(from: impl Read, name: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|e| Error::Usage(format!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::Usage(format!("{name} is larger than {}", super::text::bytes(LIMIT))));
    }
    utf8(bytes).ok_or_else(|| Error::Usage(format!("{name} is not UTF-8 text")))
}

/// A new file that only its owner reads. Fails when one is there.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

fn prompt(text: &str, otherwise: &str) -> Result<Zeroizing<String>> {
    // Both: the prompt must be seen, and the answer must come from the terminal and not from what is piped in.
    if !std::io::stderr().is_terminal() || File::open("/dev/tty").is_err() {
        return Err(Error::Usage(otherwise.to_string()));
    }
    let _asking = Asking::new();
    let typed =
        rpassword::prompt_password(text).map(Zeroizing::new).map_err(|e| Error::Usage(format!("cannot read the passphrase: {e}")))?;
    if typed.is_empty() {
        return Err(Error::Usage("the passphrase is empty; nothing was done".into()));
    }
    Ok(typed)
}
