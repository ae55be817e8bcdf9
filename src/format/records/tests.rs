use super::*;
use crate::datamap::expr::Expr;
use crate::datamap::{Feed, Field, TokenSet};
use crate::format::blocks::Covers;
use crate::format::csv::CSV;
use crate::format::cutter::{CutSizes, Gear, MAX_RECORD, RecordPieces};
use crate::format::mentions::PlainMentions;
use crate::format::ndjson::NDJSON;
use crate::format::testing::{Memory, collection, cpu_seconds, key, read, real_data};
use crate::format::{Piece, RecordFormat};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

const LOWER: Normalize = Normalize { nfc: true, trim: true, lower: true, digits: false };

fn probe(fields: &[&str]) -> Probe {
    let fields: Vec<(String, Normalize)> = fields.iter().map(|f| (f.to_string(), LOWER)).collect();
    Probe { feed: Feed::Identity("any".into()), fields, when: None }
}

fn field(name: &str, scan: bool) -> (String, Field) {
    let field = Field { name: name.into(), category: None, identity: None, normalize: LOWER, action: None, scan };
    (name.to_string(), field)
}

/// One collection "people" with these probes and fields (those that end in `*` are searched as text).
fn map(probes: &[&[&str]], fields: &[&str]) -> DataMap {
    let mut people = collection("people");
    people.probes = probes.iter().map(|p| probe(p)).collect();
    people.fields = fields.iter().map(|f| field(f.trim_end_matches('*'), f.ends_with('*'))).collect();
    DataMap { collections: vec![people], ..DataMap::default() }
}

fn wanted<'k>(key: &'k TokenKey, values: &[&[&str]]) -> TokenSet<'k> {
    let mut set = TokenSet::new(key);
    for v in values {
        set.insert_values(v.iter().map(|s| s.to_string()).collect());
    }
    set
}

fn editor<'k>(content: &Arc<Memory>, format: &'static dyn RecordFormat, map: &DataMap, key: &'k TokenKey) -> Box<RecordsEditor<'k>> {
    Box::new(RecordsEditor::new(content.clone(), format, &map.collections[0], key, 256 << 20).unwrap())
}

fn people(n: usize) -> String {
    let line = |i: usize| format!("{i},User{i}@x.org,Name {i},\"likes user{}@x.org\"\n", i + 1);
    std::iter::once("id,email,name,note\n".to_string()).chain((0..n).map(line)).collect()
}

fn deletions(found: Vec<Found>) -> Vec<(Found, Disposition)> {
    found.into_iter().map(|f| (f, Disposition::Delete)).collect()
}

fn first(found: &Found, field: &str) -> String {
    found.values[field][0].canonical().unwrap_or_default().into_owned()
}

#[test]
fn blocks_lead_to_the_record_without_opening_the_rest() {
    let key = key();
    let map = map(&[&["email"], &["id", "name"]], &["email", "name"]);
    let text = people(500);
    let content = Memory::mapped(&CSV, &map, &[0], text.as_bytes());
    assert!(content.pieces() > 20);
    assert_eq!(content.covers(), ["people(email:nfc+trim+lower)", "people(id:nfc+trim+lower,name:nfc+trim+lower)"]);
    let mut editor = editor(&content, &CSV, &map, &key);
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["user250@x.org"], &["nobody@x.org"]])).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((first(&found[0], "id"), first(&found[0], "note")), ("250".into(), "likes user251@x.org".into()));
    assert_eq!(content.opened.load(Ordering::Relaxed), 1);
    // Composite; and what was found is not found again.
    let both = wanted(&key, &[&["250", "name 250"], &["251", "name 251"], &["251", "name 252"]]);
    let more = editor.find(&map, 0, &map.collections[0].probes[1], &both).unwrap();
    assert_eq!(more.iter().map(|f| first(f, "id")).collect::<Vec<_>>(), ["251"]);
    assert!(!editor.fell_back());

    let decided = deletions(found.into_iter().chain(more).collect());
    let applied = editor.apply(&map, &[0], &decided).unwrap();
    assert_eq!((applied.deleted[&0], applied.rewritten.len(), applied.notes.len()), (2, 0, 0));
    assert!(editor.find(&map, 0, &map.collections[0].probes[0], &both).is_err());
    let new = editor.finish().unwrap();
    assert!((1..=2).contains(&new.len()));
    content.replace(new);
    let expected: String = text.lines().filter(|l| !l.starts_with("250,") && !l.starts_with("251,")).map(|l| format!("{l}\n")).collect();
    assert_eq!(String::from_utf8(content.bytes()).unwrap(), expected);
}

