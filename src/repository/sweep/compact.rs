//! Moves what lives in packs together into new ones. In a service's store every pack passes this way that a chunk is erased from, and
//! each takes requests before and after it is worked on: so the next pack is fetched while one is opened and sealed and a finished one is
//! stored. Memory: a pack in each of these three hands, and the new one that is being filled.

use super::super::Repository;
use super::super::bulk::GAP;
use super::super::chunk;
use super::super::fetch::{at_once, hands};
use super::super::id::PackId;
use super::super::sheet::{Row, Sheet};
use super::Sweep;
use crate::store::{StoreError, Wiped};
use crate::{Error, Result};
use std::sync::Arc;
use zeroize::Zeroizing;

/// No part of a pack that is read at once is longer, in bytes, unless all of it is.
const LONGEST: u64 = 8 << 20;

/// What was read of a pack: offset and bytes of each part, by offset.
type Parts = Vec<(u64, Vec<u8>)>;

impl Sweep<'_> {
    /// Step 3.
    pub(super) fn compact(&self, packs: Vec<Sheet>) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let data = &*self.repo.location().data;
        if !data.is_remote() {
            let fetched = packs.into_iter().map(|sheet| {
                let parts = self.parts(&sheet);
                (sheet, parts)
            });
            return self.move_living(fetched, &mut |full| self.replace(full));
        }
        std::thread::scope(|scope| {
            // Nothing waits in these: who has one in hand keeps it until the next takes it.
            let (hand_over, fetched) = crossbeam_channel::bounded(0);
            let (finish, finished) = crossbeam_channel::bounded::<Filling>(0);
            scope.spawn(move || {
                for sheet in packs {
                    let parts = self.parts(&sheet);
                    let failed = parts.is_err();
                    // Nobody takes it any more when something else failed.
                    if hand_over.send((sheet, parts)).is_err() || failed {
                        break;
                    }
                }
            });
            let storing = scope.spawn(move || finished.into_iter().try_for_each(|full| self.replace(full)));
            let gone = || Error::Refused("the thread that stores packs is gone".to_string());
            let moved = self.move_living(fetched.into_iter(), &mut |full| finish.send(full).map_err(|_| gone()));
            drop(finish);
            // If that failed, it is why nobody took what was moved.
            storing.join().unwrap_or_else(|_| Err(gone()))?;
            moved
        })
    }

    /// Opens what lives, checks it and seals it into new packs; hands over each that is full, and the last one.
    fn move_living(&self, packs: impl Iterator<Item = (Sheet, Result<Parts>)>, full: &mut dyn FnMut(Filling) -> Result<()>) -> Result<()> {
        let target = self.repo.params().sizes.pack as usize;
        let mut fill: Option<Filling> = None;
        for (mut sheet, parts) in packs {
            self.check_stop()?;
            let parts = parts?;
            let filling = match &mut fill {
                Some(filling) => filling,
                None => fill.insert(Filling::new(PackId::random(&*self.repo.env().random)?, target)),
            };
            let (rows, bytes) = (filling.sheet.rows.len(), filling.bytes.len());
            match self.move_pack(&sheet, parts, filling) {
                Ok(()) => filling.sources.push(sheet.pack),
                Err(failure @ Error::Damaged { .. }) => {
                    filling.back_to(rows, bytes);
                    self.stays_damaged(&mut sheet, failure)?;
                }
                Err(e) => return Err(e),
            }
            if filling.bytes.len() >= target
                && let Some(filled) = fill.take()
            {
                full(filled)?;
            }
        }
        match fill.filter(|rest| !rest.sources.is_empty()) {
            Some(rest) => full(rest),
            None => Ok(()),
        }
    }

    fn move_pack(&self, sheet: &Sheet, parts: Parts, filling: &mut Filling) -> Result<()> {
        let key = self.pack_key(&sheet.pack);
        for row in &sheet.rows {
            let body = match part_of(&parts, row) {
                Some(sealed) => self.open_sealed(&key, &sheet.pack, row, sealed.to_vec()),
                // Asked for alone, what is missing is named.
                None => self.open(&sheet.pack, row),
            }?;
            filling.push(self.repo, row, body)?;
        }
        Ok(())
    }

    /// A damaged pack stays where it is: somebody may yet repair it. Its dead ranges go nevertheless.
    fn stays_damaged(&self, sheet: &mut Sheet, failure: Error) -> Result<()> {
        let key = self.pack_key(&sheet.pack);
        self.out().damaged.push((key.clone(), failure));
        if self.wipe(sheet)? == Some(Wiped::Unsupported) {
            self.out().left.push((key.clone(), Error::damaged(key, "it cannot be compacted, and this store cannot wipe")));
        }
        Ok(())
    }

    /// The new pack and its sheet are durable before the old ones go.
    fn replace(&self, new: Filling) -> Result<()> {
        (self.ours)()?;
        let Filling { bytes, sheet, sources } = new;
        self.repo.location().data.put_shared(&self.pack_key(&sheet.pack), &Arc::new(bytes))?;
        self.put_sheet(&sheet)?;
        self.delete(&sources)?;
        self.out().packs_compacted += sources.len() as u64;
        Ok(())
    }

    /// What lives in a pack, read in as few requests as make sense: all of it at once where most of it is wanted. What cannot be read so is
    /// left out.
    fn parts(&self, sheet: &Sheet) -> Result<Parts> {
        self.check_stop()?;
        let data = &*self.repo.location().data;
        let key = self.pack_key(&sheet.pack);
        let there = |read: std::result::Result<Vec<u8>, StoreError>| match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Missing { .. } | StoreError::Short { .. }) => Ok(None),
            Err(e) => Err(Error::from(e)),
        };
        if sheet.live() * 4 >= sheet.size {
            return Ok(there(data.get_range(&key, 0, sheet.size))?.map(|bytes| (0, bytes)).into_iter().collect());
        }
        let parts = at_once(hands(data), runs(&sheet.rows), |(offset, len)| Ok((offset, there(data.get_range(&key, offset, len))?)))?;
        Ok(parts.into_iter().filter_map(|(offset, bytes)| Some((offset, bytes?))).collect())
    }
}

