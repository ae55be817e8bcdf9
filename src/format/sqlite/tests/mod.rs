//! Databases made by SQLite, erased in an archive, and compared with what SQLite itself makes of the same erasure on a plain file.

mod aged;
mod bounds;
mod core;
mod forged;
mod forged_rules;
mod hard;
mod hostile;
mod large;
mod real;
mod snapshots;
mod spill;
mod text;

use super::cut::{CutReport, cut};
use super::editor::SqliteEditor;
use super::overlay::Limits;
use super::{Image, RUN};
use crate::Result;
use crate::datamap::{
    Collection, DataMap, Dialect, EntryPattern, Feed, Field, Normalize, OnErase, Probe, Shared, TokenKey, TokenSet, Unmapped,
};
use crate::env::Stop;
use crate::format::{Disposition, EntryContent, EntryEditor, Found, Marks, NewPiece, NewValue};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub fn key() -> TokenKey {
    TokenKey::new(zeroize::Zeroizing::new([7; 32]))
}

/// An entry in memory, that counts which of its runs were opened.
pub struct Archived {
    pub runs: Vec<Arc<Vec<u8>>>,
    pub marks: Vec<Option<Arc<Marks>>>,
    pub report: CutReport,
    pub opened: Mutex<BTreeSet<usize>>,
    pub reads: AtomicUsize,
    /// Whether its user wants to stop.
    pub stop: Stop,
}

impl EntryContent for Archived {
    fn path(&self) -> String {
        "crm.db".into()
    }
    fn pieces(&self) -> usize {
        self.runs.len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.runs[index].len() as u64
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        self.opened.lock().unwrap().insert(index);
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(self.runs[index].clone())
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        Ok(self.marks[index].clone())
    }
    fn covers(&self) -> &[String] {
        &self.report.covers
    }
    fn scrubbed(&self) -> bool {
        self.report.scrubbed
    }
    fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

impl Archived {
    /// Cuts an image as a backup does.
    pub fn of(image: &dyn Image, map: &DataMap) -> Arc<Archived> {
        let all: Vec<usize> = (0..map.collections.len()).collect();
        let (mut runs, mut marks) = (Vec::new(), Vec::new());
        let report = cut(image, map, &all, &key(), &mut |run| {
            runs.push(Arc::new(run.bytes.to_vec()));
            marks.push((run.marks)()?.map(|m| Arc::new(Marks::decode(&m.encode().unwrap()).unwrap())));
            Ok(())
        })
        .unwrap();
        Arc::new(Archived { runs, marks, report, opened: Mutex::default(), reads: AtomicUsize::new(0), stop: Stop::default() })
    }

