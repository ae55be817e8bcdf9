//! Whose rows a page of a database holds. A backup knows from its plan of the whole structure; an edit and a search descend from the roots
//! of the tables in question instead, so that they open nothing else.

use super::Image;
use super::pages::{Bad, Btree, Header, Kind};
use crate::Result;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Tells which table a leaf page belongs to, by looking up the page's first row in each table that is in question.
/// Inner pages are parsed once; leaves are not read for it (all leaves of a table are equally deep).
#[derive(Default)]
pub(super) struct Owners {
    /// Levels above the leaves, by root page.
    depths: HashMap<u32, u32>,
    /// Keys and children of inner pages.
    inner: HashMap<u32, (Vec<i64>, Vec<u32>)>,
}

impl Owners {
    /// The leaf page of a table on which this row id belongs.
    pub(super) fn locate(&mut self, image: &dyn Image, header: &Header, root: u32, rowid: i64) -> Result<Option<u32>> {
        let depth = match self.depths.get(&root) {
            Some(depth) => *depth,
            None => {
                let (mut depth, mut no) = (0, root);
                while let Some((_, children)) = self.inner(image, header, no)? {
                    let first = children.first().copied().unwrap_or(0);
                    (depth, no) = (depth + 1, first);
                    if depth > 64 {
                        return Err(Bad { page: root, what: "a table without leaves" }.at(&image.path()));
                    }
                }
                self.depths.insert(root, depth);
                depth
            }
        };
        let mut no = root;
        for _ in 0..depth {
            let Some((keys, children)) = self.inner(image, header, no)? else { return Ok(None) };
            let Some(child) = children.get(keys.partition_point(|k| *k < rowid)) else { return Ok(None) };
            no = *child;
        }
        Ok(Some(no))
    }

    /// Which of these tables a page of rows belongs to; none where it has no rows or is no page of theirs any more.
    pub(super) fn owner(
        &mut self,
        image: &dyn Image,
        header: &Header,
        (no, page): (u32, &[u8]),
        roots: &mut dyn Iterator<Item = u32>,
    ) -> Result<Option<u32>> {
        let mut tree = Btree::default();
        tree.parse(page, no, header).map_err(|b| b.at(&image.path()))?;
        let Some(first) = tree.cells.first().map(|c| c.rowid) else { return Ok(None) };
        for root in roots {
            if self.locate(image, header, root, first)? == Some(no) {
                return Ok(Some(root));
            }
        }
        Ok(None)
    }

    /// `None` for a leaf.
    fn inner(&mut self, image: &dyn Image, header: &Header, no: u32) -> Result<Option<&(Vec<i64>, Vec<u32>)>> {
        if let Entry::Vacant(slot) = self.inner.entry(no) {
            if no < 1 || no > header.pages {
                return Err(Bad { page: no, what: "does not exist, but something refers to it" }.at(&image.path()));
            }
            let (mut buf, mut tree) = (vec![0; header.page], Btree::default());
            super::read_page(image, header, no, &mut buf)?;
            tree.parse(&buf, no, header).map_err(|b| b.at(&image.path()))?;
            if tree.kind() != Some(Kind::TableInterior) {
                return Ok(None);
            }
            let keys = tree.cells.iter().map(|c| c.rowid).collect();
            slot.insert((keys, std::mem::take(&mut tree.children)));
        }
        Ok(self.inner.get(&no))
    }
}
