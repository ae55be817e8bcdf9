//! What breaks: each line of the list of things that make an edit of a database go wrong.

use super::*;

/// Finds by the first probe of collection 0 and applies what `decide` makes of it.
fn edit(
    archived: &Arc<Archived>,
    map: &DataMap,
    values: &[&str],
    decide: impl Fn(Vec<Found>) -> Vec<(Found, Disposition)>,
) -> Result<(Arc<Archived>, crate::format::Applied)> {
    let key = key();
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default())?;
    let found = editor.find(map, 0, &map.collections[0].probes[0], &wanted(&key, values))?;
    assert!(!found.is_empty());
    let applied = editor.apply(map, &[0], &decide(found))?;
    Ok((archived.after(finish(editor)), applied))
}

fn erase(sql: &str, table: &str, fields: &[&str], by: &str, value: &str) -> (Vec<u8>, Result<(Arc<Archived>, crate::format::Applied)>) {
    let dir = temp();
    let image = build(dir.path(), sql);
    let map = map(vec![collection(table, fields, vec![probe(&[by])])]);
    let result = edit(&Archived::of(&image, &map), &map, &[value], delete_all);
    (image, result)
}

fn refused<T>(result: Result<T>, words: &[&str]) {
    let error = result.err().expect("refused").to_string();
    for w in words {
        assert!(error.contains(w), "{w:?} in {error:?}");
    }
    assert!(!error.contains("Jane") && !error.contains("jane@"), "{error}");
}

fn same_as(image: &[u8], after: &Archived, sql: &str) {
    let dir = temp();
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive(dir.path(), image, sql)));
}

const PEOPLE: &str = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT, name TEXT);
    INSERT INTO p VALUES(1,'jane@x.org','Jane Doe'),(2,'joe@x.org','Joe Public'),(3,'ann@x.org','Ann Other');";

#[test]
fn triggers_stay_silent_and_are_reported() {
    let sql = format!(
        "{PEOPLE} CREATE TABLE audit(email); CREATE TRIGGER copy AFTER DELETE ON p BEGIN INSERT INTO audit VALUES(old.email); END;"
    );
    let (image, result) = erase(&sql, "p", &["email"], "email", "jane@x.org");
    let (after, applied) = result.unwrap();
    assert!(applied.notes.iter().any(|n| n.contains("silent") && n.contains("copy")), "{:?}", applied.notes);
    same_as(
        &image,
        &after,
        "DROP TRIGGER copy; DELETE FROM p WHERE id = 1; CREATE TRIGGER copy AFTER DELETE ON p BEGIN INSERT INTO audit VALUES(old.email); END;",
    );
    assert!(residue(&after.bytes(), &["jane@x.org".into(), "Jane Doe".into()]).is_empty());
}

#[test]
fn a_trigger_that_the_map_allows_runs_and_no_other() {
    let dir = temp();
    let sql = format!(
        "{PEOPLE} CREATE TABLE total(n); INSERT INTO total VALUES(3); CREATE TABLE audit(email);
         CREATE TRIGGER count_down AFTER DELETE ON p BEGIN UPDATE total SET n = n - 1; END;
         CREATE TRIGGER copy AFTER DELETE ON p BEGIN INSERT INTO audit VALUES(old.email); END;"
    );
    let image = build(dir.path(), &sql);
    let mut c = collection("p", &["email"], vec![probe(&["email"])]);
    c.triggers = vec!["Count_Down".into()];
    let map = map(vec![c]);
    let (after, applied) = edit(&Archived::of(&image, &map), &map, &["jane@x.org"], delete_all).unwrap();
    assert!(applied.notes.iter().any(|n| n.contains("by triggers that the data map allows")), "{:?}", applied.notes);
    same_as(
        &image,
        &after,
        "DROP TRIGGER copy; DELETE FROM p WHERE id = 1; CREATE TRIGGER copy AFTER DELETE ON p BEGIN INSERT INTO audit VALUES(old.email); END;",
    );
}

#[test]
fn constraints_that_a_strategy_breaks_are_named_and_nothing_changes() {
    let dir = temp();
    let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, age INT CHECK(age < 200), up TEXT AS (upper(email)) STORED);
        INSERT INTO p(email, age) VALUES('jane@x.org', 30),('joe@x.org', 40);
        CREATE TABLE s(id INTEGER PRIMARY KEY, n INTEGER, t TEXT UNIQUE ON CONFLICT REPLACE) STRICT; INSERT INTO s VALUES(1, 5, 'a'),(2, 6, 'b');";
    let image = build(dir.path(), sql);
    let p = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let s = map(vec![collection("s", &["t"], vec![probe(&["t"])])]);
    let archived = Archived::of(&image, &p);
    let try_p = |fields: &[(&str, Option<&str>)]| edit(&archived, &p, &["jane@x.org"], |f| rewrite(f, fields));
    refused(try_p(&[("email", None)]), &["email", "table p", "null"]);
    refused(try_p(&[("email", Some("joe@x.org"))]), &["UNIQUE", "p.email"]);
    refused(try_p(&[("age", Some("999"))]), &["CHECK", "table p"]);
    refused(try_p(&[("up", Some("X"))]), &["up", "computed"]);
    refused(try_p(&[("id", Some("X"))]), &["id", "row id"]);
    refused(try_p(&[("nosuch", Some("X"))]), &["no column nosuch"]);
    let archived = Archived::of(&image, &s);
    refused(edit(&archived, &s, &["a"], |f| rewrite(f, &[("n", Some("x"))])), &["s.n"]);
    // A conflict clause of the schema must not delete somebody else's row.
    refused(edit(&archived, &s, &["a"], |f| rewrite(f, &[("t", Some("b"))])), &["UNIQUE", "s.t"]);
}

