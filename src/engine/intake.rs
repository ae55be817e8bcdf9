//! Admitting what put-only hosts handed in. Every command with the full key that changes a dataset does it first, under the dataset's lease, which a
//! host holds too while it writes: so what is in the intake then is either complete or left by an interrupted backup.
//!
//! Order: everything is checked → sheets under the root → head → ledger → intake objects deleted, head last → lists of what is known → a new put key, when
//! the intake is empty. Cut off anywhere, the next admission completes it. What does not check stays where it is, and is named until it is mended or
//! thrown away.

use super::backup::{confirm_still_live, erased_people};
use super::event::Event;
use super::session::Session;
use crate::config;
use crate::repository::entry::Entry;
use crate::repository::intake::{Opened, Pending};
use crate::repository::{ArchiveId, ChunkReader, Dataset, Lease, Live, entries};
use crate::source::walk::path_order;
use crate::{Error, Result};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A host's clock may be ahead by this much, in seconds.
const SKEW: i64 = 3600;

/// What became of an intake.
#[derive(Debug, Default)]
pub struct Report {
    /// Archives now: id, and the host's name.
    pub admitted: Vec<(ArchiveId, String)>,
    /// Left in the intake.
    pub refused: Vec<Refused>,
    /// Interrupted backups, whose remains were removed.
    pub interrupted: u64,
}

/// An archive that does not check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its dataset.
    pub dataset: String,
    /// Its id.
    pub archive: ArchiveId,
    /// What does not fit.
    pub why: String,
}

/// Errors that are about what was handed in; others (the store, Ctrl-C) end the command.
fn is_about_the_archive(e: &Error) -> bool {
    matches!(e, Error::Refused(_) | Error::Damaged { .. } | Error::Format { .. } | Error::Usage(_))
}

/// Admits what is in the intake of a dataset. The caller holds its lease.
pub fn admit(session: &Session, config: &config::Dataset, lease: &Lease) -> Result<Report> {
    let mut report = Report::default();
    let pending = session.repo.pending(&config.name)?;
    if pending.is_empty() {
        return Ok(report);
    }
    let dataset = session.dataset(&config.name)?;
    session.ledger().catch_up()?;
    session.env.monitor.phase(&format!("admitting archives of {}", config.name), Some(pending.len() as u64));
    let mut packs = BTreeSet::new();
    let (mut waiting, mut headless) = (Vec::new(), Vec::new());
    // A host publishes the lists of its packs only once the head is there: then that is missing now, and may be put back.
    let published = if pending.iter().all(|p| p.is_complete) { BTreeSet::new() } else { session.repo.listed_packs(&config.name)? };
    let state = session.state()?;
    for p in pending {
        let is_archive = state.facts(&config.name, &p.archive).sealed.is_some();
        if p.is_complete && !is_archive {
            waiting.push(p);
            continue;
        }
        let had_head = state.refused.contains_key(&(config.name.clone(), p.archive)) || !p.packs.is_disjoint(&published);
        if had_head && !is_archive {
            headless.push(p);
            continue;
        }
        // What an interrupted backup left, or an admission that ended before it could clear up.
        lease.check()?;
        session.repo.clear_pending(&p)?;
        if is_archive {
            packs.extend(p.packs);
        } else {
            report.interrupted += 1;
            session.env.monitor.detail(&format!("the remains of an interrupted backup of {} by a put-only host were removed", config.name));
        }
    }
    // One may share chunks that another brought, and no clock says which came first: who lacks something is tried again while others are admitted.
    loop {
        let before = waiting.len();
        let mut failed = Vec::new();
        for p in std::mem::take(&mut waiting) {
            session.env.stop.check("what is admitted stays so; run the same command again")?;
            let tried = session
                .repo
                .open_pending(&dataset, &p)
                .and_then(|opened| one(session, config, &dataset, lease, &p, &opened).map(|()| opened));
            match tried {
                Ok(opened) => {
                    session.env.monitor.advance(1);
                    packs.extend(opened.packs());
                    report.admitted.push((p.archive, opened.host.label.clone()));
                }
                Err(e) if is_about_the_archive(&e) => failed.push((p, e)),
                Err(e) => return Err(e),
            }
        }
        if failed.is_empty() || failed.len() == before {
            for (p, e) in failed {
                report.refused.push(refuse(session, p, &e)?);
            }
            break;
        }
        waiting = failed.into_iter().map(|(p, _)| p).collect();
    }
    for p in headless {
        let e = Error::damaged(format!("intake/{}/{}", config.name, p.archive), "its head is missing, and was there");
        report.refused.push(refuse(session, p, &e)?);
    }
    // Lists that the hosts signed become the repository's; those of what was not admitted go, so that it is handed in again.
    session.repo.list_known(&dataset, &packs)?;
    if report.refused.is_empty() && session.repo.pending(&config.name)?.is_empty() {
        lease.check()?;
        session.repo.renew_put_key(&config.name)?;
    }
    Ok(report)
}

