//! Databases from anywhere, laid open to the fuzz targets: as a backup cuts them, as an archive holds them, and as an edit leaves them. See
//! [`crate::fuzzing`].

use super::conserve::{self, Changed};
use super::cut::cut;
use super::editor::SqliteEditor;
use super::overlay::Limits;
use super::scrub::Edit;
use super::{Image, RUN, connect, read_page};
use crate::Result;
use crate::datamap::{DataMap, TokenKey, TokenSet};
use crate::format::{Disposition, EntryContent, EntryEditor, Found, Marks, NewValue};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// An entry in memory.
#[derive(Default)]
struct Held {
    runs: Vec<Arc<Vec<u8>>>,
    marks: Vec<Option<Arc<Marks>>>,
    covers: Vec<String>,
    scrubbed: bool,
}

impl EntryContent for Held {
    fn path(&self) -> String {
        "crm.db".into()
    }
    fn pieces(&self) -> usize {
        self.runs.len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.runs.get(index).map_or(0, |run| run.len() as u64)
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        self.runs.get(index).cloned().ok_or_else(|| crate::Error::format(self.path(), "has no such piece"))
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        Ok(self.marks.get(index).cloned().flatten())
    }
    fn covers(&self) -> &[String] {
        &self.covers
    }
    fn scrubbed(&self) -> bool {
        self.scrubbed
    }
}

const PEOPLE: [&str; 2] = ["user7", "user3"];

fn key() -> TokenKey {
    TokenKey::new(zeroize::Zeroizing::new([7; 32]))
}

/// What a backup makes of these bytes. What it says of them is looked at, since only that is believed later.
fn backed_up(image: &Vec<u8>, map: &DataMap) -> Held {
    let all: Vec<usize> = (0..map.collections.len()).collect();
    let mut held = Held::default();
    let report = cut(image, map, &all, &key(), &mut |run| {
        held.runs.push(Arc::new(run.bytes.to_vec()));
        held.marks.push((run.marks)()?.map(|m| m.encode().and_then(|bytes| Marks::decode(&bytes))).transpose()?.map(Arc::new));
        Ok(())
    });
    let report = report.unwrap_or_else(|e| panic!("bytes in memory can be read: {e}"));
    let len: usize = held.runs.iter().map(|run| run.len()).sum();
    assert!(len == image.len());
    assert!(report.scrubbed || !report.warnings.is_empty());
    if !report.scrubbed && report.scrub.pages == 0 {
        assert!(held.runs.iter().flat_map(|run| run.iter()).eq(image.iter()));
    }
    (held.covers, held.scrubbed) = (report.covers, report.scrubbed);
    held
}

/// Bytes that a backup takes for a database.
pub fn cut_any(map: &DataMap, data: &[u8]) {
    backed_up(&data.to_vec(), map);
}

/// Erases two people from a database that is damaged, or that lies about having been scrubbed; the first byte says which.
pub fn edit_any(map: &DataMap, data: &[u8]) {
    let Some((how, image)) = data.split_first() else { return };
    let plain = |scrubbed| {
        let runs: Vec<_> = image.chunks(RUN).map(|run| Arc::new(run.to_vec())).collect();
        Held { marks: vec![None; runs.len()], runs, covers: vec![], scrubbed }
    };
    let held = match how % 3 {
        0 => backed_up(&image.to_vec(), map),
        1 => plain(false),
        _ => plain(true),
    };
    let held = Arc::new(held);
    let (key, limits) = (key(), Limits { whole_check: if how & 4 == 0 { 0 } else { 64 << 20 }, ..Limits::default() });
    let Ok(mut editor) = SqliteEditor::open(held.clone(), &key, limits) else { return };
    let was_whole = editor.as_archived().is_ok_and(|db| whole(db.connection()));
    let _ = editor.visit_values(&mut |_| {});
    let mut people = TokenSet::new(&key);
    for person in PEOPLE {
        people.insert_values(vec![person.to_string()]);
    }
    let mut decided: Vec<(Found, Disposition)> = Vec::new();
    for (at, collection) in map.collections.iter().enumerate() {
        let Some(probe) = collection.probes.first() else { continue };
        let Ok(found) = editor.find(map, at, probe, &people) else { return };
        let what = match at {
            0 => Disposition::Delete,
            _ => Disposition::Rewrite(BTreeMap::from([
                ("who".to_string(), vec![Some(NewValue::Null)]),
                ("what".to_string(), vec![Some(NewValue::Text("taken out".into()))]),
            ])),
        };
        decided.extend(found.into_iter().map(|f| (f, what.clone())));
    }
    let order: Vec<usize> = (0..map.collections.len()).rev().collect();
    let applied = editor.apply(map, &order, &decided);
    if applied.is_ok() && was_whole {
        let after = connect::for_reading(&editor.overlay, &editor.limits).is_ok_and(|db| whole(db.connection()));
        assert!(after, "an edit damages what was whole");
    }
    let pieces = Box::new(editor).finish();
    assert!(applied.is_ok() || pieces.is_ok_and(|p| p.is_empty()), "after an error nothing is given back");
}

fn whole(db: &rusqlite::Connection) -> bool {
    finding(db) == "ok"
}

/// What SQLite's own check finds first.
fn finding(db: &rusqlite::Connection) -> String {
    db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0)).unwrap_or_else(|e| e.to_string())
}

