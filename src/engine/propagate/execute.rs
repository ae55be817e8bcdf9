//! Carrying a plan out, in the order that keeps everything safe. See the module's head for the order.

use super::check::{Searches, absence, no_collateral};
use super::people::identities_key;
use super::plan::{covers, is_processed, search};
use super::{Options, People, Plan, Report, Scope, request_people};
use crate::config;
use crate::engine::edit::{ArchiveEdit, Tally, apply, tally};
use crate::engine::event::{ArchiveOutcome, Event, Verdict};
use crate::engine::reseal::reseal;
use crate::engine::session::{Session, View, archive_of_key};
use crate::engine::state::{Request, State};
use crate::repository::entry::{ChunkId, Role};
use crate::repository::{
    ArchiveId, ChunkIndex, ChunkReader, ChunkWriter, DropOptions, Head, Heads, Listed, Live, WriteOptions, drop_chunks,
};
use crate::{Error, Result};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An archive on its way through a run.
struct Work {
    old: Listed,
    edit: ArchiveEdit,
    new: Option<Head>,
    outcome: ArchiveOutcome,
}

/// Executes a plan. Datasets are worked on one after the other, each under its lease.
pub fn execute(session: &Session, plan: &Plan, options: &Options) -> Result<Report> {
    let mut report = Report::empty();
    forget_finished(session)?;
    if plan.requests.is_empty() {
        return Ok(report);
    }
    let traffic = session.traffic();
    let mut leases = Vec::new();
    for d in &plan.datasets {
        leases.push(session.repo.lease(&d.dataset, crate::engine::LEASE_TTL)?);
    }
    let requests: Vec<&Request> = plan.requests.iter().collect();
    let resumed = resumable(plan);
    report.started = match resumed {
        Some(seq) => seq,
        None => session.record(&Event::PropagationStarted {
            requests: plan.requests.iter().map(|r| r.id.clone()).collect(),
            datasets: plan.datasets.iter().map(|d| d.dataset.clone()).collect(),
            effective_at: session.now(),
            skipped_waiting: plan.skipped_waiting.clone(),
        })?,
    };
    let mut policies = BTreeMap::new();
    for (d, lease) in plan.datasets.iter().zip(&leases) {
        let config = session.dataset_config(&d.dataset)?;
        policies.insert(d.dataset.clone(), config.map_digest.clone());
        let mine: Vec<&Request> = d.requests.iter().filter_map(|i| requests.get(*i).copied()).collect();
        run_dataset(session, config, &mine, options.scope, lease, &mut report)?;
        for a in &d.archives {
            for ((who, kind), n) in &a.also_known {
                if let Some(r) = mine.get(*who) {
                    let slot = report.also_known.entry(r.id.clone()).or_default().entry(kind.clone()).or_default();
                    *slot = (*slot).max(*n);
                }
            }
        }
    }
    for request in &plan.requests {
        let complete = report
            .archives
            .iter()
            .filter(|a| request.datasets.contains_key(&a.dataset))
            .all(|a| a.left.is_empty() && a.verification == Verdict::Pass);
        if complete && report.gone == Verdict::Pass {
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
    })?;
    for id in &report.done {
        session.repo.delete_sealed(&identities_key(id))?;
    }
    let now = session.traffic();
    (report.bytes_read, report.bytes_written) = (now.0 - traffic.0, now.1 - traffic.1);
    Ok(report)
}

/// Destroys the identities of requests that are over: a run may have been cut off between recording that and doing it.
fn forget_finished(session: &Session) -> Result<()> {
    let state = session.state()?;
    let over = state.requests.iter().filter(|r| r.stage(session.now()).is_final()).map(|r| identities_key(&r.id)).collect::<BTreeSet<_>>();
    for key in session.repo.list_sealed("requests/")?.iter().filter(|key| over.contains(*key)) {
        session.repo.delete_sealed(key)?;
    }
    Ok(())
}

/// A run that began for exactly these requests and did not finish is continued under its own number.
fn resumable(plan: &Plan) -> Option<u64> {
    let mut starts = plan.requests.iter().map(|r| r.started.last().copied().filter(|s| r.finished.as_ref().is_none_or(|f| f.seq < *s)));
    let first = starts.next()??;
    starts.all(|s| s == Some(first)).then_some(first)
}

