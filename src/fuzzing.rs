//! Entry points for the fuzz targets in `fuzz/`: one function for each sort of bytes that are stored or come from elsewhere, which must end in an
//! error or in something sensible, and never in a panic, for ever, or with the memory gone. Behind the feature `fuzzing`, so that the parsers stay
//! private; the tests run what fuzzing has found ([`tests`]). `scripts/fuzz` looks for more.
#![allow(missing_docs)]

use crate::config;
use crate::datamap::{DataMap, EntryPattern, TokenKey, TokenSet, Value, expr::Expr};
use crate::engine::{certificate, event::Event, identity, state::State};
use crate::format::blocks::Covers;
use crate::format::cutter::{CutSizes, Gear, RecordPieces};
use crate::format::mentions::PlainMentions;
use crate::format::records::RecordsEditor;
use crate::format::text_filter::WantedText;
use crate::format::variants::VariantSearch;
use crate::format::{Decision, Disposition, EntryContent, EntryEditor, Marks, Mentions, NewPiece, NewValue, RecordFormat};
use crate::format::{csv::CSV, ndjson::NDJSON, registry, sqlite};
use crate::policy::Period;
use crate::repository::entry::EntryKind;
use crate::source::{PathGlobs, TarWriter};
use crate::{Error, Result, repository};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A fuzz target.
pub struct Target {
    /// As its file in `fuzz/fuzz_targets/` is called.
    pub name: &'static str,
    /// Takes one input; panics when what it does is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 20] = [
    Target { name: "chunk", run: repository::fuzzing::chunk },
    Target { name: "sheet", run: repository::fuzzing::sheet },
    Target { name: "head", run: repository::fuzzing::head },
    Target { name: "list", run: |data| drop(repository::fuzzing::list(data)) },
    Target { name: "tar", run: tar },
    Target { name: "marks", run: marks },
    Target { name: "ledger", run: ledger },
    Target { name: "params", run: repository::fuzzing::params },
    Target { name: "keys", run: repository::fuzzing::keys },
    Target { name: "export", run: repository::fuzzing::export },
    Target { name: "intake", run: repository::fuzzing::intake },
    Target { name: "config", run: configuration },
    Target { name: "expr", run: expr },
    Target { name: "identities", run: identities },
    Target { name: "csv", run: |data| records(&CSV, 0, data) },
    Target { name: "ndjson", run: |data| records(&NDJSON, 1, data) },
    Target { name: "search", run: search },
    Target { name: "sqlite_cut", run: |data| sqlite::fuzzing::cut_any(&map("crm"), data) },
    Target { name: "sqlite_edit", run: |data| sqlite::fuzzing::edit_any(&map("crm"), data) },
    Target { name: "sqlite_check", run: |data| sqlite::fuzzing::check_any(&map("crm"), data) },
];

/// Runs one.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|t| t.name == name) {
        Some(target) => (target.run)(data),
        None => panic!("there is no target {name}"),
    }
}

