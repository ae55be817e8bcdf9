//! Applying decisions to one archive, and the edited archive as a value: which entries go, and which pieces of the others are new.
//! Propagation seals it as the next generation; the restore gate reads it and throws it away.

use super::archive::{OpenArchive, PieceSource};
use super::decide::{Decided, children_first};
use super::event::Counts;
use super::held::HeldPiece;
use super::matching::{Bound, Matches};
use crate::datamap::DataMap;
use crate::format::{Disposition, Found, NewPiece, RecordKey};
use crate::repository::entry::{ChunkRef, Entry, EntryKind, Mapped, Role, Tree};
use crate::repository::{ChunkWriter, ListChunk};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// What an erasure changes in an archive.
#[derive(Default)]
pub struct ArchiveEdit {
    /// Paths of entries that go.
    pub removed: HashSet<Vec<u8>>,
    /// By path: the new pieces of an entry.
    pub changed: BTreeMap<Vec<u8>, Arc<EntryEdit>>,
    /// Notes of the editors.
    pub notes: Vec<String>,
}

/// An entry's new pieces.
pub struct EntryEdit {
    /// In order, not overlapping: which old pieces each stands for, and what it is; `None` where nothing is left of them.
    pub pieces: Vec<(Range<usize>, Option<PieceSource>)>,
    /// How the entry is cut now.
    pub mapped: Option<Mapped>,
}

/// Takes new pieces as the editors make them, so that an edit holds one piece's bytes at a time however many it changes.
pub trait Sink {
    /// Stores a piece that is not empty; where it is now.
    fn put(&mut self, piece: NewPiece) -> Result<PieceSource>;
}

/// Seals pieces as chunks. Until a head names them they are garbage, which the next sweep drops.
pub struct Sealing<'w> {
    writer: &'w ChunkWriter,
    /// Sealed bytes that were added.
    pub stored: u64,
}

impl Sealing<'_> {
    /// With this writer.
    pub fn new(writer: &ChunkWriter) -> Sealing<'_> {
        Sealing { writer, stored: 0 }
    }
}

impl Sink for Sealing<'_> {
    fn put(&mut self, piece: NewPiece) -> Result<PieceSource> {
        let data = self.writer.add(Role::Data, &piece.bytes)?;
        self.stored += data.stored;
        let marks = match &piece.marks {
            Some(m) => Some(self.writer.add(Role::Marks, &m.encode()?)?.id),
            None => None,
        };
        Ok(PieceSource::Stored(ChunkRef { id: data.id, len: piece.bytes.len() as u64, marks }))
    }
}

/// Throws pieces away: for finding out whether an edit can be made.
pub struct Discarding;

impl Sink for Discarding {
    fn put(&mut self, _: NewPiece) -> Result<PieceSource> {
        Ok(PieceSource::Fresh(HeldPiece::default()))
    }
}

/// Edits of the archive before, by path: an entry that is the same in this one, and of which the same becomes, is edited once.
#[derive(Default)]
pub struct Known(HashMap<Vec<u8>, KnownEdit>);

struct KnownEdit {
    /// Before the edit.
    content: Option<Tree>,
    /// What was decided.
    work: Vec<(RecordKey, usize, Disposition)>,
    notes: Vec<String>,
    edit: Arc<EntryEdit>,
}

impl Known {
    /// Takes out the edit that this one would be.
    fn take(&mut self, entry: &Entry, work: &[(Found, Disposition)]) -> Option<KnownEdit> {
        let known = self.0.remove(&entry.path)?;
        let same = known.content == entry.content
            && known.edit.mapped == mapped_after(entry)
            && known.work.len() == work.len()
            && known.work.iter().zip(work).all(|((key, collection, decided), (found, disposition))| {
                *key == found.key && *collection == found.collection && decided == disposition
            });
        same.then_some(known)
    }
}

fn mapped_after(entry: &Entry) -> Option<Mapped> {
    entry.mapped.clone().map(|m| Mapped { scrubbed: m.scrubbed || m.format == "sqlite", ..m })
}

