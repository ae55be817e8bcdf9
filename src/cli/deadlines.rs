//! Deadlines of requests, told by every command that lists requests: a deadline that passes unnoticed is a breach of the law.

use super::text;
use super::ui::Ui;
use crate::engine::state::Request;
use crate::policy::clocks::{Deadline, DeadlineStatus};
use jiff::Timestamp;

/// How the deadline of an unfinished request stands; `None` when it has none or is over.
pub fn status(request: &Request, now: Timestamp) -> Option<DeadlineStatus> {
    let at = request.deadline.filter(|_| !request.stage(now).is_final())?;
    Some(Deadline { at, extended: request.clock.extended }.status(now))
}

/// For JSON.
pub fn word(status: Option<DeadlineStatus>) -> Option<&'static str> {
    status.map(|s| match s {
        DeadlineStatus::OnTime { .. } => "on-time",
        DeadlineStatus::Approaching { .. } => "approaching",
        DeadlineStatus::Passed { .. } => "passed",
    })
}

/// Warns about deadlines that are near or past.
pub fn warn<'a>(ui: &Ui, requests: impl IntoIterator<Item = &'a Request>, now: Timestamp) {
    for request in requests {
        let Some(at) = request.deadline else { continue };
        let days = |n: i64| text::count(n.unsigned_abs(), "day", "days");
        match status(request, now) {
            Some(DeadlineStatus::Passed { days_over }) => ui.warn(&format!(
                "request {}: the deadline passed {} ago, on {} UTC, and the request is {}",
                request.id,
                if days_over == 0 { "less than a day".to_string() } else { days(days_over) },
                text::time(at),
                request.stage(now)
            )),
            Some(DeadlineStatus::Approaching { days_left }) => ui.warn(&format!(
                "request {}: the deadline is in {}, on {} UTC, and the request is {}",
                request.id,
                if days_left == 0 { "less than a day".to_string() } else { days(days_left) },
                text::time(at),
                request.stage(now)
            )),
            Some(DeadlineStatus::OnTime { .. }) | None => {}
        }
    }
}
