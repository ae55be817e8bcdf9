//! Databases damaged on purpose, where structure is: headers, cell pointers, overflow chains, the freelist, page numbers, lengths, pointer maps.
//! Whatever is done to one, an edit ends soon, either with an error that gives nothing back, or with a database in which SQLite itself, on a plain
//! copy, reads every other row as it was.

use super::*;
use crate::format::sqlite::pages::{Btree, Header, Kind, be32, trunk};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

/// What is done to one place of a database; the numbers choose the place and the value.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// A byte anywhere.
    Byte,
    /// A byte of the database header.
    DatabaseHeader,
    /// A byte of a page's header.
    PageHeader,
    /// A cell pointer: that of another cell, into another cell, or anything.
    CellPointer,
    /// Where a row goes on: nowhere, at itself, in another row's chain, on a live page, outside.
    Overflow,
    /// A link within an overflow chain, likewise.
    OverflowLink,
    /// The freelist's head, the next trunk, the number of leaves, a leaf.
    Freelist,
    /// A child of an inner page: itself, its parent, another one, outside.
    Child,
    /// The number of pages or of free pages.
    Counts,
    /// A payload's length.
    Length,
    /// A row id, or the key of a separator.
    RowId,
    /// Serial types and lengths at the beginning of a record.
    RecordHeader,
    /// A byte of a pointer map.
    PointerMap,
    /// A page is a copy of another one.
    Copy,
    /// Two pages change places.
    Swap,
    /// The root page that the schema names.
    Root,
    /// The file ends early, or goes on.
    Size,
}

const ALL: [Damage; 17] = [
    Damage::Byte,
    Damage::DatabaseHeader,
    Damage::PageHeader,
    Damage::CellPointer,
    Damage::Overflow,
    Damage::OverflowLink,
    Damage::Freelist,
    Damage::Child,
    Damage::Counts,
    Damage::Length,
    Damage::RowId,
    Damage::RecordHeader,
    Damage::PointerMap,
    Damage::Copy,
    Damage::Swap,
    Damage::Root,
    Damage::Size,
];

/// An undamaged database, and where its structure lies.
struct Sample {
    image: Vec<u8>,
    header: Header,
    /// Pages by kind: b-tree, inner, overflow, trunk, pointer map.
    trees: Vec<u32>,
    inner: Vec<u32>,
    overflow: Vec<u32>,
    trunks: Vec<u32>,
    maps: Vec<u32>,
    /// As a backup cut it.
    cut: Arc<Archived>,
}

