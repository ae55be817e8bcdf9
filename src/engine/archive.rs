//! An archive opened for reading: its entries in order, and the bytes of each, chunk by chunk.

use super::blocks::{EntryBlocks, MarksCache};
use super::held::HeldPiece;
use crate::datamap::Tokens;
use crate::env::Stop;
use crate::format::text_filter::WantedText;
use crate::format::{EntryContent, Marks};
use crate::repository::entry::{ChunkId, ChunkRef, Entry, Role};
use crate::repository::{ChunkReader, Head, ListChunk, SharedEntries, entries, list_chunks, shared_entries, tree_iter};
use crate::{Error, Result};
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

/// How far ahead of a sequential reader chunks are fetched, in chunks.
const AHEAD: usize = 32;

/// An archive and the means to read it.
#[derive(Clone)]
pub struct OpenArchive {
    /// Its head.
    pub head: Head,
    /// Opens its chunks.
    pub reader: Arc<ChunkReader>,
}

impl OpenArchive {
    /// Entries in archive order.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        entries(&self.reader, &self.head.entries)
    }

    /// The same, shared with whoever goes over them again.
    pub fn shared_entries(&self) -> SharedEntries<'_> {
        shared_entries(&self.reader, &self.head.entries)
    }

    /// The chunks of the list of entries.
    pub fn list_chunks(&self) -> impl Iterator<Item = Result<ListChunk>> + '_ {
        list_chunks(&self.reader, &self.head.entries)
    }

    /// The references to an entry's chunks.
    pub fn refs(&self, entry: &Entry) -> Result<Vec<ChunkRef>> {
        self.each_ref(entry).collect()
    }

    /// The same for whoever needs them once.
    pub fn each_ref(&self, entry: &Entry) -> impl Iterator<Item = Result<ChunkRef>> + '_ {
        entry.content.as_ref().map(|tree| tree_iter(&self.reader, tree)).into_iter().flatten()
    }

    /// An entry's bytes for an editor.
    pub fn content(&self, entry: &Entry, marks: &Arc<MarksCache>) -> Result<StoredContent> {
        Ok(StoredContent {
            path: entry.display_path(),
            refs: self.refs(entry)?,
            covers: entry.mapped.as_ref().map(|m| m.covers.clone()).unwrap_or_default(),
            scrubbed: entry.mapped.as_ref().is_some_and(|m| m.scrubbed),
            reader: self.reader.clone(),
            marks: marks.clone(),
            blocks: OnceLock::new(),
        })
    }

    /// An entry's stored bytes, in order (of a sparse entry: its segments back to back).
    pub fn read(&self, entry: &Entry) -> Result<PieceReader> {
        Ok(PieceReader::new(self.reader.clone(), self.refs(entry)?.into_iter().map(PieceSource::Stored).collect()))
    }
}

/// [`EntryContent`] over the chunks of a stored entry.
pub struct StoredContent {
    path: String,
    refs: Vec<ChunkRef>,
    covers: Vec<String>,
    scrubbed: bool,
    reader: Arc<ChunkReader>,
    marks: Arc<MarksCache>,
    blocks: OnceLock<EntryBlocks>,
}

impl StoredContent {
    /// The references, in order.
    pub fn refs(&self) -> &[ChunkRef] {
        &self.refs
    }

    fn at(&self, index: usize) -> Result<&ChunkRef> {
        self.refs.get(index).ok_or_else(|| Error::format(&self.path, format!("has no piece {index}")))
    }

    fn blocks(&self) -> &EntryBlocks {
        self.blocks.get_or_init(|| self.marks.blocks(self.refs.iter().map(|r| r.marks)))
    }

    fn block(&self, index: usize) -> Option<ChunkId> {
        self.refs.get(index)?.marks
    }
}

impl EntryContent for StoredContent {
    fn path(&self) -> String {
        self.path.clone()
    }
    fn pieces(&self) -> usize {
        self.refs.len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.refs.get(index).map_or(0, |r| r.len)
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        self.reader.read(&self.at(index)?.id, Role::Data)
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        let Some(id) = self.at(index)?.marks else { return Ok(None) };
        Ok(Some(Arc::new(Marks::decode(&self.reader.read(&id, Role::Marks)?)?)))
    }
    fn candidates(&self, probe: u16, wanted: &dyn Tokens) -> Result<Vec<usize>> {
        self.marks.candidates(&self.reader, self.blocks(), &|index| self.block(index), probe, wanted)
    }
    fn mentioning(&self, wanted: &WantedText) -> Result<Vec<usize>> {
        self.marks.mentioning(&self.reader, self.blocks(), &|index| self.block(index), wanted)
    }
    fn malformed(&self) -> Result<Vec<usize>> {
        self.marks.malformed(&self.reader, self.blocks(), &|index| self.block(index))
    }
    fn covers(&self) -> &[String] {
        &self.covers
    }
    fn scrubbed(&self) -> bool {
        self.scrubbed
    }
    fn stop(&self) -> Stop {
        self.reader.repository().env().stop.clone()
    }
}

/// Where a piece of an entry comes from.
#[derive(Clone)]
pub enum PieceSource {
    /// A stored chunk.
    Stored(ChunkRef),
    /// Bytes that the restore gate made.
    Fresh(HeldPiece),
}

impl PieceSource {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            PieceSource::Stored(r) => r.len,
            PieceSource::Fresh(piece) => piece.len(),
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads pieces in order, fetching some ahead.
pub struct PieceReader {
    reader: Arc<ChunkReader>,
    pieces: Vec<PieceSource>,
    next: usize,
    fetched: usize,
    current: Arc<Vec<u8>>,
    at: usize,
}

impl PieceReader {
    /// Over these pieces.
    pub fn new(reader: Arc<ChunkReader>, pieces: Vec<PieceSource>) -> PieceReader {
        PieceReader { reader, pieces, next: 0, fetched: 0, current: Arc::new(Vec::new()), at: 0 }
    }

    /// The next piece, or `None` at the end.
    pub fn next_piece(&mut self) -> Result<Option<Arc<Vec<u8>>>> {
        let Some(piece) = self.pieces.get(self.next) else { return Ok(None) };
        if self.next >= self.fetched {
            let ahead: Vec<_> = self.pieces[self.next..]
                .iter()
                .take(AHEAD)
                .filter_map(|p| match p {
                    PieceSource::Stored(r) => Some((r.id, Role::Data)),
                    PieceSource::Fresh(_) => None,
                })
                .collect();
            if ahead.len() > 1 {
                self.reader.prefetch(&ahead);
            }
            self.fetched = self.next + AHEAD;
        }
        let bytes = match piece {
            PieceSource::Stored(r) => self.reader.read(&r.id, Role::Data)?,
            PieceSource::Fresh(piece) => piece.bytes()?,
        };
        if bytes.len() as u64 != piece.len() {
            return Err(Error::damaged("chunk", "its length is not what the entry says"));
        }
        self.next += 1;
        Ok(Some(bytes))
    }
}

impl Read for PieceReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            match self.next_piece().map_err(io::Error::other)? {
                Some(bytes) => (self.current, self.at) = (bytes, 0),
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