#[test]
fn new_blocks_are_those_of_a_new_backup() {
    let key = key();
    let map = map(&[&["email"]], &["email", "note*"]);
    let content = Memory::mapped(&CSV, &map, &[0], people(200).as_bytes());
    let mut editor = editor(&content, &CSV, &map, &key);
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["user7@x.org"], &["user9@x.org"]])).unwrap();
    let rewrite = Disposition::Rewrite(BTreeMap::from([("email".to_string(), vec![Some(NewValue::Text("gone@erased.invalid".into()))])]));
    editor.apply(&map, &[0], &[(found[0].clone(), Disposition::Delete), (found[1].clone(), rewrite)]).unwrap();
    let new = editor.finish().unwrap();
    let covers = Covers::of_map(&map, &[0]);
    for piece in &new {
        let marks = piece.marks.as_ref().unwrap();
        assert_eq!(*marks, covers.block(&CSV, &marks.context, &piece.bytes, &key).unwrap().0);
    }
    let tokens: Vec<u32> = new.iter().flat_map(|p| p.marks.as_ref().unwrap().rows.iter().map(|r| r.short())).collect();
    let short = |v: &str| key.of_normalized(&[v]).short();
    assert!(!tokens.contains(&short("user7@x.org")) && !tokens.contains(&short("user9@x.org")));
    assert!(tokens.contains(&short("gone@erased.invalid")));
}

#[test]
fn what_blocks_do_not_cover_is_read() {
    let key = key();
    let old = map(&[&["email"]], &["email"]);
    let content = Memory::mapped(&CSV, &old, &[0], people(300).as_bytes());
    let new = map(&[&["email"], &["name"]], &["email", "name"]);
    let mut editor = editor(&content, &CSV, &new, &key);
    let found = editor.find(&new, 0, &new.collections[0].probes[1], &wanted(&key, &[&["name 77"]])).unwrap();
    assert_eq!((found.len(), editor.fell_back()), (1, true));
    assert_eq!(content.opened.load(Ordering::Relaxed), content.pieces());
    editor.apply(&new, &[0], &deletions(found)).unwrap();
    // Blocks go on covering what the entry says they cover.
    let piece = &editor.finish().unwrap()[0];
    assert!(piece.marks.as_ref().unwrap().rows.iter().all(|r| r.probe == 0));
}

#[test]
fn a_condition_is_asked_on_the_record() {
    let key = key();
    let mut map = map(&[&["mail"]], &["mail"]);
    map.collections[0].probes[0].when = Some(Expr::parse("kind = 'retail'").unwrap());
    let text = "{\"mail\":\"a@x.org\",\"kind\":\"retail\"}\n{\"mail\":\"a@x.org\",\"kind\":\"b2b\"}\n{\"mail\":\"a@x.org\"}\n";
    let content = Memory::mapped(&NDJSON, &map, &[0], text.as_bytes());
    let found = editor(&content, &NDJSON, &map, &key).find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["a@x.org"]])).unwrap();
    assert_eq!(found.iter().map(|f| f.key.clone()).collect::<Vec<_>>(), [RecordKey::Piece(0, 0)]);
    assert_eq!(first(&found[0], "kind"), "retail");
}

#[test]
fn text_is_searched_where_the_map_says() {
    let key = key();
    let map = map(&[&["email"]], &["email", "note*"]);
    let content = Memory::mapped(&CSV, &map, &[0], people(300).as_bytes());
    let mut editor = editor(&content, &CSV, &map, &key);
    let direct = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["user100@x.org"]])).unwrap();
    let mentions = PlainMentions::new(vec![("email".into(), vec!["user100@x.org".into(), "user101@x.org".into()])]).unwrap();
    content.opened.store(0, Ordering::Relaxed);
    let found = editor.find_text(&map, 0, &mentions).unwrap();
    assert_eq!(found.iter().map(|f| first(f, "id")).collect::<Vec<_>>(), ["99"], "100 was found before, 101 only by its own address");
    assert!(content.opened.load(Ordering::Relaxed) <= 3 && content.pieces() > 20 && !editor.fell_back());
    assert!(editor.find_text(&map, 0, &mentions).unwrap().is_empty());
    let redact = |text: &str| Disposition::Rewrite(BTreeMap::from([("note".to_string(), vec![Some(NewValue::Text(text.into()))])]));
    let applied =
        editor.apply(&map, &[0], &[(direct[0].clone(), Disposition::Delete), (found[0].clone(), redact("likes [erased]"))]).unwrap();
    assert_eq!((applied.deleted[&0], applied.rewritten[&0]), (1, 1));
    content.replace(editor.finish().unwrap());
    let text = String::from_utf8(content.bytes()).unwrap();
    assert!(text.contains("99,User99@x.org,Name 99,\"likes [erased]\"\n101,") && text.contains("likes user102@x.org"));
}

