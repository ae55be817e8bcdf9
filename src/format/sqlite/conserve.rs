//! What an edit wrote, compared with what was there before, cell by cell: a check that costs what the edit touched, whatever the size of the
//! database, and that says more about it than SQLite's own check, which knows only the database as it is now.
//!
//! Pages that were not written are as they were, and the database as archived was whole. So it is whole again when, over the written pages,
//! - **references balance**: every page that something referred to is referred to once, as before and as what it is (a child, a piece of a
//!   chain, a free page); new pages once, cut-off ones not at all;
//! - **levels hold**: children lie one level below their page, so no part of a tree hangs on itself instead of on the root;
//! - **cells are conserved**: a row or index entry that vanished is of a row that was to change, one that appeared is of a row that was to be
//!   rewritten, and each deleted row vanished once from its table and once from each of its indexes;
//! - **overflow pages** have changed only where rows that were to be rewritten continue;
//! - **pages hold together**: rows ascend and lie where a search from the root arrives, entries that stay keep their order, bytes add up.
//!
//! SQLite's order of index keys across pages is trusted: nothing of ours moves a cell.

use super::editor::SqliteEditor;
use super::levels::Levels;
use super::overlay::{Archived, Overlay};
use super::owners::Owners;
use super::pages::{Bad, Btree, Cell, HEADER, Header, Kind, be16, be32, trunk, varint};
use super::record::{Spans, chain, decode, locate};
use super::schema::{Schema, TableKind};
use super::scrub::for_freelist;
use super::{Image, read_page};
use crate::datamap::Value;
use crate::{Error, Result};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Rows that an edit changed, by table (lower case): whether each was deleted (or is still there).
pub(super) type Changed = HashMap<String, HashMap<i64, bool>>;

/// Whether this check can tell: not where pages move by themselves, rows have no ids, or an index of another kind follows the rows.
pub(super) fn applies(header: &Header, schema: &Schema, changed: &Changed) -> bool {
    let plain = |name: &String| schema.table(name).is_some_and(|t| t.kind == TableKind::Rowid);
    !header.auto_vacuum && header.pages < 1 << 25 && !changed.is_empty() && changed.keys().all(plain)
}

/// Bytes of the header that an edit changes: log mode, change counter, pages, freelist, who wrote it last.
const MOVES: [std::ops::Range<usize>; 3] = [18..20, 24..40, 92..100];

/// How often the entries of each row id may have vanished from all indexes, over those that appeared. An entry does not say of which table
/// its row is.
#[derive(Default, Clone, Copy)]
struct Due {
    /// Whether it was deleted from a table.
    deleted: bool,
    /// Whether it was to change and stay in one.
    rewritten: bool,
    /// Fewest entries of indexes that went for good.
    fewest: i64,
    /// Most of them.
    most: i64,
}

fn due(db: &Connection, changed: &Changed) -> rusqlite::Result<HashMap<i64, Due>> {
    let mut out: HashMap<i64, Due> = HashMap::new();
    let mut list = db.prepare("SELECT count(*), coalesce(sum(partial), 0) FROM pragma_index_list(?1)")?;
    for (table, rows) in changed {
        let (all, partial): (i64, i64) = list.query_row([table], |r| Ok((r.get(0)?, r.get(1)?)))?;
        for (row, deleted) in rows {
            let due = out.entry(*row).or_default();
            if *deleted {
                due.deleted = true;
                due.fewest += all - partial;
                due.most += all;
            } else {
                due.rewritten = true;
                due.fewest -= partial;
                due.most += partial;
            }
        }
    }
    Ok(out)
}

/// Root pages: of all tables and indexes, and the schema's own.
fn roots(db: &Connection) -> rusqlite::Result<BTreeSet<u32>> {
    let mut all = db.prepare("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 UNION ALL SELECT 1")?;
    all.query_map([], |r| r.get(0))?.collect()
}

/// What a page is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
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
enum Use {
    Child,
    Chain,
    Freelist,
}

impl Sort {
    fn used(self) -> Option<Use> {
        match self {
            Sort::Tree => Some(Use::Child),
            Sort::Overflow => Some(Use::Chain),
            Sort::Trunk | Sort::Free => Some(Use::Freelist),
            Sort::Nothing => None,
        }
    }
}

/// One side: the database before the edit, or after it.
struct Side<'a> {
    image: &'a dyn Image,
    header: Header,
    free: BTreeMap<u32, bool>,
    tree: Btree,
    page: Vec<u8>,
}

