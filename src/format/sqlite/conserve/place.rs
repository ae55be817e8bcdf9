//! Where things lie: rows where a search from the root of their table arrives, children between their separators and on one level, bytes
//! that add up.

use super::Changed;
use super::side::Side;
use crate::Result;
use crate::format::sqlite::levels::Levels;
use crate::format::sqlite::owners::Owners;
use crate::format::sqlite::pages::{Bad, Btree, Cell, HEADER, Header, Kind, be16};
use crate::format::sqlite::read_page;
use crate::format::sqlite::schema::Schema;
use std::collections::BTreeSet;

/// The root of the table whose rows lie on this leaf: the one from which a search for the first of them arrives here. `None` where there are
/// no rows.
pub(super) fn table_of(owners: &mut Owners, side: &Side<'_>, no: u32, schema: &Schema, changed: &Changed) -> Result<Option<u32>> {
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
pub(super) fn in_place(owners: &mut Owners, side: &Side<'_>, no: u32, table: Option<u32>) -> Result<()> {
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
pub(super) fn separated(side: &Side<'_>, no: u32, before: Option<&Btree>, levels: &mut Levels) -> Result<()> {
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
pub(super) fn adds_up(tree: &Btree, page: &[u8], no: u32, header: &Header) -> std::result::Result<(), Bad> {
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
