//! Formats: how the bytes of an entry are cut so that they can be edited piece by piece, and how they are edited.
//!
//! Two families share one face towards the engine:
//! - **record formats** ([`RecordFormat`]: CSV, NDJSON …): a sequence of records; a piece is a whole number of them. One driver
//!   ([`records::RecordsEditor`]) finds and edits for all of them.
//! - **SQLite** ([`sqlite`]): fixed runs of pages behind a VFS.
//!
//! The engine sees [`EntryEditor`] only. Adding a record format is one file and one line in [`registry`].

pub mod blocks;
pub mod csv;
pub mod cutter;
pub mod marks;
pub mod mentions;
pub mod ndjson;
pub mod records;
mod recut;
pub mod registry;
mod splice;
pub mod sqlite;
#[cfg(test)]
mod testing;
pub mod text_filter;
pub mod variants;

use crate::Result;
use crate::datamap::{Collection, DataMap, Probe, Tokens, Value};
use crate::env::Stop;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub use marks::{MarkRow, Marks};
use text_filter::WantedText;

/// A piece of an entry as the cutter hands it out: a whole number of records, or a run of pages.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Format-specific CBOR that an editor needs at the piece's start (CSV: dialect and header). Goes into the identity block.
    pub context: Vec<u8>,
}

/// What a decision about one record is, for record formats.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Stays as it is, byte for byte.
    Keep,
    /// Goes, with its terminator.
    Delete,
    /// These fields get new values; everything else of the record stays byte for byte.
    /// Pairs of an index into the scan's `fields` and, for each value of that field in order, the new one (`None`: leave this value).
    Rewrite(Vec<(usize, Vec<Option<NewValue>>)>),
}

/// A new value for a field.
#[derive(Debug, Clone, PartialEq)]
pub enum NewValue {
    /// SQL NULL, JSON null, an empty CSV field.
    Null,
    /// Text.
    Text(String),
}

/// One record during a scan.
pub struct Record<'a> {
    /// Counted from 0 within the piece.
    pub index: u32,
    /// Where it lies in the piece, terminator included.
    pub span: Range<usize>,
    /// The same without its terminator: what a restored reader sees of it.
    pub content: Range<usize>,
    /// For each field asked for, its values (none when the record does not have it, several for `items[].id`).
    pub values: &'a [Vec<Value<'a>>],
}

/// What a scan with edits made of a piece.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// The new bytes; `None` when nothing changed. May be empty when every record went.
    pub bytes: Option<Vec<u8>>,
    /// Records seen.
    pub records: u32,
    /// Records deleted.
    pub deleted: u32,
    /// Records rewritten.
    pub rewritten: u32,
    /// Records seen that are not of the format (a line that is not JSON). They are kept, have no values and so cannot be found.
    pub malformed: u32,
}

/// A format whose entries are sequences of records.
pub trait RecordFormat: Send + Sync {
    /// "csv".
    fn name(&self) -> &'static str;

    /// Starts cutting an entry: looks at its first bytes (up to 64 KiB, all there are when it is shorter) and settles the dialect.
    /// The cutter is then fed the whole entry from its start, these bytes included.
    fn cutter(&self, collection: &Collection, head: &[u8]) -> Result<Box<dyn RecordCutter>>;

    /// Names of the fields that records have, where the context tells (CSV's header); empty otherwise. For `map check` and `unmapped`.
    fn columns(&self, context: &[u8]) -> Result<Vec<String>>;

    /// Names of the fields that records of this piece have and that none of `mapped` addresses: extra cells of ragged rows,
    /// unmapped JSON paths. What `unmapped:` acts on; also for `map check`.
    fn unmapped(&self, context: &[u8], piece: &[u8], mapped: &[String]) -> Result<Vec<String>>;

    /// Goes over the records of one piece. `fields` are names as the data map has them; unknown ones have no values.
    /// `visit` decides about each record in order. With [`Decision::Keep`] throughout, nothing is copied.
    /// Fails on bytes that are not of the format; never panics, whatever the bytes.
    fn scan(
        &self,
        context: &[u8],
        piece: &[u8],
        fields: &[String],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
    ) -> Result<Scanned>;
}

/// Finds where records end, while an entry streams past. See [`cutter`] for the driver that also decides at which record end to cut.
pub trait RecordCutter: Send {
    /// The context at the current position: what an editor needs if a piece starts here.
    fn context(&self) -> Vec<u8>;

