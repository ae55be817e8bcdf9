//! Chunks out: fetched by range, opened, decompressed within their known length, and checked against their id, so that what a
//! reader hands out is what was backed up or nothing. A bounded cache serves the tops of trees and the pages of databases.

use super::bulk::{Reach, end, runs};
use super::dataset::Dataset;
use super::entry::{ChunkId, ChunkRef, Entry, Role};
use super::fetch::{hands, side_by_side};
use super::index::{ChunkIndex, Found};
use super::sheet::{pack_key, role_byte};
use super::{Repository, chunk};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Key = (ChunkId, u8);

/// Least recently used goes first; bounded in bytes.
struct Cache<K, V> {
    limit: usize,
    used: usize,
    clock: u64,
    /// With what each costs and when it was last used.
    entries: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    fn new(limit: usize) -> Cache<K, V> {
        Cache { limit, used: 0, clock: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    fn has(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let (value, _, used_at) = self.entries.get_mut(key)?;
        self.clock += 1;
        self.order.remove(used_at);
        self.order.insert(self.clock, *key);
        *used_at = self.clock;
        Some(value.clone())
    }

    fn put(&mut self, key: K, value: V, cost: usize) {
        if cost > self.limit || self.has(&key) {
            return;
        }
        self.clock += 1;
        self.used += cost;
        self.entries.insert(key, (value, cost, self.clock));
        self.order.insert(self.clock, key);
        while self.used > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((_, cost, _)) = self.entries.remove(&oldest) {
                self.used -= cost;
            }
        }
    }
}

/// A list chunk's entries.
pub(super) type List = Arc<[Arc<Entry>]>;
/// An index chunk's references.
pub(super) type Refs = Arc<[ChunkRef]>;

/// A chunk of an archive's structure, in the form that it is used in.
#[derive(Clone)]
enum Decoded {
    List(List),
    Refs(Refs),
}

/// Reads chunks of one dataset. Shared between threads.
pub struct ChunkReader {
    repository: Arc<Repository>,
    dataset: Arc<Dataset>,
    index: Arc<ChunkIndex>,
    cache: Mutex<Cache<Key, Arc<Vec<u8>>>>,
    /// The archives of a run share most of their list and index chunks, and each is gone over several times.
    decoded: Mutex<Cache<Key, Decoded>>,
    /// Memory that was read into, for the next read: fresh memory costs the kernel as much as reading.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// Spare pieces of memory that are kept.
const SPARE: usize = 2;

/// Reads at once that bring chunks into the cache: several threads may be at it, and each read takes its memory.
const AT_ONCE: usize = 4;

/// Bytes of memory that a byte of an encoded list takes when it is decoded, roughly.
const SWELL: usize = 4;
/// A reference takes this many, with its share of what holds them.
const REF: usize = std::mem::size_of::<ChunkRef>();

impl ChunkReader {
    /// A reader with a cache of at most `cache_bytes` of plaintext, and one of twice that for what lists and index chunks say.
    pub fn new(repository: &Arc<Repository>, dataset: &Arc<Dataset>, index: Arc<ChunkIndex>, cache_bytes: usize) -> ChunkReader {
        let (cache, decoded) = (Mutex::new(Cache::new(cache_bytes)), Mutex::new(Cache::new(2 * cache_bytes)));
        ChunkReader { repository: repository.clone(), dataset: dataset.clone(), index, cache, decoded, spare: Mutex::default() }
    }

    /// Its index.
    pub fn index(&self) -> &Arc<ChunkIndex> {
        &self.index
    }

    /// Its dataset.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Its repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Memory to read into.
    pub(super) fn room(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(super) fn keep(&self, room: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(room);
        }
    }

    fn structure(&self) -> MutexGuard<'_, Cache<Key, Decoded>> {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a list or index chunk needs not be read.
    pub(super) fn has_decoded(&self, id: &ChunkId, role: Role) -> bool {
        self.structure().has(&(*id, role_byte(role)))
    }

    /// A list chunk's entries.
    pub(super) fn list(&self, id: &ChunkId, decode: impl FnOnce(&[u8]) -> Result<List>) -> Result<List> {
        let key = (*id, role_byte(Role::Entries));
        if let Some(Decoded::List(entries)) = self.structure().get(&key) {
            return Ok(entries);
        }
        let bytes = self.read(id, Role::Entries)?;
        let entries = decode(&bytes)?;
        self.structure().put(key, Decoded::List(entries.clone()), bytes.len() * SWELL);
        Ok(entries)
    }

