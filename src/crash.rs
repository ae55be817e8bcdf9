//! Crash points: every durable step of the store and the catalog passes through [`step`], so that a test can abort the process
//! at each of them in turn and look at what is left. Compiled to nothing without the `failpoints` feature.

/// Marks the place between two durable steps; `name` says what is about to happen ("put packs/…: rename").
///
/// With the feature on: `RESEAL_CRASH_AT=n` aborts at the n-th step (from 1), `RESEAL_CRASH_LOG=file` appends each step's name.
#[inline]
pub fn step(name: &str) {
    #[cfg(feature = "failpoints")]
    on::step(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

#[cfg(feature = "failpoints")]
mod on {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    static STEPS: AtomicU64 = AtomicU64::new(0);

    pub fn step(name: &str) {
        let n = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(path) = std::env::var_os("RESEAL_CRASH_LOG")
            && let Ok(mut log) = std::fs::OpenOptions::new().append(true).create(true).open(path)
        {
            let _ = writeln!(log, "{n} {name}");
        }
        if std::env::var("RESEAL_CRASH_AT").ok().and_then(|v| v.parse::<u64>().ok()) == Some(n) {
            std::process::abort();
        }
    }
}
