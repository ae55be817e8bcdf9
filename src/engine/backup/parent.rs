//! The archive before this one, read next to the walk: both are in the same order, so one entry of it is held at a time.

use crate::Result;
use crate::engine::archive::OpenArchive;
use crate::repository::entry::{ChunkId, ChunkRef, Entry, EntryKind};
use crate::source::walk::path_order;
use std::cmp::Ordering;
use std::collections::HashMap;

/// The entries of the archive before, as far as the walk has come.
pub struct Parent<'a> {
    entries: Option<Box<dyn Iterator<Item = Result<Entry>> + 'a>>,
    archive: Option<&'a OpenArchive>,
    next: Option<Entry>,
    same_map: bool,
}

/// Owns the archive that a [`Parent`] reads.
pub struct ParentArchive(Option<OpenArchive>, bool);

impl<'a> Parent<'a> {
    /// Of this archive, if there is one. Identity blocks are only taken over when the data map is the same.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(archive: Option<OpenArchive>, map_digest: &str) -> Result<ParentArchive> {
        let same = archive.as_ref().is_some_and(|a| a.head.map_digest == map_digest);
        Ok(ParentArchive(archive, same))
    }

    /// The entry that the archive before had at this path.
    pub fn at(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        let Some(entries) = &mut self.entries else { return Ok(None) };
        loop {
            if self.next.is_none() {
                self.next = entries.next().transpose()?;
            }
            match &self.next {
                None => return Ok(None),
                Some(e) => match path_order(&e.path, path) {
                    Ordering::Less => self.next = None,
                    Ordering::Equal => return Ok(self.next.take()),
                    Ordering::Greater => return Ok(None),
                },
            }
        }
    }

    /// Whether a file need not be read again.
    pub fn unchanged(&self, before: &Entry, now: &Entry, is_mapped: bool) -> bool {
        before.kind == EntryKind::File
            && now.kind == EntryKind::File
            && !before.edited
            && before.seen.is_some()
            && before.seen == now.seen
            && before.mtime == now.mtime
            && (before.mapped.is_none() && !is_mapped || self.same_map)
    }

    /// The identity blocks of an entry's pieces, to be taken over for pieces that are the same.
    pub fn known_marks(&self, before: &Entry) -> Result<HashMap<ChunkId, ChunkRef>> {
        match (&self.archive, self.same_map && before.mapped.is_some()) {
            (Some(archive), true) => Ok(archive.refs(before)?.into_iter().map(|r| (r.id, r)).collect()),
            _ => Ok(HashMap::new()),
        }
    }
}

impl ParentArchive {
    /// Starts reading it.
    pub fn read(&self) -> Parent<'_> {
        Parent {
            entries: self.0.as_ref().map(|a| Box::new(a.entries()) as Box<dyn Iterator<Item = Result<Entry>> + '_>),
            archive: self.0.as_ref(),
            next: None,
            same_map: self.1,
        }
    }
}

impl ParentArchive {
    /// There is no archive before.
    pub fn none() -> ParentArchive {
        ParentArchive(None, false)
    }
}
