//! Runs of a database that did not change since the night before are taken over with what is known of them. That must not go too far: the
//! same bytes can be another table's (a copy of it), or pages that were freed and so must be scrubbed now; and a file that did not change can
//! have a log beside it that did.

mod common;
#[path = "common/small.rs"]
mod small;

use common::Place;
use reseal::engine::propagate::Scope;
use rusqlite::Connection;
use small::{erase, night, restore};
use std::collections::HashMap;

const CONFIG: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - {name: customer, entry: crm.db, primary_key: [id], on_erase: delete, fields: {email: {identity: email}}}
      - {name: before, entry: crm.db, table: customer_before, primary_key: [id], on_erase: delete, fields: {email: {identity: email}}}
"#;

const IN_A_FOLDER_AND_ALONE: &str = r#"
datasets:
  folder: {source: {paths: [./data]}, unmapped: preserve}
  alone: {source: {paths: [./data/crm.db]}, unmapped: preserve}
"#;

const RUN: usize = 65536;
const ROWS: i64 = 6000;

/// A table, its copy `shift` pages later than it would otherwise be, and another table to be changed each night.
fn database(path: &std::path::Path, shift: usize) {
    let _ = std::fs::remove_file(path);
    let db = Connection::open(path).unwrap();
    let columns = "(id INTEGER PRIMARY KEY, email TEXT, note TEXT)";
    db.execute_batch(&format!("CREATE TABLE visits(n); CREATE TABLE customer{columns}; CREATE TABLE customer_before{columns};")).unwrap();
    db.execute_batch("CREATE TABLE filler(x); BEGIN").unwrap();
    for id in 0..ROWS {
        db.execute("INSERT INTO customer VALUES(?1, ?2, ?3)", (id, format!("user{id}@example.org"), "note ".repeat(40))).unwrap();
    }
    for _ in 0..shift {
        db.execute("INSERT INTO filler VALUES(zeroblob(3000))", []).unwrap();
    }
    db.execute_batch("INSERT INTO customer_before SELECT * FROM customer; COMMIT").unwrap();
}

/// The customers whose pages lie in runs that are there twice.
fn rows_in_equal_runs(path: &std::path::Path) -> Vec<i64> {
    let bytes = std::fs::read(path).unwrap();
    let mut times: HashMap<&[u8], u32> = HashMap::new();
    bytes.chunks_exact(RUN).for_each(|run| *times.entry(run).or_default() += 1);
    let twice: Vec<&[u8]> = times.into_iter().filter(|(_, n)| *n == 2).map(|(run, _)| run).collect();
    let there = |id: &i64| twice.iter().any(|run| memchr::memmem::find(run, format!("user{id}@example.org").as_bytes()).is_some());
    (0..ROWS).filter(there).collect()
}

#[test]
fn a_copied_table_keeps_blocks_of_its_own() {
    let place = Place::new(CONFIG);
    let path = place.data("crm.db");
    let rows = (0..17)
        .find_map(|shift| {
            database(&path, shift);
            Some(rows_in_equal_runs(&path)).filter(|rows| rows.len() > 100)
        })
        .unwrap();
    let session = place.init();
    night(&session, "crm");
    Connection::open(&path).unwrap().execute("INSERT INTO visits VALUES(1)", []).unwrap();
    place.advance_hours(24);
    let second = night(&session, "crm").head.archive;
    let email = format!("user{}@example.org", rows[rows.len() / 2]);
    erase(&place, &session, &format!(r#"{{"email": "{email}"}}"#), Scope::default());
    let out = restore(&place, &session, &second, "out");
    let db = Connection::open(out.join("data/crm.db")).unwrap();
    for table in ["customer", "customer_before"] {
        let left: Vec<i64> = ["= ?1", "<> ?1"]
            .map(|is| db.query_row(&format!("SELECT count(*) FROM {table} WHERE email {is}"), [&email], |r| r.get(0)).unwrap())
            .into();
        assert_eq!(left, [0, ROWS - 1], "{table}");
    }
}

#[test]
fn pages_that_were_freed_without_a_change_of_their_bytes_are_scrubbed() {
    let place = Place::new(CONFIG);
    let path = place.data("crm.db");
    database(&path, 0);
    let session = place.init();
    night(&session, "crm");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "secure_delete", false).unwrap();
    db.execute_batch("DELETE FROM customer_before").unwrap();
    drop(db);
    place.advance_hours(24);
    let second = night(&session, "crm").head.archive;
    let out = restore(&place, &session, &second, "out");
    let times = |path: &std::path::Path| memchr::memmem::find_iter(&std::fs::read(path).unwrap(), b"user4000@example.org").count();
    assert_eq!((times(&path), times(&out.join("data/crm.db"))), (2, 1));
    let db = Connection::open(out.join("data/crm.db")).unwrap();
    let intact: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(intact, "ok");
}

#[test]
fn what_is_in_the_log_alone_is_in_the_next_night() {
    let place = Place::new(IN_A_FOLDER_AND_ALONE);
    let path = place.data("crm.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE visits(n); INSERT INTO visits VALUES(1)")
        .unwrap();
    let session = place.init();
    for dataset in ["folder", "alone"] {
        night(&session, dataset);
    }
    let seen = |path: &std::path::Path| (std::fs::metadata(path).unwrap().modified().unwrap(), std::fs::metadata(path).unwrap().len());
    let before = seen(&path);
    db.execute_batch("INSERT INTO visits VALUES(2)").unwrap();
    assert_eq!(seen(&path), before, "only the log changed");
    place.advance_hours(24);
    for dataset in ["folder", "alone"] {
        let second = night(&session, dataset).head.archive;
        let out = restore(&place, &session, &second, dataset);
        let restored = Connection::open(out.join("data/crm.db")).unwrap();
        let visits: i64 = restored.query_row("SELECT count(*) FROM visits", [], |r| r.get(0)).unwrap();
        assert_eq!(visits, 2, "{dataset}");
    }
}
