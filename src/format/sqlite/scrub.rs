//! The scrub: zeroes every byte of a database that is not live data, without moving anything.
//!
//! Deleting with SQLite's `secure_delete` is not enough to erase somebody: page splits long ago have left copies of rows in gaps of
//! pages that a later deletion never touches, and so have freed pages, free blocks and the tails of overflow chains. So everything is
//! scrubbed once, when the archive is made, and what an edit wrote is scrubbed again after it. The result is logically the same
//! database; only bytes that SQLite never reads differ.
//!
//! [`ScrubPlan`] looks at inner pages, the freelist and overflow chains first and keeps four bytes per page; the pages themselves are
//! then scrubbed while they stream past, in any order. A structure that does not fit fails the plan, before anything is changed.

use super::pages::{Bad, Btree, Header, Kind, Parsed, trunk, wipe};
use super::record::{Spans, chain, decode, locate};
use super::{Image, read_page};
use crate::datamap::Value;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What a page is. Packed into four bytes per page: kind << 28 | detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Reached from nowhere: an orphan, once the plan is complete.
    Unknown,
    /// Inner page of a b-tree.
    Interior,
    /// Leaf of the b-tree with this index into [`ScrubPlan::roots`].
    Leaf(u32),
    /// Overflow page of which this many bytes are used, and whether it is the last of its chain.
    Overflow(u32, bool),
    /// Freelist trunk.
    Trunk,
    /// Freelist leaf.
    Free,
    /// Pointer map.
    PointerMap,
    /// The page under the locks.
    Lock,
}

impl Tag {
    fn pack(self) -> u32 {
        match self {
            Tag::Unknown => 0,
            Tag::Interior => 1 << 28,
            Tag::Leaf(root) => 2 << 28 | root & 0x0fff_ffff,
            Tag::Overflow(used, last) => 3 << 28 | u32::from(last) << 20 | used & 0x000f_ffff,
            Tag::Trunk => 4 << 28,
            Tag::Free => 5 << 28,
            Tag::PointerMap => 6 << 28,
            Tag::Lock => 7 << 28,
        }
    }

    fn unpack(v: u32) -> Tag {
        let detail = v & 0x0fff_ffff;
        match v >> 28 {
            1 => Tag::Interior,
            2 => Tag::Leaf(detail),
            3 => Tag::Overflow(detail & 0x000f_ffff, detail >> 20 != 0),
            4 => Tag::Trunk,
            5 => Tag::Free,
            6 => Tag::PointerMap,
            7 => Tag::Lock,
            _ => Tag::Unknown,
        }
    }
}

/// The pages that hold the schema, and the root pages that it names.
#[derive(Debug, Default)]
pub struct SchemaPages {
    /// Page 1 and whatever else the schema table takes, by number.
    pub pages: BTreeMap<u32, Vec<u8>>,
    /// Root pages of all tables and indexes, the schema's own (page 1) first.
    pub roots: Vec<u32>,
}

/// Reads the schema table page by page.
pub fn schema_pages(image: &dyn Image, header: &Header) -> Result<SchemaPages> {
    let bad = |page, what| Bad { page, what }.at(&image.path());
    let mut out = SchemaPages { roots: vec![1], ..SchemaPages::default() };
    let mut todo = vec![1];
    let mut tree = Btree::default();
    while let Some(no) = todo.pop() {
        if no < 1 || no > header.pages || out.pages.contains_key(&no) {
            return Err(bad(no, "the schema's pages are not a tree"));
        }
        let mut page = vec![0; header.page];
        read_page(image, header, no, &mut page)?;
        tree.parse(&page, no, header).map_err(|b| b.at(&image.path()))?;
        match tree.kind() {
            Some(Kind::TableInterior) => todo.extend(&tree.children),
            Some(Kind::TableLeaf) => {
                for cell in &tree.cells {
                    let mut found = Spans::new();
                    let payload = locate(image, header, (no, &page), cell, &[3], &mut found)?;
                    if let Some(Some(span)) = found.first()
                        && let Value::Integer(root) = decode(&payload, *span, header.encoding)
                        && root != 0
                    {
                        let root = u32::try_from(root).ok().filter(|r| *r > 1 && *r <= header.pages);
                        out.roots.push(root.ok_or_else(|| bad(no, "the schema names a root page that does not exist"))?);
                    }
                    let mut links = Vec::new();
                    chain(image, header, cell.overflow, cell.spilled(), &mut |link, _| {
                        if links.len() > header.pages as usize {
                            return Err(Bad { page: link, what: "an overflow chain is a loop" });
                        }
                        links.push(link);
                        Ok(())
                    })?;
                    for link in links {
                        let mut page = vec![0; header.page];
                        read_page(image, header, link, &mut page)?;
                        out.pages.insert(link, page);
                    }
                }
            }
            _ => return Err(bad(no, "the schema is not a table")),
        }
        out.pages.insert(no, page);
    }
    Ok(out)
}

