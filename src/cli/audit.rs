//! `reseal audit`: who did what and when, and whether the chain of it is whole.

use super::args::Audit;
use super::open::Context;
use super::words::tell;
use super::{DONE, FAILED, exports, secrets, text};
use crate::engine::certificate;
use crate::engine::event::Event;
use crate::engine::session::Session;
use crate::repository::LedgerEntry;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Prints the log, or checks it.
pub fn run(cx: &Context, args: &Audit) -> Result<u8> {
    let session = cx.session()?;
    if args.check {
        return check(cx, &session, &args.certificates);
    }
    let ledger = session.ledger();
    let mut objects = Vec::new();
    for entry in ledger.entries() {
        let told = tell(&event(entry)?);
        if cx.ui.json {
            objects.push(json!({
                "seq": entry.seq,
                "at": entry.at.to_string(),
                "actor": entry.actor,
                "event": told.event,
                "text": told.text,
                "dataset": told.dataset,
                "archive": told.archive,
                "requests": told.requests,
                "hash": hex::encode(entry.hash),
            }));
        } else {
            cx.ui.data(&format!("{:>6}  {}  {}  {}", entry.seq, text::time(entry.at), entry.actor, told.text));
        }
    }
    for (key, e) in ledger.damaged() {
        cx.ui.warn(&format!("{key}: {e}"));
    }
    exports::warn(&cx.ui, &crate::engine::state::State::fold(&ledger)?);
    cx.ui.object(&json!({ "entries": objects, "damaged": ledger.damaged().iter().map(|(k, _)| k).collect::<Vec<_>>() }));
    Ok(if ledger.damaged().is_empty() { DONE } else { FAILED })
}

fn event(entry: &LedgerEntry) -> Result<Event> {
    entry.body()
}

fn check(cx: &Context, session: &Session, files: &[PathBuf]) -> Result<u8> {
    let (entries, head) = {
        let ledger = session.ledger();
        ledger.check()?;
        (ledger.entries().len(), ledger.head())
    };
    // Every entry must also be readable as an event: what cannot be read cannot be folded.
    exports::warn(&cx.ui, &*session.state()?);
    cx.ui.data(&format!(
        "the chain of {} is whole; its last hash is {}",
        text::count(entries as u64, "entry", "entries"),
        hex::encode(head.1)
    ));
    let mut good = true;
    let mut objects: Vec<Value> = Vec::new();
    for file in files {
        let found = secrets::read(file).and_then(|text| certificate::check(&text, Some(session)));
        match found {
            Ok(c) => {
                let fits = c.ours == Some(true) && c.in_chain == Some(true);
                good &= fits;
                if fits {
                    cx.ui.data(&format!("{}: is ours and in the chain (request {}, {})", file.display(), c.request, c.result));
                } else {
                    cx.ui.warn(&format!("{}: is NOT ours, or the entry that it names is NOT in the chain", file.display()));
                }
                objects.push(json!({ "file": file.display().to_string(), "request": c.request, "signed_by_this_repository": c.ours, "in_audit_chain": c.in_chain }));
            }
            Err(e @ Error::Verification(_)) => {
                good = false;
                cx.ui.warn(&format!("{}: {e}", file.display()));
                objects.push(json!({ "file": file.display().to_string(), "message": e.to_string() }));
            }
            Err(e) => return Err(e),
        }
    }
    let word = if good { "PASS" } else { "FAILED" };
    cx.ui.object(&json!({ "check": { "result": word, "entries": entries, "last": { "seq": head.0, "hash": hex::encode(head.1) }, "certificates": objects } }));
    Ok(if good { DONE } else { FAILED })
}
