//! Forged edits again, each in a small database made for the one rule of the check of written pages that has to notice it: the error says
//! which rule it was, so that no rule can hide behind another.

use super::forged::{Forge, cells, leaf, tree};
use super::*;
use crate::format::sqlite::connect;
use crate::format::sqlite::conserve::{
    Changed, applies,
    tests::{conserved, whole},
};
use crate::format::sqlite::pages::{Cell, Header, Kind, be16, be32, trunk, varint};
use crate::format::sqlite::vfs::Medium;

/// Rows with and without long values, a free list, and an index.
const SQL: &str = "PRAGMA page_size = 1024;
    CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT, w TEXT); CREATE TABLE b(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE c(v TEXT, w TEXT);
    CREATE INDEX a_v ON a(v);
    WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 2 FROM n WHERE i < 200)
        INSERT INTO a SELECT i, 'value ' || i, CASE i % 10 WHEN 0 THEN hex(zeroblob(1400 + i)) END FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) INSERT INTO b SELECT i, 'other ' || i FROM n;
    CREATE TABLE gone(x); INSERT INTO gone VALUES(zeroblob(9000)); DROP TABLE gone;";

/// Index entries so long that there are four levels, and a table with as many.
const DEEP: &str = "PRAGMA page_size = 512;
    CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX a_v ON a(v); CREATE TABLE b(id INTEGER PRIMARY KEY, v TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
        INSERT INTO a SELECT i, printf('%05d', i) || hex(zeroblob(35)) FROM n;";

type Rows<'r> = &'r [(&'r str, i64, bool)];

/// An archived database, what an edit by SQL makes of it, and what that is said to have changed.
fn staged(content: Arc<Archived>, edit: &str, rows: Rows<'_>, then: impl FnOnce(&mut Forge<'_>)) {
    let key = key();
    let editor = SqliteEditor::open(content.clone(), &key, Limits::default()).unwrap();
    connect::for_edit(&editor.overlay, &editor.limits, false).unwrap().connection().execute_batch(edit).unwrap();
    let header = Header::parse(&content.runs[0], content.runs.iter().map(|r| r.len() as u64).sum()).unwrap();
    let mut changed = Changed::new();
    for (table, row, deleted) in rows {
        changed.entry(table.to_string()).or_default().insert(*row, *deleted);
    }
    then(&mut Forge { editor, changed, header, content });
}

fn archived(sql: &str) -> Arc<Archived> {
    let dir = temp();
    Archived::of(&build(dir.path(), sql), &map(vec![]))
}

/// What the check says about a forged edit, which was good before.
fn says(sql: &str, edit: &str, rows: Rows<'_>, words: &str, forge: impl FnOnce(&mut Forge<'_>)) {
    staged(archived(sql), edit, rows, |f| {
        assert!(whole(&f.editor) && conserved(&f.editor, &f.changed).unwrap(), "{words}: not forged yet");
        forge(f);
        refused(f, words);
    });
}

fn refused(f: &Forge<'_>, words: &str) {
    let error = conserved(&f.editor, &f.changed).expect_err(words).to_string();
    assert!(error.contains(words), "{error} instead of {words}");
}

/// An edit that is as it should be.
fn passes(sql: &str, edit: &str, rows: Rows<'_>) {
    staged(archived(sql), edit, rows, |f| {
        assert!(whole(&f.editor), "{edit}");
        assert!(conserved(&f.editor, &f.changed).unwrap(), "{edit}");
    });
}

const DELETE: (&str, Rows<'static>) = ("DELETE FROM a WHERE id = 14", &[("a", 14, true)]);

/// A page of this kind for which something holds.
fn find(f: &Forge<'_>, kind: Kind, holds: impl Fn(u32, &[u8]) -> bool) -> (u32, Vec<u8>) {
    f.pages(kind, false).into_iter().find(|(no, page)| holds(*no, page)).unwrap()
}

/// Where this page refers to its children, in order.
fn child_slots(f: &Forge<'_>, no: u32) -> Vec<usize> {
    let tree = tree(&f.read(no), no, &f.header).unwrap();
    tree.cells.iter().map(|c| c.start as usize).chain([8]).collect()
}

fn children(f: &Forge<'_>, no: u32) -> Vec<u32> {
    tree(&f.read(no), no, &f.header).map(|t| t.children.clone()).unwrap_or_default()
}

/// Exchanges the i-th child of one page with the j-th of another.
fn exchange(f: &Forge<'_>, (x, i): (u32, usize), (y, j): (u32, usize)) {
    let (p, q) = (children(f, x)[i], children(f, y)[j]);
    let (at, to) = (child_slots(f, x)[i], child_slots(f, y)[j]);
    f.word(x, at, q);
    f.word(y, to, p);
}

/// The root of the index or table, whose name says which.
fn root(f: &Forge<'_>, name: &str) -> u32 {
    let db = connect::for_reading(&f.editor.overlay, &f.editor.limits).unwrap();
    db.connection().query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [name], |r| r.get(0)).unwrap()
}

fn first_trunk(f: &Forge<'_>) -> u32 {
    be32(&f.read(1), 32).unwrap()
}

/// Rows that go on elsewhere: their page, the cell's place on it, the first page of the chain.
fn long(f: &Forge<'_>) -> Vec<(u32, usize, u32)> {
    let leaves = f.pages(Kind::TableLeaf, false);
    let all = leaves.iter().flat_map(|(no, page)| tree(page, *no, &f.header).unwrap().cells.into_iter().map(move |c| (*no, c)));
    all.filter(|(_, c)| c.overflow != 0).map(|(no, c)| (no, c.end as usize - 4, c.overflow)).collect()
}

#[test]
fn bytes_of_the_header_that_no_edit_changes() {
    // Schema cookie, cache size, user version, application, and what is kept for later.
    for at in [43, 51, 63, 67, 71, 72, 91] {
        says(SQL, DELETE.0, DELETE.1, &format!("byte {at} of the header changed"), |f| {
            let mut page = f.read(1);
            page[at] ^= 1;
            f.write(1, &page);
        });
    }
}

#[test]
fn a_freelist_that_lists_a_page_twice() {
    says(SQL, DELETE.0, DELETE.1, "listed twice in the freelist", |f| {
        let no = first_trunk(f);
        let (_, leaves) = trunk(&f.read(no), no, &f.header).unwrap();
        f.word(no, 12, leaves[0]);
    });
}

#[test]
fn a_free_page_that_the_freelist_lists_no_more() {
    says(SQL, DELETE.0, DELETE.1, "times more than it should be", |f| {
        let no = first_trunk(f);
        let (_, leaves) = trunk(&f.read(no), no, &f.header).unwrap();
        f.word(no, 4, leaves.len() as u32 - 1);
        let free = be32(&f.read(1), 36).unwrap();
        f.word(1, 36, free - 1);
    });
    // The head of the list is the second trunk.
    let two = format!("{SQL} CREATE TABLE much(x); INSERT INTO much VALUES(zeroblob(300000)); DROP TABLE much;");
    says(&two, DELETE.0, DELETE.1, "times more than it should be", |f| {
        let no = first_trunk(f);
        let (next, leaves) = trunk(&f.read(no), no, &f.header).unwrap();
        assert_ne!(next, 0);
        f.word(1, 32, next);
        let free = be32(&f.read(1), 36).unwrap();
        f.word(1, 36, free - 1 - leaves.len() as u32);
    });
}

#[test]
fn a_free_page_and_a_page_of_an_index_that_have_changed_places() {
    let sql = format!("{DEEP} CREATE TABLE z(x); INSERT INTO z VALUES(zeroblob(2000)); DROP TABLE z;");
    says(&sql, DELETE.0, DELETE.1, "times more than it should be", |f| {
        let list = first_trunk(f);
        let free = be32(&f.read(list), 8).unwrap();
        let (no, _) = find(f, Kind::IndexInterior, |no, _| {
            let child = children(f, no)[1];
            children(f, child).is_empty() && !f.written().contains(&child)
        });
        let (child, at) = (children(f, no)[1], child_slots(f, no)[1]);
        f.word(no, at, free);
        f.word(list, 8, child);
        f.write(free, &leaf(10, &[], &f.header).unwrap());
    });
}

#[test]
fn an_overflow_page_that_became_an_empty_page_of_a_tree() {
    says(SQL, DELETE.0, DELETE.1, "times more than it should be", |f| {
        let last = long(f).into_iter().find_map(|(_, _, first)| {
            let second = be32(&f.read(first), 0).unwrap();
            (second != 0).then_some(second)
        });
        let last = last.unwrap();
        assert_eq!(be32(&f.read(last), 0), Some(0), "the end of a chain, which refers to nothing");
        f.write(last, &leaf(13, &[], &f.header).unwrap());
    });
}

#[test]
fn a_page_that_the_file_grew_by_and_that_was_never_written() {
    says(SQL, DELETE.0, DELETE.1, "to which nothing was written", |f| {
        let (pages, page) = (f.header.pages, f.header.page);
        f.editor.overlay().write(u64::from(pages + 1) * page as u64, &vec![0; page]).unwrap();
        f.word(1, 28, pages + 2);
        // The page behind it is a free one.
        let no = first_trunk(f);
        let (_, leaves) = trunk(&f.read(no), no, &f.header).unwrap();
        f.word(no, 8 + 4 * leaves.len(), pages + 2);
        f.word(no, 4, leaves.len() as u32 + 1);
        let free = be32(&f.read(1), 36).unwrap();
        f.word(1, 36, free + 1);
    });
}

#[test]
fn a_part_of_a_tree_that_hangs_on_itself() {
    for (name, kind) in [("a", Kind::TableInterior), ("a_v", Kind::IndexInterior)] {
        says(DEEP, DELETE.0, DELETE.1, "not on one level", |f| {
            let top = root(f, name);
            let (no, page) = (children(f, top)[1], f.read(children(f, top)[1]));
            assert_eq!(tree(&page, no, &f.header).unwrap().kind(), Some(kind));
            // Every page is still referred to once.
            exchange(f, (top, 1), (no, 1));
            assert!(children(f, no).contains(&no));
        });
    }
    says(DEEP, DELETE.0, DELETE.1, "a tree without leaves", |f| {
        let top = root(f, "a_v");
        let no = children(f, top)[0];
        exchange(f, (top, 0), (no, 0));
        assert_eq!(children(f, no)[0], no);
    });
    for parents in [false, true] {
        says(DEEP, DELETE.0, DELETE.1, "is on another level than before", |f| {
            let top = root(f, "a_v");
            let (high, over) = (children(f, top)[1], children(f, top)[2]);
            let low = children(f, over)[1];
            assert!(!children(f, low).is_empty() && children(f, children(f, low)[0]).is_empty());
            exchange(f, (high, 0), (low, 0));
            // Whether the pages that refer to them were written makes no difference: they refer to them as before.
            for no in [top, over].into_iter().filter(|_| parents) {
                f.write(no, &f.read(no));
            }
        });
    }
}

#[test]
fn a_child_that_is_a_page_of_something_else() {
    says(DEEP, DELETE.0, DELETE.1, "do not lie between its separators", |f| {
        // The first of a page's children, whose rows may be as small as they like: an entry has no row id.
        let level = |no: u32| children(f, no).first().is_some_and(|c| children(f, *c).is_empty() && !f.written().contains(c));
        let x = find(f, Kind::IndexInterior, |no, _| level(no)).0;
        let y = find(f, Kind::TableInterior, |no, _| level(no)).0;
        exchange(f, (x, 0), (y, 0));
    });
    says(DEEP, DELETE.0, DELETE.1, "does not exist", |f| {
        let x = find(f, Kind::IndexInterior, |_, _| true).0;
        f.word(x, child_slots(f, x)[1], f.header.pages + 1);
    });
}

#[test]
fn separators_that_say_too_little_or_too_much() {
    for (up, which) in [(true, "the child after it"), (false, "the child before it")] {
        says(DEEP, "DELETE FROM a WHERE id = 1", &[("a", 1, true)], "do not lie between its separators", |f| {
            let written = f.written();
            let lowest = |no: &u32| children(f, *no).iter().all(|c| children(f, *c).is_empty() && !written.contains(c));
            let (no, mut page) = find(f, Kind::TableInterior, |no, _| lowest(&no));
            let cell = tree(&page, no, &f.header).unwrap().cells[2];
            let at = cell.end as usize - 1;
            assert!((2..0x7e).contains(&(page[at] & 0x7f)), "{which}");
            page[at] = if up { page[at] + 1 } else { page[at] - 1 };
            f.write(no, &page);
        });
    }
}

#[test]
fn rows_that_do_not_ascend_or_begin_or_end_where_no_search_arrives() {
    let swap = |f: &Forge<'_>, which: fn(usize) -> usize| {
        let (no, mut page) = (f.written().into_iter())
            .map(|no| (no, f.read(no)))
            .find(|(no, page)| tree(page, *no, &f.header).is_some_and(|t| t.kind() == Some(Kind::TableLeaf) && t.cells.len() > 4))
            .unwrap();
        let i = which(tree(&page, no, &f.header).unwrap().cells.len());
        let (a, b) = page[8 + 2 * i..12 + 2 * i].split_at_mut(2);
        a.swap_with_slice(b);
        f.write(no, &page);
    };
    says(SQL, DELETE.0, DELETE.1, "its rows do not ascend", |f| swap(f, |_| 1));
    // A row id that belongs on the next leaf, or on the one before.
    let number = |f: &Forge<'_>, last: bool| {
        let mut leaves = f.pages(Kind::TableLeaf, true).into_iter();
        let small = |cells: &[Cell]| cells.len() > 2 && cells[0].rowid > 2 && cells[cells.len() - 1].rowid < 127;
        let (no, mut page) = leaves.find(|(no, page)| small(&tree(page, *no, &f.header).unwrap().cells)).unwrap();
        let cells = tree(&page, no, &f.header).unwrap().cells;
        let cell = if last { cells[cells.len() - 1] } else { cells[0] };
        let mut at = cell.start as usize;
        varint(&page, &mut at).unwrap();
        page[at] = if last { 127 } else { 1 };
        f.write(no, &page);
    };
    let edit = ("DELETE FROM a WHERE id = 64", [("a", 64, true)]);
    says(SQL, edit.0, &edit.1, "its last row is not where it is searched for", |f| number(f, true));
    says(SQL, edit.0, &edit.1, "its first row is not where it is searched for", |f| number(f, false));
}

