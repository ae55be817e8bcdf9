//! Many chunks at once, in the order in which they lie: neighbours in a pack come with one read, are opened where they were read to, handed
//! out and forgotten. For whoever uses each chunk once (restoring, verifying): a cache would only be in the way, and memory is one read
//! and one chunk however much is asked for.

use super::chunk;
use super::entry::{ChunkId, Role};
use super::index::Found;
use super::read::ChunkReader;
use super::sheet::pack_key;
use crate::Result;
use crate::store::Store;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A read goes over gaps up to this many bytes rather than being two.
pub(super) const GAP: u64 = 64 << 10;

/// What one read brings, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    /// It goes over gaps up to this rather than being two.
    gap: u64,
    /// It is not longer.
    longest: u64,
}

impl Reach {
    /// In a folder, and of what is read in one thread.
    const NEAR: Reach = Reach { gap: GAP, longest: 4 << 20 };
    /// Where each request has its price: a full pack is two reads, and not two and a little one.
    const FAR: Reach = Reach { gap: 256 << 10, longest: 9 << 20 };
    /// The same for what several threads bring into a cache.
    const FAR_CACHED: Reach = Reach { gap: 256 << 10, longest: 2 << 20 };

    pub(super) fn cached(store: &dyn Store) -> Reach {
        if store.is_remote() { Reach::FAR_CACHED } else { Reach::NEAR }
    }

    fn of(store: &dyn Store) -> Reach {
        if store.is_remote() { Reach::FAR } else { Reach::NEAR }
    }

    /// Whether a read that begins at `start` and ends with one chunk goes on to the next one.
    fn joins(self, a: &Found<'_>, b: &Found<'_>, start: u64) -> bool {
        let gap = u64::from(b.row.offset).saturating_sub(end(a));
        b.pack == a.pack && gap <= self.gap && end(b).saturating_sub(start) <= self.longest
    }
}

/// Chunks that one thread reads before it looks for more.
const BATCH: usize = 128;
/// The same where each request has its price: as many as small files are written at once.
const FAR_BATCH: usize = 1024;
/// Sealed bytes that one thread reads before it looks for more, at least, where that many are left.
const ENOUGH: u64 = 4 << 20;

thread_local! {
    /// What chunks are decompressed into.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Splits what was found, sorted by place, into runs that are read at once.
pub(super) fn runs<'a, 'f, T>(wanted: &'a [T], reach: Reach, found: impl Fn(&T) -> &Found<'f> + Copy) -> impl Iterator<Item = &'a [T]>
where
    'f: 'a,
{
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let start = u64::from(found(first).row.offset);
        let n = 1 + rest.windows(2).take_while(|w| matches!(w, [a, b] if reach.joins(found(a), found(b), start))).count();
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
        let data = &*self.repository().location().data;
        let mut bytes = self.room();
        for run in runs(&wanted, Reach::of(data), |(f, _)| f) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { break };
            let start = u64::from(first.row.offset);
            let key = pack_key(self.dataset().name(), &first.pack);
            // What cannot be read in one go is read one by one: that knows other packs, and words for what is wrong.
            if data.get_range_into(&key, start, end(last) - start, &mut bytes).is_err() {
                bytes.clear();
            }
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
        self.keep(bytes);
        Ok(())
    }

    /// Like [`ChunkReader::each`], by as many threads as the store takes, pack by pack; at most until `stop` says so.
    pub fn each_parallel(&self, ids: &[(ChunkId, Role)], stop: &(dyn Fn() -> bool + Sync), take: &(dyn Fn(usize, Result<&[u8]>) + Sync)) {
        let batches = self.by_place((0..ids.len()).collect(), |n| ids.get(*n).copied());
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

    /// Splits what needs chunks into shares that are read together, in the order in which the chunks lie. What has no chunk comes first.
    pub fn by_place<T>(&self, items: Vec<T>, id: impl Fn(&T) -> Option<(ChunkId, Role)>) -> Vec<Vec<T>> {
        let find = |item: &T| id(item).and_then(|(id, role)| self.index().find(&id, role).next());
        let mut placed: Vec<(Option<Found<'_>>, T)> = items.into_iter().map(|item| (find(&item), item)).collect();
        placed.sort_by_key(|(found, _)| found.as_ref().map(|f| (f.pack, f.row.offset)));
        let is_far = self.repository().location().data.is_remote();
        let (reach, most) = if is_far { (Reach::FAR, FAR_BATCH) } else { (Reach::NEAR, BATCH) };
        let mut shares: Vec<Vec<T>> = Vec::new();
        let (mut share, mut bytes) = (Vec::new(), 0);
        let mut run: Option<(Found<'_>, u64)> = None;
        for (found, item) in placed {
            let goes_on = match (&run, &found) {
                (Some((before, start)), Some(next)) => reach.joins(before, next, *start),
                _ => false,
            };
            // In a folder a read more costs nothing, and shares of the same length suit the threads.
            if share.len() >= most || (is_far && !goes_on && bytes >= ENOUGH) {
                shares.push(std::mem::take(&mut share));
                (bytes, run) = (0, None);
            }
            bytes += found.as_ref().map_or(0, |f| u64::from(f.row.stored));
            run = found.map(|f| {
                let start = match &run {
                    Some((_, start)) if goes_on => *start,
                    _ => u64::from(f.row.offset),
                };
                (f, start)
            });
            share.push(item);
        }
        if !share.is_empty() {
            shares.push(share);
        }
        shares
    }

    fn one(&self, id: &ChunkId, role: Role, take: &mut dyn FnMut(Result<&[u8]>) -> Result<()>) -> Result<()> {
        match self.read(id, role) {
            Ok(bytes) => take(Ok(&bytes)),
            Err(e) => take(Err(e)),
        }
    }
}