/// A refused archive in words.
pub fn words(refused: &Refused) -> String {
    format!(
        "archive {} of {} was handed in and is NOT admitted ({}); it stays in the intake until it checks or is thrown away: reseal intake discard {} --reason TEXT",
        refused.archive, refused.dataset, refused.why, refused.archive
    )
}

/// Names it, and records it unless that is recorded already.
fn refuse(session: &Session, pending: Pending, e: &Error) -> Result<Refused> {
    let refused = Refused { dataset: pending.dataset, archive: pending.archive, why: e.to_string() };
    session.env.monitor.warn(&words(&refused));
    if session.state()?.refused.get(&(refused.dataset.clone(), refused.archive)) != Some(&refused.why) {
        let (dataset, archive, why) = (refused.dataset.clone(), refused.archive, refused.why.clone());
        session.record(&Event::IntakeRefused { dataset, archive, why })?;
    }
    Ok(refused)
}

fn one(
    session: &Session,
    config: &config::Dataset,
    dataset: &Arc<Dataset>,
    lease: &Lease,
    pending: &Pending,
    opened: &Opened,
) -> Result<()> {
    let head = &opened.head;
    if head.created_at.as_second() > session.now().as_second() + SKEW {
        return Err(Error::Refused(format!(
            "its time, {}, is yet to come: look at the clock of host {}",
            head.created_at, opened.host.label
        )));
    }
    whole(session, dataset, opened)?;
    lease.check()?;
    crate::crash::step("intake: admit");
    session.repo.admit(dataset, opened)?;
    // Before the archive is recorded: an archive that the ledger knows was looked through.
    let state = session.state()?;
    let erased = erased_people(&state, &config.name, session.now());
    let all: Vec<usize> = (0..erased.len()).collect();
    for request in confirm_still_live(session, config, head, &state, &erased, &all)? {
        session.env.monitor.warn(&format!(
            "archive {} of {}, which host {} handed in, holds the person of request {request}, who was erased; restores leave them out, and reseal request open starts their erasure from it",
            head.archive, config.name, opened.host.label
        ));
    }
    session.record_as(
        &opened.host.label,
        &Event::ArchiveSealed {
            dataset: config.name.clone(),
            archive: head.archive,
            digest: opened.digest.clone(),
            created_at: head.created_at,
            admitted: Some((opened.host.id.to_string(), session.actor.clone())),
        },
    )?;
    session.repo.clear_pending(pending)
}

