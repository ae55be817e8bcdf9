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
//! SQLite's order of index keys across pages is trusted, since nothing of ours moves a cell; and so is what it writes into the index entries of
//! rewritten rows.

mod due;
mod place;
mod side;
#[cfg(test)]
pub(super) mod tests;

use super::Image;
use super::editor::SqliteEditor;
use super::levels::Levels;
use super::overlay::{Archived, Overlay};
use super::owners::Owners;
use super::pages::{HEADER, Header, be32};
use super::schema::{Schema, TableKind};
use crate::{Error, Result};
use due::Due;
use place::{adds_up, in_place, separated, table_of};
use rusqlite::Connection;
use side::{CellId, Side, Sort, Use};
use std::collections::{BTreeSet, HashMap};

/// Rows that an edit changed, by table (lower case): whether each was deleted (or is still there).
pub(super) type Changed = HashMap<String, HashMap<i64, bool>>;

/// Whether this check can tell: not where pages move by themselves, rows have no ids, or an index of another kind follows the rows.
pub(super) fn applies(header: &Header, schema: &Schema, changed: &Changed) -> bool {
    let plain = |name: &String| schema.table(name).is_some_and(|t| t.kind == TableKind::Rowid);
    !header.auto_vacuum && header.pages < 1 << 25 && !changed.is_empty() && changed.keys().all(plain)
}

/// Bytes of the header that an edit changes: log mode, change counter, pages, freelist, who wrote it last.
const MOVES: [std::ops::Range<usize>; 3] = [18..20, 24..40, 92..100];

/// Root pages: of all tables and indexes, and the schema's own.
fn roots(db: &Connection) -> rusqlite::Result<BTreeSet<u32>> {
    let mut all = db.prepare("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 UNION ALL SELECT 1")?;
    all.query_map([], |r| r.get(0))?.collect()
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
    // The connections read under their overlays' locks.
    let due = due::all(db, &|| editor.as_archived(), &editor.schema, changed).map_err(Error::sqlite("counting index entries"))?;
    let roots = roots(db).map_err(Error::sqlite("reading the schema"))?;
    let overlay = editor.overlay();
    let archived = Archived(&overlay);
    let mut check = Check::new(&archived, &overlay, &editor.schema, changed)?;
    check.header()?;
    for no in check.written.clone() {
        check.page(no)?;
    }
    check.references_balance()?;
    check.levels_hold(&roots)?;
    check.cells_are_conserved(&due)?;
    check.chains_are_as_they_were()?;
    Ok(true)
}

/// The check under way. See the module for what it says, and [`applies`] for when it can be said.
struct Check<'a> {
    path: String,
    schema: &'a Schema,
    changed: &'a Changed,
    before: Side<'a>,
    after: Side<'a>,
    /// Pages that were written, and those that were cut off: these refer to nothing any more.
    written: BTreeSet<u32>,
    owners: [Owners; 2],
    levels: [Levels; 2],
    /// References over uses: each page is as often referred to as something as it is that.
    references: HashMap<(u32, Use), i64>,
    /// Cells that are on one side only.
    cells: HashMap<CellId, Moved>,
    /// Overflow pages with other bytes than before.
    rewritten: BTreeSet<u32>,
    /// Pages that are on another level than before, and pages with another parent.
    other_level: BTreeSet<u32>,
    other_parent: BTreeSet<u32>,
}

