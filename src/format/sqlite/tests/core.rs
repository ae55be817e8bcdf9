use super::*;

const CRM: &str = "
    CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, note TEXT);
    CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INT, item TEXT);
    CREATE INDEX orders_customer ON orders(customer_id);
    CREATE TABLE other(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO customer SELECT i, 'user' || i || '@example.org', 'Name ' || i, hex(zeroblob(i % 40)) FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
        INSERT INTO orders SELECT i, 1 + i * 7 % 3000, 'item ' || i FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO other SELECT 'key' || i, zeroblob(i * 20) FROM n;";

fn crm_map() -> DataMap {
    map(vec![
        collection("customer", &["email", "name"], vec![probe(&["email"])]),
        collection("orders", &["customer_id"], vec![probe(&["customer_id"])]),
    ])
}

/// Customer 42 by e-mail, the orders by the customer's id.
fn erase_42(archived: &Arc<Archived>, map: &DataMap) -> (Vec<NewPiece>, crate::format::Applied, bool) {
    let key = key();
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
    let customers = editor.find(map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap();
    assert_eq!(customers.len(), 1);
    assert_eq!(customers[0].values["id"], [crate::datamap::Value::Integer(42)]);
    assert!(
        editor.find(map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap().is_empty(),
        "returned once"
    );
    let orders = editor.find(map, 1, &map.collections[1].probes[0], &wanted(&key, &["42"])).unwrap();
    let decided: Vec<_> = delete_all(customers).into_iter().chain(delete_all(orders)).collect();
    let applied = editor.apply(map, &[1, 0], &decided).unwrap();
    let fell_back = editor.fell_back();
    (finish(editor), applied, fell_back)
}

#[test]
fn an_erasure_is_what_plain_sql_makes_of_it_and_touches_few_runs() {
    let dir = temp();
    for pragma in [
        "",
        "PRAGMA page_size=512;",
        "PRAGMA page_size=65536;",
        "PRAGMA auto_vacuum=FULL;",
        "PRAGMA auto_vacuum=INCREMENTAL;",
        "PRAGMA encoding='UTF-16le';",
        "PRAGMA encoding='UTF-16be';",
        "PRAGMA journal_mode=WAL;",
    ] {
        let image = build(dir.path(), &format!("{pragma}{CRM}"));
        let map = crm_map();
        let archived = Archived::of(&image, &map);
        assert!(archived.report.scrubbed && archived.report.warnings.is_empty(), "{pragma} {:?}", archived.report);
        assert_eq!(dump(dir.path(), &archived.bytes()), dump(dir.path(), &image), "{pragma}: the scrub changes nothing that SQL sees");
        let (pieces, applied, fell_back) = erase_42(&archived, &map);
        assert!(!fell_back, "{pragma}");
        assert_eq!((applied.deleted[&0], applied.deleted[&1]), (1, 3));
        let after = archived.after(pieces);
        let naive = naive(dir.path(), &image, "DELETE FROM orders WHERE customer_id = 42; DELETE FROM customer WHERE id = 42;");
        assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive), "{pragma}");
        assert!(residue(&after.bytes(), &["user42@example.org".into()]).is_empty(), "{pragma}");
        assert_eq!(image[18..20], after.bytes()[18..20], "{pragma}: the journal mode is given back");
        // The blocks of changed runs are as if they had been made from the new image.
        let again = Archived::of(&after.bytes(), &map);
        assert_eq!(again.bytes(), after.bytes(), "{pragma}: there is nothing left to scrub");
        assert_eq!(again.marks, after.marks, "{pragma}");
    }
}

#[test]
fn without_identity_blocks_the_database_is_searched() {
    let dir = temp();
    let image = build(dir.path(), CRM);
    let map = crm_map();
    let (pieces, _, fell_back) = erase_42(&Archived::plain(&image), &map);
    assert!(fell_back);
    let after = Archived::plain(&image).after(pieces);
    let naive = naive(dir.path(), &image, "DELETE FROM orders WHERE customer_id = 42; DELETE FROM customer WHERE id = 42;");
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive));
}

#[test]
fn untouched_runs_are_neither_opened_nor_given_back() {
    let dir = temp();
    let image = build(
        dir.path(),
        &format!(
            "{CRM} CREATE TABLE big(b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO big SELECT randomblob(3000) FROM n;"
        ),
    );
    let map = crm_map();
    let archived = Archived::of(&image, &map);
    let limits = Limits { whole_check: 0, ..Limits::default() };
    let key = key();
    let mut editor = SqliteEditor::open(archived.clone(), &key, limits).unwrap();
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap();
    editor.apply(&map, &[0], &delete_all(found)).unwrap();
    let pieces = finish(editor);
    assert!(pieces.len() < 6, "{}", pieces.len());
    let opened = archived.opened.lock().unwrap().len();
    assert!(opened < 12 && archived.runs.len() > 90, "{opened} of {}", archived.runs.len());
}

#[test]
fn rewriting_changes_the_named_columns_only() {
    let dir = temp();
    let image = build(dir.path(), CRM);
    let map = crm_map();
    let archived = Archived::of(&image, &map);
    let key = key();
    let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap();
    let applied = editor.apply(&map, &[0], &rewrite(found, &[("email", Some("x@erased.invalid")), ("name", None)])).unwrap();
    assert_eq!(applied.rewritten[&0], 1);
    let after = archived.after(finish(editor));
    let naive = naive(dir.path(), &image, "UPDATE customer SET email = 'x@erased.invalid', name = NULL WHERE id = 42");
    assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive));
    let mut editor = SqliteEditor::open(after, &key, Limits::default()).unwrap();
    assert!(editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap().is_empty());
    assert_eq!(
        editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["x@erased.invalid"])).unwrap().len(),
        1,
        "by the new identity block"
    );
    assert!(!editor.fell_back());
}

#[test]
fn nothing_decided_gives_nothing_back() {
    let dir = temp();
    let image = build(dir.path(), &format!("PRAGMA journal_mode=WAL; {CRM}"));
    let map = crm_map();
    let archived = Archived::of(&image, &map);
    let key = key();
    let mut editor = SqliteEditor::open(archived, &key, Limits::default()).unwrap();
    let found = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &["user42@example.org"])).unwrap();
    let kept: Vec<_> = found.into_iter().map(|f| (f, Disposition::Keep)).collect();
    assert_eq!(editor.apply(&map, &[0], &kept).unwrap(), Default::default());
    assert!(finish(editor).is_empty());
}