/// Inputs to begin with: what this program writes, so that they keep up with it.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut out = repository::fuzzing::seeds(name);
    out.extend(sqlite::fuzzing::seeds(name));
    let texts: &[&str] = match name {
        "config" => &[include_str!("../docs/reseal.example.yaml"), include_str!("../testdata/quickstart/reseal.yaml"), CONFIG],
        "expr" => &[
            "kind = 'retail' and not (total > 5.5 or name in ('a', 'b')) and x is not null",
            "order_date + 5y - 3d",
            "a/{customer_id}/**/x*.csv",
            "2020-01-31T12:00:00Z",
            "31.01.2020",
            "90d",
            "256MiB",
            "!*.log",
        ],
        "identities" => &[
            include_str!("../testdata/quickstart/identity.yaml"),
            "[{email: [a@x.org, b@x.org], person: {last: Doe, born: 1990-01-01}}, {person: [Doe, 1990]}]",
            include_str!("../testdata/golden/v1/certificate.json"),
        ],
        "csv" => &[
            "\0email,name,note\na@x.org,Ann,\"a \"\"quoted\"\"\nnote\"\r\nb@x.org,Bob,a@x.org asked\n",
            "\0sep=;\nemail;note\na@x.org;x\n",
        ],
        "ndjson" => &["\0{\"email\":\"a@x.org\",\"items\":[{\"id\":1},{\"id\":2}],\"note\":\"\\u00e4 a@x.org\"}\n{\"email\":null}\n"],
        _ => &[],
    };
    out.extend(texts.iter().map(|t| t.as_bytes().to_vec()));
    match name {
        "marks" => {
            let rows = [(0, 1, 77), (0, 900, 5), (3, -4, 1 << 40)];
            let rows = rows.into_iter().map(|(probe, record, token)| crate::format::MarkRow { probe, record, token }).collect();
            out.extend(Marks { context: b"x".to_vec(), records: 7, rows, text: Some(vec![1, 2, 3, 255]), malformed: 1 }.encode());
        }
        "ledger" => {
            let events = [
                Event::RepositoryCreated { tool: "test".into() },
                Event::ArchiveSealed {
                    dataset: "d".into(),
                    archive: repository::ArchiveId([2; 16]),
                    digest: "00".into(),
                    created_at: jiff::Timestamp::UNIX_EPOCH,
                    admitted: None,
                },
            ];
            out.push(events.iter().flat_map(repository::fuzzing::encoded).collect());
        }
        "csv" => {
            // In another encoding; and a context that is made up.
            out.push(
                [&[0, 0xff, 0xfe], "email,note\na@x.org,x\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().as_slice()]
                    .concat(),
            );
            out.push([b"\x01\x00".as_slice(), b"a@x.org,b\n"].concat());
        }
        "search" => {
            let text = "Ann Lee <a@x.org> +49 30 1234567, YUB4Lm9yZw== a%40x.org ".repeat(3);
            out.push(text.as_bytes().to_vec());
            out.extend(zstd::bulk::compress(text.as_bytes(), 3));
            let mut gzip = Vec::new();
            let _ = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::fast()).read_to_end(&mut gzip);
            let mut deflated = Vec::new();
            let _ = flate2::read::DeflateEncoder::new(text.as_bytes(), flate2::Compression::fast()).read_to_end(&mut deflated);
            let zip = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0x";
            out.extend([gzip, [zip.as_slice(), &deflated].concat()]);
        }
        _ => {}
    }
    out
}

/// A configuration whose maps the other targets use.
const CONFIG: &str = "version: 1
repository: ./backups
datasets:
  crm:
    source: {paths: [./data]}
    unmapped: preserve
    collections:
      - {name: p, entry: crm.db, format: sqlite, on_erase: delete, fields: {who: {identity: customer, normalize: [trim, lower]}, note: {scan: identities, action: {strategy: redact, replacement: x}}}}
      - {name: o, entry: crm.db, format: sqlite, on_erase: anonymize, fields: {who: {identity: customer, action: {strategy: null_rewrite}}, what: {action: {strategy: null_rewrite}}}}
  files:
    source: {paths: [./data]}
    unmapped: preserve
    collections:
      - {name: rows, entry: '**/*.csv', on_erase: delete, fields: {email: {identity: email}, note: {scan: identities, action: {strategy: redact, replacement: x}}}}
      - {name: lines, entry: '**/*.ndjson', on_erase: delete, fields: {email: {identity: email}, 'items[].id': {identity: item}, note: {scan: identities, action: {strategy: redact, replacement: x}}}}
";

fn map(dataset: &str) -> Arc<DataMap> {
    static MAPS: OnceLock<BTreeMap<String, Arc<DataMap>>> = OnceLock::new();
    let maps = MAPS.get_or_init(|| match config::parse(CONFIG, Path::new("reseal.yaml")) {
        Ok(config) => config.datasets.into_iter().map(|(name, d)| (name, Arc::new(d.map))).collect(),
        Err(e) => panic!("{e}"),
    });
    maps.get(dataset).cloned().unwrap_or_else(|| panic!("there is no map {dataset}"))
}

/// Entries as they stand in a list chunk, written as a tar stream.
fn tar(data: &[u8]) {
    let mut out = TarWriter::new(std::io::sink());
    for entry in repository::fuzzing::list(data) {
        let len = match &entry.segments {
            Some(segments) => segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.1)),
            None => entry.size,
        };
        let len = if entry.kind == EntryKind::File { len.min(1 << 16) } else { 0 };
        let _ = out.append(&entry, &mut std::io::repeat(7).take(len));
    }
    assert!(out.finish().is_ok());
}

