//! The archive before this one, read next to the walk: both are in the same order, so one entry of it is held at a time.

use crate::Result;
use crate::engine::archive::OpenArchive;
use crate::format::Marks;
use crate::repository::entry::{ChunkId, ChunkRef, Entry, EntryKind, Role};
use crate::source::walk::path_order;
use std::cmp::Ordering;
use std::collections::HashMap;

/// How many identity blocks are fetched at a time where every one has to be compared.
const AHEAD: usize = 256;

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

    /// The identity blocks of an entry's pieces, to be taken over for pieces that are the same and mean the same.
    pub fn known(&self, before: Option<&Entry>) -> Result<Known> {
        let mapped = before.filter(|_| self.same_map).and_then(|b| Some((b, b.mapped.clone()?)));
        let Some((archive, (before, mapped))) = self.archive.zip(mapped) else { return Ok(Known::default()) };
        let refs = archive.refs(before)?;
        let by_place = mapped.format == "sqlite";
        let places = match by_place {
            true => HashMap::new(),
            false => refs.iter().enumerate().map(|(i, r)| (r.id, i)).collect(),
        };
        Ok(Known {
            fetched: 0,
            refs,
            places,
            by_place,
            scrubbed: mapped.scrubbed,
            covers: mapped.covers,
            archive: Some(archive.clone()),
            context: None,
            compared: 0,
        })
    }

    /// Whether everything that an entry refers to is there.
    pub fn is_whole(&self, before: &Entry) -> Result<bool> {
        let Some(archive) = &self.archive else { return Ok(false) };
        // Also where no sheet is damaged: one may be missing.
        let index = archive.reader.index();
        Ok(archive
            .refs(before)?
            .iter()
            .all(|r| index.contains(&r.id, Role::Data) && r.marks.is_none_or(|m| index.contains(&m, Role::Marks))))
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

/// What an earlier archive knows of an entry's pieces. The same bytes can mean something else (a renamed column, another header): then
/// nothing of it may be taken over.
#[derive(Default)]
pub struct Known {
    /// In the order of the pieces; up to `fetched` their identity blocks were asked for.
    refs: Vec<ChunkRef>,
    fetched: usize,
    /// Where in `refs` a piece is, unless it is the run of a database. The same run at another place can be another table's (a copy of it),
    /// whose block is another one; at the same place it belongs to the same table.
    places: HashMap<ChunkId, usize>,
    by_place: bool,
    /// The runs of this database were scrubbed.
    scrubbed: bool,
    covers: Vec<String>,
    archive: Option<OpenArchive>,
    /// The last context that was compared and found equal.
    context: Option<Vec<u8>>,
    compared: u32,
}

impl Known {
    /// Forgets everything unless the blocks cover exactly this.
    pub fn covering(mut self, covers: &[String]) -> Known {
        if self.covers != covers {
            self.refs.clear();
            self.places.clear();
        }
        self
    }

    /// Whether a database's runs, where they are the same as before, need no scrub.
    pub fn is_scrubbed(&self) -> bool {
        self.scrubbed && self.by_place && !self.refs.is_empty()
    }

    /// The reference for a piece, which is the `place`-th, if its block was made with the same context.
    pub fn get(&mut self, place: usize, id: &ChunkId, context: &[u8]) -> Result<Option<ChunkRef>> {
        let at = if self.by_place { Some(place) } else { self.places.get(id).copied() };
        let Some((at, found)) = at.and_then(|at| Some((at, self.refs.get(at).filter(|r| r.id == *id)?.clone()))) else { return Ok(None) };
        let (Some(marks), Some(archive)) = (found.marks, &self.archive) else { return Ok(Some(found)) };
        // Within an entry of records the context changes after the first piece at most, and most runs of a database have none, so comparing
        // the first few and every change is enough.
        if self.compared >= 3 && self.context.as_deref() == Some(context) {
            return Ok(Some(found));
        }
        if self.compared >= 3 && at >= self.fetched {
            let ahead = self.refs.get(at..).unwrap_or_default().iter().take(AHEAD);
            archive.reader.prefetch(&ahead.filter_map(|r| Some((r.marks?, Role::Marks))).collect::<Vec<_>>());
            self.fetched = at + AHEAD;
        }
        let block = match archive.reader.read(&marks, Role::Marks).and_then(|b| Marks::decode(&b)) {
            Ok(block) => block,
            // Made anew rather than believed.
            Err(_) => return Ok(None),
        };
        if block.context != context {
            return Ok(None);
        }
        self.compared += 1;
        self.context = Some(context.to_vec());
        Ok(Some(found))
    }
}
