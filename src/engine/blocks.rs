//! Identity blocks of a run: thirty nights share most of theirs, so each is opened once for all archives, and what a set of tokens was
//! found to have in it (mostly nothing) is remembered. Bounded in bytes; beyond the bound blocks are opened again each time.

use crate::Result;
use crate::datamap::{Fingerprint, Tokens};
use crate::format::Marks;
use crate::format::marks::BlockTokens;
use crate::repository::ChunkReader;
use crate::repository::entry::{ChunkId, Role};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blocks that are opened together: they lie in packs of their own, so many come with one read.
const AHEAD: usize = 256;

/// What a remembered block costs besides its tokens, in bytes.
const SLOT: usize = 64;

/// See the module. Shared by the archives of a run, and by the search before an edit and the one after it: a block's name is a keyed
/// hash of its contents, so what was found in it holds wherever it is named.
pub struct MarksCache {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    /// Numbers the blocks met.
    slots: HashMap<ChunkId, u32, ById>,
    tokens: Vec<Option<Arc<BlockTokens>>>,
    /// By set of tokens and probe, for each block: 0 not known, 1 none of the set, 2 some.
    answers: HashMap<(Fingerprint, u16), Vec<u8>>,
    bytes: usize,
}

/// Chunk ids are keyed hashes already.
type ById = std::hash::BuildHasherDefault<FirstBytes>;

#[derive(Default)]
struct FirstBytes(u64);

impl std::hash::Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
}

/// A block to be asked: its place among the references asked about, itself, its number if it has one.
type Asked = (usize, ChunkId, Option<u32>);

impl MarksCache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<MarksCache> {
        Arc::new(MarksCache { inner: Mutex::default(), limit })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places of those blocks that may have a wanted token for the probe, in order. Where there is no block, it may.
    pub fn candidates(
        &self,
        reader: &ChunkReader,
        blocks: &mut dyn Iterator<Item = Option<ChunkId>>,
        probe: u16,
        wanted: &dyn Tokens,
    ) -> Result<Vec<usize>> {
        let question = (wanted.fingerprint(), probe);
        let mut out = Vec::new();
        let mut open: Vec<Asked> = Vec::new();
        {
            let mut inner = self.lock();
            let Inner { slots, tokens, answers, bytes } = &mut *inner;
            let mut answers = answers.get(&question);
            for (place, block) in blocks.enumerate() {
                let Some(id) = block else {
                    out.push(place);
                    continue;
                };
                let slot = match slots.get(&id) {
                    Some(slot) => Some(*slot),
                    None if *bytes + SLOT <= self.limit => {
                        let slot = tokens.len() as u32;
                        slots.insert(id, slot);
                        tokens.push(None);
                        *bytes += SLOT;
                        Some(slot)
                    }
                    None => None,
                };
                match slot.and_then(|s| answers.as_mut()?.get(s as usize)) {
                    Some(1) => {}
                    Some(2) => out.push(place),
                    _ => open.push((place, id, slot)),
                }
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(open.len().div_ceil(AHEAD)).max(1);
        let share = open.len().div_ceil(threads).max(1);
        let found: Vec<Result<Vec<(Asked, bool)>>> = std::thread::scope(|scope| {
            let ask = |asked: &[Asked]| asked.chunks(AHEAD).map(|batch| self.ask(reader, batch, probe, wanted)).collect::<Result<Vec<_>>>();
            let mut shares = open.chunks(share);
            let mine = shares.next();
            let others: Vec<_> = shares.map(|asked| scope.spawn(move || ask(asked))).collect();
            let mut all = vec![mine.map_or_else(|| Ok(Vec::new()), ask)];
            all.extend(others.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(crate::Error::Interrupted("a worker stopped".into())))));
            all.into_iter().map(|r| r.map(|batches| batches.into_iter().flatten().collect())).collect()
        });
        let mut inner = self.lock();
        let known = inner.tokens.len();
        let fresh = !inner.answers.contains_key(&question);
        // A bit of memory for each set asked about; when there is none left, nothing more is remembered.
        let remember = !fresh || inner.bytes + known <= self.limit;
        if fresh && remember {
            inner.bytes += known;
        }
        for (asked, holds) in found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            if holds {
                out.push(asked.0);
            }
            if let Some(slot) = asked.2.filter(|_| remember) {
                let answers = inner.answers.entry(question).or_default();
                if answers.len() <= slot as usize {
                    answers.resize(known.max(slot as usize + 1), 0);
                }
                if let Some(answer) = answers.get_mut(slot as usize) {
                    *answer = 1 + u8::from(holds);
                }
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Asks a batch of blocks, opening those that were not yet.
    fn ask(&self, reader: &ChunkReader, batch: &[Asked], probe: u16, wanted: &dyn Tokens) -> Result<Vec<(Asked, bool)>> {
        let known: Vec<Option<Arc<BlockTokens>>> = {
            let inner = self.lock();
            batch.iter().map(|(_, _, slot)| inner.tokens.get((*slot)? as usize)?.clone()).collect()
        };
        let unknown: Vec<_> = batch.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|((_, id, _), _)| (*id, Role::Marks)).collect();
        if unknown.len() > 1 {
            reader.prefetch(&unknown);
        }
        let mut out = Vec::with_capacity(batch.len());
        for (asked, known) in batch.iter().zip(known) {
            let tokens = match known {
                Some(tokens) => tokens,
                None => {
                    let tokens = Arc::new(Marks::tokens(&reader.read(&asked.1, Role::Marks)?)?);
                    self.keep(asked.2, &tokens);
                    tokens
                }
            };
            out.push((*asked, tokens.iter().any(|(p, list)| *p == probe && wanted.any_short(list))));
        }
        Ok(out)
    }

    fn keep(&self, slot: Option<u32>, tokens: &Arc<BlockTokens>) {
        let cost = tokens.iter().map(|(_, list)| 32 + list.len() * 4).sum::<usize>();
        let mut inner = self.lock();
        if inner.bytes + cost > self.limit {
            return;
        }
        if let Some(place) = slot.and_then(|s| inner.tokens.get_mut(s as usize))
            && place.replace(tokens.clone()).is_none()
        {
            inner.bytes += cost;
        }
    }
}
