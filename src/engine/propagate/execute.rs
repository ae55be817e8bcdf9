//! Carrying a plan out, in the order that keeps everything safe. See the module's head for the order.

use super::dropping::drop_dead;
use super::editing::Editing;
use super::plan::{is_made_after, is_processed, together};
use super::proof;
use super::readback::{Verified, Verifying, shares};
use super::{Options, People, Plan, Report, Scope, request_people};
use crate::config;
use crate::engine::blocks::MarksCache;
use crate::engine::edit::{ArchiveEdit, Known};
use crate::engine::event::{ArchiveOutcome, Event, Verdict};
use crate::engine::session::{NO_HEAD, Session, archive_of_key};
use crate::engine::state::{KeyExport, Request};
use crate::repository::{ArchiveId, ChunkWriter, Head, Lease, Listed, WriteOptions, at_once};
use crate::{Error, Result, memory};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Archives that are worked on at the same time, at most: each has its databases open and its written pages in memory.
const HANDS: usize = 2;
/// An archive of more than so many times the memory is worked on alone.
const LARGE: u64 = 10;
/// Requests of a run beyond which archives are edited and read back one after the other: what was found of so many people takes memory too.
const FEW: usize = 32;

/// An archive on its way through a run.
pub(super) struct Work {
    pub(super) old: Listed,
    /// Indices of the requests that this run carries out on it.
    pub(super) requests: Vec<usize>,
    pub(super) edit: ArchiveEdit,
    pub(super) new: Option<Head>,
    pub(super) outcome: ArchiveOutcome,
    /// What the search before the edit asked for and entries do not have, by their paths.
    pub(super) missing: Vec<(Vec<u8>, Vec<String>)>,
    /// Identities on the person's records that the request (by its id) does not name: kind → how many.
    pub(super) also_known: BTreeMap<(String, String), u64>,
}

/// Executes a plan's requests: together, as far as memory allows it, each run beginning and ending in the ledger.
pub fn execute(session: &Session, plan: &Plan, options: &Options) -> Result<Report> {
    let traffic = session.traffic();
    let mut report = Report::empty();
    crate::engine::request::sweep_identities(session)?;
    for together in plan.requests.chunks(together(session)) {
        if report.started > 0 {
            memory::give_back();
        }
        report.add(run(session, together, options)?);
    }
    let mine = |e: &&KeyExport| plan.requests.iter().any(|r| e.since.erased.contains(&r.id));
    report.exports = session.state()?.outdated_exports().filter(mine).cloned().collect();
    report.traffic = session.traffic().since(&traffic);
    (report.bytes_read, report.bytes_written) = (report.traffic.bytes_read, report.traffic.bytes_written);
    Ok(report)
}