#[test]
fn a_missing_collation_or_function_closes_the_edit() {
    let dir = temp();
    let path = dir.path().join("source.db");
    let db = Connection::open(&path).unwrap();
    db.create_collation("german", |a, b| a.cmp(b)).unwrap();
    db.create_scalar_function("fold", 1, rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC, |c| c.get::<String>(0)).unwrap();
    db.execute_batch(&format!("{PEOPLE} CREATE TABLE q(id INTEGER PRIMARY KEY, email TEXT, name TEXT COLLATE german); CREATE INDEX qn ON q(name); INSERT INTO q SELECT * FROM p; CREATE TABLE r(email TEXT, name TEXT); CREATE INDEX rf ON r(fold(name)); INSERT INTO r SELECT email, name FROM p;")).unwrap();
    db.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    for table in ["q", "r"] {
        let map = map(vec![collection(table, &["email"], vec![probe(&["email"])])]);
        let result = edit(&Archived::of(&image, &map), &map, &["jane@x.org"], delete_all);
        refused(result, &["only its application has"]);
    }
    // Searching a column of that collation works without it.
    let by_name = map(vec![collection("q", &["name"], vec![probe(&["name"])])]);
    let key = key();
    let mut editor = SqliteEditor::open(Archived::plain(&image), &key, Limits::default()).unwrap();
    assert_eq!(editor.find(&by_name, 0, &by_name.collections[0].probes[0], &wanted(&key, &["Jane Doe"])).unwrap().len(), 1);
}

#[test]
fn foreign_keys_cascade_unlink_or_forbid() {
    let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT);
        CREATE TABLE a(id INTEGER PRIMARY KEY, p INT REFERENCES p(id) ON DELETE CASCADE, t TEXT);
        CREATE TABLE aa(k TEXT PRIMARY KEY, a INT REFERENCES a ON DELETE CASCADE) WITHOUT ROWID;
        CREATE TABLE n(id INTEGER PRIMARY KEY, p INT REFERENCES p(id) ON DELETE SET NULL);
        CREATE TABLE d(id INTEGER PRIMARY KEY, p INT DEFAULT 3 REFERENCES p(id) ON DELETE SET DEFAULT);
        CREATE TABLE self(id INTEGER PRIMARY KEY, boss INT REFERENCES self ON DELETE CASCADE);
        INSERT INTO p VALUES(1,'jane@x.org'),(2,'joe@x.org'),(3,'ann@x.org');
        INSERT INTO a VALUES(1,1,'x'),(2,2,'y'),(3,1,'z'); INSERT INTO aa VALUES('k1',1),('k2',2),('k3',3),('k4',99);
        INSERT INTO n VALUES(1,1),(2,2); INSERT INTO d VALUES(1,1),(2,2); INSERT INTO n VALUES(9, 77);";
    let (image, result) = erase(sql, "p", &["email"], "email", "jane@x.org");
    let (after, applied) = result.unwrap();
    same_as(
        &image,
        &after,
        "DELETE FROM aa WHERE a IN (1, 3); DELETE FROM a WHERE p = 1; UPDATE n SET p = NULL WHERE p = 1; UPDATE d SET p = 3 WHERE p = 1; DELETE FROM p WHERE id = 1;",
    );
    let notes = applied.notes.join("\n");
    for expected in ["2 rows of table a went", "2 rows of table aa went", "1 references of table n", "1 references of table d"] {
        assert!(notes.contains(expected), "{expected} in {notes}");
    }
    for action in ["", "ON DELETE RESTRICT", "ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED"] {
        let sql =
            format!("{PEOPLE} CREATE TABLE o(id INTEGER PRIMARY KEY, p INT REFERENCES p(id) {action}); INSERT INTO o VALUES(1,1),(2,2);");
        refused(erase(&sql, "p", &["email"], "email", "jane@x.org").1, &["1 rows of table o", "table p", "nothing was changed"]);
        // The same child deleted through the map is no obstacle.
        let dir = temp();
        let image = build(dir.path(), &sql);
        let map = map(vec![collection("p", &["email"], vec![probe(&["email"])]), collection("o", &["p"], vec![probe(&["p"])])]);
        let archived = Archived::of(&image, &map);
        let key = key();
        let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
        let mut decided = delete_all(editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["jane@x.org"])).unwrap());
        decided.extend(rewrite(editor.find(&map, 1, &map.collections[1].probes[0], &wanted(&key, &["1"])).unwrap(), &[("p", None)]));
        editor.apply(&map, &[1, 0], &decided).unwrap();
        same_as(&image, &archived.after(finish(editor)), "UPDATE o SET p = NULL WHERE p = 1; DELETE FROM p WHERE id = 1");
    }
}