/// Another's mentions of which nothing can be told beforehand.
struct Blind(PlainMentions);

impl Mentions for Blind {
    fn spans(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        self.0.spans(text)
    }
}

#[test]
fn text_that_no_filter_covers_is_read() {
    let key = key();
    let old = map(&[&["email"]], &["email", "note*"]);
    let content = Memory::mapped(&CSV, &old, &[0], people(300).as_bytes());
    let mentions = || PlainMentions::new(vec![("email".into(), vec!["user100@x.org".into()])]).unwrap();
    let opened = |map: &DataMap, mentions: &dyn Mentions| {
        let mut editor = editor(&content, &CSV, map, &key);
        content.opened.store(0, Ordering::Relaxed);
        let found = editor.find_text(map, 0, mentions).unwrap().len();
        (found, content.opened.load(Ordering::Relaxed) == content.pieces(), editor.fell_back())
    };
    assert_eq!(opened(&old, &mentions()), (1, false, false));
    assert_eq!(opened(&old, &Blind(mentions())), (1, true, false), "there is nothing to ask the filters for");
    let newer = map(&[&["email"]], &["email*", "note*"]);
    assert_eq!(opened(&newer, &mentions()), (2, true, true), "the blocks are older than the map");
    assert_eq!(opened(&map(&[&["email"]], &["note*"]), &mentions()), (1, false, false));
}

proptest! {
    #[test]
    fn filters_make_no_difference_to_what_is_found(
        texts in proptest::collection::vec("[a-c@.é \u{301}\u{ad}İ0-9,-]{0,30}", 1..60),
        values in proptest::collection::vec("[a-c]{1,3}|[a-c]@[a-c].[a-c]|[0-9]{1,8}|[a-cé]{1,2} [a-c]|[@.]", 1..4),
        json in any::<bool>(),
    ) {
        let key = key();
        let map = map(&[&["id"]], &["id", "note*"]);
        let line = |(i, t): (usize, &String)| match json {
            true => format!("{{\"id\":{i},\"note\":{}}}\n", serde_json::Value::from(t.as_str())),
            false => format!("{i},\"{t}\"\n"),
        };
        let text: String = texts.iter().enumerate().map(line).collect();
        let (format, text): (&'static dyn RecordFormat, _) = if json { (&NDJSON, text) } else { (&CSV, format!("id,note\n{text}")) };
        let mentions = || PlainMentions::new(vec![("any".into(), values.clone())]).unwrap();
        let content = Memory::mapped(format, &map, &[0], text.as_bytes());
        let found = |mentions: &dyn Mentions| {
            let found = editor(&content, format, &map, &key).find_text(&map, 0, mentions).unwrap();
            found.into_iter().map(|f| f.key).collect::<Vec<_>>()
        };
        let with = found(&mentions());
        prop_assert_eq!(&with, &found(&Blind(mentions())));
        prop_assert_eq!(with.len(), texts.iter().filter(|t| !mentions().spans(t).is_empty()).count());
    }
}

#[test]
fn the_header_stays_when_all_records_go() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    let content = Memory::mapped(&CSV, &map, &[0], b"id,email\n1,a@x.org\n2,a@x.org");
    let mut editor = editor(&content, &CSV, &map, &key);
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["a@x.org"]])).unwrap();
    assert_eq!(found.len(), 2);
    editor.apply(&map, &[0], &deletions(found)).unwrap();
    let new = editor.finish().unwrap();
    assert_eq!((new[0].bytes.as_slice(), new[0].marks.as_ref().unwrap().records), (b"id,email\n".as_slice(), 0));
}

