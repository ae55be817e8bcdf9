//! Repositories made by earlier versions, never changed since: every later version lists, restores, verifies and continues them.
//! `cargo test --test golden make_golden -- --ignored` makes a new one, in a folder that must not exist yet; the old ones stay.

mod common;

use common::{TestClock, described};
use reseal::catalog::Catalog;
use reseal::config;
use reseal::crypto::kdf::KdfParams;
use reseal::crypto::secret::Secret;
use reseal::engine::event::Verdict;
use reseal::engine::propagate::{Options, Scope, execute, plan};
use reseal::engine::session::Session;
use reseal::engine::{backup, certificate, request, restore, subject, verify};
use reseal::env::{Env, Silent, Stop, SystemRandom};
use reseal::policy::Kind;
use reseal::repository::{InitOptions, Location, Repository};
use reseal::store::Store;
use reseal::store::local::LocalStore;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const PASSPHRASE: &str = "golden passphrase";
const IDENTITY: &str = r#"{"email": "person7@example.org"}"#;

const CONFIG: &str = r#"version: 1
repository: ./repository
state_dir: ./state
datasets:
  crm:
    source:
      paths: [./data]
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

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

fn secret() -> Secret {
    Secret::passphrase(PASSPHRASE).unwrap()
}

fn env(now: &str) -> Env {
    let clock = TestClock(Arc::new(Mutex::new(now.parse().unwrap())));
    Env { clock: Arc::new(clock), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) }
}

fn open(dir: &Path, now: &str) -> Session {
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&dir.join("repository")).unwrap());
    let repo = Repository::open(Location::single(store), &secret(), &env(now)).unwrap();
    let config = config::load(&dir.join("reseal.yaml")).unwrap();
    let (catalog, _) = Catalog::open(&dir.join("state"), &repo.id().to_string()).unwrap();
    Session::new(config, Arc::new(repo), catalog, "officer".into(), env(now), vec![]).unwrap()
}

fn fill(data: &Path, night: u32) {
    std::fs::create_dir_all(data.join("uploads/7")).unwrap();
    if night == 1 {
        let db = rusqlite::Connection::open(data.join("crm.db")).unwrap();
        db.execute_batch(
            "CREATE TABLE customer(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT);
             CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer(id), cents INT); BEGIN",
        )
        .unwrap();
        for i in 1..=100i64 {
            db.execute("INSERT INTO customer VALUES (?1, ?2, ?3)", (i, format!("person{i}@example.org"), format!("Person Number{i}")))
                .unwrap();
            db.execute("INSERT INTO orders(customer_id, cents) VALUES (?1, ?2)", (i, i * 3)).unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        let csv: String = (1..=100).map(|i| format!("Person Number{i},Person{i}@Example.org\r\n")).collect();
        std::fs::write(data.join("signups.csv"), format!("Name,Email\r\n{csv}")).unwrap();
        let events: String = (1..=100).map(|i| format!("{{\"user\": {{\"id\": {i}}}, \"page\": \"/\\u00e9\"}}\n")).collect();
        std::fs::write(data.join("events.ndjson"), events).unwrap();
        std::fs::write(data.join("uploads/7/avatar.svg"), "<svg>Person Number7</svg>").unwrap();
        std::fs::write(data.join("readme.txt"), "nothing about anybody").unwrap();
        std::fs::write(data.join("empty"), "").unwrap();
        std::fs::hard_link(data.join("readme.txt"), data.join("zzz-hard")).unwrap();
        std::os::unix::fs::symlink("readme.txt", data.join("symbolic")).unwrap();
        let sparse = std::fs::File::create(data.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 1 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();
        let mut noise = vec![0; 30_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        std::fs::write(data.join("noise"), noise).unwrap();
    } else {
        let db = rusqlite::Connection::open(data.join("crm.db")).unwrap();
        db.execute("INSERT INTO orders(customer_id, cents) VALUES (7, 7)", []).unwrap();
        std::fs::write(data.join("second"), "made in the second night").unwrap();
    }
}

/// What every archive restores to, by its id.
fn restored(session: &Session, scratch: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for listed in session.heads("crm").unwrap().latest {
        let id = listed.head.archive.to_string();
        let to = scratch.join(format!("restored-{id}"));
        restore::restore(session, &id, &to, &Default::default()).unwrap();
        out.insert(id, described(&to));
    }
    out
}

#[test]
#[ignore = "makes a new golden repository"]
fn make_golden() {
    let to = golden().join(format!("v{}", reseal::repository::FORMAT_VERSION));
    assert!(!to.exists(), "{} is there: golden repositories are never changed", to.display());
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    std::fs::write(dir.join("reseal.yaml"), CONFIG).unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.join("repository")).unwrap());
    // The smallest costs that are accepted: opening it is not what is tested.
    let options = InitOptions { kdf: KdfParams { memory_kib: 64, passes: 1, lanes: 1 }, ..InitOptions::default() };
    Repository::init(Location::single(store), &secret(), options, &env("2026-10-01T00:00:00Z")).unwrap();
    for night in [1, 2] {
        fill(&dir.join("data"), night);
        let session = open(dir, &format!("2026-10-0{night}T01:00:00Z"));
        let report = backup::backup(&session, session.dataset_config("crm").unwrap(), None).unwrap();
        assert_eq!(report.problems, vec![]);
    }
    let opening =
        request::Opening { identities: IDENTITY.into(), datasets: vec![], kind: Kind::SubjectRequest, received: None, reason: None };
    let ids = request::open(&open(dir, "2026-10-03T09:00:00Z"), &opening).unwrap();
    let session = open(dir, "2026-10-10T09:00:00Z");
    let report =
        execute(&session, &plan(&session, &Options::default()).unwrap(), &Options { scope: Scope::Full, ..Options::default() }).unwrap();
    assert_eq!(report.done, ids);
    let certified = certificate::make(&session, &ids[0]).unwrap();
    assert_eq!(certified["body"]["result"], "PASS");
    session.repo.rotate_root().unwrap();
    let expected = restored(&session, dir);
    // Who held a lease where is nobody's business.
    std::fs::remove_dir_all(dir.join("repository/leases")).unwrap();
    std::fs::remove_file(dir.join("repository/.tmp-lock")).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    assert!(Command::new("cp").arg("-r").arg(dir.join("repository")).arg(dir.join("reseal.yaml")).arg(&to).status().unwrap().success());
    let write = |name: &str, value: &str| std::fs::write(to.join(name), format!("{value}\n")).unwrap();
    write("expected.json", &serde_json::to_string_pretty(&expected).unwrap());
    write("certificate.json", &serde_json::to_string_pretty(&certified).unwrap());
    write(
        "README.md",
        &format!(
            "# A repository of format version {}\n\nMade once by `make_golden` in `tests/golden.rs`, never changed since. The passphrase is\n`{PASSPHRASE}`. Two archives; person 7 was erased from both; the root key was rotated once.\n`expected.json`: what each archive restores to.",
            reseal::repository::FORMAT_VERSION
        ),
    );
}

