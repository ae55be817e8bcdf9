//! A request's life by the clock, and propagations that are cut off, fail or meet the unexpected.

mod common;
#[path = "common/small.rs"]
mod small;

use common::{Place, tree};
use reseal::engine::event::{Event, Verdict};
use reseal::engine::propagate::{Options, Scope, execute, plan};
use reseal::engine::session::Session;
use reseal::engine::{backup, request, restore, verify};
use reseal::policy::{Kind, State, Transition};
use reseal::repository::ArchiveId;
use reseal::store::Store;
use reseal::store::fault::Faulty;
use small::{ask, assert_complete, assert_verified, erase, night, opening, propagate, replace_tree};
use std::sync::Arc;

fn config(erasure: &str) -> String {
    format!(
        r#"
datasets:
  crm:
    source:
      paths: [./data]
    erasure: {{{erasure}}}
    unmapped: preserve
    collections:
      - name: customer
        entry: crm.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {{identity: customer_id}}
          email: {{identity: email, normalize: [trim, lower], action: {{strategy: null_rewrite}}}}
      - {{name: orders, entry: crm.db, on_erase: delete, references: [{{fields: [customer], to: customer}}]}}
      - name: signups
        entry: "*.csv"
        on_erase: delete
        fields: {{Email: {{identity: email, normalize: [trim, lower]}}}}
"#
    )
}

fn fill(place: &Place, people: i64) {
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT); CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT); BEGIN",
    )
    .unwrap();
    let mut csv = String::from("Name,Email\n");
    for i in 0..people {
        db.execute("INSERT INTO customer VALUES (?1, ?2)", (i, format!("person{i}@example.org"))).unwrap();
        db.execute("INSERT INTO orders(customer) VALUES (?1)", [i]).unwrap();
        csv += &format!("Somebody number {i},person{i}@example.org\n");
    }
    db.execute_batch("COMMIT").unwrap();
    place.write("signups.csv", &csv);
}

fn place(erasure: &str) -> (Place, Session) {
    let place = Place::new(&config(erasure));
    fill(&place, 40);
    let session = small::init(&place);
    (place, session)
}

fn email(n: i64) -> String {
    format!("{{\"email\": \"person{n}@example.org\"}}")
}

fn stage(session: &Session, id: &str) -> State {
    session.state().unwrap().request(id).unwrap().stage(session.now())
}

/// (rows of customer 7 that still say who it is, orders of customer 7, its lines in the CSV) of a restored tree.
fn traces(dir: &std::path::Path, n: i64) -> (i64, i64, usize) {
    let db = rusqlite::Connection::open(dir.join("data/crm.db")).unwrap();
    let count = |sql: &str| db.query_row(sql, [n], |r| r.get::<_, i64>(0)).unwrap();
    let csv = std::fs::read_to_string(dir.join("data/signups.csv")).unwrap();
    (
        count("SELECT count(*) FROM customer WHERE id = ?1 AND email IS NOT NULL"),
        count("SELECT count(*) FROM orders WHERE customer = ?1"),
        csv.lines().filter(|l| l.ends_with(&format!(",person{n}@example.org"))).count(),
    )
}

fn restored(place: &Place, session: &Session, archive: &ArchiveId, tag: &str) -> (std::path::PathBuf, usize) {
    let to = place.path(tag);
    let done = restore::restore(session, &archive.to_string(), &to, &Default::default()).unwrap();
    (to, done.replayed.len())
}

#[test]
fn a_subject_request_waits_three_days_and_not_a_second_longer() {
    let (place, session) = place("");
    night(&session, "crm");
    let ids = request::open(&session, &opening(&email(7))).unwrap();
    place.set_time("2026-10-04T00:59:59Z");
    assert_eq!(stage(&session, &ids[0]), State::Waiting);
    assert!(plan(&session, &Options::default()).unwrap().requests.is_empty());
    place.set_time("2026-10-04T01:00:00Z");
    assert_eq!(stage(&session, &ids[0]), State::Due);
    assert_complete(&propagate(&session, Scope::Full));
    assert_eq!(stage(&session, &ids[0]), State::Done);
    // The identities are destroyed.
    assert!(session.repo.list_sealed("requests/").unwrap().is_empty());
}

#[test]
fn a_deletion_waits_sixty_days_and_has_no_deadline() {
    let (place, session) = place("");
    night(&session, "crm");
    let ids = request::open(&session, &request::Opening { kind: Kind::Deletion, ..opening(&email(7)) }).unwrap();
    let r = session.state().unwrap().request(&ids[0]).unwrap().clone();
    assert_eq!((r.deadline, r.clock.due_at.to_string().as_str()), (None, "2026-11-30T01:00:00Z"));
    place.set_time("2026-11-30T00:59:59Z");
    assert!(plan(&session, &Options::default()).unwrap().requests.is_empty());
    assert!(request::step(&session, &ids[0], Transition::Extend { reason: "many requests".into() }).is_err());
    place.set_time("2026-11-30T01:00:00Z");
    assert_complete(&propagate(&session, Scope::Changed));
}