/// One run. Datasets are worked on one after the other, each under its lease.
fn run(session: &Session, together: &[Request], options: &Options) -> Result<Report> {
    let mut report = Report::empty();
    let datasets: BTreeSet<String> = together.iter().flat_map(|r| r.datasets.keys().cloned()).collect();
    let mut leases = Vec::new();
    for d in &datasets {
        leases.push(session.repo.lease(d, crate::engine::LEASE_TTL)?);
    }
    // Before the moment of erasure is recorded: what was handed in until now is older than it.
    for (d, lease) in datasets.iter().zip(&leases) {
        for refused in crate::engine::intake::admit(session, session.dataset_config(d)?, lease)?.refused {
            let why = format!("handed in by a put-only host and not admitted, so not searched: {}", refused.why);
            report.archives.push(not_there(session.dataset_config(d)?, refused.archive, why));
        }
    }
    // Under the leases, and with what others recorded meanwhile: a hold that came between counts.
    session.ledger().catch_up()?;
    let chosen = super::plan::choose_requests(session, options)?;
    let plan: Vec<Request> = chosen.requests.into_iter().filter(|r| together.iter().any(|p| p.id == r.id)).collect();
    if plan.is_empty() {
        return Ok(report);
    }
    report.started = match resumable(&plan) {
        Some(seq) => seq,
        None => session.record(&Event::PropagationStarted {
            requests: plan.iter().map(|r| r.id.clone()).collect(),
            datasets: datasets.iter().cloned().collect(),
            effective_at: session.now(),
            skipped_waiting: options.now.clone(),
        })?,
    };
    // With the moment of erasure that was recorded just now.
    let state = session.state()?;
    let plan: Vec<Request> = plan.iter().map(|r| state.request(&r.id).cloned()).collect::<Result<_>>()?;
    drop(state);
    let mut policies = BTreeMap::new();
    for (dataset, lease) in datasets.iter().zip(&leases) {
        let config = session.dataset_config(dataset)?;
        policies.insert(dataset.clone(), config.map_digest.clone());
        let mine: Vec<&Request> = plan.iter().filter(|r| r.datasets.contains_key(dataset)).collect();
        run_dataset(session, config, &mine, options.scope, lease, &mut report)?;
    }
    let (storage, kept_elsewhere) = proof::storage(session);
    report.storage = storage;
    report.gone = report.gone.and(kept_elsewhere);
    let mut reopened = BTreeSet::new();
    session.ledger().catch_up()?;
    for request in session.state()?.given_identities_since(report.started) {
        // The searches may have been without them.
        report.archives.iter_mut().for_each(|a| a.complete.retain(|id| *id != request.id));
        reopened.insert(request.id.clone());
    }
    for request in &plan {
        if reopened.contains(&request.id) {
            let id = &request.id;
            session.env.monitor.warn(&format!("request {id} was given identities while it was carried out: run reseal propagate again"));
        }
        let mut mine = report.archives.iter().filter(|a| request.datasets.contains_key(&a.dataset));
        if mine.all(|a| a.complete.contains(&request.id)) && report.gone == Verdict::Pass && !reopened.contains(&request.id) {
            report.done.push(request.id.clone());
        } else {
            report.partial.push(request.id.clone());
        }
    }
    session.record(&Event::PropagationFinished {
        started: report.started,
        done: report.done.clone(),
        partial: report.partial.clone(),
        archives: report.archives.clone(),
        gone: report.gone,
        scope: options.scope.to_string(),
        policies,
        listing: report.listing.clone(),
        storage: report.storage.clone(),
    })?;
    crate::engine::request::sweep_identities(session)?;
    Ok(report)
}

/// A run that began for exactly these requests and did not finish is continued under its own number.
fn resumable(requests: &[Request]) -> Option<u64> {
    let mut starts = requests.iter().map(|r| r.started.last().copied().filter(|s| r.finished.as_ref().is_none_or(|f| f.seq < *s)));
    let first = starts.next()??;
    starts.all(|s| s == Some(first)).then_some(first)
}