#[test]
fn a_cascade_never_takes_a_row_that_must_be_kept() {
    let dir = temp();
    let image = build(
        dir.path(),
        &format!("{PEOPLE} CREATE TABLE o(id INTEGER PRIMARY KEY, p INT REFERENCES p(id) ON DELETE CASCADE); INSERT INTO o VALUES(1,1);"),
    );
    let map = map(vec![collection("p", &["email"], vec![probe(&["email"])]), collection("o", &["p"], vec![probe(&["p"])])]);
    let key = key();
    let mut editor = SqliteEditor::open(Archived::of(&image, &map), &key, Limits::default()).unwrap();
    let mut decided = delete_all(editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["jane@x.org"])).unwrap());
    decided.extend(
        editor.find(&map, 1, &map.collections[1].probes[0], &wanted(&key, &["1"])).unwrap().into_iter().map(|f| (f, Disposition::Keep)),
    );
    refused(editor.apply(&map, &[1, 0], &decided), &["table o", "must be kept"]);
    assert!(finish(editor).is_empty(), "after an error nothing is given back");
}

#[test]
fn keys_that_others_refer_to_follow_or_are_refused() {
    let table = |action: &str| {
        format!(
            "CREATE TABLE p(id TEXT PRIMARY KEY COLLATE NOCASE, email TEXT); INSERT INTO p VALUES('JD','jane@x.org'),('JP','joe@x.org');
             CREATE TABLE o(id INTEGER PRIMARY KEY, p TEXT REFERENCES p {action}); INSERT INTO o VALUES(1,'jd'),(2,'JP');"
        )
    };
    let run = |action: &str| {
        let dir = temp();
        let image = build(dir.path(), &table(action));
        let map = map(vec![collection("p", &["id", "email"], vec![probe(&["email"])])]);
        (image.clone(), edit(&Archived::of(&image, &map), &map, &["jane@x.org"], |f| rewrite(f, &[("id", Some("gone"))])))
    };
    refused(run("").1, &["1 rows of table o", "table p"]);
    let (image, result) = run("ON UPDATE CASCADE");
    same_as(&image, &result.unwrap().0, "UPDATE p SET id = 'gone' WHERE id = 'JD'; UPDATE o SET p = 'gone' WHERE id = 1");
    let (image, result) = run("ON UPDATE SET NULL");
    same_as(&image, &result.unwrap().0, "UPDATE p SET id = 'gone' WHERE id = 'JD'; UPDATE o SET p = NULL WHERE id = 1");
}