#[test]
fn pages_whose_bytes_do_not_add_up() {
    type Edit = fn(&mut [u8], &pages::Btree);
    use crate::format::sqlite::pages;
    let edits: [(&str, Edit); 4] = [
        ("a fragment more", |page, _| page[7] += 1),
        ("a longer free block", |page, _| {
            let block = be16(page, 1).unwrap();
            page[block + 3] += 1;
        }),
        ("no free blocks", |page, _| page[1..3].fill(0)),
        ("a cell before the content area", |page, tree| {
            // What the free block no longer takes, the area before the cells does.
            let (block, start) = (be16(page, 1).unwrap(), be16(page, 5).unwrap());
            let size = be16(page, block + 2).unwrap();
            assert!(be16(page, block) == Some(0) && tree.cells.iter().any(|c| (start..start + size).contains(&(c.start as usize))));
            page[1..3].fill(0);
            page[5..7].copy_from_slice(&((start + size) as u16).to_be_bytes());
        }),
    ];
    for (what, edit) in edits {
        says(SQL, "DELETE FROM a WHERE id = 64", &[("a", 64, true)], "its bytes do not add up", |f| {
            let leaves = f.pages(Kind::TableLeaf, true);
            let (no, mut page) = leaves.into_iter().find(|(_, page)| be16(page, 1).unwrap() > 0).expect(what);
            let tree = tree(&page, no, &f.header).unwrap();
            edit(&mut page, &tree);
            f.write(no, &page);
        });
    }
    // A cell shorter than four bytes takes four: a row without any value, as another program may have written it.
    let good = archived("CREATE TABLE a(v); INSERT INTO a VALUES(NULL), (NULL), ('x');");
    let mut bytes = good.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    let cell = tree(&bytes[header.page..2 * header.page], 2, &header).unwrap().cells[0];
    let at = header.page + cell.start as usize;
    assert_eq!(bytes[at..at + 4], [2, 1, 2, 0]);
    bytes[at..at + 3].copy_from_slice(&[1, 1, 1]);
    staged(Archived::of(&bytes, &map(vec![])), "DELETE FROM a WHERE rowid = 3", &[("a", 3, true)], |f| {
        assert!(conserved(&f.editor, &f.changed).unwrap());
    });
    // The end of a page of the largest size is written as zero.
    let large = "PRAGMA page_size = 65536; CREATE TABLE a(v); INSERT INTO a VALUES(1); CREATE TABLE b(v);";
    passes(large, "DELETE FROM a", &[("a", 1, true)]);
}

