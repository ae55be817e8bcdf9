//! Lists of entries: CBOR entries back to back, cut into chunks at an entry's end that a keyed hash of its path chooses. Where the
//! cut falls depends on that one entry only, so a file more or less changes one list chunk and the nights share the others.

use super::cbor;
use super::dataset::Dataset;
use super::entry::{ChunkId, ChunkRef, Entry, Role, Tree};
use super::read::{ChunkReader, List};
use super::tree::{TreeWriter, tree_iter};
use super::write::ChunkWriter;
use crate::{Error, Result};
use std::sync::Arc;

/// Bytes below which no list chunk ends.
const MIN: usize = 16 << 10;
/// Bytes from which a list chunk ends at the next entry.
const MAX: usize = 256 << 10;
/// Beyond [`MIN`], an entry of n bytes ends its chunk with odds n in so many: 64 KiB on average.
const ODDS: u64 = 48 << 10;
/// List chunks that are fetched together.
const AHEAD: usize = 16;

/// Builds the list of an archive's entries.
pub struct EntryListWriter<'a> {
    writer: &'a ChunkWriter,
    dataset: &'a Dataset,
    tree: TreeWriter<'a>,
    buffer: Vec<u8>,
    count: u64,
}

impl<'a> EntryListWriter<'a> {
    /// An empty list; its chunks go to `writer`.
    pub fn new(writer: &'a ChunkWriter, dataset: &'a Dataset) -> EntryListWriter<'a> {
        EntryListWriter { writer, dataset, tree: TreeWriter::new(writer), buffer: Vec::new(), count: 0 }
    }

    /// Appends an entry. The caller keeps them sorted.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        let bytes = cbor::encode(entry)?;
        // An entry alone must fit: it is never split.
        if !self.buffer.is_empty() && self.buffer.len() + bytes.len() > (4 * MAX).max(MIN) {
            self.close()?;
        }
        self.buffer.extend_from_slice(&bytes);
        self.count += 1;
        let [a, b, c, d, e, f, g, h, ..] = self.dataset.path_token(&entry.path);
        let chosen = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % ODDS < bytes.len() as u64;
        if self.buffer.len() >= MAX || (self.buffer.len() >= MIN && chosen) { self.close() } else { Ok(()) }
    }

    /// Appends a whole chunk of another list of this dataset, `count` entries long, if it would be cut just so here: that is so wherever it
    /// begins a chunk. `last` says whether the chunk ended its list: such a chunk was cut by the end and must be the end here too.
    /// `false` when its entries have to be pushed one by one.
    pub fn push_chunk(&mut self, reference: &ChunkRef, count: usize, last: bool) -> Result<bool> {
        if !self.buffer.is_empty() || last {
            return Ok(false);
        }
        self.count += count as u64;
        self.tree.push(reference.clone())?;
        Ok(true)
    }

    fn close(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        if bytes.is_empty() {
            return Ok(());
        }
        let added = self.writer.add(Role::Entries, &bytes)?;
        self.tree.push(ChunkRef { id: added.id, len: bytes.len() as u64, marks: None })
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Ends the list.
    pub fn finish(mut self) -> Result<Tree> {
        self.close()?;
        self.tree.finish()
    }
}

/// A list chunk and the entries in it.
#[derive(Clone)]
pub struct ListChunk {
    /// Names it.
    pub reference: ChunkRef,
    /// What it holds, in order.
    pub entries: Arc<[Arc<Entry>]>,
}

/// Goes over the entries of a list in order. Ends after the first error.
pub fn entries<'r>(reader: &'r ChunkReader, tree: &Tree) -> impl Iterator<Item = Result<Entry>> + use<'r> {
    shared_entries(reader, tree).map(|e| e.map(Arc::unwrap_or_clone))
}

/// The same without a copy of what the reader has decoded already.
pub fn shared_entries<'r>(reader: &'r ChunkReader, tree: &Tree) -> SharedEntries<'r> {
    SharedEntries { chunks: chunks(reader, tree).peekable(), entries: Arc::new([]), at: 0, done: false }
}

/// Goes over the chunks of a list in order. Ends after the first error.
pub fn list_chunks<'r>(reader: &'r ChunkReader, tree: &Tree) -> impl Iterator<Item = Result<ListChunk>> + use<'r> {
    chunks(reader, tree)
}

fn chunks<'r>(reader: &'r ChunkReader, tree: &Tree) -> Chunks<'r> {
    Chunks { reader, refs: Box::new(tree_iter(reader, tree)), ahead: Vec::new().into_iter(), done: false }
}

/// The entries of a list in order. Ends after the first error.
pub struct SharedEntries<'r> {
    chunks: std::iter::Peekable<Chunks<'r>>,
    entries: List,
    at: usize,
    done: bool,
}

impl SharedEntries<'_> {
    /// Goes past a whole list chunk, if it is this one that comes next.
    pub fn passes(&mut self, id: &ChunkId) -> bool {
        let here = self.at == self.entries.len() && matches!(self.chunks.peek(), Some(Ok(next)) if next.reference.id == *id);
        here && self.chunks.next().is_some()
    }
}

impl Iterator for SharedEntries<'_> {
    type Item = Result<Arc<Entry>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.done {
                return None;
            }
            if let Some(entry) = self.entries.get(self.at) {
                self.at += 1;
                return Some(Ok(entry.clone()));
            }
            match self.chunks.next() {
                Some(Ok(chunk)) => (self.entries, self.at) = (chunk.entries, 0),
                Some(Err(e)) => {
                    self.done = true;
                    return Some(Err(e));
                }
                None => self.done = true,
            }
        }
    }
}

struct Chunks<'r> {
    reader: &'r ChunkReader,
    refs: Box<dyn Iterator<Item = Result<ChunkRef>> + 'r>,
    ahead: std::vec::IntoIter<ChunkRef>,
    done: bool,
}

impl Chunks<'_> {
    fn step(&mut self) -> Result<Option<ListChunk>> {
        if self.ahead.as_slice().is_empty() {
            let mut refs = Vec::with_capacity(AHEAD);
            for reference in self.refs.by_ref().take(AHEAD) {
                refs.push(reference?);
            }
            let wanted: Vec<_> =
                refs.iter().filter(|r| !self.reader.has_decoded(&r.id, Role::Entries)).map(|r| (r.id, Role::Entries)).collect();
            if wanted.len() > 1 {
                self.reader.prefetch(&wanted);
            }
            self.ahead = refs.into_iter();
        }
        let Some(reference) = self.ahead.next() else { return Ok(None) };
        let entries = list_entries(self.reader, &reference)?;
        Ok(Some(ListChunk { reference, entries }))
    }
}

/// The entries of a list chunk.
pub(super) fn list_entries(reader: &ChunkReader, reference: &ChunkRef) -> Result<List> {
    reader.list(&reference.id, |bytes| {
        if bytes.len() as u64 != reference.len {
            return Err(Error::damaged(format!("list chunk {:?}", reference.id), "its length is another than its reference says"));
        }
        decode(bytes)
    })
}

pub(super) fn decode(bytes: &[u8]) -> Result<List> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (entry, used) = cbor::decode_first("a list chunk", bytes.get(at..).unwrap_or_default())?;
        at += used;
        out.push(Arc::new(entry));
    }
    Ok(out.into())
}

impl Iterator for Chunks<'_> {
    type Item = Result<ListChunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}
