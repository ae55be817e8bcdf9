//! A database with a past: splits, deletions without `secure_delete`, reuse. What is erased must leave no trace anywhere in the bytes.

use super::*;

/// Statements of a long life. Deterministic.
fn life(pragma: &str, rounds: u64) -> String {
    let mut seed = 11u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n.max(1)
    };
    let mut sql = format!(
        "{pragma} PRAGMA secure_delete=OFF;
        CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, street TEXT, note TEXT);
        CREATE TABLE messages(id INTEGER PRIMARY KEY, customer_id INT, body TEXT);
        CREATE INDEX msg_cust ON messages(customer_id);
        CREATE INDEX cust_name ON customers(name, street);
        BEGIN;"
    );
    for i in 1..=rounds {
        let (email, name) = person(i);
        sql += &format!("INSERT INTO customers VALUES({i}, '{email}', '{name}', 'Street {}', NULL);", random(190));
        let words = |n: u64| (0..n).map(|w| format!("word{}", (w * 7 + i) % 91)).collect::<Vec<_>>().join(" ");
        let k = 1 + random(i);
        let len = if i % 50 == 0 { 900 } else { 12 + random(40) };
        sql += &format!("INSERT INTO messages(customer_id, body) VALUES({k}, '{} {} {}');", words(len / 2), person(k).1, words(len / 2));
        if i % 4 == 0 {
            let k = 1 + random(i);
            sql += &format!("UPDATE customers SET street = street || ', c/o Hinterhaus {i}', note = 'called ' || name WHERE id = {k};");
        }
        if i % 7 == 0 {
            let k = 1 + random(i);
            sql += &format!("UPDATE messages SET body = body || ' -- {}' WHERE customer_id = {k};", words(20));
        }
        if i % 12 == 0 {
            let k = 1 + random(i);
            sql += &format!("DELETE FROM messages WHERE customer_id = {k}; DELETE FROM customers WHERE id = {k};");
        }
        if i % 500 == 0 {
            sql += "COMMIT; BEGIN;";
        }
    }
    sql += &format!("DELETE FROM messages WHERE id BETWEEN {} AND {}; COMMIT;", rounds / 5, rounds / 3);
    sql
}

fn person(i: u64) -> (String, String) {
    let tag = i.wrapping_mul(2_654_435_761) % 0xfff_ffff;
    (format!("mail.{tag:07x}@example.org"), format!("Person Surname-{tag:07x}"))
}

fn words_of(rows: &[Found]) -> Vec<String> {
    let text = |f: &Found, c: &str| f.values[c][0].canonical().map(|t| t.into_owned()).unwrap_or_default();
    rows.iter().flat_map(|f| [text(f, "email"), text(f, "name")]).collect()
}

struct Names(aho_corasick::AhoCorasick);
impl crate::format::Mentions for Names {
    fn spans(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        self.0.find_iter(text).map(|m| m.range()).collect()
    }
}

#[test]
fn nobody_who_was_erased_is_left_in_the_bytes() {
    let dir = temp();
    for pragma in [
        "",
        "PRAGMA auto_vacuum=FULL;",
        "PRAGMA encoding='UTF-16le';",
        "PRAGMA page_size=1024; PRAGMA auto_vacuum=INCREMENTAL;",
        "PRAGMA page_size=32768;",
    ] {
        let image = build(dir.path(), &life(pragma, 3000));
        let mut c = collection("customers", &["email"], vec![probe(&["id"])]);
        c.fields.extend(collection("x", &["name", "note"], vec![]).fields);
        let map = map(vec![c, collection("messages", &["body*"], vec![probe(&["customer_id"])])]);
        let archived = Archived::of(&image, &map);
        assert!(archived.report.scrubbed && archived.report.scrub.bytes > 0 && archived.report.scrub.orphans == 0, "{:?}", archived.report);
        assert_eq!(dump(dir.path(), &image), dump(dir.path(), &archived.bytes()), "{pragma}");
        // Those who were deleted in the database's own life are gone already.
        let db = Connection::open(on_disk(dir.path(), "look.db", &image)).unwrap();
        let live: BTreeSet<u64> = db
            .prepare("SELECT id FROM customers")
            .unwrap()
            .query_map([], |r| r.get::<_, i64>(0).map(|i| i as u64))
            .unwrap()
            .map(|r| r.unwrap())
            .collect();
        let long_gone: Vec<String> = (1..=3000).filter(|i| !live.contains(i)).map(|i| person(i).0).collect();
        assert!(!residue(&image, &long_gone).is_empty() && residue(&archived.bytes(), &long_gone).is_empty(), "{pragma}");

        let ids: Vec<String> = live.iter().step_by(13).map(u64::to_string).collect();
        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        let key = key();
        let mut editor = SqliteEditor::open(archived.clone(), &key, Limits::default()).unwrap();
        let customers = editor.find(&map, 0, &map.collections[0].probes[0], &wanted(&key, &asked)).unwrap();
        let words = words_of(&customers);
        assert_eq!(customers.len(), ids.len());
        let mut messages = editor.find(&map, 1, &map.collections[1].probes[0], &wanted(&key, &asked)).unwrap();
        let names = Names(aho_corasick::AhoCorasick::new(&words).unwrap());
        messages.extend(editor.find_text(&map, 1, &names).unwrap());
        let decided: Vec<_> = delete_all(customers).into_iter().chain(delete_all(messages.clone())).collect();
        editor.apply(&map, &[1, 0], &decided).unwrap();
        let after = archived.after(finish(editor));
        assert_eq!(residue(&after.bytes(), &words), Vec::<String>::new(), "{pragma}");
        let list = |keys: Vec<String>| keys.join(",");
        let gone: Vec<String> = messages.iter().map(|f| f.values["id"][0].canonical().unwrap().into_owned()).collect();
        let sql = format!("DELETE FROM messages WHERE id IN ({}); DELETE FROM customers WHERE id IN ({});", list(gone), list(ids));
        assert_eq!(dump(dir.path(), &after.bytes()), dump(dir.path(), &naive(dir.path(), &image, &sql)), "{pragma}");
        assert_eq!(Archived::of(&after.bytes(), &map).marks, after.marks, "{pragma}");
    }
}
