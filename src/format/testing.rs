//! What the tests of the record formats share: a collection to fill in, cutting in one call, an archive's entry in memory, real data.

use super::blocks::Covers;
use super::cutter::{CutSizes, Gear, MAX_RECORD, RecordPieces};
use super::{Decision, EntryContent, Marks, NewPiece, Piece, Record, RecordFormat, Scanned};
use crate::Result;
use crate::datamap::{Collection, DataMap, Dialect, EntryPattern, OnErase, Shared, TokenKey};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub(super) const TINY: CutSizes = CutSizes { min: 64, avg: 256, max: 1024 };

pub(super) fn collection(name: &str) -> Collection {
    Collection {
        name: name.into(),
        entry: EntryPattern::parse("**").unwrap(),
        format: None,
        table: name.into(),
        dialect: Dialect::default(),
        primary_key: Vec::new(),
        on_erase: OnErase::Delete,
        shared: Shared::default(),
        fields: Default::default(),
        probes: Vec::new(),
        retain: None,
        basis: None,
        placeholder_feeds: vec![],
        placeholder_normalize: vec![],
        triggers: Vec::new(),
    }
}

pub(super) fn key() -> TokenKey {
    TokenKey::new(zeroize::Zeroizing::new([9; 32]))
}

pub(super) fn cut(format: &dyn RecordFormat, collection: &Collection, bytes: &[u8], sizes: CutSizes) -> Result<Vec<Piece>> {
    let gear = Gear::new(&[5; 32]);
    let mut reader = bytes;
    let pieces: Result<Vec<Piece>> = RecordPieces::open(format, collection, &mut reader, "entry", &gear, sizes, MAX_RECORD)?.collect();
    let pieces = pieces?;
    assert_eq!(pieces.iter().flat_map(|p| p.bytes.clone()).collect::<Vec<u8>>(), bytes, "pieces put together are the entry");
    Ok(pieces)
}

/// Scans without deciding anything; values as text, null as `None`.
pub(super) type Values = Vec<Vec<Vec<Option<String>>>>;

pub(super) fn read(format: &dyn RecordFormat, pieces: &[Piece], fields: &[&str]) -> Values {
    let fields: Vec<String> = fields.iter().map(|f| f.to_string()).collect();
    let mut out = Vec::new();
    for piece in pieces {
        let scanned = scan(format, piece, &fields, &mut |record| {
            let text = |v: &crate::datamap::Value<'_>| match v {
                crate::datamap::Value::Null => None,
                v => Some(v.canonical().unwrap_or_default().into_owned()),
            };
            out.push(record.values.iter().map(|f| f.iter().map(text).collect()).collect());
            Ok(Decision::Keep)
        })
        .unwrap();
        assert_eq!(scanned.bytes, None, "keeping everything changes nothing");
    }
    out
}

pub(super) fn scan(
    format: &dyn RecordFormat,
    piece: &Piece,
    fields: &[String],
    visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
) -> Result<Scanned> {
    format.scan(&piece.context, &piece.bytes, fields, visit)
}

/// A piece and its identity block.
type Stored = (Vec<u8>, Option<Arc<Marks>>);

/// An entry as an archive holds it.
pub(super) struct Memory {
    pub pieces: Mutex<Vec<Stored>>,
    pub covers: Vec<String>,
    pub opened: AtomicUsize,
}

impl Memory {
    /// Cut and marked for these collections of the map.
    pub(super) fn mapped(format: &dyn RecordFormat, map: &DataMap, collections: &[usize], bytes: &[u8]) -> Arc<Memory> {
        let covers = Covers::of_map(map, collections);
        let pieces = cut(format, &map.collections[collections[0]], bytes, TINY).unwrap();
        let pieces = pieces
            .into_iter()
            .map(|p| {
                let (marks, _) = covers.block(format, &p.context, &p.bytes, &key()).unwrap();
                (p.bytes, Some(Arc::new(marks)))
            })
            .collect();
        let covers = covers.keys().to_vec();
        Arc::new(Memory { pieces: Mutex::new(pieces), covers, opened: AtomicUsize::new(0) })
    }

    /// Cut anywhere, without blocks.
    pub(super) fn raw(bytes: &[u8], every: usize) -> Arc<Memory> {
        let pieces = bytes.chunks(every).map(|c| (c.to_vec(), None)).collect();
        Arc::new(Memory { pieces: Mutex::new(pieces), covers: Vec::new(), opened: AtomicUsize::new(0) })
    }

    pub(super) fn replace(&self, new: Vec<NewPiece>) {
        let mut pieces = self.pieces.lock().unwrap();
        for piece in new {
            assert_eq!(piece.replaces.len(), 1);
            pieces[piece.replaces.start] = (piece.bytes, piece.marks.map(Arc::new));
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.pieces.lock().unwrap().iter().flat_map(|(b, _)| b.clone()).collect()
    }
}

impl EntryContent for Memory {
    fn path(&self) -> String {
        "entry".into()
    }
    fn pieces(&self) -> usize {
        self.pieces.lock().unwrap().len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.pieces.lock().unwrap()[index].0.len() as u64
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(self.pieces.lock().unwrap()[index].0.clone()))
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        Ok(self.pieces.lock().unwrap()[index].1.clone())
    }
    fn covers(&self) -> &[String] {
        &self.covers
    }
    fn scrubbed(&self) -> bool {
        false
    }
}

/// The folder of real data, or `None` (said aloud) where there is none.
pub(super) fn real_data() -> Option<PathBuf> {
    let dir = std::env::var_os("RESEAL_TEST_DATA").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: RESEAL_TEST_DATA is not set");
    }
    dir
}

/// Files below a folder.
pub(super) fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

/// CPU time of this thread in seconds: what a measurement on a shared machine can go by.
pub(super) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