    /// Given the bytes from the last record end on (`buf`), of which the first `seen` were already looked at without finding an end:
    /// the length of the next record including its terminator, or `None` when more bytes are needed. With `last`, no more will come.
    /// A trailing record without a terminator ends with the entry.
    fn record_end(&mut self, buf: &[u8], seen: usize, last: bool) -> Result<Option<usize>>;
}

/// An entry's bytes in an archive, for an editor: nothing is opened before it is asked for.
pub trait EntryContent: Send + Sync {
    /// For messages.
    fn path(&self) -> String;
    /// Number of pieces (chunks).
    fn pieces(&self) -> usize;
    /// Length of a piece in bytes, without opening it.
    fn piece_len(&self, index: usize) -> u64;
    /// The piece's bytes.
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>>;
    /// The piece's identity block, if it has one.
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>>;
    /// Pieces, in order, whose identity blocks may hold one of the wanted tokens for this probe: all of them where that cannot be told more
    /// cheaply than by [`EntryContent::marks`].
    fn candidates(&self, _probe: u16, _wanted: &dyn Tokens) -> Result<Vec<usize>> {
        Ok((0..self.pieces()).collect())
    }
    /// Pieces, in order, whose identity blocks let their texts mention the person: all of them where that cannot be told more cheaply than
    /// by [`EntryContent::marks`].
    fn mentioning(&self, _wanted: &WantedText) -> Result<Vec<usize>> {
        Ok((0..self.pieces()).collect())
    }
    /// Pieces whose identity blocks say that some of their records could not be read, in order.
    fn malformed(&self) -> Result<Vec<usize>> {
        let mut out = Vec::new();
        for piece in 0..self.pieces() {
            if self.marks(piece)?.is_some_and(|m| m.malformed > 0) {
                out.push(piece);
            }
        }
        Ok(out)
    }
    /// What the blocks cover ([`crate::repository::entry::Mapped::covers`]).
    fn covers(&self) -> &[String];
    /// Whether a database was scrubbed when it was sealed.
    fn scrubbed(&self) -> bool;
    /// The wish to stop, for whoever is busy with the bytes for long without asking for more of them.
    fn stop(&self) -> Stop {
        Stop::default()
    }
}

/// A record that belongs to the person, as an editor found it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Index into [`DataMap::collections`].
    pub collection: usize,
    /// Identifies it within the entry and the editor's life.
    pub key: RecordKey,
    /// Values of every field that the map names for the collection (and every unmapped column where the format knows them), by name.
    pub values: BTreeMap<String, Vec<Value<'static>>>,
}

/// Where a found record is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey {
    /// Piece and record within it.
    Piece(usize, u32),
    /// Table row by row id.
    Row(i64),
    /// Table row of a table without row ids: its primary key, as an opaque encoding.
    Key(Vec<u8>),
}

/// What to do with a found record.
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    /// Leave it.
    Keep,
    /// Delete it.
    Delete,
    /// New values by field, each with one entry per value found (`None`: leave that value).
    Rewrite(BTreeMap<String, Vec<Option<NewValue>>>),
}

/// What applying the dispositions did to an entry, per collection index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Records deleted, by collection.
    pub deleted: BTreeMap<usize, u64>,
    /// Records rewritten, by collection.
    pub rewritten: BTreeMap<usize, u64>,
    /// Findings for the report (a scrubbed page, a trigger that stayed silent). No values.
    pub notes: Vec<String>,
}

/// A replaced, added or removed piece.
#[derive(Debug, Clone)]
pub struct NewPiece {
    /// Which old pieces it stands for. Pieces not in any range stay. An empty range at the end appends.
    pub replaces: Range<usize>,
    /// The new bytes; empty when nothing is left of them.
    pub bytes: Vec<u8>,
    /// Its identity block.
    pub marks: Option<Marks>,
}

/// A mapped entry of one archive, opened for finding and editing. Nothing of it touches a disk.
///
/// Life: `find`/`find_text` until nothing new turns up → `apply` once → `finish_into`.
pub trait EntryEditor {
    /// Records of `collection` whose probe values are among `wanted` (and for which the probe's `when` holds) and that no earlier call returned.
    /// Uses identity blocks where they cover the probe, and reads the entry where they do not.
    fn find(&mut self, map: &DataMap, collection: usize, probe: &Probe, wanted: &dyn Tokens) -> Result<Vec<Found>>;

