//! Making an archive: the source is walked in archive order next to the latest archive's entry list, so that unchanged files are not even
//! opened; what is read is cut, hashed, and only what no archive has yet is compressed, sealed and stored.
//!
//! Order: packs → their sheets → head → ledger → catalog. Nothing names a chunk before it is durable. A source that fails as a whole
//! (a command's exit code, a database that cannot be read) leaves no archive; a file that vanishes, changes or cannot be read is reported.

mod assembly;
mod entries;
mod parent;
mod pipeline;
mod put;

use super::event::{Event, IdentityTokens};
use super::propagate::is_made_after;
use super::session::Session;
use super::state::{Request, State};
use crate::config::{self, Config, Source};
use crate::env::Env;
use crate::policy::State as Stage;
use crate::repository::entry::Tree;
use crate::repository::{ArchiveId, ChunkWriter, EntryListWriter, Head, Listed, WriteOptions};
use crate::source::walk::Severity;
use crate::{Error, Result};
use jiff::Timestamp;
pub use put::put_only;

use parent::{Parent, ParentArchive};
use pipeline::{Erased, Shared, with_workers};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a backup made.
#[derive(Debug, Clone)]
pub struct Report {
    /// The archive's head, as stored.
    pub head: Head,
    /// Its digest.
    pub digest: String,
    /// Entries by what happened: new, changed, unchanged.
    pub entries: EntryCounts,
    /// What could not be stored, or not in peace; worst first.
    pub problems: Vec<(Severity, String)>,
    /// Requests whose person the source still has.
    pub still_live: Vec<String>,
    /// Bytes of plaintext that were read.
    pub read_bytes: u64,
    /// Handed in by a put-only host: an archive once somebody with the full key admits it.
    pub pending: bool,
}

/// Entries by what happened to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Not in the archive before.
    pub new: u64,
    /// Read again.
    pub changed: u64,
    /// Taken over from the archive before.
    pub unchanged: u64,
}

impl Report {
    /// Whether something of the source is not in the archive.
    pub fn is_partial(&self) -> bool {
        !self.still_live.is_empty() || self.problems.iter().any(|(s, _)| *s == Severity::Lost)
    }
}

/// What goes into the head but is not read from the source.
struct Frame<'a> {
    config: &'a config::Dataset,
    tag: Option<String>,
    created_at: Timestamp,
}

/// Backs up one dataset.
pub fn backup(session: &Session, config: &config::Dataset, tag: Option<String>) -> Result<Report> {
    session.create_dataset(&config.name)?;
    let lease = session.repo.lease(&config.name, super::LEASE_TTL)?;
    super::intake::admit(session, config, &lease)?;
    let frame = Frame { config, tag, created_at: session.now() };
    let view = session.view_to_add_to(&config.name)?;
    let heads = session.heads(&config.name)?;
    for (key, e) in &heads.damaged {
        session.env.monitor.warn(&format!("{key}: {e}"));
    }
    // An archive from the future would be "latest" for ever; its entries may still be shared, chunk by chunk.
    let latest = heads.latest.iter().filter(|l| l.head.created_at <= frame.created_at).max_by_key(|l| l.head.created_at);
    if heads.latest.iter().any(|l| l.head.created_at > frame.created_at) {
        session.env.monitor.warn("an archive of this dataset is dated in the future; check the clock");
    }
    let parent = Parent::new(latest.map(|l| view.open(&l.head)), &config.map_digest)?;
    let options = WriteOptions { level: session.config.compression_level, ..WriteOptions::default() };
    let writer = ChunkWriter::new(&session.repo, &view.dataset, view.index.clone(), options).under(&lease);
    let state = session.state()?;
    let erased = erased_people(&state, &config.name, session.now());
    let shared = Shared {
        writer: &writer,
        dataset: &view.dataset,
        erased: Erased::new(erased.iter().map(|(_, t)| *t)),
        met: Mutex::new(latest.map_or_else(HashSet::new, |l| not_known_absent(&state, l, &erased))),
        stored: AtomicU64::new(0),
    };
    let (tree, totals) = seal_source(&session.config, &session.env, config, &shared, parent)?;
    writer.finish()?;
    session.env.stop.check("no archive was made; run the same command again")?;
    lease.check()?;
    let met: Vec<usize> = shared.met.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().copied().collect();
    let archive = ArchiveId::random(session.env.random.as_ref())?;
    let head = frame.head(archive, session.ledger().head().0, tree, &totals, &shared, session.now());
    crate::crash::step("backup: put head");
    let digest = session.repo.put_head(&head)?;
    // Before the archive is recorded: an archive that the ledger knows was looked through.
    let still_live = confirm_still_live(session, config, &head, &state, &erased, &met)?;
    session.record(&Event::ArchiveSealed {
        dataset: config.name.clone(),
        archive: head.archive,
        digest: digest.clone(),
        created_at: head.created_at,
        admitted: None,
    })?;
    session.repo.list_known(&view.dataset, &BTreeSet::new())?;
    Ok(report(head, digest, totals, still_live, false))
}

