//! The main job through the library: nights of backups, a request, propagation into every archive, proof, restore.

mod common;

use common::{Place, tree};
use reseal::engine::event::Verdict;
use reseal::engine::propagate::{Options, Scope, execute, plan};
use reseal::engine::{backup, certificate, drill, gate, request, restore, rotate, subject, verify};
use reseal::policy::Kind;

const CONFIG: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    retention: {max_archives: 5, min_archives: 2}
    drill: {every: 7d, checks: [{sql: "select count(*) from customer", min: 1, entry: crm.db}]}
    unmapped: preserve
    collections:
      - name: customer
        entry: crm.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {identity: customer_id}
          email: {identity: email, normalize: [trim, lower], action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}}
          name: {action: {strategy: null_rewrite}}
      - name: orders
        entry: crm.db
        on_erase: delete
        references: [{fields: [customer_id], to: crm.customer, to_fields: [id], direction: from}]
      - name: signups
        entry: "*.csv"
        on_erase: delete
        fields: {Email: {identity: email, normalize: [trim, lower]}}
      - name: events
        entry: "*.ndjson"
        on_erase: delete
        fields: {user.id: {identity: customer_id}}
      - name: avatars
        entry: "data/uploads/{customer_id}/**"
        on_erase: delete
"#;

fn person(n: i64) -> (i64, String, String) {
    (n, format!("person{n}@example.org"), format!("Person Number{n}"))
}

fn fill(place: &Place, people: i64) {
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(
        "PRAGMA secure_delete=OFF; CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, city TEXT);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer(id), cents INT); BEGIN",
    )
    .unwrap();
    let mut csv = String::from("Name,Email,When\r\n");
    let mut events = String::new();
    for i in 1..=people {
        let (id, email, name) = person(i);
        db.execute("INSERT INTO customer VALUES (?1, ?2, ?3, 'Berlin')", (id, &email, &name)).unwrap();
        for k in 0..3 {
            db.execute("INSERT INTO orders(customer_id, cents) VALUES (?1, ?2)", (id, k * 100)).unwrap();
        }
        csv += &format!("\"{name}\",{},2026-01-01\r\n", email.to_uppercase());
        events += &format!("{{\"user\": {{\"id\": {id}}}, \"page\": \"/p/{i}\"}}\n");
        if i % 50 == 0 {
            place.write(&format!("uploads/{id}/avatar.svg"), &format!("<svg>{name}</svg>"));
        }
    }
    db.execute_batch("COMMIT").unwrap();
    place.write("signups.csv", &csv);
    place.write("events.ndjson", &events);
    place.write("notes/readme.txt", "nothing about anybody");
}

fn night(place: &Place, n: i64) {
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute("INSERT INTO orders(customer_id, cents) VALUES (?1, ?2)", (n, n * 7)).unwrap();
    drop(db);
    let mut csv = std::fs::read_to_string(place.data("signups.csv")).unwrap();
    csv += &format!("Late {n},late{n}@example.org,2026-02-02\r\n");
    place.write("signups.csv", &csv);
}

