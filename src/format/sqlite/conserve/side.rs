//! One side of the comparison: pages as what they are used for, what they refer to, and their cells apart from where they lie.

use crate::Result;
use crate::datamap::Value;
use crate::format::sqlite::pages::{Bad, Btree, Cell, Header, Kind, be32, trunk, varint};
use crate::format::sqlite::record::{Spans, chain, decode, locate};
use crate::format::sqlite::scrub::free_pages;
use crate::format::sqlite::{Image, read_page};
use std::collections::{BTreeMap, BTreeSet};

/// A cell apart from where it lies.
pub(super) type CellId = [u8; 16];

/// What a page is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Tree,
    Trunk,
    /// A free page that a trunk lists.
    Free,
    Overflow,
    /// Not there at all.
    Nothing,
}

/// What a page is used for by whatever refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    Child,
    Chain,
    Freelist,
}

impl Sort {
    pub fn used(self) -> Option<Use> {
        match self {
            Sort::Tree => Some(Use::Child),
            Sort::Overflow => Some(Use::Chain),
            Sort::Trunk | Sort::Free => Some(Use::Freelist),
            Sort::Nothing => None,
        }
    }
}

/// One side: the database before the edit, or after it.
pub(super) struct Side<'a> {
    pub image: &'a dyn Image,
    pub header: Header,
    /// Free pages, and whether each is a trunk.
    pub free: BTreeMap<u32, bool>,
    /// The page opened last, parsed.
    pub tree: Btree,
    /// Its bytes.
    pub page: Vec<u8>,
}

impl<'a> Side<'a> {
    pub fn new(image: &'a dyn Image) -> Result<Side<'a>> {
        let header = image.header()?;
        let free = free_pages(image, &header)?;
        let page = vec![0; header.page];
        Ok(Side { image, header, free, tree: Btree::default(), page })
    }

    /// Reads and parses a page. Below 2^25 pages an overflow page begins with a byte that no b-tree page begins with.
    pub fn open(&mut self, no: u32) -> Result<Sort> {
        if no < 1 || no > self.header.pages {
            return Ok(Sort::Nothing);
        }
        read_page(self.image, &self.header, no, &mut self.page)?;
        match self.free.get(&no) {
            Some(true) => return Ok(Sort::Trunk),
            Some(false) => return Ok(Sort::Free),
            None => {}
        }
        if no > 1 && self.page.first().and_then(|b| Kind::of(*b)).is_none() {
            return Ok(Sort::Overflow);
        }
        self.tree.parse(&self.page, no, &self.header).map_err(|b| b.at(&self.image.path()))?;
        Ok(Sort::Tree)
    }

    /// The pages that the page opened last refers to, and as what.
    pub fn refers(&self, no: u32, sort: Sort) -> Result<Vec<(u32, Use)>> {
        let mut out = Vec::new();
        match sort {
            Sort::Tree => {
                out.extend(self.tree.children.iter().map(|child| (*child, Use::Child)));
                out.extend(self.tree.cells.iter().filter(|c| c.overflow != 0).map(|c| (c.overflow, Use::Chain)));
            }
            Sort::Trunk => {
                let (next, leaves) = trunk(&self.page, no, &self.header).map_err(|b| b.at(&self.image.path()))?;
                out.extend(leaves.into_iter().chain((next != 0).then_some(next)).map(|page| (page, Use::Freelist)));
            }
            Sort::Overflow => out.extend(be32(&self.page, 0).filter(|next| *next != 0).map(|next| (next, Use::Chain))),
            Sort::Free | Sort::Nothing => {}
        }
        if no == 1 && self.header.free_head != 0 {
            out.push((self.header.free_head, Use::Freelist));
        }
        Ok(out)
    }

    /// A cell apart from where it lies: a row's table, an entry's or a row's bytes on the page, its length and where it goes on. `None` for
    /// what only separates rows.
    pub fn cell(&self, table: Option<u32>, cell: &Cell) -> Option<CellId> {
        if self.tree.kind() == Some(Kind::TableInterior) {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&table.unwrap_or(0).to_le_bytes());
        hasher.update(&cell.rowid.to_le_bytes()).update(&cell.len.to_le_bytes()).update(&cell.overflow.to_le_bytes());
        hasher.update(self.page.get(cell.payload as usize..(cell.payload + cell.local) as usize)?);
        hasher.finalize().as_bytes().first_chunk().copied()
    }

    /// The row that a cell of the page opened last is of: an index entry ends with it.
    pub fn row(&self, no: u32, cell: &Cell) -> Result<Option<i64>> {
        if self.tree.kind().is_some_and(Kind::is_table) {
            return Ok(Some(cell.rowid));
        }
        let mut spans = Spans::new();
        let head = locate(self.image, &self.header, (no, &self.page), cell, &[0], &mut spans)?;
        let mut at = 0;
        let end = varint(&head, &mut at).unwrap_or(0) as usize;
        let mut columns = 0usize;
        while at < end && varint(&head, &mut at).is_some() {
            columns += 1;
        }
        let Some(last) = columns.checked_sub(1) else { return Ok(None) };
        let payload = locate(self.image, &self.header, (no, &self.page), cell, &[last], &mut spans)?;
        Ok(match spans.first().copied().flatten().map(|span| decode(&payload, span, self.header.encoding)) {
            Some(Value::Integer(row)) => Some(row),
            _ => None,
        })
    }

    /// The pages on which a cell goes on.
    pub fn goes_on(&self, cell: &Cell, out: &mut BTreeSet<u32>) -> Result<()> {
        chain(self.image, &self.header, cell.overflow, cell.spilled(), &mut |no, _| match out.insert(no) {
            true => Ok(()),
            false => Err(Bad { page: no, what: "an overflow chain is used twice" }),
        })
    }

    /// The page with the header.
    pub fn first_page(&self) -> Result<Vec<u8>> {
        let mut page = vec![0; self.header.page];
        read_page(self.image, &self.header, 1, &mut page)?;
        Ok(page)
    }
}