/// An identity block.
fn marks(data: &[u8]) {
    let wanted = WantedText::new(&key(), &[vec!["a@x.org".into()]]);
    let (whole, summary) = (Marks::decode(data), Marks::summary(data));
    if let Ok(summary) = &summary {
        let _ = wanted.may_be_in(summary.text.as_deref());
    }
    let Ok(marks) = whole else { return };
    assert!(summary.is_ok(), "a block that is read has a summary");
    let _ = marks.of_probe(3).count();
    let again = marks.encode().and_then(|bytes| Marks::decode(&bytes));
    assert!(again.is_ok_and(|again| again.rows.len() == marks.rows.len() && again.context == marks.context && again.text == marks.text));
}

/// What the ledger says, folded.
fn ledger(data: &[u8]) {
    let _ = State::fold_entries(&repository::fuzzing::ledger(data));
}

/// A configuration, or a data map: what it names is read from nowhere.
fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let none = |_: &Path| Err(Error::Usage("there are no files here".into()));
    let _ = config::load::parse_with(text, Path::new("nowhere/reseal.yaml"), none);
    // The same text as a map that a configuration names.
    thread_local!(static MAP: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) });
    MAP.set(text.to_string());
    let outer = "version: 1\nrepository: b\ndatasets: {d: {source: {paths: [x]}, map: m.yaml}}\n";
    let _ = config::load::parse_with(outer, Path::new("nowhere/reseal.yaml"), |_| Ok(MAP.with_borrow(String::clone)));
}

/// Everything that is written inside a configuration's values.
fn expr(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value = |name: &str| match name.len() % 5 {
        0 => Some(Value::Null),
        1 => Some(Value::Integer(i64::MIN)),
        2 => Some(Value::Text("2024-02-29".into())),
        3 => Some(Value::Real(f64::NAN)),
        _ => None,
    };
    if let Ok(expr) = Expr::parse(text) {
        let _ = (expr.check_condition(), expr.check_date(), expr.fields());
        let _ = (expr.holds(&value), expr.date_value(&value));
    }
    let _ = crate::datamap::expr::parse_date(text);
    if let Ok(period) = Period::parse(text) {
        let _ = (period.after(jiff::Timestamp::MAX), period.before(jiff::Timestamp::MIN), period.shortest_seconds(), period.is_zero());
    }
    let (pattern, path) = text.split_once('\n').unwrap_or((text, "a/7/b/c/x1.csv"));
    if let Ok(pattern) = EntryPattern::parse(pattern) {
        let _ = (pattern.matches(path.as_bytes()), pattern.matches_folder(path.as_bytes()), pattern.display(path.as_bytes()));
    }
    if let Ok(globs) = PathGlobs::new(&[pattern]) {
        let _ = (globs.matches(path.as_bytes(), true), globs.covers(path.as_bytes(), false));
    }
}

/// A file that names a person, and a certificate.
fn identities(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let kind = |name: &str, parts: &[&str]| (name.to_string(), parts.iter().map(|p| p.to_string()).collect());
    let kinds = BTreeMap::from([kind("email", &["email"]), kind("customer_id", &["customer_id"]), kind("person", &["last", "born"])]);
    let _ = identity::parse_identities(&text, &kinds);
    let _ = certificate::check(&text, None);
}

fn key() -> TokenKey {
    TokenKey::new(zeroize::Zeroizing::new([9; 32]))
}

/// An entry in memory.
#[derive(Default)]
struct Held {
    pieces: Vec<(Arc<Vec<u8>>, Arc<Marks>)>,
    covers: Vec<String>,
}

impl EntryContent for Held {
    fn path(&self) -> String {
        "entry".into()
    }
    fn pieces(&self) -> usize {
        self.pieces.len()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.pieces.get(index).map_or(0, |p| p.0.len() as u64)
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        self.pieces.get(index).map(|p| p.0.clone()).ok_or_else(|| Error::format("entry", "has no such piece"))
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        Ok(self.pieces.get(index).map(|p| p.1.clone()))
    }
    fn covers(&self) -> &[String] {
        &self.covers
    }
    fn scrubbed(&self) -> bool {
        false
    }
}