const TABLES: &str = "
    CREATE TABLE p(id INTEGER PRIMARY KEY, who TEXT, note TEXT);
    CREATE UNIQUE INDEX p_who ON p(who, id);
    CREATE TABLE o(id INTEGER PRIMARY KEY, who TEXT, what TEXT);
    CREATE INDEX o_who ON o(who); CREATE INDEX o_some ON o(what) WHERE id % 2 = 0;
    CREATE TABLE other(id INTEGER PRIMARY KEY, v TEXT);
    CREATE TABLE k(k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID;
    CREATE TABLE gone(v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 180)
        INSERT INTO p SELECT i, 'user' || (i % 60), CASE i % 5 WHEN 0 THEN hex(zeroblob(i * 6)) ELSE 'note ' || i END FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
        INSERT INTO o SELECT i, 'user' || (i % 60), 'thing ' || (i * 7919 % 400) || substr(hex(zeroblob(600)), 1, CASE i % 40 WHEN 3 THEN 1100 ELSE 0 END) FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
        INSERT INTO other SELECT i, 'other ' || i || hex(zeroblob(i * 4)) FROM n;
    INSERT INTO k SELECT 'key' || id, v FROM other WHERE id < 60;
    INSERT INTO gone SELECT v || v FROM other;
    DELETE FROM gone; DELETE FROM other WHERE id % 9 = 0;";

fn people_map() -> DataMap {
    let find = |table: &str, field: &str| collection(table, &["who", field], vec![probe(&["who"])]);
    map(vec![find("p", "note*"), find("o", "what")])
}

impl Sample {
    fn of(pragma: &str) -> Sample {
        let dir = temp();
        let image = build(dir.path(), &format!("{pragma}{TABLES}"));
        let header = image.header().unwrap();
        let cut = Archived::of(&image, &people_map());
        assert!(cut.report.scrubbed && !cut.report.covers.is_empty());
        let mut sample = Sample { header, trees: vec![], inner: vec![], overflow: vec![], trunks: vec![], maps: vec![], cut, image };
        let mut free = BTreeSet::new();
        let mut next = sample.header.free_head;
        while next != 0 {
            sample.trunks.push(next);
            let (following, leaves) = trunk(sample.page(next), next, &sample.header).unwrap();
            free.extend(leaves);
            next = following;
        }
        for no in 1..=sample.header.pages {
            let flag = sample.page(no)[if no == 1 { 100 } else { 0 }];
            if sample.header.is_pointer_map(no) {
                sample.maps.push(no);
            } else if free.contains(&no) || sample.trunks.contains(&no) {
            } else if let Some(kind) = Kind::of(flag) {
                sample.trees.push(no);
                if !kind.is_leaf() {
                    sample.inner.push(no);
                }
            } else {
                sample.overflow.push(no);
            }
        }
        assert!(sample.inner.len() > 3 && sample.overflow.len() > 20, "{} {}", sample.inner.len(), sample.overflow.len());
        sample
    }

    fn at(&self, no: u32) -> usize {
        (no as usize - 1) * self.header.page
    }

    fn page(&self, no: u32) -> &[u8] {
        &self.image[self.at(no)..][..self.header.page]
    }

    fn tree(&self, no: u32) -> Btree {
        let mut tree = Btree::default();
        tree.parse(self.page(no), no, &self.header).unwrap();
        tree
    }

    /// Where a page's own header begins, in the file.
    fn top(&self, no: u32) -> usize {
        self.at(no) + if no == 1 { 100 } else { 0 }
    }

    /// A page number that is wrong, or at least another one.
    fn number(&self, of: u32, a: u32, b: u32) -> u32 {
        match a % 8 {
            0 => of,
            1 => 0,
            2 => self.header.pages + 1 + b % 3,
            3 => u32::MAX - b % 2,
            4 => pick(&self.overflow, b),
            5 => pick(&self.trees, b),
            6 => self.trunks.first().copied().unwrap_or(1),
            _ => 1 + b % self.header.pages,
        }
    }

    fn damage(&self, image: &mut Vec<u8>, (what, a, b, c): (Damage, u32, u32, u32)) {
        let page = self.header.page;
        let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            if let Some(to) = image.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        let tree = pick(&self.trees, a);
        let cells = self.tree(tree).cells;
        let cell = (!cells.is_empty()).then(|| cells[b as usize % cells.len()]);
        match what {
            Damage::Byte => put(image, a as usize % self.image.len(), &[c as u8]),
            Damage::DatabaseHeader => put(image, a as usize % 100, &[c as u8]),
            Damage::PageHeader => put(image, self.top(tree) + b as usize % 12, &[c as u8]),
            Damage::CellPointer => {
                let leaf = self.tree(tree).is_leaf();
                let at = |i: u32| self.top(tree) + if leaf { 8 } else { 12 } + 2 * (i as usize % cells.len().max(1));
                let pointer = match c % 3 {
                    0 => u16::from_be_bytes(self.image[at(c)..][..2].try_into().unwrap()),
                    1 => cell.map_or(0, |cell| cell.start as u16 + 1 + (c >> 8) as u16 % 6),
                    _ => (c >> 8) as u16,
                };
                put(image, at(b), &pointer.to_be_bytes());
            }
            Damage::Overflow => {
                let all: Vec<(u32, usize)> = self
                    .trees
                    .iter()
                    .flat_map(|no| self.tree(*no).cells.into_iter().map(move |c| (*no, c)))
                    .filter(|(_, c)| c.overflow != 0)
                    .map(|(no, c)| (c.overflow, self.at(no) + c.end as usize - 4))
                    .collect();
                let (first, at) = pick(&all, a);
                put(image, at, &self.number(first, b, c).to_be_bytes());
            }
            Damage::OverflowLink => {
                let no = pick(&self.overflow, a);
                put(image, self.at(no), &self.number(no, b, c).to_be_bytes());
            }
            Damage::Freelist => {
                let Some(no) = self.trunks.first().copied() else { return };
                let leaves = be32(self.page(no), 4).unwrap();
                match a % 4 {
                    0 => put(image, 32, &self.number(no, b, c).to_be_bytes()),
                    1 => put(image, self.at(no), &self.number(no, b, c).to_be_bytes()),
                    2 => put(image, self.at(no) + 4, &[leaves + 1, 0, u32::MAX, leaves / 2, page as u32 / 4][b as usize % 5].to_be_bytes()),
                    _ => put(
                        image,
                        self.at(no) + 8 + 4 * (a >> 2) as usize % leaves.max(1) as usize / 4 * 4,
                        &self.number(no, b, c).to_be_bytes(),
                    ),
                }
            }
            Damage::Child => {
                let no = pick(&self.inner, a);
                let cells = self.tree(no).cells;
                let at = match (b >> 3) as usize % (cells.len() + 1) {
                    i if i < cells.len() => self.at(no) + cells[i].start as usize,
                    _ => self.top(no) + 8,
                };
                put(image, at, &self.number(no, b, c).to_be_bytes());
            }
            Damage::Counts => {
                let pages = self.header.pages;
                let n = [0, 1, pages - 1, pages + 1, u32::MAX, pages / 2, 3][b as usize % 7];
                put(image, if a % 2 == 0 { 28 } else { 36 }, &n.to_be_bytes());
            }
            Damage::Length => {
                let Some(cell) = cell else { return };
                let at = self.at(tree) + cell.start as usize + if self.tree(tree).is_leaf() { 0 } else { 4 };
                match c % 4 {
                    0 => put(image, at, &[0xff; 9]),
                    1 => put(image, at, &[0x8f, 0xff, 0xff, 0x7f]),
                    2 => put(image, at, &[0]),
                    _ => put(image, at, &[(c >> 8) as u8 & 0x7f]),
                }
            }
            Damage::RowId => {
                let Some(cell) = cell else { return };
                let at = self.at(tree) + if self.tree(tree).is_leaf() { cell.payload as usize - 1 } else { cell.end as usize - 1 };
                put(image, at, &[c as u8 & 0x7f]);
            }
            Damage::RecordHeader => {
                let Some(cell) = cell.filter(|c| c.local > 0) else { return };
                put(image, self.at(tree) + (cell.payload + (c >> 8) % cell.local.min(5)) as usize, &[c as u8]);
            }
            Damage::PointerMap => {
                let no = if self.maps.is_empty() { return } else { pick(&self.maps, a) };
                put(image, self.at(no) + b as usize % page, &[c as u8]);
            }
            Damage::Copy => {
                let from = self.page(1 + b % self.header.pages).to_vec();
                put(image, self.at(2 + a % (self.header.pages - 1)), &from);
            }
            Damage::Swap => {
                let (x, y) = (pick(&self.trees[1..], a), pick(&self.trees[1..], b));
                put(image, self.at(x), self.page(y));
                put(image, self.at(y), self.page(x));
            }
            Damage::Root => {
                // The schema's rows end with the text; the root page stands before it, as one byte.
                let cells = self.tree(1).cells;
                let Some(cell) = cells.get(a as usize % cells.len().max(1)) else { return };
                let payload = &self.page(1)[cell.payload as usize..(cell.payload + cell.local) as usize];
                let create = memchr::memmem::find(payload, b"CREATE").unwrap_or(1);
                put(image, cell.payload as usize + create - 1, &[self.number(2, b, c) as u8]);
            }
            Damage::Size => match a % 3 {
                0 => image.truncate(self.image.len() - page * (1 + b as usize % 20)),
                1 => image.truncate(self.image.len() - 1 - b as usize % page),
                _ => image.extend(vec![c as u8; b as usize % (2 * page)]),
            },
        }
    }
}

fn pick<T: Copy>(all: &[T], n: u32) -> T {
    all[n as usize % all.len()]
}

fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        [
            "PRAGMA page_size=512;",
            "PRAGMA page_size=1024; PRAGMA encoding='UTF-16le';",
            "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL;",
            "PRAGMA page_size=1024; PRAGMA auto_vacuum=INCREMENTAL;",
            "PRAGMA page_size=512; PRAGMA journal_mode=WAL;",
        ]
        .map(Sample::of)
        .into()
    })
}

