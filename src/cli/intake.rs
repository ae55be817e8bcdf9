//! `reseal intake`: archives that put-only hosts handed in, until they are admitted.

use super::args::{Intake, IntakeDiscard};
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL};
use crate::Result;
use crate::engine::intake::{self, Refused};
use crate::engine::session::Session;
use crate::engine::state::State;
use crate::repository::intake::Pending;
use serde_json::{Value, json};

/// Lists, admits or discards.
pub fn run(cx: &Context, command: &Intake) -> Result<u8> {
    match command {
        Intake::List => list(cx),
        Intake::Admit => admit(cx),
        Intake::Discard(a) => discard(cx, a),
    }
}

/// What is waiting, and why it was refused when that was last tried.
pub type Waiting = (Pending, Option<String>);

/// The intake of a dataset.
pub fn list_of(session: &Session, state: &State, dataset: &str) -> Result<Vec<Waiting>> {
    let why = |p: &Pending| state.refused.get(&(p.dataset.clone(), p.archive)).cloned();
    Ok(session.repo.pending(dataset)?.into_iter().map(|p| (why(&p), p)).map(|(why, p)| (p, why)).collect())
}

fn state_word((pending, why): &Waiting) -> &'static str {
    match (pending.is_complete, why) {
        (false, _) => "unfinished",
        (true, Some(_)) => "refused",
        (true, None) => "pending",
    }
}

/// In words.
pub fn say(cx: &Context, waiting: &[Waiting]) {
    if waiting.is_empty() {
        return;
    }
    let mut table = Table::new(&[("handed in", Align::Left), ("dataset", Align::Left), ("packs", Align::Right), ("state", Align::Left)]);
    for w in waiting {
        let state = w.1.as_ref().map_or_else(|| state_word(w).to_string(), |why| format!("refused: {why}"));
        table.row(vec![text::short(w.0.archive), w.0.dataset.clone(), w.0.packs.len().to_string(), state]);
    }
    cx.ui.data(&table.render());
}

/// For scripts.
pub fn objects(waiting: &[Waiting]) -> Vec<Value> {
    let object = |w: &Waiting| json!({ "dataset": w.0.dataset, "archive": w.0.archive.to_string(), "packs": w.0.packs.len(), "state": state_word(w), "why": w.1 });
    waiting.iter().map(object).collect()
}

/// For scripts.
pub fn refused_objects(refused: &[Refused]) -> Vec<Value> {
    refused.iter().map(|r| json!({ "dataset": r.dataset, "archive": r.archive.to_string(), "why": r.why })).collect()
}

fn list(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    let state = session.state()?;
    let mut waiting = Vec::new();
    for name in session.repo.datasets()? {
        waiting.extend(list_of(&session, &state, &name)?);
    }
    if waiting.is_empty() {
        cx.ui.say("the intake is empty");
    }
    say(cx, &waiting);
    cx.ui.object(&json!({ "intake": objects(&waiting) }));
    Ok(DONE)
}

fn admit(cx: &Context) -> Result<u8> {
    let session = cx.session()?;
    let (mut admitted, mut refused, mut interrupted) = (Vec::new(), Vec::new(), 0);
    for config in session.config.datasets.values() {
        if session.repo.pending(&config.name)?.is_empty() {
            continue;
        }
        let lease = session.repo.lease(&config.name, crate::engine::LEASE_TTL)?;
        let report = intake::admit(&session, config, &lease)?;
        for (archive, host) in &report.admitted {
            cx.ui.say(&format!("admitted archive {} of {}, which {host} handed in", text::short(archive), config.name));
            admitted.push(json!({ "dataset": config.name, "archive": archive.to_string(), "host": host }));
        }
        refused.extend(report.refused);
        interrupted += report.interrupted;
    }
    if interrupted > 0 {
        cx.ui.say(&format!("removed what {} left", text::count(interrupted, "interrupted backup", "interrupted backups")));
    }
    if admitted.is_empty() && refused.is_empty() {
        cx.ui.say("there is nothing to admit");
    }
    cx.ui.object(&json!({ "intake": { "admitted": admitted, "refused": refused_objects(&refused), "interrupted": interrupted } }));
    Ok(if refused.is_empty() { DONE } else { PARTIAL })
}

fn discard(cx: &Context, args: &IntakeDiscard) -> Result<u8> {
    let session = cx.session()?;
    let (dataset, archive) = intake::discard(&session, &args.archive, &args.reason)?;
    cx.ui.say(&format!(
        "threw archive {} away, which was handed in to {dataset}; its packs go with the next: reseal rotate",
        text::short(archive)
    ));
    cx.ui.object(&json!({ "discarded": { "dataset": dataset, "archive": archive.to_string() } }));
    Ok(DONE)
}
