//! What a command prints as an entry: database dumps and the like, streamed, and believed only when the command says at its
//! end that it succeeded. A dump that breaks off half-way looks like a shorter one; only the exit status tells.

use super::meta::Owners;
use crate::error::{Error, Result};
use crate::repository::entry::{Entry, EntryKind, Time};
use rustix::process::{Pid, Signal};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes kept of what a command says on standard error: its last ones.
const KEPT: usize = 16 * 1024;

/// How long a command that is being stopped may take before it is killed, and how long one that ended may leave its
/// standard error open (a process it left behind can hold it).
const GRACE: Duration = Duration::from_secs(1);

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// For `sh -c`. Where the shell can (`pipefail`, POSIX 2024), a failure anywhere in a pipeline is a failure, so that
    /// `dump | compress` does not hide that the dump broke off.
    Shell(String),
    /// A program and its arguments, without a shell.
    Argv(Vec<OsString>),
}

/// A command that is running, readable as what it prints.
///
/// Dropping it before [`CommandStream::finish`] stops the command. On a terminal it stays in our process group, so that it can
/// ask for a password and hears Ctrl-C; without one it gets a group of its own, which is stopped as a whole.
#[derive(Debug)]
pub struct CommandStream {
    what: String,
    child: Child,
    out: Option<ChildStdout>,
    said: Arc<Said>,
    own_group: bool,
    ended: bool,
}

/// The end of standard error, and whether it is closed.
#[derive(Debug, Default)]
struct Said {
    state: Mutex<(VecDeque<u8>, bool)>,
    closed: Condvar,
}

impl CommandStream {
    /// Starts a command with nothing on its standard input. `what` names it in errors; the command line itself is never
    /// shown, because it may hold a password. `dir` is where it runs, if not here.
    ///
    /// Fails with `Source` when it cannot be started.
    pub fn spawn(what: impl Into<String>, line: &CommandLine, dir: Option<PathBuf>) -> Result<CommandStream> {
        let what = what.into();
        let mut command = match line {
            CommandLine::Shell(script) => {
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("(set -o pipefail) 2>/dev/null && set -o pipefail\n{script}"));
                command
            }
            CommandLine::Argv(argv) => {
                let (program, arguments) = argv.split_first().ok_or_else(|| Error::Usage(format!("the command of {what} is empty")))?;
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        // The command has its own secrets; ours are none of its business.
        command.env_remove("RESEAL_PASSPHRASE").env_remove("RESEAL_NEW_PASSPHRASE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = dir {
            command.current_dir(dir);
        }
        let own_group = File::open("/dev/tty").is_err();
        if own_group {
            command.process_group(0);
        }
        let mut child =
            command.spawn().map_err(|e| Error::Source { what: what.clone(), detail: format!("the command cannot be started: {e}") })?;
        let said = Arc::new(Said::default());
        let out = child.stdout.take();
        if let Some(err) = child.stderr.take() {
            let said = Arc::clone(&said);
            // Not joined: a process that the command leaves behind may hold its end open for as long as it likes.
            std::thread::spawn(move || said.listen(err));
        }
        Ok(CommandStream { what, child, out, said, own_group, ended: false })
    }

    /// What it prints, as a file to wait on. To be dropped before [`CommandStream::finish`], or a command that has not been read to its
    /// end would wait for ever.
    pub fn output(&self) -> Result<File> {
        let gone = |e: io::Error| self.failed(format!("its output cannot be read: {e}"));
        let out = self.out.as_ref().ok_or_else(|| gone(io::ErrorKind::BrokenPipe.into()))?;
        out.as_fd().try_clone_to_owned().map(File::from).map_err(gone)
    }

    /// Waits for the end. Fails with `Source`, saying how the command ended and what it last said, unless it succeeded.
    /// Only after this may an archive of what was read be made.
    pub fn finish(mut self) -> Result<()> {
        // Closed first: a command that has not been read to its end must not wait for us for ever.
        self.out = None;
        let status = self.child.wait().map_err(|e| self.failed(format!("waiting for the command: {e}")))?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        let said = self.said.last_words();
        let ended = describe(status);
        Err(self.failed(if said.is_empty() { ended } else { format!("{ended}; it said:\n{said}") }))
    }

    fn failed(&self, detail: String) -> Error {
        Error::Source { what: self.what.clone(), detail }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // A failure means that there is nobody left to tell.
            let _ =
                if self.own_group { rustix::process::kill_process_group(pid, signal) } else { rustix::process::kill_process(pid, signal) };
        }
    }
}

