//! `reseal verify`: whether archives are whole.

use super::args::Verify;
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, FAILED, PARTIAL, buckets, exports};
use crate::Result;
use crate::engine::event::Verdict;
use crate::engine::verify::{self, Checked};
use serde_json::{Value, json};

/// Verifies.
pub fn run(cx: &Context, args: &Verify) -> Result<u8> {
    let (session, refused) = cx.settled()?;
    let share = args.read_data.unwrap_or(0.0);
    let checked = verify::verify(&session, &args.archives, share)?;
    say(cx, &checked);
    let failed = checked.iter().filter(|c| c.verdict != Verdict::Pass).count() as u64;
    let good = checked.len() as u64 - failed;
    let read = match share {
        s if s <= 0.0 => "structure only; --read-data reads the data too".to_string(),
        s => format!("{:.0}% of the data read: {}", s * 100.0, text::bytes(checked.iter().map(|c| c.bytes_read).sum())),
    };
    if checked.is_empty() {
        cx.ui.say("there is no archive to verify");
    } else if failed == 0 {
        cx.ui.say(&format!("{} whole ({read})", text::count(good, "archive is", "archives are")));
    } else {
        cx.ui.warn(&format!("{failed} of {} FAILED ({read})", checked.len()));
    }
    let state = session.state()?;
    exports::warn(&cx.ui, &state);
    let storage = buckets::findings(&session);
    buckets::say(&cx.ui, &storage);
    cx.ui.object(&json!({
        "result": if failed == 0 { "PASS" } else { "FAILED" }, "read_data": share, "archives": objects(&checked),
        "outdated_exports": exports::objects(state.outdated_exports()), "refused": super::intake::refused_objects(&refused),
        "storage": buckets::objects(&storage),
    }));
    Ok(match (failed, refused.is_empty()) {
        (0, true) => DONE,
        (0, false) => PARTIAL,
        _ => FAILED,
    })
}

/// In words: a line per archive, and what does not fit.
pub fn say(cx: &Context, checked: &[Checked]) {
    let mut table = Table::new(&[("archive", Align::Left), ("dataset", Align::Left), ("read", Align::Right), ("result", Align::Left)]);
    for c in checked {
        let archive = c.archive.map_or_else(|| "(key sheets)".to_string(), text::short);
        table.row(vec![archive, c.dataset.clone(), text::bytes(c.bytes_read), c.verdict.to_string()]);
    }
    if !table.is_empty() {
        cx.ui.data(&table.render());
    }
    for c in checked {
        let archive = c.archive.map_or_else(|| c.dataset.clone(), |a| format!("archive {} of {}", text::short(a), c.dataset));
        for problem in &c.problems {
            cx.ui.warn(&format!("{archive}: {problem}"));
        }
    }
}

/// For scripts.
pub fn objects(checked: &[Checked]) -> Vec<Value> {
    checked
        .iter()
        .map(|c| {
            json!({
                "dataset": c.dataset,
                "archive": c.archive.map(|a| a.to_string()),
                "result": c.verdict.to_string(),
                "problems": c.problems,
                "chunks_read": c.chunks_read,
                "bytes_read": c.bytes_read,
            })
        })
        .collect()
}
