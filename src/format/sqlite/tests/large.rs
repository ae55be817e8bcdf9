//! Slow: sizes that show costs. Run with `--ignored` and an optimised build.

use super::super::snapshot::Snapshot;
use super::*;

/// Seconds that this thread has been running on a processor: others may be using the machine.
struct Busy(f64);

impl Busy {
    fn now() -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
    }
    fn start() -> Busy {
        Busy(Busy::now())
    }
    fn seconds(&self) -> f64 {
        Busy::now() - self.0
    }
}

/// Customers, orders (two indexes), messages that overflow; about 300 MB for 300,000 customers.
fn big(dir: &Path, customers: u64, wal: bool) -> PathBuf {
    let path = dir.join("big.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode={}; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;
         CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, street TEXT);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INT, item TEXT, amount REAL); CREATE INDEX oc ON orders(customer_id);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, customer_id INT, body TEXT);
         BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {customers})
            INSERT INTO customers SELECT i, 'user' || (i * 2654435761 % 4294967296) || '@example.org', 'Name ' || (i * 7919), 'Street ' || i FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {customers} * 4)
            INSERT INTO orders SELECT i, 1 + (i * 7919) % {customers}, 'an item of some length ' || i, i / 3.0 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {customers})
            INSERT INTO messages SELECT i, 1 + (i * 31) % {customers}, hex(randomblob(CASE WHEN i % 50 THEN 150 ELSE 5000 END)) FROM n;
         COMMIT; DELETE FROM orders WHERE id % 17 = 0; DELETE FROM messages WHERE id BETWEEN 1000 AND 9000;",
        if wal { "WAL" } else { "DELETE" }
    ))
    .unwrap();
    db.close().unwrap();
    path
}

#[test]
#[ignore = "slow"]
fn a_backup_scrubs_and_blocks_at_the_speed_of_a_disk() {
    let dir = temp();
    for wal in [true, false] {
        let path = big(dir.path(), 300_000, wal);
        let m = map(vec![
            collection("customers", &["email", "id"], vec![probe(&["email"]), probe(&["id"])]),
            collection("orders", &["customer_id"], vec![probe(&["customer_id"])]),
            collection("messages", &["customer_id"], vec![probe(&["customer_id"])]),
        ]);
        let start = Busy::start();
        let snapshot = Snapshot::open(&path).unwrap();
        let megabytes = snapshot.len() as f64 / 1e6;
        let opened = start.seconds();
        let all: Vec<usize> = (0..3).collect();
        let key = key();
        let mut rows = 0;
        for with_marks in [false, true] {
            let start = Busy::start();
            let report = cut(&snapshot, &m, &all, &key, &mut |run| {
                if with_marks {
                    rows += (run.marks)()?.unwrap().rows.len();
                }
                Ok(())
            })
            .unwrap();
            let seconds = start.seconds();
            eprintln!(
                "wal {wal}: {megabytes:.0} MB, opened in {opened:.2} s, cut with blocks {with_marks} in {seconds:.2} s: {:.0} MB/s {:?} {rows}",
                megabytes / seconds,
                report.scrub
            );
            assert!(report.scrubbed && report.warnings.is_empty(), "{report:?}");
        }
        if wal {
            let archived = Archived::of(&snapshot, &m);
            for persons in [1, 100] {
                let asked: Vec<String> = (1..=persons).map(|i| (i * 1777 % 300_000).to_string()).collect();
                let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
                let start = Busy::start();
                let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
                let mut decided = Vec::new();
                for i in 0..3 {
                    let by = m.collections[i].probes.last().unwrap();
                    decided.extend(delete_all(editor.find(&m, i, by, &wanted(&key, &asked)).unwrap()));
                }
                let found = start.seconds();
                editor.apply(&m, &[2, 1, 0], &decided).unwrap();
                let applied = start.seconds();
                let pieces = finish(editor).len();
                let opened = std::mem::take(&mut *archived.opened.lock().unwrap()).len();
                eprintln!(
                    "{persons} persons, {} rows: found {found:.2} s, applied {applied:.2} s, done {:.2} s; {opened} runs opened, {pieces} changed, of {}",
                    decided.len(),
                    start.seconds(),
                    archived.runs.len()
                );
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
}