#[test]
fn every_golden_repository_is_read_verified_and_continued() {
    let mut seen = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let from = entry.unwrap().path();
        if !from.is_dir() {
            continue;
        }
        seen += 1;
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        for name in ["repository", "reseal.yaml"] {
            assert!(Command::new("cp").arg("-r").arg(from.join(name)).arg(dir).status().unwrap().success());
        }
        let text = |name: &str| std::fs::read_to_string(from.join(name)).unwrap();
        let session = open(dir, "2026-11-01T09:00:00Z");
        let expected: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text("expected.json")).unwrap();
        assert_eq!(expected.len(), 2);
        assert_eq!(restored(&session, dir), expected);
        session.ledger().check().unwrap();
        let checked = verify::verify(&session, &[], 1.0).unwrap();
        assert!(checked.len() == 2 && checked.iter().all(|c| c.verdict == Verdict::Pass), "{checked:?}");
        let certified = certificate::check(&text("certificate.json"), Some(&session)).unwrap();
        assert_eq!((certified.ours, certified.in_chain), (Some(true), Some(true)));
        let who = subject::one_subject(&session, IDENTITY).unwrap();
        for place in subject::find(&session, &who).unwrap() {
            assert!(place.failed.is_empty() && place.collections.values().sum::<u64>() == 0, "{place:?}");
        }
        drop(session);
        // It goes on: another night, whose chunks are shared with the old ones.
        fill(&dir.join("data"), 1);
        let session = open(dir, "2026-11-02T01:00:00Z");
        let report = backup::backup(&session, session.dataset_config("crm").unwrap(), None).unwrap();
        assert_eq!(report.still_live.len(), 1, "the new source has person 7 again, and that is told");
        drop(session);
        let listed = Command::new(env!("CARGO_BIN_EXE_reseal"))
            .args(["archives", "--json"])
            .env("RESEAL_PASSPHRASE", PASSPHRASE)
            .env_remove("RESEAL_KEY_FILE")
            .current_dir(dir)
            .output()
            .unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["archives"].as_array().unwrap().len(), 3);
    }
    assert!(seen > 0, "no golden repository");
}