    /// As an archive made before the map named the entry: raw bytes, nothing covered.
    pub fn plain(bytes: &[u8]) -> Arc<Archived> {
        let runs: Vec<Arc<Vec<u8>>> = bytes.chunks(RUN).map(|r| Arc::new(r.to_vec())).collect();
        let marks = vec![None; runs.len()];
        Arc::new(Archived {
            runs,
            marks,
            report: CutReport::default(),
            opened: Mutex::default(),
            reads: AtomicUsize::new(0),
            stop: Stop::default(),
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.runs.iter().flat_map(|r| r.iter().copied()).collect()
    }

    /// The archive after an edit.
    pub fn after(&self, pieces: Vec<NewPiece>) -> Arc<Archived> {
        let mut out = Vec::new();
        let mut at = 0;
        for piece in pieces {
            assert!(piece.replaces.start >= at, "pieces come in order");
            out.extend((at..piece.replaces.start).map(|i| (self.runs[i].clone(), self.marks[i].clone())));
            if !piece.bytes.is_empty() {
                out.push((Arc::new(piece.bytes), piece.marks.map(Arc::new)));
            }
            at = piece.replaces.end;
        }
        out.extend((at..self.runs.len()).map(|i| (self.runs[i].clone(), self.marks[i].clone())));
        let (runs, marks) = out.into_iter().unzip();
        let report = CutReport { scrubbed: true, ..self.report.clone() };
        Arc::new(Archived { runs, marks, report, opened: Mutex::default(), reads: AtomicUsize::new(0), stop: Stop::default() })
    }
}

pub fn collection(table: &str, fields: &[&str], probes: Vec<Probe>) -> Collection {
    let field = |name: &&str| {
        let (name, scan) = name.strip_suffix('*').map_or((*name, false), |n| (n, true));
        let field = Field { name: name.into(), category: None, identity: None, normalize: Normalize::default(), action: None, scan };
        (name.to_string(), field)
    };
    Collection {
        name: table.to_lowercase(),
        entry: EntryPattern::parse("crm.db").unwrap(),
        format: Some("sqlite".into()),
        table: table.into(),
        dialect: Dialect::default(),
        primary_key: vec![],
        on_erase: OnErase::Delete,
        shared: Shared::Skip,
        fields: fields.iter().map(field).collect(),
        probes,
        retain: None,
        basis: None,
        placeholder_feeds: vec![],
        placeholder_normalize: vec![],
        triggers: vec![],
    }
}

pub fn map(collections: Vec<Collection>) -> DataMap {
    DataMap { collections, unmapped: Unmapped::Preserve }
}

pub fn probe(fields: &[&str]) -> Probe {
    norm_probe(fields, Normalize::default())
}

pub fn norm_probe(fields: &[&str], norm: Normalize) -> Probe {
    Probe { fields: fields.iter().map(|f| (f.to_string(), norm)).collect(), feed: Feed::Identity("x".into()), when: None }
}

pub fn wanted<'k>(key: &'k TokenKey, values: &[&str]) -> TokenSet<'k> {
    let mut set = TokenSet::new(key);
    for v in values {
        set.insert_values(vec![v.to_string()]);
    }
    set
}

pub fn delete_all(found: Vec<Found>) -> Vec<(Found, Disposition)> {
    found.into_iter().map(|f| (f, Disposition::Delete)).collect()
}

pub fn rewrite(found: Vec<Found>, fields: &[(&str, Option<&str>)]) -> Vec<(Found, Disposition)> {
    let values: BTreeMap<String, Vec<Option<NewValue>>> =
        fields.iter().map(|(f, v)| (f.to_string(), vec![Some(v.map_or(NewValue::Null, |t| NewValue::Text(t.into())))])).collect();
    found.into_iter().map(|f| (f, Disposition::Rewrite(values.clone()))).collect()
}

pub fn finish(editor: SqliteEditor<'_>) -> Vec<NewPiece> {
    Box::new(editor).finish().unwrap()
}

pub fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A database made by these statements with the bundled SQLite.
pub fn build(dir: &Path, sql: &str) -> Vec<u8> {
    let path = dir.join("source.db");
    for end in ["", "-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA foreign_keys=OFF; PRAGMA secure_delete=OFF;").unwrap();
    db.execute_batch(sql).unwrap();
    db.close().unwrap();
    std::fs::read(&path).unwrap()
}

/// The same erasure by plain SQL on a plain file.
pub fn naive(dir: &Path, image: &[u8], sql: &str) -> Vec<u8> {
    let path = dir.join("naive.db");
    std::fs::write(&path, image).unwrap();
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA foreign_keys=OFF;").unwrap();
    db.execute_batch(sql).unwrap();
    db.close().unwrap();
    std::fs::read(&path).unwrap()
}

pub fn on_disk(dir: &Path, name: &str, image: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, image).unwrap();
    path
}

/// Everything SQL sees: schema and rows.
pub fn dump(dir: &Path, image: &[u8]) -> BTreeMap<String, Vec<String>> {
    let db = Connection::open(on_disk(dir, "dump.db", image)).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    let names: Vec<(String, String)> = db
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'trigger', 'index', 'view') AND sql NOT NULL AND name NOT LIKE 'sqlite_stat%'")
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    let mut out = BTreeMap::new();
    for (name, sql) in names {
        let mut rows = vec![sql.clone()];
        // The inner tables of full-text indexes may be arranged in more than one way.
        let is_inner = ["_data", "_idx", "_segments", "_segdir", "_docsize", "_stat"].iter().any(|s| name.ends_with(s));
        if sql.to_uppercase().starts_with("CREATE TABLE") && !is_inner {
            let mut statement = db.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let n = statement.column_count();
            let mut found: Vec<String> = statement
                .query_map([], |r| Ok((0..n).map(|i| format!("{:?}", r.get_ref(i).unwrap())).collect::<Vec<_>>().join("|")))
                .unwrap()
                .map(|r| r.unwrap())
                .collect();
            found.sort();
            rows.extend(found);
        }
        out.insert(name, rows);
    }
    out
}

/// Where any of these words is in the bytes, as UTF-8 or UTF-16.
pub fn residue(bytes: &[u8], words: &[String]) -> Vec<String> {
    let patterns: Vec<Vec<u8>> = words
        .iter()
        .flat_map(|w| {
            let units: Vec<u16> = w.encode_utf16().collect();
            [
                w.as_bytes().to_vec(),
                units.iter().flat_map(|u| u.to_le_bytes()).collect(),
                units.iter().flat_map(|u| u.to_be_bytes()).collect(),
            ]
        })
        .collect();
    let search = aho_corasick::AhoCorasick::new(&patterns).unwrap();
    search.find_iter(bytes).map(|m| format!("{}@{}", words[m.pattern().as_usize() / 3], m.start())).collect()
}
