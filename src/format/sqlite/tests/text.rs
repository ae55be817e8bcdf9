//! Searched text: filters make no difference to what is found, only to what is opened; and they follow text onto overflow pages.

use super::*;
use crate::format::mentions::PlainMentions;
use crate::format::{Mentions, RecordKey};
use proptest::prelude::*;
use std::ops::Range;

/// Mentions of which nothing can be told beforehand.
struct Blind(PlainMentions);

impl Mentions for Blind {
    fn spans(&self, text: &str) -> Vec<Range<usize>> {
        self.0.spans(text)
    }
}

fn mentions(values: &[&str]) -> PlainMentions {
    PlainMentions::new(vec![("any".into(), values.iter().map(|v| v.to_string()).collect())]).unwrap()
}

/// Keys found, number of runs opened after the editor itself was opened, and whether it fell back.
fn found(content: &Arc<Archived>, map: &DataMap, collection: usize, mentions: &dyn Mentions) -> (BTreeSet<RecordKey>, usize, bool) {
    let key = key();
    let mut editor = SqliteEditor::open(content.clone(), &key, Limits { runs: 0, page_cache: 0, ..Limits::default() }).unwrap();
    content.opened.lock().unwrap().clear();
    let keys = editor.find_text(map, collection, mentions).unwrap().into_iter().map(|f| f.key).collect();
    let opened = content.opened.lock().unwrap().len();
    (keys, opened, editor.fell_back())
}

const FILL: &str = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 6000)
    INSERT INTO t(id, note, n) SELECT i, 'about person' || i || ' and mail' || i || '@x.org ' || hex(randomblob(40)), i FROM i;";

#[test]
fn only_runs_that_may_mention_the_person_are_opened() {
    let dir = temp();
    // The same words each time: now and then a filter seems to hold what its run does not.
    let fill = FILL.replace("hex(randomblob(40))", "hex(printf('%d-%d-%d-%d', i * 7919, i * 104729, i * 15485863, i * 32452843))");
    for pragma in ["", "PRAGMA encoding='UTF-16le'; PRAGMA page_size=1024;", "PRAGMA auto_vacuum=FULL; PRAGMA page_size=8192;"] {
        let image = build(
            dir.path(),
            &format!(
                "{pragma} CREATE TABLE t(id INTEGER PRIMARY KEY, note TEXT, n INT); {fill}
                 ALTER TABLE t ADD COLUMN late TEXT DEFAULT 'by Default Person'; INSERT INTO t(note, late) VALUES(x'4a616e65', NULL);"
            ),
        );
        let map = map(vec![collection("t", &["note*", "late*", "n*", "id*", "gone*"], vec![probe(&["n"])])]);
        let archived = Archived::of(&image, &map);
        assert!(
            archived.runs.len() > 10
                && archived.report.covers.iter().any(|c| c == r##"#text:[["t","id"],["t","late"],["t","n"],["t","note"]]"##)
        );
        for (value, rows) in
            [("Person4711", 1), ("mail42@x.org", 1), ("nobody@x.org", 0), ("person 17", 0), ("jane", 1), ("Default  Person", 6000)]
        {
            let with = found(&archived, &map, 0, &mentions(&[value]));
            let without = found(&archived, &map, 0, &Blind(mentions(&[value])));
            assert_eq!((with.0.len(), &with.0), (rows, &without.0), "{value} {pragma}");
            assert!(!with.2 && !without.2);
            assert!(without.1 >= archived.runs.len() - 1, "{pragma}");
            if rows < 2 {
                assert!(with.1 <= 6, "{} of {} runs were opened for {value}, {pragma}", with.1, archived.runs.len());
            }
        }
    }
}

#[test]
fn what_filters_do_not_cover_is_read() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE w(k TEXT PRIMARY KEY, note TEXT) WITHOUT ROWID; INSERT INTO w VALUES('a', 'of Jane'), ('b', 'of Joe');
         CREATE TABLE g(note TEXT, loud TEXT AS (upper(note)) VIRTUAL); INSERT INTO g VALUES('of Jane'), ('of Joe');
         CREATE TABLE t(note TEXT, more TEXT); INSERT INTO t VALUES('of Jane', 'x'), ('x', 'of Joe');",
    );
    let tables = |more: &str| {
        map(vec![
            collection("w", &["note*"], vec![]),
            collection("g", &["note*", "loud*"], vec![]),
            collection("t", &["note*", more], vec![]),
        ])
    };
    let archived = Archived::of(&image, &tables("more"));
    assert_eq!(archived.report.covers[0], r##"#text:[["g","note"],["t","note"]]"##);
    for (collection, more, fell_back, rows) in [(0, "more", true, 1), (1, "more", true, 1), (2, "more", false, 1), (2, "more*", true, 2)] {
        let map = tables(more);
        let with = found(&archived, &map, collection, &mentions(&["jane", "joe"][..rows]));
        assert_eq!((with.0.len(), with.2), (rows, fell_back), "{collection} {more}");
        let (names, old) = (mentions(&["jane"]), Archived::plain(&image));
        assert_eq!((found(&old, &map, collection, &names).2, found(&old, &map, collection, &Blind(names)).2), (true, false));
    }
}

