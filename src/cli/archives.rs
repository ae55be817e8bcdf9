//! `reseal archives`: what there is.

use super::args::Archives;
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, FAILED};
use crate::config;
use crate::engine::rotate::facts_of;
use crate::engine::session::{NO_HEAD, Session};
use crate::engine::state::State;
use crate::policy::retention::expires_at;
use crate::repository::Listed;
use crate::{Error, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Lists archives, oldest first.
pub fn run(cx: &Context, args: &Archives) -> Result<u8> {
    let session = cx.session()?;
    let names = match &args.dataset {
        Some(name) => {
            session.dataset_config(name)?;
            vec![name.clone()]
        }
        None => session.dataset_names()?,
    };
    let state = session.state()?;
    let mut objects = Vec::new();
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("dataset", Align::Left),
        ("time (UTC)", Align::Left),
        ("generation", Align::Right),
        ("entries", Align::Right),
        ("size", Align::Right),
        ("stored", Align::Right),
        ("epoch", Align::Right),
        ("verified", Align::Left),
        ("drilled", Align::Left),
        ("expires", Align::Left),
        ("tag", Align::Left),
    ]);
    let (mut damaged, mut pending) = (Vec::new(), Vec::new());
    for name in names {
        let mut bad = |key: String, message: String| {
            cx.ui.warn(&format!("{key}: {message}"));
            damaged.push(json!({ "key": key, "message": message }));
        };
        match session.is_backed_up(&name) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(Error::Damaged { object, detail }) => {
                bad(object, detail);
                continue;
            }
            Err(e) => return Err(e),
        }
        pending.extend(super::intake::list_of(&session, &state, &name)?);
        let heads = session.heads(&name)?;
        for (key, e) in &heads.damaged {
            bad(key.clone(), e.to_string());
        }
        for archive in session.missing_archives(&name, &heads)? {
            bad(format!("archives/{name}/{archive}"), NO_HEAD.into());
        }
        let ends = ends(&session, session.config.datasets.get(&name), &state, &heads.latest);
        for (listed, end) in heads.latest.iter().zip(ends) {
            let head = &listed.head;
            let facts = state.facts(&name, &head.archive);
            let failed = facts.failed_at.is_some_and(|f| facts.verified_at.as_ref().is_none_or(|(v, _)| *v < f));
            let verified = match &facts.verified_at {
                _ if failed => "FAILED".to_string(),
                Some((at, _)) => text::time(*at),
                None => "-".to_string(),
            };
            table.row(vec![
                text::short(head.archive),
                name.clone(),
                text::time(head.created_at),
                head.generation.to_string(),
                head.entry_count.to_string(),
                text::bytes(head.source_bytes),
                text::bytes(head.stored_bytes),
                head.ledger_epoch.to_string(),
                verified,
                text::time_or_dash(facts.drilled_at),
                text::time_or_dash(end),
                head.tag.clone().unwrap_or_default(),
            ]);
            objects.push(object(listed, &state, end));
        }
    }
    if table.is_empty() && damaged.is_empty() && pending.is_empty() {
        cx.ui.say("there is no archive yet; make one with: reseal backup");
    } else if !table.is_empty() {
        cx.ui.data(&table.render());
    }
    super::intake::say(cx, &pending);
    let code = if damaged.is_empty() { DONE } else { FAILED };
    cx.ui.object(&json!({ "archives": objects, "damaged": damaged, "pending": super::intake::objects(&pending) }));
    Ok(code)
}

/// Until when each archive will be there under the retention.
fn ends(session: &Session, config: Option<&config::Dataset>, state: &State, archives: &[Listed]) -> Vec<Option<Timestamp>> {
    let Some(config) = config else { return vec![None; archives.len()] };
    let facts = facts_of(state, &config.name, archives);
    expires_at(&facts, &config.retention, session.now())
}

/// An archive for scripts.
pub fn object(listed: &Listed, state: &State, expires: Option<Timestamp>) -> Value {
    let head = &listed.head;
    let facts = state.facts(&head.dataset, &head.archive);
    json!({
        "id": head.archive.to_string(),
        "dataset": head.dataset,
        "generation": head.generation,
        "created_at": head.created_at.to_string(),
        "sealed_at": head.sealed_at.to_string(),
        "tag": head.tag,
        "entries": head.entry_count,
        "source_bytes": head.source_bytes,
        "stored_bytes": head.stored_bytes,
        "ledger_epoch": head.ledger_epoch,
        "digest": listed.digest,
        "source": head.source,
        "warnings": head.warnings,
        "tool": head.tool,
        "verified_at": facts.verified_at.as_ref().map(|(at, _)| at.to_string()),
        "verified_scope": facts.verified_at.as_ref().map(|(_, scope)| scope.clone()),
        "drilled_at": facts.drilled_at.map(|t| t.to_string()),
        "failed_at": facts.failed_at.map(|t| t.to_string()),
        "expires_at": expires.map(|t| t.to_string()),
    })
}