/// A real edit (deletions only when the first byte is even) whose written pages are then overwritten here and there: (page, place, length, bytes)
/// again and again. What SQLite's own check finds, the check of written pages finds; but what SQLite writes into an index entry of a rewritten row
/// is taken from it.
pub fn check_any(map: &DataMap, data: &[u8]) {
    static HELD: OnceLock<Arc<Held>> = OnceLock::new();
    let held = HELD.get_or_init(|| Arc::new(backed_up(&sample("PRAGMA page_size=512;"), map)));
    let key = key();
    let Ok(editor) = SqliteEditor::open(held.clone(), &key, Limits::default()) else { panic!("the sample opens") };
    let (how, data) = data.split_first().unwrap_or((&0, &[]));
    let rewrites = how % 2 == 1;
    let mut changed = Changed::new();
    {
        let Ok(db) = connect::for_edit(&editor.overlay, &editor.limits, false) else { panic!("the sample opens") };
        let (delete, update) =
            ("DELETE FROM p WHERE id IN (7, 33, 34, 35, 36, 40);", "UPDATE o SET what = 'taken out' WHERE id IN (3, 20, 23, 61)");
        assert!(db.connection().execute_batch(&format!("{delete}{}", if rewrites { update } else { "" })).is_ok());
        changed.insert("p".into(), [7, 33, 34, 35, 36, 40].map(|row| (row, true)).into());
        if rewrites {
            changed.insert("o".into(), [3, 20, 23, 61].map(|row| (row, false)).into());
        }
    }
    let checked = |editor: &SqliteEditor<'_>| {
        let Ok(db) = connect::for_reading(&editor.overlay, &editor.limits) else { return ("it does not open".to_string(), false) };
        (finding(db.connection()), conserve::run(editor, db.connection(), &changed).is_ok())
    };
    if data.is_empty() {
        assert!(checked(&editor) == ("ok".to_string(), true));
    }
    let written: Vec<u32> = editor.overlay().written().into_iter().collect();
    let Ok(header) = editor.overlay().header() else { return };
    let mut page = vec![0; header.page];
    let mut rest = data;
    while let Some(([no, a, b, len], more)) = rest.split_first_chunk::<4>() {
        let bytes = more.get(..usize::from(*len % 16)).unwrap_or(more);
        rest = more.get(bytes.len()..).unwrap_or_default();
        let Some(no) = written.get(usize::from(*no) % written.len().max(1)).copied() else { return };
        let at = usize::from(u16::from_be_bytes([*a, *b])) % header.page;
        assert!(read_page(&*editor.overlay(), &header, no, &mut page).is_ok());
        page.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        assert!(editor.overlay().write_page(no, &page).is_ok());
    }
    let (finding, is_conserved) = checked(&editor);
    let is_taken = rewrites && finding.contains("missing from index");
    assert!(finding == "ok" || !is_conserved || is_taken, "SQLite finds what this check does not: {finding}");
}

/// A small database with everything in it that a page may be.
fn sample(pragma: &str) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("reseal-fuzz-{}-{}.db", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path: PathBuf = std::env::temp_dir().join(name);
    let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, who TEXT, note TEXT);
        CREATE UNIQUE INDEX p_who ON p(who, id);
        CREATE TABLE o(id INTEGER PRIMARY KEY, who TEXT, what TEXT);
        CREATE INDEX o_who ON o(who); CREATE INDEX o_some ON o(what) WHERE id % 2 = 0;
        CREATE TABLE k(k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID;
        CREATE TABLE gone(v);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
            INSERT INTO p SELECT i, 'user' || (i % 20), CASE i % 7 WHEN 0 THEN hex(zeroblob(i * 10)) ELSE 'note ' || i END FROM n;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70)
            INSERT INTO o SELECT i, 'user' || (i % 20), 'thing ' || (i * 31 % 70) || substr(hex(zeroblob(300)), 1, CASE i % 20 WHEN 3 THEN 500 ELSE 0 END) FROM n;
        INSERT INTO k SELECT 'key' || id, what FROM o WHERE id < 9; INSERT INTO gone SELECT what || what FROM o WHERE id < 30;
        DELETE FROM gone;";
    let made = rusqlite::Connection::open(&path).and_then(|db| db.execute_batch(&format!("PRAGMA secure_delete=OFF;{pragma}{sql}")));
    let bytes = std::fs::read(&path).unwrap_or_default();
    for end in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
    assert!(made.is_ok() && !bytes.is_empty());
    bytes
}

/// Things to begin with, by the name of their target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let samples = || {
        let pragmas = [
            "PRAGMA page_size=512;",
            "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL;",
            "PRAGMA page_size=1024; PRAGMA encoding='UTF-16le';",
        ];
        pragmas.map(sample)
    };
    match target {
        "sqlite_cut" => samples().into(),
        "sqlite_edit" => samples().iter().flat_map(|db| [0, 1, 2, 6].map(|how| [&[how], db.as_slice()].concat())).collect(),
        "sqlite_check" => vec![vec![0], vec![1], vec![0, 0, 0, 28, 4, 0, 0, 0, 9], vec![1, 3, 0, 3, 2, 0, 1, 9, 1, 200, 1, 7]],
        _ => vec![],
    }
}