/// An entry of a record format, cut, marked, searched and edited; or, when the first byte is odd, a piece whose context somebody made up, with
/// the context's length in the second.
fn records(format: &'static dyn RecordFormat, collection: usize, data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let map = map("files");
    let Some(of) = map.collections.get(collection) else { return };
    let _ = registry::detect(b"entry", rest).map(registry::Serves::name);
    if how % 2 == 1 {
        let Some((len, rest)) = rest.split_first() else { return };
        let (context, piece) = rest.split_at(usize::from(*len).min(rest.len()));
        let fields: Vec<String> = of.fields.keys().cloned().collect();
        let _ = (format.columns(context), format.unmapped(context, piece, &fields));
        let _ = format.scan(context, piece, &fields, &mut |record| {
            Ok(match record.index % 3 {
                0 => Decision::Keep,
                1 => Decision::Delete,
                _ => Decision::Rewrite(vec![(
                    0,
                    record.values.first().into_iter().flatten().map(|_| Some(NewValue::Text("new".into()))).collect(),
                )]),
            })
        });
        return;
    }
    let gear = Gear::new(&[5; 32]);
    let mut reader = rest;
    let sizes = CutSizes { min: 64, avg: 128, max: 512 };
    let Ok(pieces) = RecordPieces::open(format, of, &mut reader, "entry", &gear, sizes, 1 << 16) else { return };
    let Ok(pieces) = pieces.collect::<Result<Vec<_>>>() else { return };
    assert!(pieces.iter().flat_map(|p| p.bytes.iter()).eq(rest.iter()), "pieces put together are the entry");
    let covers = Covers::of_map(&map, &[collection]);
    let mut held = Held { covers: covers.keys().to_vec(), ..Held::default() };
    for piece in pieces {
        let Ok((marks, _)) = covers.block(format, &piece.context, &piece.bytes, &key()) else { return };
        held.pieces.push((Arc::new(piece.bytes), Arc::new(marks)));
    }
    let found = erase(format, &map, collection, held);
    if let Some((after, true)) = found {
        // A second time nothing is left to do.
        assert!(erase(format, &map, collection, after).is_none_or(|(_, any)| !any), "what was erased is still found");
    }
}

/// Erases a person; what is left, and whether anything was found. `None` where the edit was refused.
fn erase(format: &'static dyn RecordFormat, map: &DataMap, at: usize, held: Held) -> Option<(Held, bool)> {
    let key = key();
    let of = map.collections.get(at)?;
    let mut people = TokenSet::new(&key);
    people.insert_values(vec!["a@x.org".into()]);
    let content = Arc::new(held);
    let mut editor = RecordsEditor::new(content.clone(), format, of, &key, 1 << 24).ok()?;
    let mut decided = Vec::new();
    for probe in &of.probes {
        decided.extend(editor.find(map, at, probe, &people).ok()?.into_iter().map(|f| (f, Disposition::Delete)));
    }
    let mentions = PlainMentions::new(vec![("email".into(), vec!["a@x.org".into()])]).ok()?;
    for found in editor.find_text(map, at, &mentions).ok()? {
        decided.push((found, Disposition::Delete));
    }
    let any = !decided.is_empty();
    editor.apply(map, &[at], &decided).ok()?;
    let new = Box::new(editor).finish().ok()?;
    let mut pieces = content.pieces.clone();
    for NewPiece { replaces, bytes, marks } in new {
        *pieces.get_mut(replaces.start)? = (Arc::new(bytes), Arc::new(marks?));
    }
    Some((Held { pieces, covers: content.covers.clone() }, any))
}

