//! Where every chunk of a dataset lies, and its key: all sheets, in memory. Under 100 bytes per chunk, sorted by id, with a small table of
//! where each beginning of an id is; shared between readers and writers, and extended without copying.

use super::dataset::Dataset;
use super::entry::{ChunkId, Role};
use super::fetch::fetch_all;
use super::id::PackId;
use super::sheet::{Row, Sheet, role_byte};
use super::{Repository, sheet};
use crate::{Error, Result};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// Extensions are merged into one when there are more.
const MAX_SEGMENTS: usize = 8;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its pack.
    pub pack: PackId,
    /// Its number within the pack.
    pub ordinal: u32,
    /// Where its seal begins, in bytes.
    pub offset: u64,
    /// Length of its seal in bytes.
    pub stored_len: u64,
    /// Length of its plaintext in bytes.
    pub len: u64,
    /// Its role.
    pub role: Role,
}

/// A pack as its sheet describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its id.
    pub id: PackId,
    /// Its length in bytes, wiped ranges included.
    pub size: u64,
    /// Bytes of chunks that have a key.
    pub live: u64,
    /// Chunks that have a key.
    pub chunks: u32,
}

/// A row with its pack as an index into the segment's packs.
struct Entry {
    row: Row,
    pack: u32,
}

impl Entry {
    fn cmp(&self, id: &ChunkId, role: u8) -> Ordering {
        // Names are keyed hashes: their beginnings nearly always tell.
        let by_name = lead(&self.row.id).cmp(&lead(id)).then_with(|| self.row.id.cmp(id));
        by_name.then_with(|| role_byte(self.row.role).cmp(&role))
    }
}

/// The beginning of a name; in the order of names.
fn lead(id: &ChunkId) -> u64 {
    id.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[derive(Default)]
struct Segment {
    /// By id, then role.
    entries: Vec<Entry>,
    /// For each value of the first `bits` bits of an id: where its entries begin; and where the last ones end.
    starts: Vec<u32>,
    bits: u32,
    packs: Vec<PackInfo>,
}

impl Segment {
    fn new(sheets: Vec<Sheet>) -> Segment {
        let mut out = Segment {
            entries: Vec::with_capacity(sheets.iter().map(|s| s.rows.len()).sum()),
            packs: Vec::with_capacity(sheets.len()),
            ..Segment::default()
        };
        for sheet in sheets {
            let pack = out.packs.len() as u32;
            out.packs.push(PackInfo { id: sheet.pack, size: sheet.size, live: sheet.live(), chunks: sheet.rows.len() as u32 });
            out.entries.extend(sheet.rows.into_iter().map(|row| Entry { row, pack }));
        }
        out.sorted()
    }

    fn sorted(mut self) -> Segment {
        self.entries.sort_unstable_by(|a, b| a.cmp(&b.row.id, role_byte(b.row.role)));
        // About eight entries for each beginning.
        self.bits = (self.entries.len() / 8).checked_ilog2().unwrap_or(0);
        let values = 1usize << self.bits;
        self.starts = Vec::with_capacity(values + 1);
        for (n, entry) in self.entries.iter().enumerate() {
            let value = self.beginning(&entry.row.id);
            while self.starts.len() <= value {
                self.starts.push(n as u32);
            }
        }
        self.starts.resize(values + 1, self.entries.len() as u32);
        self
    }

    fn beginning(&self, id: &ChunkId) -> usize {
        (lead(id) >> 1 >> (63 - self.bits)) as usize
    }

    fn find(&self, id: &ChunkId, role: u8) -> &[Entry] {
        let value = self.beginning(id);
        let (Some(start), Some(end)) = (self.starts.get(value), self.starts.get(value + 1)) else { return &[] };
        let near = self.entries.get(*start as usize..*end as usize).unwrap_or_default();
        let rest = near.get(near.partition_point(|e| e.cmp(id, role).is_lt())..).unwrap_or_default();
        rest.get(..rest.iter().take_while(|e| e.cmp(id, role).is_eq()).count()).unwrap_or_default()
    }
}

/// A chunk's row and its pack, for those who open it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub row: &'a Row,
    pub pack: PackId,
}

/// See the file's header.
#[derive(Default, Clone)]
pub struct ChunkIndex {
    segments: Vec<Arc<Segment>>,
    damaged: Arc<Vec<(String, Error)>>,
}

impl ChunkIndex {
    /// Of these sheets.
    pub(crate) fn from_sheets(sheets: Vec<Sheet>, damaged: Vec<(String, Error)>) -> ChunkIndex {
        ChunkIndex { segments: vec![Arc::new(Segment::new(sheets))], damaged: Arc::new(damaged) }
    }

    /// This index and these sheets.
    pub(crate) fn extended(&self, sheets: Vec<Sheet>) -> ChunkIndex {
        let mut out = self.clone();
        if !sheets.is_empty() {
            out.segments.push(Arc::new(Segment::new(sheets)));
        }
        if out.segments.len() > MAX_SEGMENTS {
            out.segments = vec![Arc::new(merge(&out.segments))];
        }
        out
    }