#[test]
fn full_text_indexes_follow_and_forget() {
    let body = |i: u64| format!("common words {} and mine{:x}x", i % 7, i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut rows = String::new();
    for i in 1..=2000 {
        rows += &format!("INSERT INTO msg VALUES({i}, 'user{}', '{}');", i % 100, body(i));
    }
    let mine: Vec<String> = (1..=2000).filter(|i| i % 100 == 42).map(|i| body(i).split("mine").nth(1).unwrap()[..12].to_string()).collect();
    for (fts, fill) in [
        ("fts5(body, content='msg', content_rowid='id')", "INSERT INTO f(rowid, body) SELECT id, body FROM msg;"),
        ("fts4(content=\"msg\", body)", "INSERT INTO f(docid, body) SELECT id, body FROM msg;"),
        (
            "fts5(body, content='msg', content_rowid='id')",
            "INSERT INTO f(f, rank) VALUES('secure-delete', 1); INSERT INTO f(rowid, body) SELECT id, body FROM msg WHERE id % 2;",
        ),
    ] {
        let dir = temp();
        let sql = format!(
            "CREATE TABLE msg(id INTEGER PRIMARY KEY, who TEXT, body TEXT); BEGIN; {rows} COMMIT; CREATE VIRTUAL TABLE f USING {fts}; {fill}
             CREATE TRIGGER ad AFTER DELETE ON msg BEGIN INSERT INTO f(f, rowid, body) VALUES('delete', old.id, old.body); END;"
        );
        let image = build(dir.path(), &sql);
        let map = map(vec![collection("msg", &["who", "body"], vec![probe(&["who"])])]);
        let archived = Archived::of(&image, &map);
        assert!(!residue(&archived.bytes(), &mine).is_empty());
        for rewriting in [false, true] {
            let decide = |f| if rewriting { rewrite(f, &[("body", Some("replaced entirely"))]) } else { delete_all(f) };
            let (after, applied) = edit(&archived, &map, &["user42"], decide).unwrap();
            assert_eq!(residue(&after.bytes(), &mine), Vec::<String>::new(), "{fts} {rewriting} {:?}", applied.notes);
            let look = Connection::open(on_disk(dir.path(), "look.db", &after.bytes())).unwrap();
            let count = |term: &str| look.query_row("SELECT count(*) FROM f WHERE f MATCH ?1", [term], |r| r.get::<_, i64>(0)).unwrap();
            let indexed = if fill.contains("% 2") { 1000 } else { 2000 };
            let of_42 = if fill.contains("% 2") { 0 } else { 20 };
            assert_eq!(count("common"), indexed - of_42, "{fts} {rewriting}");
            assert_eq!(count("replaced"), if rewriting { of_42 } else { 0 });
            if !fill.contains("% 2") {
                look.execute_batch("INSERT INTO f(f) VALUES('integrity-check')").unwrap();
            }
        }
    }
}

#[test]
fn full_text_tables_of_their_own_are_edited_and_others_refused() {
    let fill = "INSERT INTO f VALUES('jane@x.org', 'Janes secretword letter'); INSERT INTO f VALUES('joe@x.org', 'another letter');";
    for fts in ["fts5(who, body)", "fts4(who, body)", "fts3(who, body)"] {
        let dir = temp();
        let image = build(dir.path(), &format!("CREATE VIRTUAL TABLE f USING {fts}; {fill}"));
        let map = map(vec![collection("f", &["who"], vec![probe(&["who"])])]);
        let archived = Archived::of(&image, &map);
        assert!(archived.report.covers.iter().all(|c| !c.starts_with("f(")));
        let (after, _) = edit(&archived, &map, &["jane@x.org"], delete_all).unwrap();
        assert!(residue(&after.bytes(), &["secretword".into(), "jane".into()]).is_empty(), "{fts}");
        let look = Connection::open(on_disk(dir.path(), "look.db", &after.bytes())).unwrap();
        assert_eq!(look.query_row("SELECT count(*) FROM f WHERE f MATCH 'letter'", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
    }
    let key = key();
    for (fts, word) in [("fts5(who, body, content='')", "keeps no text"), ("fts5(who, body, content='m')", "follows table m")] {
        let dir = temp();
        let image = build(
            dir.path(),
            &format!(
                "CREATE TABLE m(who, body); CREATE VIRTUAL TABLE f USING {fts}; INSERT INTO f(rowid, who, body) VALUES(1, 'jane@x.org', 'letter'); INSERT INTO m VALUES('jane@x.org', 'letter');"
            ),
        );
        let map = map(vec![collection("f", &["who"], vec![probe(&["who"])])]);
        let mut editor = SqliteEditor::open(Archived::of(&image, &map), &key, Limits::default()).unwrap();
        let found = Found { collection: 0, key: crate::format::RecordKey::Row(1), values: BTreeMap::new() };
        refused(editor.apply(&map, &[0], &delete_all(vec![found])), &[word]);
    }
}

#[test]
fn a_missing_module_closes_the_edit_of_its_content_only() {
    let dir = temp();
    let path = dir.path().join("source.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "{PEOPLE} CREATE TABLE q(id INTEGER PRIMARY KEY, email TEXT); INSERT INTO q SELECT id, email FROM p; PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES('table','x','x',0,'CREATE VIRTUAL TABLE x USING nosuchmodule(p)');
         INSERT INTO sqlite_schema VALUES('table','f','f',0,'CREATE VIRTUAL TABLE f USING fts5(email, content=q, tokenize=nosuchtokenizer)');"
    ))
    .unwrap();
    db.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    let m = |t| map(vec![collection(t, &["email"], vec![probe(&["email"])])]);
    edit(&Archived::of(&image, &m("p")), &m("p"), &["jane@x.org"], delete_all).map(|_| ()).unwrap();
    refused(edit(&Archived::of(&image, &m("q")), &m("q"), &["jane@x.org"], delete_all), &["full-text table f", "cannot follow"]);
    let key = key();
    let x = m("x");
    let mut editor = SqliteEditor::open(Archived::of(&image, &x), &key, Limits::default()).unwrap();
    refused(editor.find(&x, 0, &x.collections[0].probes[0], &wanted(&key, &["jane@x.org"])), &["table x", "no such module"]);
}

#[test]
fn samples_of_index_keys_go() {
    let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); CREATE INDEX pe ON p(email); CREATE TABLE o(t TEXT); CREATE INDEX ot ON o(t);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO p SELECT i, 'mail' || i || '@x.org' FROM n;
        INSERT INTO o SELECT email || 'o' FROM p; ANALYZE;";
    let dir = temp();
    let image = build(dir.path(), sql);
    let look = Connection::open(on_disk(dir.path(), "look.db", &image)).unwrap();
    let sampled: Vec<i64> = look
        .prepare("SELECT id FROM p, sqlite_stat4 WHERE tbl = 'p' AND instr(sample, CAST(email AS BLOB))")
        .unwrap()
        .query_map([], |r| r.get(0))
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    let id = sampled[0].to_string();
    let map = map(vec![collection("p", &["email"], vec![probe(&["id"])])]);
    let (after, applied) = edit(&Archived::of(&image, &map), &map, &[&id], delete_all).unwrap();
    assert!(applied.notes.iter().any(|n| n.contains("samples of index keys")));
    assert!(residue(&after.bytes(), &[format!("mail{id}@x.org\0")]).is_empty());
    assert!(memchr::memmem::find(&after.bytes(), format!("mail{id}@x.orgo").as_bytes()).is_some(), "other tables keep theirs");
    let look = Connection::open(on_disk(dir.path(), "look.db", &after.bytes())).unwrap();
    let left: (i64, i64) =
        look.query_row("SELECT sum(tbl = 'p'), sum(tbl = 'o') FROM sqlite_stat4", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    assert!(left.0 == 0 && left.1 > 0);
}

#[test]
fn tables_without_row_ids_strict_tables_and_overflowing_rows_are_edited() {
    let big = "x".repeat(20_000);
    let sql = format!(
        "CREATE TABLE w(who TEXT, n INT, note TEXT, PRIMARY KEY(who, n)) WITHOUT ROWID, STRICT;
         INSERT INTO w VALUES('jane@x.org', 1, 'Jane{big}Doe'),('jane@x.org', 2, 'short'),('joe@x.org', 1, 'Joe{big}');
         WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 500) INSERT INTO w SELECT 'u' || i, i, hex(randomblob(50)) FROM i;"
    );
    let (image, result) = erase(&sql, "w", &["who"], "who", "jane@x.org");
    let (after, applied) = result.unwrap();
    assert_eq!(applied.deleted[&0], 2);
    same_as(&image, &after, "DELETE FROM w WHERE who = 'jane@x.org'");
    assert!(residue(&after.bytes(), &["jane@x.org".into(), "JanexX".into(), "xDoe".into()]).is_empty());
}

#[test]
fn identity_blocks_know_row_ids_defaults_reals_and_far_columns() {
    let dir = temp();
    let far = (0..150).map(|i| format!("c{i} TEXT DEFAULT 'v{i}'")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "PRAGMA page_size=1024; CREATE TABLE t(\"the id\" INTEGER PRIMARY KEY, r REAL, n NUMERIC, b BLOB, {far}, tail TEXT);
         INSERT INTO t(r, n, b, tail) VALUES(42.0, '007', x'6a616e65', 'end1'),(1.5, 12345678901234, NULL, 'end2'),(7, 'text', 'txt', 'end3');
         UPDATE t SET c3 = hex(zeroblob(3000)) WHERE r = 7;
         ALTER TABLE t ADD COLUMN late TEXT DEFAULT 'never given'; INSERT INTO t(r, late) VALUES(0, 'given');
         ALTER TABLE t ADD COLUMN n2 INT DEFAULT '5';
         CREATE TABLE g(a TEXT, u TEXT AS (upper(a)) VIRTUAL); INSERT INTO g(a) VALUES('x');"
    );
    let image = build(dir.path(), &sql);
    let fields = ["the id", "r", "n", "b", "tail", "late", "n2", "c149"];
    let mut probes: Vec<Probe> = fields.iter().map(|f| probe(&[f])).collect();
    probes.push(probe(&["r", "tail"]));
    let lower = Normalize { lower: true, trim: true, ..Normalize::default() };
    probes.push(norm_probe(&["tail"], lower));
    let map = map(vec![collection("t", &fields, probes.clone()), collection("g", &["a", "u"], vec![probe(&["a"]), probe(&["u"])])]);
    let archived = Archived::of(&image, &map);
    assert!(archived.report.covers.contains(&"g(a:raw)".to_string()) && !archived.report.covers.contains(&"g(u:raw)".to_string()));
    let plain = Archived::plain(&image);
    let key = key();
    let asks: [(usize, &[&str], usize); 14] = [
        (0, &["3"], 1),
        (1, &["42"], 1),
        (1, &["1.5"], 1),
        (2, &["7"], 1),
        (2, &["12345678901234"], 1),
        (2, &["text"], 1),
        (3, &["jane"], 1),
        (4, &["end3"], 1),
        (5, &["never given"], 3),
        (5, &["given"], 1),
        (6, &["5"], 4),
        (7, &["v149"], 4),
        (8, &["42", "end1"], 1),
        (9, &["end2"], 1),
    ];
    for (index, values, n) in asks {
        let mut set = TokenSet::new(&key);
        set.insert_values(values.iter().map(|v| v.to_string()).collect());
        let mut both = Vec::new();
        for content in [&archived, &plain] {
            let mut editor = SqliteEditor::open(content.clone(), &key, Limits::default()).unwrap();
            let mut keys: Vec<_> = editor.find(&map, 0, &probes[index], &set).unwrap().into_iter().map(|f| f.key).collect();
            keys.sort();
            assert_eq!(keys.len(), n, "{values:?} of probe {index}, fell back: {}", editor.fell_back());
            assert_eq!(editor.fell_back(), Arc::ptr_eq(content, &plain));
            both.push(keys);
        }
        assert_eq!(both[0], both[1]);
    }
}

#[test]
fn tokens_alone_find_and_when_narrows() {
    let dir = temp();
    let image = build(
        dir.path(),
        &format!("{PEOPLE} ALTER TABLE p ADD COLUMN kind TEXT DEFAULT 'retail'; INSERT INTO p VALUES(4, 'jane@x.org', 'Other', 'trade');"),
    );
    let mut narrowed = probe(&["email"]);
    narrowed.when = Some(crate::datamap::expr::Expr::parse("kind = 'retail'").unwrap());
    let m = map(vec![collection("p", &["email"], vec![narrowed])]);
    let key = key();
    for content in [Archived::of(&image, &m), Archived::plain(&image)] {
        let mut set = TokenSet::new(&key);
        set.insert_token(key.of_normalized(&["jane@x.org"]));
        let mut editor = SqliteEditor::open(content, &key, Limits::default()).unwrap();
        let found = editor.find(&m, 0, &m.collections[0].probes[0], &set).unwrap();
        assert_eq!(found.iter().map(|f| f.key.clone()).collect::<Vec<_>>(), [crate::format::RecordKey::Row(1)]);
    }
}

#[test]
fn what_cannot_be_edited_safely_is_refused_when_opened_or_stored_as_it_is() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO p SELECT i, 'mail' || i FROM n; DELETE FROM p WHERE id > 5000;",
    );
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let key = key();
    // Reserved bytes.
    let mut reserved = image.clone();
    reserved[20] = 8;
    reserved[4095] = 1;
    let archived = Archived::of(&reserved, &m);
    assert!(!archived.report.scrubbed && archived.report.covers.is_empty() && !archived.report.warnings.is_empty());
    assert!(archived.bytes() == reserved, "stored as it is");
    assert!(archived.marks.iter().all(Option::is_none));
    refused(SqliteEditor::open(archived, &key, Limits::default()), &["reserved"]);
    // A freelist that leads into a live page, or into a loop: only the scrub notices.
    let free = u32::from_be_bytes(image[32..36].try_into().unwrap());
    let page = 4096;
    for bad in [2u32, free, 9_999_999] {
        let mut damaged = image.clone();
        let at = (free as usize - 1) * page + 8;
        damaged[at..at + 4].copy_from_slice(&bad.to_be_bytes());
        let archived = Archived::of(&damaged, &m);
        assert!(!archived.report.scrubbed && archived.bytes() == damaged, "{bad}");
        // Edited all the same (it was archived unscrubbed), it would have to be scrubbed.
        let mut editor = SqliteEditor::open(archived, &key, Limits { whole_check: 0, ..Limits::default() }).unwrap();
        let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["mail77"])).unwrap();
        let result = editor.apply(&m, &[0], &delete_all(found)).and_then(|_| Box::new(editor).finish());
        assert!(result.is_err(), "{bad}");
    }
    // A database shorter than its header says.
    let mut short = image.clone();
    short.truncate(image.len() - 4096);
    assert!(!Archived::of(&short, &m).report.scrubbed);
    refused(SqliteEditor::open(Archived::plain(&short), &key, Limits::default()), &["shorter"]);
    // Pieces that are no runs.
    let odd = Archived {
        runs: image.chunks(50_000).map(|r| Arc::new(r.to_vec())).collect(),
        marks: vec![None; 99],
        report: CutReport::default(),
        opened: Mutex::default(),
        reads: AtomicUsize::new(0),
        stop: Stop::default(),
    };
    refused(SqliteEditor::open(Arc::new(odd), &key, Limits::default()), &["runs of pages"]);
    // Not a database.
    refused(SqliteEditor::open(Archived::plain(&[7; 70_000]), &key, Limits::default()), &["not an unencrypted"]);
}

