//! Many chunks at once, in the order in which they lie: neighbours in a pack come with one read, are opened where they were read to, handed
//! out and forgotten. For whoever uses each chunk once (restoring, verifying): a cache would only be in the way, and memory is one read
//! and one chunk however much is asked for.

use super::chunk;
use super::entry::{ChunkId, Role};
use super::index::Found;
use super::read::ChunkReader;
use super::sheet::pack_key;
use crate::Result;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A read goes over gaps up to this many bytes rather than being two.
pub(super) const GAP: u64 = 64 << 10;
/// No single read is longer, in bytes.
pub(super) const RUN: u64 = 4 << 20;
/// The same over a network: services keep objects in blocks of some MiB, and read all of a block of which they send a part.
const FAR_RUN: u64 = 8 << 20;

/// Chunks that one thread reads before it looks for more.
const BATCH: usize = 128;

thread_local! {
    /// What chunks are decompressed into.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Splits what was found, sorted by place, into runs of at most `longest` bytes that are read at once.
pub(super) fn runs<'a, 'f, T>(wanted: &'a [T], longest: u64, found: impl Fn(&T) -> &Found<'f> + Copy) -> impl Iterator<Item = &'a [T]>
where
    'f: 'a,
{
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let start = u64::from(found(first).row.offset);
        let joins = |a: &Found<'_>, b: &Found<'_>| {
            b.pack == a.pack && u64::from(b.row.offset).saturating_sub(end(a)) <= GAP && end(b).saturating_sub(start) <= longest
        };
        let n = 1 + rest.windows(2).take_while(|w| matches!(w, [a, b] if joins(found(a), found(b)))).count();
        let (run, after) = rest.split_at(n.min(rest.len()));
        rest = after;
        Some(run)
    })
}

/// Where a chunk ends in its pack.
pub(super) fn end(found: &Found<'_>) -> u64 {
    u64::from(found.row.offset) + u64::from(found.row.stored)
}

impl ChunkReader {
    /// Reads chunks and hands out each with its number in `ids`, in whatever order; one that is named twice is handed out twice. What
    /// cannot be read is handed out as the error that [`ChunkReader::read`] gives. Ends with the first error that `take` gives.
    pub fn each(&self, ids: &[(ChunkId, Role)], mut take: impl FnMut(usize, Result<&[u8]>) -> Result<()>) -> Result<()> {
        let mut wanted: Vec<(Found<'_>, usize)> = Vec::with_capacity(ids.len());
        for (n, (id, role)) in ids.iter().enumerate() {
            match self.index().find(id, *role).next() {
                Some(found) => wanted.push((found, n)),
                None => self.one(id, *role, &mut |read| take(n, read))?,
            }
        }
        wanted.sort_by_key(|(f, n)| (f.pack, f.row.offset, *n));
        let longest = if self.repository().location().data.is_remote() { FAR_RUN } else { RUN };
        for run in runs(&wanted, longest, |(f, _)| f) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { break };
            let start = u64::from(first.row.offset);
            let key = pack_key(self.dataset().name(), &first.pack);
            // What cannot be read in one go is read one by one: that knows other packs, and words for what is wrong.
            let mut bytes = self.repository().location().data.get_range(&key, start, end(last) - start).unwrap_or_default();
            let mut rest = run;
            while let Some(((found, _), _)) = rest.split_first() {
                let same = rest.iter().take_while(|(f, _)| f.row.offset == found.row.offset).count().max(1);
                let (here, after) = rest.split_at(same.min(rest.len()));
                rest = after;
                let from = (u64::from(found.row.offset) - start) as usize;
                ROOM.with_borrow_mut(|room| {
                    let sealed = bytes.get_mut(from..from + found.row.stored as usize);
                    let opened = sealed.and_then(|sealed| {
                        chunk::open_in_place(self.repository().id(), self.dataset(), &found.pack, found.row, sealed, room).ok()
                    });
                    here.iter().try_for_each(|(_, n)| match opened {
                        Some(plain) => take(*n, Ok(plain)),
                        None => self.one(&found.row.id, found.row.role, &mut |read| take(*n, read)),
                    })
                })?;
            }
        }
        Ok(())
    }

    /// Like [`ChunkReader::each`], by as many threads as the store takes, pack by pack; at most until `stop` says so.
    pub fn each_parallel(&self, ids: &[(ChunkId, Role)], stop: &(dyn Fn() -> bool + Sync), take: &(dyn Fn(usize, Result<&[u8]>) + Sync)) {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        let place = |n: &usize| {
            let found = ids.get(*n).and_then(|(id, role)| self.index().find(id, *role).next());
            found.map(|f| (f.pack, f.row.offset))
        };
        order.sort_by_cached_key(place);
        let batches: Vec<&[usize]> = order.chunks(BATCH).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.repository().location().data.parallel().min(batches.len()) {
                scope.spawn(|| {
                    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !stop()) {
                        let these: Vec<_> = batch.iter().filter_map(|n| ids.get(*n).copied()).collect();
                        // `take` gives no error, so there is none.
                        let _ = self.each(&these, |n, read| {
                            if let Some(n) = batch.get(n) {
                                take(*n, read);
                            }
                            Ok(())
                        });
                    }
                });
            }
        });
    }

    fn one(&self, id: &ChunkId, role: Role, take: &mut dyn FnMut(Result<&[u8]>) -> Result<()>) -> Result<()> {
        match self.read(id, role) {
            Ok(bytes) => take(Ok(&bytes)),
            Err(e) => take(Err(e)),
        }
    }
}
