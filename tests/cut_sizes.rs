//! A repository's entries are cut as its `reseal.json` says, whatever a later version would choose for a new one: otherwise its archives would
//! share nothing with what that version adds.

mod common;
#[path = "common/small.rs"]
mod small;

use common::Place;
use reseal::engine::session::Session;

const CONFIG: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - {name: customer, entry: customers.csv, on_erase: delete, fields: {email: {identity: email}}}
"#;

/// Lengths of an entry's pieces.
fn pieces(session: &Session, name: &str) -> Vec<u64> {
    let view = session.view("crm").unwrap();
    let heads = session.heads("crm").unwrap();
    let archive = view.open(&heads.latest[0].head);
    let entry = archive.entries().map(Result::unwrap).find(|e| e.display_path().ends_with(name)).unwrap();
    archive.refs(&entry).unwrap().iter().map(|r| r.len).collect()
}

fn backed_up(init: impl Fn(&Place) -> Session) -> [Vec<u64>; 2] {
    let place = Place::new(CONFIG);
    let text: String = (0..2000).map(|n| format!("user{n}@example.org,{:08x}\n", n * 2_654_435_761u64 % 0xffff_ffff)).collect();
    place.write("customers.csv", &format!("email,note\n{text}"));
    place.write("other.txt", &text);
    let session = init(&place);
    small::night(&session, "crm");
    ["customers.csv", "other.txt"].map(|name| pieces(&session, name))
}

#[test]
fn entries_are_cut_as_the_repository_says() {
    let [records, other] = backed_up(small::init);
    let (all, last) = (records.iter().sum::<u64>(), records.len() - 1);
    assert!(records.len() as u64 > all / 4096 && records[..last].iter().all(|len| (256..=4096 + 64).contains(len)), "{records:?}");
    let (all, last) = (other.iter().sum::<u64>(), other.len() - 1);
    assert!(other.len() as u64 >= all / 16384 && other[..last].iter().all(|len| (1024..=16384).contains(len)), "{other:?}");
    // With the usual sizes one piece holds all of the one, and at most some pieces the other.
    let [records, other] = backed_up(Place::init);
    assert!(records.len() < 5 && other.len() == 1, "{records:?} {other:?}");
}