impl<'a> Side<'a> {
    fn new(image: &'a dyn Image) -> Result<Side<'a>> {
        let header = image.header()?;
        let mut free = BTreeMap::new();
        for_freelist(image, &header, &mut |no, is_trunk| match free.insert(no, is_trunk) {
            None => Ok(()),
            Some(_) => Err(Bad { page: no, what: "listed twice in the freelist" }),
        })?;
        let page = vec![0; header.page];
        Ok(Side { image, header, free, tree: Btree::default(), page })
    }

    /// Reads and parses a page. Below 2^25 pages an overflow page begins with a byte that no b-tree page begins with.
    fn open(&mut self, no: u32) -> Result<Sort> {
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
    fn refers(&self, no: u32, sort: Sort) -> Result<Vec<(u32, Use)>> {
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
    fn cell(&self, table: Option<u32>, cell: &Cell) -> Option<[u8; 16]> {
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
    fn row(&self, no: u32, cell: &Cell) -> Result<Option<i64>> {
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
    fn goes_on(&self, cell: &Cell, out: &mut BTreeSet<u32>) -> Result<()> {
        chain(self.image, &self.header, cell.overflow, cell.spilled(), &mut |no, _| match out.insert(no) {
            true => Ok(()),
            false => Err(Bad { page: no, what: "an overflow chain is used twice" }),
        })
    }
}

/// A cell that is on one side only.
struct Moved {
    delta: i64,
    /// The root of its table; `None` for an index entry.
    table: Option<u32>,
    row: Option<i64>,
}

/// Runs the check on an edited database; `true` when it could tell.
pub(super) fn run(editor: &SqliteEditor<'_>, db: &Connection, changed: &Changed) -> Result<bool> {
    // The connection reads under the overlay's lock.
    let due = due(db, changed).map_err(Error::sqlite("counting indexes"))?;
    let roots = roots(db).map_err(Error::sqlite("reading the schema"))?;
    check(&editor.overlay(), &editor.schema, changed, due, &roots).map(|()| true)
}

/// Fails unless the edit changed exactly what it was to change. See the module for what that says, and [`applies`] for when it can be said.
/// `due` and `roots` come from the functions of the same names.
fn check(overlay: &Overlay, schema: &Schema, changed: &Changed, due: HashMap<i64, Due>, roots: &BTreeSet<u32>) -> Result<()> {
    let path = overlay.path();
    let broken = |what: String| Error::Verification(format!("{path}: after the edit, {what}; nothing was changed"));
    let archived = Archived(overlay);
    let (mut before, mut after) = (Side::new(&archived)?, Side::new(overlay)?);
    let (was, is) = (first_page(&before)?, first_page(&after)?);
    if let Some(at) = (0..HEADER).filter(|at| !MOVES.iter().any(|m| m.contains(at))).find(|at| was.get(*at) != is.get(*at)) {
        return Err(broken(format!("byte {at} of the header changed")));
    }
    if be32(&is, 36) != u32::try_from(after.free.len()).ok() {
        return Err(broken("the freelist is not as long as the database says".into()));
    }
    let pages = (before.header.pages, after.header.pages);
    // Pages that were cut off refer to nothing any more.
    let mut written = overlay.written();
    written.extend(pages.1 + 1..=pages.0);

    // References over uses: each page is as often referred to as something as it is that.
    let mut references: HashMap<(u32, Use), i64> = HashMap::new();
    let mut cells: HashMap<[u8; 16], Moved> = HashMap::new();
    let mut rewritten: BTreeSet<u32> = BTreeSet::new();
    let mut chains: BTreeSet<u32> = BTreeSet::new();
    let (mut owners_before, mut owners) = (Owners::default(), Owners::default());
    let (mut levels_before, mut levels) = (Levels::default(), Levels::default());
    let (mut other_level, mut other_parent): (BTreeSet<u32>, BTreeSet<u32>) = Default::default();
    for no in written.iter().copied() {
        let (was, is) = (before.open(no)?, after.open(no)?);
        for (side, sort, n) in [(&before, was, -1), (&after, is, 1)] {
            let own = sort.used().map(|as_what| (no, as_what, -n));
            for (page, as_what, n) in side.refers(no, sort)?.into_iter().map(|(page, as_what)| (page, as_what, n)).chain(own) {
                let balance = references.entry((page, as_what)).or_default();
                *balance += n;
                if *balance == 0 {
                    references.remove(&(page, as_what));
                }
            }
        }
        if is == Sort::Overflow && before.page != after.page {
            rewritten.insert(no);
        }
        let (mut table_before, mut table) = (None, None);
        let tree_before = (was == Sort::Tree).then_some(&before.tree);
        if was == Sort::Tree {
            table_before = table_of(&mut owners_before, &before, no, schema, changed)?;
        }
        if is == Sort::Tree {
            adds_up(&after.tree, &after.page, no, &after.header).map_err(|b| b.at(&path))?;
            table = table_of(&mut owners, &after, no, schema, changed)?;
            in_place(&mut owners, &after, no, table)?;
            separated(&after, no, tree_before, &mut levels)?;
            let known: BTreeSet<u32> = tree_before.into_iter().flat_map(|t| &t.children).copied().collect();
            other_parent.extend(after.tree.children.iter().filter(|child| !known.contains(child)));
            // A page below the same first child as before is as high as before.
            if tree_before.is_some_and(|t| t.children.first() != after.tree.children.first())
                && levels_before.of(before.image, &before.header, no)? != levels.of(after.image, &after.header, no)?
            {
                other_level.insert(no);
            }
        }
        // What stays on its page is no news.
        let mut here: HashMap<[u8; 16], i64> = HashMap::new();
        let mut order: Vec<[u8; 16]> = Vec::new();
        if was == Sort::Tree {
            for id in before.tree.cells.iter().filter_map(|c| before.cell(table_before, c)) {
                *here.entry(id).or_default() -= 1;
                order.push(id);
            }
        }
        if is == Sort::Tree {
            let mut place = 0;
            for id in after.tree.cells.iter().filter_map(|c| after.cell(table, c)) {
                if here.contains_key(&id) && was == Sort::Tree {
                    match order.iter().skip(place).position(|o| *o == id) {
                        Some(n) => place += n + 1,
                        None => return Err(broken(format!("cells of page {no} have another order"))),
                    }
                }
                *here.entry(id).or_default() += 1;
            }
        }
        for (side, sort, table, sign) in [(&before, was, table_before, -1), (&after, is, table, 1)] {
            if sort != Sort::Tree {
                continue;
            }
            for cell in &side.tree.cells {
                let Some(id) = side.cell(table, cell).filter(|id| here.get(id).is_some_and(|n| n.signum() == sign)) else { continue };
                here.entry(id).and_modify(|n| *n -= sign);
                let row = side.row(no, cell)?;
                let moved = cells.entry(id).or_insert(Moved { delta: 0, table, row });
                moved.delta += sign;
                // What only moved to another page takes no memory for longer.
                if moved.delta == 0 {
                    cells.remove(&id);
                }
            }
        }
    }
    if let Some(((page, _), n)) = references.iter().min_by_key(|((page, _), _)| *page) {
        return Err(broken(format!("page {page} is referred to {n} times more than it should be")));
    }
    if let Some(page) = (pages.0 + 1..=pages.1).find(|p| *p != after.header.lock_page() && !written.contains(p)) {
        return Err(broken(format!("there is a page {page}, to which nothing was written")));
    }
    if let Some(page) = other_level.iter().find(|p| !other_parent.contains(p) && !roots.contains(p)) {
        return Err(broken(format!("page {page} is on another level than before")));
    }

    // Vanished over appeared: rows by table and row id, index entries by row id.
    let decided: HashMap<u32, &HashMap<i64, bool>> =
        changed.iter().filter_map(|(name, rows)| schema.table(name).map(|t| (t.root, rows))).collect();
    let (mut rows, mut entries): (HashMap<(u32, i64), i64>, HashMap<i64, i64>) = Default::default();
    for moved in cells.values() {
        let row = moved.row.unwrap_or_default();
        let (what, may_go, may_come) = match moved.table {
            Some(table) => {
                *rows.entry((table, row)).or_default() -= moved.delta;
                let deleted = decided.get(&table).and_then(|rows| rows.get(&row));
                ("a row", deleted.is_some(), deleted == Some(&false))
            }
            None => {
                *entries.entry(row).or_default() -= moved.delta;
                let due = moved.row.and_then(|row| due.get(&row)).copied().unwrap_or_default();
                ("an index entry", due.deleted || due.rewritten, due.rewritten)
            }
        };
        if moved.delta > 0 && !may_come {
            return Err(broken(format!("there is {what} that nothing had decided about")));
        }
        if !may_go {
            return Err(broken(format!("{what} is gone that nothing had decided about")));
        }
    }
    for (table, row, deleted) in decided.iter().flat_map(|(table, rows)| rows.iter().map(|(row, deleted)| (*table, *row, *deleted))) {
        let gone = rows.get(&(table, row)).copied().unwrap_or_default();
        if gone != i64::from(deleted) {
            return Err(broken(format!("{gone} rows are gone where {} was to go", i64::from(deleted))));
        }
    }
    for (row, due) in &due {
        let gone = entries.get(row).copied().unwrap_or_default();
        if gone < due.fewest || gone > due.most {
            return Err(broken(format!("{gone} index entries of a row are gone where {} to {} were to go", due.fewest, due.most)));
        }
    }

    // What goes on elsewhere: only that of rows that changed.
    if rewritten.is_empty() {
        return Ok(());
    }
    for no in written.iter().copied() {
        if after.open(no)? == Sort::Tree {
            let table = table_of(&mut owners, &after, no, schema, changed)?;
            for cell in after.tree.cells.iter().filter(|c| c.overflow != 0) {
                if after.cell(table, cell).is_some_and(|id| cells.contains_key(&id)) {
                    after.goes_on(cell, &mut chains)?;
                }
            }
        }
    }
    if rewritten.iter().all(|no| chains.contains(no)) {
        return Ok(());
    }
    // A row that was overwritten where it lies may be as it was on its own page.
    for (table, rows) in changed {
        let Some(table) = schema.table(table) else { continue };
        for row in rows.iter().filter(|(_, deleted)| !**deleted).map(|(row, _)| *row) {
            let Some(no) = owners.locate(overlay, &after.header, table.root, row)? else { continue };
            if after.open(no)? == Sort::Tree
                && let Some(cell) = after.tree.cells.iter().find(|c| c.rowid == row && c.overflow != 0 && !chains.contains(&c.overflow))
            {
                after.goes_on(cell, &mut chains)?;
            }
        }
    }
    match rewritten.iter().find(|no| !chains.contains(no)) {
        Some(no) => Err(broken(format!("page {no} changed, on which nothing goes on that was to change"))),
        None => Ok(()),
    }
}

fn first_page(side: &Side<'_>) -> Result<Vec<u8>> {
    let mut page = vec![0; side.header.page];
    read_page(side.image, &side.header, 1, &mut page)?;
    Ok(page)
}

/// The root of the table whose rows lie on this leaf: the one from which a search for the first of them arrives here. `None` where there are
/// no rows.
fn table_of(owners: &mut Owners, side: &Side<'_>, no: u32, schema: &Schema, changed: &Changed) -> Result<Option<u32>> {
    let Some(first) = side.tree.cells.first().filter(|_| side.tree.kind() == Some(Kind::TableLeaf)) else { return Ok(None) };
    let own = changed.keys().filter_map(|name| schema.table(name));
    for root in own.chain(schema.tables()).map(|t| t.root).filter(|root| *root > 0).chain([1]) {
        if owners.locate(side.image, &side.header, root, first.rowid)? == Some(no) {
            return Ok(Some(root));
        }
    }
    // Or it is of a table of SQLite's own that the schema does not list.
    Err(Bad { page: no, what: "its first row is not where it is searched for" }.at(&side.image.path()))
}

/// Rows ascend, and a search from the root of their table arrives at this page for the last of them as for the first.
fn in_place(owners: &mut Owners, side: &Side<'_>, no: u32, table: Option<u32>) -> Result<()> {
    let bad = |what| Bad { page: no, what }.at(&side.image.path());
    if side.tree.kind().is_some_and(Kind::is_table) && side.tree.cells.windows(2).any(|w| matches!(w, [a, b] if a.rowid >= b.rowid)) {
        return Err(bad("its rows do not ascend"));
    }
    let (Some(table), Some(last)) = (table, side.tree.cells.last()) else { return Ok(()) };
    match owners.locate(side.image, &side.header, table, last.rowid)? == Some(no) {
        true => Ok(()),
        false => Err(bad("its last row is not where it is searched for")),
    }
}

/// Children of an inner page with the row ids between which theirs lie: above the first, up to the second.
fn bounds(tree: &Btree) -> impl Iterator<Item = (u32, Option<i64>, Option<i64>)> {
    let lowest = std::iter::once(None).chain(tree.cells.iter().map(|c| Some(c.rowid)));
    let highest = tree.cells.iter().map(|c| Some(c.rowid)).chain([None]);
    tree.children.iter().copied().zip(lowest.zip(highest)).map(|(child, (low, high))| (child, low, high))
}

/// Children of an inner page lie on the level below it, and their rows between its separators; looked at where these are others than before.
fn separated(side: &Side<'_>, no: u32, before: Option<&Btree>, levels: &mut Levels) -> Result<()> {
    if side.tree.is_leaf() {
        return Ok(());
    }
    let known: BTreeSet<_> = before.filter(|t| t.kind() == side.tree.kind()).into_iter().flat_map(bounds).collect();
    let is_table = side.tree.kind().is_some_and(Kind::is_table);
    let (mut tree, mut page) = (Btree::default(), vec![0; side.header.page]);
    for (child, low, high) in bounds(&side.tree).filter(|b| !known.contains(b)) {
        let bad = |what| Bad { page: no, what }.at(&side.image.path());
        if levels.of(side.image, &side.header, child)? + 1 != levels.of(side.image, &side.header, no)? {
            return Err(bad("the pages below it are not on one level"));
        }
        read_page(side.image, &side.header, child, &mut page)?;
        tree.parse(&page, child, &side.header).map_err(|b| b.at(&side.image.path()))?;
        let fits = |c: &Cell| low.is_none_or(|low| low < c.rowid) && high.is_none_or(|high| c.rowid <= high);
        if tree.kind().is_some_and(Kind::is_table) != is_table || (is_table && !tree.cells.iter().all(fits)) {
            return Err(bad("the rows below it do not lie between its separators"));
        }
    }
    Ok(())
}

/// Every byte of a page is a cell's, free, or a fragment, and as many are fragments as the page says.
fn adds_up(tree: &Btree, page: &[u8], no: u32, header: &Header) -> std::result::Result<(), Bad> {
    let bad = |what| Bad { page: no, what };
    let at = if no == 1 { HEADER } else { 0 };
    let word = |at: usize| be16(page, at).ok_or(bad("shorter than a page"));
    let start = match word(at + 5)? {
        0 => 65_536,
        n => n,
    };
    let used: usize = tree.cells.iter().map(|c| ((c.end - c.start) as usize).max(4)).sum();
    let (mut free, mut block) = (0, word(at + 1)?);
    while block != 0 {
        free += word(block + 2)?;
        block = word(block)?;
    }
    let fragments = usize::from(page.get(at + 7).copied().unwrap_or(0));
    match start + used + free + fragments == header.usable && tree.cells.iter().all(|c| c.start as usize >= start) {
        true => Ok(()),
        false => Err(bad("its bytes do not add up")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{Archived as Content, build, collection, delete_all, key, map, probe, temp, wanted};
    use super::super::{connect, overlay, scrub::Edit};
    use super::*;
    use crate::format::EntryEditor;

    const SQL: &str = "PRAGMA page_size = 1024;
        CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, note TEXT);
        CREATE TABLE orders(id INTEGER PRIMARY KEY, email TEXT, what TEXT);
        CREATE INDEX orders_email ON orders(email); CREATE INDEX orders_some ON orders(what) WHERE id % 2 = 0;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
            INSERT INTO customer SELECT i, 'user' || i || '@x.org', 'name ' || i, CASE i % 7 WHEN 0 THEN hex(randomblob(1500)) END FROM n;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
            INSERT INTO orders SELECT i, 'user' || (i % 500 + 1) || '@x.org', 'thing ' || (i * 7919 % 4000) FROM n;
        DELETE FROM customer WHERE id % 31 = 0;";

    pub(crate) fn edited() -> (tempfile::TempDir, std::sync::Arc<Content>, crate::datamap::DataMap) {
        let dir = temp();
        let image = build(dir.path(), SQL);
        let map = map(vec![
            collection("customer", &["email"], vec![probe(&["email"])]),
            collection("orders", &["email"], vec![probe(&["email"])]),
        ]);
        let content = Content::of(&image, &map);
        (dir, content, map)
    }

    /// A database from which a few people went, before its pieces are given back; and which rows changed.
    pub(crate) fn erase<'k>(
        content: &std::sync::Arc<Content>,
        map: &crate::datamap::DataMap,
        key: &'k crate::datamap::TokenKey,
    ) -> (SqliteEditor<'k>, Changed) {
        let mut editor = SqliteEditor::open(content.clone(), key, overlay::Limits::default()).unwrap();
        let people: Vec<String> = (0..40).map(|i| format!("user{}@x.org", i * 7 + 7)).collect();
        let people: Vec<&str> = people.iter().map(String::as_str).collect();
        let mut found = editor.find(map, 0, &map.collections[0].probes[0], &wanted(key, &people)).unwrap();
        found.extend(editor.find(map, 1, &map.collections[1].probes[0], &wanted(key, &people)).unwrap());
        let mut changed = Changed::new();
        for f in &found {
            let crate::format::RecordKey::Row(row) = f.key else { panic!("a row") };
            changed.entry(["customer", "orders"][f.collection].into()).or_default().insert(row, true);
        }
        assert!(changed["orders"].len() > 200 && changed["customer"].len() > 30);
        let applied = editor.apply(map, &[1, 0], &delete_all(found)).unwrap();
        assert!(applied.notes.iter().any(|n| n.contains("row by row")), "{:?}", applied.notes);
        (editor, changed)
    }

    pub(crate) fn conserved(editor: &SqliteEditor<'_>, changed: &Changed) -> Result<bool> {
        let db = connect::for_reading(&editor.overlay, &editor.limits)?;
        run(editor, db.connection(), changed)
    }

    /// SQLite's own check of everything.
    pub(crate) fn whole(editor: &SqliteEditor<'_>) -> bool {
        let Ok(db) = connect::for_reading(&editor.overlay, &editor.limits) else { return false };
        db.connection().query_row("PRAGMA integrity_check(1)", [], |r| r.get::<_, String>(0)).is_ok_and(|t| t == "ok")
    }

    #[test]
    fn whatever_sqlites_check_of_everything_finds_on_a_written_page_this_one_finds() {
        let (_dir, content, map) = edited();
        let key = key();
        let (editor, changed) = erase(&content, &map, &key);
        assert!(whole(&editor) && conserved(&editor, &changed).unwrap());
        let written: Vec<u32> = editor.overlay().written().into_iter().collect();
        let header = editor.overlay().header().unwrap();
        let mut seed = 1u64;
        let mut chance = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let (mut theirs, mut ours) = (0, 0);
        for round in 0..300 {
            let no = written[chance(written.len())];
            let mut page = vec![0; header.page];
            read_page(&*editor.overlay(), &header, no, &mut page).unwrap();
            let good = page.clone();
            // Half of them where pages say how they are made.
            let at = if round % 2 == 0 { chance(40) + if no == 1 { 100 } else { 0 } } else { chance(page.len()) };
            match chance(4) {
                0 => page[at] ^= 1 << chance(8),
                1 => page[at] = chance(256) as u8,
                2 => page[at..].iter_mut().take(8).for_each(|b| *b = 0),
                _ => {
                    let from = chance(page.len() - 4);
                    let four: Vec<u8> = page[from..from + 4].to_vec();
                    page[at.min(header.page - 4)..][..4].copy_from_slice(&four);
                }
            }
            editor.overlay().write_page(no, &page).unwrap();
            let (is_whole, is_conserved) = (whole(&editor), conserved(&editor, &changed).is_ok());
            assert!(is_whole || !is_conserved, "round {round}: byte {at} of page {no}, which SQLite finds and this check does not");
            theirs += u32::from(!is_whole);
            ours += u32::from(!is_conserved);
            editor.overlay().write_page(no, &good).unwrap();
        }
        assert!(theirs > 80 && ours > theirs, "{theirs} found by SQLite, {ours} here");
        assert!(conserved(&editor, &changed).unwrap());
    }

    #[test]
    fn a_row_that_goes_or_changes_beyond_what_was_decided_is_noticed_where_sqlite_sees_nothing_wrong() {
        for sql in [
            "DELETE FROM customer WHERE id = 1400",
            "DELETE FROM customer WHERE id = 700",
            "UPDATE customer SET name = 'other' WHERE id = 3",
            "UPDATE customer SET note = 'other' WHERE id = 1400",
            "UPDATE orders SET email = 'z@x.org' WHERE id = 3999",
            "INSERT INTO orders VALUES(NULL, 'z@x.org', 'more')",
            "CREATE TABLE more(a)",
            "DROP INDEX orders_some",
            "PRAGMA user_version = 7",
        ] {
            let (_dir, content, map) = edited();
            let key = key();
            let (editor, changed) = erase(&content, &map, &key);
            connect::for_edit(&editor.overlay, &editor.limits, false).unwrap().connection().execute_batch(sql).unwrap();
            assert!(whole(&editor), "{sql}");
            assert!(conserved(&editor, &changed).is_err(), "{sql}");
        }
    }
}