#[test]
fn two_collections_may_speak_of_one_entry() {
    let key = key();
    let mut map = map(&[&["email"]], &["email"]);
    let mut second = map.collections[0].clone();
    second.name = "signups".into();
    second.probes = vec![probe(&["id"])];
    second.fields = [field("name", false)].into();
    map.collections.push(second);
    let content = Memory::mapped(&CSV, &map, &[0, 1], people(50).as_bytes());
    assert_eq!(content.covers(), ["people(email:nfc+trim+lower)", "signups(id:nfc+trim+lower)"]);
    let mut editor = editor(&content, &CSV, &map, &key);
    let one = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["user5@x.org"]])).unwrap();
    let two = editor.find(&map, 1, &map.collections[1].probes[0], &wanted(&key, &[&["5"]])).unwrap();
    assert_eq!(one[0].key, two[0].key);
    let put = |f: &str| Disposition::Rewrite(BTreeMap::from([(f.to_string(), vec![Some(NewValue::Null)])]));
    let applied = editor.apply(&map, &[0, 1], &[(one[0].clone(), put("email")), (two[0].clone(), put("name"))]).unwrap();
    assert_eq!(applied.rewritten, BTreeMap::from([(0, 1), (1, 1)]));
    content.replace(editor.finish().unwrap());
    assert!(String::from_utf8(content.bytes()).unwrap().contains("\n5,,,\"likes user6@x.org\"\n"));
}

#[test]
fn an_entry_cut_before_it_was_mapped_is_edited_all_the_same() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    let text = people(400);
    for every in [50, 333, 4096, 100_000] {
        let content = Memory::raw(text.as_bytes(), every);
        let mut editor = editor(&content, &CSV, &map, &key);
        let victims = wanted(&key, &[&["user0@x.org"], &["user1@x.org"], &["user200@x.org"], &["user399@x.org"]]);
        let found = editor.find(&map, 0, &map.collections[0].probes[0], &victims).unwrap();
        assert_eq!((found.len(), editor.fell_back()), (4, true));
        editor.apply(&map, &[0], &deletions(found)).unwrap();
        content.replace(editor.finish().unwrap());
        let gone = ["0,", "1,", "200,", "399,"];
        let expected: String = text.lines().filter(|l| !gone.iter().any(|g| l.starts_with(g))).map(|l| format!("{l}\n")).collect();
        assert_eq!(String::from_utf8(content.bytes()).unwrap(), expected, "{every}");
    }
}

#[test]
fn a_record_larger_than_the_memory_allows_is_an_error_that_names_it() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    let text = format!("email,note\na@x.org,x\nb@x.org,\"secret{}\"\n", "y".repeat(70_000));
    let content = Memory::raw(text.as_bytes(), 4096);
    let refused = RecordsEditor::new(content.clone(), &CSV, &map.collections[0], &key, 8 * 65_536).err().unwrap().to_string();
    assert!(refused.contains("entry") && refused.contains("record 3 at byte 21") && refused.contains("65536 bytes"), "{refused}");
    assert!(!refused.contains("secret"));
    assert!(RecordsEditor::new(content, &CSV, &map.collections[0], &key, 16 * 65_536).is_ok());
}

#[test]
fn malformed_records_are_reported() {
    let key = key();
    let map = map(&[&["a"]], &["a"]);
    let content = Memory::mapped(&NDJSON, &map, &[0], b"{\"a\":\"x\"}\n{\"a\":\n{\"a\":\"y\"}\n");
    let mut editor = editor(&content, &NDJSON, &map, &key);
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["x"]])).unwrap();
    let applied = editor.apply(&map, &[0], &deletions(found)).unwrap();
    assert_eq!(applied.notes, ["entry: 1 records could not be read as ndjson: kept, and nobody can be found in them"]);
    assert_eq!(editor.finish().unwrap()[0].bytes, b"{\"a\":\n{\"a\":\"y\"}\n");
}

#[test]
fn wrong_decisions_change_nothing() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    let content = Memory::mapped(&CSV, &map, &[0], people(5).as_bytes());
    let found = |record| Found { collection: 0, key: record, values: BTreeMap::new() };
    for key_of in [RecordKey::Piece(0, 99), RecordKey::Piece(99, 0), RecordKey::Row(1)] {
        let mut editor = editor(&content, &CSV, &map, &key);
        let applied = editor.apply(&map, &[0], &[(found(key_of), Disposition::Delete)]);
        let mut pieces = 0;
        let finished = editor.finish_into(&mut |_| {
            pieces += 1;
            Ok(())
        });
        assert!((applied.is_err() || finished.is_err()) && pieces == 0);
    }
}

/// Content that counts how many of the pieces it handed out are still held.
struct Counting(Arc<Memory>, Mutex<Vec<std::sync::Weak<Vec<u8>>>>);