const PERSON: [&str; 2] = ["user7", "user23"];

/// Rows of every table that SQLite reads without an error, those of the people apart from the others'.
struct Seen {
    others: BTreeMap<String, Vec<String>>,
    theirs: BTreeMap<String, u64>,
    whole: bool,
    /// Two rows of a table have the same id.
    twins: bool,
}

impl Seen {
    fn by_sqlite(dir: &Path, image: &[u8]) -> Seen {
        let mut out = Seen { others: BTreeMap::new(), theirs: BTreeMap::new(), whole: false, twins: false };
        let Ok(db) = Connection::open(on_disk(dir, "plain.db", image)) else { return out };
        out.whole = db.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).is_ok_and(|t| t == "ok");
        for table in ["p", "o", "other", "k", "gone"] {
            let (mut ids, mut twins) = (BTreeSet::new(), false);
            let mut read = || -> rusqlite::Result<(Vec<String>, u64)> {
                let id = if table == "k" { "k" } else { "rowid" };
                let mut statement = db.prepare(&format!("SELECT {id}, * FROM {table} NOT INDEXED"))?;
                let n = statement.column_count();
                let (mut others, mut theirs) = (Vec::new(), 0);
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let values: Vec<String> = (0..n).map(|i| row.get_ref(i).map(shown)).collect::<rusqlite::Result<_>>()?;
                    twins |= !ids.insert(values[0].clone());
                    // The second column of these two says whose row it is.
                    let person = matches!(table, "p" | "o")
                        && row.get_ref(2)?.as_bytes_or_null().ok().flatten().is_some_and(|w| PERSON.iter().any(|p| p.as_bytes() == w));
                    match person {
                        true => theirs += 1,
                        false => others.push(values.join("|")),
                    }
                    if others.len() > 100_000 {
                        return Err(rusqlite::Error::InvalidQuery);
                    }
                }
                others.sort();
                Ok((others, theirs))
            };
            if let Ok((others, theirs)) = read() {
                out.others.insert(table.into(), others);
                out.theirs.insert(table.into(), theirs);
            }
            out.twins |= twins;
        }
        out
    }
}