/// Any bytes, searched for a person: as they lie, in other spellings and inside packed members.
fn search(data: &[u8]) {
    static SEARCH: OnceLock<Option<(VariantSearch, PlainMentions)>> = OnceLock::new();
    let made = SEARCH.get_or_init(|| {
        let values = ["a@x.org", "Ann Lee", "+49 30 1234567"].map(String::from);
        let mentions = PlainMentions::new(values.iter().map(|v| ("any".into(), vec![v.clone()])).collect());
        Some((VariantSearch::new(&values).ok()?, mentions.ok()?))
    });
    let Some((variants, mentions)) = made else { panic!("there is nothing to search for") };
    let _ = variants.search(data);
    let _ = variants.search_nested(data, crate::format::variants::Limits { depth: 3, bytes: 1 << 20 });
    let text = String::from_utf8_lossy(data);
    let mut end = 0;
    for span in mentions.spans(&text) {
        assert!(span.start >= end && text.get(span.clone()).is_some(), "spans ascend and are text");
        end = span.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    /// Inputs on which a target once failed.
    #[test]
    fn what_fuzzing_found_stays_fixed() {
        let mut run = 0;
        for target in fs::read_dir(folder().join("regressions")).unwrap() {
            let target = target.unwrap();
            for input in fs::read_dir(target.path()).unwrap() {
                let input = input.unwrap().path();
                eprintln!("{}", input.display());
                super::run(target.file_name().to_str().unwrap(), &fs::read(input).unwrap());
                run += 1;
            }
        }
        assert!(run > 0);
    }

    /// The targets themselves are alive: what this program writes gets through them, whole, cut off and with a byte changed.
    #[test]
    fn every_target_takes_its_seeds() {
        for target in &TARGETS {
            let seeds = seeds(target.name);
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                (target.run)(&seed);
                for at in [seed.len() / 3, seed.len() * 3 / 4] {
                    (target.run)(&seed[..at]);
                    let mut other = seed.clone();
                    other.get_mut(at).into_iter().for_each(|b| *b ^= 0x41);
                    (target.run)(&other);
                }
            }
        }
    }

    /// A fuzzer without eyes, for a moment; for longer with `RESEAL_FUZZ_SECONDS`, which each target then takes. It needs no other compiler.
    #[test]
    fn every_target_takes_what_a_few_changes_make_of_its_seeds() {
        let seconds: Option<u64> = std::env::var("RESEAL_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
        let last = std::env::temp_dir().join(format!("reseal-fuzz-{}", std::process::id()));
        for target in &TARGETS {
            let seeds = seeds(target.name);
            let (begun, mut n) = (std::time::Instant::now(), 0u64);
            let most = if target.name.starts_with("sqlite_e") || target.name == "sqlite_check" { 20 } else { 200 };
            while seconds.map_or(n < most, |s| begun.elapsed().as_secs() < s) {
                let input = changed(&seeds, seconds.map_or(0, |s| s << 32) + n);
                if seconds.is_some() {
                    fs::write(&last, &input).unwrap();
                }
                let at = std::time::Instant::now();
                (target.run)(&input);
                assert!(at.elapsed().as_secs() < 60, "{}: took {:?}", target.name, at.elapsed());
                n += 1;
            }
            eprintln!("{}: {n} inputs", target.name);
        }
        let _ = fs::remove_file(&last);
    }

    /// The n-th input that is like one of the seeds.
    fn changed(seeds: &[Vec<u8>], n: u64) -> Vec<u8> {
        let mut random = blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof();
        let mut below = |most: usize| {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            (u64::from_le_bytes(bytes) % most.max(1) as u64) as usize
        };
        let mut out = seeds[below(seeds.len())].clone();
        for _ in 0..1 + below(4) {
            let (at, len) = (below(out.len()), 1 + below(8));
            let range = at..(at + len).min(out.len());
            match below(7) {
                0 => out.truncate(at),
                1 => drop(out.drain(range)),
                2 => drop(out.splice(at..at, out[range].to_vec())),
                3 => out.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << below(8)),
                4 => out.iter_mut().skip(at).take(len).for_each(|b| *b = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\n', b','][below(8)]),
                5 => {
                    let other = &seeds[below(seeds.len())];
                    let from = below(other.len());
                    out.truncate(at);
                    out.extend(&other[from..]);
                }
                _ => out.iter_mut().skip(at).take(len).for_each(|b| *b = below(256) as u8),
            }
        }
        out
    }

    #[test]
    fn every_target_has_its_file() {
        let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_string()).collect();
        let files = fs::read_dir(folder().join("fuzz_targets")).unwrap();
        let files: BTreeSet<String> = files.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().into()).collect();
        assert_eq!(names, files);
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        assert!(names.iter().all(|name| manifest.contains(&format!("\"fuzz_targets/{name}.rs\""))));
    }
}
