//! Small benchmarks of what a backup and an erasure spend their time on, over seeded input made here: to see what a change to one of these
//! parts does. What users feel is measured by `scripts/bench`.
//!
//! ```text
//! cargo bench --bench micro            # measure
//! cargo bench --bench micro -- csv     # only those whose name has "csv"
//! cargo test --bench micro             # each once, to see that it runs
//! ```

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use reseal::crypto::seal::{ChunkPlace, decrypt, encrypt};
use reseal::datamap::{DataMap, Normalize, TokenKey, Value};
use reseal::format::blocks::Covers;
use reseal::format::csv::CSV;
use reseal::format::cutter::{CutSizes, Gear, MAX_RECORD, RecordPieces};
use reseal::format::mentions::PlainMentions;
use reseal::format::ndjson::NDJSON;
use reseal::format::sqlite::RUN;
use reseal::format::sqlite::overlay::{Limits, Overlay, Spill};
use reseal::format::sqlite::vfs::Database;
use reseal::format::text_filter::{TextFilter, TextKey, WantedText};
use reseal::format::{Decision, EntryContent, MarkRow, Marks, Mentions, Piece, RecordFormat};
use std::sync::{Arc, Mutex};

/// Bytes of text in each input.
const SIZE: usize = 2 << 20;

/// The size of most chunks.
const CHUNK: usize = 64 << 10;

/// zstd's level in backups.
const LEVEL: i32 = 3;

fn main() {
    divan::main();
}

// --- input --------------------------------------------------------------------------------------------------------------------------

/// SplitMix64: seeded, and the same everywhere.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// Words of which some are frequent and most are rare.
    fn prose(&mut self, words: u64) -> String {
        let word = |r: &mut Rng| {
            let most = 1 << r.below(14);
            format!("w{:x}", r.below(most))
        };
        (0..words).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }
}

fn records(line: impl Fn(u64, &mut Rng) -> String) -> Vec<u8> {
    let mut rng = Rng(1);
    let mut out = Vec::new();
    for i in 0.. {
        out.extend_from_slice(line(i, &mut rng).as_bytes());
        if out.len() >= SIZE {
            break;
        }
    }
    out
}

fn csv() -> Vec<u8> {
    let body = records(|i, rng| format!("{i},user{i}@example.org,\"Name, {i}\",+1 555 {i:07},{}\n", rng.prose(12)));
    [b"id,email,name,phone,note\n".as_slice(), &body].concat()
}

fn ndjson() -> Vec<u8> {
    records(|i, rng| {
        format!("{{\"id\":{i},\"email\":\"user{i}@example.org\",\"user\":{{\"name\":\"Name {i}\"}},\"note\":\"{}\"}}\n", rng.prose(12))
    })
}

const CONFIG: &str = r#"
version: 1
repository: ./repository
state_dir: ./state
datasets:
  crm:
    source: {paths: [./data]}
    unmapped: preserve
    collections:
      - name: people
        entry: "*.csv"
        on_erase: delete
        fields:
          id: {identity: customer_id}
          email: {identity: email, normalize: [trim, lower]}
          note: {scan: identities}
"#;

fn map() -> DataMap {
    let config = reseal::config::parse(CONFIG, std::path::Path::new("reseal.yaml")).expect("the configuration above loads");
    config.datasets.into_values().next().expect("it has a dataset").map
}

fn token_key() -> TokenKey {
    TokenKey::new(zeroize::Zeroizing::new([7; 32]))
}

fn pieces(format: &dyn RecordFormat, bytes: &[u8]) -> Vec<Piece> {
    let (map, gear) = (map(), Gear::new(&[5; 32]));
    let mut reader = bytes;
    let pieces = RecordPieces::open(format, &map.collections[0], &mut reader, "entry", &gear, CutSizes::records(), MAX_RECORD);
    pieces.and_then(Iterator::collect).expect("the input is of its format")
}

// --- cutting and sealing ------------------------------------------------------------------------------------------------------------

#[divan::bench]
fn cut_by_gear(bencher: Bencher<'_, '_>) {
    let (bytes, gear) = (csv(), Gear::new(&[5; 32]));
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| {
        let (mut rest, mut cuts) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            rest = &rest[gear.cut(rest, &CutSizes::records())..];
            cuts += 1;
        }
        cuts
    });
}

#[divan::bench(args = ["csv", "ndjson"])]
fn cut_at_record_ends(bencher: Bencher<'_, '_>, format: &str) {
    let (format, bytes): (&dyn RecordFormat, _) = if format == "csv" { (&CSV, csv()) } else { (&NDJSON, ndjson()) };
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| pieces(format, &bytes).len());
}