impl EntryContent for Counting {
    fn path(&self) -> String {
        self.0.path()
    }
    fn pieces(&self) -> usize {
        self.0.pieces()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.0.piece_len(index)
    }
    fn piece(&self, index: usize) -> crate::Result<Arc<Vec<u8>>> {
        let piece = Arc::new(self.0.piece(index)?.to_vec());
        self.1.lock().unwrap().push(Arc::downgrade(&piece));
        Ok(piece)
    }
    fn marks(&self, index: usize) -> crate::Result<Option<Arc<Marks>>> {
        self.0.marks(index)
    }
    fn covers(&self) -> &[String] {
        self.0.covers()
    }
    fn scrubbed(&self) -> bool {
        false
    }
}

#[test]
fn an_edit_of_many_pieces_holds_few_of_them_and_hands_each_on_before_it_makes_the_next() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    let content = Arc::new(Counting(Memory::mapped(&CSV, &map, &[0], people(60_000).as_bytes()), Mutex::default()));
    let pieces = content.pieces();
    assert!(pieces > 20, "{pieces}");
    let mut editor = Box::new(RecordsEditor::new(content.clone(), &CSV, &map.collections[0], &key, 1 << 20).unwrap());
    let all: Vec<String> = (0..60_000).step_by(50).map(|i| format!("user{i}@x.org")).collect();
    let all: Vec<[&str; 1]> = all.iter().map(|e| [e.as_str()]).collect();
    let all: Vec<&[&str]> = all.iter().map(|e| e.as_slice()).collect();
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &all)).unwrap();
    assert_eq!(found.len(), 1200);
    editor.apply(&map, &[0], &deletions(found)).unwrap();
    let held = || content.1.lock().unwrap().iter().filter(|w| w.strong_count() > 0).count();
    let (mut made, mut most, mut end) = (0, 0, 0);
    editor
        .finish_into(&mut |piece| {
            (made, most) = (made + 1, most.max(held()));
            assert!(piece.replaces.start >= end, "in order");
            end = piece.replaces.end;
            Ok(())
        })
        .unwrap();
    assert!(made > 20 && most <= 4, "{most} of {made} pieces were held at once");
}

/// A format that takes more than it was asked to.
struct Careless(fn(&[u8]) -> Vec<u8>);

impl RecordFormat for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }
    fn cutter(&self, collection: &Collection, head: &[u8]) -> Result<Box<dyn crate::format::RecordCutter>> {
        CSV.cutter(collection, head)
    }
    fn columns(&self, context: &[u8]) -> Result<Vec<String>> {
        CSV.columns(context)
    }
    fn unmapped(&self, context: &[u8], piece: &[u8], mapped: &[String]) -> Result<Vec<String>> {
        CSV.unmapped(context, piece, mapped)
    }
    fn scan(
        &self,
        context: &[u8],
        piece: &[u8],
        fields: &[String],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<Decision>,
    ) -> Result<Scanned> {
        let mut scanned = CSV.scan(context, piece, fields, visit)?;
        scanned.bytes = scanned.bytes.map(|b| (self.0)(&b));
        Ok(scanned)
    }
}

#[test]
fn collateral_damage_is_noticed() {
    let key = key();
    let map = map(&[&["email"]], &["email"]);
    static CASES: [Careless; 6] = [
        Careless(|b| b[..b.len() - 1].to_vec()),
        Careless(|b| [b, b"9,x,y,z\n"].concat()),
        Careless(|b| String::from_utf8(b.to_vec()).unwrap().replace("Name 1", "name 1").into_bytes()),
        Careless(|b| String::from_utf8(b.to_vec()).unwrap().replace("email,name", "email,Name").into_bytes()),
        Careless(|b| String::from_utf8(b.to_vec()).unwrap().replace("2,gone,Name 2", "2,gone,Nome 2").into_bytes()),
        Careless(|b| String::from_utf8(b.to_vec()).unwrap().replace("gone", "left").into_bytes()),
    ];
    for (i, case) in CASES.iter().enumerate() {
        let content = Memory::mapped(&CSV, &map, &[0], people(4).as_bytes());
        let mut editor = editor(&content, case, &map, &key);
        let probe = &map.collections[0].probes[0];
        let found = editor.find(&map, 0, probe, &wanted(&key, &[&["user0@x.org"], &["user2@x.org"]])).unwrap();
        let rewrite = Disposition::Rewrite(BTreeMap::from([("email".to_string(), vec![Some(NewValue::Text("gone".into()))])]));
        editor.apply(&map, &[0], &[(found[0].clone(), Disposition::Delete), (found[1].clone(), rewrite)]).unwrap();
        let finished = editor.finish_into(&mut |piece| panic!("a piece came out: {piece:?}"));
        assert!(matches!(finished, Err(Error::Verification(_))), "{i}: {finished:?}");
    }
}

