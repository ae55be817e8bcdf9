//! What every verb works with: the configuration, the opened repository, the ledger, and whoever acts.

use super::archive::OpenArchive;
use super::blocks::MarksCache;
use super::event::Event;
use super::state::{Request, State};
use crate::catalog::Catalog;
use crate::config::{self, Config};
use crate::env::Env;
use crate::repository::entry::{ChunkId, Entry};
use crate::repository::{ArchiveId, ChunkIndex, ChunkReader, Dataset, Head, Heads, Ledger, ListChunk, Listed, Repository};
use crate::store::fault::Counting;
use crate::store::{Requests, Store};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often a reader tries, when archives are sealed anew under its feet each time.
pub const ATTEMPTS: u32 = 5;

/// What is wrong with an archive of which there should be a head.
pub const NO_HEAD: &str = "the ledger knows this archive, but its head is not in the store";

/// An opened workplace.
pub struct Session {
    /// The configuration.
    pub config: Config,
    /// The repository.
    pub repo: Arc<Repository>,
    /// Time, randomness, stop, monitor.
    pub env: Env,
    /// Named in the audit log.
    pub actor: String,
    /// The local witness.
    pub catalog: Catalog,
    /// Count what passes to and from the stores.
    pub meters: Vec<Arc<Counting>>,
    ledger: Mutex<Ledger>,
    /// What the ledger said when somebody asked last.
    state: Mutex<Arc<State>>,
}

/// A dataset's chunks, ready to read.
#[derive(Clone)]
pub struct View {
    /// Keys.
    pub dataset: Arc<Dataset>,
    /// Where its chunks are.
    pub index: Arc<ChunkIndex>,
    /// Opens them.
    pub reader: Arc<ChunkReader>,
    /// Decoded identity blocks.
    pub marks: Arc<MarksCache>,
    /// Which entries the data map names.
    pub named: Arc<NamedEntries>,
}

/// By list chunk, the places of the entries that a collection of the data map names: nights share most of their list chunks.
#[derive(Default)]
pub struct NamedEntries(Mutex<HashMap<ChunkId, Arc<[usize]>>>);

impl NamedEntries {
    /// Of this list chunk; `is_named` is always asked about the same map.
    pub fn of(&self, list: &ListChunk, is_named: impl Fn(&Entry) -> bool) -> Arc<[usize]> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known().get(&list.reference.id) {
            return places.clone();
        }
        let places = list.entries.iter().enumerate().filter(|(_, entry)| is_named(entry)).map(|(n, _)| n);
        let places: Arc<[usize]> = places.collect();
        known().insert(list.reference.id, places.clone());
        places
    }
}

/// Requests and bytes, by kind, of all stores together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests; for a folder, calls.
    pub requests: Requests,
    /// Ranges wiped in place.
    pub wipes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes wiped in place.
    pub bytes_wiped: u64,
}

impl Traffic {
    /// What came after `before`.
    pub fn since(&self, before: &Traffic) -> Traffic {
        let (a, b) = (&self.requests, &before.requests);
        Traffic {
            requests: Requests {
                get: a.get - b.get,
                head: a.head - b.head,
                put: a.put - b.put,
                list: a.list - b.list,
                delete: a.delete - b.delete,
                other: a.other - b.other,
                again: a.again - b.again,
            },
            wipes: self.wipes - before.wipes,
            bytes_read: self.bytes_read - before.bytes_read,
            bytes_written: self.bytes_written - before.bytes_written,
            bytes_wiped: self.bytes_wiped - before.bytes_wiped,
        }
    }
}

impl View {
    /// An archive for reading.
    pub fn open(&self, head: &Head) -> OpenArchive {
        OpenArchive { head: head.clone(), reader: self.reader.clone() }
    }
}

