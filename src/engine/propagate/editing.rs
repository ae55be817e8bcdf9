//! Searching and editing one archive. Nothing that is stored before changes here: what the edit makes is sealed beside it.

use super::execute::Work;
use super::plan::{also_known, search};
use super::{People, Scope};
use crate::config;
use crate::engine::archive::OpenArchive;
use crate::engine::edit::{ArchiveEdit, Discarding, Known, Sealing, Sink, Tally, apply, tally};
use crate::engine::reseal::reseal;
use crate::engine::session::{Session, View};
use crate::engine::state::Request;
use crate::repository::ChunkWriter;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What a run edits the archives of a dataset with; several archives at a time.
pub(super) struct Editing<'e> {
    pub(super) session: &'e Session,
    pub(super) config: &'e config::Dataset,
    pub(super) view: &'e View,
    pub(super) people: &'e People,
    pub(super) requests: &'e [&'e Request],
    pub(super) writer: &'e ChunkWriter,
    /// The run's number.
    pub(super) started: u64,
    pub(super) scope: Scope,
}

impl Editing<'_> {
    /// Searches and edits one archive for as many of the requests as can be carried out on it: one that cannot must not hold up the others.
    pub(super) fn prepare(&self, work: &mut Work, known: &mut Known) -> Result<()> {
        let Editing { session, config, view, people, requests, writer, .. } = self;
        let archive = view.open(&work.old.head);
        let mut sealing = Sealing::new(writer);
        let mut attempt = self.attempt(&archive, &work.requests, known, &mut sealing);
        if attempt.as_ref().is_err_and(is_about_the_archive) && work.requests.len() > 1 {
            let mut able = Vec::new();
            for i in &work.requests {
                match self.attempt(&archive, &[*i], &mut Known::default(), &mut Discarding) {
                    Ok(_) => able.push(*i),
                    Err(e) if is_about_the_archive(&e) => {
                        work.outcome.left.push(people.withhold(&format!("request {}: {e}", requests[*i].id)))
                    }
                    Err(e) => return Err(e),
                }
            }
            work.requests = able;
            if work.requests.is_empty() {
                return Ok(());
            }
            attempt = self.attempt(&archive, &work.requests, known, &mut sealing);
        }
        match attempt {
            Ok(done) => {
                let mine: Vec<&Request> = work.requests.iter().map(|i| requests[*i]).collect();
                work.outcome.requests = named_counts(config, &mine, &done.counts);
                work.outcome.left.extend(done.left.iter().map(|t| people.withhold(t)));
                work.outcome.notes.extend(done.notes.iter().map(|t| people.withhold(t)));
                for ((who, kind), n) in done.also_known {
                    if let Some(r) = mine.get(who) {
                        work.also_known.insert((r.id.clone(), kind), n);
                    }
                }
                if !done.edit.is_empty() {
                    work.new =
                        Some(reseal(&archive, &work.old, &done.edit, &view.dataset, writer, self.started, sealing.stored, &session.env)?);
                }
                work.edit = done.edit;
                work.missing = done.missing;
            }
            Err(e) if is_about_the_archive(&e) => {
                work.outcome.left.push(people.withhold(&e.to_string()));
                work.requests.clear();
            }
            Err(e) => return Err(e),
        }
        work.outcome.notes.sort();
        work.outcome.notes.dedup();
        Ok(())
    }

    fn attempt(&self, archive: &OpenArchive, chosen: &[usize], known: &mut Known, sink: &mut dyn Sink) -> Result<Attempt> {
        let Editing { session, config, view, .. } = self;
        let people = self.people.only(chosen);
        let searched = search(session, config, view, archive, &people, self.scope)?;
        // With the record its number is gone, and nobody could tell any more what refers to it.
        if let Some(hidden) = searched.matches.hidden.iter().find(|h| h.reference) {
            return Err(Error::Refused(format!("{}; nothing was changed", hidden.describe())));
        }
        let counts = tally(&searched.matches, &searched.decided);
        let missing = searched.matches.missing.clone();
        let left = searched.matches.failed.iter().map(|(entry, why)| format!("{entry}: {why}")).collect();
        let mut notes: Vec<String> = Vec::new();
        notes.extend(
            searched.matches.fell_back.iter().map(|e| format!("{e}: read as a whole, since its identity blocks do not cover the data map")),
        );
        let grounds: BTreeSet<&String> = searched.decided.iter().filter_map(|d| d.ground.as_ref()).collect();
        notes.extend(grounds.into_iter().map(|g| format!("kept: {g}")));
        let also_known = also_known(config, &people, &searched);
        let edit = apply(&config.map, searched.bound, searched.matches, searched.decided, known, sink)?;
        notes.extend(edit.notes.iter().cloned());
        Ok(Attempt { edit, counts, left, notes, also_known, missing })
    }
}

/// Errors that concern one archive or entry; others (the store, Ctrl-C) end the run.
fn is_about_the_archive(e: &Error) -> bool {
    matches!(e, Error::Refused(_) | Error::Format { .. } | Error::Damaged { .. } | Error::Sqlite { .. } | Error::Verification(_))
}

struct Attempt {
    edit: ArchiveEdit,
    counts: Tally,
    left: Vec<String>,
    notes: Vec<String>,
    also_known: BTreeMap<(usize, String), u64>,
    missing: Vec<(Vec<u8>, Vec<String>)>,
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