#[test]
fn the_deadline_is_a_calendar_month_from_receipt_and_is_extended_once() {
    let (place, session) = place("");
    place.set_time("2027-01-31T12:00:00Z");
    let ids = request::open(&session, &opening(&email(7))).unwrap();
    let deadline = |s: &Session| s.state().unwrap().request(&ids[0]).unwrap().deadline.unwrap().to_string();
    assert_eq!(deadline(&session), "2027-02-28T12:00:00Z");
    request::step(&session, &ids[0], Transition::Extend { reason: "complex".into() }).unwrap();
    assert_eq!(deadline(&session), "2027-04-30T12:00:00Z");
    assert!(request::step(&session, &ids[0], Transition::Extend { reason: "again".into() }).is_err());
    assert_eq!(deadline(&place.open()), "2027-04-30T12:00:00Z");
    // Received earlier than opened: the clock runs from receipt. In the future: refused.
    let early =
        request::open(&session, &request::Opening { received: Some("2027-01-10T00:00:00Z".parse().unwrap()), ..opening(&email(8)) })
            .unwrap();
    let r = session.state().unwrap().request(&early[0]).unwrap().clone();
    assert_eq!((r.deadline.unwrap().to_string().as_str(), r.stage(session.now())), ("2027-02-10T00:00:00Z", State::Due));
    assert!(
        request::open(&session, &request::Opening { received: Some("2027-02-01T00:00:00Z".parse().unwrap()), ..opening(&email(8)) })
            .is_err()
    );
}

