//! Helpers of the tests that look at the product from outside: small pieces (so that little data has many of them), erasing in a call,
//! programs that nobody here wrote.
#![allow(dead_code)]

use crate::common::{Place, secret};
use reseal::crypto::kdf::KdfParams;
use reseal::engine::event::Verdict;
use reseal::engine::propagate::{Options, Report, Scope, execute, plan};
use reseal::engine::session::Session;
use reseal::engine::{backup, request, verify};
use reseal::policy::Kind;
use reseal::repository::{ArchiveId, Cut, InitOptions, Location, Repository, Sizes};
use reseal::store::Store;
use reseal::store::local::LocalStore;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A repository whose pieces are so small that a hundred records fill many of them.
pub fn init(place: &Place) -> Session {
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&place.path("backups")).unwrap());
    let sizes = Sizes {
        pack: 64 << 10,
        records: Cut { min: 256, avg: 1024, max: 4096 },
        opaque: Cut { min: 1024, avg: 4096, max: 16384 },
        ..Sizes::default()
    };
    let options = InitOptions { kdf: KdfParams { memory_kib: 64, passes: 1, lanes: 1 }, sizes, ..InitOptions::default() };
    Repository::init(Location::single(store), &secret(), options, &place.env()).unwrap();
    place.open()
}

/// A backup that must not lose anything.
pub fn night(session: &Session, dataset: &str) -> backup::Report {
    let config = session.dataset_config(dataset).unwrap().clone();
    let report = backup::backup(session, &config, None).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    report
}

pub fn opening(identities: &str) -> request::Opening {
    request::Opening { identities: identities.into(), datasets: vec![], kind: Kind::SubjectRequest, received: None, reason: None }
}

/// Opens a request per person and lets the cooling-off pass.
pub fn ask(place: &Place, session: &Session, identities: &str) -> Vec<String> {
    let ids = request::open(session, &opening(identities)).unwrap();
    place.advance_hours(24 * 4);
    ids
}

pub fn propagate(session: &Session, scope: Scope) -> Report {
    let options = Options { scope, ..Options::default() };
    execute(session, &plan(session, &options).unwrap(), &options).unwrap()
}

/// Erases these people from every archive, and nothing may be left.
pub fn erase(place: &Place, session: &Session, identities: &str, scope: Scope) -> Report {
    let ids = ask(place, session, identities);
    let report = propagate(session, scope);
    assert_complete(&report);
    assert_eq!(report.done.len(), ids.len());
    report
}

pub fn assert_complete(report: &Report) {
    for a in &report.archives {
        assert!(a.left.is_empty(), "{:#?}", a.left);
        assert_eq!(a.verification, Verdict::Pass, "{a:#?}");
    }
    assert_eq!((report.gone, report.partial.len(), report.exit_code()), (Verdict::Pass, 0, 0), "{report:#?}");
}

/// Every archive's every chunk.
pub fn assert_verified(session: &Session) {
    for c in verify::verify(session, &[], 1.0).unwrap() {
        assert_eq!(c.verdict, Verdict::Pass, "{c:?}");
    }
}

/// Restores into a new folder; nothing may have to be erased on the way.
pub fn restore(place: &Place, session: &Session, archive: &ArchiveId, to: &str) -> PathBuf {
    let to = place.path(to);
    let done = reseal::engine::restore::restore(session, &archive.to_string(), &to, &Default::default()).unwrap();
    assert_eq!(done.replayed.len(), 0);
    to
}

/// Copies a folder with everything in it.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for e in std::fs::read_dir(from).unwrap() {
        let e = e.unwrap();
        if e.file_type().unwrap().is_dir() {
            copy_tree(&e.path(), &to.join(e.file_name()));
        } else {
            std::fs::copy(e.path(), to.join(e.file_name())).unwrap();
        }
    }
}

/// Makes `to` what `from` is.
pub fn replace_tree(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    copy_tree(from, to);
}

/// Runs a program; its standard output when it succeeds, everything it said when it does not.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() { Ok(said) } else { Err(format!("{said}{}", String::from_utf8_lossy(&out.stderr))) }
}

/// tests/oracle.py.
pub fn oracle(args: &[&str]) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.py");
    let all: Vec<&str> = std::iter::once(script.to_str().unwrap()).chain(args.iter().copied()).collect();
    run("python3", &all)
}