fn run_dataset(
    session: &Session,
    config: &config::Dataset,
    requests: &[&Request],
    scope: Scope,
    lease: &crate::repository::Lease,
    report: &mut Report,
) -> Result<()> {
    if session.repo.dataset(&config.name)?.is_none() {
        return Ok(());
    }
    let state = session.state()?;
    let view = session.view(&config.name)?;
    let mut heads = session.heads(&config.name)?;
    for (key, e) in &heads.damaged {
        report.archives.push(unreadable(config, key, e));
    }
    let mode = config.erasure.mode.to_string();
    if mode != "rewrite" {
        for listed in heads.latest {
            let mut outcome = outcome_of(config, &listed, &mode);
            if is_processed(&state, &listed, requests) {
                outcome.verification = Verdict::Pass;
            } else {
                outcome.left.push(match mode.as_str() {
                    "expire" => "left to rotation by the dataset's erasure mode".into(),
                    _ => "left to the restore gate by the dataset's erasure mode".into(),
                });
            }
            report.archives.push(outcome);
        }
        return Ok(());
    }
    discard_unverified(session, config, &state, &mut heads)?;
    let options = WriteOptions { level: session.config.compression_level, ..WriteOptions::default() };
    let writer = ChunkWriter::new(&session.repo, &view.dataset, view.index.clone(), options);
    session.env.monitor.phase(&format!("erasing from {}", config.name), Some(heads.latest.len() as u64));
    let mut works = Vec::new();
    for listed in heads.latest {
        session.env.stop.check("nothing was changed; run the same command again")?;
        let mut work = Work { outcome: outcome_of(config, &listed, &mode), old: listed, edit: ArchiveEdit::default(), new: None };
        let open: Vec<&Request> = requests.iter().copied().filter(|r| !is_processed(&state, &work.old, &[r])).collect();
        if open.is_empty() {
            work.outcome.notes.push("already processed by an earlier run".into());
        } else {
            prepare(session, config, &view, &open, &writer, report.started, &mut work)?;
        }
        session.env.monitor.advance(1);
        works.push(work);
    }
    // Packs and their sheets are durable before any head names them.
    writer.finish()?;
    lease.check()?;
    for work in &works {
        if let Some(head) = &work.new {
            crate::crash::step("propagate: put head");
            session.repo.put_head(head)?;
        }
    }
    verify_and_replace(session, config, requests, scope, lease, works, &heads.older, report)
}

#[allow(clippy::too_many_arguments)]
fn prepare(
    session: &Session,
    config: &config::Dataset,
    view: &View,
    requests: &[&Request],
    writer: &ChunkWriter,
    epoch: u64,
    work: &mut Work,
) -> Result<()> {
    let people = &request_people(session, requests)?;
    let archive = view.open(&work.old.head);
    let mut attempt = || -> Result<(ArchiveEdit, Tally)> {
        let searched = search(session, config, view, &archive, people)?;
        let counts = tally(&searched.matches, &searched.decided);
        for (entry, why) in &searched.matches.failed {
            work.outcome.left.push(format!("{entry}: {why}"));
        }
        work.outcome.notes.extend(
            searched.matches.fell_back.iter().map(|e| format!("{e}: read as a whole, since its identity blocks do not cover the data map")),
        );
        for d in &searched.decided {
            if let Some(ground) = &d.ground {
                work.outcome.notes.push(format!("kept: {ground}"));
            }
        }
        let edit = apply(&config.map, searched.bound, &searched.matches, searched.decided)?;
        Ok((edit, counts))
    };
    match attempt() {
        Ok((edit, counts)) => {
            work.outcome.requests = named_counts(config, requests, &counts);
            work.outcome.notes.extend(edit.notes.iter().cloned());
            if !edit.is_empty() {
                work.new = Some(reseal(&archive, &work.old, &edit, &view.dataset, writer, epoch, &session.env)?);
            }
            work.edit = edit;
        }
        Err(e @ (Error::Refused(_) | Error::Format { .. } | Error::Damaged { .. } | Error::Sqlite { .. } | Error::Verification(_))) => {
            work.outcome.left.push(e.to_string());
        }
        Err(e) => return Err(e),
    }
    work.outcome.notes.sort();
    work.outcome.notes.dedup();
    Ok(())
}

