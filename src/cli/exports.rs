//! `reseal keys export`, `exports`, `import` and `forget-export`: the keys' side in one file, and where such files are.

use super::args::{KeysExport, KeysForgetExport, KeysImport};
use super::open::{Context, store};
use super::text::{self, Align, Table};
use super::ui::Ui;
use super::{DONE, PARTIAL, buckets, secrets};
use crate::engine::keyexport;
use crate::engine::state::{KeyExport, State};
use crate::repository::export::{Export, has_params};
use crate::repository::{Location, Repository};
use crate::store::memory::Memory;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::sync::Arc;

/// Writes one.
pub fn export(cx: &Context, args: &KeysExport) -> Result<u8> {
    // What is in the intake would not be in it.
    let (session, _) = cx.settled()?;
    let state = session.state()?;
    let replaced: Vec<String> = args.replaces.iter().map(|id| Ok(state.export(id)?.id.clone())).collect::<Result<_>>()?;
    if args.label.trim().is_empty() {
        return Err(Error::Usage("the label is empty; say where the export will be kept".into()));
    }
    // Before it is recorded: most of what can go wrong with a file goes wrong here.
    if args.file.exists() {
        return Err(Error::Usage(format!("{} exists already; an export is written into a new file", args.file.display())));
    }
    let done = keyexport::export(&session, &args.label)?;
    if let Err(e) = secrets::write_new(&args.file, &done.bytes) {
        let _ = std::fs::remove_file(&args.file);
        keyexport::destroyed(&session, &done.id, "it could not be written")?;
        return Err(e);
    }
    for id in &replaced {
        keyexport::destroyed(&session, id, &format!("replaced by {}", done.id))?;
    }
    cx.ui.say(&format!(
        "exported the keys to {} ({}, export {}): {}, up to ledger entry {}",
        args.file.display(),
        text::bytes(done.bytes.len() as u64),
        done.id,
        text::count(done.sheets as u64, "key sheet", "key sheets"),
        done.ledger
    ));
    cx.ui.say("it opens with the same secrets as the repository, every archive that exists now, and none that is made later");
    for id in &replaced {
        cx.ui.warn(&format!("export {id} is recorded as destroyed: destroy every copy of it now"));
    }
    for (key, e) in &done.damaged {
        cx.ui.warn(&format!("{key} is in the export as it is: {e}"));
    }
    warn(&cx.ui, &*session.state()?);
    let damaged: Vec<Value> = done.damaged.iter().map(|(key, e)| json!({ "key": key, "message": e.to_string() })).collect();
    cx.ui.object(&json!({ "export": {
        "id": done.id, "file": args.file.display().to_string(), "ledger_entry": done.ledger, "bytes": done.bytes.len(), "objects": done.objects,
        "replaces": replaced, "damaged": damaged,
    } }));
    Ok(if done.damaged.is_empty() { DONE } else { PARTIAL })
}

fn state_word(e: &KeyExport) -> &'static str {
    match (&e.destroyed, e.is_outdated()) {
        (Some(_), _) => "destroyed",
        (None, true) => "outdated",
        (None, false) => "current",
    }
}

/// What makes an export more than a copy of what is there.
fn holds(e: &KeyExport) -> String {
    if let Some((at, reason)) = &e.destroyed {
        return format!("{} UTC: {reason}", text::time(*at));
    }
    let mut parts = Vec::new();
    if !e.since.erased.is_empty() {
        let n = e.since.erased.len() as u64;
        parts.push(format!("keys that {} destroyed", text::count(n, "erasure", "erasures")));
    }
    if e.since.rotated > 0 {
        parts.push(format!("{} rotated out", text::count(e.since.rotated, "archive", "archives")));
    }
    if e.since.slots > 0 {
        parts.push(format!("{} removed", text::count(e.since.slots, "key slot", "key slots")));
    }
    if e.since.roots > 0 {
        parts.push("a replaced root key".to_string());
    }
    parts.join(", ")
}

/// One for scripts.
fn object(e: &KeyExport) -> Value {
    json!({
        "id": e.id, "label": e.label, "made_at": e.at.to_string(), "actor": e.actor, "ledger_entry": e.seq, "state": state_word(e),
        "requests": e.since.erased, "archives_rotated": e.since.rotated, "slots_removed": e.since.slots, "roots_replaced": e.since.roots,
        "destroyed_at": e.destroyed.as_ref().map(|(at, _)| at.to_string()), "reason": e.destroyed.as_ref().map(|(_, reason)| reason),
    })
}

/// Several, for scripts.
pub fn objects<'a>(exports: impl IntoIterator<Item = &'a KeyExport>) -> Vec<Value> {
    exports.into_iter().map(object).collect()
}

