//! Ctrl-C and SIGTERM: the first asks the work to stop where nothing is lost, the second ends the process at once.

use super::progress::Progress;
use crate::env::Stop;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// The usual exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// While somebody is asked for something there is no work to stop: then Ctrl-C ends the process, and the terminal gets back the
/// settings that it had (a prompt for a passphrase turns the echo off).
static ASKING: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved(Option<(File, Termios)>);

/// Standing while somebody is asked.
pub struct Asking(());

impl Asking {
    /// From now until it is dropped.
    pub fn new() -> Asking {
        let terminal = File::open("/dev/tty").ok().and_then(|tty| tcgetattr(&tty).ok().map(|t| (tty, t)));
        *ASKING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved(terminal));
        Asking(())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        *ASKING.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Listens. A process that cannot (it already does) goes on without.
pub fn listen(stop: Stop, progress: Arc<Progress>) {
    let _ = ctrlc::set_handler(move || {
        if let Some(saved) = ASKING.lock().unwrap_or_else(PoisonError::into_inner).take() {
            if let Saved(Some((tty, settings))) = saved {
                let _ = tcsetattr(&tty, OptionalActions::Now, &settings);
            }
            std::process::exit(INTERRUPTED);
        }
        if stop.requested() {
            std::process::exit(INTERRUPTED);
        }
        stop.request();
        progress.line("stopping at the next safe point… (again: stop at once)");
    });
}