#[test]
fn a_senator_goes_from_real_files() {
    let Some(data) = real_data() else { return };
    let key = key();
    for (file, format, field) in [
        ("csv/legislators-current.csv", &CSV as &'static dyn RecordFormat, "bioguide_id"),
        ("csv/legislators-district-offices.csv", &CSV, "bioguide"),
        ("csv/data_aging_congress.csv", &CSV, "bioguide_id"),
        ("json/legislators-current.ndjson", &NDJSON, "id.bioguide"),
    ] {
        let map = map(&[&[field]], &[field]);
        let bytes = std::fs::read(data.join(file)).unwrap();
        let content = Memory::mapped(format, &map, &[0], &bytes);
        let mut editor = editor(&content, format, &map, &key);
        let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["c000127"]])).unwrap();
        let count = found.len();
        assert!(count > 0, "{file}");
        editor.apply(&map, &[0], &deletions(found)).unwrap();
        content.replace(editor.finish().unwrap());
        // These files have one record per line.
        let kept: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').filter(|l| memchr::memmem::find(l, b"C000127").is_none()).collect();
        assert!(content.bytes() == kept.concat(), "{file}: {count} found");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random people in random dialects; whoever is wanted goes, whoever else is there stays byte for byte.
    #[test]
    fn the_wanted_go_and_everybody_else_stays(
        rows in proptest::collection::vec((0u8..20, "[a-zé\", \n;]{0,8}", any::<bool>()), 1..80),
        victims in proptest::collection::hash_set(0u8..20, 0..4), rewrite in any::<bool>(), ends in prop_oneof![Just("\n"), Just("\r\n")], raw in any::<bool>()
    ) {
        let key = key();
        let quote = |s: &str, always: bool| if always || s.contains(['"', ',', '\n']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s.to_string() };
        let line = |id: u8, note: &str, q: bool, mail: Option<&str>| {
            let mail = mail.map_or(format!("U{id}@X.org"), str::to_string);
            format!("{id},{},{}{ends}", quote(&mail, q), quote(note, q))
        };
        let header = format!("id,mail,note{ends}");
        let text: String = std::iter::once(header.clone()).chain(rows.iter().map(|(id, note, q)| line(*id, note, *q, None))).collect();
        let mut map = map(&[&["mail"]], &["mail"]);
        map.collections[0].dialect.delimiter = Some(b',');
        let content = if raw { Memory::raw(text.as_bytes(), 97) } else { Memory::mapped(&CSV, &map, &[0], text.as_bytes()) };
        let mut editor = editor(&content, &CSV, &map, &key);
        let mut set = TokenSet::new(&key);
        for v in &victims {
            set.insert_values(vec![format!("u{v}@x.org")]);
        }
        let found = editor.find(&map, 0, &map.collections[0].probes[0], &set).unwrap();
        prop_assert_eq!(found.len(), rows.iter().filter(|(id, ..)| victims.contains(id)).count());
        let put = Disposition::Rewrite(BTreeMap::from([("mail".to_string(), vec![Some(NewValue::Text("x,\"y".into()))])]));
        let decided: Vec<_> = found.into_iter().map(|f| (f, if rewrite { put.clone() } else { Disposition::Delete })).collect();
        editor.apply(&map, &[0], &decided).unwrap();
        content.replace(editor.finish().unwrap());
        let expected: String = std::iter::once(header)
            .chain(rows.iter().filter_map(|(id, note, q)| match (victims.contains(id), rewrite) {
                (false, _) => Some(line(*id, note, *q, None)),
                (true, true) => {
                    let whole = line(*id, note, *q, Some("x,\"y"));
                    Some(whole)
                }
                (true, false) => None,
            }))
            .collect();
        prop_assert_eq!(String::from_utf8(content.bytes()).unwrap(), expected);
        // Whoever looks again finds nobody, by the new blocks and by reading.
        if !raw {
            let mut again = RecordsEditor::new(content.clone(), &CSV, &map.collections[0], &key, 256 << 20).unwrap();
            prop_assert!(again.find(&map, 0, &map.collections[0].probes[0], &set).unwrap().is_empty());
            let pieces: Vec<Piece> = content.pieces.lock().unwrap().iter()
                .map(|(b, m)| Piece { bytes: b.clone(), context: m.as_ref().unwrap().context.clone() }).collect();
            let left: usize = pieces.iter().map(|p| read(&CSV, std::slice::from_ref(p), &["mail"]).len()).sum();
            prop_assert_eq!(left, rows.iter().filter(|(id, ..)| rewrite || !victims.contains(id)).count());
        }
    }
}