#[test]
fn a_row_that_goes_on_where_another_did() {
    says(SQL, "DELETE FROM a WHERE id = 64", &[("a", 64, true)], "that nothing had decided about", |f| {
        let all = long(f);
        let [(x, at, p), (y, to, q), ..] = all[..] else { panic!("two rows") };
        f.word(x, at, q);
        f.word(y, to, p);
    });
}

#[test]
fn a_row_with_another_id_or_another_length() {
    says(SQL, "DELETE FROM a WHERE id = 64", &[("a", 64, true)], "that nothing had decided about", |f| {
        let (no, mut page) = f.pages(Kind::TableLeaf, true).remove(0);
        let cell = tree(&page, no, &f.header).unwrap().cells[1];
        let mut at = cell.start as usize;
        varint(&page, &mut at).unwrap();
        assert!(cell.rowid < 127);
        page[at] += 1;
        f.write(no, &page);
    });
    // As many bytes of it on its page, and a whole page more elsewhere.
    says(SQL, "DELETE FROM a WHERE id = 64", &[("a", 64, true)], "that nothing had decided about", |f| {
        let (no, mut page) = find(f, Kind::TableLeaf, |no, page| tree(page, no, &f.header).unwrap().cells.iter().any(|c| c.overflow != 0));
        let cell = tree(&page, no, &f.header).unwrap().cells.into_iter().find(|c| c.overflow != 0).unwrap();
        let len = cell.len + f.header.usable as u64 - 4;
        let at = cell.start as usize;
        assert!(len < 1 << 14 && cell.len >= 1 << 7);
        page[at] = 0x80 | (len >> 7) as u8;
        page[at + 1] = len as u8 & 0x7f;
        let changed = tree(&page, no, &f.header).unwrap().cells.into_iter().find(|c| c.start == cell.start).unwrap();
        assert_eq!((changed.local, changed.overflow, changed.len), (cell.local, cell.overflow, len));
        f.write(no, &page);
    });
}

