//! Pieces on their way: an entry is assembled from references that come back in the order of its pieces, and entries wait in line until
//! theirs are complete. So the next file is read while the last one is still compressed and sealed: a tree of small files, which have one
//! piece each, would otherwise go through one at a time.

use super::parent::Known;
use super::pipeline::{Coverage, MarkJob, Pipeline, Ticket};
use crate::Result;
use crate::format::sqlite;
use crate::repository::TreeWriter;
use crate::repository::entry::{ChunkId, ChunkRef, Entry, Tree};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Pieces of an entry that may be on their way at a time.
const IN_FLIGHT: usize = 24;
/// Entries that may wait at a time.
const IN_LINE: usize = 32;

/// Bytes on their way, of all entries of a run.
#[derive(Clone)]
pub struct Flight {
    held: Rc<Cell<usize>>,
    most: usize,
}

impl Flight {
    /// Within `memory` bytes for everything.
    pub fn new(memory: u64) -> Flight {
        Flight { held: Rc::default(), most: usize::try_from(memory / 4).unwrap_or(usize::MAX) }
    }

    fn hold(&self, bytes: usize) -> Held {
        self.held.set(self.held.get() + bytes);
        Held { of: self.held.clone(), bytes }
    }

    /// Whether more than this part of the room is taken.
    fn is_over(&self, part: usize) -> bool {
        self.held.get() > self.most / part
    }
}

/// Bytes that are on their way until this goes.
struct Held {
    of: Rc<Cell<usize>>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.set(self.of.get().saturating_sub(self.bytes));
    }
}

/// An entry whose pieces are being collected.
pub struct Assembly<'a> {
    pipeline: &'a Pipeline<'a>,
    flight: Flight,
    tickets: VecDeque<(Held, Ticket)>,
    tree: TreeWriter<'a>,
    known: Known,
    /// Pieces so far.
    pieces: usize,
    /// Of the run that was asked about last.
    asked: Option<ChunkId>,
    read: u64,
}

impl<'a> Assembly<'a> {
    /// Of an entry of which an earlier archive knows something.
    pub fn new(pipeline: &'a Pipeline<'a>, flight: &Flight, known: Known) -> Assembly<'a> {
        Assembly {
            pipeline,
            flight: flight.clone(),
            tickets: VecDeque::new(),
            tree: TreeWriter::new(pipeline.writer()),
            known,
            pieces: 0,
            asked: None,
            read: 0,
        }
    }

    /// Takes the next piece.
    pub fn piece(
        &mut self,
        bytes: impl Into<Vec<u8>> + AsRef<[u8]>,
        context: &[u8],
        marks: impl FnOnce() -> Result<MarkJob>,
    ) -> Result<()> {
        let id = self.pipeline.id(bytes.as_ref());
        self.piece_of(id, bytes, context, marks)
    }

    fn piece_of(
        &mut self,
        id: ChunkId,
        bytes: impl Into<Vec<u8>> + AsRef<[u8]>,
        context: &[u8],
        marks: impl FnOnce() -> Result<MarkJob>,
    ) -> Result<()> {
        let length = bytes.as_ref().len();
        let ticket = match self.known(&id, context)? {
            Some(known) => Ticket::Known(known),
            None => self.pipeline.submit(id, bytes.into(), marks()?),
        };
        self.push(length, ticket)
    }

    /// Takes the run of a database as it was before, if it is that: it is scrubbed, and its block is known.
    pub fn unchanged(&mut self, run: &[u8]) -> Result<bool> {
        if !self.known.is_scrubbed() {
            return Ok(false);
        }
        let id = self.pipeline.id(run);
        self.asked = Some(id);
        match self.known(&id, &[])? {
            Some(known) => self.push(run.len(), Ticket::Known(known)).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes the run of a database.
    pub fn run(&mut self, run: sqlite::cut::CutRun<'_>) -> Result<()> {
        let asked = self.asked.take().filter(|_| run.as_asked);
        let id = asked.unwrap_or_else(|| self.pipeline.id(run.bytes));
        self.piece_of(id, run.bytes, run.context, || Ok(MarkJob::Ready((run.marks)()?)))
    }

    /// The reference that an earlier archive has for exactly this piece, if all that it names is there.
    fn known(&mut self, id: &ChunkId, context: &[u8]) -> Result<Option<ChunkRef>> {
        Ok(self.known.get(self.pieces, id, context)?.filter(|k| self.pipeline.has(k)))
    }

    fn push(&mut self, length: usize, ticket: Ticket) -> Result<()> {
        self.read += length as u64;
        self.pieces += 1;
        let held = self.flight.hold(if matches!(ticket, Ticket::Coming(_)) { length } else { 0 });
        self.tickets.push_back((held, ticket));
        while self.tickets.len() > IN_FLIGHT || (self.flight.is_over(1) && !self.tickets.is_empty()) {
            self.take()?;
        }
        Ok(())
    }

    fn take(&mut self) -> Result<()> {
        match self.tickets.pop_front() {
            Some((_held, ticket)) => self.tree.push(ticket.wait()?),
            None => Ok(()),
        }
    }

    /// All pieces are in: what an earlier archive knows of them is not asked for any more.
    pub fn close(mut self) -> Assembly<'a> {
        self.known = Known::default();
        self
    }

    /// Waits for what is on its way: the content, and the bytes read for it.
    pub fn finish(mut self) -> Result<(Tree, u64)> {
        while !self.tickets.is_empty() {
            self.take()?;
        }
        Ok((self.tree.finish()?, self.read))
    }
}

