//! Requests: opening, and every step of their life that is not the propagation itself. The rules are [`crate::policy`]'s; here
//! they are looked up, applied and recorded.

use super::event::Event;
use super::identity::{SealedIdentities, Subject, kinds_of, ledger_tokens, parse_identities};
use super::propagate::{IDENTITIES_PURPOSE, REQUESTS, identities_key};
use super::session::Session;
use super::state::Request;
use crate::config;
use crate::env::random_bytes;
use crate::policy::{Kind, State as Stage, Transition};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What is needed to open a request.
pub struct Opening {
    /// The identity file's text.
    pub identities: String,
    /// In which datasets; all with a data map when empty.
    pub datasets: Vec<String>,
    /// Which clock.
    pub kind: Kind,
    /// When it was received; now when absent.
    pub received: Option<Timestamp>,
    /// The operator's words.
    pub reason: Option<String>,
}

/// Held while sealed identities and the ledger are changed together. No dataset can have this name.
pub(super) const LEASE: &str = "-requests";

/// Destroys sealed identities that belong to no request, or to one that is over: left by a run that ended between the ledger and the
/// object. Skipped while somebody is just opening a request; how many there were.
pub fn sweep_identities(session: &Session) -> Result<u64> {
    let stored = session.repo.list_sealed(REQUESTS)?;
    if stored.is_empty() {
        return Ok(0);
    }
    let unwanted = |session: &Session| -> Result<Vec<String>> {
        session.ledger().catch_up()?;
        // Of a ledger with holes nobody can say which requests there are.
        if session.ledger().check().is_err() {
            return Ok(Vec::new());
        }
        let (state, now) = (session.state()?, session.now());
        let wanted = |key: &&String| state.requests.iter().any(|r| identities_key(&r.id) == ***key && !r.stage(now).is_final());
        Ok(stored.iter().filter(|key| !wanted(key)).cloned().collect())
    };
    if unwanted(session)?.is_empty() {
        return Ok(0);
    }
    let _lease = match session.repo.lease(LEASE, super::LEASE_TTL) {
        Err(Error::Locked { .. }) => return Ok(0),
        other => other?,
    };
    // Under the lease: what had no request a moment ago may have one now.
    let unwanted = unwanted(session)?;
    for key in &unwanted {
        session.repo.delete_sealed(key)?;
    }
    Ok(unwanted.len() as u64)
}

/// Opens one request per person in the identity file; their ids.
pub fn open(session: &Session, opening: &Opening) -> Result<Vec<String>> {
    sweep_identities(session)?;
    let configs: Vec<&config::Dataset> = session
        .datasets_named(&opening.datasets)?
        .into_iter()
        .filter(|d| !opening.datasets.is_empty() || !d.map.collections.is_empty())
        .collect();
    if configs.is_empty() {
        return Err(Error::Usage("no dataset has a data map, so no record could be found; add `collections` to the configuration".into()));
    }
    for name in session.dataset_names()? {
        if session.is_unknown(&name)? {
            session.env.monitor.warn(&format!(
                "dataset {name} has archives, and the configuration does not know it: nobody is looked for in them, and no certificate says PASS. \
                 Put it back into the configuration, under its name"
            ));
        }
    }
    let mut kinds = BTreeMap::new();
    for c in &configs {
        kinds.extend(kinds_of(&c.map));
    }
    let people = parse_identities(&opening.identities, &kinds)?;
    let now = session.now();
    let received = opening.received.unwrap_or(now);
    let _lease = session.repo.lease(LEASE, super::LEASE_TTL)?;
    let mut ids = Vec::new();
    for subject in people {
        ids.push(open_one(session, &configs, subject, opening, received, now)?);
    }
    Ok(ids)
}

fn open_one(
    session: &Session,
    configs: &[&config::Dataset],
    subject: Subject,
    opening: &Opening,
    received: Timestamp,
    now: Timestamp,
) -> Result<String> {
    let mut datasets = BTreeMap::new();
    // The strictest policy of the datasets concerned: latest end of waiting, earliest deadline, most approvals.
    let mut clock: Option<crate::policy::Request> = None;
    let mut deadline: Option<Timestamp> = None;
    for config in configs {
        let dataset = session.create_dataset(&config.name)?;
        let tokens = ledger_tokens(&subject, &config.map, dataset.token_key());
        let known = kinds_of(&config.map);
        // Text is searched for every identity, of whatever kind.
        let searched = config.map.collections.iter().any(|c| c.fields.values().any(|f| f.scan));
        let tokens: Vec<_> = tokens.into_iter().filter(|t| searched || known.contains_key(&t.kind)).collect();
        if tokens.is_empty() {
            continue;
        }
        let one = crate::policy::Request::open(opening.kind, received, now, &config.erasure)?;
        deadline = match (deadline, one.deadline(&config.erasure)) {
            (Some(a), Some(b)) => Some(a.min(b.at)),
            (a, b) => a.or(b.map(|d| d.at)),
        };
        clock = Some(match clock {
            None => one,
            Some(c) => crate::policy::Request {
                due_at: c.due_at.max(one.due_at),
                approvals_needed: c.approvals_needed.max(one.approvals_needed),
                ..c
            },
        });
        datasets.insert(config.name.clone(), tokens);
    }
    let clock = clock.ok_or_else(|| Error::Usage("none of the identities is of a kind that the chosen datasets know".into()))?;
    let id = hex::encode(random_bytes::<6>(session.env.random.as_ref())?);
    let sealed = SealedIdentities { subject, seed: random_bytes::<32>(session.env.random.as_ref())?.to_vec() };
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    ciborium::into_writer(&sealed, &mut *bytes).map_err(|e| Error::damaged("request identities", e.to_string()))?;
    // The identities first: a request without them could never be carried out.
    session.repo.put_sealed(IDENTITIES_PURPOSE, &identities_key(&id), &bytes)?;
    session.record(&Event::RequestOpened {
        request: id.clone(),
        kind: opening.kind,
        datasets,
        received,
        due_at: clock.due_at,
        deadline,
        reason: opening.reason.clone(),
        approvals_needed: clock.approvals_needed,
    })?;
    Ok(id)
}