fn run_dataset(
    session: &Session,
    config: &config::Dataset,
    requests: &[&Request],
    scope: Scope,
    lease: &Lease,
    report: &mut Report,
) -> Result<()> {
    if !session.is_backed_up(&config.name)? {
        return Ok(());
    }
    let people = request_people(session, requests)?;
    let view = session.view_to_add_to(&config.name)?;
    undo_unverified(session, config, lease)?;
    let state = session.state()?;
    let heads = session.heads(&config.name)?;
    for (key, e) in &heads.damaged {
        report.archives.push(unreadable(config, key, e));
    }
    // A copy of them may be anywhere, so they are not erased.
    for archive in session.missing_archives(&config.name, &heads)? {
        report.archives.push(not_there(config, archive, NO_HEAD.into()));
    }
    let mode = config.erasure.mode.to_string();
    let started = report.started;
    // One pack of data at a time: what an erasure writes is little, or many neighbours anyway.
    let options = WriteOptions { level: session.config.compression_level, open_packs: 1 };
    let writer = ChunkWriter::new(&session.repo, &view.dataset, view.index.clone(), options).under(lease);
    session.env.monitor.phase(&format!("erasing from {}", config.name), Some(heads.latest.len() as u64));
    let editing = Editing { session, config, view: &view, people: &people, requests, writer: &writer, started, scope };
    let begun = |listed: Listed, known: &mut Known| -> Result<Work> {
        session.env.stop.check("nothing was changed; run the same command again")?;
        let outcome = outcome_of(config, &listed, &mode);
        let mut work = Work {
            outcome,
            old: listed,
            requests: Vec::new(),
            edit: ArchiveEdit::default(),
            new: None,
            missing: Vec::new(),
            also_known: BTreeMap::new(),
        };
        for (i, r) in requests.iter().enumerate() {
            if is_made_after(&state, &work.old, &[*r]) || is_processed(&state, &work.old, &[*r]) {
                work.outcome.complete.push(r.id.clone());
            } else {
                work.requests.push(i);
            }
        }
        if work.requests.is_empty() {
            work.outcome.verification = Verdict::Pass;
            work.outcome.notes.push("nothing to do: processed by an earlier run, or made after the erasure".into());
        } else if mode != "rewrite" {
            work.outcome.left.push(match mode.as_str() {
                "expire" => "left to rotation by the dataset's erasure mode".into(),
                _ => "left to the restore gate by the dataset's erasure mode".into(),
            });
            work.requests.clear();
        } else {
            editing.prepare(&mut work, known)?;
        }
        session.env.monitor.advance(1);
        Ok(work)
    };
    let hands = hands(session, requests, heads.latest.iter().map(|listed| &listed.head));
    let works: Vec<Vec<Work>> = at_once(hands, shares(heads.latest, hands), |share| {
        let mut known = Known::default();
        share.into_iter().map(|listed| begun(listed, &mut known)).collect()
    })?;
    let works: Vec<Work> = works.into_iter().flatten().collect();
    drop(state);
    for work in &works {
        for ((request, kind), n) in &work.also_known {
            let slot = report.also_known.entry(request.clone()).or_default().entry(kind.clone()).or_default();
            *slot = (*slot).max(*n);
        }
    }
    // Packs and their sheets are durable before any head names them.
    writer.finish()?;
    // Verifying reads chunks anew. What is known of identity blocks still holds: a block that is the same has the same name.
    drop(writer);
    let marks = view.marks.clone();
    drop(view);
    if requests.len() > FEW {
        memory::give_back();
    }
    lease.check()?;
    let new: Vec<&Head> = works.iter().filter_map(|work| work.new.as_ref()).collect();
    session.repo.put_heads(&new, &|| {
        crate::crash::step("propagate: put head");
        lease.check_cheaply()
    })?;
    verify_and_replace(session, config, &people, requests, scope, lease, marks, works, report)
}

/// How many archives are worked on at the same time: each holds the references of a large entry, its overlay and its part of the caches.
fn hands<'h>(session: &Session, requests: &[&Request], heads: impl Iterator<Item = &'h Head>) -> usize {
    let largest = heads.map(|head| head.source_bytes).max().unwrap_or(0);
    let small = largest / LARGE <= session.config.memory;
    if requests.len() <= FEW && small { HANDS } else { 1 }
}

/// An interrupted run may have left a new generation that nobody verified beside the old one. It is made again from the old one.
fn undo_unverified(session: &Session, config: &config::Dataset, lease: &Lease) -> Result<()> {
    let state = session.state()?;
    let heads = session.repo.heads(&config.name)?;
    for listed in &heads.latest {
        let known = state.facts(&config.name, &listed.head.archive).highest.map_or(1, |(g, _)| g);
        let has_old = heads.older.iter().any(|l| l.head.archive == listed.head.archive && l.head.generation >= known);
        if listed.head.generation > known && has_old {
            lease.check()?;
            crate::crash::step("propagate: delete unverified head");
            session.repo.delete_head(&config.name, &listed.head.archive, listed.head.generation)?;
        }
    }
    Ok(())
}