#[test]
fn a_row_of_another_table_that_went_in_place_of_the_one_with_the_same_id() {
    let sql = format!("{SQL} DROP INDEX a_v;");
    passes(&sql, "DELETE FROM a WHERE id = 14", &[("a", 14, true)]);
    staged(archived(&sql), "DELETE FROM b WHERE id = 14", &[("a", 14, true)], |f| {
        assert!(whole(&f.editor));
        refused(f, "a row is gone that nothing had decided about");
    });
    // A row that moved into a table of the same make is gone from the other.
    staged(
        archived(&format!("{sql} CREATE TABLE d(id INTEGER PRIMARY KEY, v TEXT);")),
        "INSERT INTO d SELECT * FROM b WHERE id = 5; DELETE FROM b WHERE id = 5",
        &[("a", 14, true)],
        |f| refused(f, "that nothing had decided about"),
    );
}

#[test]
fn rows_and_entries_that_are_not_as_many_as_were_to_go() {
    let no_index = format!("{SQL} DROP INDEX a_v;");
    staged(archived(&no_index), DELETE.0, &[("a", 14, true), ("a", 16, true)], |f| refused(f, "0 rows are gone where 1 was to go"));
    staged(archived(&no_index), DELETE.0, &[("a", 14, false)], |f| refused(f, "1 rows are gone where 0 was to go"));
    staged(archived(&no_index), "INSERT INTO a VALUES(15, 'x', 'y')", &[("a", 15, true)], |f| refused(f, "there is a row that nothing"));
    let entry = "an index entry is gone that nothing had decided about";
    staged(archived(SQL), "DELETE FROM a WHERE id = 14", &[("b", 14, true), ("b", 1, true)], |f| refused(f, "nothing had decided about"));
    // The row stays as it is and its entry goes; another row's entry goes; a new entry for a row that goes.
    let drop = |f: &Forge<'_>, row: &str| {
        for (no, page) in f.pages(Kind::IndexLeaf, false) {
            let mut all = cells(&page, no, &f.header);
            if let Some(i) = all.iter().position(|c| memchr::memmem::find(c, row.as_bytes()).is_some()) {
                all.remove(i);
                f.write(no, &leaf(10, &all, &f.header).unwrap());
                return;
            }
        }
        panic!("there is no such entry");
    };
    says(SQL, DELETE.0, DELETE.1, entry, |f| drop(f, "value 150"));
    // Of a row that is deleted as many entries are gone as may be, but one has come.
    let partial = format!("{SQL} CREATE INDEX some ON a(v) WHERE v < 'value 15';");
    says(&partial, DELETE.0, DELETE.1, "there is an index entry that nothing had decided about", |f| {
        let no = root(f, "some");
        let (old, mut new) = (cells(&f.before(no), no, &f.header), cells(&f.read(no), no, &f.header));
        let at = old.iter().position(|c| !new.contains(c)).unwrap();
        let mut entry = old[at].clone();
        let text = memchr::memmem::find(&entry, b"value 14").unwrap();
        entry[text] = b'V';
        new.insert(at, entry);
        f.write(no, &leaf(10, &new, &f.header).unwrap());
    });
    says(&partial, DELETE.0, DELETE.1, "1 index entries of a row are gone where 2 to 2 were to go", |f| {
        let no = root(f, "some");
        f.write(no, &f.before(no));
    });
    says(SQL, "UPDATE a SET v = 'new' WHERE id = 150", &[("a", 150, false)], "1 index entries of a row are gone where 0 to 0", |f| {
        drop(f, "new")
    });
}

