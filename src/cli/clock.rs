//! `RESEAL_NOW`: the program's clock set from outside, for demonstrations and tests. It starts at the time given and goes on from there,
//! so that what takes time still does.

use super::args::moment;
use crate::env::{Clock, SystemClock};
use crate::{Error, Result};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Instant;

/// A clock that was set.
struct SetClock {
    start: Timestamp,
    since: Instant,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        let gone = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.start.checked_add(gone).unwrap_or(Timestamp::MAX)
    }
}

/// The clock to use, and the time that it was set to, if it was.
pub fn clock() -> Result<(Arc<dyn Clock>, Option<Timestamp>)> {
    let Some(text) = std::env::var_os("RESEAL_NOW").filter(|t| !t.is_empty()) else { return Ok((Arc::new(SystemClock), None)) };
    let start = moment(&text.to_string_lossy()).map_err(|e| Error::Usage(format!("RESEAL_NOW: {e}")))?;
    Ok((Arc::new(SetClock { start, since: Instant::now() }), Some(start)))
}
