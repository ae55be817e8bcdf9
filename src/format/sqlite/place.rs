//! Where in a run of pages a byte range lies: SQLite stores a row's columns back to back, so whether a find is a whole word can only be told
//! within its column.

use super::RUN;
use super::pages::{Btree, Header, varint};
use super::record::width;
use std::ops::Range;

/// What a byte range of a run belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A column of a live row or index entry: its bytes, as a range of the run.
    Column(Range<usize>),
    /// A page that is no b-tree page: the middle of one long value.
    Overflow,
    /// Between what lives: remains.
    Gap,
}

/// Where `hit` lies.
pub fn place_of(run: &[u8], index: u64, header: &Header, hit: &Range<usize>) -> Place {
    let page = header.page.max(512);
    let within = hit.start / page * page;
    let is_tree = run
        .get(within..within + page)
        .zip(u32::try_from((index * RUN as u64 + within as u64) / page as u64 + 1).ok())
        .is_some_and(|(bytes, no)| Btree::default().parse(bytes, no, header).is_ok());
    match column_around(run, index, header, hit) {
        Some(column) => Place::Column(column),
        None if is_tree => Place::Gap,
        None => Place::Overflow,
    }
}

fn column_around(run: &[u8], index: u64, header: &Header, hit: &Range<usize>) -> Option<Range<usize>> {
    let page = header.page;
    let within = hit.start / page * page;
    let bytes = run.get(within..within + page)?;
    let no = u32::try_from((index * RUN as u64 + within as u64) / page as u64 + 1).ok()?;
    let (from, to) = (hit.start - within, hit.end.checked_sub(within)?);
    let mut tree = Btree::default();
    tree.parse(bytes, no, header).ok()?;
    let cell = tree.cells.iter().find(|c| (c.payload as usize) <= from && to <= (c.payload + c.local) as usize)?;
    let local = bytes.get(cell.payload as usize..(cell.payload + cell.local) as usize)?;
    let mut at = 0;
    let head = usize::try_from(varint(local, &mut at)?).ok()?;
    let types = local.get(..head)?;
    let mut start = head;
    while at < types.len() {
        let serial = varint(types, &mut at)?;
        let width = width(serial)?;
        let end = start.checked_add(usize::try_from(width).ok()?)?;
        let base = cell.payload as usize;
        if base + start <= from && to <= base + end {
            return Some(within + base + start..within + base + end.min(local.len()));
        }
        start = end;
    }
    None
}
