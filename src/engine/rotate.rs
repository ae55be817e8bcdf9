//! Applying retention: the policy decides ([`crate::policy::retention`]), here it is carried out in the safe order: heads → keys of chunks that
//! nothing needs → packs → catalog. And giving up what is lost: until somebody decides so, it keeps everything from being dropped.

use super::event::{Event, LockedObject, Verdict};
use super::propagate::drop_dead;
use super::session::{Session, archive_of_key};
use super::state::State;
use crate::config;
use crate::policy::retention::{Facts, Verdict as Fate, expires_at as retention_ends, plan as retention_plan};
use crate::repository::{ArchiveId, Heads, Listed};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What rotation does, or would do, to one archive.
#[derive(Debug, Clone)]
pub struct Fated {
    /// The archive.
    pub listed: Listed,
    /// Whether it goes.
    pub expires: bool,
    /// The rule that keeps it or lets it go.
    pub reason: String,
}

/// What rotation did to a dataset, or would do.
#[derive(Debug, Clone)]
pub struct Report {
    /// The dataset.
    pub dataset: String,
    /// Archive by archive, oldest first.
    pub archives: Vec<Fated>,
    /// Chunks dropped, and bytes of ciphertext freed.
    pub dropped: (u64, u64),
    /// Whether what was removed is proven gone.
    pub gone: Verdict,
    /// What a lock keeps: ciphertext without keys.
    pub locked: Vec<LockedObject>,
}

/// What retention needs to know of archives.
pub fn facts_of(state: &State, dataset: &str, archives: &[Listed]) -> Vec<Facts> {
    archives
        .iter()
        .map(|l| Facts {
            id: l.head.archive.to_string(),
            created_at: l.head.created_at,
            verified: state.facts(dataset, &l.head.archive).verified_at.is_some(),
            held: false,
        })
        .collect()
}

fn facts(session: &Session, config: &config::Dataset) -> Result<(Heads, Vec<Facts>)> {
    let heads = session.heads(&config.name)?;
    let facts = facts_of(&*session.state()?, &config.name, &heads.latest);
    Ok((heads, facts))
}

/// What retention says about a dataset's archives now.
pub fn plan(session: &Session, config: &config::Dataset) -> Result<Vec<Fated>> {
    if !session.is_backed_up(&config.name)? {
        return Ok(Vec::new());
    }
    let (heads, facts) = facts(session, config)?;
    let fates: BTreeMap<String, Fate> = retention_plan(&facts, &config.retention, session.now()).into_iter().collect();
    Ok(heads
        .latest
        .into_iter()
        .map(|listed| {
            let fate = fates.get(&listed.head.archive.to_string());
            let (expires, reason) = match fate {
                Some(Fate::Expire(reason)) => (true, reason.as_str().to_string()),
                Some(Fate::Keep(reasons)) => (false, reasons.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", ")),
                None => (false, "not judged".to_string()),
            };
            Fated { listed, expires, reason }
        })
        .collect())
}

/// Rotates a dataset. Running it again after an interruption completes it.
pub fn rotate(session: &Session, config: &config::Dataset, dry_run: bool) -> Result<Report> {
    let mut report =
        Report { dataset: config.name.clone(), archives: plan(session, config)?, dropped: (0, 0), gone: Verdict::Pass, locked: Vec::new() };
    if dry_run || !session.is_backed_up(&config.name)? {
        return Ok(report);
    }
    let lease = session.repo.lease(&config.name, super::LEASE_TTL)?;
    super::intake::admit(session, config, &lease)?;
    // Under the lease: another run may have changed what is there.
    report.archives = plan(session, config)?;
    let state = session.state()?;
    let heads = session.repo.heads(&config.name)?;
    let mut removed = Vec::new();
    for fated in report.archives.iter().filter(|f| f.expires) {
        session.env.stop.check("some archives are rotated out; run the same command again")?;
        lease.check()?;
        let head = &fated.listed.head;
        // Recorded first: a head that is gone without a word would look like damage.
        session.record(&Event::ArchiveRotated {
            dataset: config.name.clone(),
            archive: head.archive,
            generation: head.generation,
            reason: fated.reason.clone(),
        })?;
        for listed in heads.older.iter().filter(|l| l.head.archive == head.archive).chain([&fated.listed]) {
            crate::crash::step("rotate: delete head");
            session.repo.delete_head(&config.name, &head.archive, listed.head.generation)?;
            removed.push(listed.clone());
        }
    }
    // Generations that a verified newer one replaced, left by an interrupted propagation.
    for listed in &heads.older {
        let facts = state.facts(&config.name, &listed.head.archive);
        if facts.highest.is_some_and(|(g, _)| g > listed.head.generation) {
            crate::crash::step("rotate: delete superseded head");
            session.repo.delete_head(&config.name, &listed.head.archive, listed.head.generation)?;
            removed.push(listed.clone());
        }
    }
    session.env.monitor.phase(&format!("sweeping {}", config.name), None);
    lease.check()?;
    let mut dropped = super::propagate::Report::empty();
    report.gone = drop_dead(session, session.view(&config.name)?, &lease, &removed, &mut dropped)?;
    report.dropped = dropped.dropped;
    report.locked = dropped.listing.locked;
    super::request::sweep_identities(session)?;
    if report.gone == Verdict::Failed {
        return Err(Error::Verification(format!("what rotation removed from {} is still in the store's listing", config.name)));
    }
    Ok(report)
}