#[test]
fn orphans_and_the_tail_are_zeroed() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE lost(t TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO lost SELECT 'lostword' || i FROM n; INSERT INTO p VALUES(1, 'jane@x.org');",
    );
    let path = on_disk(dir.path(), "lost.db", &image);
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name = 'lost';").unwrap();
    db.close().unwrap();
    let mut image = std::fs::read(&path).unwrap();
    image.extend(b"behind the last page lostword".repeat(20));
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let archived = Archived::of(&image, &m);
    assert!(archived.report.scrubbed && archived.report.scrub.orphans > 5, "{:?}", archived.report);
    assert!(archived.report.warnings.iter().any(|w| w.contains("belonged to nothing")));
    assert!(residue(&archived.bytes(), &["lostword".into()]).is_empty());
}

#[test]
fn a_database_may_shrink_and_grow() {
    let dir = temp();
    let image = build(
        dir.path(),
        "PRAGMA auto_vacuum=FULL; CREATE TABLE p(id INTEGER PRIMARY KEY, who TEXT, b BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO p SELECT i, 'w' || (i % 2), zeroblob(9000 + i) FROM n;",
    );
    let m = map(vec![collection("p", &["who", "b"], vec![probe(&["who"])])]);
    let archived = Archived::of(&image, &m);
    let (after, _) = edit(&archived, &m, &["w1"], delete_all).unwrap();
    assert!(after.runs.len() < archived.runs.len() * 2 / 3, "{} of {}", after.runs.len(), archived.runs.len());
    same_as(&image, &after, "DELETE FROM p WHERE who = 'w1'");
    let long = "long".repeat(60_000);
    let (grown, _) = edit(&after, &m, &["w0"], |mut f| rewrite(f.split_off(f.len() - 3), &[("b", Some(&long))])).unwrap();
    assert!(grown.runs.len() > after.runs.len());
    same_as(&after.bytes(), &grown, &format!("UPDATE p SET b = '{long}' WHERE id IN (SELECT id FROM p ORDER BY id DESC LIMIT 3)"));
    assert_eq!(Archived::of(&grown.bytes(), &m).marks, grown.marks);
}