/// Run with `--release -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed_of_records() {
    let key = key();
    let csv: String = std::iter::once("id,email,name,city,phone,note\n".to_string())
        .chain(
            (0..1_500_000)
                .map(|i| format!("{i},user{i}@example.org,\"Name, {i}\",Springfield,+1 555 {i:07},some words of text about it\n")),
        )
        .collect();
    let ndjson: String = (0..1_000_000)
        .map(|i| format!("{{\"id\":{i},\"user\":{{\"email\":\"user{i}@example.org\",\"name\":\"Name {i}\"}},\"items\":[{{\"sku\":\"a{i}\",\"n\":2}}],\"note\":\"some words\"}}\n"))
        .collect();
    for (format, text, field) in [(&CSV as &'static dyn RecordFormat, &csv, "email"), (&NDJSON, &ndjson, "user.email")] {
        let map = map(&[&[field], &["id"]], &[field]);
        let gear = Gear::new(&[1; 32]);
        let report = |what: &str, began: f64| {
            println!("{} {what}: {:.0} MB/s", format.name(), text.len() as f64 / 1e6 / (cpu_seconds() - began));
        };
        let began = cpu_seconds();
        let mut reader = text.as_bytes();
        let pieces = RecordPieces::open(format, &map.collections[0], &mut reader, "x", &gear, CutSizes::records(), MAX_RECORD).unwrap();
        let pieces: Vec<Piece> = pieces.collect::<Result<_>>().unwrap();
        report("cut", began);
        let began = cpu_seconds();
        for p in &pieces {
            format.scan(&p.context, &p.bytes, &[field.to_string()], &mut |_| Ok(Decision::Keep)).unwrap();
        }
        report("scan one field", began);
        for (what, searched) in [("two probes", false), ("two probes and text", true)] {
            let mut map = map.clone();
            map.collections[0].fields.extend(searched.then(|| self::field("note", true)));
            let covers = Covers::of_map(&map, &[0]);
            let began = cpu_seconds();
            for p in &pieces {
                covers.block(format, &p.context, &p.bytes, &key).unwrap();
            }
            report(&format!("marks of {what}"), began);
        }
    }
}

/// Texts of an mbox as lines of JSON: real prose, with the addresses of many.
fn mails_as_ndjson(mbox: &str) -> (String, Vec<String>) {
    let mails = mbox.split("\nFrom ").filter(|m| m.len() > 200);
    let ndjson = mails.clone().map(|m| format!("{{\"id\":1,\"note\":{}}}\n", serde_json::Value::from(m))).collect();
    let senders = mails.filter_map(|m| {
        let line = m.lines().find_map(|l| l.strip_prefix("From: "))?;
        let at = line.find('@')?;
        let sign = |c: char| !(c.is_alphanumeric() || "._-+@".contains(c));
        Some(line[line[..at].rfind(sign).map_or(0, |i| i + 1)..].split(sign).next()?.to_string())
    });
    let senders: BTreeSet<String> = senders.collect();
    (ndjson, senders.into_iter().collect())
}