/// Names the exports that still hold what erasures destroyed.
pub fn warn(ui: &Ui, state: &State) {
    for e in state.outdated_exports() {
        let n = e.since.erased.len() as u64;
        ui.warn(&format!(
            "the key export {} ({}, {} UTC) still holds keys that {} destroyed; until it is destroyed their certificates say UNKNOWN: reseal keys export FILE --label TEXT --replaces {}, or reseal keys forget-export {} --reason TEXT",
            e.id,
            e.label,
            text::time(e.at),
            text::count(n, "erasure", "erasures"),
            e.id,
            e.id
        ));
    }
}

/// Lists them.
pub fn list(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    let state = session.state()?;
    let mut table = Table::new(&[
        ("export", Align::Left),
        ("made (UTC)", Align::Left),
        ("by", Align::Left),
        ("entry", Align::Right),
        ("label", Align::Left),
        ("state", Align::Left),
        ("still holds", Align::Left),
    ]);
    for e in &state.exports {
        table.row(vec![
            e.id.clone(),
            text::time(e.at),
            e.actor.clone(),
            e.seq.to_string(),
            e.label.clone(),
            state_word(e).into(),
            holds(e),
        ]);
    }
    if table.is_empty() {
        cx.ui.say("no export of the keys was made");
    } else {
        cx.ui.data(&table.render());
    }
    warn(&cx.ui, &state);
    cx.ui.object(&json!({ "exports": state.exports.iter().map(object).collect::<Vec<_>>() }));
    Ok(DONE)
}

/// Brings one back.
pub fn import(cx: &Context, args: &KeysImport) -> Result<u8> {
    let config = cx.config()?;
    let name = args.file.display().to_string();
    let bytes = std::fs::read(&args.file).map_err(|e| Error::Usage(format!("cannot read {name}: {e}")))?;
    let export = Export::decode(&name, &bytes)?;
    let (data_bucket, data) = store(&config, &config.repository, &cx.env, false)?;
    if !has_params(&*data)? {
        return Err(Error::damaged(
            "the repository",
            format!(
                "its packs' side is missing: there is no reseal.json at {}; an export holds only keys. Bring that side back first",
                config.repository
            ),
        ));
    }
    let secret = cx.secret()?;
    let memory = Location { data: data.clone(), keys: Arc::new(Memory::new(name.clone(), export.objects.clone())) };
    let from = Arc::new(Repository::open(memory, &secret, &cx.env)?);
    let (keys_bucket, keys) = match &config.keys {
        Some(at) => store(&config, at, &cx.env, true)?,
        None => (data_bucket.clone(), data.clone()),
    };
    buckets::check(&config, data_bucket.as_deref(), keys_bucket.as_deref(), &cx.env)?;
    let location = Location { data, keys };
    let plan = keyexport::import(&export, &from, &location, &secret)?;
    drop(from);
    let repo = Arc::new(Repository::open(location, &secret, &cx.env)?);
    let done = keyexport::imported(&repo, &export, plan, &cx.actor(&config)?)?;
    let (written, at) = (done.plan.write.len() as u64, config.keys.as_ref().unwrap_or(&config.repository));
    if done.plan.empty {
        cx.ui.say(&format!("brought {} of export {} to {at}", text::count(written, "object", "objects"), export.id));
    } else {
        cx.ui.say(&format!(
            "brought back {} that was missing at {at}; the others stay as they are there",
            text::count(written, "object", "objects")
        ));
    }
    if done.plan.empty {
        cx.ui.warn(&format!(
            "the ledger ends with the export, at entry {} of {} UTC: what was recorded later is lost, erasures of people included. Look for later requests and open them again",
            export.ledger,
            text::time(export.created)
        ));
        cx.ui.warn("a machine that has seen a later ledger refuses this one until it is told: reseal catalog rebuild");
    }
    for key in &done.later {
        cx.ui.warn(&format!("{key} is later than the export"));
    }
    if done.closed_packs > 0 {
        cx.ui.warn(&format!(
            "{} made after the export cannot be opened: their keys are in no place that this program knows",
            text::count(done.closed_packs, "pack", "packs")
        ));
    }
    cx.ui.say("next: reseal verify");
    cx.ui.object(&json!({ "import": {
        "export": export.id, "made_at": export.created.to_string(), "ledger_entry": export.ledger, "written": written, "kept": done.plan.kept,
        "later": done.later, "closed_packs": done.closed_packs,
    } }));
    Ok(if done.later.is_empty() && done.closed_packs == 0 { DONE } else { PARTIAL })
}

/// Records that one is gone.
pub fn forget(cx: &Context, args: &KeysForgetExport) -> Result<u8> {
    let session = cx.session()?;
    let id = keyexport::destroyed(&session, &args.export, &args.reason)?;
    let state = session.state()?;
    cx.ui.say(&format!("recorded that export {id} does not exist any more"));
    warn(&cx.ui, &state);
    cx.ui.object(&json!({ "export": object(state.export(&id)?) }));
    Ok(DONE)
}
