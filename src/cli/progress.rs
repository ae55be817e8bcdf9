//! Who hears about progress: a bar on a terminal, plain lines elsewhere.

use super::text;
use crate::env::Monitor;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Totals of phases that count archives stay below this; bytes hardly ever do.
const FEW: u64 = 4096;

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A bar on standard error.
    Bar,
    /// A line per phase.
    Lines,
    /// Not at all.
    Not,
}

/// The monitor of the command line.
pub struct Progress {
    how: How,
    verbose: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// As the command line says, and as standard error can show.
    pub fn new(quiet: bool, no_progress: bool, verbose: u8) -> Progress {
        let how = match () {
            () if quiet || no_progress => How::Not,
            () if std::io::stderr().is_terminal() => How::Bar,
            () if verbose > 0 => How::Lines,
            () => How::Not,
        };
        Progress { how, verbose: verbose > 0, bar: Mutex::default() }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the bar away, for good.
    pub fn clear(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    /// A line on standard error that does not disturb the bar.
    pub fn line(&self, line: &str) {
        let print = || {
            // Nobody to hear it is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{}", text::plain(line));
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// An error.
    pub fn error(&self, message: &str) {
        self.clear();
        self.line(&format!("error: {message}"));
    }
}

fn style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        None => "{spinner} {msg}: {binary_bytes}, {binary_bytes_per_sec}, {elapsed}",
        Some(n) if n < FEW => "{msg} [{bar:30}] {pos}/{len}, {eta} left",
        Some(_) => "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Monitor for Progress {
    fn phase(&self, name: &str, total: Option<u64>) {
        match self.how {
            How::Not => {}
            How::Lines => self.line(&format!("{name} …")),
            How::Bar => {
                let mut slot = self.bar();
                if let Some(old) = slot.take() {
                    old.finish_and_clear();
                }
                let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
                    .with_style(style(total))
                    .with_message(name.to_string());
                bar.enable_steady_tick(Duration::from_millis(120));
                *slot = Some(bar);
            }
        }
    }

    fn advance(&self, n: u64) {
        if self.how == How::Bar
            && let Some(bar) = &*self.bar()
        {
            bar.inc(n);
        }
    }

    fn warn(&self, message: &str) {
        self.line(&format!("warning: {message}"));
    }

    fn detail(&self, message: &str) {
        if self.verbose {
            self.line(message);
        }
    }
}