#[test]
fn blocks_do_not_fit_once_the_schema_has_moved() {
    let dir = temp();
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let covers = |sql: &str| Archived::of(&build(dir.path(), sql), &m).report.covers.clone();
    let first = covers(PEOPLE);
    assert_eq!(first, covers(&format!("{PEOPLE} DELETE FROM p WHERE id = 2;")));
    assert_ne!(
        first,
        covers(&format!("{PEOPLE} ALTER TABLE p RENAME COLUMN email TO x; ALTER TABLE p RENAME COLUMN name TO email;")).as_slice()
    );
    assert_ne!(first, covers(&format!("{PEOPLE} CREATE TABLE q(id, x, email); DROP TABLE p; ALTER TABLE q RENAME TO p;")).as_slice());
}

#[test]
fn references_without_an_index_are_found_by_identity_blocks() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE o(id INTEGER PRIMARY KEY, p INT REFERENCES p(id), pad TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO p SELECT i, 'mail' || i FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO o SELECT i, i % 400, hex(zeroblob(50)) FROM n;",
    );
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])]), collection("o", &["p"], vec![probe(&["p"])])]);
    let archived = Archived::of(&image, &m);
    let run = |who: &str| {
        archived.opened.lock().unwrap().clear();
        let key = key();
        let mut editor = SqliteEditor::open(archived.clone(), &key, Limits { whole_check: 0, ..Limits::default() }).unwrap();
        let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &[who])).unwrap();
        (editor.apply(&m, &[0], &delete_all(found)), archived.opened.lock().unwrap().len())
    };
    let (applied, opened) = run("mail450");
    applied.unwrap();
    assert!(opened < 6 && archived.runs.len() > 30, "{opened} of {}", archived.runs.len());
    refused(run("mail77").0, &["50 rows of table o"]);
}