#[test]
fn entries_of_partial_indexes_come_and_go_with_what_their_rows_say() {
    let sql = format!("{SQL} CREATE INDEX some ON a(w) WHERE v < 'value 5'; CREATE INDEX b_v ON b(v) WHERE v > 'p';");
    let ids = "(14, 114, 64, 66)";
    passes(&sql, &format!("DELETE FROM a WHERE id IN {ids}"), &[("a", 14, true), ("a", 114, true), ("a", 64, true), ("a", 66, true)]);
    passes(&sql, "UPDATE a SET v = 'zzz' WHERE id = 14", &[("a", 14, false)]);
    passes(&sql, "UPDATE a SET v = 'aaa' WHERE id = 64", &[("a", 64, false)]);
    passes(&sql, "UPDATE b SET v = 'zzz' WHERE id = 14; DELETE FROM a WHERE id = 14", &[("b", 14, false), ("a", 14, true)]);
}

#[test]
fn long_values_may_change_where_their_rows_were_to_and_only_there() {
    let wide = "PRAGMA page_size = 1024; CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT, w TEXT); CREATE INDEX a_w ON a(w);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO a SELECT i, 'v' || i, i || hex(zeroblob(1070)) FROM n;";
    // The row and its index entry both go on elsewhere.
    passes(wide, "UPDATE a SET w = 'x' || hex(zeroblob(3000)) WHERE id = 7", &[("a", 7, false)]);
    passes(wide, "UPDATE a SET w = id || hex(zeroblob(1069)) || 'zz' WHERE id IN (7, 8)", &[("a", 7, false), ("a", 8, false)]);
    let no_index = format!("{wide} DROP INDEX a_w;");
    // As long as before: overwritten where it lies, which shows on its own page only if what lies there is other.
    let same = "UPDATE a SET w = id || hex(zeroblob(1069)) || 'zz' WHERE id = 7";
    passes(&no_index, same, &[("a", 7, false)]);
    passes(&no_index, &format!("{same}; UPDATE a SET w = 'x' || hex(zeroblob(3000)) WHERE id = 9"), &[("a", 7, false), ("a", 9, false)]);
    let byte = |f: &Forge<'_>, row: i64| {
        for (no, page) in f.pages(Kind::TableLeaf, false) {
            if let Some(cell) = tree(&page, no, &f.header).unwrap().cells.iter().find(|c| c.rowid == row && c.overflow != 0) {
                let mut page = f.read(cell.overflow);
                page[100] ^= 1;
                f.write(cell.overflow, &page);
                return no;
            }
        }
        panic!("there is no such row");
    };
    let words = "on which nothing goes on that was to change";
    says(&no_index, same, &[("a", 7, false)], words, |f| {
        let near = f.pages(Kind::TableLeaf, false).into_iter().find_map(|(no, page)| {
            let rows: Vec<i64> = tree(&page, no, &f.header).unwrap().cells.iter().map(|c| c.rowid).collect();
            rows.contains(&7).then(|| *rows.iter().find(|r| **r != 7).unwrap())
        });
        byte(f, near.unwrap());
    });
    says(&no_index, same, &[("a", 7, false)], words, |f| {
        byte(f, 30);
    });
    says(&no_index, "DELETE FROM a WHERE id = 7", &[("a", 7, true)], words, |f| {
        byte(f, 30);
    });
}

