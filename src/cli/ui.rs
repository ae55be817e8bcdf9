//! The only place that prints. Results go to standard output, everything said along the way to standard error; with `--json`
//! standard output gets exactly one object.

use super::progress::Progress;
use crate::env::Monitor;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a command speaks.
pub struct Ui {
    /// One object instead of text.
    pub json: bool,
    quiet: bool,
    progress: Arc<Progress>,
    out: Mutex<Out>,
}

struct Out {
    stdout: BufWriter<Stdout>,
    /// Nobody reads any more: not worth a word.
    gone: bool,
    /// Anything else that went wrong while writing.
    failed: Option<io::Error>,
}

impl Out {
    fn write(&mut self, text: &str) {
        if self.gone || self.failed.is_some() {
            return;
        }
        let written = self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.write_all(b"\n"));
        self.keep(written);
    }

    /// As it is made: the object of a thousand requests is never in memory as a whole.
    fn write_json(&mut self, value: &impl Serialize) {
        if self.gone || self.failed.is_some() {
            return;
        }
        let written = serde_json::to_writer_pretty(&mut self.stdout, value).map_err(io::Error::from);
        let written = written.and_then(|()| self.stdout.write_all(b"\n"));
        self.keep(written);
    }

    fn keep(&mut self, result: io::Result<()>) {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.gone = true,
            Err(e) => self.failed = Some(e),
            Ok(()) => {}
        }
    }
}

impl Ui {
    /// With what the command line says.
    pub fn new(json: bool, quiet: bool, progress: Arc<Progress>) -> Ui {
        let out = Out { stdout: BufWriter::new(io::stdout()), gone: false, failed: None };
        Ui { json, quiet, progress, out: Mutex::new(out) }
    }

    fn write(&self, text: &str) {
        self.progress.clear();
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write(text);
    }

    /// A result that was asked for.
    pub fn data(&self, text: &str) {
        if !self.json {
            self.write(&super::text::plain(text));
        }
    }

    /// What was done, and what to do next; `-q` leaves it out.
    pub fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            self.write(&super::text::plain(text));
        }
    }

    /// Something that must not be overlooked.
    pub fn warn(&self, text: &str) {
        self.flush();
        self.progress.warn(text);
    }

    /// Brings out what was written so far, so that the two streams read in order where they meet.
    fn flush(&self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if !out.gone {
            let flushed = out.stdout.flush();
            out.keep(flushed);
        }
    }

    /// The one object of `--json`.
    pub fn object(&self, value: &impl Serialize) {
        if self.json {
            self.verbatim(value);
        }
    }

    /// An object that is the result itself, with or without `--json`.
    pub fn verbatim(&self, value: &impl Serialize) {
        self.progress.clear();
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write_json(value);
    }

    /// Text that is the result itself (a script), with no regard to what is in it.
    pub fn script(&self, text: &str) {
        self.write(text.trim_end_matches('\n'));
    }

    /// Whether somebody still reads.
    pub fn is_read(&self) -> bool {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        !out.gone && out.failed.is_none()
    }

    /// Brings out what is left. Fails when standard output took not all of it, except when its reader simply left.
    pub fn finish(&self) -> Result<()> {
        self.progress.clear();
        self.flush();
        match self.out.lock().unwrap_or_else(PoisonError::into_inner).failed.take() {
            Some(e) => Err(Error::io("write", "standard output")(e)),
            None => Ok(()),
        }
    }

    /// An error, for a person and, with `--json`, for a script.
    pub fn error(&self, error: &Error) {
        let text = error_text(error);
        self.flush();
        self.progress.error(&text);
        self.object(&error_object(&text, error.exit_code()));
    }
}

/// An error in the words of the user's world.
pub fn error_text(error: &Error) -> String {
    match error {
        Error::Config(findings) if findings.len() > 1 => format!("the configuration has {} mistakes:\n{error}", findings.len()),
        Error::Locked { what, holder, since, .. } => {
            let what = match what.strip_prefix("leases/") {
                Some("-requests") => "the list of requests".to_string(),
                Some("keys") | None => "the repository".to_string(),
                Some(dataset) => format!("dataset {dataset}"),
            };
            let since = since.parse().map_or_else(|_| since.clone(), |t| format!("{} UTC", super::text::time(t)));
            format!("{what} is being written to by {holder}, since {since}; wait for that to end and run the same command again")
        }
        _ => error.to_string(),
    }
}

/// `{"error": …}`
pub fn error_object(message: &str, exit_code: u8) -> Value {
    serde_json::json!({ "error": { "message": message, "exit_code": exit_code } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_locked_out_is_told_by_whom() {
        let locked = |what: &str| {
            let (since, expires) = ("2026-11-01T02:00:59Z".to_string(), String::new());
            error_text(&Error::Locked { what: what.to_string(), holder: "process 7 on vm".into(), since, expires })
        };
        assert!(locked("leases/crm").starts_with("dataset crm is being written to by process 7 on vm, since 2026-11-01 02:00 UTC;"));
        assert!(locked("leases/keys").starts_with("the repository is"));
        assert!(locked("leases/-requests").starts_with("the list of requests is"));
    }
}
