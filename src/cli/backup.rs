//! `reseal backup`: seals a new archive of each dataset.

use super::args::Backup;
use super::open::Context;
use super::{DONE, PARTIAL, go_on, text, ui, worst};
use crate::Result;
use crate::engine::backup::{self, Report};
use crate::source::walk::Severity;
use serde_json::{Value, json};

/// Backs up the datasets named, or all. One that fails does not keep the others from being tried.
pub fn run(cx: &Context, args: &Backup) -> Result<u8> {
    let session = cx.session()?;
    let mut objects = Vec::new();
    let mut codes = vec![DONE];
    let configs = session.datasets_named(&args.datasets)?;
    let only_one = configs.len() == 1;
    for config in configs {
        match backup::backup(&session, config, args.tag.clone()) {
            Ok(report) => {
                say(cx, &report);
                codes.push(if report.is_partial() { PARTIAL } else { DONE });
                objects.push(object(&report));
            }
            Err(e) if only_one || matches!(e, crate::Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                let text = ui::error_text(&e);
                cx.ui.warn(&format!("no archive of {} was made: {text}", config.name));
                codes.push(e.exit_code());
                objects.push(failed(&config.name, &text, e.exit_code()));
            }
        }
        go_on(cx)?;
    }
    cx.ui.object(&json!({ "backups": objects }));
    Ok(worst(codes))
}

/// In words.
pub fn say(cx: &Context, report: &Report) {
    let head = &report.head;
    let n = report.entries;
    cx.ui.say(&format!(
        "{}: sealed archive {} of {} ({}), {} stored; files: {} new, {} changed, {} unchanged",
        head.dataset,
        text::short(head.archive),
        text::count(head.entry_count, "entry", "entries"),
        text::bytes(head.source_bytes),
        text::bytes(head.stored_bytes),
        n.new,
        n.changed,
        n.unchanged
    ));
    let lost = report.problems.iter().filter(|(s, _)| *s == Severity::Lost).count() as u64;
    if lost > 0 {
        cx.ui.warn(&format!("{} of {} could not be stored (see above)", text::count(lost, "entry", "entries"), head.dataset));
    }
    for request in &report.still_live {
        cx.ui.warn(&format!(
            "{}: the source still holds the person of request {request}, who was erased from the backups: erase them there too, or record that they came back: reseal request came-back {request} --reason TEXT",
            head.dataset
        ));
    }
}

/// For scripts.
pub fn object(report: &Report) -> Value {
    let head = &report.head;
    let problems: Vec<Value> = report.problems.iter().map(|(s, m)| json!({ "severity": severity(*s), "message": m })).collect();
    json!({
        "dataset": head.dataset,
        "archive": head.archive.to_string(),
        "created_at": head.created_at.to_string(),
        "tag": head.tag,
        "entries": head.entry_count,
        "files": { "new": report.entries.new, "changed": report.entries.changed, "unchanged": report.entries.unchanged },
        "source_bytes": head.source_bytes,
        "read_bytes": report.read_bytes,
        "stored_bytes": head.stored_bytes,
        "complete": !report.problems.iter().any(|(s, _)| *s == Severity::Lost),
        "problems": problems,
        "still_live": report.still_live,
    })
}

/// A dataset of which there is nothing else to say.
pub fn failed(dataset: &str, message: &str, exit_code: u8) -> Value {
    json!({ "dataset": dataset, "error": { "message": message, "exit_code": exit_code } })
}

fn severity(s: Severity) -> &'static str {
    match s {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Lost => "lost",
    }
}
