//! Which chunks archives need. Subtrees and list chunks that an earlier archive shares are skipped, so marking thirty nights
//! costs little more than marking one.

use super::entry::{ChunkId, ChunkRef, Role, Tree};
use super::head::Head;
use super::list::list_entries;
use super::read::ChunkReader;
use super::sheet::{role_byte, role_from_byte};
use super::tree::{children, too_deep};
use crate::Result;
use std::collections::HashSet;

/// A set of needed chunks. Errs on the side of keeping: once marking an archive has failed, everything counts as needed.
#[derive(Default)]
pub struct Live {
    chunks: HashSet<(ChunkId, u8)>,
    incomplete: bool,
}

impl Live {
    /// An empty set.
    pub fn new() -> Live {
        Live::default()
    }

    /// Adds everything that an archive needs. After an error the set keeps everything.
    pub fn add(&mut self, reader: &ChunkReader, head: &Head) -> Result<()> {
        let added = self.add_list(reader, &head.entries);
        self.incomplete |= added.is_err();
        added
    }

    /// Adds one chunk; whether it is new.
    pub fn insert(&mut self, id: &ChunkId, role: Role) -> bool {
        self.chunks.insert((*id, role_byte(role)))
    }

    /// Whether some archive needs the chunk (or it is not certain that none does).
    pub fn contains(&self, id: &ChunkId, role: Role) -> bool {
        self.incomplete || self.chunks.contains(&(*id, role_byte(role)))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkId, Role)> + '_ {
        self.chunks.iter().filter_map(|(id, role)| Some((*id, role_from_byte(*role)?)))
    }

    /// Chunks in the set.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn add_list(&mut self, reader: &ChunkReader, tree: &Tree) -> Result<()> {
        too_deep(tree)?;
        let mut lists = Vec::new();
        self.walk(reader, tree.depth, &tree.refs, &mut |_, reference| lists.push(reference.clone()))?;
        lists.retain(|reference| self.insert(&reference.id, Role::Entries));
        for (n, reference) in lists.iter().enumerate() {
            ahead(reader, &lists, n, Role::Entries, |_| true);
            for content in list_entries(reader, reference)?.iter().filter_map(|entry| entry.content.as_ref()) {
                too_deep(content)?;
                self.walk(reader, content.depth, &content.refs, &mut |live, data| {
                    live.insert(&data.id, Role::Data);
                    if let Some(marks) = &data.marks {
                        live.insert(marks, Role::Marks);
                    }
                })?;
            }
        }
        Ok(())
    }

    fn walk(&mut self, reader: &ChunkReader, height: u8, refs: &[ChunkRef], leaf: &mut dyn FnMut(&mut Live, &ChunkRef)) -> Result<()> {
        for (n, reference) in refs.iter().enumerate() {
            if height > 0 {
                ahead(reader, refs, n, Role::Index, |id| !self.chunks.contains(&(*id, role_byte(Role::Index))));
            }
            if height == 0 {
                leaf(self, reference);
            } else if self.insert(&reference.id, Role::Index) {
                self.walk(reader, height - 1, &children(reader, reference)?, leaf)?;
            }
        }
        Ok(())
    }
}

/// Every so many chunks, fetches those of the next ones together that are wanted.
fn ahead(reader: &ChunkReader, refs: &[ChunkRef], n: usize, role: Role, wanted: impl Fn(&ChunkId) -> bool) {
    const AHEAD: usize = 64;
    if n.is_multiple_of(AHEAD) {
        let next = refs.iter().skip(n).take(AHEAD).map(|r| (r.id, role));
        let next: Vec<_> = next.filter(|(id, role)| wanted(id) && !reader.has_decoded(id, *role)).collect();
        if next.len() > 1 {
            reader.prefetch(&next);
        }
    }
}