/// Takes a step of a request's life.
pub fn step(session: &Session, id: &str, transition: Transition) -> Result<Request> {
    // Who approves is who acts: the ledger names nobody else.
    let transition = match transition {
        Transition::Approve { .. } => Transition::Approve { actor: session.actor.clone() },
        other => other,
    };
    sweep_identities(session)?;
    let state = session.state()?;
    let request = state.request(id)?.clone();
    // Said again because the first answer got lost: what it left undone is done by now.
    let said = match (&transition, request.stage(session.now())) {
        (Transition::Cancel, Stage::Cancelled) => true,
        (Transition::Refuse { ground }, Stage::Refused) => request.ended.as_ref() == Some(ground),
        _ => false,
    };
    if said {
        return Ok(request);
    }
    let policy = request.datasets.keys().find_map(|d| session.config.datasets.get(d)).map(|d| d.erasure.clone()).unwrap_or_default();
    // Who approves is who acts: the audit log knows no other name.
    let transition = match transition {
        Transition::Approve { .. } => Transition::Approve { actor: session.actor.clone() },
        other => other,
    };
    let mut clock = request.clock.clone();
    clock.apply(&transition, session.now(), &policy)?;
    let request_id = request.id.clone();
    let event = match transition {
        Transition::Approve { .. } => Event::RequestApproved { request: request_id },
        Transition::Hold { reason } => Event::RequestHeld { request: request_id, reason },
        Transition::Release => Event::RequestReleased { request: request_id, reason: None },
        Transition::Cancel => Event::RequestCancelled { request: request_id, reason: None },
        Transition::Refuse { ground } => Event::RequestRefused { request: request_id, ground, citation: None },
        Transition::Extend { reason } => Event::RequestExtended {
            request: request_id,
            deadline: clock.deadline(&policy).ok_or_else(|| Error::Refused("this request has no deadline".into()))?.at,
            reason,
        },
        other => return Err(Error::Usage(format!("{other:?} is not a step that a person takes"))),
    };
    session.record(&event)?;
    if matches!(event, Event::RequestCancelled { .. } | Event::RequestRefused { .. }) {
        session.repo.delete_sealed(&identities_key(&request.id))?;
    }
    session.state()?.request(&request.id).cloned()
}

/// The officer says that an erased person is a customer again: later backups of them are no finding any more.
pub fn came_back(session: &Session, id: &str, reason: String) -> Result<()> {
    let state = session.state()?;
    let request = state.request(id)?;
    if request.effective_at.is_none() {
        return Err(Error::Refused("the person was not erased yet".into()));
    }
    session.record(&Event::CameBack { request: request.id.clone(), since: session.now(), reason })?;
    Ok(())
}

/// Adds identities to an open request: those that a plan proposed, confirmed by a person. Not while a run may be searching without them.
pub fn add_identities(session: &Session, id: &str, text: &str) -> Result<()> {
    let mut leases = Vec::new();
    for name in session.state()?.request(id)?.datasets.keys() {
        leases.push(session.repo.lease(name, super::LEASE_TTL)?);
    }
    leases.push(session.repo.lease(LEASE, super::LEASE_TTL)?);
    // Under the leases: it may be over by now.
    session.ledger().catch_up()?;
    let state = session.state()?;
    let request = state.request(id)?;
    if request.stage(session.now()).is_final() {
        return Err(Error::Refused(format!("the request is {}; open a new one", request.stage(session.now()))));
    }
    let key = identities_key(&request.id);
    let bytes = session.repo.get_sealed(IDENTITIES_PURPOSE, &key)?.ok_or_else(|| Error::damaged(&key, "it is missing"))?;
    let mut sealed: SealedIdentities =
        ciborium::from_reader(bytes.as_slice()).map_err(|_| Error::damaged(&key, "its content is not what was sealed"))?;
    let mut kinds = BTreeMap::new();
    for name in request.datasets.keys() {
        kinds.extend(kinds_of(&session.dataset_config(name)?.map));
    }
    let [added] = parse_identities(text, &kinds)?.try_into().map_err(|_| Error::Usage("give the identities of one person".into()))?;
    let mut datasets = BTreeMap::new();
    for name in request.datasets.keys() {
        let config = session.dataset_config(name)?;
        datasets.insert(name.clone(), ledger_tokens(&added, &config.map, session.dataset(name)?.token_key()));
    }
    for (kind, values) in &added.identities {
        sealed.subject.identities.entry(kind.clone()).or_default().extend(values.iter().cloned());
    }
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    ciborium::into_writer(&sealed, &mut *bytes).map_err(|e| Error::damaged(&key, e.to_string()))?;
    session.repo.put_sealed(IDENTITIES_PURPOSE, &key, &bytes)?;
    session.record(&Event::IdentitiesConfirmed { request: request.id.clone(), datasets })?;
    Ok(())
}