/// What a scrub found and zeroed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Pages looked at.
    pub pages: u64,
    /// Pages in which something was zeroed.
    pub dirty: u64,
    /// Bytes zeroed.
    pub bytes: u64,
    /// Pages that belong to nothing.
    pub orphans: u64,
}

/// Everything about a database that one has to know before its pages can be scrubbed one by one.
pub struct ScrubPlan {
    header: Header,
    tags: Vec<u32>,
    roots: Vec<u32>,
    orphans: u64,
    /// Some cell's payload goes on on overflow pages.
    chains: bool,
    tree: Btree,
}

impl ScrubPlan {
    /// Walks all b-trees from their roots (inner pages only), the freelist, and, where pages are left over, all leaves for their
    /// overflow chains. Fails with [`Error::Format`] on any structure that does not fit; the database can then not be scrubbed.
    pub fn build(image: &dyn Image) -> Result<ScrubPlan> {
        let header = image.header()?;
        let mut first = vec![0; header.page];
        read_page(image, &header, 1, &mut first)?;
        header.check_reserved(1, &first).map_err(|b| b.at(&image.path()))?;
        let schema = schema_pages(image, &header)?;
        let mut plan = ScrubPlan {
            tags: vec![0; header.pages as usize + 1],
            header,
            roots: schema.roots,
            orphans: 0,
            chains: false,
            tree: Btree::default(),
        };
        plan.mark_fixed();
        plan.mark_freelist(image)?;
        let chains = plan.mark_trees(image)?;
        let left = plan.tags.iter().skip(1).filter(|t| **t == 0).count() as u64;
        if left > 0 || !chains.is_empty() {
            let marked = plan.mark_chains(image, chains)?;
            plan.orphans = left - marked;
            plan.chains = marked > 0;
        }
        Ok(plan)
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Root pages; what [`Tag::Leaf`] counts.
    pub fn roots(&self) -> &[u32] {
        &self.roots
    }

    /// Pages that belong to nothing; they will be zeroed.
    pub fn orphans(&self) -> u64 {
        self.orphans
    }

    /// What page `no` is.
    pub fn tag(&self, no: u32) -> Tag {
        self.tags.get(no as usize).copied().map_or(Tag::Unknown, Tag::unpack)
    }

    /// The leaf pages within a run: number, bytes, and root page of the table or index that each belongs to.
    pub(super) fn leaves<'r>(&self, index: u64, run: &'r [u8]) -> impl Iterator<Item = (u32, &'r [u8], u32)> {
        let page = self.header.page;
        run.chunks_exact(page).enumerate().filter_map(move |(i, bytes)| {
            let no = u32::try_from(index * (super::RUN / page) as u64 + i as u64 + 1).ok()?;
            match self.tag(no) {
                Tag::Leaf(root) => Some((no, bytes, *self.roots.get(root as usize)?)),
                _ => None,
            }
        })
    }

    /// Whether some cell's payload goes on on overflow pages.
    pub(super) fn has_chains(&self) -> bool {
        self.chains
    }

