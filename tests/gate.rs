//! Archives that an erasure never reached: put back from a copy, or made elsewhere. Whatever leaves the repository, the erased person is not in it.

mod common;
#[path = "common/small.rs"]
mod small;

use common::{Place, tree};
use reseal::engine::event::{Event, Verdict};
use reseal::engine::gate::Bypass;
use reseal::engine::propagate::Scope;
use reseal::engine::session::Session;
use reseal::engine::{backup, drill, export, restore, verify};
use reseal::repository::ArchiveId;
use serde_json::{Value, json};
use small::{copy_tree, erase, night, oracle, propagate};

const CONFIG: &str = include_str!("oracle.yaml");
const KNOBS: &str = r#"{"people": 40, "delimiter": ";", "crlf": true, "bom": true, "indexed": true, "page_size": 1024, "encoding": "UTF-8", "auto_vacuum": 0}"#;

fn start() -> (Place, Session) {
    start_with("")
}

fn start_with(erasure: &str) -> (Place, Session) {
    let place = Place::new(&CONFIG.replace("    unmapped:", &format!("    erasure: {{{erasure}}}\n    unmapped:")));
    oracle(&["gen", place.path("data").to_str().unwrap(), "5", KNOBS]).unwrap();
    let session = small::init(&place);
    (place, session)
}

/// Three people, each named in another way.
fn people(place: &Place) -> Value {
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    let row = |n: i64| {
        db.query_row("SELECT email, last, born FROM person WHERE id = ?1", [100_000 + n], |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?))
        })
        .unwrap()
    };
    json!([{"email": row(3).0.trim()}, {"person": [row(9).1, row(9).2]}, {"customer_id": "100017", "email": row(17).0.trim()}])
}

/// A second place with a copy of the repository, as it is now, and its own data.
fn twin(place: &Place) -> Place {
    let other = Place::new(CONFIG);
    for part in ["backups", "state", "data"] {
        small::replace_tree(&place.path(part), &other.path(part));
    }
    other.set_time(&place.clock.0.lock().unwrap().to_string());
    other
}

