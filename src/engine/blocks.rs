//! Identity blocks of a run: thirty nights share most of theirs, so each is opened once for all archives, and what a set of tokens was
//! found to have in it (mostly nothing) is remembered. Bounded in bytes; beyond the bound blocks are opened again each time.

use crate::Result;
use crate::datamap::{Fingerprint, Tokens};
use crate::format::Marks;
use crate::format::marks::Summary;
use crate::format::text_filter::WantedText;
use crate::repository::ChunkReader;
use crate::repository::entry::{ChunkId, Role};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Blocks that are opened together: they lie in packs of their own, so many come with one read.
const AHEAD: usize = 256;

/// What a remembered block costs besides its tokens, in bytes.
const SLOT: usize = 64;

/// See the module. Shared by the archives of a run, and by the search before an edit and the one after it: a block's name is a keyed
/// hash of its contents, so what was found in it holds wherever it is named.
pub struct MarksCache {
    inner: Mutex<Inner>,
    /// Blocks that were being opened were opened, or were not.
    opened: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Inner {
    /// Numbers the blocks met.
    slots: HashMap<ChunkId, u32, ById>,
    blocks: Vec<Block>,
    /// By what was asked, for each block: 0 not known, 1 none of it, 2 some.
    answers: HashMap<Question, Vec<u8>>,
    bytes: usize,
}

/// What is known of a block.
#[derive(Default, Clone)]
enum Block {
    #[default]
    Closed,
    /// Somebody is opening it.
    Opening,
    Open(Arc<Summary>),
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

/// Which tokens for which probe, or (no probe) which features of text.
type Question = (Fingerprint, Option<u16>);

/// Whether records could not be read: no set of tokens or features is as large.
const MALFORMED: Question = ((usize::MAX, [0; 16]), None);

/// What answers it.
type Holds<'h> = dyn Fn(&Summary) -> bool + Sync + 'h;

/// A block to be asked: its place among the blocks asked about, itself, its number if it has one.
#[derive(Clone, Copy)]
struct Asked {
    place: usize,
    id: ChunkId,
    slot: Option<usize>,
}

/// The blocks of an entry's pieces, with the numbers under which the cache knows them.
pub struct EntryBlocks(Vec<Numbered>);

#[derive(Clone, Copy)]
enum Numbered {
    /// The piece has no block.
    Missing,
    Block(u32),
    /// There is no room to remember anything of it.
    Unknown,
}

impl MarksCache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<MarksCache> {
        Arc::new(MarksCache { inner: Mutex::default(), opened: Condvar::new(), limit })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks the blocks of an entry's pieces up, once for all questions.
    pub fn blocks(&self, ids: impl Iterator<Item = Option<ChunkId>>) -> EntryBlocks {
        let mut inner = self.lock();
        let number = |id: Option<ChunkId>| {
            let Some(id) = id else { return Numbered::Missing };
            if let Some(slot) = inner.slots.get(&id) {
                return Numbered::Block(*slot);
            }
            if inner.bytes + SLOT > self.limit {
                return Numbered::Unknown;
            }
            let slot = inner.blocks.len() as u32;
            inner.slots.insert(id, slot);
            inner.blocks.push(Block::Closed);
            inner.bytes += SLOT;
            Numbered::Block(slot)
        };
        EntryBlocks(ids.map(number).collect())
    }

    /// Places of those blocks that may have a wanted token for the probe, in order. Where there is no block, it may. `id_of` gives the
    /// block of a piece that has one.
    pub fn candidates(
        &self,
        reader: &ChunkReader,
        blocks: &EntryBlocks,
        id_of: &dyn Fn(usize) -> Option<ChunkId>,
        probe: u16,
        wanted: &dyn Tokens,
    ) -> Result<Vec<usize>> {
        let holds = |block: &Summary| block.of_probe(probe).any(|list| wanted.any_short(list));
        self.search(reader, blocks, id_of, (wanted.fingerprint(), Some(probe)), &holds)
    }

    /// Places of those blocks whose records' texts may mention the person, in order. Where there is no block, they may.
    pub fn mentioning(
        &self,
        reader: &ChunkReader,
        blocks: &EntryBlocks,
        id_of: &dyn Fn(usize) -> Option<ChunkId>,
        wanted: &WantedText,
    ) -> Result<Vec<usize>> {
        self.search(reader, blocks, id_of, (wanted.fingerprint(), None), &|block| wanted.may_be_in(block.text.as_deref()))
    }

    /// Places of those blocks whose pieces have records that could not be read, in order; pieces without a block are among them.
    pub fn malformed(&self, reader: &ChunkReader, blocks: &EntryBlocks, id_of: &dyn Fn(usize) -> Option<ChunkId>) -> Result<Vec<usize>> {
        self.search(reader, blocks, id_of, MALFORMED, &|block| block.malformed > 0)
    }