/// Walks the source and writes its chunks: the list of entries, and what it adds up to.
fn seal_source(
    whole: &Config,
    env: &Env,
    config: &config::Dataset,
    shared: &Shared<'_>,
    parent: ParentArchive,
) -> Result<(Tree, entries::Totals)> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16);
    with_workers(shared, workers, |pipeline| {
        let mut list = EntryListWriter::new(shared.writer, shared.dataset);
        let mut run = entries::Run::new(whole, env, config, pipeline, parent, shared.dataset.gear_seed());
        run.all(&mut |entry| list.push(&entry))?;
        Ok((list.finish()?, run.finish()))
    })
}

impl Frame<'_> {
    fn head(
        &self,
        archive: ArchiveId,
        ledger_epoch: u64,
        entries: Tree,
        totals: &entries::Totals,
        shared: &Shared<'_>,
        now: Timestamp,
    ) -> Head {
        Head {
            archive,
            dataset: self.config.name.clone(),
            generation: 1,
            created_at: self.created_at,
            sealed_at: now,
            tag: self.tag.clone(),
            ledger_epoch,
            entries,
            entry_count: totals.entries,
            source_bytes: totals.source_bytes,
            stored_bytes: shared.stored.load(Ordering::Relaxed),
            map_digest: self.config.map_digest.clone(),
            previous: None,
            tool: crate::TOOL.to_string(),
            source: source_word(&self.config.source).into(),
            warnings: totals.problems.iter().filter(|(s, _)| *s > Severity::Note).count() as u64,
        }
    }
}

fn report(head: Head, digest: String, totals: entries::Totals, still_live: Vec<String>, pending: bool) -> Report {
    let mut problems = totals.problems;
    problems.sort_by_key(|(s, _)| std::cmp::Reverse(*s));
    Report { head, digest, entries: totals.counts, problems, still_live, read_bytes: totals.read_bytes, pending }
}

/// The kind of a source, in a word.
pub(crate) fn source_word(source: &Source) -> &'static str {
    match source {
        Source::Paths { .. } => "paths",
        Source::Sqlite { .. } => "sqlite",
        Source::Command { .. } => "command",
        Source::Stdin { .. } => "stdin",
    }
}

/// People who were erased from the dataset and have not come back.
pub(super) fn erased_people<'a>(state: &'a State, dataset: &str, now: Timestamp) -> Vec<(&'a str, &'a [IdentityTokens])> {
    state
        .requests
        .iter()
        .filter(|r| r.effective_at.is_some_and(|e| e <= now) && r.came_back.is_none() && r.stage(now) != Stage::Cancelled)
        .filter_map(|r| Some((r.id.as_str(), r.datasets.get(dataset)?.as_slice())))
        .collect()
}

/// Erased people (by index) who may be in the archive before: then they may be in what is taken over from it unread, which no worker looks at.
fn not_known_absent(state: &State, parent: &Listed, erased: &[(&str, &[IdentityTokens])]) -> HashSet<usize> {
    let (dataset, archive) = (parent.head.dataset.as_str(), parent.head.archive);
    let absent = |request: &Request| {
        if is_made_after(state, parent, &[request]) {
            // Its own backup looked, unless it ended before it could record the archive.
            let looked = state.facts(dataset, &archive).sealed.is_some();
            looked && !request.still_live.iter().any(|(d, a, _)| d == dataset && *a == archive)
        } else {
            // Only what was verified counts: a run that ended may have left this archive as it was.
            state.was_processed(&request.id, &archive, &parent.digest)
        }
    };
    let known = |id: &str| state.request(id).is_ok_and(absent);
    erased.iter().enumerate().filter(|(_, (id, _))| !known(id)).map(|(i, _)| i).collect()
}

/// Short tokens may collide, and kept records may stay: looks properly before telling anybody that a person is still there.
pub(super) fn confirm_still_live(
    session: &Session,
    config: &config::Dataset,
    head: &Head,
    state: &State,
    erased: &[(&str, &[IdentityTokens])],
    met: &[usize],
) -> Result<Vec<String>> {
    if met.is_empty() {
        return Ok(Vec::new());
    }
    let view = session.view(&config.name)?;
    let chosen: Vec<(&str, &[IdentityTokens])> = met.iter().filter_map(|i| erased.get(*i)).copied().collect();
    let counts = super::subject::count_by_tokens(session, config, &view, head, &chosen.iter().map(|(_, t)| *t).collect::<Vec<_>>())?;
    let mut out = Vec::new();
    for ((request, _), records) in chosen.iter().zip(counts) {
        if records.values().sum::<u64>() == 0 || state.request(request).is_err() {
            continue;
        }
        let records: BTreeMap<String, u64> = records;
        session.record(&Event::StillLive { request: request.to_string(), dataset: config.name.clone(), archive: head.archive, records })?;
        out.push(request.to_string());
    }
    Ok(out)
}

/// Fails with a source's own words.
pub(crate) fn source_error(what: impl Into<String>, detail: impl std::fmt::Display) -> Error {
    Error::Source { what: what.into(), detail: detail.to_string() }
}
