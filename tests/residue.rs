//! After an erasure: every object of the repository, opened with every key that is still held, the catalog, the temporary folder, what was
//! said on the way, and the restored files are searched for the person in every encoding. Before it, the same search must find them.

mod common;
#[path = "common/small.rs"]
mod small;

use common::{Place, secret, tree};
use reseal::catalog::Catalog;
use reseal::config;
use reseal::engine::event::Verdict;
use reseal::engine::propagate::Scope;
use reseal::engine::session::Session;
use reseal::engine::{certificate, drill, subject};
use reseal::env::{Env, Monitor};
use reseal::repository::entry::Role;
use reseal::repository::{Location, Repository};
use small::{assert_complete, assert_verified, night, propagate};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const EMAIL: &str = "Zaphodiana.Quux@hitchhike.example";
const PHONE: &str = "+4917055501234";
const NUMBER: &str = "777000777";
const NAME: &str = "Zaphodiana Quuxenfeld";
const VALUES: [&str; 4] = [EMAIL, PHONE, NUMBER, NAME];

const CONFIG: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    drill: {every: 7d, checks: [{sql: "select count(*) from customer", min: 1, entry: crm.db}]}
    unmapped: preserve
    collections:
      - name: customer
        entry: crm.db
        primary_key: [id]
        on_erase: delete
        fields:
          number: {identity: customer_id}
          email: {identity: email, normalize: [trim, lower]}
          phone: {identity: phone, normalize: [digits]}
          name: {identity: name}
      - {name: orders, entry: crm.db, primary_key: [id], on_erase: delete, references: [{fields: [customer], to: customer, to_fields: [id]}]}
      - {name: ticket, entry: crm.db, primary_key: [id], on_erase: anonymize, fields: {body: {scan: identities}}}
      - name: signups
        entry: "*.csv"
        on_erase: anonymize
        fields:
          Email: {identity: email, normalize: [trim, lower], action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}}
          Name: {action: {strategy: null_rewrite}}
          Note: {scan: identities}
      - name: events
        entry: "*.ndjson"
        on_erase: anonymize
        fields:
          user.id: {identity: customer_id, action: {strategy: null_rewrite}}
          user.name: {action: {strategy: null_rewrite}}
          text: {scan: identities}
      - {name: uploads, entry: "data/uploads/{customer_id}/**", on_erase: delete}
      - {name: mail, entry: "data/mail/{email}/**", on_erase: delete}
"#;

/// Serialises the tests of this file: they set an environment variable.
static ALONE: Mutex<()> = Mutex::new(());

/// The temporary folder of this process, for as long as a test looks into it.
struct Scratch(Option<std::ffi::OsString>);

impl Scratch {
    fn new(path: &std::path::Path) -> Scratch {
        let before = std::env::var_os("TMPDIR");
        // SAFETY: the tests of this binary run one at a time, and no other thread of it reads the environment now.
        unsafe { std::env::set_var("TMPDIR", path) };
        Scratch(before)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: as above.
        match &self.0 {
            Some(before) => unsafe { std::env::set_var("TMPDIR", before) },
            None => unsafe { std::env::remove_var("TMPDIR") },
        }
    }
}

/// Writes down everything that is said.
#[derive(Default)]
struct Heard(Mutex<String>);

impl Monitor for Heard {
    fn phase(&self, name: &str, _: Option<u64>) {
        self.warn(name);
    }
    fn advance(&self, _: u64) {}
    fn warn(&self, message: &str) {
        *self.0.lock().unwrap() += &format!("{message}\n");
    }
    fn detail(&self, message: &str) {
        self.warn(message);
    }
}

fn open(place: &Place, heard: &Arc<Heard>) -> Session {
    let env = Env { monitor: heard.clone(), ..place.env() };
    let repo = Repository::open(Location::single(place.store()), &secret(), &env).unwrap();
    let config = config::load(&place.path("reseal.yaml")).unwrap();
    let (catalog, _) = Catalog::open(&place.path("state"), &repo.id().to_string()).unwrap();
    Session::new(config, Arc::new(repo), catalog, "tester".into(), env, vec![]).unwrap()
}