#[test]
fn a_full_text_index_over_a_view_is_made_anew() {
    let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT, body TEXT); INSERT INTO p VALUES(1,'jane@x.org','secretword here'),(2,'joe@x.org','other here');
        CREATE VIEW v1 AS SELECT id, body FROM p; CREATE VIEW v2 AS SELECT * FROM v1;
        CREATE VIRTUAL TABLE f USING fts5(body, content='v2', content_rowid='id'); INSERT INTO f(f) VALUES('rebuild');";
    let (_, result) = erase(sql, "p", &["email"], "email", "jane@x.org");
    let (after, _) = result.unwrap();
    assert!(residue(&after.bytes(), &["secretword".into(), "jane@".into()]).is_empty());
    let dir = temp();
    let look = Connection::open(on_disk(dir.path(), "look.db", &after.bytes())).unwrap();
    assert_eq!(look.query_row("SELECT count(*) FROM f WHERE f MATCH 'here'", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
}

/// Content of which one run cannot be opened.
struct Broken(Arc<Archived>, usize, bool);

impl EntryContent for Broken {
    fn path(&self) -> String {
        self.0.path()
    }
    fn pieces(&self) -> usize {
        self.0.pieces()
    }
    fn piece_len(&self, index: usize) -> u64 {
        self.0.piece_len(index)
    }
    fn piece(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        assert!(index != self.1 || !self.2, "a bug in whoever gives the content");
        if index == self.1 { Err(crate::Error::damaged("pack 42", "it does not open")) } else { self.0.piece(index) }
    }
    fn marks(&self, index: usize) -> Result<Option<Arc<Marks>>> {
        self.0.marks(index)
    }
    fn covers(&self) -> &[String] {
        self.0.covers()
    }
    fn scrubbed(&self) -> bool {
        self.0.scrubbed()
    }
}

#[test]
fn a_damaged_run_is_reported_as_what_it_is() {
    let dir = temp();
    let image = build(
        dir.path(),
        "CREATE TABLE p(id INTEGER PRIMARY KEY, email TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO p SELECT i, 'mail' || i FROM n;",
    );
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])])]);
    let archived = Archived::of(&image, &m);
    let key = key();
    for panics in [false, true] {
        for run in 0..archived.runs.len() {
            let content = Arc::new(Broken(archived.clone(), run, panics));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<usize> {
                let mut editor = SqliteEditor::open(content, &key, Limits { always_whole: true, ..Limits::default() })?;
                let found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["mail19999"]))?;
                editor.apply(&m, &[0], &delete_all(found))?;
                Ok(Box::new(editor).finish()?.len())
            }));
            match result {
                Ok(Err(error)) => {
                    assert!(error.to_string().contains("pack 42") || error.to_string().contains("unexpected failure"), "{error}")
                }
                Ok(Ok(n)) => panic!("{n} pieces although run {run} does not open"),
                Err(_) => assert!(panics, "a panic of the content's own, outside of sqlite"),
            }
        }
    }
}

