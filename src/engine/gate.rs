//! The restore gate: an erased person never comes back. Every restore, export and drill applies the ledger's erasures that are later than
//! the archive's backup time and were not applied to exactly this generation: archives made elsewhere, locked, offline, imported, or put back
//! from a copy. It works from tokens, since the identities themselves are destroyed by then.

use super::archive::OpenArchive;
use super::decide::{Decided, Decider};
use super::edit::{ArchiveEdit, Known, apply};
use super::event::{Event, IdentityTokens};
use super::held::Holding;
use super::matching::{Bound, Limits, Matches, bind, find_all};
use super::propagate::plan_is_processed;
use super::session::{Session, View};
use super::state::Request;
use super::wanted::{Person, Wanted};
use crate::config;
use crate::datamap::strategy::Strategies;
use crate::env::random_bytes;
use crate::repository::Listed;
use crate::{Error, Result};
use zeroize::Zeroizing;

/// A recorded decision to pass the gate.
#[derive(Debug, Clone)]
pub struct Bypass {
    /// Why.
    pub reason: String,
    /// The second person.
    pub approver: String,
}

/// What the gate changes on the way out.
#[derive(Default)]
pub struct Gated {
    /// Entries and pieces.
    pub edit: ArchiveEdit,
    /// The requests replayed.
    pub replayed: Vec<String>,
}

/// The erasures that an archive has not seen yet.
pub fn outstanding<'a>(session: &Session, requests: &'a [Request], dataset: &str, listed: &Listed) -> Result<Vec<&'a Request>> {
    let state = session.state()?;
    let facts = state.facts(dataset, &listed.head.archive);
    Ok(requests
        .iter()
        .filter(|r| r.datasets.contains_key(dataset) && r.is_later_than(listed.head.created_at, &facts))
        .filter(|r| !plan_is_processed(&state, listed, &[*r]))
        .collect())
}

/// What people of whom only tokens are left have in an archive, and what an erasure would do to it.
pub struct Replayed<'k> {
    /// Mapped entries with their editors.
    pub bound: Vec<Bound<'k>>,
    /// What was found.
    pub matches: Matches,
    /// What would become of it.
    pub decided: Vec<Decided>,
}

/// Searches an archive by tokens and decides about what is found.
pub fn search_by_tokens<'k>(
    session: &Session,
    config: &config::Dataset,
    view: &'k View,
    listed: &Listed,
    tokens: &[&[IdentityTokens]],
) -> Result<Replayed<'k>> {
    let people: Vec<Person<'_>> = tokens.iter().map(|t| Person::Tokens(t)).collect();
    let archive = view.open(&listed.head);
    let mut bound = bind(&config.map, view, &archive, Limits::alone(session.config.memory), &session.env)?;
    let key = view.dataset.token_key();
    let mut wanted = Wanted::new(&config.map, key, &people)?;
    let mentions = super::propagate::token_mentions(&config.map, &view.dataset, tokens);
    let matches = find_all(&config.map, &archive, &mut bound, &mut wanted, &mentions, &session.env)?;
    let strategies: Vec<Strategies> = tokens
        .iter()
        .map(|_| Ok(Strategies::new(Zeroizing::new(random_bytes(session.env.random.as_ref())?), view.dataset.pseudonym_key())))
        .collect::<Result<_>>()?;
    let decider = Decider {
        map: &config.map,
        key,
        strategies: &strategies,
        mentions: &mentions,
        now: session.now(),
        accept_pseudonymised: config.erasure.accept_pseudonymised,
    };
    let decided = decider.decide(&matches, &wanted)?;
    Ok(Replayed { bound, matches, decided })
}

