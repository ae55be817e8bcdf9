//! Destroys chunks that nothing needs any more. Per pack, in this order, so that a crash anywhere leaves either the chunk with its
//! key or no key:
//!
//! 1. the key sheet is replaced by one without the rows: from here no copy of the pack opens, wherever it is;
//! 2. the dead bytes are wiped where they lie; the sheet remembers which ranges still wait for that, and a later run completes it;
//! 3. a pack that is mostly dead (or cannot be wiped) is compacted: what lives is sealed again, under fresh keys, into a new pack;
//!    only when that and its sheet are durable do the old sheet and then the old pack go.
//!
//! Where each request has its round trips, steps that do not wait for each other go at the same time: sheets of different packs, and
//! fetching, sealing and storing of different packs. The order above holds for each pack.
//!
//! Nothing that lives is ever dropped on the word of a copy that has not been opened and checked.

use super::dataset::Dataset;
use super::entry::{ChunkId, Role};
use super::fetch::{at_once, hands};
use super::id::PackId;
use super::sheet::{self, Row, Sheet, pack_key, role_byte};
use super::{Repository, chunk};
use crate::store::{StoreError, Wiped};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

mod compact;

/// How a sweep goes about it.
#[derive(Debug, Clone, Copy)]
pub struct DropOptions {
    /// A touched pack with a larger share of dead bytes is compacted.
    pub compact_above: f64,
    /// Only counts what would go.
    pub dry_run: bool,
    /// Also removes what no sheet and no ledger knows: packs without a sheet, hidden versions, what interrupted writes left. Not while a sheet
    /// may be missing.
    pub tidy: bool,
}