    /// Every place where the chunk is; more than one after an interrupted compaction.
    pub(crate) fn find(&self, id: &ChunkId, role: Role) -> impl Iterator<Item = Found<'_>> {
        let (id, role) = (*id, role_byte(role));
        self.segments
            .iter()
            .flat_map(move |s| s.find(&id, role).iter().filter_map(|e| Some(Found { row: &e.row, pack: s.packs.get(e.pack as usize)?.id })))
    }

    /// Whether it has a key for the chunk.
    pub fn contains(&self, id: &ChunkId, role: Role) -> bool {
        self.find(id, role).next().is_some()
    }

    /// Whether one of its places is in a pack that is there, and long enough: `len_of` says how long each is.
    pub fn is_there(&self, id: &ChunkId, role: Role, len_of: impl Fn(&PackId) -> Option<u64>) -> bool {
        let is_in = |f: Found<'_>, len| u64::from(f.row.offset) + u64::from(f.row.stored) <= len;
        self.find(id, role).any(|f| len_of(&f.pack).is_some_and(|len| is_in(f, len)))
    }

    /// Where the chunk is.
    pub fn get(&self, id: &ChunkId, role: Role) -> Option<Place> {
        let found = self.find(id, role).next()?;
        Some(Place {
            pack: found.pack,
            ordinal: found.row.ordinal,
            offset: u64::from(found.row.offset),
            stored_len: u64::from(found.row.stored),
            len: u64::from(found.row.len),
            role,
        })
    }

    /// Chunks, counting one that lies in two packs twice.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|s| s.entries.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every chunk, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkId, Role)> {
        self.segments.iter().flat_map(|s| s.entries.iter().map(|e| (e.row.id, e.row.role)))
    }

    /// Every pack that has a readable sheet.
    pub fn packs(&self) -> Vec<PackInfo> {
        self.segments.iter().flat_map(|s| s.packs.iter().copied()).collect()
    }

    /// Sheets that cannot be read: key and what is wrong. Their chunks are missing from this index.
    pub fn damaged(&self) -> &[(String, Error)] {
        &self.damaged
    }
}

fn merge(segments: &[Arc<Segment>]) -> Segment {
    let mut out = Segment::default();
    for segment in segments {
        let base = out.packs.len() as u32;
        out.packs.extend_from_slice(&segment.packs);
        out.entries.extend(segment.entries.iter().map(|e| Entry { row: e.row.duplicate(), pack: base + e.pack }));
    }
    out.sorted()
}

impl Repository {
    /// Loads all sheets of a dataset. Damaged ones are collected, not fatal: archives that do not need them are fine.
    pub fn index(&self, dataset: &Dataset) -> Result<Arc<ChunkIndex>> {
        let (sheets, damaged) = self.sheets(dataset)?;
        Ok(Arc::new(ChunkIndex::from_sheets(sheets.into_iter().map(|(s, _)| s).collect(), damaged)))
    }

    /// The packs of a dataset that are there, and their lengths in bytes.
    pub fn pack_lengths(&self, dataset: &str) -> Result<HashMap<PackId, u64>> {
        let listed = self.location().data.list(&format!("packs/{dataset}/"))?;
        Ok(listed.iter().filter_map(|o| Some((sheet::pack_of_key(&o.key)?, o.len))).collect())
    }

    /// Like [`Repository::index`], without the sheets whose pack is gone or too short: what a writer need not write is what can be read. A holder
    /// of the lease that lost it unnoticed, or a hand that removed a pack, leaves such a sheet; gives how many there are.
    pub fn index_of_what_is_there(&self, dataset: &Dataset) -> Result<(Arc<ChunkIndex>, usize)> {
        let (sheets, damaged) = self.sheets(dataset)?;
        let there = self.pack_lengths(dataset.name())?;
        let all = sheets.len();
        let sheets: Vec<Sheet> =
            sheets.into_iter().map(|(s, _)| s).filter(|s| there.get(&s.pack).is_some_and(|len| *len >= s.size)).collect();
        let gone = all - sheets.len();
        Ok((Arc::new(ChunkIndex::from_sheets(sheets, damaged)), gone))
    }

    /// All sheets of a dataset, by pack, with the stored bytes' length; and those that cannot be read.
    #[allow(clippy::type_complexity)]
    pub(crate) fn sheets(&self, dataset: &Dataset) -> Result<(Vec<(Sheet, u64)>, Vec<(String, Error)>)> {
        let keys_store = &*self.location().keys;
        let mut keys: Vec<String> = keys_store.list(&format!("sheets/{}/", dataset.name()))?.into_iter().map(|o| o.key).collect();
        keys.sort();
        let opened = fetch_all(keys_store, &keys, |key, bytes| -> Result<(Sheet, u64)> {
            let bytes = bytes?;
            Ok((sheet::Sheet::open(self.sealer(), key, &bytes)?, bytes.len() as u64))
        });
        let (mut sheets, mut damaged) = (Vec::with_capacity(keys.len()), Vec::new());
        for (key, opened) in keys.into_iter().zip(opened) {
            match opened {
                Ok(sheet) => sheets.push(sheet),
                // Deleted since it was listed.
                Err(Error::Store(e)) if e.is_missing() => {}
                Err(e @ Error::Damaged { .. }) => damaged.push((key, e)),
                Err(e) => return Err(e),
            }
        }
        Ok((sheets, damaged))
    }
}

/// The bound on the index' memory that `docs/format.md` promises.
const _: () = assert!(std::mem::size_of::<Entry>() <= 96);
