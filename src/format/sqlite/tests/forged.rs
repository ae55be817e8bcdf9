//! What the check of written pages is there to find, forged one by one after a real edit: each of its rules is the one that notices something.

use super::*;
use crate::format::sqlite::conserve::{
    Changed,
    tests::{conserved, edited, erase},
};
use crate::format::sqlite::pages::{Btree, Header, Kind, be16, be32};
use crate::format::sqlite::scrub::Edit;
use crate::format::sqlite::vfs::Medium;
use crate::format::sqlite::{overlay, read_page};

/// An edited database, its pages before and after.
pub(super) struct Forge<'k> {
    pub(super) editor: SqliteEditor<'k>,
    pub(super) changed: Changed,
    pub(super) header: Header,
    pub(super) content: Arc<Archived>,
}

fn forge(what: &str, change: impl FnOnce(&mut Forge<'_>) -> bool) {
    let (_dir, content, map) = edited();
    let key = key();
    let (editor, changed) = erase(&content, &map, &key);
    let header = editor.overlay().header().unwrap();
    let mut forge = Forge { editor, changed, header, content };
    assert!(conserved(&forge.editor, &forge.changed).unwrap(), "{what}");
    assert!(change(&mut forge), "{what}: there is no such page");
    assert!(conserved(&forge.editor, &forge.changed).is_err(), "{what}");
}

pub(super) fn tree(page: &[u8], no: u32, header: &Header) -> Option<Btree> {
    let mut tree = Btree::default();
    (no > 1 && tree.parse(page, no, header).is_ok()).then_some(tree)
}

/// A cell's bytes.
pub(super) fn cells(page: &[u8], no: u32, header: &Header) -> Vec<Vec<u8>> {
    let tree = tree(page, no, header).unwrap();
    tree.cells.iter().map(|c| page[c.start as usize..(c.end as usize).max(c.start as usize + 4)].to_vec()).collect()
}

/// A leaf of these cells, as SQLite would lay it out; `None` where they do not fit.
pub(super) fn leaf(kind: u8, cells: &[Vec<u8>], header: &Header) -> Option<Vec<u8>> {
    let mut page = vec![0; header.page];
    let mut at = header.usable;
    for (i, cell) in cells.iter().enumerate() {
        at = at.checked_sub(cell.len()).filter(|at| *at >= 8 + 2 * cells.len())?;
        page[at..at + cell.len()].copy_from_slice(cell);
        page[8 + 2 * i..10 + 2 * i].copy_from_slice(&(at as u16).to_be_bytes());
    }
    page[0] = kind;
    page[3..5].copy_from_slice(&(cells.len() as u16).to_be_bytes());
    page[5..7].copy_from_slice(&(at as u16).to_be_bytes());
    Some(page)
}

impl Forge<'_> {
    pub(super) fn read(&self, no: u32) -> Vec<u8> {
        let mut page = vec![0; self.header.page];
        read_page(&*self.editor.overlay(), &self.header, no, &mut page).unwrap();
        page
    }

    pub(super) fn before(&self, no: u32) -> Vec<u8> {
        let mut page = vec![0; self.header.page];
        read_page(&overlay::Archived(&self.editor.overlay()), &self.header, no, &mut page).unwrap();
        page
    }

    pub(super) fn write(&self, no: u32, page: &[u8]) {
        self.editor.overlay().write_page(no, page).unwrap();
    }

    pub(super) fn written(&self) -> Vec<u32> {
        self.editor.overlay().written().into_iter().collect()
    }

    /// Pages of a kind, with their bytes; `written`: of those that the edit wrote.
    pub(super) fn pages(&self, kind: Kind, written: bool) -> Vec<(u32, Vec<u8>)> {
        let all = if written { self.written() } else { (2..=self.header.pages).collect() };
        all.into_iter()
            .map(|no| (no, self.read(no)))
            .filter(|(no, page)| tree(page, *no, &self.header).is_some_and(|t| t.kind() == Some(kind)))
            .collect()
    }

    pub(super) fn word(&self, no: u32, at: usize, value: u32) {
        let mut page = self.read(no);
        page[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self.write(no, &page);
    }

    /// The row id at the end of an index entry: at most two bytes here.
    fn row_of(cell: &[u8]) -> i64 {
        let (len, head) = (usize::from(cell[0]), usize::from(cell[1]));
        let end = &cell[1 + len
            - match cell[head] {
                8 | 9 => 0,
                n => usize::from(n),
            }..=len];
        match cell[head] {
            8 => 0,
            9 => 1,
            _ => end.iter().fold(0, |v, b| v << 8 | i64::from(*b)),
        }
    }
}

#[test]
fn a_freelist_of_another_length_than_the_header_says() {
    forge("one more", |f| {
        let free = be32(&f.read(1), 36).unwrap();
        f.word(1, 36, free + 1);
        free > 0
    });
}

#[test]
fn pages_that_come_or_go_without_anything_that_refers_to_them() {
    forge("a page at the end", |f| {
        let pages = f.header.pages;
        f.write(pages + 1, &leaf(13, &[], &f.header).unwrap());
        f.editor.overlay().write(u64::from(pages) * f.header.page as u64, &leaf(13, &[], &f.header).unwrap()).unwrap();
        f.word(1, 28, pages + 1);
        true
    });
    // The last page of a chain refers to nothing, so nothing else about it changes. It is moved to the end of the archive first.
    let dir = temp();
    let image = build(
        dir.path(),
        "PRAGMA page_size = 1024; CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE z(b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO customer SELECT i, 'user' || i || '@x.org' FROM n;
         INSERT INTO z VALUES(hex(zeroblob(3000)));",
    );
    let m = map(vec![collection("customer", &["email"], vec![probe(&["email"])])]);
    let (content, key) = (Archived::of(&image, &m), key());
    let mut editor = SqliteEditor::open(content, &key, Limits::default()).unwrap();
    let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["user5@x.org"])).unwrap();
    editor.apply(&m, &[0], &delete_all(found)).unwrap();
    let changed: Changed = [("customer".to_string(), [(5, true)].into())].into();
    assert!(conserved(&editor, &changed).unwrap());
    let header = editor.overlay().header().unwrap();
    let mut page = vec![0; header.page];
    read_page(&*editor.overlay(), &header, header.pages, &mut page).unwrap();
    assert!(be32(&page, 0) == Some(0) && tree(&page, header.pages, &header).is_none(), "the end of a chain");
    read_page(&*editor.overlay(), &header, 1, &mut page).unwrap();
    page[28..32].copy_from_slice(&(header.pages - 1).to_be_bytes());
    editor.overlay().write_page(1, &page).unwrap();
    editor.overlay().truncate(u64::from(header.pages - 1) * header.page as u64).unwrap();
    assert!(conserved(&editor, &changed).is_err());
}