fn place(ordinal: u32) -> [u8; 73] {
    ChunkPlace { repository: &[1; 16], pack: &[2; 16], ordinal, id: &[3; 32], role: 0 }.aad()
}

fn sealed(plain: &[u8], ordinal: u32) -> Vec<u8> {
    let mut body = plain.to_vec();
    encrypt(&[9; 32], &place(ordinal), &mut body).expect("a chunk is not too long");
    body
}

#[divan::bench]
fn seal_a_chunk(bencher: Bencher<'_, '_>) {
    let plain = vec![0x5a; CHUNK];
    bencher.counter(BytesCount::new(CHUNK)).bench_local(|| sealed(black_box(&plain), 0));
}

#[divan::bench]
fn open_a_chunk(bencher: Bencher<'_, '_>) {
    let body = sealed(&vec![0x5a; CHUNK], 0);
    bencher.counter(BytesCount::new(CHUNK)).with_inputs(|| body.clone()).bench_local_values(|mut body| {
        decrypt(&[9; 32], &place(0), &mut body).expect("it is authentic");
        body
    });
}

#[divan::bench]
fn compress_chunks(bencher: Bencher<'_, '_>) {
    let bytes = csv();
    let mut zstd = zstd::bulk::Compressor::new(LEVEL).expect("the level exists");
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench_local(|| bytes.chunks(CHUNK).map(|c| zstd.compress(c).map_or(0, |z| z.len())).sum::<usize>());
}

#[divan::bench]
fn decompress_chunks(bencher: Bencher<'_, '_>) {
    let bytes = csv();
    let frames: Vec<Vec<u8>> = bytes.chunks(CHUNK).map(|c| zstd::bulk::compress(c, LEVEL).expect("it compresses")).collect();
    let mut zstd = zstd::bulk::Decompressor::new().expect("there is memory");
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench_local(|| frames.iter().map(|f| zstd.decompress(f, CHUNK).map_or(0, |b| b.len())).sum::<usize>());
}

// --- who is where -------------------------------------------------------------------------------------------------------------------

#[divan::bench]
fn make_tokens(bencher: Bencher<'_, '_>) {
    let (key, lower) = (token_key(), Normalize { nfc: true, trim: true, lower: true, digits: false });
    let values: Vec<Value<'_>> = (0..10_000).map(|i| Value::Text(format!("User{i}@Example.org").into())).collect();
    bencher
        .counter(ItemsCount::new(values.len()))
        .bench_local(|| values.iter().filter_map(|v| key.of_value(v, lower)).fold(0, |sum, token| sum ^ token.short()));
}

#[divan::bench(args = ["csv", "ndjson"])]
fn scan_records(bencher: Bencher<'_, '_>, format: &str) {
    let (format, bytes): (&dyn RecordFormat, _) = if format == "csv" { (&CSV, csv()) } else { (&NDJSON, ndjson()) };
    let (pieces, fields) = (pieces(format, &bytes), ["id".to_string(), "email".to_string()]);
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| {
        let mut records = 0;
        for p in &pieces {
            let scanned = format.scan(&p.context, &p.bytes, &fields, &mut |_| Ok(Decision::Keep));
            records += scanned.expect("the input is of its format").records;
        }
        records
    });
}

/// Of two probes, and of two probes and searched text.
#[divan::bench(args = [false, true])]
fn make_identity_blocks(bencher: Bencher<'_, '_>, text: bool) {
    let (bytes, key, mut map) = (csv(), token_key(), map());
    map.collections[0].fields.values_mut().for_each(|f| f.scan &= text);
    let (pieces, covers) = (pieces(&CSV, &bytes), Covers::of_map(&map, &[0]));
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| {
        let block = |p: &Piece| covers.block(&CSV, &p.context, &p.bytes, &key).expect("the input is CSV").0.rows.len();
        pieces.iter().map(block).sum::<usize>()
    });
}

#[divan::bench]
fn filter_prose(bencher: Bencher<'_, '_>) {
    let (key, mut rng) = (TextKey::new(&token_key()), Rng(2));
    let texts: Vec<String> = (0..20).map(|_| rng.prose(600)).collect();
    bencher.counter(BytesCount::new(texts.iter().map(String::len).sum::<usize>())).bench_local(|| {
        let mut filter = TextFilter::new(&key);
        texts.iter().for_each(|t| filter.add(t));
        filter.finish(CHUNK)
    });
}