impl Read for CommandStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.read(buf))
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.out = None;
        self.signal(Signal::TERM);
        let step = GRACE / 50;
        for _ in 0..50 {
            // An error here means that it has been waited for.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(step);
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Said {
    fn listen(&self, mut err: impl Read) {
        let mut buf = [0; 4096];
        loop {
            match err.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.0.extend(buf.iter().take(n));
                    let over = state.0.len().saturating_sub(KEPT);
                    state.0.drain(..over);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.closed.notify_all();
    }

    /// What was said last, fit to be shown: control characters could play tricks on a terminal.
    fn last_words(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self.closed.wait_timeout_while(state, GRACE, |s| !s.1).unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(state.0.make_contiguous());
        text.trim().chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the command failed with exit status {code}"),
        (None, Some(signal)) => format!("the command was ended by signal {signal}"),
        (None, None) => format!("the command failed: {status}"),
    }
}

/// The entry that a command's output or standard input is stored as, without size and content: a private file of the user
/// who makes the backup. `name` is its path in the archive.
pub fn stream_entry(name: &str, now: jiff::Timestamp) -> Entry {
    let since = now.as_nanosecond();
    let seconds = since.div_euclid(1_000_000_000);
    let mut owners = Owners::default();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Entry {
        mode: 0o600,
        uid,
        gid,
        user: owners.user(uid),
        group: owners.group(gid),
        mtime: Time(i64::try_from(seconds).unwrap_or(0), u32::try_from(since.rem_euclid(1_000_000_000)).unwrap_or(0)),
        ..Entry::bare(name.as_bytes().to_vec(), EntryKind::File)
    }
}

/// Standard input as a source, unbuffered. Fails with `Usage` when that is a terminal, where nobody has said anything yet.
pub fn standard_input() -> Result<File> {
    let input = io::stdin();
    if input.is_terminal() {
        return Err(Error::Usage("the source is standard input, but that is a terminal; pipe the data in".to_string()));
    }
    input.as_fd().try_clone_to_owned().map(File::from).map_err(Error::io("read", "standard input"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> CommandStream {
        CommandStream::spawn("dataset db", &CommandLine::Shell(script.to_string()), None).unwrap()
    }

    #[test]
    fn what_a_command_prints_is_read_and_success_is_success() {
        let mut command = shell("printf 'a\\0b'; head -c 300000 /dev/zero; echo noise >&2");
        let mut out = Vec::new();
        command.read_to_end(&mut out).unwrap();
        assert_eq!((out.len(), &out[..3]), (300_003, &b"a\0b"[..]));
        command.finish().unwrap();
        let line = CommandLine::Argv(vec!["echo".into(), "a  b".into()]);
        let mut command = CommandStream::spawn("x", &line, Some(PathBuf::from("/"))).unwrap();
        let mut out = String::new();
        command.read_to_string(&mut out).unwrap();
        assert_eq!(out, "a  b\n");
        command.finish().unwrap();
    }

    #[test]
    fn a_command_that_fails_late_fails_the_source_with_its_last_words() {
        let mut command = shell("echo half a dump; yes chatter | head -n 9000 >&2; printf 'disk\\033[2J is full\\n' >&2; exit 3");
        let mut out = String::new();
        command.read_to_string(&mut out).unwrap();
        assert_eq!(out, "half a dump\n");
        let e = command.finish().unwrap_err();
        let text = e.to_string();
        assert!(matches!(e, Error::Source { .. }));
        assert!(text.contains("dataset db") && text.contains("exit status 3") && text.ends_with("disk\u{fffd}[2J is full"), "{text}");
        assert!(text.len() <= KEPT + 200);
    }

    #[test]
    fn a_signal_is_a_failure_and_so_is_a_missing_program() {
        assert!(shell("kill -9 $$").finish().unwrap_err().to_string().contains("signal 9"));
        let missing = CommandLine::Argv(vec!["no-such-program-at-all".into()]);
        assert!(matches!(CommandStream::spawn("x", &missing, None), Err(Error::Source { .. })));
        assert!(matches!(CommandStream::spawn("x", &CommandLine::Argv(vec![]), None), Err(Error::Usage(_))));
    }

    #[test]
    fn a_stream_is_stored_as_a_private_file_of_its_time() {
        let entry = stream_entry("dump.sql", jiff::Timestamp::new(-1, -500_000_000).unwrap());
        assert_eq!((entry.mode, entry.mtime, &*entry.path), (0o600, Time(-2, 500_000_000), &b"dump.sql"[..]));
    }

    #[test]
    fn a_command_dropped_early_is_stopped() {
        let dir = super::super::testing::scratch();
        let mark = dir.path().join("pid");
        let mut command = shell(&format!("echo $$ > '{}'; echo ready; exec sleep 1000", mark.display()));
        let mut head = [0; 6];
        command.read_exact(&mut head).unwrap();
        let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        drop(command);
        assert!(rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_err());
    }

    #[test]
    fn a_process_left_behind_does_not_hold_up_the_end() {
        let mut command = shell("sleep 3 >&2 & echo done");
        let mut out = String::new();
        command.read_to_string(&mut out).unwrap();
        assert_eq!(out, "done\n");
        command.finish().unwrap();
    }
}