/// An entry, but for what is still on its way.
pub struct Made<'a> {
    /// The entry.
    pub entry: Entry,
    /// Its content, unless the entry has it already.
    pub coming: Option<Assembly<'a>>,
    /// What making its identity blocks sees.
    pub coverage: Option<Arc<Coverage>>,
}

impl From<Entry> for Made<'_> {
    fn from(entry: Entry) -> Self {
        Made { entry, coming: None, coverage: None }
    }
}

/// Entries that wait, in archive order.
pub struct Line<'a> {
    flight: Flight,
    waiting: VecDeque<Made<'a>>,
}

impl<'a> Line<'a> {
    /// Nobody waits yet.
    pub fn new(flight: &Flight) -> Line<'a> {
        Line { flight: flight.clone(), waiting: VecDeque::new() }
    }

    /// Lines up behind the others.
    pub fn push(&mut self, made: impl Into<Made<'a>>) {
        self.waiting.push_back(made.into());
    }

    /// Whose turn it is: when enough wait already (half of the room stays for who comes next), or at the end.
    pub fn next(&mut self, end: bool) -> Option<Made<'a>> {
        let due = end || self.waiting.len() > IN_LINE || self.flight.is_over(2);
        if due { self.waiting.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::entry::EntryKind;

    fn entry(n: usize) -> Entry {
        Entry::bare(n.to_string().into_bytes(), EntryKind::File)
    }

    #[test]
    fn entries_leave_in_order_once_enough_wait() {
        let mut line = Line::new(&Flight::new(1 << 20));
        let mut left = Vec::new();
        for n in 0..100 {
            line.push(entry(n));
            assert!(line.waiting.len() <= IN_LINE + 1);
            left.extend(std::iter::from_fn(|| line.next(false)).map(|made| made.entry));
        }
        assert_eq!(left.len(), 100 - IN_LINE);
        left.extend(std::iter::from_fn(|| line.next(true)).map(|made| made.entry));
        assert_eq!(left, (0..100).map(entry).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_while_half_of_the_room_is_taken() {
        let flight = Flight::new(400);
        let mut line = Line::new(&flight);
        line.push(entry(1));
        let (half, more) = (flight.hold(50), flight.hold(1));
        assert!(flight.is_over(2) && !flight.is_over(1));
        drop(half);
        assert!(line.next(false).is_none(), "what has arrived takes no room");
        let _half = flight.hold(50);
        assert!(line.next(false).is_some());
        drop(more);
        assert!(!flight.is_over(2));
    }
}