fn shown(value: rusqlite::types::ValueRef<'_>) -> String {
    match value {
        rusqlite::types::ValueRef::Text(t) => format!("'{}'", String::from_utf8_lossy(t)),
        other => format!("{other:?}"),
    }
}

/// How an edit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    NotOpened,
    NotFound,
    Refused,
    Nothing,
    Edited,
}

/// Erases the people from `p` and blanks their rows of `o`. After an error the editor must have nothing to give.
fn erase(content: &Arc<Archived>, whole: bool) -> (End, Vec<NewPiece>, u64) {
    let (map, key) = (people_map(), key());
    let limits = Limits { whole_check: if whole { 64 << 20 } else { 0 }, ..Limits::default() };
    let Ok(mut editor) = SqliteEditor::open(content.clone(), &key, limits) else { return (End::NotOpened, vec![], 0) };
    let found = (|| {
        let people = wanted(&key, &PERSON);
        let of = |editor: &mut SqliteEditor<'_>, i: usize| editor.find(&map, i, &map.collections[i].probes[0], &people);
        Ok::<_, crate::Error>((of(&mut editor, 0)?, of(&mut editor, 1)?))
    })();
    let _ = editor.visit_values(&mut |_| {});
    let Ok((p, o)) = found else { return (End::NotFound, vec![], 0) };
    let n = (p.len() + o.len()) as u64;
    let decided: Vec<_> = delete_all(p).into_iter().chain(rewrite(o, &[("who", None), ("what", Some("taken out"))])).collect();
    let applied = editor.apply(&map, &[1, 0], &decided);
    let pieces = Box::new(editor).finish();
    match (applied, pieces) {
        (Err(_), pieces) => {
            assert!(pieces.unwrap().is_empty(), "after an error nothing is given back");
            (End::Refused, vec![], n)
        }
        (Ok(_), Err(_)) => (End::Refused, vec![], n),
        (Ok(_), Ok(pieces)) if pieces.is_empty() => (End::Nothing, pieces, n),
        (Ok(_), Ok(pieces)) => (End::Edited, pieces, n),
    }
}