/// RESEAL_TEST_CRM: a folder made by `gen_crm base`.
#[test]
#[ignore = "a measurement"]
fn figures_of_text_filters() {
    let Some(data) = real_data() else { return };
    let read = |p: std::path::PathBuf| String::from_utf8_lossy(&std::fs::read(p).unwrap()).into_owned();
    let people = read(data.join("csv/FakeNameGenerator.com_3000.csv"));
    let people: Vec<Vec<String>> = people.lines().skip(1).map(|l| l.split(',').map(String::from).collect()).collect();
    let column = |at: &dyn Fn(&Vec<String>) -> Option<String>| -> Vec<String> { people.iter().filter_map(at).step_by(4).collect() };
    let strangers = [
        ("strangers' addresses", column(&|p| p.iter().find(|f| f.contains('@')).cloned())),
        ("strangers' full names", column(&|p| Some(format!("{} {}", p.get(4)?, p.get(6)?)))),
        ("strangers' family names", column(&|p| p.get(6).cloned())),
        ("strangers' phone numbers", column(&|p| p.get(17).filter(|t| t.bytes().filter(u8::is_ascii_digit).count() > 6).cloned())),
        ("numbers of six digits", (0..700).map(|i| (100_003 + i * 1234).to_string()).collect()),
    ];
    let mut sources = vec![("mailing list", read(data.join("mail/spamassassin_easy_ham_1.mbox")))];
    sources.extend(
        std::env::var_os("RESEAL_TEST_CRM").map(|dir| ("gen_crm's mail", read(std::path::Path::new(&dir).join("mail/support.mbox")))),
    );
    let key = key();
    for (name, mbox) in sources {
        let (ndjson, senders) = mails_as_ndjson(&mbox);
        let map = map(&[&["id"]], &["id", "note*"]);
        let gear = Gear::new(&[1; 32]);
        let mut reader = ndjson.as_bytes();
        let pieces = RecordPieces::open(&NDJSON, &map.collections[0], &mut reader, "x", &gear, CutSizes::records(), MAX_RECORD).unwrap();
        let pieces: Vec<Piece> = pieces.collect::<Result<_>>().unwrap();
        let texts: Vec<Vec<String>> = pieces.iter().map(read_texts).collect();
        let seconds = |searched: bool| {
            let mut map = map.clone();
            map.collections[0].fields.get_mut("note").unwrap().scan = searched;
            let covers = Covers::of_map(&map, &[0]);
            let began = cpu_seconds();
            let blocks: Vec<Marks> = pieces.iter().map(|p| covers.block(&NDJSON, &p.context, &p.bytes, &key).unwrap().0).collect();
            (cpu_seconds() - began, blocks)
        };
        let ((without, _), (with, blocks)) = (seconds(false), seconds(true));
        let stored = |b: &Marks| zstd::bulk::compress(&b.encode().unwrap(), 3).unwrap().len();
        let plain: usize = blocks.iter().map(|b| stored(&Marks { text: None, ..b.clone() })).sum();
        let all: usize = blocks.iter().map(stored).sum();
        let data: usize = pieces.iter().map(|p| zstd::bulk::compress(&p.bytes, 3).unwrap().len()).sum();
        println!(
            "{name}: {} pieces, {:.1} MB; filters {} bytes stored, {:.2} % of the bytes, {:.2} % of what is stored; {:.0} MB/s more to make; {} pieces have none",
            pieces.len(),
            ndjson.len() as f64 / 1e6,
            all - plain,
            (all - plain) as f64 / ndjson.len() as f64 * 100.0,
            (all - plain) as f64 / (data + plain) as f64 * 100.0,
            ndjson.len() as f64 / 1e6 / (with - without),
            blocks.iter().filter(|b| b.text.is_none()).count()
        );
        for (kind, values) in strangers.iter().chain([&("senders' addresses", senders.clone())]) {
            let (mut open, mut hold, mut asked) = (0usize, 0usize, 0usize);
            for value in values.iter().take(700) {
                let mentions = PlainMentions::new(vec![("any".into(), vec![value.clone()])]).unwrap();
                let Some(groups) = mentions.features() else { continue };
                let wanted = WantedText::new(&key, groups);
                asked += 1;
                for (block, texts) in blocks.iter().zip(&texts) {
                    if wanted.may_be_in(block.text.as_deref()) {
                        open += 1;
                        hold += usize::from(texts.iter().any(|t| !mentions.spans(t).is_empty()));
                    }
                }
            }
            println!(
                "  {kind}: {asked} values; per value {:.2} pieces hold it, {:.2} are opened for nothing ({:.2} % of those without it)",
                hold as f64 / asked as f64,
                (open - hold) as f64 / asked as f64,
                (open - hold) as f64 / (asked * pieces.len() - hold) as f64 * 100.0
            );
        }
    }
}

fn read_texts(piece: &Piece) -> Vec<String> {
    let mut out = Vec::new();
    NDJSON
        .scan(&piece.context, &piece.bytes, &["note".to_string()], &mut |record| {
            out.extend(record.values.iter().flatten().filter_map(|v| v.canonical().map(|t| t.into_owned())));
            Ok(Decision::Keep)
        })
        .unwrap();
    out
}