/// Damaged before the edit, in an archive whose host says that it was scrubbed: nobody compares pages that were not written.
fn lying(bytes: &[u8]) -> Arc<Archived> {
    let mut archived = Arc::into_inner(Archived::plain(bytes)).unwrap();
    archived.report.scrubbed = true;
    Arc::new(archived)
}

#[test]
fn a_row_that_is_to_be_on_a_page_without_a_number_ends_the_check() {
    let good = archived(SQL);
    let mut bytes = good.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    // The page of the last rows.
    bytes[header.page + 8..header.page + 12].fill(0);
    staged(lying(&bytes), "DELETE FROM a WHERE id = 14", &[("a", 14, true), ("a", 200, false)], |f| {
        assert_eq!(tree(&f.read(2), 2, &f.header).unwrap().kind(), Some(Kind::TableInterior));
        let (_, _, first) = long(f)[0];
        let mut page = f.read(first);
        page[100] ^= 1;
        f.write(first, &page);
        refused(f, "on which nothing goes on that was to change");
    });
}

#[test]
fn a_file_may_grow_over_the_page_under_the_locks() {
    let good =
        archived("PRAGMA page_size = 65536; CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO a VALUES(1, 'x'), (2, 'y');");
    let mut bytes = good.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    // Pages up to that one that belong to nothing, all of them the same zeros.
    let last = header.lock_page() - 1;
    bytes[28..32].copy_from_slice(&last.to_be_bytes());
    let mut content = Arc::into_inner(lying(&bytes)).unwrap();
    let zeros = Arc::new(vec![0; RUN]);
    let per = RUN / header.page;
    assert_eq!((per, bytes.len() % RUN), (1, 0));
    content.runs.resize(last as usize, zeros);
    content.marks.resize(last as usize, None);
    staged(Arc::new(content), "UPDATE a SET v = zeroblob(200000) WHERE id = 1", &[("a", 1, false)], |f| {
        assert!(f.editor.overlay().header().unwrap().pages > last + 2);
        assert!(conserved(&f.editor, &f.changed).unwrap());
    });
}