/// Long texts that differ in one word of equal length, far behind what lies on the row's own page.
fn long(word: &str) -> String {
    format!("{}{word}{}", "filler ".repeat(1500), " the end".repeat(500))
}

#[test]
fn a_change_on_overflow_pages_alone_makes_a_new_block() {
    let dir = temp();
    let sql = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, note TEXT); {} INSERT INTO t VALUES(7000, '{}');",
        FILL.replace(", n)", ")").replace(", i FROM", " FROM"),
        long("Jane Doe")
    );
    let image = build(dir.path(), &sql);
    let map = map(vec![collection("t", &["note*"], vec![])]);
    let before = Archived::of(&image, &map);
    let jane = mentions(&["jane doe"]);
    assert_eq!(found(&before, &map, 0, &jane).0, BTreeSet::from([RecordKey::Row(7000)]));

    // The same in the source: the run of the row's own page is as it was, its block is not.
    let later = Archived::of(&naive(dir.path(), &image, &format!("UPDATE t SET note = '{}' WHERE id = 7000", long("John Doe"))), &map);
    let blocks: Vec<usize> = (0..before.runs.len()).filter(|i| before.marks[*i] != later.marks[*i]).collect();
    let [block] = blocks.as_slice() else { panic!("{blocks:?}") };
    assert_eq!(before.runs[*block], later.runs[*block], "this test wants a row whose page does not change");
    let contexts = (&before.marks[*block].as_ref().unwrap().context, &later.marks[*block].as_ref().unwrap().context);
    assert!(contexts.0.len() == 16 && contexts.0 != contexts.1, "so that the next backup does not take the old block over");

    // And in the archive.
    let key = key();
    let mut editor = SqliteEditor::open(before.clone(), &key, Limits::default()).unwrap();
    let rows = editor.find_text(&map, 0, &jane).unwrap();
    let text = long("[erased]");
    editor.apply(&map, &[0], &rewrite(rows, &[("note", Some(&text))])).unwrap();
    let after = before.after(finish(editor));
    assert_eq!((&after.runs[*block], &after.marks), (&before.runs[*block], &Archived::of(&after.bytes(), &map).marks));
    assert!(after.marks[*block] != before.marks[*block] && found(&after, &map, 0, &jane).0.is_empty());
    assert_eq!(found(&after, &map, 0, &mentions(&["erased"])).0.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn filters_make_no_difference_to_what_is_found(
        texts in proptest::collection::vec(("[a-c@.é \u{301}\u{ad}İ0-9,-]{0,30}", 0usize..5000, any::<bool>()), 1..60),
        values in proptest::collection::vec("[a-c]{1,3}|[a-c]@[a-c].[a-c]|[0-9]{1,8}|[a-cé]{1,2} [a-c]|[@.]", 1..3),
        encoding in prop::sample::select(vec!["UTF-8", "UTF-16le", "UTF-16be"]),
        page in prop::sample::select(vec![512, 4096, 65536]),
        kind in prop::sample::select(vec!["", "WITHOUT ROWID"]),
    ) {
        let dir = temp();
        let path = dir.path().join("source.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!("PRAGMA page_size={page}; PRAGMA encoding='{encoding}'; CREATE TABLE t(id INTEGER PRIMARY KEY, pad TEXT, note TEXT) {kind}")).unwrap();
        for (i, (text, pad, first)) in texts.iter().enumerate() {
            let pad = "p ".repeat(*pad);
            // Behind what spills, or spilling itself.
            let (pad, note) = if *first { (pad, text.clone()) } else { (String::new(), pad + text) };
            db.execute("INSERT INTO t VALUES(?1, ?2, ?3)", (i as i64, pad, note)).unwrap();
        }
        db.close().unwrap();
        let map = map(vec![collection("t", &["note*"], vec![probe(&["id"])])]);
        let archived = Archived::of(&std::fs::read(&path).unwrap(), &map);
        let names = || PlainMentions::new(vec![("any".into(), values.clone())]).unwrap();
        let (with, _, fell_back) = found(&archived, &map, 0, &names());
        prop_assert_eq!(&with, &found(&archived, &map, 0, &Blind(names())).0);
        prop_assert_eq!(fell_back, !kind.is_empty() && names().features().is_some());
    }
}
