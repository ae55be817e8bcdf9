//! What the library takes from outside instead of reaching for it: the time, randomness, the wish to stop, and somebody to
//! tell about progress. Passing them in is what makes clocks that jump, seeded tests and a silent library possible;
//! clippy's `disallowed-methods` keeps the library from calling the system's clock by itself.

use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The current time.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The system's clock. The only place that asks it.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands where it is put (tests; `RESEAL_NOW` in the binary).
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// A source of random bytes fit for keys.
pub trait Random: Send + Sync {
    /// Fills `out`; fails only when the system has no randomness to give.
    fn fill(&self, out: &mut [u8]) -> crate::Result<()>;
}

/// The operating system's generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> crate::Result<()> {
        getrandom::fill(out).map_err(|e| crate::Error::Refused(format!("the system gives no random bytes: {e}")))
    }
}

/// An array of fresh random bytes.
pub fn random_bytes<const N: usize>(random: &dyn Random) -> crate::Result<[u8; N]> {
    let mut out = [0u8; N];
    random.fill(&mut out)?;
    Ok(out)
}

/// Set by Ctrl-C or SIGTERM; long work asks it at safe points.
#[derive(Debug, Default, Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks all holders to stop at their next safe point.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Fails with [`crate::Error::Interrupted`] when somebody asked; `what` tells how to go on.
    pub fn check(&self, what: &str) -> crate::Result<()> {
        if self.requested() { Err(crate::Error::Interrupted(what.to_string())) } else { Ok(()) }
    }
}

/// Who hears about progress and findings. The library never prints.
pub trait Monitor: Send + Sync {
    /// A phase begins; `total` in bytes of plaintext or objects, where known.
    fn phase(&self, name: &str, total: Option<u64>);
    /// `n` more units of the current phase are done.
    fn advance(&self, n: u64);
    /// Something the user should know, that does not stop the work.
    fn warn(&self, message: &str);
    /// Detail for `-v`.
    fn detail(&self, message: &str);
}

/// Hears nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
    fn detail(&self, _: &str) {}
}

/// Everything from outside, handed down as one.
#[derive(Clone)]
pub struct Env {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// The wish to stop.
    pub stop: Stop,
    /// Progress and findings.
    pub monitor: Arc<dyn Monitor>,
}

impl Env {
    /// The system's clock and randomness, and nobody listening.
    pub fn system() -> Env {
        Env { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) }
    }

    /// Now, in UTC.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
