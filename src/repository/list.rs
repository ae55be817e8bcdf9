//! Lists of entries: CBOR entries back to back, cut into chunks at an entry's end that a keyed hash of its path chooses. Where the
//! cut falls depends on that one entry only, so a file more or less changes one list chunk and the nights share the others.

use super::cbor;
use super::dataset::Dataset;
use super::entry::{ChunkRef, Entry, Role, Tree};
use super::read::ChunkReader;
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

/// Goes over the entries of a list in order. Ends after the first error.
pub fn entries<'r>(reader: &'r ChunkReader, tree: &Tree) -> impl Iterator<Item = Result<Entry>> + use<'r> {
    Entries { reader, refs: Box::new(tree_iter(reader, tree)), ahead: Vec::new().into_iter(), chunk: Arc::default(), at: 0, done: false }
}

struct Entries<'r> {
    reader: &'r ChunkReader,
    refs: Box<dyn Iterator<Item = Result<ChunkRef>> + 'r>,
    ahead: std::vec::IntoIter<ChunkRef>,
    chunk: Arc<Vec<u8>>,
    at: usize,
    done: bool,
}

impl Entries<'_> {
    fn next_chunk(&mut self) -> Result<bool> {
        if self.ahead.as_slice().is_empty() {
            let mut refs = Vec::with_capacity(AHEAD);
            for reference in self.refs.by_ref().take(AHEAD) {
                refs.push(reference?);
            }
            let wanted: Vec<_> = refs.iter().map(|r| (r.id, Role::Entries)).collect();
            if wanted.len() > 1 {
                self.reader.prefetch(&wanted);
            }
            self.ahead = refs.into_iter();
        }
        let Some(reference) = self.ahead.next() else { return Ok(false) };
        self.chunk = self.reader.read(&reference.id, Role::Entries)?;
        self.at = 0;
        if self.chunk.len() as u64 != reference.len {
            return Err(Error::damaged(format!("list chunk {:?}", reference.id), "its length is another than its reference says"));
        }
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        while self.at >= self.chunk.len() {
            if !self.next_chunk()? {
                return Ok(None);
            }
        }
        let mut rest = self.chunk.get(self.at..).unwrap_or_default();
        let entry =
            ciborium::from_reader(&mut rest).map_err(|_| Error::damaged("a list chunk", "an entry's fields are not as expected"))?;
        self.at = self.chunk.len() - rest.len();
        Ok(Some(entry))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}
