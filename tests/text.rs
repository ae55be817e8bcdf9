//! Searched text through the library: what lies on a database's overflow pages is found in the night in which it came, and records that are
//! larger than the memory allows are kept, said, and never silently passed over.

mod common;

use common::{Place, tree};
use reseal::engine::session::Session;
use reseal::engine::{backup, restore, subject};
use reseal::repository::ArchiveId;

const CONFIG: &str = r#"
memory: 32MiB
datasets:
  crm:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - name: customer
        entry: crm.db
        primary_key: [id]
        on_erase: delete
        fields:
          email: {identity: email, normalize: [trim, lower]}
      - {name: ticket, entry: crm.db, primary_key: [id], on_erase: anonymize, fields: {body: {scan: identities}}}
      - {name: notes, entry: "*.csv", on_erase: anonymize, fields: {note: {scan: identities}}}
"#;

fn night(session: &Session) -> backup::Report {
    backup::backup(session, &session.dataset_config("crm").unwrap().clone(), None).unwrap()
}

/// Records of a collection that are the person's, by archive in the order in which they were made.
fn found(session: &Session, email: &str, collection: &str) -> Vec<(ArchiveId, u64)> {
    let who = subject::one_subject(session, &format!(r#"{{"email": "{email}"}}"#)).unwrap();
    let places = subject::find(session, &who).unwrap();
    places
        .iter()
        .map(|p| {
            assert!(p.failed.is_empty() && p.fell_back.is_empty(), "{p:?}");
            (p.archive, p.collections.get(collection).copied().unwrap_or(0))
        })
        .collect()
}

#[test]
fn a_change_on_overflow_pages_alone_is_found_in_its_night() {
    let place = Place::new(CONFIG);
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE ticket(id INTEGER PRIMARY KEY, body TEXT); BEGIN",
    )
    .unwrap();
    for i in 0..3000 {
        db.execute("INSERT INTO ticket(body) VALUES(?1)", [format!("ticket {i} of user{i}@example.org {}", "text ".repeat(20))]).unwrap();
    }
    let body = |who: &str| format!("{}{who}{}", "before ".repeat(2000), " behind".repeat(800));
    db.execute("INSERT INTO ticket VALUES(5000, ?1)", [body("jane@example.org")]).unwrap();
    db.execute_batch("COMMIT").unwrap();
    let session = place.init();
    let first = night(&session).head.archive;
    db.execute("UPDATE ticket SET body = ?1 WHERE id = 5000", [body("joan@example.org")]).unwrap();
    place.advance_hours(24);
    let second = night(&session).head.archive;
    drop(db);
    assert_eq!(found(&session, "jane@example.org", "ticket"), [(first, 1), (second, 0)]);
    assert_eq!(found(&session, "joan@example.org", "ticket"), [(first, 0), (second, 1)]);
    assert_eq!(found(&session, "user7@example.org", "ticket"), [(first, 1), (second, 1)]);
}

#[test]
fn a_record_larger_than_the_memory_allows_is_kept_as_bytes_and_said() {
    let place = Place::new(CONFIG);
    place.write("small.csv", &format!("id,note\n1,of jane@example.org\n2,\"{}\"\n", "y".repeat(4 << 20 >> 1)));
    place.write("large.csv", &format!("id,note\n1,of jane@example.org\n2,\"secret {}\"\n", "y".repeat(4 << 20)));
    let session = place.init();
    let report = night(&session);
    let [(_, said)] = report.problems.as_slice() else { panic!("{:?}", report.problems) };
    assert!(said.contains("large.csv") && said.contains("record 3 at byte 30") && said.contains("4194304 bytes"), "{said}");
    assert!(!said.contains("secret") && !report.is_partial(), "it is stored, so a warning says it");
    let out = place.path("out");
    restore::restore(&session, &report.head.archive.to_string(), &out, &Default::default()).unwrap();
    assert_eq!(tree(&out.join("data")), tree(&place.path("data")));
    // A search finds what it can, and says where it could not look.
    let who = subject::one_subject(&session, r#"{"email": "jane@example.org"}"#).unwrap();
    let places = subject::find(&session, &who).unwrap();
    let [place] = places.as_slice() else { panic!("{places:?}") };
    assert_eq!(place.collections.get("notes"), Some(&1));
    let [(entry, why)] = place.failed.as_slice() else { panic!("{places:?}") };
    assert!(entry.contains("large.csv") && why.contains("record 3") && !why.contains("secret"), "{why}");
}