    /// How many pages a run has, if they all are pages of b-trees and nothing in the database spills: then what the scrub does to the run
    /// follows from its bytes alone.
    pub(super) fn only_trees(&self, index: u64, run: &[u8]) -> Option<u64> {
        let first = usize::try_from(index).ok()?.checked_mul(super::RUN / self.header.page)? + 1;
        let pages = run.chunks_exact(self.header.page);
        let tags = self.tags.get(first..first.checked_add(pages.len())?)?;
        let whole = !self.chains && pages.remainder().is_empty();
        let fits = |(no, (page, tag)): (usize, (&[u8], &u32))| {
            let kind = page.get(if no == 1 { super::pages::HEADER } else { 0 }).and_then(|flag| Kind::of(*flag));
            match Tag::unpack(*tag) {
                Tag::Interior => kind.is_some_and(|k| !k.is_leaf()),
                Tag::Leaf(_) => kind.is_some_and(Kind::is_leaf),
                _ => false,
            }
        };
        (whole && (first..).zip(pages.zip(tags)).all(fits)).then_some(tags.len() as u64)
    }

    fn set(&mut self, no: u32, tag: Tag) -> Parsed<()> {
        match self.tags.get_mut(no as usize) {
            Some(slot) if no > 0 && *slot == 0 => {
                *slot = tag.pack();
                Ok(())
            }
            Some(_) if no > 0 => Err(Bad { page: no, what: "used twice" }),
            _ => Err(Bad { page: no, what: "does not exist, but something refers to it" }),
        }
    }

    fn mark_fixed(&mut self) {
        let lock = self.header.lock_page();
        for (no, slot) in self.tags.iter_mut().enumerate().skip(1) {
            let no = no as u32;
            if no == lock {
                *slot = Tag::Lock.pack();
            } else if self.header.is_pointer_map(no) {
                *slot = Tag::PointerMap.pack();
            }
        }
    }

    fn mark_freelist(&mut self, image: &dyn Image) -> Result<()> {
        let header = self.header.clone();
        for_freelist(image, &header, &mut |no, is_trunk| self.set(no, if is_trunk { Tag::Trunk } else { Tag::Free }))
    }

    /// All b-trees, level by level. Every leaf of a tree is equally deep, so the first page of a level tells whether it is the last:
    /// leaves are not read here. Overflow chains that begin on inner pages (of indexes) are returned.
    fn mark_trees(&mut self, image: &dyn Image) -> Result<Vec<(u32, u64)>> {
        let path = image.path();
        let mut chains = Vec::new();
        let mut buf = vec![0; self.header.page];
        let mut tree = Btree::default();
        for (index, root) in self.roots.clone().into_iter().enumerate() {
            let mut level = vec![root];
            while let Some(first) = level.first().copied() {
                self.check(first, &path)?;
                read_page(image, &self.header, first, &mut buf)?;
                tree.parse(&buf, first, &self.header).map_err(|b| b.at(&path))?;
                if tree.is_leaf() {
                    for no in level {
                        self.set(no, Tag::Leaf(index as u32)).map_err(|b| b.at(&path))?;
                    }
                    break;
                }
                let kind = tree.kind();
                let mut next = Vec::new();
                for no in level {
                    self.check(no, &path)?;
                    self.set(no, Tag::Interior).map_err(|b| b.at(&path))?;
                    if no != first {
                        read_page(image, &self.header, no, &mut buf)?;
                        tree.parse(&buf, no, &self.header).map_err(|b| b.at(&path))?;
                    }
                    if tree.kind() != kind {
                        return Err(Bad { page: no, what: "of another kind than its siblings" }.at(&path));
                    }
                    next.extend_from_slice(&tree.children);
                    chains.extend(tree.cells.iter().filter(|c| c.overflow != 0).map(|c| (c.overflow, c.spilled())));
                }
                next.sort_unstable();
                level = next;
            }
        }
        Ok(chains)
    }

    fn check(&self, no: u32, path: &str) -> Result<()> {
        if no >= 1 && no <= self.header.pages {
            return Ok(());
        }
        Err(Bad { page: no, what: "does not exist, but something refers to it" }.at(path))
    }

