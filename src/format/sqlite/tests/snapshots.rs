//! Snapshots of databases that others use.

use super::super::snapshot::{Options, Snapshot};
use super::*;
use std::process::{Command, Stdio};

fn bytes(image: &dyn Image) -> Vec<u8> {
    (0..image.runs()).flat_map(|i| image.run(i).unwrap()).collect()
}

/// Names and bytes of a folder's files.
fn folder(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect()
}

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 'value ' || i FROM n;";

#[test]
fn a_rollback_database_is_copied_byte_for_byte() {
    let (dir, work) = (temp(), temp());
    for pragma in ["", "PRAGMA page_size=512;", "PRAGMA auto_vacuum=FULL;"] {
        let image = build(dir.path(), &format!("{pragma} {ROWS} DELETE FROM t WHERE id % 3 = 0; VACUUM; DELETE FROM t WHERE id % 5 = 0;"));
        let path = dir.path().join("source.db");
        let before = folder(dir.path());
        let snapshot = Snapshot::open(&path).unwrap();
        assert!(!snapshot.is_live());
        assert_eq!(bytes(&snapshot), image, "{pragma}");
        drop(snapshot);
        assert_eq!(folder(dir.path()), before);
    }
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 0);
}

#[test]
fn a_log_is_folded_in_and_the_source_stays_as_it_is() {
    let (dir, side) = (temp(), temp());
    let path = dir.path().join("live.db");
    // Copied while a connection is open, as a crash would leave it: rows in the log only.
    let original = side.path().join("live.db");
    let db = Connection::open(&original).unwrap();
    db.execute_batch(&format!("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; {ROWS}")).unwrap();
    for end in ["", "-wal"] {
        std::fs::copy(format!("{}{end}", original.display()), format!("{}{end}", path.display())).unwrap();
    }
    let before = folder(dir.path());
    for always_copy in [false, true] {
        let snapshot = Snapshot::open_with(&path, &Options { always_copy, ..Options::default() }).unwrap();
        assert_eq!(snapshot.is_live(), !always_copy);
        let image = bytes(&snapshot);
        drop(snapshot);
        let now = folder(dir.path());
        assert_eq!((&now["live.db"], &now["live.db-wal"]), (&before["live.db"], &before["live.db-wal"]));
        assert_eq!(image[18..20], [2, 2]);
        let look = Connection::open(on_disk(side.path(), "look.db", &image)).unwrap();
        assert_eq!(
            look.query_row("SELECT count(*), max(v) FROM t", [], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))).unwrap(),
            (20_000, "value 9999".into())
        );
        assert_eq!(look.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok");
    }
}

#[test]
fn a_damaged_tail_of_a_log_is_left_out() {
    let (dir, side) = (temp(), temp());
    let original = side.path().join("live.db");
    let db = Connection::open(&original).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(v); INSERT INTO t VALUES('one'); INSERT INTO t VALUES('two');").unwrap();
    let path = on_disk(dir.path(), "live.db", &std::fs::read(&original).unwrap());
    let mut log = std::fs::read(side.path().join("live.db-wal")).unwrap();
    let last = log.len() - 100;
    log[last] ^= 1;
    std::fs::write(dir.path().join("live.db-wal"), log).unwrap();
    let image = bytes(&Snapshot::open(&path).unwrap());
    let look = Connection::open(on_disk(side.path(), "look.db", &image)).unwrap();
    assert_eq!(
        look.query_row("SELECT group_concat(v) FROM t", [], |r| r.get::<_, String>(0)).unwrap(),
        "one",
        "as sqlite itself recovers it"
    );
}

#[test]
fn a_quiet_database_in_log_mode_is_left_without_side_files() {
    let dir = temp();
    let image = build(dir.path(), &format!("PRAGMA journal_mode=WAL; {ROWS}"));
    let before = folder(dir.path());
    assert_eq!(before.len(), 1);
    let snapshot = Snapshot::open(&dir.path().join("source.db")).unwrap();
    assert!(snapshot.is_live());
    assert_eq!(bytes(&snapshot), image);
    drop(snapshot);
    assert_eq!(folder(dir.path()), before);
}

#[test]
fn what_is_no_database_is_refused_and_an_empty_file_is_an_empty_one() {
    let dir = temp();
    let random: Vec<u8> = (0..8192u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let error = Snapshot::open(&on_disk(dir.path(), "cipher.db", &random)).err().unwrap();
    assert!(error.to_string().contains("encrypted"), "{error}");
    let empty = Snapshot::open(&on_disk(dir.path(), "empty.db", b"")).unwrap();
    assert_eq!((empty.len(), empty.runs()), (0, 0));
    let archived = Archived::of(&empty, &map(vec![]));
    assert!(archived.report.scrubbed && archived.report.warnings.is_empty());
    let key = key();
    let m = map(vec![collection("t", &["a"], vec![probe(&["a"])])]);
    let mut editor = SqliteEditor::open(archived, &key, Limits::default()).unwrap();
    assert!(editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["1"])).unwrap().is_empty());
    assert!(finish(editor).is_empty());
}

