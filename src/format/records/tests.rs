use super::*;
use crate::datamap::expr::Expr;
use crate::datamap::{Feed, Field, TokenSet};
use crate::format::csv::CSV;
use crate::format::mentions::PlainMentions;
use crate::format::ndjson::NDJSON;
use crate::format::testing::{Memory, collection, cpu_seconds, key, read, real_data};
use crate::format::{Piece, RecordFormat};
use proptest::prelude::*;
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
    Box::new(RecordsEditor::new(content.clone(), format, &map.collections[0], key).unwrap())
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
    let map = map(&[&["email"]], &["email"]);
    let content = Memory::mapped(&CSV, &map, &[0], people(200).as_bytes());
    let mut editor = editor(&content, &CSV, &map, &key);
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &[&["user7@x.org"], &["user9@x.org"]])).unwrap();
    let rewrite = Disposition::Rewrite(BTreeMap::from([("email".to_string(), vec![Some(NewValue::Text("gone@erased.invalid".into()))])]));
    editor.apply(&map, &[0], &[(found[0].clone(), Disposition::Delete), (found[1].clone(), rewrite)]).unwrap();
    let new = editor.finish().unwrap();
    let probes = vec![vec![("email".to_string(), LOWER)]];
    for piece in &new {
        let marks = piece.marks.as_ref().unwrap();
        assert_eq!(*marks, marks_for(&CSV, &marks.context, &piece.bytes, &probes, &key).unwrap().0);
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
    let found = editor.find_text(&map, 0, &mentions).unwrap();
    assert_eq!(found.iter().map(|f| first(f, "id")).collect::<Vec<_>>(), ["99"], "100 was found before, 101 only by its own address");
    assert!(editor.find_text(&map, 0, &mentions).unwrap().is_empty());
    let redact = |text: &str| Disposition::Rewrite(BTreeMap::from([("note".to_string(), vec![Some(NewValue::Text(text.into()))])]));
    let applied =
        editor.apply(&map, &[0], &[(direct[0].clone(), Disposition::Delete), (found[0].clone(), redact("likes [erased]"))]).unwrap();
    assert_eq!((applied.deleted[&0], applied.rewritten[&0]), (1, 1));
    content.replace(editor.finish().unwrap());
    let text = String::from_utf8(content.bytes()).unwrap();
    assert!(text.contains("99,User99@x.org,Name 99,\"likes [erased]\"\n101,") && text.contains("likes user102@x.org"));
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
        assert!(editor.apply(&map, &[0], &[(found(key_of), Disposition::Delete)]).is_err());
        assert!(editor.finish().unwrap().is_empty());
    }
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
        let applied = editor.apply(&map, &[0], &[(found[0].clone(), Disposition::Delete), (found[1].clone(), rewrite)]);
        assert!(matches!(applied, Err(Error::Verification(_))), "{i}: {applied:?}");
        assert!(editor.finish().unwrap().is_empty());
    }
}

#[test]
fn covered_fields_are_read_back_from_their_key() {
    for fields in [vec!["email"], vec!["last, first", "a:raw b"], vec!["x(y)", "items[].id"]] {
        let probe = probe(&fields);
        assert_eq!(covered_fields(&probe.key("a collection")).unwrap(), probe.fields);
    }
    for bad in ["", "x", "x()", "x(a)", "x(a:raw", "x(a:raw,)", "x(a:raw,b)", "x(a:lower+nfc)"] {
        assert_eq!(covered_fields(bad), None, "{bad}");
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
            let mut again = RecordsEditor::new(content.clone(), &CSV, &map.collections[0], &key).unwrap();
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
    use crate::format::cutter::{CutSizes, Gear, MAX_RECORD, RecordPieces};
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
        let probes: Vec<ProbeFields> = coverage(&map, &[0]).into_iter().map(|c| c.fields).collect();
        let began = cpu_seconds();
        for p in &pieces {
            marks_for(format, &p.context, &p.bytes, &probes, &key).unwrap();
        }
        report("marks of two probes", began);
    }
}