    fn search(
        &self,
        reader: &ChunkReader,
        blocks: &EntryBlocks,
        id_of: &dyn Fn(usize) -> Option<ChunkId>,
        question: Question,
        holds: &Holds<'_>,
    ) -> Result<Vec<usize>> {
        let mut out = Vec::new();
        let mut open: Vec<Asked> = Vec::new();
        {
            let inner = self.lock();
            let answers = inner.answers.get(&question).map(Vec::as_slice).unwrap_or_default();
            for (place, block) in blocks.0.iter().enumerate() {
                let slot = match block {
                    Numbered::Missing => {
                        out.push(place);
                        continue;
                    }
                    Numbered::Block(slot) => Some(*slot as usize),
                    Numbered::Unknown => None,
                };
                match slot.and_then(|s| answers.get(s)) {
                    Some(1) => {}
                    Some(2) => out.push(place),
                    _ => match id_of(place) {
                        Some(id) => open.push(Asked { place, id, slot }),
                        None => out.push(place),
                    },
                }
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(open.len().div_ceil(AHEAD)).max(1);
        let share = open.len().div_ceil(threads).max(1);
        let found: Vec<Result<Vec<(Asked, bool)>>> = std::thread::scope(|scope| {
            let ask = |asked: &[Asked]| asked.chunks(AHEAD).map(|batch| self.ask(reader, batch, holds)).collect::<Result<Vec<_>>>();
            let mut shares = open.chunks(share);
            let mine = shares.next();
            let others: Vec<_> = shares.map(|asked| scope.spawn(move || ask(asked))).collect();
            let mut all = vec![mine.map_or_else(|| Ok(Vec::new()), ask)];
            all.extend(others.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(crate::Error::Interrupted("a worker stopped".into())))));
            all.into_iter().map(|r| r.map(|batches| batches.into_iter().flatten().collect())).collect()
        });
        let mut inner = self.lock();
        let known = inner.blocks.len();
        let fresh = !inner.answers.contains_key(&question);
        // A bit of memory for each set asked about; when there is none left, nothing more is remembered.
        let remember = !fresh || inner.bytes + known <= self.limit;
        if fresh && remember {
            inner.bytes += known;
        }
        for (asked, holds) in found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            if holds {
                out.push(asked.place);
            }
            if let Some(slot) = asked.slot.filter(|_| remember) {
                let answers = inner.answers.entry(question).or_default();
                if answers.len() <= slot {
                    answers.resize(known.max(slot + 1), 0);
                }
                if let Some(answer) = answers.get_mut(slot) {
                    *answer = 1 + u8::from(holds);
                }
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Asks a batch of blocks, opening those that were not yet. What another thread is opening is waited for: the archives of a run ask about
    /// the same blocks at the same time.
    fn ask(&self, reader: &ChunkReader, batch: &[Asked], holds: &Holds<'_>) -> Result<Vec<(Asked, bool)>> {
        let mut out = Vec::with_capacity(batch.len());
        let mut left: Vec<Asked> = batch.to_vec();
        while !left.is_empty() {
            let (mut mine, mut theirs, mut open) = (Vec::new(), Vec::new(), Vec::new());
            {
                let mut inner = self.lock();
                for asked in left {
                    match asked.slot.and_then(|s| inner.blocks.get_mut(s)) {
                        Some(Block::Open(block)) => open.push((asked, block.clone())),
                        Some(Block::Opening) => theirs.push(asked),
                        Some(closed) => {
                            *closed = Block::Opening;
                            mine.push(asked);
                        }
                        None => mine.push(asked),
                    }
                }
            }
            self.open(reader, mine, &mut open)?;
            out.extend(open.into_iter().map(|(asked, block)| (asked, holds(&block))));
            left = theirs;
            self.wait(&left);
        }
        Ok(out)
    }

    /// Opens blocks that this thread has claimed; whatever happens, it claims none of them afterwards.
    fn open(&self, reader: &ChunkReader, mine: Vec<Asked>, open: &mut Vec<(Asked, Arc<Summary>)>) -> Result<()> {
        if mine.is_empty() {
            return Ok(());
        }
        let claims = Claims { cache: self, slots: mine.iter().filter_map(|asked| asked.slot).collect() };
        let ids: Vec<(ChunkId, Role)> = mine.iter().map(|asked| (asked.id, Role::Marks)).collect();
        let from = open.len();
        reader.each(&ids, |n, read| {
            let block = Arc::new(Marks::summary(read?)?);
            if let Some(asked) = mine.get(n) {
                open.push((*asked, block));
            }
            Ok(())
        })?;
        let mut inner = self.lock();
        for (asked, block) in open.iter().skip(from) {
            let cost = block.memory();
            if inner.bytes + cost > self.limit {
                continue;
            }
            if let Some(place) = asked.slot.and_then(|s| inner.blocks.get_mut(s)) {
                *place = Block::Open(block.clone());
                inner.bytes += cost;
            }
        }
        drop(inner);
        drop(claims);
        Ok(())
    }

    /// Until none of these is being opened by anybody.
    fn wait(&self, theirs: &[Asked]) {
        let mut inner = self.lock();
        for asked in theirs {
            while asked.slot.and_then(|s| inner.blocks.get(s)).is_some_and(|b| matches!(b, Block::Opening)) {
                inner = self.opened.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Blocks that a thread said it would open. Those that it has not opened, others may.
struct Claims<'c> {
    cache: &'c MarksCache,
    slots: Vec<usize>,
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        for slot in &self.slots {
            if let Some(block @ Block::Opening) = inner.blocks.get_mut(*slot) {
                *block = Block::Closed;
            }
        }
        drop(inner);
        self.cache.opened.notify_all();
    }
}