#[test]
fn a_chain_that_leads_back_into_itself_ends_the_check() {
    let sql = "PRAGMA page_size = 1024; CREATE TABLE a(id INTEGER PRIMARY KEY, v TEXT, w TEXT);
        INSERT INTO a VALUES(1, 'x', NULL), (2, 'y', hex(zeroblob(3000))), (3, 'z', NULL);";
    let good = archived(sql);
    let header = Header::parse(&good.runs[0], good.bytes().len() as u64).unwrap();
    let mut bytes = good.bytes();
    let at = |no: u32| (no as usize - 1) * header.page;
    let first = (2..=header.pages)
        .find_map(|no| tree(&bytes[at(no)..at(no) + header.page], no, &header)?.cells.get(1).map(|c| c.overflow))
        .unwrap();
    let second = be32(&bytes, at(first)).unwrap();
    bytes[at(second)..at(second) + 4].copy_from_slice(&first.to_be_bytes());
    staged(lying(&bytes), "DELETE FROM a WHERE id = 1", &[("a", 1, true), ("a", 2, false)], |f| {
        let mut page = f.read(second);
        page[100] ^= 1;
        f.write(second, &page);
        refused(f, "an overflow chain is used twice");
    });
}

#[test]
fn a_tree_may_become_higher_or_lower_and_its_pages_may_serve_elsewhere() {
    // All rows but a few go, of which another table's grow into what became free.
    let more =
        format!("{DEEP} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT INTO b SELECT i, 'b' FROM n;");
    let gone: Vec<(&str, i64, bool)> = (1..=1500).filter(|i| i % 500 != 0).map(|i| ("a", i, true)).collect();
    passes(&more, "DELETE FROM a WHERE id % 500 <> 0", &gone);
    let grown: Vec<(&str, i64, bool)> = gone.iter().copied().chain((1..=400).map(|i| ("b", i, false))).collect();
    passes(&more, "DELETE FROM a WHERE id % 500 <> 0; UPDATE b SET v = printf('%05d', id) || hex(zeroblob(600))", &grown);
}