/// Whether everything that the archive needs is there, and its list of entries is one.
fn whole(session: &Session, dataset: &Arc<Dataset>, opened: &Opened) -> Result<()> {
    let refused = |why: String| Err(Error::Refused(why));
    let index = Arc::new(session.repo.index(dataset)?.extended(opened.sheets()));
    let reader = ChunkReader::new(&session.repo, dataset, index.clone(), session.config.memory as usize / 16);
    let mut needed = Live::new();
    needed.add(&reader, &opened.head)?;
    let packs = session.repo.pack_lengths(dataset.name())?;
    let missing = needed.iter().filter(|(id, role)| !index.is_there(id, *role, |pack| packs.get(pack).copied()));
    let missing = missing.count();
    if missing > 0 {
        return refused(format!("{missing} of {} chunks that it needs are not there", needed.len()));
    }
    let (mut count, mut bytes) = (0u64, 0u64);
    let mut before: Option<Entry> = None;
    for entry in entries(&reader, &opened.head.entries) {
        let entry = entry?;
        if before.as_ref().is_some_and(|b| path_order(&b.path, &entry.path) != Ordering::Less) {
            return refused("its list of entries is not in order".into());
        }
        count += 1;
        bytes = bytes.saturating_add(entry.content.as_ref().map_or(0, |t| t.len()));
        before = Some(entry);
    }
    if (count, bytes) != (opened.head.entry_count, opened.head.source_bytes) {
        return refused("its head counts other entries than it has".into());
    }
    Ok(())
}

/// Admits what can be admitted now, for commands that only read: where a host (or anybody) is just writing, it is left for later, and said.
pub fn settle(session: &Session) -> Result<Vec<Refused>> {
    let mut refused = Vec::new();
    for config in session.config.datasets.values() {
        if session.repo.pending(&config.name)?.is_empty() {
            continue;
        }
        match session.repo.lease(&config.name, super::LEASE_TTL) {
            Ok(lease) => refused.extend(admit(session, config, &lease)?.refused),
            Err(Error::Locked { holder, .. }) => {
                session.env.monitor.warn(&format!("what was handed in to {} is not admitted yet: {holder} is writing", config.name));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(refused)
}

/// Throws an archive in the intake away, for a reason that is recorded. Its packs go with the next rotation.
pub fn discard(session: &Session, wanted: &str, reason: &str) -> Result<(String, ArchiveId)> {
    if reason.trim().is_empty() {
        return Err(Error::Usage("the reason is empty".into()));
    }
    let mut hits = Vec::new();
    // Also of datasets whose keys are lost.
    let names: BTreeSet<String> = session.repo.datasets()?.into_iter().chain(session.config.datasets.keys().cloned()).collect();
    for name in names {
        hits.extend(session.repo.pending(&name)?.into_iter().filter(|p| p.archive.to_string().starts_with(&wanted.to_lowercase())));
    }
    let found = match (hits.pop(), hits.pop()) {
        (Some(p), None) if wanted.len() >= 4 => p,
        (Some(_), _) => return Err(Error::Usage(format!("{wanted:?} is not unique; give more of the archive's id (reseal intake list)"))),
        (None, _) => return Err(Error::Usage(format!("no archive {wanted:?} in the intake (reseal intake list)"))),
    };
    let lease = session.repo.lease(&found.dataset, super::LEASE_TTL)?;
    session.record(&Event::IntakeDiscarded { dataset: found.dataset.clone(), archive: found.archive, reason: reason.to_string() })?;
    lease.check()?;
    session.repo.clear_pending(&found)?;
    if let Some(dataset) = session.repo.dataset(&found.dataset)? {
        session.repo.list_known(&dataset, &BTreeSet::new())?;
    }
    Ok((found.dataset, found.archive))
}

/// Makes datasets take archives from put-only hosts, and a key for one.
pub fn prepare(session: &Session, datasets: &[String]) -> Result<()> {
    for name in datasets {
        session.dataset_config(name)?;
        let dataset = session.create_dataset(name)?;
        let _lease = session.repo.lease(name, super::LEASE_TTL)?;
        session.repo.publish_put_key(name)?;
        session.repo.list_known(&dataset, &BTreeSet::new())?;
    }
    Ok(())
}