    /// Reads all leaves once, to follow the overflow chains that begin on them; how many pages the chains have.
    fn mark_chains(&mut self, image: &dyn Image, mut chains: Vec<(u32, u64)>) -> Result<u64> {
        let path = image.path();
        let mut marked = 0;
        let mut buf = vec![0; self.header.page];
        let mut tree = Btree::default();
        let header = self.header.clone();
        let mut follow = |plan: &mut ScrubPlan, chains: &mut Vec<(u32, u64)>| -> Result<()> {
            for (first, len) in chains.drain(..) {
                let mut left = len;
                chain(image, &header, first, len, &mut |no, used| {
                    marked += 1;
                    left = left.saturating_sub(header.usable as u64 - 4);
                    plan.set(no, Tag::Overflow(used as u32, left == 0))
                })?;
            }
            Ok(())
        };
        follow(self, &mut chains)?;
        for no in 1..=self.header.pages {
            if let Tag::Leaf(_) = self.tag(no) {
                read_page(image, &self.header, no, &mut buf)?;
                tree.parse(&buf, no, &self.header).map_err(|b| b.at(&path))?;
                chains.extend(tree.cells.iter().filter(|c| c.overflow != 0).map(|c| (c.overflow, c.spilled())));
                follow(self, &mut chains)?;
            }
        }
        Ok(marked)
    }

    /// Zeroes what is not live data on page `no`, whose bytes are `page`; how many bytes were not zero.
    /// Fails, and leaves the page as it is, where the page is not what the plan knows it to be.
    pub fn scrub_page(&mut self, no: u32, page: &mut [u8]) -> Parsed<u64> {
        let header = &self.header;
        header.check_reserved(no, page)?;
        match Tag::unpack(self.tags.get(no as usize).copied().unwrap_or(0)) {
            tag @ (Tag::Interior | Tag::Leaf(_)) => {
                self.tree.parse(page, no, header)?;
                if self.tree.is_leaf() != matches!(tag, Tag::Leaf(_)) {
                    return Err(Bad { page: no, what: "at another depth than its siblings" });
                }
                for cell in self.tree.cells.iter().filter(|c| c.overflow != 0) {
                    let known = self.tags.get(cell.overflow as usize).copied().map(Tag::unpack);
                    if !matches!(known, Some(Tag::Overflow(..))) {
                        return Err(Bad { page: no, what: "an overflow chain begins on a page of another kind" });
                    }
                }
                self.tree.wipe(page, no, header)
            }
            Tag::Overflow(used, last) => {
                // SQLite never reads the link of the last page, but after an edit its first byte tells this page from a b-tree page.
                let link = page.get_mut(..4).filter(|_| last).map_or(0, wipe);
                Ok(link + page.get_mut(used as usize..).map_or(0, wipe))
            }
            Tag::Trunk => {
                let (_, leaves) = trunk(page, no, header)?;
                Ok(page.get_mut(8 + 4 * leaves.len()..).map_or(0, wipe))
            }
            Tag::PointerMap => Ok(0),
            Tag::Unknown | Tag::Free | Tag::Lock => Ok(wipe(page)),
        }
    }

    /// Scrubs all pages of a run that begins at byte `offset` of the image. A page that does not fit stays as it is and is returned.
    /// Bytes behind the last page go too.
    pub fn scrub_run(&mut self, offset: u64, run: &mut [u8], sum: &mut Scrubbed) -> Vec<Bad> {
        let size = self.header.page;
        let mut bad = Vec::new();
        for (i, page) in run.chunks_mut(size).enumerate() {
            let no = offset / size as u64 + i as u64 + 1;
            let wiped = match u32::try_from(no) {
                Ok(no) if no <= self.header.pages => {
                    if self.tag(no) == Tag::Unknown {
                        sum.orphans += 1;
                    }
                    self.scrub_page(no, page)
                }
                _ => Ok(wipe(page)),
            };
            sum.pages += 1;
            match wiped {
                Ok(0) => {}
                Ok(n) => {
                    sum.dirty += 1;
                    sum.bytes += n;
                }
                Err(b) => bad.push(b),
            }
        }
        bad
    }
}

/// Goes over the freelist: `visit` gets each page and whether it is a trunk. Fails on loops and pages that do not exist.
pub fn for_freelist(image: &dyn Image, header: &Header, visit: &mut dyn FnMut(u32, bool) -> Parsed<()>) -> Result<()> {
    let bad = |page, what| Bad { page, what }.at(&image.path());
    let mut buf = vec![0; header.page];
    let (mut next, mut seen) = (header.free_head, 0u64);
    while next != 0 {
        if next < 2 || next > header.pages {
            return Err(bad(next, "the freelist names a page that does not exist"));
        }
        read_page(image, header, next, &mut buf)?;
        visit(next, true).map_err(|b| b.at(&image.path()))?;
        let (following, leaves) = trunk(&buf, next, header).map_err(|b| b.at(&image.path()))?;
        seen += 1 + leaves.len() as u64;
        if seen > u64::from(header.pages) {
            return Err(bad(next, "the freelist is longer than the database"));
        }
        for leaf in leaves {
            visit(leaf, false).map_err(|b| b.at(&image.path()))?;
        }
        next = following;
    }
    Ok(())
}