/// The value in every form that this test can think of: (what, bytes, whether case counts). Written apart from the product's own list.
fn forms(value: &str) -> Vec<(String, Vec<u8>, bool)> {
    let utf8 = value.as_bytes().to_vec();
    let wide = |big: bool| value.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect::<Vec<u8>>();
    let mut out =
        vec![("utf-8".to_string(), utf8.clone(), false), ("utf-16le".into(), wide(false), false), ("utf-16be".into(), wide(true), false)];
    out.push(("hex".into(), hex(&utf8), false));
    out.push(("reversed".into(), utf8.iter().rev().copied().collect(), false));
    let escape = |of: &dyn Fn(u8) -> String| {
        value.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { of(b) }).collect::<String>().into_bytes()
    };
    out.push(("percent".into(), escape(&|b| format!("%{b:02X}")), false));
    out.push(("quoted-printable".into(), escape(&|b| format!("={b:02X}")), false));
    out.push(("json".into(), value.bytes().flat_map(|b| format!("\\u{b:04x}").into_bytes()).collect(), false));
    for cased in [value.to_string(), value.to_lowercase(), value.to_uppercase()] {
        for bytes in [cased.as_bytes().to_vec(), cased.encode_utf16().flat_map(u16::to_le_bytes).collect()] {
            for shift in 0..3 {
                out.push((format!("base64+{shift}"), base64(&bytes, shift), true));
            }
        }
    }
    out
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect()
}

/// The letters of base64 that do not depend on what stands before and after.
fn base64(bytes: &[u8], shift: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits: Vec<bool> = vec![false; shift * 8];
    bits.extend(bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1 == 1)));
    let first = (shift * 8).div_ceil(6);
    bits.chunks_exact(6).skip(first).map(|c| LETTERS[c.iter().fold(0usize, |n, b| n * 2 + usize::from(*b))]).collect()
}

/// Where any form of any value stands: "utf-8 of value 0 in …".
fn search(haystack: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut found = Vec::new();
    for (v, value) in VALUES.iter().enumerate() {
        for (form, needle, cased) in forms(value) {
            let automaton = aho_corasick::AhoCorasick::builder().ascii_case_insensitive(!cased).build([&needle]).unwrap();
            for (name, bytes) in haystack {
                if automaton.is_match(bytes) {
                    found.push(format!("{form} of value {v} in {name}"));
                }
            }
        }
    }
    found
}

/// Every object of the repository, as stored and opened with every key held.
fn everything(place: &Place, session: &Session, heard: &Heard) -> BTreeMap<String, Vec<u8>> {
    let mut out: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for part in ["backups", "state", "scratch"] {
        out.extend(tree(&place.path(part)).into_iter().map(|(k, v)| (format!("{part}/{k} name {k}"), v)));
    }
    // File names are places too.
    let names = out.keys().cloned().collect::<Vec<_>>().join("\n").into_bytes();
    out.insert("names".into(), names);
    let repo = &session.repo;
    for dataset in repo.datasets().unwrap() {
        let view = session.view(&dataset).unwrap();
        assert!(view.index.damaged().is_empty());
        for (id, role) in view.index.iter() {
            let bytes = view.reader.read(&id, role).unwrap();
            out.insert(format!("chunk {role:?} {id:?}"), bytes.to_vec());
        }
        let heads = repo.heads(&dataset).unwrap();
        assert!(heads.damaged.is_empty());
        for h in heads.latest.iter().chain(&heads.older) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&h.head, &mut bytes).unwrap();
            out.insert(format!("head {}", h.key), bytes);
        }
        // Roles are all of them: a chunk is found under its own only.
        for role in [Role::Data, Role::Entries, Role::Index, Role::Marks] {
            assert!(view.index.iter().any(|(_, r)| r == role) || role == Role::Index, "no {role:?} chunk was searched");
        }
    }
    for e in session.ledger().entries() {
        let mut bytes = Vec::new();
        ciborium::into_writer(&e.body::<ciborium::Value>().unwrap(), &mut bytes).unwrap();
        out.insert(format!("ledger {}", e.seq), bytes);
    }
    for (prefix, purpose) in [("requests/", "request"), ("certificates/", "certificate"), ("records/", "record")] {
        for key in repo.list_sealed(prefix).unwrap() {
            out.insert(format!("sealed {key}"), repo.get_sealed(purpose, &key).unwrap().unwrap().to_vec());
        }
    }
    out.insert("what was said".into(), heard.0.lock().unwrap().clone().into_bytes());
    out
}

