//! Sequences of chunks as shallow trees. Inner levels are cut where a chunk's id says so, never by counting: one changed chunk
//! then changes one index chunk per level, and the archives of other nights share the rest. Up to 64 chunks are always listed flat.

use super::cbor;
use super::entry::{ChunkRef, Role, Tree};
use super::read::{ChunkReader, Refs};
use super::write::ChunkWriter;
use crate::{Error, Result};

/// Fewest references in an index chunk, except the last one of a level.
const MIN: usize = 64;
/// Most references in an index chunk.
const MAX: usize = 1024;
/// Beyond [`MIN`], one reference in so many ends its index chunk: 256 on average.
const ODDS: u64 = 192;
/// A top level with more references gets another level.
const TOP: usize = 512;
/// No tree is deeper: 64^6 chunks are more than any archive has.
const MAX_DEPTH: u8 = 6;
/// Index chunks whose children are fetched together.
const AHEAD: usize = 32;

/// Builds a tree from references in order.
pub struct TreeWriter<'a> {
    writer: &'a ChunkWriter,
    /// Open ends of the levels, from the data up.
    levels: Vec<Vec<ChunkRef>>,
}

fn ends(reference: &ChunkRef, count: usize) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = reference.id.0;
    count >= MAX || (count >= MIN && u64::from_be_bytes([a, b, c, d, e, f, g, h]) % ODDS == 0)
}

impl<'a> TreeWriter<'a> {
    /// An empty tree; index chunks go to `writer`.
    pub fn new(writer: &'a ChunkWriter) -> TreeWriter<'a> {
        TreeWriter { writer, levels: vec![Vec::new()] }
    }

    /// Appends a chunk.
    pub fn push(&mut self, reference: ChunkRef) -> Result<()> {
        self.push_at(0, reference)
    }

    fn push_at(&mut self, level: usize, reference: ChunkRef) -> Result<()> {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        let Some(refs) = self.levels.get_mut(level) else { return Ok(()) };
        let end = ends(&reference, refs.len() + 1);
        refs.push(reference);
        if end { self.close(level) } else { Ok(()) }
    }

    /// Makes an index chunk of a level's open end.
    fn close(&mut self, level: usize) -> Result<()> {
        let refs = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
        if refs.is_empty() {
            return Ok(());
        }
        let len = refs.iter().map(|r| r.len).sum();
        let added = self.writer.add(Role::Index, &cbor::encode(&refs)?)?;
        self.push_at(level + 1, ChunkRef { id: added.id, len, marks: None })
    }

    /// Ends the tree.
    pub fn finish(mut self) -> Result<Tree> {
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            let refs = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
            if is_top && refs.len() <= TOP {
                return Ok(Tree { depth: level as u8, refs });
            }
            if let Some(back) = self.levels.get_mut(level) {
                *back = refs;
            }
            self.close(level)?;
            level += 1;
        }
    }
}

/// Goes over a tree's data references in order, opening index chunks as it comes to them. Ends after the first error.
pub fn tree_iter<'r>(reader: &'r ChunkReader, tree: &Tree) -> impl Iterator<Item = Result<ChunkRef>> + use<'r> {
    let mut iter = TreeIter { reader, stack: Vec::new(), failure: None };
    match too_deep(tree) {
        Err(e) => iter.failure = Some(e),
        Ok(()) => iter.enter(tree.depth, tree.refs.as_slice().into()),
    }
    iter
}

struct TreeIter<'r> {
    reader: &'r ChunkReader,
    stack: Vec<Level>,
    failure: Option<Error>,
}

/// A level entered.
struct Level {
    /// Above the data.
    height: u8,
    refs: Refs,
    /// The next reference.
    next: usize,
    /// Where fetching ahead goes on.
    fetched: usize,
}

impl TreeIter<'_> {
    fn enter(&mut self, height: u8, refs: Refs) {
        self.stack.push(Level { height, refs, next: 0, fetched: 0 });
    }
}

/// What an index chunk holds. Lengths must add up, so that no chain of small chunks pretends to be a huge archive.
pub(super) fn children(reader: &ChunkReader, reference: &ChunkRef) -> Result<Refs> {
    let name = || format!("index chunk {:?}", reference.id);
    let refs = reader.refs(&reference.id, |bytes| Ok(cbor::decode::<Vec<ChunkRef>>(&name(), bytes)?.into()))?;
    let len = refs.iter().try_fold(0u64, |sum, r| sum.checked_add(r.len));
    if refs.is_empty() || len != Some(reference.len) {
        return Err(Error::damaged(name(), "the lengths below it do not add up to its own"));
    }
    Ok(refs)
}

pub(super) fn too_deep(tree: &Tree) -> Result<()> {
    if tree.depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Error::damaged("a tree of chunks", format!("it is {} levels deep, at most {MAX_DEPTH} are possible", tree.depth)))
}

impl Iterator for TreeIter<'_> {
    type Item = Result<ChunkRef>;

    fn next(&mut self) -> Option<Result<ChunkRef>> {
        if let Some(failure) = self.failure.take() {
            self.stack.clear();
            return Some(Err(failure));
        }
        loop {
            let level = self.stack.last_mut()?;
            if level.height > 0 && level.next >= level.fetched {
                level.fetched = level.next + AHEAD;
                let ahead = level.refs.iter().skip(level.next).take(AHEAD);
                let ahead: Vec<_> = ahead.map(|r| (r.id, Role::Index)).filter(|(id, role)| !self.reader.has_decoded(id, *role)).collect();
                if ahead.len() > 1 {
                    self.reader.prefetch(&ahead);
                }
            }
            let Some(reference) = level.refs.get(level.next).cloned() else {
                self.stack.pop();
                continue;
            };
            level.next += 1;
            let height = level.height;
            if height == 0 {
                return Some(Ok(reference));
            }
            match children(self.reader, &reference) {
                Ok(below) => self.enter(height - 1, below),
                Err(e) => {
                    self.stack.clear();
                    return Some(Err(e));
                }
            }
        }
    }
}
