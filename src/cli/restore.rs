//! `reseal restore`: an archive into a directory, through the gate.

use super::args::{Restore, SkipGate};
use super::open::Context;
use super::{DONE, text};
use crate::engine::gate::Bypass;
use crate::engine::restore::{self, Options};
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// Restores, or lists what would be.
pub fn run(cx: &Context, args: &Restore) -> Result<u8> {
    let (session, _) = cx.settled()?;
    let to = match &args.to {
        Some(to) => to.clone(),
        None if args.dry_run => PathBuf::new(),
        None => return Err(Error::Usage("--to DIR is needed".into())),
    };
    if !args.dry_run && !args.overwrite && std::fs::read_dir(&to).is_ok_and(|mut d| d.next().is_some()) {
        return Err(Error::Usage(format!(
            "{} is not empty; name a new or empty directory, or restore over what is there with --overwrite",
            to.display()
        )));
    }
    let options = Options { paths: args.paths.clone(), dry_run: args.dry_run, bypass: bypass(&args.gate), overwrite: args.overwrite };
    let listed = session.find_archive(&args.archive)?;
    let head = &listed.head;
    // By its id from here on: `latest` must not change its meaning in between.
    let report = restore::restore(&session, &head.archive.to_string(), &to, &options)?;
    for path in &report.listed {
        cx.ui.data(path);
    }
    for note in &report.notes {
        cx.ui.warn(note);
    }
    let what = format!("{} ({})", text::count(report.entries, "entry", "entries"), text::bytes(report.bytes));
    let from = format!("archive {} of {}, {} UTC", text::short(head.archive), head.dataset, text::time(head.created_at));
    if args.dry_run {
        cx.ui.say(&format!("would restore {what} from {from}"));
    } else {
        cx.ui.say(&format!("restored {what} from {from} to {}", to.display()));
    }
    let mut object = json!({
        "restore": {
            "archive": head.archive.to_string(),
            "dataset": head.dataset,
            "created_at": head.created_at.to_string(),
            "to": args.to.as_ref().map(|t| t.display().to_string()),
            "dry_run": args.dry_run,
            "entries": report.entries,
            "bytes": report.bytes,
            "erasures_applied": report.replayed,
            "notes": report.notes,
        }
    });
    if args.dry_run {
        object["restore"]["paths"] = report.listed.into();
    }
    cx.ui.object(&object);
    Ok(DONE)
}

/// The recorded decision to pass the gate; clap has seen to it that it is whole.
pub fn bypass(gate: &SkipGate) -> Option<Bypass> {
    match (gate.skip_gate, &gate.reason, &gate.approver) {
        (true, Some(reason), Some(approver)) => Some(Bypass { reason: reason.clone(), approver: approver.clone() }),
        _ => None,
    }
}