/// Brings the archive objects that `from` has and `to` does not.
fn import(from: &Place, to: &Place) -> usize {
    let (theirs, ours) = (tree(&from.path("backups")), tree(&to.path("backups")));
    let new: Vec<_> = theirs
        .iter()
        .filter(|(k, _)| (k.starts_with("packs/") || k.starts_with("sheets/") || k.starts_with("archives/")) && !ours.contains_key(*k))
        .collect();
    for (key, bytes) in &new {
        let path = to.path("backups").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    new.len()
}

fn fits(place: &Place, source: &Place, passes: &Value, restored: &str) {
    oracle(&[
        "check",
        source.path("data").to_str().unwrap(),
        place.path(restored).join("data").to_str().unwrap(),
        &passes.to_string(),
        KNOBS,
    ])
    .unwrap_or_else(|said| panic!("{said}"));
}

/// An archive made on a copy of the repository while the erasure ran in the original.
fn imported(bump: usize) -> (Place, Place, Session, ArchiveId, Value) {
    let (place, session) = start();
    // The keys are the same, and nothing is shared: what an erasure destroys here is whole there.
    session.repo.create_dataset("all").unwrap();
    let other = twin(&place);
    night(&session, "all");
    let people = people(&place);
    let there = other.open();
    other.advance_hours(1);
    for _ in 0..bump {
        // The other ledger grows: numbers in it say nothing about ours.
        verify::verify(&there, &[], 0.0).unwrap();
    }
    oracle(&["night", other.path("data").to_str().unwrap(), "5", "1", KNOBS]).unwrap();
    let archive = night(&there, "all").head.archive;
    erase(&place, &session, &people.to_string(), Scope::Full);
    drop(session);
    assert!(import(&other, &place) >= 3);
    let session = place.open();
    (place, other, session, archive, people)
}

#[test]
fn an_archive_made_elsewhere_is_handed_out_without_the_erased() {
    for bump in [0, 12] {
        let (place, other, session, archive, people) = imported(bump);
        let done = restore::restore(&session, &archive.to_string(), &place.path("out"), &Default::default()).unwrap();
        assert_eq!(done.replayed.len(), 3, "with a foreign ledger of {bump} more entries");
        fits(&place, &other, &json!([people]), "out");
        // As a tar stream too.
        let mut tar = Vec::new();
        export::export(&session, &archive.to_string(), &[], None, &mut tar).unwrap();
        tar::Archive::new(tar.as_slice()).unpack(place.path("tar")).unwrap();
        fits(&place, &other, &json!([people]), "tar");
        // And file by file.
        let options = restore::Options { paths: vec!["data/signups.csv".into()], ..Default::default() };
        restore::restore(&session, &archive.to_string(), &place.path("part"), &options).unwrap();
        assert_eq!(std::fs::read(place.path("part/data/signups.csv")).unwrap(), std::fs::read(place.path("out/data/signups.csv")).unwrap());
        // And in a drill.
        let config = session.dataset_config("all").unwrap().clone();
        let drilled = drill::drill(&session, &config, Some(&archive.to_string())).unwrap();
        assert_eq!(drilled.verdict, Verdict::Pass, "{drilled:?}");
    }
}

#[test]
fn the_next_erasure_cleans_what_was_imported() {
    let (place, other, session, archive, people) = imported(12);
    let db = rusqlite::Connection::open(other.data("crm.db")).unwrap();
    let email: String = db.query_row("SELECT email FROM person WHERE id = 100030", [], |r| r.get(0)).unwrap();
    let next = json!([{"email": email.trim()}]);
    erase(&place, &session, &next.to_string(), Scope::Full);
    // The new erasure is in the archive; the old ones are done, so they are still the gate's.
    let done = restore::restore(&session, &archive.to_string(), &place.path("out"), &Default::default()).unwrap();
    assert_eq!(done.replayed.len(), 3);
    fits(&place, &other, &json!([next, people]), "out");
}

/// Archives that may not be changed keep the person; nobody gets to see it.
#[test]
fn an_archive_left_to_the_gate_is_cleaned_on_the_way_out_or_shown_to_two() {
    let (place, session) = start_with("mode: replay");
    let archive = night(&session, "all").head.archive;
    let people = people(&place);
    small::ask(&place, &session, &people.to_string());
    let report = propagate(&session, Scope::Full);
    assert_eq!((report.done.len(), report.exit_code()), (0, 3));
    let to = |name: &str, options: &restore::Options| restore::restore(&session, &archive.to_string(), &place.path(name), options);
    assert_eq!(to("out", &Default::default()).unwrap().replayed.len(), 3);
    fits(&place, &place, &json!([people]), "out");
    let pass = |approver: &str, reason: &str| {
        to("raw", &restore::Options { bypass: Some(Bypass { reason: reason.into(), approver: approver.into() }), ..Default::default() })
    };
    for (approver, reason) in [
        ("tester", "court order"),
        ("", "court order"),
        ("  ", "court order"),
        ("officer", ""),
        ("officer", " "),
        (" Tester ", "court order"),
    ] {
        assert!(pass(approver, reason).is_err(), "{approver:?} {reason:?}");
        assert!(!place.path("raw").join("data").exists());
    }
    let skipped = |s: &Session| {
        let events: Vec<Event> = s.ledger().entries().iter().map(|e| e.body().unwrap()).collect();
        events.into_iter().filter(|e| matches!(e, Event::GateSkipped { .. })).collect::<Vec<_>>()
    };
    assert!(skipped(&session).is_empty());
    assert_eq!(pass("officer", "court order").unwrap().replayed.len(), 0);
    let [Event::GateSkipped { archive: named, reason, approver, .. }] = &skipped(&session)[..] else { panic!() };
    assert_eq!((*named, reason.as_str(), approver.as_str()), (archive, "court order", "officer"));
    fits(&place, &place, &json!([]), "raw");
    // A backup of the unchanged source still has them, and says so.
    place.advance_hours(1);
    let config = session.dataset_config("all").unwrap().clone();
    assert_eq!(backup::backup(&session, &config, None).unwrap().still_live.len(), 3, "unchanged pieces were taken over in silence");
}

#[test]
fn old_generations_put_back_are_not_handed_out() {
    let (place, session) = start();
    let archive = night(&session, "all").head.archive;
    copy_tree(&place.path("backups"), &place.path("copy"));
    let people = people(&place);
    erase(&place, &session, &people.to_string(), Scope::Changed);
    drop(session);
    // Packs, sheets and heads of the copy over the newer ones; the newer heads go, the ledger stays, and nobody remembers anything.
    for part in ["packs", "sheets", "archives"] {
        small::replace_tree(&place.path("copy").join(part), &place.path("backups").join(part));
    }
    std::fs::remove_dir_all(place.path("state")).unwrap();
    let session = place.open();
    let config = session.dataset_config("all").unwrap().clone();
    let id = archive.to_string();
    for (what, code) in [
        ("restore", restore::restore(&session, &id, &place.path("out"), &Default::default()).err().map(|e| e.exit_code())),
        ("latest", restore::restore(&session, "all@latest", &place.path("out"), &Default::default()).err().map(|e| e.exit_code())),
        ("export", export::export(&session, &id, &[], None, std::io::sink()).err().map(|e| e.exit_code())),
        ("drill", drill::drill(&session, &config, None).err().map(|e| e.exit_code())),
        ("verify", verify::verify(&session, std::slice::from_ref(&id), 0.0).err().map(|e| e.exit_code())),
    ] {
        assert_eq!(code, Some(6), "{what}");
    }
    assert!(!place.path("out").join("data").exists());
    let all = verify::verify(&session, &[], 0.0).unwrap();
    assert!(all.iter().any(|c| c.verdict == Verdict::Failed), "{all:?}");
    // The next backup of a cleaned source does not bring anybody back either.
    place.advance_hours(1);
    let report = backup::backup(&session, &config, None).unwrap();
    assert_eq!(report.still_live.len(), 3, "the source still has them");
    // An erasure meets the archive that it cannot trust, and does not call itself done.
    small::ask(&place, &session, r#"{"customer_id": "100030"}"#);
    let report = propagate(&session, Scope::Changed);
    assert!(report.done.is_empty() && report.exit_code() != 0, "{report:#?}");
}

#[test]
fn an_older_ledger_put_back_is_noticed() {
    let (place, session) = start();
    night(&session, "all");
    copy_tree(&place.path("backups"), &place.path("copy"));
    let people = people(&place);
    erase(&place, &session, &people.to_string(), Scope::Changed);
    drop(session);
    small::replace_tree(&place.path("copy"), &place.path("backups"));
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.open()));
    assert!(refused.is_err(), "a repository from before the erasure was opened as if nothing had happened");
}
