//! `reseal drill`: restores for real and says what came out.

use super::args::Drill;
use super::open::Context;
use super::{DONE, FAILED, go_on, text, ui, worst};
use crate::engine::drill::{self, Report};
use crate::engine::event::Verdict;
use crate::{Error, Result};
use serde_json::{Value, json};

/// Drills the datasets named, or all.
pub fn run(cx: &Context, args: &Drill) -> Result<u8> {
    let (session, _) = cx.settled()?;
    let configs = session.datasets_named(&args.datasets)?;
    let only_one = configs.len() == 1;
    let mut objects = Vec::new();
    let mut codes = Vec::new();
    for config in configs {
        match drill::drill(&session, config, None) {
            Ok(report) => {
                say(cx, &report);
                codes.push(code(&report));
                objects.push(object(&report));
            }
            Err(e) if only_one || matches!(e, Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                let text = ui::error_text(&e);
                cx.ui.warn(&format!("{} was not drilled: {text}", config.name));
                codes.push(e.exit_code());
                objects.push(super::backup::failed(&config.name, &text, e.exit_code()));
            }
        }
        go_on(cx)?;
    }
    cx.ui.object(&json!({ "drills": objects }));
    Ok(worst(codes))
}

/// Everything must pass: a check that could not be made is none.
pub fn code(report: &Report) -> u8 {
    if report.verdict == Verdict::Pass { DONE } else { FAILED }
}

/// In words.
pub fn say(cx: &Context, report: &Report) {
    cx.ui.data(&format!(
        "{}: drill of archive {} ({} UTC): {}; {} in {} restored in {}, backup age {}",
        report.dataset,
        text::short(report.archive),
        text::time(report.created_at),
        report.verdict,
        text::bytes(report.bytes),
        text::count(report.entries, "entry", "entries"),
        text::seconds(report.restore_seconds),
        text::seconds(report.backup_age_seconds as f64)
    ));
    for check in &report.checks {
        cx.ui.data(&format!("  {:<7} {}: {}", check.verdict.to_string(), check.name, check.detail));
    }
}

/// For scripts.
pub fn object(report: &Report) -> Value {
    let checks: Vec<Value> =
        report.checks.iter().map(|c| json!({ "name": c.name, "result": c.verdict.to_string(), "detail": c.detail })).collect();
    json!({
        "dataset": report.dataset,
        "archive": report.archive.to_string(),
        "created_at": report.created_at.to_string(),
        "result": report.verdict.to_string(),
        "restore_seconds": report.restore_seconds,
        "bytes": report.bytes,
        "entries": report.entries,
        "backup_age_seconds": report.backup_age_seconds,
        "checks": checks,
    })
}