/// The whole path for one damaged database: as a backup stores it, as an archive without a scrub holds it, and as a host that lies about
/// having scrubbed it (or a disk that damages it later) would leave it.
fn survive(sample: &Sample, image: &[u8]) -> Vec<End> {
    let dir = temp();
    let before = Seen::by_sqlite(dir.path(), image);
    let lying = Arc::new(Archived {
        runs: image.chunks(RUN).map(|r| Arc::new(r.to_vec())).collect(),
        marks: (0..image.len().div_ceil(RUN)).map(|i| sample.cut.marks.get(i).cloned().flatten()).collect(),
        report: sample.cut.report.clone(),
        opened: Mutex::default(),
        reads: AtomicUsize::new(0),
        stop: Stop::default(),
    });
    let backed_up = Archived::of(&image.to_vec(), &people_map());
    let mut ends = Vec::new();
    for (name, content, whole) in [
        ("backed up", &backed_up, false),
        ("backed up, checked as a whole", &backed_up, true),
        ("not scrubbed", &Archived::plain(image), false),
        ("lying", &lying, false),
    ] {
        let bytes = content.bytes();
        let (end, pieces, found) = erase(content, whole);
        assert!(content.bytes() == bytes, "the archive is as it was");
        ends.push(end);
        // A page that two rows share is one page, and what shares one is seen only by a look at everything, which a scrub is. Who lies about
        // it has damaged its own rows; they may go with the page.
        if end != End::Edited || (name == "lying" && !before.whole) {
            continue;
        }
        let after = Seen::by_sqlite(dir.path(), &content.after(pieces).bytes());
        assert!(after.whole || !before.whole, "{name}: damaged by the edit");
        for (table, rows) in &before.others {
            // A row of theirs that stays was blanked, so it is nobody's; what is nobody's is compared without them.
            let Some(now) = after.others.get(table) else { panic!("{name}: table {table} cannot be read any more") };
            let blanked = |rows: &[String]| rows.iter().filter(|r| !r.contains("taken out")).cloned().collect::<Vec<_>>();
            assert!(blanked(now) == blanked(rows), "{name}: {} of table {table} became {}, {found} rows found", rows.len(), now.len());
        }
        // Without identity blocks an index is believed, and a damaged one may not list a row. Of two rows with the same id one goes.
        if before.whole || (name != "not scrubbed" && backed_up.report.scrubbed && !before.twins) {
            for (table, n) in &after.theirs {
                assert_eq!(*n, 0, "{name}: of {:?} in {table}, {found} found", before.theirs.get(table));
            }
        }
    }
    ends
}

/// Runs it with somebody who watches the clock.
fn in_time(sample: usize, damages: Vec<(Damage, u32, u32, u32)>) -> Vec<End> {
    let (done, waiting) = channel();
    let name = format!("{damages:?} in sample {sample}");
    let work = std::thread::spawn(move || {
        let sample = &samples()[sample];
        let mut image = sample.image.clone();
        for damage in damages {
            sample.damage(&mut image, damage);
        }
        let ends = survive(sample, &image);
        let _ = done.send(());
        ends
    });
    // A panic drops the sender, which ends the wait too.
    let ended = waiting.recv_timeout(Duration::from_secs(120));
    assert_ne!(ended, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "still at it: {name}");
    match work.join() {
        Ok(ends) => ends,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn damage() -> impl Strategy<Value = (Damage, u32, u32, u32)> {
    (prop::sample::select(ALL.to_vec()), any::<u32>(), any::<u32>(), any::<u32>())
}

#[test]
fn a_damaged_database_is_edited_exactly_or_not_at_all() {
    // The same ones each time, unless more are asked for.
    let asked = std::env::var("RESEAL_HOSTILE_CASES").ok().and_then(|n| n.parse().ok());
    let (config, cases) =
        (ProptestConfig { max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() }, asked.unwrap_or(60));
    let ends: Mutex<BTreeMap<(usize, End), u64>> = Mutex::default();
    let config = ProptestConfig { cases, ..config };
    let mut runner = match asked {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let result = runner.run(&(0..samples().len(), prop::collection::vec(damage(), 1..4)), |(sample, damages)| {
        for (i, end) in in_time(sample, damages).into_iter().enumerate() {
            *ends.lock().unwrap().entry((i, end)).or_default() += 1;
        }
        Ok(())
    });
    eprintln!("{:?}", ends.lock().unwrap());
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn the_undamaged_samples_are_edited() {
    for (i, sample) in samples().iter().enumerate() {
        assert_eq!(survive(sample, &sample.image), [End::Edited; 4], "sample {i}");
    }
}

#[test]
fn a_chain_whose_last_page_looks_like_a_tree_keeps_its_bytes() {
    // The page moves when the file shrinks, is written by that, and must not be scrubbed as what its first byte says.
    for sample in [2, 0] {
        assert_eq!(in_time(sample, vec![(Damage::Copy, 2_383_336_501, 1_176_674_600, 0)]).len(), 4);
    }
}