#[test]
fn clocks_that_contradict_the_deadline_are_refused_when_loaded() {
    for bad in [
        "cooling_off: 28d",
        "cooling_off: 1mo",
        "document_lifetime: 2d",
        "document_lifetime: 10000d",
        "deadline: 2mo",
        "cooling_off: 10d, deadline: 10d",
    ] {
        let place = Place::new(&config(bad));
        assert!(reseal::config::load(&place.path("reseal.yaml")).is_err(), "{bad}");
    }
    for good in ["cooling_off: 27d", "document_lifetime: 3d", "document_lifetime: 9999d", "deadline: 2w"] {
        let place = Place::new(&config(good));
        reseal::config::load(&place.path("reseal.yaml")).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
}

#[test]
fn approvals_come_from_different_people() {
    let (place, mut session) = place("approvals: 2");
    night(&session, "crm");
    let ids = ask(&place, &session, &email(7));
    assert_eq!(stage(&session, &ids[0]), State::Open);
    assert!(plan(&session, &Options { now: Some("hurry".into()), requests: ids.clone(), ..Options::default() }).is_err());
    let approve = |s: &Session| request::step(s, &ids[0], Transition::Approve { actor: s.actor.clone() });
    approve(&session).unwrap();
    assert!(approve(&session).is_err());
    // Whatever name is given: the audit log knows who is at the keyboard.
    let _ = request::step(&session, &ids[0], Transition::Approve { actor: "somebody else".into() });
    assert_eq!(stage(&session, &ids[0]), State::Open, "one person approved twice under two names");
    assert!(propagate(&session, Scope::Changed).archives.is_empty());
    session.actor = "second".into();
    approve(&session).unwrap();
    assert_eq!(stage(&session, &ids[0]), State::Due);
    assert_complete(&propagate(&session, Scope::Changed));
}

#[test]
fn a_held_request_is_not_carried_out_until_it_is_released() {
    let (place, session) = place("");
    let made = night(&session, "crm").head.archive;
    let ids = request::open(&session, &opening(&email(7))).unwrap();
    request::step(&session, &ids[0], Transition::Hold { reason: "lawsuit".into() }).unwrap();
    place.advance_hours(24 * 100);
    assert_eq!(stage(&session, &ids[0]), State::Held);
    assert_eq!(propagate(&session, Scope::Changed).started, 0);
    assert!(plan(&session, &Options { requests: ids.clone(), ..Options::default() }).is_err());
    assert_eq!(traces(&restored(&place, &session, &made, "held").0, 7), (1, 1, 1));
    request::step(&session, &ids[0], Transition::Release).unwrap();
    assert_complete(&propagate(&session, Scope::Changed));
    assert_eq!(traces(&restored(&place, &session, &made, "released").0, 7), (0, 0, 0));
}

#[test]
fn cancelling_ends_with_the_waiting_and_destroys_the_identities() {
    let (place, session) = place("");
    night(&session, "crm");
    let a = request::open(&session, &opening(&email(7))).unwrap();
    let b = request::open(&session, &opening(&email(8))).unwrap();
    let c = request::open(&session, &opening(&email(9))).unwrap();
    request::step(&session, &a[0], Transition::Cancel).unwrap();
    request::step(&session, &c[0], Transition::Refuse { ground: "not the person".into() }).unwrap();
    assert_eq!(session.repo.list_sealed("requests/").unwrap(), [format!("requests/{}", b[0])]);
    // The same once more, since no answer came: it is so, and nothing is added.
    let entries = session.ledger().entries().len();
    request::step(&session, &a[0], Transition::Cancel).unwrap();
    request::step(&session, &c[0], Transition::Refuse { ground: "not the person".into() }).unwrap();
    assert!(request::step(&session, &c[0], Transition::Refuse { ground: "another ground".into() }).is_err());
    assert_eq!(session.ledger().entries().len(), entries);
    place.advance_hours(24 * 4);
    assert!(request::step(&session, &b[0], Transition::Cancel).is_err());
    assert!(request::step(&session, &c[0], Transition::Release).is_err());
    let report = propagate(&session, Scope::Changed);
    assert_eq!(report.done, b);
    assert_eq!(stage(&session, &a[0]), State::Cancelled);
    assert_eq!(stage(&session, &c[0]), State::Refused);
}

#[test]
fn nothing_due_changes_nothing() {
    let (place, session) = place("");
    night(&session, "crm");
    let before = tree(&place.path("backups"));
    let report = propagate(&session, Scope::Full);
    assert_eq!((report.started, report.archives.len(), report.exit_code()), (0, 0, 0));
    assert_eq!(tree(&place.path("backups")), before);
}

#[test]
fn a_source_that_was_not_cleaned_is_reported_until_the_officer_says_that_the_person_came_back() {
    let (place, session) = place("");
    night(&session, "crm");
    let ids = ask(&place, &session, &email(7));
    assert_complete(&propagate(&session, Scope::Changed));
    let config = session.dataset_config("crm").unwrap().clone();
    place.advance_hours(1);
    let report = backup::backup(&session, &config, None).unwrap();
    assert_eq!((report.still_live.clone(), report.is_partial()), (ids.clone(), true));
    assert_eq!(traces(&restored(&place, &session, &report.head.archive, "live").0, 7), (1, 1, 1));
    place.advance_hours(1);
    // Nothing of the source changed: it is still there, so it is still said.
    let again = backup::backup(&session, &config, None).unwrap();
    assert_eq!(again.still_live, ids, "a second backup of an unchanged source was silent");
    request::came_back(&session, &ids[0], "a new contract".into()).unwrap();
    place.advance_hours(1);
    let back = backup::backup(&session, &config, None).unwrap();
    assert!(back.still_live.is_empty() && !back.is_partial());
    // Erasing another person leaves the one who came back alone, also where the old request is carried again.
    erase(&place, &session, &email(8), Scope::Full);
    let (dir, replayed) = restored(&place, &session, &back.head.archive, "back");
    assert_eq!((traces(&dir, 7), traces(&dir, 8), replayed), ((1, 1, 1), (0, 0, 0), 0));
}

#[test]
fn a_request_that_never_began_cannot_come_back() {
    let (_place, session) = place("");
    let ids = request::open(&session, &opening(&email(7))).unwrap();
    assert!(request::came_back(&session, &ids[0], "x".into()).is_err());
}

/// Cuts a propagation off at every changing call of the store in turn.
#[test]
fn cut_off_anywhere_it_is_resumed_to_the_end() {
    let (place, session) = place("");
    let mut archives = vec![night(&session, "crm").head.archive];
    place.advance_hours(24);
    place.write("more.csv", "Name,Email\nx,person7@example.org\ny,other@example.org\n");
    archives.push(night(&session, "crm").head.archive);
    let ids = ask(&place, &session, &email(7));
    drop(session);
    let now = place.clock.0.lock().unwrap().to_string();
    replace_tree(&place.path("backups"), &place.path("copy/backups"));
    replace_tree(&place.path("state"), &place.path("copy/state"));
    let mut n = 0;
    loop {
        for part in ["backups", "state"] {
            replace_tree(&place.path("copy").join(part), &place.path(part));
        }
        place.set_time(&now);
        let faulty = Arc::new(Faulty::new(place.store()));
        let session = place.open_with(faulty.clone() as Arc<dyn Store>);
        let planned = plan(&session, &Options::default()).unwrap();
        faulty.fail_from(n);
        let outcome = execute(&session, &planned, &Options::default());
        let reached = faulty.changes() > n;
        drop(session);
        // The lease of the one that was cut off runs out.
        place.advance_hours(1);
        let session = place.open();
        for (i, archive) in archives.iter().enumerate() {
            let (dir, _) = restored(&place, &session, archive, "out");
            let seen = traces(&dir, 7);
            assert!(seen == (1, 1, 1) || seen == (0, 0, 0), "cut off at {n}, archive {i}: {seen:?}");
            assert_eq!(traces(&dir, 8), (1, 1, 1));
            std::fs::remove_dir_all(dir).unwrap();
        }
        // A night in between, as nightly runs do it.
        if n % 5 == 4 && outcome.is_err() {
            let config = session.dataset_config("crm").unwrap().clone();
            backup::backup(&session, &config, None).unwrap();
            place.advance_hours(1);
        }
        let report = propagate(&session, Scope::Changed);
        match &outcome {
            Ok(first) if !reached => assert_eq!((&first.done, report.started), (&ids, 0)),
            // Everything was recorded; only the identities or the lease were left.
            _ if stage(&session, &ids[0]) == State::Done => {}
            _ => panic!("cut off at {n}: {report:#?}"),
        }
        assert_complete(&report);
        for archive in &archives {
            let (dir, replayed) = restored(&place, &session, archive, "out");
            assert_eq!((traces(&dir, 7), traces(&dir, 8), replayed), ((0, 0, 0), (1, 1, 1), 0), "cut off at {n}");
            std::fs::remove_dir_all(dir).unwrap();
        }
        assert_verified(&session);
        session.ledger().check().unwrap();
        assert!(session.repo.heads("crm").unwrap().older.is_empty(), "cut off at {n}: an old generation is still stored");
        let left = session.repo.list_sealed("requests/").unwrap();
        assert!(left.is_empty(), "cut off at {n}: {} sealed identities are left of a request that is done", left.len());
        if !reached {
            break;
        }
        n += 1;
    }
    assert!(n > 10, "only {n} changes");
}

/// A request is cut off; another one is carried to the end, on its own; the first must still be done.
#[test]
fn a_request_carried_out_of_turn_does_not_finish_another() {
    let (place, session) = place("");
    let archive = night(&session, "crm").head.archive;
    let a = ask(&place, &session, &email(7));
    drop(session);
    let faulty = Arc::new(Faulty::new(place.store()));
    let session = place.open_with(faulty.clone() as Arc<dyn Store>);
    let planned = plan(&session, &Options::default()).unwrap();
    // Lease and `started` are written, nothing else.
    faulty.fail_from(2);
    assert!(execute(&session, &planned, &Options::default()).is_err());
    faulty.heal();
    drop(session);
    place.advance_hours(1);
    let session = place.open();
    assert_eq!(stage(&session, &a[0]), State::Propagating);
    let b = ask(&place, &session, &email(8));
    let options = Options { requests: b.clone(), ..Options::default() };
    assert_complete(&execute(&session, &plan(&session, &options).unwrap(), &options).unwrap());
    // The gate still knows that A is outstanding.
    let (dir, replayed) = restored(&place, &session, &archive, "between");
    assert_eq!((traces(&dir, 7), traces(&dir, 8), replayed), ((0, 0, 0), (0, 0, 0), 1));
    let report = propagate(&session, Scope::Full);
    assert_complete(&report);
    assert_eq!(report.done, a);
    let (dir, replayed) = restored(&place, &session, &archive, "after");
    assert_eq!((traces(&dir, 7), traces(&dir, 8), replayed), ((0, 0, 0), (0, 0, 0), 0));
}

/// Does something once, when a phase of this name begins.
struct During(&'static str, std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl During {
    fn of(place: &Place, phase: &'static str, act: impl FnOnce() + Send + 'static) -> Session {
        let mut session = place.open();
        session.env.monitor = Arc::new(During(phase, std::sync::Mutex::new(Some(Box::new(act)))));
        session
    }
}

impl reseal::env::Monitor for During {
    fn phase(&self, name: &str, _: Option<u64>) {
        if name.starts_with(self.0)
            && let Some(act) = self.1.lock().unwrap().take()
        {
            act();
        }
    }
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
    fn detail(&self, _: &str) {}
}

#[test]
fn identities_are_not_added_while_a_propagation_runs() {
    let (place, session) = place("");
    let archive = night(&session, "crm").head.archive;
    let ids = ask(&place, &session, &email(7));
    drop(session);
    let (other, id) = (place.open(), ids[0].clone());
    let running = During::of(&place, "verifying", move || {
        let added = request::add_identities(&other, &id, &email(8));
        assert!(matches!(added, Err(reseal::Error::Locked { .. })), "{added:?}");
    });
    assert_complete(&propagate(&running, Scope::Changed));
    // It is over now, and says so.
    let session = place.open();
    assert!(matches!(request::add_identities(&session, &ids[0], &email(8)), Err(reseal::Error::Refused(_))));
    let (dir, _) = restored(&place, &session, &archive, "out");
    assert_eq!((traces(&dir, 7), traces(&dir, 8)), ((0, 0, 0), (1, 1, 1)));
}

/// A lease can run out: what the ledger says decides.
#[test]
fn a_request_that_was_given_identities_during_its_propagation_is_not_done() {
    let (place, session) = place("");
    night(&session, "crm");
    let ids = ask(&place, &session, &email(7));
    drop(session);
    let (other, id) = (place.open(), ids[0].clone());
    let running = During::of(&place, "verifying", move || {
        let request = other.state().unwrap().request(&id).unwrap().clone();
        other.record(&Event::IdentitiesConfirmed { request: id, datasets: request.datasets }).unwrap();
    });
    let report = propagate(&running, Scope::Changed);
    assert_eq!((&report.partial, report.done.len()), (&ids, 0), "{report:#?}");
    let session = place.open();
    assert_eq!(stage(&session, &ids[0]), State::Partial);
    assert_eq!(session.repo.list_sealed("requests/").unwrap().len(), 1, "they are needed");
    assert_eq!(reseal::engine::certificate::make(&session, &ids[0]).unwrap()["body"]["result"], "UNKNOWN");
    let state = session.state().unwrap();
    let listed = session.heads("crm").unwrap().latest.remove(0);
    assert!(!state.was_processed(&ids[0], &listed.head.archive, &listed.digest));
    let report = propagate(&session, Scope::Changed);
    assert_complete(&report);
    assert_eq!(report.done, ids);
    assert_eq!(reseal::engine::certificate::make(&session, &ids[0]).unwrap()["body"]["result"], "PASS");
}

/// A dataset `notes` besides, with this map.
fn with_notes(map: &str) -> Place {
    let notes = format!("  notes:\n    source:\n      paths: [./notes]\n    unmapped: preserve\n    collections:\n      - {map}\n");
    let place = Place::new(&format!("{}{notes}", config("")));
    fill(&place, 40);
    std::fs::create_dir(place.path("notes")).unwrap();
    std::fs::write(place.path("notes/calls.csv"), "Day,note\n1,call person7@example.org back\n2,call person8@example.org back\n").unwrap();
    place
}

fn not_covered(certificate: &serde_json::Value) -> Vec<String> {
    let listed = certificate["body"]["not_covered"].as_array().unwrap();
    listed.iter().filter_map(|l| l.as_str()).filter(|l| l.starts_with("dataset ")).map(String::from).collect()
}

#[test]
fn a_dataset_of_which_only_text_is_searched_is_not_skipped() {
    let place = with_notes("{name: notes, entry: \"*.csv\", on_erase: anonymize, fields: {note: {scan: identities}}}");
    let session = small::init(&place);
    night(&session, "crm");
    let archive = night(&session, "notes").head.archive;
    let report = erase(&place, &session, &email(7), Scope::Full);
    let certificate = reseal::engine::certificate::make(&session, &report.done[0]).unwrap();
    assert_eq!((&certificate["body"]["result"], not_covered(&certificate).len()), (&"PASS".into(), 0));
    let (dir, _) = restored(&place, &session, &archive, "out");
    let text = std::fs::read_to_string(dir.join("notes/calls.csv")).unwrap();
    assert!(!text.contains("person7") && text.contains("person8@example.org"), "{text}");
}

#[test]
fn a_dataset_that_a_request_is_not_about_is_named_in_its_certificate() {
    // No kind of identity that the request has.
    let place = with_notes("{name: notes, entry: \"*.csv\", on_erase: delete, fields: {Day: {identity: day}}}");
    let session = small::init(&place);
    night(&session, "crm");
    night(&session, "notes");
    let report = erase(&place, &session, &email(7), Scope::Changed);
    let certificate = reseal::engine::certificate::make(&session, &report.done[0]).unwrap();
    assert_eq!(certificate["body"]["result"], "PASS");
    assert_eq!(not_covered(&certificate), ["dataset notes: the request is not about it"]);
}

#[test]
fn a_dataset_with_archives_that_the_configuration_does_not_know_keeps_every_certificate_from_a_pass() {
    let place = with_notes("{name: notes, entry: \"*.csv\", on_erase: delete, fields: {note: {identity: email}}}");
    let session = small::init(&place);
    night(&session, "crm");
    night(&session, "notes");
    drop(session);
    let path = place.path("reseal.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("  notes:\n", "  renamed:\n")).unwrap();
    let session = place.open();
    let report = erase(&place, &session, &email(7), Scope::Changed);
    let certificate = reseal::engine::certificate::make(&session, &report.done[0]).unwrap();
    assert_eq!(certificate["body"]["result"], "UNKNOWN");
    let listed = not_covered(&certificate);
    assert!(listed.len() == 1 && listed[0].starts_with("dataset notes: it has archives"), "{listed:?}");
    // Under its name again, another request is about it.
    std::fs::write(&path, text).unwrap();
    let session = place.open();
    let report = erase(&place, &session, &email(8), Scope::Changed);
    let certificate = reseal::engine::certificate::make(&session, &report.done[0]).unwrap();
    assert_eq!((&certificate["body"]["result"], not_covered(&certificate).len()), (&"PASS".into(), 0));
}

/// One entry of an archive cannot be edited, another can: the archive is re-sealed, and still nobody believes that it is done.
#[test]
fn an_archive_that_was_done_in_part_stays_to_be_done() {
    let (place, session) = place("");
    {
        // Deleting the customer's orders would leave this row dangling, so the database is refused.
        let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE parcel(id INTEGER PRIMARY KEY, o INT REFERENCES orders(id)); INSERT INTO parcel SELECT id, id FROM orders",
        )
        .unwrap();
    }
    let archive = night(&session, "crm").head.archive;
    let ids = ask(&place, &session, &email(7));
    for _ in 0..2 {
        let report = propagate(&session, Scope::Changed);
        assert_eq!((report.partial.clone(), report.done.len()), (ids.clone(), 0), "{report:#?}");
        assert_ne!(report.archives[0].verification, Verdict::Pass);
        assert!(!report.archives[0].left.is_empty());
        // The gate cannot do it either, so nothing is handed out.
        let out = restore::restore(&session, &archive.to_string(), &place.path("out"), &Default::default());
        assert!(out.is_err(), "an archive that still has the person was handed out");
    }
    assert_eq!(stage(&session, &ids[0]), State::Partial);
    assert!(!session.repo.list_sealed("requests/").unwrap().is_empty());
}

/// A request that is still being retried for an old archive has no say in what was backed up since: the person may be a customer again.
#[test]
fn a_retried_request_leaves_later_archives_alone() {
    let (place, session) = place("");
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE parcel(id INTEGER PRIMARY KEY, o INT REFERENCES orders(id)); INSERT INTO parcel SELECT id, id FROM orders",
    )
    .unwrap();
    let old = night(&session, "crm").head.archive;
    let a = ask(&place, &session, &email(7));
    assert_eq!(propagate(&session, Scope::Changed).partial, a);
    request::came_back(&session, &a[0], "a new contract".into()).unwrap();
    db.execute_batch("DROP TABLE parcel").unwrap();
    place.advance_hours(1);
    let new = night(&session, "crm").head.archive;
    let b = ask(&place, &session, &email(8));
    let report = propagate(&session, Scope::Full);
    assert_eq!((report.done.len(), report.partial.len()), (0, 2), "the old archive cannot be done: {report:#?}");
    let outcome = |archive| report.archives.iter().find(|o| o.archive == archive).unwrap();
    assert!(!outcome(old).left.is_empty());
    assert_eq!((outcome(new).verification, outcome(new).left.len()), (Verdict::Pass, 0), "{:#?}", outcome(new));
    assert_eq!(outcome(new).requests.keys().collect::<Vec<_>>(), [&b[0]]);
    let (dir, replayed) = restored(&place, &session, &new, "new");
    assert_eq!((traces(&dir, 7), traces(&dir, 8), replayed), ((1, 1, 1), (0, 0, 0), 0));
}

