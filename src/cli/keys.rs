//! `reseal keys`: who can open the repository.

use super::args::{Keys, KeysAdd, KeysRemove};
use super::open::Context;
use super::secrets::{self, Which};
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL, exports};
use crate::crypto::kdf::KdfParams;
use crate::engine::event::Event;
use crate::engine::intake;
use crate::engine::propagate;
use crate::engine::session::Session;
use crate::repository::SlotInfo;
use crate::repository::host::Host;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Lists, adds, removes or rotates.
pub fn run(cx: &Context, command: &Keys) -> Result<u8> {
    match command {
        Keys::List => list(cx),
        Keys::Add(a) => add(cx, a),
        Keys::Remove(a) => remove(cx, a),
        Keys::Rotate => rotate(cx),
        Keys::Export(a) => exports::export(cx, a),
        Keys::Exports => exports::list(cx),
        Keys::Import(a) => exports::import(cx, a),
        Keys::ForgetExport(a) => exports::forget(cx, a),
    }
}

fn kind(slot: &SlotInfo) -> &'static str {
    if slot.passphrase { "passphrase" } else { "key-file" }
}

fn object(slot: &SlotInfo) -> Value {
    json!({ "id": slot.id.to_string(), "label": slot.label, "kind": kind(slot), "created_at": slot.created.to_string(), "opened_this": slot.current })
}

fn host_object(host: &Host) -> Value {
    json!({
        "id": host.id.to_string(), "label": host.label, "kind": "put-only", "created_at": host.created.to_string(), "opened_this": false,
        "datasets": host.datasets,
    })
}

fn list(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    let slots = session.repo.slots()?;
    let hosts: Vec<Host> = session.repo.hosts()?.into_iter().filter(|h| h.removed.is_none()).collect();
    let mut table =
        Table::new(&[("slot", Align::Left), ("label", Align::Left), ("kind", Align::Left), ("made (UTC)", Align::Left), ("", Align::Left)]);
    for s in &slots {
        let here = if s.current { "opened this" } else { "" };
        table.row(vec![text::short(s.id), s.label.clone(), kind(s).into(), text::time(s.created), here.into()]);
    }
    for h in &hosts {
        table.row(vec![
            text::short(h.id),
            h.label.clone(),
            "put-only".into(),
            text::time(h.created),
            format!("adds to {}", h.datasets.join(", ")),
        ]);
    }
    cx.ui.data(&table.render());
    cx.ui.object(&json!({ "keys": slots.iter().map(object).chain(hosts.iter().map(host_object)).collect::<Vec<_>>() }));
    Ok(DONE)
}

/// Makes a key for a put-only host. Registered and recorded first: a key that nobody knows of must not exist.
pub fn add_host(cx: &Context, session: &Session, label: &str, datasets: &[String], file: &Path) -> Result<Host> {
    let mut datasets = if datasets.is_empty() { session.config.datasets.keys().cloned().collect() } else { datasets.to_vec() };
    datasets.sort();
    datasets.dedup();
    if label.trim().is_empty() {
        return Err(Error::Usage("the label is empty; it is the name under which the host's archives stand in the audit log".into()));
    }
    if file.exists() {
        return Err(Error::Usage(format!("{} exists already; a put-only key is written into a new file", file.display())));
    }
    intake::prepare(session, &datasets)?;
    let key = session.repo.make_host(label, &datasets)?;
    session.record(&Event::KeyAdded { slot: key.id.to_string(), label: format!("{label}, put-only") })?;
    if let Err(e) = secrets::write_new(file, key.encode()?.as_bytes()) {
        session.repo.remove_host(&key.id)?;
        session.record(&Event::KeyRemoved { slot: key.id.to_string() })?;
        return Err(e);
    }
    cx.ui.say(&format!(
        "made put-only key {} ({label}) in {}: it adds archives to {}",
        text::short(key.id),
        file.display(),
        datasets.join(", ")
    ));
    cx.ui.say(&format!("on the host: reseal backup --key-file {}; it opens, lists and deletes no archive", file.display()));
    session.repo.host(&key.id)?.ok_or_else(|| Error::damaged("the host's record", "it was written and is not there"))
}