#[test]
fn a_journal_left_by_a_crash_is_reported_and_not_rolled_back() {
    let (dir, side) = (temp(), temp());
    let original = side.path().join("hot.db");
    let db = Connection::open(&original).unwrap();
    db.execute_batch(&format!("{ROWS} PRAGMA cache_size=10; PRAGMA cache_spill=1; BEGIN; UPDATE t SET v = v || 'x';")).unwrap();
    for end in ["", "-journal"] {
        std::fs::copy(format!("{}{end}", original.display()), dir.path().join(format!("hot.db{end}"))).unwrap();
    }
    let before = folder(dir.path());
    let error = Snapshot::open(&dir.path().join("hot.db")).err().unwrap();
    assert!(error.to_string().contains("rolled back"), "{error}");
    assert_eq!(folder(dir.path()), before);
}

/// Another process moves amounts between rows all the time; their sum never changes.
#[test]
fn a_snapshot_is_consistent_while_another_process_writes() {
    for mode in ["WAL", "DELETE"] {
        let dir = temp();
        let path = dir.path().join("bank.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE a(id INTEGER PRIMARY KEY, n INT, pad TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) INSERT INTO a SELECT i, 100, hex(randomblob(200)) FROM n;"
        ))
        .unwrap();
        db.close().unwrap();
        let script = "
import sqlite3, sys, random
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
c.execute('pragma synchronous=off')
n = 0
while True:
    a, b = random.randrange(1, 12001), random.randrange(1, 12001)
    c.execute('begin immediate'); c.execute('update a set n=n-1, pad=hex(randomblob(300)) where id=?', (a,)); c.execute('update a set n=n+1 where id=?', (b,)); c.execute('commit')
    n += 1
    if n % 5 == 0: print(n, flush=True)
";
        let Ok(mut writer) = Command::new("python3").arg("-c").arg(script).arg(&path).stdout(Stdio::piped()).spawn() else {
            eprintln!("skipped: python3 is not there");
            return;
        };
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(writer.stdout.take().unwrap()));
        let progress = |lines: &mut dyn Iterator<Item = std::io::Result<String>>| lines.next().unwrap().unwrap().parse::<u64>().unwrap();
        progress(&mut lines);
        for _ in 0..2 {
            let snapshot = Snapshot::open(&path).unwrap();
            let at_first = progress(&mut lines);
            let mut image = Vec::new();
            for i in 0..snapshot.runs() {
                image.extend(snapshot.run(i).unwrap());
                if i % 40 == 0 {
                    // The writer is not held up.
                    let now = progress(&mut lines);
                    assert!(now > at_first);
                }
            }
            drop(snapshot);
            let look = Connection::open(on_disk(dir.path(), "look.db", &image)).unwrap();
            assert_eq!(look.query_row("SELECT sum(n) FROM a", [], |r| r.get::<_, i64>(0)).unwrap(), 1_200_000);
            assert_eq!(look.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok");
            look.close().unwrap();
            for end in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(dir.path().join(format!("look.db{end}")));
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let after = Connection::open(&path).unwrap();
        assert_eq!(after.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok");
    }
}

fn in_place() -> Options<'static> {
    Options { in_place: true, ..Options::default() }
}

#[test]
fn a_rollback_database_read_in_place_knows_whether_somebody_wrote() {
    let dir = temp();
    let image = build(dir.path(), ROWS);
    let path = dir.path().join("source.db");
    let snapshot = Snapshot::open_with(&path, &in_place()).unwrap();
    assert!(!snapshot.is_live());
    assert_eq!(bytes(&snapshot), image);
    assert!(snapshot.is_unchanged().unwrap());
    let writer = Connection::open(&path).unwrap();
    writer.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
    assert!(snapshot.is_unchanged().unwrap(), "reading is no change");
    // It holds nobody up.
    writer.execute("UPDATE t SET v = 'another' WHERE id = 7", []).unwrap();
    assert!(!snapshot.is_unchanged().unwrap());
    let again = Snapshot::open_with(&path, &in_place()).unwrap();
    assert_eq!(bytes(&again), std::fs::read(&path).unwrap());
    assert!(again.is_unchanged().unwrap());
}

#[test]
fn pages_that_a_rollback_took_back_are_noticed() {
    let dir = temp();
    let image = build(dir.path(), ROWS);
    let path = dir.path().join("source.db");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=5;").unwrap();
    let snapshot = Snapshot::open_with(&path, &in_place()).unwrap();
    writer.execute_batch("BEGIN; UPDATE t SET v = upper(v) || '!';").unwrap();
    let spilled = bytes(&snapshot);
    assert_ne!(spilled, image, "the transaction did not outgrow the cache: this test shows nothing");
    writer.execute_batch("ROLLBACK").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), image, "nothing in the file says that there was a transaction");
    assert!(!snapshot.is_unchanged().unwrap());
}

#[test]
fn a_database_that_was_replaced_is_noticed() {
    let dir = temp();
    build(dir.path(), ROWS);
    let path = dir.path().join("source.db");
    let snapshot = Snapshot::open_with(&path, &in_place()).unwrap();
    std::fs::copy(&path, dir.path().join("other.db")).unwrap();
    std::fs::rename(dir.path().join("other.db"), &path).unwrap();
    assert!(!snapshot.is_unchanged().unwrap());
}