#[test]
fn cells_in_another_order() {
    let exchange = |page: &mut Vec<u8>, i: usize| {
        let (a, b) = page[8 + 2 * i..12 + 2 * i].split_at_mut(2);
        a.swap_with_slice(b);
    };
    for kind in [Kind::IndexLeaf, Kind::TableLeaf] {
        forge("cells that stayed on their page", |f| {
            let Some((no, mut page)) = f.pages(kind, true).into_iter().find(|(_, page)| be16(page, 3).unwrap() > 3) else { return false };
            exchange(&mut page, 1);
            f.write(no, &page);
            true
        });
    }
    forge("cells that came from another page", |f| {
        for (no, mut page) in f.pages(Kind::TableLeaf, true) {
            let old: BTreeSet<Vec<u8>> = match tree(&f.before(no), no, &f.header) {
                Some(_) => cells(&f.before(no), no, &f.header).into_iter().collect(),
                None => BTreeSet::new(),
            };
            let new: Vec<bool> = cells(&page, no, &f.header).iter().map(|c| !old.contains(c)).collect();
            if let Some(i) = (1..new.len().saturating_sub(2)).find(|i| new[*i] && new[*i + 1]) {
                exchange(&mut page, i);
                f.write(no, &page);
                return true;
            }
        }
        false
    });
}

