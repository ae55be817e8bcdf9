//! A real edit, damaged at random and by hand: what SQLite's own check finds this one finds, and row losses beyond that.

use super::*;
use crate::format::EntryEditor;
use crate::format::sqlite::read_page;
use crate::format::sqlite::tests::{Archived as Content, build, collection, delete_all, key, map, probe, temp, wanted};
use crate::format::sqlite::{connect, overlay, scrub::Edit};

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
    let map =
        map(vec![collection("customer", &["email"], vec![probe(&["email"])]), collection("orders", &["email"], vec![probe(&["email"])])]);
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