impl Session {
    /// Opens the ledger and compares the repository with what was seen before.
    pub fn new(
        config: Config,
        repo: Arc<Repository>,
        catalog: Catalog,
        actor: String,
        env: Env,
        meters: Vec<Arc<Counting>>,
    ) -> Result<Session> {
        let mut ledger = Ledger::load(&repo)?;
        if catalog.witness_ledger(&ledger).is_err() {
            // Another process may have recorded, and witnessed, something since it was read.
            ledger.catch_up()?;
            catalog.witness_ledger(&ledger)?;
        }
        Ok(Session { config, repo, env, actor, catalog, meters, ledger: Mutex::new(ledger), state: Mutex::default() })
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger folded.
    pub fn state(&self) -> Result<Arc<State>> {
        let ledger = self.ledger();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.seq != ledger.head().0 {
            Arc::make_mut(&mut state).follow(ledger.entries())?;
        }
        Ok(state.clone())
    }

    /// Records an event; its sequence number.
    pub fn record(&self, event: &Event) -> Result<u64> {
        self.record_as(&self.actor, event)
    }

    /// Records one of several things; after the last one [`Session::witness`] is called.
    pub fn record_one(&self, event: &Event) -> Result<()> {
        self.ledger().append(&self.actor, event).map(drop)
    }

    /// Remembers how far the ledger goes.
    pub fn witness(&self) -> Result<()> {
        self.catalog.witness_ledger(&self.ledger())
    }

    /// Records what somebody else did.
    pub fn record_as(&self, actor: &str, event: &Event) -> Result<u64> {
        let mut ledger = self.ledger();
        let seq = ledger.append(actor, event)?;
        self.catalog.witness_ledger(&ledger)?;
        Ok(seq)
    }

    /// What readers stand on: names of heads and of key sheets. When it has changed, a reader may have lost the ground under its feet.
    pub fn standing(&self) -> Result<BTreeSet<String>> {
        let location = self.repo.location();
        let (heads, sheets) = (location.data.list("archives/")?, location.keys.list("sheets/")?);
        Ok(heads.into_iter().chain(sheets).map(|o| o.key).collect())
    }

    /// Reads, and reads again when it went wrong and archives were sealed anew or removed meanwhile: readers need no lease, and a writer
    /// destroys the keys of what it replaced. `read` is told how many attempts there were before; `flawed` finds what went wrong without an error.
    pub fn reading<T>(&self, flawed: impl Fn(&T) -> bool, mut read: impl FnMut(u32) -> Result<T>) -> Result<T> {
        let mut attempt = 0;
        loop {
            let before = self.standing()?;
            let result = read(attempt);
            let wrong = match &result {
                Ok(value) => flawed(value),
                Err(Error::Interrupted(_) | Error::Usage(_) | Error::Io { .. }) => false,
                Err(_) => true,
            };
            attempt += 1;
            if !wrong || attempt >= ATTEMPTS || self.standing()? == before {
                return result;
            }
            self.ledger().catch_up()?;
            self.env.monitor.detail("archives were sealed anew while they were read; reading again");
        }
    }

    /// What passed to and from the stores so far.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for meter in &self.meters {
            let c = meter.counts();
            sum.bytes_read += c.bytes_read;
            sum.bytes_written += c.bytes_written;
            sum.bytes_wiped += c.bytes_wiped;
            // A service's own figures: one call of ours may be several requests.
            let r = meter.requests().unwrap_or(Requests {
                get: c.gets + c.ranges,
                put: c.puts,
                list: c.lists,
                delete: c.deletes,
                ..Requests::default()
            });
            sum.requests.get += r.get;
            sum.requests.head += r.head;
            sum.requests.put += r.put;
            sum.requests.list += r.list;
            sum.requests.delete += r.delete;
            sum.requests.other += r.other;
            sum.requests.again += r.again;
            sum.wipes += c.wipes;
        }
        sum
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// A dataset's configuration.
    pub fn dataset_config(&self, name: &str) -> Result<&config::Dataset> {
        self.config.datasets.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.config.datasets.keys().map(String::as_str).collect();
            Error::Usage(format!("no dataset {name:?} in the configuration; it has {}", known.join(", ")))
        })
    }

    /// The datasets named, or all of them.
    pub fn datasets_named(&self, names: &[String]) -> Result<Vec<&config::Dataset>> {
        if names.is_empty() {
            return Ok(self.config.datasets.values().collect());
        }
        names.iter().map(|n| self.dataset_config(n)).collect()
    }

    /// The keys of a dataset; fails when nothing was ever backed up of it, and with `Damaged` when something was and the keys are gone.
    pub fn dataset(&self, name: &str) -> Result<Arc<Dataset>> {
        if let Some(dataset) = self.repo.dataset(name)? {
            return Ok(dataset);
        }
        self.refuse_lost_keys(name)?;
        Err(Error::Usage(format!("dataset {name:?} has no archives yet; make one with: reseal backup {name}")))
    }

    /// Whether there are archives of a dataset, or were; fails with `Damaged` when there are and its keys are gone. Who is asked about people
    /// must not take that for "nothing".
    pub fn is_backed_up(&self, name: &str) -> Result<bool> {
        match self.repo.dataset(name)? {
            Some(_) => Ok(true),
            None => self.refuse_lost_keys(name).map(|()| false),
        }
    }

    /// The keys of a dataset, made when it is a new one. Never made anew for one that has archives: those could not be opened with them.
    pub fn create_dataset(&self, name: &str) -> Result<Arc<Dataset>> {
        self.is_backed_up(name)?;
        self.repo.create_dataset(name)
    }

    fn refuse_lost_keys(&self, name: &str) -> Result<()> {
        let state = self.state()?;
        let archives = state.archives.iter().filter(|((d, _), f)| d == name && !f.rotated && f.highest.is_some()).count();
        let detail = if archives > 0 {
            format!("it is missing, and without it none of the dataset's {archives} archives can be opened; put it back from a copy")
        } else if self.has_remains(name)? && self.repo.dataset(name)?.is_none() {
            "it is missing, and there are heads, key sheets or archives in the intake that cannot be opened without it; put it back from a copy".into()
        } else {
            return Ok(());
        };
        Err(Error::damaged(format!("datasets/{name}"), detail))
    }

    /// Whether something lies under a dataset's name that is only written when its keys are there. What is in the intake is in no ledger yet.
    fn has_remains(&self, name: &str) -> Result<bool> {
        let place = self.repo.location();
        Ok(!self.repo.pending(name)?.is_empty()
            || !place.data.list(&format!("archives/{name}/"))?.is_empty()
            || !place.keys.list(&format!("sheets/{name}/"))?.is_empty())
    }

    /// Names of the datasets that are stored, or that the ledger knows archives of.
    pub fn dataset_names(&self) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.repo.datasets()?.into_iter().collect();
        let state = self.state()?;
        names.extend(state.archives.iter().filter(|(_, f)| !f.rotated && f.highest.is_some()).map(|((d, _), _)| d.clone()));
        Ok(names.into_iter().collect())
    }

    /// Stored datasets that a request does not cover; an empty one that the configuration does not know is none.
    pub fn not_covered(&self, request: &Request) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for name in self.dataset_names()?.into_iter().filter(|name| !request.datasets.contains_key(name)) {
            if self.config.datasets.contains_key(&name) || self.is_unknown(&name)? {
                out.push(name);
            }
        }
        Ok(out)
    }

    /// Whether a dataset has archives and the configuration does not know it: renamed there or dropped from it, so that nobody looks into them.
    pub fn is_unknown(&self, name: &str) -> Result<bool> {
        if self.config.datasets.contains_key(name) {
            return Ok(false);
        }
        let is_known = self.state()?.archives.iter().any(|((d, _), f)| d == name && !f.rotated && f.highest.is_some());
        Ok(is_known || !self.repo.pending(name)?.is_empty() || !self.repo.location().data.list(&format!("archives/{name}/"))?.is_empty())
    }

    /// Archives that the ledger knows and the store does not have ([`NO_HEAD`]): neither rotated out nor damaged, but gone.
    pub fn missing_archives(&self, dataset: &str, heads: &Heads) -> Result<Vec<ArchiveId>> {
        let stored: Vec<ArchiveId> =
            heads.latest.iter().map(|l| l.head.archive).chain(heads.damaged.iter().filter_map(|(key, _)| archive_of_key(key))).collect();
        let state = self.state()?;
        let known = state.archives.iter().filter(|((d, _), f)| d == dataset && !f.rotated && f.highest.is_some());
        Ok(known.map(|((_, a), _)| *a).filter(|a| !stored.contains(a)).collect())
    }

    /// A dataset's chunks as the store has them now.
    pub fn view(&self, name: &str) -> Result<View> {
        self.view_with(name, MarksCache::new(self.config.memory as usize / 4))
    }

    /// The same, going on with what is known of identity blocks. Where chunks are, and their bytes, are read anew.
    pub fn view_with(&self, name: &str, marks: Arc<MarksCache>) -> Result<View> {
        let dataset = self.dataset(name)?;
        let index = self.repo.index(&dataset)?;
        Ok(self.view_of(dataset, index, marks))
    }

    /// For who adds to it: of what is there. Warns about packs that are not.
    pub fn view_to_add_to(&self, name: &str) -> Result<View> {
        let dataset = self.dataset(name)?;
        let (index, gone) = self.repo.index_of_what_is_there(&dataset)?;
        if gone > 0 {
            self.env.monitor.warn(&format!(
                "{name}: {gone} pack(s) that have a key sheet are not there: what they held is stored anew if the source still has it; reseal verify --read-data names the archives that need them"
            ));
        }
        Ok(self.view_of(dataset, index, MarksCache::new(self.config.memory as usize / 4)))
    }

    fn view_of(&self, dataset: Arc<Dataset>, index: Arc<ChunkIndex>, marks: Arc<MarksCache>) -> View {
        let reader = Arc::new(ChunkReader::new(&self.repo, &dataset, index.clone(), self.config.memory as usize / 16));
        View { dataset, index, reader, marks, named: Arc::default() }
    }

    /// A dataset's heads; warns about damaged ones and about superseded generations put back.
    pub fn heads(&self, dataset: &str) -> Result<Heads> {
        let mut heads = self.repo.heads(dataset)?;
        let state = self.state()?;
        let mut rolled_back = Vec::new();
        heads.latest.retain(|listed| {
            let facts = state.facts(dataset, &listed.head.archive);
            match &facts.highest {
                Some((generation, digest))
                    if listed.head.generation < *generation || (listed.head.generation == *generation && *digest != listed.digest) =>
                {
                    rolled_back.push((
                        listed.key.clone(),
                        Error::damaged(
                            &listed.key,
                            format!(
                                "generation {} is stored, but the ledger knows generation {generation}: an old copy was put back",
                                listed.head.generation
                            ),
                        ),
                    ));
                    false
                }
                _ => true,
            }
        });
        heads.damaged.extend(rolled_back);
        Ok(heads)
    }

    /// Finds an archive by `latest`, `DATASET@latest`, `DATASET@2026-11-01` (the last of that day or before its end), id or unique prefix.
    pub fn find_archive(&self, wanted: &str) -> Result<Listed> {
        let (dataset, wanted) = match wanted.split_once('@') {
            Some((d, w)) => (Some(d.to_string()), w),
            None => (None, wanted),
        };
        let names = match dataset {
            Some(d) => vec![d],
            None => self.dataset_names()?,
        };
        let mut all: Vec<Listed> = Vec::new();
        let mut damaged: Vec<(String, Error)> = Vec::new();
        let mut missing: Vec<ArchiveId> = Vec::new();
        for name in &names {
            let heads = self.heads(name)?;
            missing.extend(self.missing_archives(name, &heads)?);
            all.extend(heads.latest);
            damaged.extend(heads.damaged);
        }
        all.sort_by_key(|l| l.head.created_at);
        let is_id = wanted.len() >= 4 && wanted.bytes().all(|b| b.is_ascii_hexdigit());
        if wanted == "latest" {
            return match all.pop() {
                // A damaged head may have been the latest: say so rather than restore an older one silently.
                Some(last) => {
                    for (key, e) in &damaged {
                        self.env.monitor.warn(&format!("{key} was passed over: {e}"));
                    }
                    for archive in &missing {
                        self.env.monitor.warn(&format!("archive {archive} may be later: {NO_HEAD}"));
                    }
                    Ok(last)
                }
                None => Err(damaged
                    .into_iter()
                    .next()
                    .map_or_else(|| Error::Usage("there is no archive yet; make one with: reseal backup".into()), |(_, e)| e)),
            };
        }
        if let Some(day) = wanted.parse::<jiff::civil::Date>().ok().filter(|_| wanted.len() == 10) {
            let end = day
                .tomorrow()
                .and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC))
                .map(|z| z.timestamp())
                .map_err(|e| Error::Usage(format!("{wanted}: {e}")))?;
            return all
                .into_iter()
                .rfind(|l| l.head.created_at < end)
                .ok_or_else(|| Error::Usage(format!("no archive was made on or before {wanted} (reseal archives lists them)")));
        }
        if is_id {
            if let Some((_, e)) =
                damaged.into_iter().find(|(key, _)| key.rsplit('/').next().is_some_and(|k| k.starts_with(&wanted.to_lowercase())))
            {
                return Err(e);
            }
            let mut hits = all.into_iter().filter(|l| l.head.archive.to_string().starts_with(&wanted.to_lowercase()));
            return match (hits.next(), hits.next()) {
                (Some(l), None) => Ok(l),
                (Some(_), Some(_)) => Err(Error::Usage(format!("archive {wanted:?} is not unique; give more of its id (reseal archives)"))),
                _ => Err(Error::Usage(format!("no archive {wanted:?} (reseal archives lists them)"))),
            };
        }
        Err(Error::Usage(format!(
            "{wanted:?} names no archive; give an id, a unique prefix of at least 4 digits, latest, DATASET@latest or DATASET@2026-11-01"
        )))
    }

    /// An archive by id.
    pub fn listed(&self, dataset: &str, archive: &ArchiveId) -> Result<Option<Listed>> {
        Ok(self.heads(dataset)?.latest.into_iter().find(|l| l.head.archive == *archive))
    }
}

/// The archive that a head's key names.
pub fn archive_of_key(key: &str) -> Option<ArchiveId> {
    key.rsplit('/').next()?.split('.').next()?.parse().ok()
}