/// What an interrupted run left beside the generation that it was to replace was never read back: it is made anew from the old one.
fn discard_unverified(session: &Session, config: &config::Dataset, state: &State, heads: &mut Heads) -> Result<()> {
    for listed in &mut heads.latest {
        let verified =
            state.facts(&config.name, &listed.head.archive).highest.is_none_or(|(generation, _)| generation >= listed.head.generation);
        let older = heads.older.iter().filter(|o| o.head.archive == listed.head.archive).max_by_key(|o| o.head.generation);
        if let (false, Some(older)) = (verified, older.cloned()) {
            session.repo.delete_head(&config.name, &listed.head.archive, listed.head.generation)?;
            heads.older.retain(|o| o.key != older.key);
            *listed = older;
        }
    }
    Ok(())
}

/// Reads the new generations back, and only for those that hold what they should removes the old ones.
#[allow(clippy::too_many_arguments)]
fn verify_and_replace(
    session: &Session,
    config: &config::Dataset,
    requests: &[&Request],
    scope: Scope,
    lease: &crate::repository::Lease,
    mut works: Vec<Work>,
    older: &[Listed],
    report: &mut Report,
) -> Result<()> {
    // A fresh index: only what the store really holds counts.
    let view = session.view(&config.name)?;
    let cold = View {
        reader: Arc::new(ChunkReader::new(&session.repo, &view.dataset, view.index.clone(), session.config.memory as usize / 4)),
        ..view.clone()
    };
    let stored = session.repo.heads(&config.name)?;
    // Which of the requests concern an archive differs from archive to archive, and with it who is searched for.
    let mut people: BTreeMap<Vec<String>, (People, Searches)> = BTreeMap::new();
    let mut remove: Vec<Listed> = Vec::new();
    session.env.monitor.phase(&format!("verifying {}", config.name), Some(works.len() as u64));
    for work in &mut works {
        session.env.stop.check("the new generations are stored and the old ones still there; run the same command again")?;
        let Some(listed) = stored.latest.iter().find(|l| l.head.archive == work.old.head.archive) else {
            work.outcome.left.push("its head is not in the store any more".into());
            continue;
        };
        let archive = cold.open(&listed.head);
        // Without an edit of this run, an interrupted earlier one may have left the generation before beside it.
        let before = match &work.new {
            Some(_) => Some(work.old.clone()),
            None => older.iter().filter(|l| l.head.archive == listed.head.archive).max_by_key(|l| l.head.generation).cloned(),
        };
        let before_archive = before.as_ref().map(|l| cold.open(&l.head));
        let concerned: Vec<&Request> = requests.iter().copied().filter(|r| covers(r, &work.old)).collect();
        let (people, searches) = match people.entry(concerned.iter().map(|r| r.id.clone()).collect()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((request_people(session, &concerned)?, Searches::new())),
        };
        let mut is_the_edit = work.new.is_none();
        let result = (|| -> Result<Verdict> {
            if work.new.is_some() {
                no_collateral(&cold.open(&work.old.head), &archive, &work.edit)?;
                is_the_edit = true;
            }
            let checked = absence(session, config, &cold, &archive, before_archive.as_ref(), people, scope, searches)?;
            work.outcome.left.extend(checked.problems);
            work.outcome.notes.extend(checked.notes);
            Ok(checked.verdict)
        })();
        let verdict = match result {
            Ok(v) => v,
            Err(e @ Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                work.outcome.left.push(e.to_string());
                Verdict::Failed
            }
        };
        work.outcome.verification = verdict;
        work.outcome.before =
            before.as_ref().map_or((listed.head.generation, listed.digest.clone()), |l| (l.head.generation, l.digest.clone()));
        work.outcome.after = (listed.head.generation, listed.digest.clone());
        if !is_the_edit {
            // It could not be read back as what it should be, for whatever reason. The old generation is still whole: go back to it.
            session.repo.delete_head(&config.name, &listed.head.archive, listed.head.generation)?;
            work.outcome.after = work.outcome.before.clone();
            continue;
        }
        if work.new.is_some() || before.is_some() {
            session.record(&Event::ArchiveResealed {
                dataset: config.name.clone(),
                archive: listed.head.archive,
                generation: listed.head.generation,
                digest: listed.digest.clone(),
            })?;
            remove.extend(older.iter().filter(|l| l.head.archive == listed.head.archive).cloned());
            if work.new.is_some() {
                remove.push(work.old.clone());
            }
        }
        session.env.monitor.advance(1);
    }
    lease.check()?;
    for listed in &remove {
        crate::crash::step("propagate: delete old head");
        session.repo.delete_head(&config.name, &listed.head.archive, listed.head.generation)?;
    }
    let gone = drop_dead(session, &config.name, &remove, report)?;
    report.gone = report.gone.and(gone);
    session.catalog.witness_heads(&config.name, &session.repo.heads(&config.name)?)?;
    report.archives.extend(works.into_iter().map(|w| w.outcome));
    Ok(())
}