    /// An index chunk's references.
    pub(super) fn refs(&self, id: &ChunkId, decode: impl FnOnce(&[u8]) -> Result<Refs>) -> Result<Refs> {
        let key = (*id, role_byte(Role::Index));
        if let Some(Decoded::Refs(refs)) = self.structure().get(&key) {
            return Ok(refs);
        }
        let refs = decode(&self.read(id, Role::Index)?)?;
        self.structure().put(key, Decoded::Refs(refs.clone()), refs.len() * REF);
        Ok(refs)
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Key, Arc<Vec<u8>>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk's plaintext. Fails with [`Error::Damaged`], naming the pack, when it is not what was sealed; where the chunk lies
    /// in two packs, one of them is enough.
    pub fn read(&self, id: &ChunkId, role: Role) -> Result<Arc<Vec<u8>>> {
        let key = (*id, role_byte(role));
        if let Some(bytes) = self.cache().get(&key) {
            return Ok(bytes);
        }
        let mut failure = None;
        for found in self.index.find(id, role) {
            match self.fetch(found) {
                Ok(bytes) => {
                    let bytes = Arc::new(bytes);
                    self.cache().put(key, bytes.clone(), bytes.len());
                    return Ok(bytes);
                }
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| {
            let unread = self.index.damaged().len();
            let why = if unread == 0 { String::new() } else { format!(" ({unread} key sheets are damaged)") };
            Error::damaged(format!("chunk {id:?}"), format!("no key sheet of dataset {} has its key{why}", self.dataset.name()))
        }))
    }

    fn fetch(&self, found: Found<'_>) -> Result<Vec<u8>> {
        let key = pack_key(self.dataset.name(), &found.pack);
        let sealed = self.range(&key, &found.row.id, u64::from(found.row.offset), u64::from(found.row.stored))?;
        self.open(&key, found, sealed)
    }

    fn open(&self, key: &str, found: Found<'_>, sealed: Vec<u8>) -> Result<Vec<u8>> {
        chunk::open_body(self.repository.id(), &found.pack, found.row, sealed)
            .and_then(|body| chunk::decode_body(&self.dataset, found.row, body))
            .map_err(|detail| chunk::damaged(key, &found.row.id, detail))
    }

    fn range(&self, key: &str, id: &ChunkId, offset: u64, len: u64) -> Result<Vec<u8>> {
        use crate::store::StoreError;
        self.repository.location().data.get_range(key, offset, len).map_err(|e| match e {
            StoreError::Missing { .. } => chunk::damaged(key, id, "the pack is missing"),
            StoreError::Short { expected, actual, .. } => {
                chunk::damaged(key, id, &format!("the pack is {actual} bytes long, at least {expected} were expected"))
            }
            other => other.into(),
        })
    }

    /// Brings chunks into the cache with few reads: neighbours in a pack come together. Takes at most half of the cache, stops
    /// there, and is silent about failures: [`ChunkReader::read`] will meet them again.
    pub fn prefetch(&self, ids: &[(ChunkId, Role)]) {
        let mut budget = self.cache().limit as u64 / 2;
        let mut wanted: Vec<Found<'_>> = Vec::new();
        for (id, role) in ids {
            if self.cache().has(&(*id, role_byte(*role))) {
                continue;
            }
            let Some(found) = self.index.find(id, *role).next() else { continue };
            let Some(left) = budget.checked_sub(u64::from(found.row.len)) else { break };
            budget = left;
            wanted.push(found);
        }
        wanted.sort_by_key(|f| (f.pack, f.row.offset));
        wanted.dedup_by_key(|f| (f.pack, f.row.offset));
        let data = &*self.repository.location().data;
        let runs: Vec<_> = runs(&wanted, Reach::cached(data), |f| f).collect();
        // Where each read has its round trip they do not wait for each other.
        side_by_side(if data.is_remote() { hands(data).min(AT_ONCE) } else { 1 }, runs, |run| {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
            let start = u64::from(first.row.offset);
            let key = pack_key(self.dataset.name(), &first.pack);
            let Ok(bytes) = data.get_range(&key, start, end(last) - start) else { return };
            for found in run {
                let from = (u64::from(found.row.offset) - start) as usize;
                let Some(sealed) = bytes.get(from..from + found.row.stored as usize) else { continue };
                if let Ok(plain) = self.open(&key, *found, sealed.to_vec()) {
                    let cost = plain.len();
                    self.cache().put((found.row.id, role_byte(found.row.role)), Arc::new(plain), cost);
                }
            }
        });
    }
}
