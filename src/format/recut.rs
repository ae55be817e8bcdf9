//! Entries that were cut before any collection named them: their pieces end anywhere, inside a record or a character. This view
//! cuts them again, in memory, into pieces of whole records for the editor, and puts its changes back into the pieces as
//! they lie in the archive, so that even then an erasure re-seals only what it touches.

use super::cutter::{CutSizes, Gear, RecordPieces};
use super::{EntryContent, Marks, NewPiece, RecordFormat};
use crate::datamap::Collection;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of whole records: where it is in the entry, and what an editor needs at its start.
struct Part {
    start: u64,
    end: u64,
    marks: Arc<Marks>,
}

/// The view. Bytes are read again each time they are asked for; only the table of parts stays (some 50 bytes for 64 KiB of entry).
pub(super) struct Recut {
    inner: Arc<dyn EntryContent>,
    /// Starts of the inner pieces, and the end.
    starts: Vec<u64>,
    parts: Vec<Part>,
    /// The inner piece read last: parts are mostly asked for in order.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl Recut {
    /// Reads the entry once. A record of more than `max_record` bytes is an error that says which.
    pub(super) fn new(
        inner: Arc<dyn EntryContent>,
        format: &dyn RecordFormat,
        collection: &Collection,
        max_record: usize,
    ) -> Result<Recut> {
        let mut starts = vec![0u64];
        for i in 0..inner.pieces() {
            starts.push(starts[i].saturating_add(inner.piece_len(i)));
        }
        // Nobody sees these cuts, so their key is no secret.
        let gear = Gear::new(&[0; 32]);
        let mut reader = PieceReader { content: inner.as_ref(), next: 0, bytes: Arc::default(), at: 0 };
        let pieces = RecordPieces::open(format, collection, &mut reader, inner.path(), &gear, CutSizes::records(), max_record)?;
        let mut parts: Vec<Part> = Vec::new();
        let mut start = 0u64;
        for piece in pieces {
            let piece = piece?;
            let end = start + piece.bytes.len() as u64;
            let marks = match parts.last() {
                Some(part) if part.marks.context == piece.context => part.marks.clone(),
                _ => Arc::new(Marks { context: piece.context, ..Marks::default() }),
            };
            parts.push(Part { start, end, marks });
            start = end;
        }
        if starts.last() != Some(&start) {
            return Err(Error::damaged(inner.path(), "its pieces are not as long as its list says"));
        }
        Ok(Recut { inner, starts, parts, last: Mutex::new(None) })
    }

    fn inner_piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref() {
            Some((i, bytes)) if *i == index => Ok(bytes.clone()),
            _ => {
                let bytes = self.inner.piece(index)?;
                *last = Some((index, bytes.clone()));
                Ok(bytes)
            }
        }
    }

    /// Inner pieces that hold bytes of `start..end`, and where each begins.
    fn holding(&self, start: u64, end: u64) -> impl Iterator<Item = (usize, u64)> {
        let first = self.starts.partition_point(|s| *s <= start).saturating_sub(1);
        self.starts.iter().copied().enumerate().take(self.inner.pieces()).skip(first).take_while(move |(_, s)| *s < end)
    }

    fn part(&self, index: usize) -> Result<&Part> {
        self.parts.get(index).ok_or_else(|| Error::damaged(self.inner.path(), "a piece is asked for that does not exist"))
    }

    /// Hands out the changed inner pieces, in order. `decided` are the parts (by index) that something was decided about, `edit` makes such a
    /// part's new bytes (`None`: as it was); it is asked for each once, in order. Each piece keeps its other bytes; a part that lies across
    /// pieces goes whole into the one in which it starts.
    pub(super) fn put_back(
        &self,
        decided: &BTreeSet<usize>,
        edit: &mut dyn FnMut(usize) -> Result<Option<Vec<u8>>>,
        out: &mut dyn FnMut(NewPiece) -> Result<()>,
    ) -> Result<()> {
        let mut touched: BTreeSet<(usize, u64)> = BTreeSet::new();
        for index in decided {
            let part = self.part(*index)?;
            touched.extend(self.holding(part.start, part.end));
        }
        // Parts that were made and reach into the piece at hand.
        let mut made: BTreeMap<usize, Option<Vec<u8>>> = BTreeMap::new();
        for (index, start) in touched {
            let old = self.inner_piece(index)?;
            let end = start + old.len() as u64;
            let first = self.parts.partition_point(|p| p.end <= start);
            made.retain(|part, _| *part >= first);
            for part in decided.range(first..).take_while(|p| self.parts.get(**p).is_some_and(|p| p.start < end)) {
                if !made.contains_key(part) {
                    made.insert(*part, edit(*part)?);
                }
            }
            let mut bytes = Vec::with_capacity(old.len());
            let (mut at, mut changed) = (start, false);
            let copy = |bytes: &mut Vec<u8>, from: u64, to: u64| {
                bytes.extend_from_slice(old.get((from - start) as usize..(to.max(from) - start) as usize).unwrap_or_default());
            };
            for (part, new) in &mut made {
                let (part, Some(new)) = (self.part(*part)?, new) else { continue };
                changed = true;
                copy(&mut bytes, at, part.start.max(start));
                if part.start >= start {
                    bytes.append(new);
                }
                at = part.end.min(end);
            }
            if changed {
                copy(&mut bytes, at, end);
                out(NewPiece { replaces: index..index + 1, bytes, marks: None })?;
            }
        }
        Ok(())
    }
}

impl EntryContent for Recut {
    fn path(&self) -> String {
        self.inner.path()
    }

    fn pieces(&self) -> usize {
        self.parts.len()
    }

    fn piece_len(&self, index: usize) -> u64 {
        self.parts.get(index).map_or(0, |p| p.end - p.start)
    }

    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        let part = self.part(index)?;
        let mut out = Vec::with_capacity((part.end - part.start) as usize);
        for (i, start) in self.holding(part.start, part.end) {
            let bytes = self.inner_piece(i)?;
            let from = part.start.saturating_sub(start) as usize;
            let to = ((part.end - start) as usize).min(bytes.len());
            out.extend_from_slice(bytes.get(from..to).unwrap_or_default());
        }
        Ok(Arc::new(out))
    }

    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        Ok(Some(self.part(index)?.marks.clone()))
    }

    fn covers(&self) -> &[String] {
        &[]
    }

    fn scrubbed(&self) -> bool {
        false
    }
}

/// The entry as a stream.
struct PieceReader<'a> {
    content: &'a dyn EntryContent,
    next: usize,
    bytes: Arc<Vec<u8>>,
    at: usize,
}

impl Read for PieceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.bytes.len() && self.next < self.content.pieces() {
            self.bytes = self.content.piece(self.next).map_err(std::io::Error::other)?;
            self.next += 1;
            self.at = 0;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += n;
        Ok(n)
    }
}