impl ArchiveEdit {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Counts per request index and collection index.
pub type Tally = BTreeMap<usize, BTreeMap<usize, Counts>>;

/// Adds up what was decided.
pub fn tally(matches: &Matches, decided: &[Decided]) -> Tally {
    let mut out = Tally::new();
    for d in decided {
        let Some(m) = matches.records.get(d.index) else { continue };
        for who in &m.who {
            out.entry(*who).or_default().entry(m.found.collection).or_default().add(&d.counts);
        }
    }
    for p in &matches.paths {
        for who in &p.who {
            out.entry(*who).or_default().entry(p.collection).or_default().add(&Counts { found: 1, deleted: 1, ..Counts::default() });
        }
    }
    out
}

/// Runs the editors. `decided` and `bound` are consumed; on an error the archive is as it was. `known` are the edits of the archive before; it
/// becomes those of this one. New pieces go into `sink` as they are made.
pub fn apply(
    map: &DataMap,
    bound: Vec<Bound<'_>>,
    matches: Matches,
    decided: Vec<Decided>,
    known: &mut Known,
    sink: &mut dyn Sink,
) -> Result<ArchiveEdit> {
    let mut edit = ArchiveEdit::default();
    let mut before = std::mem::take(known);
    let order = children_first(map);
    let mut per_entry: HashMap<usize, Vec<(Found, Disposition)>> = HashMap::new();
    // Editors go by the record's place: its values have served.
    let mut records: Vec<Option<(usize, Found)>> =
        matches.records.into_iter().map(|m| Some((m.entry, Found { values: BTreeMap::new(), ..m.found }))).collect();
    for d in decided {
        let record = records.get_mut(d.index).and_then(Option::take);
        let (entry, found) = record.ok_or_else(|| Error::Refused("a decision about no record".into()))?;
        // Also what is kept: a foreign key's cascade must not take it along.
        per_entry.entry(entry).or_default().push((found, d.disposition));
    }
    drop(records);
    edit.removed.extend(matches.paths.iter().map(|p| p.path.clone()));
    for (i, b) in bound.into_iter().enumerate() {
        let Some(work) = per_entry.remove(&i).filter(|w| w.iter().any(|(_, d)| *d != Disposition::Keep)) else { continue };
        if edit.removed.contains(&b.entry.path) {
            continue;
        }
        if let Some(same) = before.take(&b.entry, &work) {
            edit.notes.extend(same.notes.iter().cloned());
            edit.changed.insert(b.entry.path.clone(), same.edit.clone());
            known.0.insert(b.entry.path.clone(), same);
            continue;
        }
        let mut editor = b.editor?;
        let applied = editor.apply(map, &order, &work)?;
        let deletes = work.iter().filter(|(_, d)| *d == Disposition::Delete).count() as u64;
        if applied.deleted.values().sum::<u64>() < deletes {
            return Err(Error::Verification(format!(
                "{}: fewer records were deleted than were decided; nothing was changed",
                b.entry.display_path()
            )));
        }
        let notes: Vec<String> = applied.notes.iter().map(|n| format!("{}: {n}", b.entry.display_path())).collect();
        edit.notes.extend(notes.iter().cloned());
        let mut pieces = Vec::new();
        editor.finish_into(&mut |piece| {
            let replaces = piece.replaces.clone();
            let made = if piece.bytes.is_empty() { None } else { Some(sink.put(piece)?) };
            pieces.push((replaces, made));
            Ok(())
        })?;
        if pieces.is_empty() {
            continue;
        }
        let made = Arc::new(EntryEdit { pieces, mapped: mapped_after(&b.entry) });
        edit.changed.insert(b.entry.path.clone(), made.clone());
        let work = work.into_iter().map(|(found, disposition)| (found.key, found.collection, disposition)).collect();
        known.0.insert(b.entry.path.clone(), KnownEdit { content: b.entry.content.clone(), work, notes, edit: made });
    }
    Ok(edit)
}

/// A piece of an edited entry.
pub enum EditedPiece<'e> {
    /// As it was.
    Kept(ChunkRef),
    /// The edit made it.
    Made(&'e PieceSource),
}

/// Goes over an edited entry's pieces in order; `refs` are the old ones. Fails when the new pieces do not fit those.
pub fn edited_pieces<'e>(
    refs: impl Iterator<Item = Result<ChunkRef>>,
    edit: &'e EntryEdit,
    mut visit: impl FnMut(EditedPiece<'e>) -> Result<()>,
) -> Result<()> {
    let bad = || Error::Verification("an edit does not fit the entry it was made for; nothing was changed".into());
    let mut refs = refs.fuse();
    let mut at = 0;
    for (range, made) in &edit.pieces {
        if range.start < at || range.end < range.start {
            return Err(bad());
        }
        while at < range.end {
            let old = refs.next().ok_or_else(bad)??;
            if at < range.start {
                visit(EditedPiece::Kept(old))?;
            }
            at += 1;
        }
        made.iter().try_for_each(|source| visit(EditedPiece::Made(source)))?;
    }
    refs.try_for_each(|old| visit(EditedPiece::Kept(old?)))
}

/// A piece of the walk over an archive as an edit leaves it.
pub enum Walked<'e> {
    /// A list chunk none of whose entries is touched, and whether it is the last.
    Same(ListChunk, bool),
    /// An entry (its kind and link already mended where the entry that carried a hard-linked file's bytes went) and, for edited ones, the edit.
    Entry(Arc<Entry>, Option<&'e EntryEdit>),
}

/// Goes over the entries of an archive as the edit leaves them, one by one.
pub fn edited_entries<'e>(
    archive: &OpenArchive,
    edit: &'e ArchiveEdit,
    mut visit: impl FnMut(Arc<Entry>, Option<&'e EntryEdit>) -> Result<()>,
) -> Result<()> {
    edited_chunks(archive, edit, |walked| match walked {
        Walked::Same(chunk, _) => chunk.entries.iter().try_for_each(|e| visit(e.clone(), None)),
        Walked::Entry(entry, change) => visit(entry, change),
    })
}

/// Goes over the entries of an archive as the edit leaves them, in whole list chunks where nothing changes.
///
/// When the first name of a hard-linked file goes but others stay, the first of those becomes the file.
pub fn edited_chunks<'e>(archive: &OpenArchive, edit: &'e ArchiveEdit, mut visit: impl FnMut(Walked<'e>) -> Result<()>) -> Result<()> {
    let mut orphans: HashMap<Vec<u8>, Arc<Entry>> = HashMap::new();
    let mut moved: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let touches = |entry: &Entry| {
        edit.changed.contains_key(&entry.path)
            || edit.removed.contains(&entry.path)
            || (!edit.removed.is_empty() && entry.kind == EntryKind::Hardlink)
    };
    let mut chunks = archive.list_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        let chunk = chunk?;
        if !chunk.entries.iter().any(|e| touches(e)) {
            let last = chunks.peek().is_none();
            visit(Walked::Same(chunk, last))?;
            continue;
        }
        for entry in chunk.entries.iter() {
            if edit.removed.contains(&entry.path) {
                if entry.kind == EntryKind::File {
                    orphans.insert(entry.path.clone(), entry.clone());
                }
                continue;
            }
            let mut entry = entry.clone();
            let mut source = None;
            if entry.kind == EntryKind::Hardlink
                && let Some(target) = entry.link.clone()
            {
                if let Some(new) = moved.get(target.as_slice()) {
                    entry = Arc::new(Entry { link: Some(serde_bytes::ByteBuf::from(new.clone())), ..Arc::unwrap_or_clone(entry) });
                } else if let Some(file) = orphans.remove(target.as_slice()) {
                    moved.insert(file.path.clone(), entry.path.clone());
                    source = Some(file.path.clone());
                    entry = Arc::new(Entry { path: entry.path.clone(), edited: true, ..Arc::unwrap_or_clone(file) });
                }
            }
            let change = edit.changed.get(source.as_ref().unwrap_or(&entry.path)).map(Arc::as_ref);
            visit(Walked::Entry(entry, change))?;
        }
    }
    Ok(())
}

/// An edited entry's bytes for a reader, without storing them (the restore gate).
pub fn piece_sources(archive: &OpenArchive, entry: &Entry, edit: Option<&EntryEdit>) -> Result<Vec<PieceSource>> {
    let Some(edit) = edit else { return archive.each_ref(entry).map(|r| Ok(PieceSource::Stored(r?))).collect() };
    let mut out = Vec::new();
    edited_pieces(archive.each_ref(entry), edit, |piece| {
        out.push(match piece {
            EditedPiece::Kept(old) => PieceSource::Stored(old),
            EditedPiece::Made(source) => source.clone(),
        });
        Ok(())
    })?;
    Ok(out)
}