/// Pages in memory, zeros left out: a database of more than a gigabyte that takes next to nothing.
struct Sparse {
    pages: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

const SPARSE_PAGE: u64 = 65_536;

impl super::super::vfs::Medium for Sparse {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let n = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        self.read_at(offset, &mut buf[..n])?;
        Ok(n)
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut page = vec![0; SPARSE_PAGE as usize];
        let (start, inside) = (offset / SPARSE_PAGE, (offset % SPARSE_PAGE) as usize);
        assert!(inside + bytes.len() <= page.len());
        let old = self.pages.get(&start).cloned().unwrap_or_default();
        page[..old.len()].copy_from_slice(&old);
        page[inside..inside + bytes.len()].copy_from_slice(bytes);
        while page.ends_with(&[0; 64]) {
            page.truncate(page.len() - 64);
        }
        self.pages.insert(start, page);
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }
    fn truncate(&mut self, len: u64) -> Result<()> {
        self.len = self.len.min(len);
        self.pages.retain(|no, _| no * SPARSE_PAGE < len);
        Ok(())
    }
    fn size(&mut self) -> u64 {
        self.len
    }
}

impl Image for Sparse {
    fn path(&self) -> String {
        "sparse".into()
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let (start, inside) = (offset / SPARSE_PAGE, (offset % SPARSE_PAGE) as usize);
        assert!(inside + buf.len() <= SPARSE_PAGE as usize);
        if let Some(from) = self.pages.get(&start).and_then(|p| p.get(inside..)) {
            let n = from.len().min(buf.len());
            buf[..n].copy_from_slice(&from[..n]);
        }
        Ok(())
    }
}

#[test]
fn the_page_under_the_locks_belongs_to_nothing_and_is_no_orphan() {
    use super::super::scrub::{ScrubPlan, Tag};
    let medium = Arc::new(Mutex::new(Sparse { pages: BTreeMap::new(), len: 0 }));
    let db = super::super::vfs::Database::open(medium.clone(), true).unwrap();
    db.connection()
        .execute_batch(
            "PRAGMA page_size=65536; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA auto_vacuum=FULL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT, b BLOB); INSERT INTO t VALUES(1, 'a', zeroblob(600000000)), (2, 'b', zeroblob(600000000)), (3, 'c', 'end');",
        )
        .unwrap();
    drop(db);
    let mut sparse = Arc::into_inner(medium).unwrap().into_inner().unwrap();
    let lock = (1u64 << 30) / SPARSE_PAGE;
    assert!(sparse.len > (lock + 100) * SPARSE_PAGE);
    sparse.pages.insert(lock, b"never read by anybody".to_vec());
    let mut plan = ScrubPlan::build(&sparse).unwrap();
    assert_eq!((plan.tag(lock as u32 + 1), plan.orphans()), (Tag::Lock, 0));
    let mut run = sparse.run(lock).unwrap();
    assert!(plan.scrub_run(lock * RUN as u64, &mut run, &mut Default::default()).is_empty());
    assert!(run.iter().all(|b| *b == 0));
}

#[test]
fn a_row_found_through_two_collections_counts_for_both() {
    let dir = temp();
    let image = build(dir.path(), PEOPLE);
    let mut other = collection("p", &["name"], vec![probe(&["name"])]);
    other.name = "by_name".into();
    let m = map(vec![collection("p", &["email"], vec![probe(&["email"])]), other]);
    let archived = Archived::of(&image, &m);
    let key = key();
    for delete in [true, false] {
        let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
        let mut found = editor.find(&m, 0, &m.collections[0].probes[0], &wanted(&key, &["jane@x.org"])).unwrap();
        found.extend(editor.find(&m, 1, &m.collections[1].probes[0], &wanted(&key, &["Jane Doe", "Joe Public"])).unwrap());
        assert_eq!(found.len(), 3);
        let decided = if delete { delete_all(found) } else { rewrite(found, &[("name", None), ("email", Some("gone"))]) };
        let applied = editor.apply(&m, &[0, 1], &decided).unwrap();
        let counts = if delete { applied.deleted } else { applied.rewritten };
        assert_eq!((counts[&0], counts[&1]), (1, 2));
        let sql = if delete { "DELETE FROM p WHERE id < 3" } else { "UPDATE p SET name = NULL, email = 'gone' WHERE id < 3" };
        same_as(&image, &archived.after(finish(editor)), sql);
    }
}