impl<'a> Check<'a> {
    fn new(archived: &'a dyn Image, overlay: &'a Overlay, schema: &'a Schema, changed: &'a Changed) -> Result<Check<'a>> {
        let (before, after) = (Side::new(archived)?, Side::new(overlay)?);
        let mut written = overlay.written();
        written.extend(after.header.pages + 1..=before.header.pages);
        Ok(Check {
            path: overlay.path(),
            schema,
            changed,
            before,
            after,
            written,
            owners: Default::default(),
            levels: Default::default(),
            references: HashMap::new(),
            cells: HashMap::new(),
            rewritten: BTreeSet::new(),
            other_level: BTreeSet::new(),
            other_parent: BTreeSet::new(),
        })
    }

    fn broken(&self, what: String) -> Error {
        Error::Verification(format!("{}: after the edit, {what}; nothing was changed", self.path))
    }

    /// The header is as it was, but for what every edit changes.
    fn header(&self) -> Result<()> {
        let (was, is) = (self.before.first_page()?, self.after.first_page()?);
        if let Some(at) = (0..HEADER).filter(|at| !MOVES.iter().any(|m| m.contains(at))).find(|at| was.get(*at) != is.get(*at)) {
            return Err(self.broken(format!("byte {at} of the header changed")));
        }
        match be32(&is, 36) == u32::try_from(self.after.free.len()).ok() {
            true => Ok(()),
            false => Err(self.broken("the freelist is not as long as the database says".into())),
        }
    }

    /// Looks at a page on both sides, and notes what is news.
    fn page(&mut self, no: u32) -> Result<()> {
        let (was, is) = (self.before.open(no)?, self.after.open(no)?);
        self.refer(no, was, is)?;
        if is == Sort::Overflow && self.before.page != self.after.page {
            self.rewritten.insert(no);
        }
        let (mut table_before, mut table) = (None, None);
        if was == Sort::Tree {
            table_before = table_of(&mut self.owners[0], &self.before, no, self.schema, self.changed)?;
        }
        if is == Sort::Tree {
            adds_up(&self.after.tree, &self.after.page, no, &self.after.header).map_err(|b| b.at(&self.path))?;
            table = table_of(&mut self.owners[1], &self.after, no, self.schema, self.changed)?;
            in_place(&mut self.owners[1], &self.after, no, table)?;
            self.hang(no, was)?;
        }
        self.move_cells(no, (was, table_before), (is, table))
    }

    /// Notes what the page refers to and is used as, on both sides.
    fn refer(&mut self, no: u32, was: Sort, is: Sort) -> Result<()> {
        for (side, sort, n) in [(&self.before, was, -1), (&self.after, is, 1)] {
            let own = sort.used().map(|as_what| (no, as_what, -n));
            for (page, as_what, n) in side.refers(no, sort)?.into_iter().map(|(page, as_what)| (page, as_what, n)).chain(own) {
                let balance = self.references.entry((page, as_what)).or_default();
                *balance += n;
                if *balance == 0 {
                    self.references.remove(&(page, as_what));
                }
            }
        }
        Ok(())
    }

    /// What hangs on a b-tree page lies between its separators and on one level; notes where that is another level than before.
    fn hang(&mut self, no: u32, was: Sort) -> Result<()> {
        let before = (was == Sort::Tree).then_some(&self.before.tree);
        let [levels_before, levels] = &mut self.levels;
        separated(&self.after, no, before, levels)?;
        let known: BTreeSet<u32> = before.into_iter().flat_map(|t| &t.children).copied().collect();
        self.other_parent.extend(self.after.tree.children.iter().filter(|child| !known.contains(child)));
        // A page below the same first child as before is as high as before.
        if before.is_some_and(|t| t.children.first() != self.after.tree.children.first())
            && levels_before.of(self.before.image, &self.before.header, no)? != levels.of(self.after.image, &self.after.header, no)?
        {
            self.other_level.insert(no);
        }
        Ok(())
    }

    /// Notes the cells that came to a page and went from it. What stays on its page is no news, and keeps its order.
    fn move_cells(&mut self, no: u32, (was, table_before): (Sort, Option<u32>), (is, table): (Sort, Option<u32>)) -> Result<()> {
        let mut here: HashMap<CellId, i64> = HashMap::new();
        let mut order: Vec<CellId> = Vec::new();
        if was == Sort::Tree {
            for id in self.before.tree.cells.iter().filter_map(|c| self.before.cell(table_before, c)) {
                *here.entry(id).or_default() -= 1;
                order.push(id);
            }
        }
        if is == Sort::Tree {
            let mut place = 0;
            for id in self.after.tree.cells.iter().filter_map(|c| self.after.cell(table, c)) {
                if here.contains_key(&id) && was == Sort::Tree {
                    match order.iter().skip(place).position(|o| *o == id) {
                        Some(n) => place += n + 1,
                        None => return Err(self.broken(format!("cells of page {no} have another order"))),
                    }
                }
                *here.entry(id).or_default() += 1;
            }
        }
        for (side, sort, table, sign) in [(&self.before, was, table_before, -1), (&self.after, is, table, 1)] {
            if sort != Sort::Tree {
                continue;
            }
            for cell in &side.tree.cells {
                let Some(id) = side.cell(table, cell).filter(|id| here.get(id).is_some_and(|n| n.signum() == sign)) else { continue };
                here.entry(id).and_modify(|n| *n -= sign);
                let row = side.row(no, cell)?;
                let moved = self.cells.entry(id).or_insert(Moved { delta: 0, table, row });
                moved.delta += sign;
                // What only moved to another page takes no memory for longer.
                if moved.delta == 0 {
                    self.cells.remove(&id);
                }
            }
        }
        Ok(())
    }

    fn references_balance(&self) -> Result<()> {
        if let Some(((page, _), n)) = self.references.iter().min_by_key(|((page, _), _)| *page) {
            return Err(self.broken(format!("page {page} is referred to {n} times more than it should be")));
        }
        let mut new = self.before.header.pages + 1..=self.after.header.pages;
        match new.find(|p| *p != self.after.header.lock_page() && !self.written.contains(p)) {
            Some(page) => Err(self.broken(format!("there is a page {page}, to which nothing was written"))),
            None => Ok(()),
        }
    }

    fn levels_hold(&self, roots: &BTreeSet<u32>) -> Result<()> {
        match self.other_level.iter().find(|p| !self.other_parent.contains(p) && !roots.contains(p)) {
            Some(page) => Err(self.broken(format!("page {page} is on another level than before"))),
            None => Ok(()),
        }
    }

    fn cells_are_conserved(&self, due: &HashMap<i64, Due>) -> Result<()> {
        // Vanished over appeared: rows by table and row id, index entries by row id.
        let decided: HashMap<u32, &HashMap<i64, bool>> =
            self.changed.iter().filter_map(|(name, rows)| self.schema.table(name).map(|t| (t.root, rows))).collect();
        let (mut rows, mut entries): (HashMap<(u32, i64), i64>, HashMap<i64, i64>) = Default::default();
        for moved in self.cells.values() {
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
                return Err(self.broken(format!("there is {what} that nothing had decided about")));
            }
            if !may_go {
                return Err(self.broken(format!("{what} is gone that nothing had decided about")));
            }
        }
        for (table, row, deleted) in decided.iter().flat_map(|(table, rows)| rows.iter().map(|(row, deleted)| (*table, *row, *deleted))) {
            let gone = rows.get(&(table, row)).copied().unwrap_or_default();
            if gone != i64::from(deleted) {
                return Err(self.broken(format!("{gone} rows are gone where {} was to go", i64::from(deleted))));
            }
        }
        for (row, due) in due {
            let gone = entries.get(row).copied().unwrap_or_default();
            if gone < due.fewest || gone > due.most {
                return Err(self.broken(format!("{gone} index entries of a row are gone where {} to {} were to go", due.fewest, due.most)));
            }
        }
        Ok(())
    }

    /// What goes on elsewhere: only that of rows that changed.
    fn chains_are_as_they_were(&mut self) -> Result<()> {
        let Check { schema, changed, after, written, owners: [_, owners], cells, rewritten, .. } = self;
        if rewritten.is_empty() {
            return Ok(());
        }
        let mut chains: BTreeSet<u32> = BTreeSet::new();
        for no in written.iter().copied() {
            if after.open(no)? == Sort::Tree {
                let table = table_of(owners, after, no, schema, changed)?;
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
        for (table, rows) in changed.iter() {
            let Some(table) = schema.table(table) else { continue };
            for row in rows.iter().filter(|(_, deleted)| !**deleted).map(|(row, _)| *row) {
                let Some(no) = owners.locate(after.image, &after.header, table.root, row)? else { continue };
                if after.open(no)? == Sort::Tree
                    && let Some(cell) = after.tree.cells.iter().find(|c| c.rowid == row && c.overflow != 0 && !chains.contains(&c.overflow))
                {
                    after.goes_on(cell, &mut chains)?;
                }
            }
        }
        let other = rewritten.iter().copied().find(|no| !chains.contains(no));
        match other {
            Some(no) => Err(self.broken(format!("page {no} changed, on which nothing goes on that was to change"))),
            None => Ok(()),
        }
    }
}
