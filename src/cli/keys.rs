//! `reseal keys`: who can open the repository.

use super::args::{Keys, KeysAdd, KeysRemove};
use super::open::Context;
use super::secrets::{self, Which};
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL, exports};
use crate::crypto::kdf::KdfParams;
use crate::engine::event::Event;
use crate::repository::SlotInfo;
use crate::{Error, Result};
use serde_json::{Value, json};

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

fn list(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    let slots = session.repo.slots()?;
    let mut table =
        Table::new(&[("slot", Align::Left), ("label", Align::Left), ("kind", Align::Left), ("made (UTC)", Align::Left), ("", Align::Left)]);
    for s in &slots {
        let here = if s.current { "opened this" } else { "" };
        table.row(vec![text::short(s.id), s.label.clone(), kind(s).into(), text::time(s.created), here.into()]);
    }
    cx.ui.data(&table.render());
    cx.ui.object(&json!({ "keys": slots.iter().map(object).collect::<Vec<_>>() }));
    Ok(DONE)
}

fn add(cx: &Context, args: &KeysAdd) -> Result<u8> {
    let session = cx.session()?;
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

fn rotate(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
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
