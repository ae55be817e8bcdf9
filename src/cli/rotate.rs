//! `reseal rotate`: applies retention.

use super::args::Rotate;
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL, buckets, go_on, ui, worst};
use crate::engine::certificate::locked_json;
use crate::engine::event::Verdict;
use crate::engine::rotate::{self, Report};
use crate::{Error, Result};
use serde_json::{Value, json};

/// Rotates every dataset.
pub fn run(cx: &Context, args: &Rotate) -> Result<u8> {
    let session = cx.session()?;
    let mut objects = Vec::new();
    let mut codes = Vec::new();
    let only_one = session.config.datasets.len() == 1;
    let mut given_up = Vec::new();
    for wanted in &args.lost {
        let lost = rotate::give_up(&session, wanted, args.reason.as_deref().unwrap_or_default())?;
        cx.ui.say(&format!("{}: gave up archive {}", lost.dataset, text::short(lost.archive)));
        given_up.push(json!({ "dataset": lost.dataset, "archive": lost.archive.to_string() }));
    }
    for config in session.config.datasets.values() {
        match rotate::rotate(&session, config, args.dry_run) {
            Ok(report) => {
                say(cx, &report, args.dry_run);
                codes.push(if report.gone == Verdict::Unknown { PARTIAL } else { DONE });
                objects.push(object(&report));
            }
            Err(e) if only_one || matches!(e, Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                let text = ui::error_text(&e);
                cx.ui.warn(&format!("{} was not rotated: {text}", config.name));
                codes.push(e.exit_code());
                objects.push(super::backup::failed(&config.name, &text, e.exit_code()));
            }
        }
        go_on(cx)?;
    }
    cx.ui.object(&json!({ "dry_run": args.dry_run, "given_up": given_up, "datasets": objects }));
    Ok(worst(codes))
}

/// In words.
pub fn say(cx: &Context, report: &Report, dry_run: bool) {
    let going = report.archives.iter().filter(|a| a.expires).count() as u64;
    let staying = report.archives.len() as u64 - going;
    if dry_run {
        let mut table = Table::new(&[
            ("archive", Align::Left),
            ("dataset", Align::Left),
            ("time (UTC)", Align::Left),
            ("", Align::Left),
            ("rule", Align::Left),
        ]);
        for a in &report.archives {
            let fate = if a.expires { "goes" } else { "stays" };
            table.row(vec![
                text::short(a.listed.head.archive),
                report.dataset.clone(),
                text::time(a.listed.head.created_at),
                fate.into(),
                a.reason.clone(),
            ]);
        }
        if !table.is_empty() {
            cx.ui.data(&table.render());
        }
        cx.ui.say(&format!("{}: {} would go, {staying} would stay", report.dataset, text::count(going, "archive", "archives")));
        return;
    }
    for a in report.archives.iter().filter(|a| a.expires) {
        cx.ui.say(&format!(
            "{}: rotated out archive {} of {} UTC ({})",
            report.dataset,
            text::short(a.listed.head.archive),
            text::time(a.listed.head.created_at),
            a.reason
        ));
    }
    cx.ui.say(&format!(
        "{}: {} gone, {staying} left; {} freed",
        report.dataset,
        text::count(going, "archive", "archives"),
        text::bytes(report.dropped.1)
    ));
    buckets::say_locked(cx, &report.locked);
    if report.gone == Verdict::Unknown {
        cx.ui.warn(&format!("{}: whether everything that was removed is gone could not be checked; see: reseal verify", report.dataset));
    }
}

/// For scripts.
pub fn object(report: &Report) -> Value {
    let archives: Vec<Value> = report
        .archives
        .iter()
        .map(|a| {
            json!({
                "archive": a.listed.head.archive.to_string(), "created_at": a.listed.head.created_at.to_string(), "expires": a.expires, "rule": a.reason,
            })
        })
        .collect();
    json!({
        "dataset": report.dataset,
        "archives": archives,
        "dropped": { "chunks": report.dropped.0, "bytes": report.dropped.1 },
        "gone": report.gone.to_string(),
        "locked": locked_json(&report.locked),
    })
}