/// What one archive still has, the other one that shares the piece has too.
#[test]
fn what_is_left_in_a_shared_piece_is_left_in_every_archive() {
    let (place, session) = place("");
    place.write("signups.csv", "Name,Email,Friend\na,person7@example.org,nobody\nb,person8@example.org,person7@example.org\nc,x@y,z\n");
    night(&session, "crm");
    place.advance_hours(24);
    night(&session, "crm");
    ask(&place, &session, &email(7));
    let report = propagate(&session, Scope::Changed);
    assert_eq!(report.archives.len(), 2);
    for a in &report.archives {
        assert_eq!(a.verification, Verdict::Failed, "{a:#?}");
    }
    assert_eq!(report.exit_code(), 4);
}

/// In a database, in JSON and in URLs letters may stand right beside an address without belonging to it.
#[test]
fn an_address_that_no_rule_reaches_is_found_whatever_stands_beside_it() {
    let left_by = |fill: &dyn Fn(&Place)| {
        let (place, session) = place("");
        fill(&place);
        night(&session, "crm");
        ask(&place, &session, &email(7));
        let report = propagate(&session, Scope::Full);
        (report.exit_code(), report.archives[0].verification)
    };
    let other = |text: &str| {
        let text = text.to_string();
        left_by(&move |p: &Place| p.write("other.txt", &text))
    };
    for text in ["x person7@example.org y", r#"{"note":"Hello\nperson7@example.org"}"#, "mailto%3Aperson7%40example.org"] {
        assert_eq!(other(text), (4, Verdict::Failed), "{text}");
    }
    for text in ["superson7@example.org", "jo.person7@example.org", "person7@example.org.uk", "nothing"] {
        assert_eq!(other(text), (0, Verdict::Pass), "{text}");
    }
    // An unmapped table whose columns stand side by side in the file, without anything between.
    let table = left_by(&|p: &Place| {
        let db = rusqlite::Connection::open(p.data("crm.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE log(who TEXT, address TEXT, what TEXT); INSERT INTO log VALUES ('admin', 'person7@example.org', 'login')",
        )
        .unwrap();
    });
    assert_eq!(table, (4, Verdict::Failed), "an unmapped table");
    let decoy = left_by(&|p: &Place| {
        let db = rusqlite::Connection::open(p.data("crm.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE log(who TEXT, address TEXT, what TEXT); INSERT INTO log VALUES ('admin', 'xperson7@example.org', 'login')",
        )
        .unwrap();
    });
    assert_eq!(decoy, (0, Verdict::Pass), "somebody else's address in an unmapped table");
}

/// Long texts go on outside of the pages that tell where a column begins.
#[test]
fn an_address_in_a_long_text_of_a_database_is_judged_by_its_column() {
    for (before, address, verdict) in [
        ("long", "person7@example.org", Verdict::Failed),
        ("long", "xperson7@example.org", Verdict::Pass),
        ("", "person7@example.org", Verdict::Failed),
        ("long", "nobody", Verdict::Pass),
    ] {
        let (place, session) = place("");
        let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
        db.execute_batch("CREATE TABLE log(what TEXT, address TEXT, who TEXT)").unwrap();
        for n in 5990..6010 {
            let row = (if before.is_empty() { String::new() } else { "z".repeat(n) }, address, "a".repeat(9000));
            db.execute("INSERT INTO log VALUES (?1, ?2, ?3)", row).unwrap();
        }
        night(&session, "crm");
        ask(&place, &session, &email(7));
        let report = propagate(&session, Scope::Full);
        assert_eq!(report.archives[0].verification, verdict, "{before} {address}: {:?}", report.archives[0].left);
    }
}

/// What was written cannot be read back as it should be: the old generation stays.
#[test]
fn a_new_generation_that_does_not_read_back_never_replaces_the_old_one() {
    let (place, session) = place("");
    let archive = night(&session, "crm").head.archive;
    let ids = ask(&place, &session, &email(7));
    drop(session);
    let old: std::collections::BTreeSet<String> = tree(&place.path("backups")).into_keys().collect();
    let faulty = Arc::new(Faulty::new(place.store()));
    let session = place.open_with(faulty.clone() as Arc<dyn Store>);
    let known = old.clone();
    faulty.set_tamper(Some(Box::new(move |key, bytes| {
        if key.starts_with("packs/") && !known.contains(key) {
            bytes.iter_mut().for_each(|b| *b ^= 1);
        }
    })));
    let report = execute(&session, &plan(&session, &Options::default()).unwrap(), &Options::default());
    if let Ok(report) = &report {
        assert_eq!(report.partial, ids, "{report:#?}");
    }
    let after: std::collections::BTreeSet<String> = tree(&place.path("backups")).into_keys().collect();
    let gone: Vec<&String> = old
        .iter()
        .filter(|k| (k.starts_with("archives/") || k.starts_with("packs/") || k.starts_with("sheets/")) && !after.contains(*k))
        .collect();
    assert!(gone.is_empty(), "removed although nothing whole was there instead: {gone:?}");
    // The new packs stay broken; the old generation restores, through the gate.
    drop(session);
    place.advance_hours(1);
    let faulty2 = Arc::new(Faulty::new(place.store()));
    let session = place.open_with(faulty2.clone() as Arc<dyn Store>);
    let known = old.clone();
    faulty2.set_tamper(Some(Box::new(move |key, bytes| {
        if key.starts_with("packs/") && !known.contains(key) {
            bytes.iter_mut().for_each(|b| *b ^= 1);
        }
    })));
    let (dir, _) = restored(&place, &session, &archive, "out");
    assert_eq!((traces(&dir, 7), traces(&dir, 8)), ((0, 0, 0), (1, 1, 1)));
    // On a store that is well again everything is completed.
    drop(session);
    place.advance_hours(1);
    let session = place.open();
    let report = propagate(&session, Scope::Full);
    assert_complete(&report);
    assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
}

#[test]
fn every_step_is_in_the_audit_log_without_a_name() {
    let (place, session) = place("");
    night(&session, "crm");
    let ids = ask(&place, &session, &email(7));
    assert_complete(&propagate(&session, Scope::Changed));
    let ledger = session.ledger();
    ledger.check().unwrap();
    let events: Vec<Event> = ledger.entries().iter().map(|e| e.body().unwrap()).collect();
    let all = format!("{events:?}");
    assert!(!all.contains("person7") && !all.contains("example.org"));
    let order: Vec<&str> = events
        .iter()
        .filter_map(|e| match e {
            Event::ArchiveSealed { .. } => Some("sealed"),
            Event::RequestOpened { request, .. } if *request == ids[0] => Some("opened"),
            Event::PropagationStarted { .. } => Some("started"),
            Event::ArchiveResealed { .. } => Some("resealed"),
            Event::PropagationFinished { .. } => Some("finished"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["sealed", "opened", "started", "resealed", "finished"]);
    assert!(ledger.entries().iter().all(|e| e.actor == "tester"));
}

/// Orders refer to customers, and are called otherwise in an older archive.
const RENAMED: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    erasure: {ERASURE}
    unmapped: preserve
    collections:
      - name: customers
        entry: crm.db
        primary_key: [id]
        on_erase: delete
        fields: {id: {identity: customer_id}, email: {identity: email, normalize: [trim, lower]}}
      - {name: orders, entry: crm.db, on_erase: delete, references: [REFERENCES]}
"#;

fn renamed(schema: &str, erasure: &str, references: &str) -> (Place, Session) {
    let place = Place::new(&RENAMED.replace("ERASURE", erasure).replace("REFERENCES", references));
    let db = rusqlite::Connection::open(place.data("crm.db")).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT); {schema};
         INSERT INTO customers VALUES (6, 'person6@example.org'), (7, 'person7@example.org')"
    ))
    .unwrap();
    let session = small::init(&place);
    night(&session, "crm");
    ask(&place, &session, &email(7));
    (place, session)
}

const BY_NUMBER: &str = "{fields: [customer_id], to: customers}";
const OLD_COLUMN: &str = "CREATE TABLE orders(id INTEGER PRIMARY KEY, cust_id INT); INSERT INTO orders(cust_id) VALUES (6), (7), (7)";

#[test]
fn a_reference_that_an_older_archive_calls_otherwise_is_never_a_pass() {
    let old_table = "CREATE TABLE purchases(id INTEGER PRIMARY KEY, customer_id INT); INSERT INTO purchases(customer_id) VALUES (7)";
    for (schema, named) in [(OLD_COLUMN, "column customer_id of table orders"), (old_table, "table orders")] {
        let (_place, session) = renamed(schema, "", BY_NUMBER);
        // However often: the record that leads to the others must not be gone by then.
        for _ in 0..2 {
            let report = propagate(&session, Scope::Changed);
            let archive = &report.archives[0];
            assert_eq!((archive.verification, report.exit_code(), report.done.len()), (Verdict::Unknown, 3, 0), "{schema}");
            assert!(archive.left.iter().any(|l| l.contains("crm.db") && l.contains(named)), "{:?}", archive.left);
        }
    }
}

#[test]
fn a_column_under_both_its_names_is_found_by_either() {
    let both = format!("{BY_NUMBER}, {{fields: [cust_id], to: customers}}");
    let (place, session) = renamed(OLD_COLUMN, "", &both);
    let report = propagate(&session, Scope::Changed);
    assert_eq!((report.archives[0].verification, report.exit_code()), (Verdict::Pass, 0), "{:?}", report.archives[0].left);
    let (out, _) = restored(&place, &session, &report.archives[0].archive, "out");
    let db = rusqlite::Connection::open(out.join("data/crm.db")).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM orders", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn a_table_that_an_archive_does_not_have_is_noted() {
    let other = "CREATE TABLE log(line TEXT)";
    let (_place, session) = renamed(other, "", BY_NUMBER);
    let report = propagate(&session, Scope::Changed);
    let archive = &report.archives[0];
    assert_eq!((archive.verification, report.exit_code()), (Verdict::Pass, 0), "{:?}", archive.left);
    assert!(archive.notes.iter().any(|n| n.contains("crm.db") && n.contains("table orders")), "{:?}", archive.notes);
}

#[test]
fn nothing_is_handed_out_while_a_renamed_column_may_lead_to_the_erased() {
    let (place, session) = renamed(OLD_COLUMN, "mode: replay", BY_NUMBER);
    let archive = propagate(&session, Scope::Changed).archives[0].archive.to_string();
    let Err(e) = restore::restore(&session, &archive, &place.path("out"), &Default::default()) else { panic!("it was handed out") };
    assert!(e.to_string().contains("column customer_id of table orders"), "{e}");
    assert!(!place.path("out/data").exists());
}

/// A line that is no JSON has no tokens, and stays as it is.
#[test]
fn a_person_in_a_line_that_cannot_be_read_is_never_a_pass() {
    let config = "datasets:\n  crm:\n    source: {paths: [./data]}\n    unmapped: preserve\n    collections:\n      - name: events\n        entry: \"*.ndjson\"\n        on_erase: delete\n        fields: {email: {identity: email, normalize: [trim, lower]}}\n";
    let lines = |broken: &str| {
        let good: String = (100..300).map(|i| format!("{{\"email\":\"person{i}@example.org\",\"n\":{i}}}\n")).collect();
        format!("{good}{broken}\n{good}")
    };
    let left = r#"{"email":"person7@example.org","score":NaN}"#;
    let others = r#"{"email":"person8@example.org","score":NaN}"#;
    for (broken, verdict, code) in [(left, Verdict::Failed, 4), (others, Verdict::Pass, 0)] {
        let place = Place::new(config);
        place.write("events.ndjson", &lines(broken));
        let session = small::init(&place);
        let crm = session.dataset_config("crm").unwrap().clone();
        backup::backup(&session, &crm, None).unwrap();
        ask(&place, &session, &email(7));
        let report = propagate(&session, Scope::Changed);
        let archive = &report.archives[0];
        assert_eq!((archive.verification, report.exit_code()), (verdict, code), "{broken}: {:?} {:?}", archive.left, archive.notes);
        assert!(
            archive.left.iter().chain(&archive.notes).any(|t| t.contains("events.ndjson") && t.contains("could not be read")),
            "{broken}"
        );
        if verdict == Verdict::Failed {
            // And it stays so.
            assert_eq!(propagate(&session, Scope::Changed).archives[0].verification, Verdict::Failed, "{broken}");
        }
    }
}

/// The person is named by name and birthday; the one CSV refers to the other.
const NAMED_BY_TWO: &str = r#"
datasets:
  crm:
    source:
      paths: [./data]
    unmapped: preserve
    collections:
      - name: people
        entry: people.csv
        primary_key: [id]
        on_erase: delete
        identities: [{name: person, fields: [last, born]}]
      - {name: visits, entry: visits.csv, on_erase: delete, references: [{fields: [visitor], to: people}]}
      - name: guests
        entry: guests.csv
        on_erase: delete
        identities: [{name: person, fields: [last, born]}]
"#;

#[test]
fn renamed_columns_of_text_files_are_never_a_pass_either() {
    let fine = ("visitor,day\n7,1\n", "last,born\nDoe,1970-01-01\n");
    let refers = ("person,day\n7,1\n", fine.1);
    let composite = (fine.0, "last,birthday\nDoe,1970-01-01\n");
    let cases =
        [(fine, Verdict::Pass, 0, ""), (refers, Verdict::Unknown, 3, "column visitor"), (composite, Verdict::Unknown, 3, "column born")];
    for ((visits, guests), verdict, code, named) in cases {
        let place = Place::new(NAMED_BY_TWO);
        place.write("people.csv", "id,last,born\n6,Roe,1971-01-01\n7,Doe,1970-01-01\n");
        place.write("visits.csv", visits);
        place.write("guests.csv", guests);
        let session = small::init(&place);
        night(&session, "crm");
        ask(&place, &session, r#"{"person": ["Doe", "1970-01-01"]}"#);
        for _ in 0..2 {
            let report = propagate(&session, Scope::Changed);
            let Some(archive) = report.archives.first() else { break };
            assert_eq!((archive.verification, report.exit_code()), (verdict, code), "{named}: {:?} {:?}", archive.left, archive.notes);
            assert!(named.is_empty() || archive.left.iter().any(|l| l.contains(".csv") && l.contains(named)), "{:?}", archive.left);
        }
    }
}