#[test]
fn rows_where_no_search_finds_them() {
    forge("two leaves have changed places", |f| {
        let leaves = f.pages(Kind::TableLeaf, true);
        let [(x, p), (y, q), ..] = leaves.as_slice() else { return false };
        f.write(*x, q);
        f.write(*y, p);
        true
    });
    forge("a row lies on the leaf before its own", |f| {
        let leaves = f.pages(Kind::TableLeaf, false);
        for (x, p) in &leaves {
            let last = tree(p, *x, &f.header).unwrap().cells.last().map_or(0, |c| c.rowid);
            let next = leaves.iter().find(|(y, q)| {
                let cells = tree(q, *y, &f.header).unwrap().cells;
                x != y && cells.len() > 2 && cells[0].rowid == last + 1 && cells[0].overflow == 0
            });
            let Some((y, q)) = next else { continue };
            let (mut mine, mut theirs) = (cells(p, *x, &f.header), cells(q, *y, &f.header));
            mine.push(theirs.remove(0));
            if let (Some(p), Some(q)) = (leaf(13, &mine, &f.header), leaf(13, &theirs, &f.header)) {
                f.write(*x, &p);
                f.write(*y, &q);
                return true;
            }
        }
        false
    });
    forge("a separator is too low for an unwritten leaf", |f| {
        let written = f.written();
        for (no, mut page) in f.pages(Kind::TableInterior, false) {
            let tree = tree(&page, no, &f.header).unwrap();
            for (cell, child) in tree.cells.iter().zip(&tree.children) {
                let at = cell.end as usize - 1;
                let last = self::tree(&f.read(*child), *child, &f.header).and_then(|t| t.cells.last().map(|c| c.rowid));
                if !written.contains(child) && page[at] & 0x7f > 1 && last == Some(cell.rowid) {
                    page[at] -= 1;
                    f.write(no, &page);
                    return true;
                }
            }
        }
        false
    });
}

#[test]
fn rows_and_entries_that_stay_or_go_beyond_what_was_decided() {
    forge("an index entry of a deleted row is still there", |f| {
        for (no, page) in f.pages(Kind::IndexLeaf, true) {
            let Some(_) = tree(&f.before(no), no, &f.header).filter(|t| t.kind() == Some(Kind::IndexLeaf)) else { continue };
            let (old, new) = (cells(&f.before(no), no, &f.header), cells(&page, no, &f.header));
            let stays = |cell: &&Vec<u8>| new.contains(cell);
            let Some(gone) = old.iter().find(|c| !stays(c) && f.changed.values().any(|rows| rows.contains_key(&Forge::row_of(c)))) else {
                continue;
            };
            // All that is left on the page was on it before.
            if !new.iter().all(|c| old.contains(c)) {
                continue;
            }
            let both: Vec<Vec<u8>> = old.iter().filter(|c| stays(c) || *c == gone).cloned().collect();
            if let Some(page) = leaf(10, &both, &f.header) {
                f.write(no, &page);
                return true;
            }
        }
        false
    });
    // Row ids that went from one table and stay in the other.
    let customer_only = |f: &Forge<'_>, row: i64| f.changed["customer"].contains_key(&row) && !f.changed["orders"].contains_key(&row);
    let is_order = |cell: &[u8]| memchr::memmem::find(cell, b"thing").is_some();
    forge("an index entry of another table's row with the same id is gone", |f| {
        for (no, page) in f.pages(Kind::IndexLeaf, false) {
            let mut all = cells(&page, no, &f.header);
            if let Some(i) = all.iter().position(|c| customer_only(f, Forge::row_of(c))) {
                all.remove(i);
                f.write(no, &leaf(10, &all, &f.header).unwrap());
                return true;
            }
        }
        false
    });
    forge("a row of another table with the same id is gone", |f| {
        for (no, page) in f.pages(Kind::TableLeaf, false) {
            let rows = tree(&page, no, &f.header).unwrap().cells;
            let mut all = cells(&page, no, &f.header);
            if let Some(i) = (0..all.len()).find(|i| customer_only(f, rows[*i].rowid) && is_order(&all[*i])) {
                all.remove(i);
                f.write(no, &leaf(13, &all, &f.header).unwrap());
                return true;
            }
        }
        false
    });
    forge("a row that was to go has not", |f| f.changed.get_mut("orders").unwrap().insert(3999, true).is_none());
    forge("a row that was to stay has gone", |f| {
        let row = *f.changed["orders"].keys().next().unwrap();
        f.changed.get_mut("orders").unwrap().insert(row, false).is_some()
    });
}

#[test]
fn long_values_of_rows_that_were_not_to_change() {
    forge("one byte of the rest of a row", |f| {
        for (no, page) in f.pages(Kind::TableLeaf, false) {
            let cells = tree(&page, no, &f.header).unwrap().cells;
            if let Some(cell) = cells.iter().find(|c| c.overflow != 0) {
                let mut page = f.read(cell.overflow);
                page[100] ^= 1;
                f.write(cell.overflow, &page);
                return f.content.report.scrubbed;
            }
        }
        false
    });
}