/// Applies what is outstanding, in memory. Fails when that cannot be done: then nothing is handed out.
pub fn pass(session: &Session, view: &View, listed: &Listed, bypass: Option<&Bypass>) -> Result<Gated> {
    let dataset = listed.head.dataset.as_str();
    let state = session.state()?;
    let requests = outstanding(session, &state.requests, dataset, listed)?;
    if requests.is_empty() {
        return Ok(Gated::default());
    }
    if let Some(bypass) = bypass {
        if bypass.reason.trim().is_empty() || bypass.approver.trim().is_empty() {
            return Err(Error::Usage("passing the gate needs a reason and the name of the one who approves it".into()));
        }
        if bypass.approver.trim().to_lowercase() == session.actor.trim().to_lowercase() {
            return Err(Error::Refused("the gate is passed only with a second person's approval".into()));
        }
        session.record(&Event::GateSkipped {
            dataset: dataset.into(),
            archive: listed.head.archive,
            reason: bypass.reason.clone(),
            approver: bypass.approver.clone(),
        })?;
        session
            .env
            .monitor
            .warn(&format!("{} erasure(s) were NOT applied to what is handed out; this is in the audit log", requests.len()));
        return Ok(Gated::default());
    }
    let config = session.config.datasets.get(dataset).ok_or_else(|| {
        Error::Refused(format!(
            "{} erasure(s) must be applied to this archive first, and the configuration has no data map for dataset {dataset:?}",
            requests.len()
        ))
    })?;
    let tokens: Vec<&[IdentityTokens]> = requests.iter().filter_map(|r| r.datasets.get(dataset).map(Vec::as_slice)).collect();
    let Replayed { bound, matches, decided } = search_by_tokens(session, config, view, listed, &tokens)?;
    if let Some((entry, why)) = matches.failed.first() {
        return Err(Error::Refused(format!(
            "erasures are outstanding for this archive and {entry} cannot be searched ({why}); nothing is handed out"
        )));
    }
    if let Some(hidden) = matches.hidden.first() {
        return Err(Error::Refused(format!("erasures are outstanding for this archive: {}; nothing is handed out", hidden.describe())));
    }
    let mut holding = Holding::new(session.config.memory as usize / 16, std::env::temp_dir(), session.env.random.clone());
    let edit = apply(&config.map, bound, matches, decided, &mut Known::default(), &mut holding)?;
    Ok(Gated { edit, replayed: requests.iter().map(|r| r.id.clone()).collect() })
}

/// An archive as it may leave the repository.
pub struct Outgoing {
    /// The archive.
    pub archive: OpenArchive,
    /// What the gate changed.
    pub gated: Gated,
    /// Its dataset's chunks.
    pub view: View,
    /// Its head.
    pub listed: Listed,
}

/// With a hole in the ledger nobody knows which erasures must be applied.
fn whole_ledger(session: &Session) -> Result<()> {
    session.ledger().check().map_err(|e| match e {
        Error::Damaged { object, detail } => Error::damaged(
            object,
            format!(
                "{detail}. Without it nobody knows which erasures must be applied, so nothing is handed out: put the object back from a copy of the \
                 place of the keys. scripts/recover.py restores without the ledger, and applies no erasure that an archive does not have yet"
            ),
        ),
        other => other,
    })
}

/// Opens an archive for handing out, through the gate.
pub fn outgoing(session: &Session, wanted: &str, bypass: Option<&Bypass>) -> Result<Outgoing> {
    whole_ledger(session)?;
    let listed = session.find_archive(wanted)?;
    whole_ledger(session)?;
    let known = session.ledger().head().0;
    if listed.head.ledger_epoch > known {
        return Err(Error::damaged(
            "ledger",
            format!("the archive knows entry {}, and the ledger ends at {known}: an older ledger was put back", listed.head.ledger_epoch),
        ));
    }
    let view = session.view(&listed.head.dataset)?;
    let gated = pass(session, &view, &listed, bypass)?;
    if !gated.replayed.is_empty() {
        session.env.monitor.warn(&format!("{} later erasure(s) are applied to what is handed out", gated.replayed.len()));
    }
    Ok(Outgoing { archive: view.open(&listed.head), gated, view, listed })
}