#[divan::bench]
fn ask_filters(bencher: Bencher<'_, '_>) {
    let (token, mut rng) = (token_key(), Rng(3));
    let key = TextKey::new(&token);
    let filters: Vec<Option<Vec<u8>>> = (0..100)
        .map(|_| {
            let mut filter = TextFilter::new(&key);
            filter.add(&rng.prose(500));
            filter.finish(CHUNK)
        })
        .collect();
    let mentions = PlainMentions::new(vec![("email".into(), vec!["jane.doe@example.org".into(), "Jane Doe".into()])]).expect("two values");
    let wanted = WantedText::new(&token, mentions.features().expect("they have words"));
    bencher.counter(ItemsCount::new(filters.len())).bench_local(|| filters.iter().filter(|f| wanted.may_be_in(f.as_deref())).count());
}

fn marks() -> Marks {
    let mut rng = Rng(4);
    let rows = (0..3000).map(|i| MarkRow { probe: (i / 1000) as u16, record: i % 1000, token: rng.below(u64::MAX) }).collect();
    Marks { context: b"context".to_vec(), records: 1000, rows, text: Some(vec![0x55; 1500]), malformed: 0 }
}

#[divan::bench]
fn encode_a_block(bencher: Bencher<'_, '_>) {
    let marks = marks();
    bencher.counter(ItemsCount::new(marks.rows.len())).bench_local(|| marks.encode());
}

#[divan::bench]
fn decode_a_block(bencher: Bencher<'_, '_>) {
    let bytes = marks().encode().expect("it encodes");
    bencher.counter(ItemsCount::new(3000usize)).bench_local(|| Marks::decode(black_box(&bytes)));
}

// --- a database in an archive -------------------------------------------------------------------------------------------------------

/// Runs of a database, compressed and sealed as in a pack.
struct Runs(Vec<(usize, Vec<u8>)>);

impl EntryContent for Runs {
    fn path(&self) -> String {
        "crm.db".into()
    }
    fn pieces(&self) -> usize {
        self.0.len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.0[index].0 as u64
    }
    fn piece(&self, index: usize) -> reseal::Result<Arc<Vec<u8>>> {
        let (len, mut body) = self.0[index].clone();
        decrypt(&[9; 32], &place(index as u32), &mut body).expect("it is authentic");
        Ok(Arc::new(zstd::bulk::decompress(&body, len).expect("it is a frame")))
    }
    fn marks(&self, _: usize) -> reseal::Result<Option<Arc<Marks>>> {
        Ok(None)
    }
    fn covers(&self) -> &[String] {
        &[]
    }
    fn scrubbed(&self) -> bool {
        true
    }
}

const ROWS: u64 = 30_000;

fn database() -> (Database, u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("crm.db");
    let db = rusqlite::Connection::open(&path).expect("a new database");
    db.execute_batch("PRAGMA synchronous=OFF; BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT, note TEXT)").expect("a table");
    let mut rng = Rng(5);
    let mut insert = db.prepare("INSERT INTO t VALUES(?1, ?2, ?3)").expect("it parses");
    for i in 0..ROWS {
        insert.execute((i as i64, format!("user{i}@example.org"), rng.prose(20))).expect("a row");
    }
    drop(insert);
    db.execute_batch("COMMIT").expect("all rows");
    drop(db);
    let bytes = std::fs::read(&path).expect("the database");
    let runs = bytes.chunks(RUN).enumerate();
    let runs = runs.map(|(i, run)| (run.len(), sealed(&zstd::bulk::compress(run, LEVEL).expect("it compresses"), i as u32))).collect();
    let limits = Limits { runs: 1 << 20, ..Limits::default() };
    let overlay = Overlay::new(Arc::new(Runs(runs)), &limits, Spill::default()).expect("it is cut into runs");
    let db = Database::open(Arc::new(Mutex::new(overlay)), false).expect("it opens");
    db.connection().pragma_update(None, "cache_size", -256).expect("a small cache");
    (db, bytes.len() as u64)
}

#[divan::bench]
fn rows_of_a_sealed_database_by_id(bencher: Bencher<'_, '_>) {
    const ASKED: u64 = 100;
    let (db, _) = database();
    let mut one = db.connection().prepare("SELECT email FROM t WHERE id = ?1").expect("it parses");
    let mut rng = Rng(6);
    bencher.counter(ItemsCount::new(ASKED)).bench_local(|| {
        let mut row = || one.query_row([rng.below(ROWS) as i64], |r| r.get::<_, String>(0)).expect("it is there").len();
        (0..ASKED).map(|_| row()).sum::<usize>()
    });
}

#[divan::bench]
fn scan_of_a_sealed_database(bencher: Bencher<'_, '_>) {
    let (db, bytes) = database();
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| db.connection().query_row("SELECT sum(length(note)) FROM t", [], |r| r.get::<_, i64>(0)).expect("it reads"));
}