/// An aged database: rows come, grow and go in an order that splits pages, with deletes that leave their bytes behind.
fn database(place: &Place) {
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(
        "PRAGMA secure_delete=OFF; PRAGMA page_size=1024;
         CREATE TABLE customer(id INTEGER PRIMARY KEY, number TEXT, email TEXT, phone TEXT, name TEXT);
         CREATE UNIQUE INDEX c_email ON customer(email); CREATE INDEX c_name ON customer(name, phone); CREATE INDEX c_number ON customer(number);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT REFERENCES customer(id), gift TEXT);
         CREATE TABLE ticket(id INTEGER PRIMARY KEY, body TEXT);
         CREATE VIRTUAL TABLE search USING fts5(body, content='ticket', content_rowid='id');
         CREATE TRIGGER t_in AFTER INSERT ON ticket BEGIN INSERT INTO search(rowid, body) VALUES (new.id, new.body); END;
         CREATE TRIGGER t_up AFTER UPDATE ON ticket BEGIN INSERT INTO search(search, rowid, body) VALUES ('delete', old.id, old.body); INSERT INTO search(rowid, body) VALUES (new.id, new.body); END;
         CREATE TRIGGER t_out AFTER DELETE ON ticket BEGIN INSERT INTO search(search, rowid, body) VALUES ('delete', old.id, old.body); END;
         CREATE TABLE scratch(id INTEGER PRIMARY KEY, t TEXT);
         BEGIN",
    )
    .unwrap();
    let me = 150;
    for round in 0..3 {
        for k in 0..200i64 {
            let i = (k * 37 + round * 11) % 200;
            let (number, email, phone, name) = if i == me {
                (NUMBER.to_string(), EMAIL.to_string(), PHONE.to_string(), NAME.to_string())
            } else {
                (
                    format!("{}", 600_000_000 + i),
                    format!("somebody{i}@example.org"),
                    format!("+49170{:08}", 10_000_000 + i),
                    format!("Somebody Ordinary {i}"),
                )
            };
            // Deleted and inserted again, with other lengths around it: the bytes of before stay in gaps and free pages.
            db.execute("DELETE FROM orders WHERE customer = ?1", [i]).unwrap();
            db.execute("DELETE FROM customer WHERE id = ?1", [i]).unwrap();
            db.execute("INSERT INTO customer VALUES (?1, ?2, ?3, ?4, ?5)", (i, &number, &email, &phone, &name)).unwrap();
            for n in 0..(i + round) % 4 + 1 {
                db.execute(
                    "INSERT INTO orders(customer, gift) VALUES (?1, ?2)",
                    (i, format!("for {name}, {email} {}", "x".repeat((n * 90) as usize))),
                )
                .unwrap();
            }
            if i % 5 == 0 {
                let body =
                    format!("{} wrote: call {phone} or {email} about order {number}; {} {}", name, "blah ".repeat((i % 40) as usize), name);
                db.execute("INSERT INTO ticket(body) VALUES (?1)", [&body]).unwrap();
                db.execute("INSERT INTO scratch(t) VALUES (?1)", [body.repeat(5)]).unwrap();
            }
        }
        db.execute("DELETE FROM ticket WHERE id % 3 = ?1", [round]).unwrap();
        db.execute("DELETE FROM scratch", []).unwrap();
    }
    db.execute_batch("INSERT INTO search(search, rank) VALUES ('crisismerge', 2); COMMIT; ANALYZE").unwrap();
}

fn fill(place: &Place) {
    database(place);
    let mut csv = String::from("Name,Email,Note\r\n");
    let mut events = String::new();
    for i in 0..300 {
        let other = format!("somebody{i}@example.org");
        if i % 60 == 7 {
            csv += &format!("{NAME},{},\"\"\"{NAME}\"\" asked\r\nto call {PHONE}\"\r\n", EMAIL.to_uppercase());
            events += &format!("{{\"user\": {{\"id\": {NUMBER}, \"name\": \"{NAME}\"}}, \"text\": \"{NAME} <{EMAIL}>\"}}\n");
        }
        csv +=
            &format!("Somebody {i},{other},{}\r\n", if i % 50 == 3 { format!("friend of {EMAIL} ({NUMBER})") } else { "nothing".into() });
        events += &format!(
            "{{\"user\": {{\"id\": {}, \"name\": \"Somebody\"}}, \"text\": \"{}\"}}\n",
            600_000_000 + i,
            if i % 70 == 9 { format!("mail to {EMAIL}!") } else { "-".into() }
        );
    }
    place.write("signups.csv", &csv);
    place.write("events.ndjson", &events);
    place.write(&format!("uploads/{NUMBER}/cv.txt"), &format!("{NAME}\n{EMAIL}\n{PHONE}\n"));
    place.write(&format!("mail/{}/1.eml", EMAIL.to_lowercase()), &format!("From: {EMAIL}\n\nHello\n"));
    place.write("readme.txt", "nothing about anybody");
}

fn identities() -> String {
    serde_json::json!({"email": EMAIL, "phone": "+49 170 555 01234", "customer_id": NUMBER, "name": NAME}).to_string()
}