fn add(cx: &Context, args: &KeysAdd) -> Result<u8> {
    let session = cx.session()?;
    if let Some(file) = &args.put_only {
        let host = add_host(cx, &session, &args.label, &args.datasets, file)?;
        cx.ui.object(&json!({ "key": host_object(&host) }));
        return Ok(DONE);
    }
    let (secret, kept) = secrets::fresh(Which::New, args.new_key_file.as_deref(), cx.env.random.as_ref(), &cx.ui)?;
    let id = session.repo.add_slot(&secret, &args.label, KdfParams::default())?;
    session.record(&Event::KeyAdded { slot: id.to_string(), label: args.label.clone() })?;
    cx.ui.say(&format!("added key slot {} ({}), opened by {kept}", text::short(id), args.label));
    let slots = session.repo.slots()?;
    cx.ui.object(&json!({ "key": slots.iter().find(|s| s.id == id).map(object) }));
    Ok(DONE)
}

fn remove(cx: &Context, args: &KeysRemove) -> Result<u8> {
    let session = cx.session()?;
    if let Some(host) = host_named(&session, &args.slot)? {
        return remove_host(cx, &session, &host);
    }
    let slots = session.repo.slots()?;
    let mut hits = slots.iter().filter(|s| !args.slot.is_empty() && s.id.to_string().starts_with(&args.slot.to_lowercase()));
    let slot = match (hits.next(), hits.next()) {
        (Some(slot), None) => slot,
        (None, _) => return Err(Error::Usage(format!("there is no key slot {:?} (reseal keys list shows them)", args.slot))),
        (Some(_), Some(_)) => return Err(Error::Usage(format!("key slot {:?} is not unique; give more of its id", args.slot))),
    };
    session.repo.remove_slot(&slot.id)?;
    session.record(&Event::KeyRemoved { slot: slot.id.to_string() })?;
    cx.ui.say(&format!("removed key slot {} ({})", text::short(slot.id), slot.label));
    cx.ui.warn("whoever knows its secret and kept a copy of the slot still has the root key; replace it with: reseal keys rotate");
    cx.ui.object(&json!({ "removed": object(slot) }));
    Ok(DONE)
}

fn host_named(session: &Session, wanted: &str) -> Result<Option<Host>> {
    let is_it = |h: &Host| !wanted.is_empty() && h.id.to_string().starts_with(&wanted.to_lowercase()) && h.removed.is_none();
    let mut hits: Vec<Host> = session.repo.hosts()?.into_iter().filter(is_it).collect();
    // A prefix of a slot's id too: then neither.
    let slot = session.repo.slots()?.iter().any(|s| s.id.to_string().starts_with(&wanted.to_lowercase()));
    match (hits.pop(), hits.is_empty() && !slot) {
        (Some(host), true) => Ok(Some(host)),
        (Some(_), false) => Err(Error::Usage(format!("key {wanted:?} is not unique; give more of its id"))),
        (None, _) => Ok(None),
    }
}

fn remove_host(cx: &Context, session: &Session, host: &Host) -> Result<u8> {
    let mut waiting = 0;
    for name in &host.datasets {
        waiting += session.repo.pending(name)?.len() as u64;
    }
    session.repo.remove_host(&host.id)?;
    session.record(&Event::KeyRemoved { slot: host.id.to_string() })?;
    cx.ui.say(&format!("removed put-only key {} ({}): nothing of it is admitted any more", text::short(host.id), host.label));
    if waiting > 0 {
        cx.ui.warn(&format!(
            "{} in the intake: what is of this host will be refused; it can only be thrown away (reseal intake list)",
            text::count(waiting, "archive is", "archives are")
        ));
    }
    cx.ui.object(&json!({ "removed": host_object(host) }));
    Ok(DONE)
}

fn rotate(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    // What is put back later, sealed under the old root key, would open with nothing any more.
    let missing = propagate::out_of_place(&session)?;
    if !missing.is_empty() {
        for what in &missing {
            cx.ui.warn(what);
        }
        return Err(Error::Refused(
            "the root key is replaced only while everything that it seals is in its place: put back what is named above, or give up the archives \
             concerned (reseal rotate --lost)"
                .into(),
        ));
    }
    let rotated = session.repo.rotate_root()?;
    session.record(&Event::KeyRotated { objects: rotated.resealed })?;
    let how = if rotated.resumed { "completed an interrupted replacement of the root key" } else { "replaced the root key" };
    cx.ui.say(&format!("{how}: {} sealed anew", text::count(rotated.resealed, "object", "objects")));
    for (key, e) in &rotated.damaged {
        cx.ui.warn(&format!("{key} could not be sealed anew, nor opened before: {e}"));
    }
    let damaged: Vec<Value> = rotated.damaged.iter().map(|(key, e)| json!({ "key": key, "message": e.to_string() })).collect();
    cx.ui.object(&json!({ "rotation": { "objects": rotated.resealed, "resumed": rotated.resumed, "damaged": damaged } }));
    Ok(if rotated.damaged.is_empty() { DONE } else { PARTIAL })
}