/// All free pages, and whether each is a trunk; fails also when one is listed twice.
pub fn free_pages(image: &dyn Image, header: &Header) -> Result<BTreeMap<u32, bool>> {
    let mut out = BTreeMap::new();
    for_freelist(image, header, &mut |no, is_trunk| match out.insert(no, is_trunk) {
        None => Ok(()),
        Some(_) => Err(Bad { page: no, what: "listed twice in the freelist" }),
    })?;
    Ok(out)
}

/// An image whose pages can be replaced.
pub trait Edit: Image {
    /// Replaces page `no`.
    fn write_page(&mut self, no: u32, page: &[u8]) -> Result<()>;
}

/// Scrubs what an edit wrote, in a database that was scrubbed before it: the `written` pages and every page that is free now and was
/// not in `free_before`. Needs no plan: below 2^25 pages, the first byte of a written page that is neither free nor fixed is 2, 5, 10
/// or 13 exactly when it is a b-tree page, because an overflow page begins with the number of the next one (0 on the last, which the scrub makes sure of).
pub fn scrub_written(image: &mut dyn Edit, written: &BTreeSet<u32>, free_before: &BTreeSet<u32>) -> Result<Scrubbed> {
    let header = image.header()?;
    let path = image.path();
    if header.pages >= 1 << 25 {
        return Err(Error::format(path, "has too many pages to be scrubbed page by page"));
    }
    let mut sum = Scrubbed::default();
    let free = free_pages(&*image, &header)?;
    let mut buf = vec![0; header.page];
    for (no, is_trunk) in &free {
        let (no, is_trunk) = (*no, *is_trunk);
        if !written.contains(&no) && free_before.contains(&no) && !is_trunk {
            continue;
        }
        read_page(&*image, &header, no, &mut buf)?;
        let from = if is_trunk { 8 + 4 * trunk(&buf, no, &header).map_err(|b| b.at(&path))?.1.len() } else { 0 };
        let n = buf.get_mut(from..).map_or(0, wipe);
        put(image, no, &buf, n, &mut sum)?;
    }
    let mut tree = Btree::default();
    for no in written.iter().copied().filter(|no| *no <= header.pages && !free.contains_key(no)) {
        if header.is_pointer_map(no) || no == header.lock_page() {
            continue;
        }
        read_page(&*image, &header, no, &mut buf)?;
        if no > 1 && buf.first().and_then(|b| Kind::of(*b)).is_none() {
            continue;
        }
        tree.parse(&buf, no, &header).map_err(|b| b.at(&path))?;
        let n = tree.wipe(&mut buf, no, &header).map_err(|b| b.at(&path))?;
        put(image, no, &buf, n, &mut sum)?;
        for cell in tree.cells.iter().filter(|c| c.overflow != 0 && written.contains(&c.overflow)) {
            let mut pages = Vec::new();
            chain(&*image, &header, cell.overflow, cell.spilled(), &mut |no, used| {
                if pages.len() > header.pages as usize {
                    return Err(Bad { page: no, what: "an overflow chain is a loop" });
                }
                pages.push((no, used));
                Ok(())
            })?;
            // Only the last page of a chain has a tail.
            if let Some((no, used)) = pages.last().copied() {
                read_page(&*image, &header, no, &mut buf)?;
                let n = buf.get_mut(used..).map_or(0, wipe);
                put(image, no, &buf, n, &mut sum)?;
            }
        }
    }
    Ok(sum)
}

fn put(image: &mut dyn Edit, no: u32, page: &[u8], wiped: u64, sum: &mut Scrubbed) -> Result<()> {
    sum.pages += 1;
    if wiped > 0 {
        sum.dirty += 1;
        sum.bytes += wiped;
        image.write_page(no, page)?;
    }
    Ok(())
}