/// Drops the chunks that no head needs, and proves from a new listing that what was dropped is not there any more.
pub fn drop_dead(session: &Session, dataset: &str, removed: &[Listed], report: &mut Report) -> Result<Verdict> {
    let view = session.view(dataset)?;
    let heads = session.repo.heads(dataset)?;
    if !heads.damaged.is_empty() {
        // What a damaged head needs is unknown, so nothing may be dropped: keys of the erased would survive.
        for (key, e) in &heads.damaged {
            session.env.monitor.warn(&format!("{key} cannot be read ({e}); until it is repaired or removed, no key can be destroyed"));
        }
        return Ok(Verdict::Unknown);
    }
    let mut needed = Live::new();
    for listed in heads.latest.iter().chain(&heads.older) {
        // Whatever cannot be read may need anything: then nothing is dropped.
        needed.add(&view.reader, &listed.head)?;
    }
    let dead = dead_chunks(&view.index, &needed);
    let dropped = drop_chunks(&session.repo, &view.dataset, &|id, role| needed.contains(id, role), DropOptions::default())?;
    report.dropped.0 += dropped.chunks;
    report.dropped.1 += dropped.bytes;
    for (key, e) in dropped.damaged.iter().chain(&dropped.left) {
        session.env.monitor.warn(&format!("{key}: {e}"));
    }
    // Keys that cannot be read may be keys of what was dropped; bytes that are left are ciphertext without a key.
    if !dropped.damaged.is_empty() {
        return Ok(Verdict::Unknown);
    }
    let fresh = session.repo.index(&view.dataset)?;
    if !fresh.damaged().is_empty() {
        return Ok(Verdict::Unknown);
    }
    let keys_left = dead.iter().any(|(id, role)| fresh.contains(id, *role));
    let store = &session.repo.location().data;
    let stored: BTreeSet<String> = store.list_versions(&format!("archives/{dataset}/"))?.into_iter().map(|o| o.key).collect();
    let heads_left = removed.iter().any(|l| stored.contains(&l.key));
    let packs: BTreeSet<String> = store
        .list_versions(&format!("packs/{dataset}/"))?
        .into_iter()
        .filter_map(|o| o.key.rsplit('/').next().map(str::to_string))
        .collect();
    let known: BTreeSet<String> = fresh.packs().iter().map(|p| p.id.to_string()).collect();
    let packs_left = packs.difference(&known).next().is_some();
    Ok(if keys_left || heads_left || packs_left {
        Verdict::Failed
    } else if dropped.left.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Unknown
    })
}

fn dead_chunks(index: &ChunkIndex, needed: &Live) -> Vec<(ChunkId, Role)> {
    index.iter().filter(|(id, role)| !needed.contains(id, *role)).collect()
}

fn named_counts(
    config: &config::Dataset,
    requests: &[&Request],
    counts: &Tally,
) -> BTreeMap<String, BTreeMap<String, crate::engine::event::Counts>> {
    requests
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let by_collection = counts
                .get(&i)
                .into_iter()
                .flatten()
                .filter_map(|(c, n)| Some((config.map.collections.get(*c)?.name.clone(), *n)))
                .collect();
            (r.id.clone(), by_collection)
        })
        .collect()
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
        verification: Verdict::Unknown,
        left: Vec::new(),
        mode: mode.to_string(),
        notes: Vec::new(),
    }
}

fn unreadable(config: &config::Dataset, key: &str, error: &Error) -> ArchiveOutcome {
    ArchiveOutcome {
        dataset: config.name.clone(),
        archive: archive_of_key(key).unwrap_or(ArchiveId([0; 16])),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        before: (0, String::new()),
        after: (0, String::new()),
        requests: BTreeMap::new(),
        verification: Verdict::Unknown,
        left: vec![format!("{key}: {error}")],
        mode: config.erasure.mode.to_string(),
        notes: Vec::new(),
    }
}