    /// Records of `collection` not returned yet, in whose `scan` fields the text mentions the person. Opens only the pieces whose identity
    /// blocks let them mention the person, where the blocks cover these fields and `mentions` knows what to ask for.
    fn find_text(&mut self, map: &DataMap, collection: usize, mentions: &dyn Mentions) -> Result<Vec<Found>>;

    /// Hands every text and every blob of the entry to `visit`, value by value, where the format keeps them side by side with nothing
    /// between (a database's columns), so that what stands beside a value in the bytes says nothing; `false` where it does not.
    fn visit_values(&mut self, _visit: &mut dyn FnMut(&[u8])) -> Result<bool> {
        Ok(false)
    }

    /// Applies what was decided. Children come before parents in `order` (collection indices). Any error leaves the archive as it was.
    /// Records that must stay belong into `decided` too, as [`Disposition::Keep`]: an editor then knows what must not go along with others.
    fn apply(&mut self, map: &DataMap, order: &[usize], decided: &[(Found, Disposition)]) -> Result<Applied>;

    /// Hands out the changed pieces one by one, in order, and keeps none: whoever takes them stores them, so that an edit of many pieces takes
    /// no more memory than one of a few. Everything else stays byte for byte. What was handed out before an error is to be thrown away.
    fn finish_into(self: Box<Self>, out: &mut dyn FnMut(NewPiece) -> Result<()>) -> Result<()>;

    /// All of them at once, for entries that are known to be small.
    fn finish(self: Box<Self>) -> Result<Vec<NewPiece>> {
        let mut pieces = Vec::new();
        self.finish_into(&mut |piece| {
            pieces.push(piece);
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Whether any probe had to be answered by reading the entry, because its identity blocks did not cover it.
    fn fell_back(&self) -> bool;

    /// Fields and tables that probes asked for and the entry does not have. Finding nothing there proves nothing: the entry may be older
    /// than the map and call them otherwise.
    fn missing(&self) -> Vec<String>;

    /// What a probe of `collection` asks for and the entry may have under a name that the map does not say; `None` where the probe could be
    /// answered, or nothing here can be what it asks for.
    fn may_hide(&mut self, _map: &DataMap, _collection: usize, _probe: &Probe) -> Result<Option<String>> {
        Ok(None)
    }

    /// Where records are that could not be read: nobody can be found in them.
    fn malformed(&mut self) -> Result<Malformed> {
        Ok(Malformed::Pieces(Vec::new()))
    }
}

/// Pieces of an entry with records that could not be read.
pub enum Malformed {
    /// These.
    Pieces(Vec<usize>),
    /// Any of them.
    Anywhere,
}

/// Whether something of the collection is found by another field in the same way, and the entry has that one: maps name a renamed column twice.
pub(crate) fn has_alternative(collection: &Collection, probe: &Probe, has: &dyn Fn(&str) -> bool) -> bool {
    let same = |other: &&Probe| other.feed == probe.feed && other.when == probe.when && other.fields.len() == probe.fields.len();
    collection.probes.iter().filter(same).any(|other| other.fields.iter().all(|(f, _)| has(f)))
}

/// Whether the map names a column of this collection, so that it cannot be another one under an older name.
pub(crate) fn names_column(collection: &Collection, column: &str, same: &dyn Fn(&str, &str) -> bool) -> bool {
    let probed = collection.probes.iter().flat_map(|p| p.fields.iter().map(|(f, _)| f));
    collection.fields.keys().chain(&collection.primary_key).chain(probed).any(|named| same(named, column))
}

/// Finds a person's identities in text. Works from plaintext identities, or from tokens alone (the restore gate).
pub trait Mentions: Send + Sync {
    /// Byte ranges of `text` that name the person, in order, not overlapping.
    fn spans(&self, text: &str) -> Vec<Range<usize>>;

    /// Groups of [features](mentions::features): a text that names the person has all features of at least one group, so that a text
    /// which lacks one of each need not be looked at. `None` where nothing can be told: every text has to be read.
    fn features(&self) -> Option<&[Vec<String>]> {
        None
    }
}