#[test]
fn the_check_says_where_it_cannot_tell() {
    let dir = temp();
    let can = |sql: &str, tables: &[&str], alter: fn(&mut Header)| {
        let content = Archived::of(&build(dir.path(), sql), &map(vec![]));
        let key = key();
        let editor = SqliteEditor::open(content, &key, Limits::default()).unwrap();
        let mut header = editor.overlay().base_header().clone();
        alter(&mut header);
        let changed: Changed = tables.iter().map(|t| (t.to_string(), [(1, true)].into())).collect();
        applies(&header, &editor.schema, &changed)
    };
    let sql =
        "CREATE TABLE a(v); CREATE TABLE k(k PRIMARY KEY) WITHOUT ROWID; CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIEW v AS SELECT 1;";
    let same = |_: &mut Header| {};
    assert!(can(sql, &["a"], same));
    for tables in [&[][..], &["k"], &["f"], &["v"], &["unknown"], &["a", "k"]] {
        assert!(!can(sql, tables, same), "{tables:?}");
    }
    assert!(!can("PRAGMA auto_vacuum = FULL; CREATE TABLE a(v);", &["a"], same));
    assert!(can(sql, &["a"], |h| h.pages = (1 << 25) - 1));
    // From here on an overflow page may begin as a page of a tree does.
    assert!(!can(sql, &["a"], |h| h.pages = 1 << 25));
}