#[test]
fn a_person_leaves_every_archive_and_nothing_else_does() {
    let place = Place::new(CONFIG);
    fill(&place, 2000);
    let session = place.init();
    let config = session.dataset_config("crm").unwrap().clone();
    let mut sources = Vec::new();
    for n in 0..4 {
        if n > 0 {
            night(&place, n);
            place.advance_hours(24);
        }
        let report = backup::backup(&session, &config, None).unwrap();
        assert!(!report.is_partial(), "{:?}", report.problems);
        assert_eq!(report.problems.len(), 0, "{:?}", report.problems);
        sources.push((report.head.archive, tree(&place.path("data"))));
    }
    let identities = r#"{"email": "Person50@example.org"}"#;
    let who = subject::one_subject(&session, identities).unwrap();
    let places = subject::find(&session, &who).unwrap();
    assert_eq!(places.len(), 4);
    for p in &places {
        assert_eq!(p.collections.get("customer"), Some(&1), "{p:?}");
        assert_eq!(p.collections.get("orders"), Some(&3), "{p:?}");
        assert_eq!(p.collections.get("signups"), Some(&1), "{p:?}");
        assert_eq!(p.collections.get("events"), Some(&1), "{p:?}");
        assert_eq!(p.collections.get("avatars"), Some(&2), "{p:?}");
        assert!(p.failed.is_empty() && p.fell_back.is_empty(), "{p:?}");
    }
    let opening =
        request::Opening { identities: identities.into(), datasets: vec![], kind: Kind::SubjectRequest, received: None, reason: None };
    let ids = request::open(&session, &opening).unwrap();
    let options = Options::default();
    let early = plan(&session, &options).unwrap();
    assert!(early.requests.is_empty() && early.waiting.len() == 1);
    place.advance_hours(24 * 4);
    let planned = plan(&session, &options).unwrap();
    assert_eq!(planned.requests.len(), 1);
    let report = execute(&session, &planned, &Options { scope: Scope::Full, ..Options::default() }).unwrap();
    for a in &report.archives {
        assert_eq!(a.verification, Verdict::Pass, "{a:?}");
        assert!(a.left.is_empty(), "{a:?}");
        assert_eq!(a.after.0, 2, "{a:?}");
    }
    assert_eq!(report.gone, Verdict::Pass);
    assert_eq!(report.done, ids);
    let certified = certificate::make(&session, &ids[0]).unwrap();
    assert_eq!(certified["body"]["result"], "PASS", "{certified:#}");
    let checked = certificate::check(&certified.to_string(), Some(&session)).unwrap();
    assert_eq!((checked.ours, checked.in_chain), (Some(true), Some(true)));
    // Every archive restores to what a plain edit of the source would have left.
    for (i, (archive, before)) in sources.iter().enumerate() {
        let to = place.path(&format!("out{i}"));
        let done = restore::restore(&session, &archive.to_string(), &to, &Default::default()).unwrap();
        assert!(done.replayed.is_empty());
        let after = tree(&to.join("data"));
        let mut expected = before.clone();
        expected.retain(|name, _| !name.starts_with("uploads/50/"));
        assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(!to.join("data/uploads/50").exists());
        for (name, bytes) in &expected {
            match name.as_str() {
                "crm.db" => compare_databases(&to.join("data/crm.db"), bytes, &place.path("naive.db")),
                "signups.csv" | "events.ndjson" => {
                    let kept: Vec<&[u8]> = bytes
                        .split_inclusive(|b| *b == b'\n')
                        .filter(|l| {
                            let l = String::from_utf8_lossy(l);
                            !l.contains("PERSON50@EXAMPLE.ORG") && !l.contains("\"id\": 50}")
                        })
                        .collect();
                    assert!(after[name] == kept.concat(), "{name}");
                }
                _ => assert!(after[name] == *bytes, "{name}"),
            }
        }
    }
    for c in verify::verify(&session, &[], 1.0).unwrap() {
        assert_eq!(c.verdict, Verdict::Pass, "{c:?}");
    }
    let drilled = drill::drill(&session, &config, None).unwrap();
    assert_eq!(drilled.verdict, Verdict::Pass, "{drilled:?}");
    let rotated = rotate::rotate(&session, &config, false).unwrap();
    assert_eq!(rotated.gone, Verdict::Pass);
}

fn compare_databases(restored: &std::path::Path, source: &[u8], scratch: &std::path::Path) {
    let bytes = std::fs::read(restored).unwrap();
    for needle in ["person50@example.org", "Person Number50\0"] {
        let needle = needle.trim_end_matches('\0').as_bytes();
        let found = bytes.windows(needle.len()).filter(|w| w.eq_ignore_ascii_case(needle)).count();
        assert!(found == 0 || needle.starts_with(b"Person"), "residue");
    }
    std::fs::write(scratch, source).unwrap();
    let naive = rusqlite::Connection::open(scratch).unwrap();
    naive
        .execute_batch("PRAGMA foreign_keys=OFF; DELETE FROM orders WHERE customer_id=50; UPDATE customer SET name=NULL WHERE id=50")
        .unwrap();
    let rows = |path: &std::path::Path, sql: &str| -> Vec<Vec<rusqlite::types::Value>> {
        let db = rusqlite::Connection::open(path).unwrap();
        let mut q = db.prepare(sql).unwrap();
        let n = q.column_count();
        q.query_map([], |r| (0..n).map(|i| r.get(i)).collect()).unwrap().collect::<Result<_, _>>().unwrap()
    };
    drop(naive);
    for sql in [
        "SELECT * FROM orders ORDER BY id",
        "SELECT id, name, city FROM customer ORDER BY id",
        "SELECT id, email FROM customer WHERE id <> 50 ORDER BY id",
    ] {
        assert_eq!(rows(restored, sql), rows(scratch, sql), "{sql}");
    }
    let ok = rows(restored, "PRAGMA integrity_check");
    assert_eq!(ok, vec![vec![rusqlite::types::Value::Text("ok".into())]]);
}