/// Offset and length of what is read at once: over gaps that are not worth a request.
fn runs(rows: &[Row]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for row in rows {
        let (offset, end) = (u64::from(row.offset), u64::from(row.offset) + u64::from(row.stored));
        match out.last_mut() {
            Some((start, len)) if offset.saturating_sub(*start + *len) <= GAP && end.saturating_sub(*start) <= LONGEST => {
                *len = end.saturating_sub(*start);
            }
            _ => out.push((offset, u64::from(row.stored))),
        }
    }
    out
}

/// A row's bytes in what was read.
fn part_of<'a>(parts: &'a Parts, row: &Row) -> Option<&'a [u8]> {
    let offset = u64::from(row.offset);
    let after = parts.partition_point(|(start, _)| *start <= offset);
    let (start, bytes) = parts.get(after.checked_sub(1)?)?;
    let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
    bytes.get(from..from.checked_add(row.stored as usize)?)
}

/// A new pack that living chunks move to.
struct Filling {
    bytes: Vec<u8>,
    sheet: Sheet,
    sources: Vec<PackId>,
}

impl Filling {
    fn new(pack: PackId, target: usize) -> Filling {
        let sheet = Sheet { pack, size: 0, rows: Vec::new(), pending: Vec::new() };
        Filling { bytes: Vec::with_capacity(target + target / 8), sheet, sources: Vec::new() }
    }

    /// Seals a chunk's body for its new place, under a fresh key.
    fn push(&mut self, repo: &Repository, old: &Row, mut body: Zeroizing<Vec<u8>>) -> Result<()> {
        let mut row = old.duplicate();
        repo.env().random.fill(&mut row.key)?;
        row.ordinal = self.sheet.rows.len() as u32;
        row.offset = self.bytes.len() as u32;
        let mut sealed = std::mem::take(&mut *body);
        chunk::seal_body(repo.id(), &self.sheet.pack, &row, &mut sealed)?;
        row.stored = sealed.len() as u32;
        self.bytes.extend_from_slice(&sealed);
        self.sheet.size = self.bytes.len() as u64;
        self.sheet.rows.push(row);
        Ok(())
    }

    /// Takes back what was pushed since it had so many rows and bytes.
    fn back_to(&mut self, rows: usize, bytes: usize) {
        self.sheet.rows.truncate(rows);
        self.bytes.truncate(bytes);
        self.sheet.size = bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::entry::{ChunkId, Role};
    use crate::repository::sheet::Codec;

    fn row(offset: u32, stored: u32) -> Row {
        Row { id: ChunkId([0; 32]), key: [0; 32], ordinal: offset, offset, stored, len: 1, codec: Codec::Raw, role: Role::Data }
    }

    #[test]
    fn neighbours_are_read_at_once_and_found_again() {
        let gap = GAP as u32;
        let rows = [row(10, 90), row(100, 50), row(150 + gap, 10), row(161 + 2 * gap, 5), row(166 + 2 * gap, LONGEST as u32)];
        let runs = runs(&rows);
        assert_eq!(runs, [(10, 150 + GAP), (161 + 2 * GAP, 5), (166 + 2 * GAP, LONGEST)]);
        let parts: Parts = runs.iter().take(2).map(|(o, l)| (*o, (*o..o + l).map(|n| n as u8).collect())).collect();
        for row in &rows[..4] {
            assert_eq!(part_of(&parts, row).unwrap(), (row.offset..row.offset + row.stored).map(|n| n as u8).collect::<Vec<_>>());
        }
        assert!(
            part_of(&parts, &rows[4]).is_none() && part_of(&parts, &row(0, 5)).is_none() && part_of(&parts, &row(150, 20 + gap)).is_none()
        );
    }
}
