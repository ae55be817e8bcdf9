//! Statements that have to end before SQLite would end them: somebody wants to stop, a damaged database is without end, a value does not fit
//! into memory.

use super::*;
use crate::Error;
use crate::env::Stop;
use crate::format::sqlite::marks::Layout;
use crate::format::sqlite::pages::Header;
use crate::format::sqlite::vfs::{Bounds, Database};
use std::sync::mpsc::channel;
use std::time::Duration;

const MANY: &str = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO p SELECT i, 'mail' || i FROM n;";

#[test]
fn a_wish_to_stop_ends_a_statement_in_its_middle() {
    let dir = temp();
    let (archived, key) = (Archived::plain(&build(dir.path(), MANY)), key());
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
    let mut seen = 0;
    assert!(editor.visit_values(&mut |_| seen += 1).unwrap());
    assert_eq!(seen, 20_000);
    seen = 0;
    let result = editor.visit_values(&mut |_| {
        seen += 1;
        if seen == 100 {
            archived.stop.request();
        }
    });
    assert!(matches!(&result, Err(Error::Interrupted(how)) if how.contains("run the same command again")), "{result:?}");
    assert!(seen < 5_000, "{seen} of 20000 rows were read");
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["mail7"]));
    assert!(matches!(found, Err(Error::Interrupted(_))));
}

#[test]
fn a_table_whose_pages_lead_to_the_same_pages_again_and_again_is_called_damaged() {
    let dir = temp();
    let mut image = build(
        dir.path(),
        "PRAGMA page_size = 512; CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); INSERT INTO p VALUES(1, 'a'), (2, 'b');
         CREATE TABLE z(b); INSERT INTO z VALUES(zeroblob(9000)); DROP TABLE z;",
    );
    let header = Header::parse(&image, image.len() as u64).unwrap();
    // Page 2 is the table's only one. Now it is a copy at the end of ten levels, in each of which forty children are the same page.
    let at = |no: usize| (no - 1) * header.page;
    image.copy_within(at(2)..at(3), at(14));
    for no in [2, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
        let below = if no == 2 { 5 } else { no as u32 + 1 };
        let mut page = vec![0; header.page];
        page[0] = 5;
        page[4] = 40;
        page[8..12].copy_from_slice(&below.to_be_bytes());
        for i in 0..40 {
            let cell = header.page - 5 * (i + 1);
            page[12 + 2 * i..14 + 2 * i].copy_from_slice(&(cell as u16).to_be_bytes());
            page[cell..cell + 4].copy_from_slice(&below.to_be_bytes());
            page[cell + 4] = i as u8 + 1;
        }
        page[5..7].copy_from_slice(&((header.page - 200) as u16).to_be_bytes());
        image[at(no)..at(no + 1)].copy_from_slice(&page);
    }
    let (done, waiting) = channel();
    std::thread::spawn(move || {
        let key = key();
        let mut editor = SqliteEditor::open(Archived::plain(&image), &key, Limits::default()).unwrap();
        let mut seen = 0u64;
        let result = editor.visit_values(&mut |_| seen += 1);
        let _ = done.send((result.map_err(|e| e.to_string()), seen));
    });
    let (result, seen) = waiting.recv_timeout(Duration::from_secs(120)).expect("still at it");
    assert!(seen > 100_000, "{seen} values were read");
    assert!(result.as_ref().is_err_and(|e| e.contains("crm.db: is damaged")), "{result:?}");
}

#[test]
fn many_statements_may_take_more_steps_than_one() {
    let dir = temp();
    let (archived, key) = (Archived::plain(&build(dir.path(), MANY)), key());
    let mut editor = SqliteEditor::open(archived, &key, Limits::default()).unwrap();
    // Of these each reads all rows, and together they take more than one may.
    let bounds = Bounds { path: "crm.db".into(), stop: Stop::default(), steps: 1_000_000, longest: u64::MAX };
    let db = Database::bounded(editor.overlay.clone(), false, bounds).unwrap();
    let count = |sql: &str| db.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).map_err(db.explain("counting"));
    for _ in 0..700 {
        assert_eq!(count("SELECT count(*) FROM p WHERE id > email").unwrap(), 0);
    }
    let endless = count("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000) SELECT count(*) FROM n")
        .unwrap_err()
        .to_string();
    assert!(endless.contains("crm.db: is damaged"), "{endless}");
    drop(db);
    assert!(editor.visit_values(&mut |_| {}).unwrap());
}

#[test]
fn a_value_that_does_not_fit_into_memory_is_an_error_that_says_so() {
    let dir = temp();
    let image = build(dir.path(), "CREATE TABLE p(id INTEGER PRIMARY KEY, b BLOB); INSERT INTO p VALUES(1, zeroblob(34000000));");
    let key = key();
    let visit = |limits: Limits| {
        let mut longest = 0;
        let mut editor = SqliteEditor::open(Archived::plain(&image), &key, limits).unwrap();
        editor.visit_values(&mut |v| longest = longest.max(v.len())).map(|_| longest).map_err(|e| e.to_string())
    };
    assert_eq!(visit(Limits::default()), Ok(34_000_000));
    let error = visit(Limits { value: 1 << 20, ..Limits::default() }).unwrap_err();
    assert!(error.contains("crm.db: a row or a value in it is longer than 32505856 bytes"), "{error}");
}

#[test]
fn a_default_that_makes_a_huge_value_is_not_made() {
    let dir = temp();
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES(1); ALTER TABLE t ADD COLUMN b DEFAULT NULL; PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a, b DEFAULT (zeroblob(900000000)))';";
    let cut = Archived::of(&build(dir.path(), sql), &map(vec![collection("t", &["b"], vec![probe(&["b"])])]));
    assert!(cut.report.scrubbed && cut.report.covers.is_empty(), "{:?}", cut.report);
}

#[test]
fn a_key_of_endless_fields_is_no_probe() {
    let dir = temp();
    let (schema, db) = super::super::cut::schema_of(&build(dir.path(), "CREATE TABLE t(a, b);")).unwrap();
    let key = |fields: usize| vec![format!("t({})", vec!["a:raw"; fields].join(","))];
    let complete = |fields: usize| Layout::of_covers(db.connection(), &schema, &key(fields)).unwrap().is_complete();
    assert!(complete(1) && complete(3) && !complete(1_000_000));
}