#[test]
fn an_old_generation_put_back_is_cleaned_by_the_gate_or_refused() {
    let place = Place::new(CONFIG);
    fill(&place, 100);
    let session = place.init();
    let config = session.dataset_config("crm").unwrap().clone();
    backup::backup(&session, &config, None).unwrap();
    let before = tree(&place.path("backups"));
    let opening = request::Opening {
        identities: r#"{"email": "person50@example.org"}"#.into(),
        datasets: vec![],
        kind: Kind::SubjectRequest,
        received: None,
        reason: None,
    };
    request::open(&session, &opening).unwrap();
    place.advance_hours(24 * 4);
    let options = Options::default();
    let report = execute(&session, &plan(&session, &options).unwrap(), &options).unwrap();
    assert_eq!(report.partial.len(), 0, "{report:?}");
    // Somebody puts the old packs, sheets and head back, beside the newer ledger.
    for (name, bytes) in &before {
        if name.starts_with("packs/") || name.starts_with("sheets/") || name.starts_with("archives/") {
            std::fs::write(place.path("backups").join(name), bytes).unwrap();
        }
    }
    for e in std::fs::read_dir(place.path("backups/archives/crm")).unwrap() {
        let e = e.unwrap();
        if e.file_name().to_string_lossy().ends_with(".2") {
            std::fs::remove_file(e.path()).unwrap();
        }
    }
    let session = place.open();
    let out = place.path("out");
    let result = restore::restore(&session, "crm@latest", &out, &Default::default());
    match result {
        Err(e) => assert_eq!(e.exit_code(), 6, "{e}"),
        Ok(_) => panic!("an old generation was restored as if nothing had happened"),
    }
    // Seen by a ledger that only knows the erasure (a copy imported elsewhere), the gate replays it.
    let heads = session.repo.heads("crm").unwrap();
    let view = session.view("crm").unwrap();
    let gated = gate::pass(&session, &view, &heads.latest[0], None).unwrap();
    assert_eq!(gated.replayed.len(), 1);
    assert!(!gated.edit.is_empty());
}

#[test]
fn an_address_that_goes_over_pages_of_an_unmapped_text_is_found_by_a_full_search() {
    let place = Place::new(CONFIG);
    fill(&place, 20);
    // Every offset of the address against the ends of overflow pages, in a database that no collection names.
    let db = rusqlite::Connection::open(place.data("other.db")).unwrap();
    db.execute_batch("PRAGMA page_size=512; VACUUM; CREATE TABLE note(body TEXT)").unwrap();
    db.execute("INSERT INTO note VALUES (?1)", [format!("{} person7@example.org {}", "x".repeat(480 + 508 - 25), "y".repeat(2000))])
        .unwrap();
    drop(db);
    let raw = std::fs::read(place.data("other.db")).unwrap();
    let whole = raw.windows(19).any(|w| w == b"person7@example.org");
    let session = place.init();
    backup::backup(&session, session.dataset_config("crm").unwrap(), None).unwrap();
    let opening = request::Opening {
        identities: r#"{"email": "person7@example.org"}"#.into(),
        datasets: vec![],
        kind: Kind::SubjectRequest,
        received: None,
        reason: None,
    };
    request::open(&session, &opening).unwrap();
    place.advance_hours(24 * 4);
    let options = Options { scope: Scope::Full, ..Options::default() };
    let report = execute(&session, &plan(&session, &options).unwrap(), &options).unwrap();
    assert_eq!(report.archives[0].verification, Verdict::Failed, "whole in the bytes: {whole}; {:?}", report.archives[0]);
    assert_eq!(report.exit_code(), 4);
}