impl Default for DropOptions {
    fn default() -> DropOptions {
        DropOptions { compact_above: 0.5, dry_run: false, tidy: true }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Chunks whose keys were destroyed.
    pub chunks: u64,
    /// Sealed bytes of these.
    pub bytes: u64,
    /// Packs deleted because nothing in them lives; compacted ones and orphans not counted.
    pub packs_deleted: u64,
    /// Sheets replaced by smaller ones.
    pub sheets_rewritten: u64,
    /// Packs whose living chunks were moved.
    pub packs_compacted: u64,
    /// Ranges wiped in place.
    pub ranges_wiped: u64,
    /// Packs without a key sheet, left by interrupted writes: deleted.
    pub orphans: u64,
    /// Temporary objects of interrupted writes: removed.
    pub leftovers: u64,
    /// Sheets that could not be read, so that nobody knows whether their keys are gone; and living chunks that do not open.
    pub damaged: Vec<(String, Error)>,
    /// Packs with dead bytes that could not be wiped or deleted yet. Their keys are gone; a later run tries again.
    pub left: Vec<(String, Error)>,
    /// Packs and heads that a lock keeps, or an older version of a head that lives, with its end (`None`: a legal hold). Their keys are gone; the
    /// first run after it deletes them.
    pub locked: Vec<(String, Option<Timestamp>)>,
}

impl Dropped {
    /// Something in the store that could not be removed.
    fn stays(&mut self, key: String, error: StoreError) {
        match error {
            StoreError::Locked { until, .. } => self.locked.push((key, until)),
            other => self.left.push((key, other.into())),
        }
    }
}

/// Destroys every chunk of the dataset for which `keep` says `false`, and what interrupted writes left behind. The caller holds the
/// dataset's lease: a running backup's packs have no sheet yet and would be taken for orphans. Indexes loaded before are stale.
pub fn drop_chunks(repo: &Repository, dataset: &Dataset, keep: &dyn Fn(&ChunkId, Role) -> bool, options: DropOptions) -> Result<Dropped> {
    drop_chunks_while(repo, dataset, keep, options, &|| Ok(()))
}

/// Like [`drop_chunks`], asking `ours` before every change whether the dataset's lease still holds: somebody who took it over may just
/// have come to need what looked dead.
pub fn drop_chunks_while(
    repo: &Repository,
    dataset: &Dataset,
    keep: &dyn Fn(&ChunkId, Role) -> bool,
    options: DropOptions,
    ours: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Dropped> {
    let (sheets, damaged) = repo.sheets(dataset)?;
    let sweep = Sweep { repo, dataset, options, ours, out: Mutex::new(Dropped { damaged, ..Dropped::default() }) };
    let sheets: Vec<Sheet> = sheets.into_iter().map(|(s, _)| s).collect();
    let copies = sweep.spare_copies(&sheets, keep)?;
    let (mut dead_packs, mut smaller) = (Vec::new(), Vec::new());
    for sheet in sheets {
        let dead = |row: &Row| !keep(&row.id, row.role) || copies.contains(&(sheet.pack, row.ordinal));
        if sheet.pending.is_empty() && !sheet.rows.iter().any(dead) {
            continue;
        }
        let doomed: HashSet<u32> = sheet.rows.iter().filter(|r| dead(r)).map(|r| r.ordinal).collect();
        match sweep.without(sheet, &doomed) {
            Rest::Nothing(pack) => dead_packs.push(pack),
            Rest::Smaller(sheet) => smaller.push((sheet, !doomed.is_empty())),
        }
    }
    if !options.dry_run {
        let location = repo.location();
        sweep.delete(&dead_packs)?;
        let mostly_dead = at_once(hands(&*location.keys), smaller, |(sheet, changed)| sweep.shrink(sheet, changed))?;
        sweep.compact(mostly_dead.into_iter().flatten().collect())?;
        if options.tidy {
            sweep.tidy()?;
        }
    }
    Ok(sweep.out.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What a pack's sheet is without the dead.
enum Rest {
    /// Nothing lives in the pack.
    Nothing(PackId),
    /// These rows do, and these ranges are to be wiped.
    Smaller(Sheet),
}

struct Sweep<'a> {
    repo: &'a Repository,
    dataset: &'a Dataset,
    options: DropOptions,
    ours: &'a (dyn Fn() -> Result<()> + Sync),
    out: Mutex<Dropped>,
}

impl Sweep<'_> {
    fn pack_key(&self, pack: &PackId) -> String {
        pack_key(self.dataset.name(), pack)
    }

    fn out(&self) -> MutexGuard<'_, Dropped> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_stop(&self) -> Result<()> {
        self.repo.env().stop.check("the destruction of old chunks; run it again to complete it")
    }

    fn put_sheet(&self, sheet: &Sheet) -> Result<()> {
        (self.ours)()?;
        sheet.put(self.repo.sealer(), &*self.repo.location().keys, self.dataset.name())
    }

    /// Chunks that lie in two packs (a compaction was interrupted): the copies to drop, once one of them has been opened and checked.
    fn spare_copies(&self, sheets: &[Sheet], keep: &dyn Fn(&ChunkId, Role) -> bool) -> Result<HashSet<(PackId, u32)>> {
        // By the beginning of their names first: nearly always there are none, and all names of a large dataset are many megabytes.
        let mut met: HashSet<u64> = HashSet::with_capacity(sheets.iter().map(|s| s.rows.len()).sum());
        let living = sheets.iter().flat_map(|sheet| &sheet.rows).filter(|r| keep(&r.id, r.role));
        let doubled: HashSet<u64> = living.map(beginning).filter(|b| !met.insert(*b)).collect();
        drop(met);
        let mut copies: HashMap<(ChunkId, u8), Vec<(&Sheet, &Row)>> = HashMap::new();
        for sheet in sheets {
            for row in sheet.rows.iter().filter(|r| doubled.contains(&beginning(r)) && keep(&r.id, r.role)) {
                copies.entry((row.id, role_byte(row.role))).or_default().push((sheet, row));
            }
        }
        copies.retain(|_, places| places.len() > 1);
        if copies.is_empty() {
            return Ok(HashSet::new());
        }
        let spare = at_once(hands(&*self.repo.location().data), copies.into_values().collect(), |mut copies| {
            self.check_stop()?;
            // The fullest pack keeps it: the other one is what was being compacted.
            copies.sort_by_key(|(sheet, row)| (sheet.size - sheet.live(), sheet.pack, row.ordinal));
            let Some(good) = copies.iter().position(|(sheet, row)| self.open(&sheet.pack, row).is_ok()) else { return Ok(Vec::new()) };
            let others = copies.iter().enumerate().filter(|(n, _)| *n != good);
            Ok(others.map(|(_, (sheet, row))| (sheet.pack, row.ordinal)).collect())
        })?;
        Ok(spare.into_iter().flatten().collect())
    }

    /// The body of a chunk as it is stored inside its seal, after its plaintext has been checked.
    fn open(&self, pack: &PackId, row: &Row) -> Result<Zeroizing<Vec<u8>>> {
        let key = self.pack_key(pack);
        let sealed = self.repo.location().data.get_range(&key, u64::from(row.offset), u64::from(row.stored));
        let sealed = sealed.map_err(|e| match e {
            StoreError::Missing { .. } | StoreError::Short { .. } => chunk::damaged(&key, &row.id, "the pack does not hold it"),
            other => other.into(),
        })?;
        self.open_sealed(&key, pack, row, sealed)
    }

    fn open_sealed(&self, key: &str, pack: &PackId, row: &Row, sealed: Vec<u8>) -> Result<Zeroizing<Vec<u8>>> {
        let body = chunk::open_body(self.repo.id(), pack, row, sealed).map_err(|d| chunk::damaged(key, &row.id, d))?;
        let body = Zeroizing::new(body);
        chunk::decode_body(self.dataset, row, body.to_vec()).map_err(|d| chunk::damaged(key, &row.id, d))?;
        Ok(body)
    }

    /// Takes the dead out of a sheet; nothing is stored yet.
    fn without(&self, mut sheet: Sheet, doomed: &HashSet<u32>) -> Rest {
        let (dead, alive): (Vec<Row>, Vec<Row>) = std::mem::take(&mut sheet.rows).into_iter().partition(|r| doomed.contains(&r.ordinal));
        let ranges = dead.iter().map(|r| (u64::from(r.offset), u64::from(r.stored)));
        let mut out = self.out();
        out.chunks += dead.len() as u64;
        out.bytes += ranges.clone().map(|(_, len)| len).sum::<u64>();
        sheet.pending = merge(sheet.pending.iter().copied().chain(ranges).collect());
        sheet.rows = alive;
        if sheet.rows.is_empty() {
            out.packs_deleted += 1;
            return Rest::Nothing(sheet.pack);
        }
        out.sheets_rewritten += u64::from(!dead.is_empty());
        Rest::Smaller(sheet)
    }

    /// Steps 1 and 2 for one pack; gives back the sheet when the pack is to be compacted.
    fn shrink(&self, mut sheet: Sheet, changed: bool) -> Result<Option<Sheet>> {
        self.check_stop()?;
        if changed {
            self.put_sheet(&sheet)?;
        }
        let waste = (sheet.size - sheet.live()) as f64 / sheet.size.max(1) as f64;
        if waste > self.options.compact_above {
            return Ok(Some(sheet));
        }
        match self.wipe(&mut sheet)? {
            Some(Wiped::Unsupported) => Ok(Some(sheet)),
            _ => Ok(None),
        }
    }

    /// Wipes what waits for it, and notes in the sheet that it is done. `None`: it could not be done now.
    fn wipe(&self, sheet: &mut Sheet) -> Result<Option<Wiped>> {
        let key = self.pack_key(&sheet.pack);
        match self.repo.location().data.wipe(&key, &sheet.pending) {
            Ok(Wiped::Done) => {
                self.out().ranges_wiped += sheet.pending.len() as u64;
                sheet.pending.clear();
                self.put_sheet(sheet)?;
                Ok(Some(Wiped::Done))
            }
            Ok(Wiped::Unsupported) => Ok(Some(Wiped::Unsupported)),
            Err(e) => {
                self.out().left.push((key, e.into()));
                Ok(None)
            }
        }
    }

    /// All sheets first, then the packs.
    fn delete(&self, packs: &[PackId]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        self.check_stop()?;
        (self.ours)()?;
        let location = self.repo.location();
        let sheets: Vec<String> = packs.iter().map(|pack| sheet::key(self.dataset.name(), pack)).collect();
        if let Some((_, e)) = location.keys.delete_many(&sheets).into_iter().next() {
            return Err(e.into());
        }
        let keys: Vec<String> = packs.iter().map(|pack| self.pack_key(pack)).collect();
        for (key, e) in location.data.delete_many(&keys) {
            self.out().stays(key, e);
        }
        Ok(())
    }

    fn tidy(&self) -> Result<()> {
        self.orphans()?;
        let location = self.repo.location();
        // Whether all that another dataset needs is in its place, its own sweep finds out.
        let spare = |key: &str| {
            let mut parts = key.split('/');
            let (folder, name) = (parts.next().unwrap_or_default(), parts.next());
            ["datasets", "sheets", "known", "intake"].contains(&folder) && name != Some(self.dataset.name())
        };
        let mut leftovers = location.data.remove_leftovers(&spare)?;
        if !std::sync::Arc::ptr_eq(&location.data, &location.keys) {
            leftovers += location.keys.remove_leftovers(&spare)?;
        }
        self.out().leftovers += leftovers;
        Ok(())
    }

    /// Deletes packs that no key sheet belongs to: written by somebody who never came to write the sheet, or whose sheet went first; and
    /// packs and heads that were locked when they were deleted, and hide behind a delete marker.
    fn orphans(&self) -> Result<()> {
        let (name, location) = (self.dataset.name(), self.repo.location());
        // Packs that a put-only host handed in have their sheets in the intake until they are admitted.
        let mut with_sheet: HashSet<PackId> = HashSet::new();
        for folder in ["sheets", "intake"] {
            let listed = location.keys.list(&format!("{folder}/{name}/"))?;
            with_sheet.extend(listed.iter().filter_map(|o| sheet::pack_of_key(&o.key)));
        }
        let mut doomed: BTreeSet<String> = BTreeSet::new();
        for object in location.data.list_versions(&format!("packs/{name}/"))? {
            if sheet::pack_of_key(&object.key).is_some_and(|pack| !with_sheet.contains(&pack)) {
                doomed.insert(object.key);
            }
        }
        let heads = location.data.list_versions(&format!("archives/{name}/"))?;
        let readable: HashSet<&str> = heads.iter().filter(|h| h.is_latest && !h.is_delete_marker).map(|h| h.key.as_str()).collect();
        doomed.extend(heads.iter().filter(|h| !readable.contains(h.key.as_str())).map(|h| h.key.clone()));
        self.old_heads(heads.iter().filter(|h| !h.is_latest && readable.contains(h.key.as_str())).map(|h| h.key.clone()).collect())?;
        // What this very run has met already.
        let known: HashSet<String> = {
            let out = self.out();
            out.locked.iter().map(|(k, _)| k.clone()).chain(out.left.iter().map(|(k, _)| k.clone())).collect()
        };
        let doomed: Vec<String> = doomed.into_iter().filter(|k| !known.contains(k)).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        (self.ours)()?;
        let stay = location.data.delete_many(&doomed);
        let mut out = self.out();
        out.orphans += (doomed.len() as u64).saturating_sub(stay.len() as u64);
        for (key, error) in stay {
            out.stays(key, error);
        }
        Ok(())
    }

    /// Removes what is behind heads that live: a head that a new root key was put over, when the process ended before it was gone or a lock
    /// of the bucket kept it.
    fn old_heads(&self, keys: BTreeSet<String>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        (self.ours)()?;
        let keys: Vec<String> = keys.into_iter().collect();
        let stay = self.repo.location().data.delete_old(&keys);
        let mut out = self.out();
        out.leftovers += (keys.len() as u64).saturating_sub(stay.len() as u64);
        for (key, error) in stay {
            out.stays(key, error);
        }
        Ok(())
    }
}

/// The beginning of a chunk's name, which is a keyed hash, and its role.
fn beginning(row: &Row) -> u64 {
    let [a, b, c, d, e, f, g, ..] = row.id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, role_byte(row.role)])
}

/// Sorted, neighbours joined.
fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (offset, len) in ranges {
        match out.last_mut() {
            Some((start, length)) if *start + *length >= offset => *length = (*length).max(offset + len - *start),
            _ => out.push((offset, len)),
        }
    }
    out
}

#[cfg(test)]
mod tests;