/// Reads the new generations back, and only for those that hold what they should removes the old ones.
///
/// An old generation goes only when the new one was read to the end and is exactly what the edit makes of it. If that could not be told, or is
/// not so, the old one is what stays.
#[allow(clippy::too_many_arguments)]
fn verify_and_replace(
    session: &Session,
    config: &config::Dataset,
    people: &People,
    requests: &[&Request],
    scope: Scope,
    lease: &Lease,
    marks: Arc<MarksCache>,
    mut works: Vec<Work>,
    report: &mut Report,
) -> Result<()> {
    // A fresh index and cache: only what the store really holds counts.
    let view = session.view_with(&config.name, marks)?;
    let stored = session.repo.heads(&config.name)?;
    let mut remove: Vec<Listed> = Vec::new();
    session.env.monitor.phase(&format!("verifying {}", config.name), Some(works.len() as u64));
    let verified = Verifying { session, config, people, scope, view: &view, stored: &stored, read_back: Mutex::default() }
        .all(&works, hands(session, requests, works.iter().map(|work| &work.old.head)))?;
    for (work, verified) in works.iter_mut().zip(verified) {
        let (new, checked) = match verified {
            Verified::Nothing => continue,
            Verified::Checked(new, checked) => (new, checked),
            Verified::Unsound(e) => {
                // The old generation is whole: go back to it.
                lease.check()?;
                if let Some(head) = &work.new {
                    session.repo.delete_head(&config.name, &head.archive, head.generation)?;
                }
                work.outcome.left.push(people.withhold(&e.to_string()));
                work.outcome.verification = Verdict::Failed;
                continue;
            }
        };
        let current = new.as_deref().unwrap_or(&work.old);
        let verdict = match checked {
            Ok(checked) => {
                work.outcome.left.extend(checked.problems);
                work.outcome.notes.extend(checked.notes);
                checked.verdict
            }
            Err(e) => {
                work.outcome.left.push(people.withhold(&e.to_string()));
                Verdict::Unknown
            }
        };
        work.outcome.verification = verdict;
        work.outcome.after = (current.head.generation, current.digest.clone());
        if verdict == Verdict::Pass && work.outcome.left.iter().all(|l| l.starts_with("request ")) {
            work.outcome.complete.extend(work.requests.iter().map(|i| requests[*i].id.clone()));
        }
        if let Some(listed) = &new {
            session.record_one(&Event::ArchiveResealed {
                dataset: config.name.clone(),
                archive: listed.head.archive,
                generation: listed.head.generation,
                digest: listed.digest.clone(),
                previous: work.old.digest.clone(),
                complete: work.outcome.complete.clone(),
                counts: work.outcome.requests.clone(),
            })?;
            remove.push(work.old.clone());
        }
    }
    session.witness()?;
    // From here on all sheets are in memory, and who needs what: nothing of the edits is needed beside them.
    let outcomes: Vec<ArchiveOutcome> = works.into_iter().map(|work| work.outcome).collect();
    lease.check()?;
    // Generations that a recorded newer one replaced: of this run, and left by interrupted ones.
    let state = session.state()?;
    for listed in &session.repo.heads(&config.name)?.older {
        let replaced = state.facts(&config.name, &listed.head.archive).highest.is_some_and(|(g, _)| g > listed.head.generation);
        if replaced && !remove.iter().any(|r| r.key == listed.key) {
            remove.push(listed.clone());
        }
    }
    let old: Vec<&Head> = remove.iter().map(|listed| &listed.head).collect();
    session.repo.delete_heads(&old, &|| {
        lease.check_cheaply()?;
        crate::crash::step("propagate: delete old head");
        Ok(())
    })?;
    if requests.len() > FEW {
        memory::give_back();
    }
    let gone = drop_dead(session, view, lease, &remove, report)?;
    report.gone = report.gone.and(gone);
    report.archives.extend(outcomes);
    Ok(())
}

fn outcome_of(config: &config::Dataset, listed: &Listed, mode: &str) -> ArchiveOutcome {
    let generation = (listed.head.generation, listed.digest.clone());
    ArchiveOutcome {
        dataset: config.name.clone(),
        archive: listed.head.archive,
        created_at: listed.head.created_at,
        before: generation.clone(),
        after: generation,
        requests: BTreeMap::new(),
        complete: Vec::new(),
        verification: Verdict::Unknown,
        left: Vec::new(),
        mode: mode.to_string(),
        notes: Vec::new(),
    }
}

fn unreadable(config: &config::Dataset, key: &str, error: &Error) -> ArchiveOutcome {
    not_there(config, archive_of_key(key).unwrap_or(ArchiveId([0; 16])), format!("{key}: {error}"))
}

fn not_there(config: &config::Dataset, archive: ArchiveId, why: String) -> ArchiveOutcome {
    ArchiveOutcome {
        dataset: config.name.clone(),
        archive,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        before: (0, String::new()),
        after: (0, String::new()),
        requests: BTreeMap::new(),
        complete: Vec::new(),
        verification: Verdict::Unknown,
        left: vec![why],
        mode: config.erasure.mode.to_string(),
        notes: Vec::new(),
    }
}