/// An archive that was given up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// Its dataset.
    pub dataset: String,
    /// The archive.
    pub archive: ArchiveId,
}

/// Gives up an archive (id or beginning of it) whose head is not in the store or cannot be read, or that the last verification found
/// damaged. From then on it counts as rotated out, with the reason in the ledger; what is left of its heads goes.
pub fn give_up(session: &Session, wanted: &str, reason: &str) -> Result<Lost> {
    if reason.trim().is_empty() {
        return Err(Error::Usage("giving up an archive needs a reason".into()));
    }
    let lost = find_lost(session, wanted)?;
    let lease = session.repo.lease(&lost.dataset, super::LEASE_TTL)?;
    // Under the lease: it may have been put back, or another run may have been here.
    if find_lost(session, wanted)? != lost {
        return Err(Error::Interrupted("it changed meanwhile; run the same command again".into()));
    }
    let generation = session.state()?.facts(&lost.dataset, &lost.archive).highest.map_or(0, |(generation, _)| generation);
    lease.check()?;
    session.record(&Event::ArchiveRotated {
        dataset: lost.dataset.clone(),
        archive: lost.archive,
        generation,
        reason: format!("lost: {}", reason.trim()),
    })?;
    session.repo.delete_every_head(&lost.dataset, &lost.archive)?;
    Ok(lost)
}

/// The one archive that begins so, if it may be given up.
fn find_lost(session: &Session, wanted: &str) -> Result<Lost> {
    if wanted.len() < 4 {
        return Err(Error::Usage(format!("{wanted:?}: the id of an archive, or at least four characters of it, is needed")));
    }
    let state = session.state()?;
    let (mut lost, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for dataset in session.dataset_names()? {
        // Without its keys nothing of it opens.
        let keyless = session.repo.dataset(&dataset)?.is_none();
        let heads = session.heads(&dataset)?;
        let damaged = heads.damaged.iter().filter_map(|(key, _)| archive_of_key(key));
        let gone = session.missing_archives(&dataset, &heads)?.into_iter().chain(damaged);
        let of = |archive: ArchiveId| Lost { dataset: dataset.clone(), archive };
        lost.extend(gone.map(of));
        for archive in heads.latest.iter().map(|l| l.head.archive) {
            let facts = state.facts(&dataset, &archive);
            let found_damaged = keyless || (facts.failed_at.is_some() && facts.verified_at.is_none());
            if found_damaged {
                lost.insert(of(archive))
            } else {
                whole.insert(of(archive))
            };
        }
    }
    let begins = |l: &Lost| l.archive.to_string().starts_with(wanted);
    let (lost, whole): (Vec<Lost>, Vec<Lost>) = (lost.into_iter().filter(begins).collect(), whole.into_iter().filter(begins).collect());
    match (lost.as_slice(), whole.as_slice()) {
        ([one], []) => Ok(one.clone()),
        ([], []) => Err(Error::Usage(format!("no archive {wanted:?} is known"))),
        ([], [one]) => Err(Error::Refused(format!(
            "archive {} is there, and no verification found it damaged: retention decides when it goes (reseal verify --read-data checks it)",
            one.archive
        ))),
        _ => Err(Error::Usage(format!("{wanted:?} is the beginning of several archives' ids"))),
    }
}

/// When each archive of a dataset will probably go, by archive; `None` when no rule sets an end.
pub fn ends(session: &Session, config: &config::Dataset) -> Result<BTreeMap<ArchiveId, Option<jiff::Timestamp>>> {
    let (heads, facts) = facts(session, config)?;
    let ends = retention_ends(&facts, &config.retention, session.now());
    Ok(heads.latest.iter().map(|l| l.head.archive).zip(ends).collect())
}