#[test]
fn nothing_is_left_anywhere() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = Place::new(CONFIG);
    std::fs::create_dir(place.path("scratch")).unwrap();
    let _scratch = Scratch::new(&place.path("scratch"));
    fill(&place);
    drop(small::init(&place));
    let heard = Arc::new(Heard::default());
    let session = open(&place, &heard);
    for n in 0..3 {
        night(&session, "crm");
        place.advance_hours(24);
        let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
        db.execute_batch(&format!("DELETE FROM orders WHERE id % 23 = {n}; UPDATE customer SET name = name || ' jr' WHERE id % 31 = {n} AND id <> 150; INSERT INTO ticket(body) VALUES ('again {EMAIL} and {NAME}')")).unwrap();
    }
    // The search can fail: before the erasure it finds every value, in data and in names.
    let before = search(&everything(&place, &session, &heard));
    for v in 0..VALUES.len() {
        assert!(before.iter().any(|f| f.starts_with(&format!("utf-8 of value {v} in chunk Data"))), "value {v}: {before:?}");
    }
    assert!(before.iter().any(|f| f.contains("chunk Entries")), "{before:?}");
    let outside = |found: &[String]| found.iter().filter(|f| !f.contains(" in chunk ")).cloned().collect::<Vec<_>>();
    assert_eq!(outside(&before), Vec::<String>::new(), "plaintext at rest");
    let who = subject::one_subject(&session, &identities()).unwrap();
    assert!(!subject::find(&session, &who).unwrap().is_empty());
    let ids = small::ask(&place, &session, &identities());
    let during = search(&everything(&place, &session, &heard));
    assert!(during.iter().any(|f| f.contains("in sealed requests/")), "the open request's identities are kept sealed");
    assert_complete(&propagate(&session, Scope::Full));
    let certified = certificate::make(&session, &ids[0]).unwrap();
    let config = session.dataset_config("crm").unwrap().clone();
    assert_eq!(drill::drill(&session, &config, None).unwrap().verdict, Verdict::Pass);
    assert_verified(&session);
    drop(session);
    let session = open(&place, &heard);
    let mut all = everything(&place, &session, &heard);
    all.insert("certificate".into(), certified.to_string().into_bytes());
    assert!(all.len() > 50);
    assert_eq!(search(&all), Vec::<String>::new());
    assert!(tree(&place.path("scratch")).is_empty(), "{:?}", tree(&place.path("scratch")).keys());
    assert!(std::fs::read_dir(place.path("scratch")).unwrap().next().is_none(), "the temporary folder is not empty");
    // What restores is clean too, and a database that works.
    for (n, listed) in session.repo.heads("crm").unwrap().latest.iter().enumerate() {
        let to = small::restore(&place, &session, &listed.head.archive, &format!("out{n}"));
        let files = tree(&to);
        assert_eq!(search(&files), Vec::<String>::new());
        let names: BTreeMap<String, Vec<u8>> =
            [("names".to_string(), files.keys().cloned().collect::<Vec<_>>().join("\n").into_bytes())].into();
        assert_eq!(search(&names), Vec::<String>::new());
        let path = to.join("data/crm.db");
        assert_eq!(
            small::run(
                "sqlite3",
                &[
                    path.to_str().unwrap(),
                    "PRAGMA integrity_check; INSERT INTO search(search, rank) VALUES('integrity-check', 1); SELECT count(*) FROM customer;"
                ]
            )
            .unwrap()
            .trim(),
            "ok\n199"
        );
        // The words of the text index are gone, and the others are still found.
        let db = rusqlite::Connection::open(&path).unwrap();
        let hits = |q: &str| db.query_row("SELECT count(*) FROM search WHERE search MATCH ?1", [q], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(hits("zaphodiana"), 0);
        assert!(hits("ordinary") > 10);
    }
}

/// A text index over another table, which nobody kept in step: it still has words of texts that were changed or deleted long ago.
#[test]
fn a_text_index_that_was_out_of_step_forgets_too() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for module in ["fts5", "fts4"] {
        let place = Place::new(CONFIG);
        fill(&place);
        {
            let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
            let (using, rowid) = if module == "fts5" {
                ("fts5(body, content='ticket', content_rowid='id')", "rowid")
            } else {
                ("fts4(body, content='ticket')", "docid")
            };
            db.execute_batch(&format!(
                "DROP TRIGGER t_in; DROP TRIGGER t_up; DROP TRIGGER t_out; DROP TABLE search; CREATE VIRTUAL TABLE search USING {using};
                 INSERT INTO search({rowid}, body) SELECT id, body FROM ticket; DELETE FROM ticket WHERE body LIKE '%{PHONE}%' AND id % 2 = 0;
                 UPDATE ticket SET body = 'Zaphodiana has nothing to say ' || id WHERE id % 5 = 1; INSERT INTO ticket(body) VALUES ('ask {NUMBER}')"
            ))
            .unwrap();
        }
        let session = small::init(&place);
        let archive = night(&session, "crm").head.archive;
        small::erase(&place, &session, &identities(), Scope::Full);
        let to = small::restore(&place, &session, &archive, "out");
        let db = rusqlite::Connection::open(to.join("data/crm.db")).unwrap();
        let hits = |q: &str| db.query_row("SELECT count(*) FROM search WHERE search MATCH ?1", [q], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!((hits("hitchhike"), hits(NUMBER), hits("quuxenfeld")), (0, 0, 0), "{module}");
        assert!(hits("ordinary") > 10);
    }
}
