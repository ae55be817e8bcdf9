//! Which chunks are needed: everything that the given heads lead to. Archives share most of their index chunks, so each is opened once.

use super::archive::OpenArchive;
use super::session::View;
use crate::Result;
use crate::repository::entry::{ChunkId, ChunkRef, Role, Tree};
use crate::repository::{Listed, entries_of_chunk, refs_of_chunk};
use std::collections::HashSet;

/// A set of needed chunks.
#[derive(Default)]
pub struct Reachable {
    chunks: HashSet<(ChunkId, Role)>,
}

impl Reachable {
    /// Everything that these heads need. Fails when anything on the way cannot be read: a set with gaps must never be used to drop chunks.
    pub fn of<'a>(view: &View, heads: impl Iterator<Item = &'a Listed>) -> Result<Reachable> {
        let mut out = Reachable::default();
        for listed in heads {
            out.add(&view.open(&listed.head))?;
        }
        Ok(out)
    }

    /// Whether a chunk is needed.
    pub fn contains(&self, id: &ChunkId, role: Role) -> bool {
        self.chunks.contains(&(*id, role))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(ChunkId, Role)> {
        self.chunks.iter()
    }

    /// Adds what an archive needs.
    pub fn add(&mut self, archive: &OpenArchive) -> Result<()> {
        let mut lists = Vec::new();
        self.tree(archive, &archive.head.entries, Role::Entries, &mut lists)?;
        for list in lists {
            for entry in entries_of_chunk(&archive.reader.read(&list, Role::Entries)?)? {
                if let Some(tree) = &entry.content {
                    self.tree(archive, tree, Role::Data, &mut Vec::new())?;
                }
            }
        }
        Ok(())
    }

    /// Walks a tree; leaves seen for the first time are added to `new`.
    fn tree(&mut self, archive: &OpenArchive, tree: &Tree, leaf: Role, new: &mut Vec<ChunkId>) -> Result<()> {
        self.level(archive, &tree.refs, tree.depth, leaf, new)
    }

    fn level(&mut self, archive: &OpenArchive, refs: &[ChunkRef], depth: u8, leaf: Role, new: &mut Vec<ChunkId>) -> Result<()> {
        for r in refs {
            if depth > 0 {
                if self.chunks.insert((r.id, Role::Index)) {
                    let below = refs_of_chunk(&archive.reader.read(&r.id, Role::Index)?)?;
                    self.level(archive, &below, depth - 1, leaf, new)?;
                }
                continue;
            }
            if let Some(marks) = r.marks {
                self.chunks.insert((marks, Role::Marks));
            }
            if self.chunks.insert((r.id, leaf)) {
                new.push(r.id);
            }
        }
        Ok(())
    }
}
