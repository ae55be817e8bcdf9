//! The main job on a bucket that misbehaves: backups, an erasure and restores while requests fail on a seeded schedule. Whatever happens: no
//! archive is lost, nothing half erased is called done, and the same command again completes.

use super::edit::ArchiveEdit;
use super::event::Verdict;
use super::propagate::{Options, Scope, execute, no_collateral, plan};
use super::session::Session;
use super::{backup, certificate, keyexport, request, restore, rotate, statement, verify};
use crate::catalog::Catalog;
use crate::config;
use crate::crypto::kdf::KdfParams;
use crate::crypto::secret::Secret;
use crate::env::{Clock, Env, Silent, Stop, SystemRandom};
use crate::policy::Kind;
use crate::repository::{InitOptions, Location, Repository};
use crate::store::fault::Counting;
use crate::store::local::LocalStore;
use crate::store::s3::fake::{Fake, Fault, Op, copying, expiring};
use crate::store::s3::{Lock, LockMode, Options as Bucket, S3Store};
use crate::store::{Aspect, Level, Store};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CONFIG: &str = r#"
version: 1
repository: ./not-used
datasets:
  crm:
    source: {paths: [./data]}
    unmapped: preserve
    collections:
      - name: people
        entry: "*.csv"
        on_erase: delete
        fields: {Email: {identity: email, normalize: [trim, lower]}}
"#;

/// Milliseconds that an answer may take.
const TIMEOUT: u64 = 1000;

struct Moving(AtomicI64);

impl Clock for Moving {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// A source, a bucket that can misbehave, and a clock.
struct Scene {
    fake: Fake,
    dir: tempfile::TempDir,
    clock: Arc<Moving>,
    env: Env,
    bucket: Bucket,
    /// Keys in a folder instead of the bucket.
    keys_apart: bool,
    /// Every command meets one fault, at a request that this seed chooses, if it makes that many.
    cuts: Option<AtomicU64>,
}

fn secret() -> Secret {
    Secret::passphrase("correct horse battery").unwrap()
}

/// A generator for schedules: the same seed, the same schedule.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

impl Scene {
    fn new(fake: Fake, keys_apart: bool) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        let clock = Arc::new(Moving(AtomicI64::new(Env::system().now().as_second())));
        let env = Env { clock: clock.clone(), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) };
        let bucket = Bucket { patience: Duration::ZERO, timeout: Duration::from_millis(TIMEOUT), ..fake.options() };
        let scene = Scene { fake, dir, clock, env, bucket, keys_apart, cuts: None };
        scene.source(1);
        scene
    }

    fn source(&self, night: u32) {
        let mut csv = String::from("Name,Email\r\n");
        for n in 0..200 {
            csv += &format!("Person {n},p{n}@example.org\r\n");
        }
        csv += &format!("Late {night},late{night}@example.org\r\n");
        std::fs::write(self.dir.path().join("data/people.csv"), csv).unwrap();
        let noise: Vec<u8> = blake3::Hasher::new().update(&night.to_le_bytes()).finalize_xof().bytes(100_000);
        std::fs::write(self.dir.path().join("data/noise.bin"), noise).unwrap();
    }

    fn location(&self) -> Location {
        let data: Arc<dyn Store> = Arc::new(S3Store::open(self.bucket.clone(), &self.env).unwrap());
        match self.keys_apart {
            false => Location::single(data),
            true => Location { data, keys: Arc::new(LocalStore::open(&self.dir.path().join("keys")).unwrap()) },
        }
    }

    fn init(&self) {
        let options = InitOptions { kdf: KdfParams { memory_kib: 64, passes: 1, lanes: 1 }, ..InitOptions::default() };
        Repository::init(self.location(), &secret(), options, &self.env).unwrap();
    }

    fn open(&self) -> Result<Session> {
        let location = self.location();
        let meter = Arc::new(Counting::new(location.data.clone()));
        let location = match self.keys_apart {
            true => Location { data: meter.clone(), keys: location.keys },
            false => Location::single(meter.clone()),
        };
        let repo = Arc::new(Repository::open(location, &secret(), &self.env)?);
        let config = config::parse(CONFIG, &self.dir.path().join("reseal.yaml"))?;
        let (catalog, _) = Catalog::open(&self.dir.path().join("state"), &repo.id().to_string())?;
        Session::new(config, repo, catalog, "tester".into(), self.env.clone(), vec![meter])
    }

    /// A command of its own process: opened anew; a lease that could not be given back has run out.
    fn command<T>(&self, run: impl Fn(&Session) -> Result<T>) -> Result<T> {
        self.clock.0.fetch_add(600, Ordering::SeqCst);
        if let Some(seed) = &self.cuts {
            let mut dice = seed.load(Ordering::SeqCst);
            let (mut left, kind) = (random(&mut dice) % 200, random(&mut dice) % 8);
            seed.store(dice, Ordering::SeqCst);
            self.fake.schedule(move |op, _| {
                left = left.wrapping_sub(1);
                (left == 0).then_some(match kind {
                    0 => Fault::Refuse("ExpiredToken"),
                    1 => Fault::Refuse("AccessDenied"),
                    2 if op == Op::Delete => Fault::HalfBatch,
                    3 if op == Op::Get => Fault::Cut,
                    4 => Fault::Refuse("RequestTimeTooSkewed"),
                    5 => Fault::Refuse("NoSuchBucket"),
                    6 => Fault::Slow(2 * TIMEOUT),
                    _ => Fault::Lost,
                })
            });
        }
        run(&self.open()?)
    }

    /// The command, again and again until it completes; how often it failed.
    fn insist<T>(&self, run: impl Fn(&Session) -> Result<T>) -> (T, u32) {
        for failures in 0..40 {
            match self.command(&run) {
                Ok(done) => return (done, failures),
                Err(e) => assert!(matches!(e, Error::Store(_)), "a failing store, and nothing else: {e}"),
            }
        }
        panic!("it never completed");
    }

    fn backup(&self, session: &Session) -> Result<String> {
        let report = backup::backup(session, session.dataset_config("crm")?, None)?;
        Ok(report.head.archive.to_string())
    }

    fn ask(&self, session: &Session, email: &str) -> Result<String> {
        // The command before may have got through, and only its answer not.
        if let Some(known) = session.state()?.requests.first() {
            return Ok(known.id.clone());
        }
        let opening = request::Opening {
            identities: format!(r#"{{"email": "{email}"}}"#),
            datasets: vec![],
            kind: Kind::SubjectRequest,
            received: None,
            reason: None,
        };
        Ok(request::open(session, &opening)?.remove(0))
    }

    fn erase(&self, session: &Session) -> Result<super::propagate::Report> {
        let options = Options { scope: Scope::Full, ..Options::default() };
        execute(session, &plan(session, &options)?, &options)
    }

    fn restored(&self, session: &Session, archive: &str, n: &str) -> Result<(String, Vec<u8>)> {
        let to = self.dir.path().join(format!("out-{n}"));
        let _ = std::fs::remove_dir_all(&to);
        restore::restore(session, archive, &to, &Default::default())?;
        Ok((std::fs::read_to_string(to.join("data/people.csv")).unwrap(), std::fs::read(to.join("data/noise.bin")).unwrap()))
    }
}

trait Bytes {
    fn bytes(self, n: usize) -> Vec<u8>;
}

impl Bytes for blake3::OutputReader {
    fn bytes(mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.fill(&mut out);
        out
    }
}

/// The whole job, while requests fail as the schedule says; how many failures it took.
fn main_job(scene: &Scene) -> u32 {
    let mut failures = 0;
    let mut archives: Vec<String> = Vec::new();
    let mut sources = Vec::new();
    for night in 1..=2 {
        scene.source(night);
        let (archive, f) = scene.insist(|s| scene.backup(s));
        failures += f;
        archives.push(archive);
        let data = scene.dir.path().join("data");
        sources.push((std::fs::read_to_string(data.join("people.csv")).unwrap(), std::fs::read(data.join("noise.bin")).unwrap()));
    }
    let (id, f) = scene.insist(|s| scene.ask(s, "P7@example.org"));
    failures += f;
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    let mut done = false;
    for _ in 0..40 {
        match scene.command(|s| scene.erase(s)) {
            Ok(report) => {
                if report.done.contains(&id) || report.started == 0 {
                    done = true;
                    break;
                }
                // Said to be partial, never done; the same command again.
                assert!(report.partial.contains(&id));
                let why: Vec<&String> = report.archives.iter().flat_map(|a| &a.left).collect();
                eprintln!("partial: gone {}, {why:?}", report.gone);
                failures += 1;
            }
            Err(e) => {
                assert!(matches!(e, Error::Store(_)), "{e}");
                eprintln!("failed: {e}");
                failures += 1;
            }
        }
    }
    assert!(done, "the erasure never completed");
    for archive in &archives {
        failures += scene.insist(|s| scene.restored(s, archive, "cut")).1;
    }
    failures += scene.insist(|s| rotate::rotate(s, s.dataset_config("crm")?, false).map(|r| assert_ne!(r.gone, Verdict::Failed))).1;
    // What could not be read is neither called whole nor damaged.
    let (checked, f) = scene.insist(|s| verify::verify(s, &[], 1.0));
    failures += f;
    assert!(checked.iter().all(|c| c.verdict == if c.problems.is_empty() { Verdict::Pass } else { Verdict::Unknown }), "{checked:?}");
    failures += u32::from(checked.iter().any(|c| c.verdict == Verdict::Unknown));
    scene.fake.heal();
    let session = scene.open().unwrap();
    let state = session.state().unwrap();
    let finished = state.request(&id).unwrap().finished.clone().unwrap();
    assert!(finished.done && finished.gone == Verdict::Pass && finished.listing.left == 0);
    let certified = certificate::make(&session, &id).unwrap();
    assert_eq!(certified["body"]["result"], "PASS", "{certified:#}");
    for (archive, (csv, noise)) in archives.iter().zip(&sources) {
        let expected: String = csv.split_inclusive('\n').filter(|l| !l.contains("p7@")).collect();
        let (restored, bytes) = scene.restored(&session, archive, archive).unwrap();
        assert_eq!(restored, expected);
        assert!(bytes == *noise);
    }
    assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
    failures
}

#[test]
fn requests_that_fail_now_and_then_only_cost_time() {
    for (seed, fake) in [(1u64, Fake::start()), (2, Fake::versioned())] {
        let mut scene = Scene::new(fake, false);
        scene.bucket.patience = Duration::from_secs(60);
        scene.init();
        let mut seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        scene.fake.schedule(move |op, _| {
            let dice = random(&mut seed);
            if !dice.is_multiple_of(12) {
                return None;
            }
            Some(match (dice >> 16) % 8 {
                0 => Fault::Refuse("InternalError"),
                1 => Fault::Refuse("SlowDown"),
                2 if op == Op::Put => Fault::Refuse("BadDigest"),
                2 | 3 if op == Op::Get => Fault::Garbled,
                4 if op == Op::Get => Fault::Cut,
                5 if op == Op::Delete => Fault::HalfBatch,
                6 => Fault::Slow(20),
                7 if dice.is_multiple_of(5) => Fault::Slow(TIMEOUT + 100),
                _ => Fault::Lost,
            })
        });
        assert_eq!(main_job(&scene), 0);
    }
}

#[test]
fn a_service_that_knows_no_versions_is_one_like_any_other() {
    let scene = Scene::new(Fake::start(), false);
    scene.fake.bucket().unknown = vec!["ListObjectVersions", "GetBucketVersioning", "GetBucketReplication", "ListMultipartUploads"];
    scene.init();
    assert_eq!(main_job(&scene), 0);
    let session = scene.open().unwrap();
    assert_eq!(rotate::rotate(&session, session.dataset_config("crm").unwrap(), false).unwrap().gone, Verdict::Pass);
}

#[test]
fn an_erasure_says_how_much_of_a_pack_it_wants() {
    let scene = Scene::new(Fake::start(), false);
    scene.init();
    // More than one chunk, so that a part of the pack lives on.
    let mut csv = String::from("Name,Email\r\n");
    for n in 0..60_000u64 {
        csv += &format!("{:x},p{n}@example.org\r\n", n * n);
    }
    std::fs::write(scene.dir.path().join("data/people.csv"), csv).unwrap();
    scene.insist(|s| scene.backup(s));
    scene.insist(|s| scene.ask(s, "p7@example.org"));
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    scene.fake.bucket().log.clear();
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!(report.done.len(), 1);
    let log = scene.fake.bucket().log.clone();
    let count = |what: &str| log.iter().filter(|l| l.starts_with(&format!("{what} backups/here/packs/"))).count();
    assert!(count("GetObject") > 0 && log.iter().any(|l| l.starts_with("DeleteObject")), "{log:#?}");
    assert_eq!(count("GetObject"), count("range"), "{log:#?}");
}

#[test]
fn a_command_that_is_cut_off_anywhere_completes_when_run_again() {
    // Every attempt is the last one here, so every fault ends the command that meets it.
    let mut failures = 0;
    for seed in (1..=10u64).map(|n| n + 10 * (fault_seed() - 1)) {
        let mut scene = Scene::new(if seed % 2 == 0 { Fake::versioned() } else { Fake::start() }, seed % 4 == 3);
        scene.init();
        scene.cuts = Some(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        failures += main_job(&scene);
    }
    assert!(failures >= 8, "the schedule did not bite: {failures}");
}

/// `RESEAL_FAULT_SEED`, so that other moments can be tried.
fn fault_seed() -> u64 {
    std::env::var("RESEAL_FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// What ends a command at one of its requests: refused, carried out without an answer, cut off, or half done.
fn ending(kind: u64, op: Op) -> Fault {
    match kind % 4 {
        0 => Fault::Refuse("ExpiredToken"),
        1 if op == Op::Get => Fault::Cut,
        2 if op == Op::Delete => Fault::HalfBatch,
        3 => Fault::Refuse("NoSuchBucket"),
        _ => Fault::Lost,
    }
}

#[test]
fn an_erasure_and_a_new_root_key_may_be_cut_off_at_any_request() {
    let mut dice = fault_seed().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let fresh = |versioned: bool| {
        let scene = Scene::new(if versioned { Fake::versioned() } else { Fake::start() }, false);
        scene.init();
        for night in 1..=2 {
            scene.source(night);
            scene.command(|s| scene.backup(s)).unwrap();
        }
        scene.command(|s| scene.ask(s, "p7@example.org")).unwrap();
        scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
        scene
    };
    for rotating in [false, true] {
        let run = |scene: &Scene| -> Result<()> {
            match rotating {
                true => scene.command(|s| s.repo.rotate_root()).map(|_| ()),
                false => scene.command(|s| scene.erase(s)).and_then(|r| match r.partial.is_empty() {
                    true => Ok(()),
                    false => Err(Error::Refused("partial".into())),
                }),
            }
        };
        let calm = fresh(true);
        calm.fake.bucket().log.clear();
        run(&calm).unwrap();
        let requests =
            calm.fake.bucket().log.iter().filter(|l| !["shape", "checksum", "range"].iter().any(|w| l.starts_with(w))).count() as u64;
        assert!(requests > 60, "{requests}");
        let mut bitten = 0;
        for n in 0..10u64 {
            let scene = fresh(n % 2 == 0);
            // One in each tenth of it.
            let at = n * requests / 10 + random(&mut dice) % (requests / 10);
            let kind = random(&mut dice);
            let mut left = at;
            scene.fake.schedule(move |op, _| {
                let now = left == 0;
                left = left.wrapping_sub(1);
                now.then(|| ending(kind, op))
            });
            let first = run(&scene);
            bitten += u32::from(first.is_err());
            scene.fake.heal();
            let context = || format!("request {at} of {requests}, {kind}: {first:?}");
            // No archive is lost, whatever was half done: the restore gate knows of the erasure once it has begun.
            {
                let session = scene.open().unwrap_or_else(|e| panic!("{}: {e}", context()));
                for listed in &session.heads("crm").unwrap().latest {
                    scene.restored(&session, &listed.head.archive.to_string(), "between").unwrap_or_else(|e| panic!("{}: {e}", context()));
                }
                // No half erasure is called done.
                let request = session.state().unwrap().requests[0].clone();
                if request.finished.as_ref().is_some_and(|f| f.done) {
                    assert!(session.heads("crm").unwrap().latest.iter().all(|l| l.head.generation == 2), "{}", context());
                    assert_eq!(certificate::make(&session, &request.id).unwrap()["body"]["result"], "PASS", "{}", context());
                }
            }
            run(&scene).unwrap_or_else(|e| panic!("{}: {e}", context()));
            if rotating {
                scene.command(|s| scene.erase(s)).unwrap_or_else(|e| panic!("{}: {e}", context()));
            }
            let session = scene.open().unwrap();
            let state = session.state().unwrap();
            let finished = state.requests[0].finished.clone().unwrap();
            assert!(finished.done && finished.gone == Verdict::Pass && finished.listing.left == 0, "{}: {finished:?}", context());
            assert_eq!(certificate::make(&session, &state.requests[0].id).unwrap()["body"]["result"], "PASS", "{}", context());
            for listed in &session.heads("crm").unwrap().latest {
                let (csv, _) = scene.restored(&session, &listed.head.archive.to_string(), "after").unwrap();
                assert!(!csv.contains("p7@") && csv.contains("p8@"), "{}", context());
            }
            assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass), "{}", context());
        }
        assert!(bitten >= 5, "the schedule did not bite: {bitten}");
    }
}

#[test]
fn a_bucket_that_vanishes_is_no_empty_one() {
    let scene = Scene::new(Fake::start(), false);
    scene.init();
    scene.insist(|s| scene.backup(s));
    let session = scene.open().unwrap();
    scene.fake.bucket().gone = true;
    let text = |e: Error| {
        assert_ne!(e.exit_code(), 6, "not damage: {e}");
        e.to_string()
    };
    assert!(text(scene.open().err().unwrap()).contains("bucket is not there"));
    assert!(text(scene.backup(&session).err().unwrap()).contains("bucket is not there"));
    assert!(text(rotate::rotate(&session, session.dataset_config("crm").unwrap(), false).err().unwrap()).contains("bucket is not there"));
    scene.fake.bucket().gone = false;
    drop(session);
    scene.insist(|s| scene.backup(s));
}

#[test]
fn what_is_locked_loses_its_keys_at_once_and_its_bytes_when_the_lock_ends() {
    for default_retention in [false, true] {
        let fake = Fake::versioned();
        fake.bucket().lockable = true;
        let mut scene = Scene::new(fake, true);
        if default_retention {
            scene.fake.bucket().default_days = Some(30);
        } else {
            scene.bucket.locks = [("crm".to_string(), Lock { mode: LockMode::Compliance, days: 30 })].into();
        }
        scene.init();
        scene.insist(|s| scene.backup(s));
        scene.insist(|s| scene.ask(s, "p7@example.org"));
        scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
        let report = scene.command(|s| scene.erase(s)).unwrap();
        assert_eq!((report.done.len(), report.gone, report.listing.left), (1, Verdict::Pass, 0), "{report:?}");
        let locked = &report.listing.locked;
        assert!(locked.iter().any(|l| l.key.starts_with("packs/crm/")) && locked.iter().all(|l| l.until.is_some()), "{locked:?}");
        assert_eq!(locked.iter().any(|l| l.key.starts_with("archives/")), default_retention, "heads are locked only by the bucket itself");
        let session = scene.open().unwrap();
        let certified = certificate::make(&session, &report.done[0]).unwrap();
        assert_eq!(certified["body"]["result"], "PASS");
        assert!(certified["body"]["locked"][0]["locked_until"].is_string(), "{certified:#}");
        // Still readable, and still locked: nothing changes.
        let archive = session.heads("crm").unwrap().latest[0].head.archive.to_string();
        assert!(!scene.restored(&session, &archive, "locked").unwrap().0.contains("p7@"));
        drop(session);
        let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
        assert_eq!((rotated.gone, rotated.locked.len()), (Verdict::Pass, locked.len()));
        let before = scene.fake.versions("packs/");
        scene.fake.unlock();
        let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
        assert_eq!((rotated.gone, rotated.locked.len()), (Verdict::Pass, 0));
        assert!(scene.fake.versions("packs/") < before);
        assert_eq!(scene.fake.versions("archives/"), 1);
        let session = scene.open().unwrap();
        assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
    }
}

#[test]
fn what_a_legal_hold_keeps_loses_its_keys_at_once_and_its_bytes_when_the_hold_ends() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    let scene = Scene::new(fake, true);
    scene.init();
    scene.insist(|s| scene.backup(s));
    let packs: Vec<String> = {
        let session = scene.open().unwrap();
        session.repo.location().data.list("packs/").unwrap().into_iter().map(|o| o.key).collect()
    };
    packs.iter().for_each(|pack| scene.fake.hold(pack, true));
    scene.insist(|s| scene.ask(s, "p7@example.org"));
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone, report.listing.left), (1, Verdict::Pass, 0), "{report:?}");
    let locked = &report.listing.locked;
    assert!(!locked.is_empty() && locked.iter().all(|l| packs.contains(&l.key) && l.until.is_none()), "{locked:?}");
    let session = scene.open().unwrap();
    let certified = certificate::make(&session, &report.done[0]).unwrap();
    assert_eq!((&certified["body"]["result"], &certified["body"]["locked"][0]["locked_until"]), (&"PASS".into(), &serde_json::Value::Null));
    let archive = session.heads("crm").unwrap().latest[0].head.archive.to_string();
    assert!(!scene.restored(&session, &archive, "held").unwrap().0.contains("p7@"));
    drop(session);
    // Nobody knows when it ends; when it has, the next sweep removes what it kept.
    let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
    assert_eq!((rotated.gone, rotated.locked.len()), (Verdict::Pass, locked.len()));
    packs.iter().for_each(|pack| scene.fake.hold(pack, false));
    let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
    assert_eq!((rotated.gone, rotated.locked.len()), (Verdict::Pass, 0));
    assert!(locked.iter().all(|l| scene.fake.versions(&l.key) == 0));
    let session = scene.open().unwrap();
    assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
}

#[test]
fn what_a_replacement_of_the_root_key_left_behind_heads_is_removed_by_the_next_sweep() {
    for lost in [false, true] {
        let mut scene = Scene::new(Fake::versioned(), true);
        scene.init();
        scene.insist(|s| scene.backup(s));
        scene.source(2);
        scene.insist(|s| scene.backup(s));
        if lost {
            scene.bucket.patience = Duration::from_secs(20);
            scene.fake.fail(Op::Put, 1, Fault::Lost);
        } else {
            // The process dies between the new head and the removal of the old one.
            scene.fake.fail(Op::Delete, 1, Fault::Refuse("ExpiredToken"));
            assert!(scene.command(|s| s.repo.rotate_root()).is_err());
            scene.fake.heal();
            assert_eq!(scene.fake.versions("archives/"), 3);
        }
        scene.command(|s| s.repo.rotate_root()).unwrap();
        scene.fake.heal();
        let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
        assert_eq!((rotated.gone, rotated.locked.len(), scene.fake.versions("archives/")), (Verdict::Pass, 0, 2));
        scene.insist(|s| scene.ask(s, "p7@example.org"));
        scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
        let report = scene.command(|s| scene.erase(s)).unwrap();
        assert_eq!((report.done.len(), report.gone, report.listing.left), (1, Verdict::Pass, 0), "{report:?}");
    }
}

#[test]
fn the_root_key_is_replaced_where_a_bucket_locks_heads_by_itself() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    fake.bucket().default_days = Some(30);
    let scene = Scene::new(fake, true);
    scene.init();
    for night in 1..=3 {
        scene.source(night);
        scene.insist(|s| scene.backup(s));
    }
    let replaced = scene.command(|s| s.repo.rotate_root()).unwrap();
    assert!(!replaced.resumed && replaced.damaged.is_empty());
    scene.command(|s| keyexport::export(s, "for the safe")).unwrap();
    assert_eq!(scene.fake.versions("archives/"), 6, "the old ones are locked");
    let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
    assert_eq!((rotated.gone, rotated.locked.len()), (Verdict::Pass, 3));
    assert!(rotated.locked.iter().all(|l| l.key.starts_with("archives/crm/") && l.until.is_some()), "{:?}", rotated.locked);
    let stated = scene.command(|s| statement::make(s, &[])).unwrap();
    assert_eq!(stated.datasets[0].locked.as_ref().unwrap().len(), 3);
    // An erasure on top of it: the heads that it replaces are locked, too, and so is what is behind them.
    scene.insist(|s| scene.ask(s, "p7@example.org"));
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone, report.listing.left), (1, Verdict::Pass, 0), "{report:?}");
    let session = scene.open().unwrap();
    assert!(verify::verify(&session, &[], 1.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
    drop(session);
    scene.fake.unlock();
    let rotated = scene.command(|s| rotate::rotate(s, s.dataset_config("crm").unwrap(), false)).unwrap();
    assert_eq!((rotated.gone, rotated.locked.len(), scene.fake.versions("archives/")), (Verdict::Pass, 0, 3));
    assert!(scene.command(|s| statement::make(s, &[])).unwrap().datasets[0].locked.as_ref().unwrap().is_empty());
}

#[test]
fn locked_packs_of_which_an_answer_got_lost_are_named_in_a_statement_and_stay_dead() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    let mut scene = Scene::new(fake, true);
    scene.bucket.patience = Duration::from_secs(20);
    scene.bucket.locks = [("crm".to_string(), Lock { mode: LockMode::Compliance, days: 30 })].into();
    scene.init();
    let met: Mutex<BTreeSet<String>> = Mutex::default();
    scene.fake.schedule(move |op, key| {
        (op == Op::Put && key.contains("/packs/") && met.lock().unwrap().insert(key.to_string())).then_some(Fault::Lost)
    });
    scene.insist(|s| scene.backup(s));
    scene.fake.heal();
    let packs = scene.location().data.list("packs/").unwrap().len();
    assert_eq!(scene.fake.versions("packs/"), 2 * packs, "each was sent twice");
    scene.insist(|s| scene.ask(s, "p7@example.org"));
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone, report.listing.left), (1, Verdict::Pass, 0), "{report:?}");
    assert!(!report.listing.locked.is_empty());
    let stated = scene.command(|s| statement::make(s, &[])).unwrap();
    let stated: BTreeSet<&String> = stated.datasets[0].locked.as_ref().unwrap().iter().map(|l| &l.object).collect();
    assert_eq!(stated, report.listing.locked.iter().map(|l| &l.key).collect());
    let listed = scene.location().data.list("packs/").unwrap();
    assert!(listed.iter().all(|o| !stated.contains(&o.key)), "an import of older keys would take it for alive");
}

#[test]
fn a_statement_of_retention_names_what_a_bucket_does_and_what_is_not_known() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    let mut scene = Scene::new(fake, false);
    scene.bucket.locks = [("crm".to_string(), Lock { mode: LockMode::Compliance, days: 30 })].into();
    scene.init();
    scene.insist(|s| scene.backup(s));
    let statement = |what: &str| {
        let before = scene.fake.bucket().log.len();
        let made = scene.command(|s| statement::make(s, &[])).unwrap();
        let log = scene.fake.bucket().log[before..].to_vec();
        assert!(log.iter().all(|l| !l.starts_with("Put") && !l.starts_with("Delete") && !l.starts_with("Create")), "{what}: {log:?}");
        made
    };
    let made = statement("fresh");
    assert_eq!((made.datasets.len(), made.datasets[0].archives, made.not_known.len()), (1, 1, 0), "{made:?}");
    assert!(made.storage.iter().any(|f| f.aspect == Aspect::Versions && f.level == Level::Note), "versions are named");
    assert_eq!(made.datasets[0].locked.as_ref().map(Vec::len), Some(0));
    assert!(made.datasets[0].stays().contains("without an end") && made.datasets[0].last_expires.is_none());
    assert!(made.datasets[0].reach().contains("every archive is rewritten"));

    scene.insist(|s| scene.ask(s, "p7@example.org"));
    let made = statement("asked");
    assert_eq!((made.datasets[0].open_requests, made.datasets[0].overdue_requests), (1, 0));
    scene.clock.0.fetch_add(40 * 86_400, Ordering::SeqCst);
    assert_eq!(statement("late").datasets[0].overdue_requests, 1);
    scene.clock.0.fetch_sub(36 * 86_400, Ordering::SeqCst);
    scene.command(|s| scene.erase(s)).unwrap();
    let made = statement("erased");
    let locked = made.datasets[0].locked.as_ref().unwrap();
    assert!(!locked.is_empty() && locked.iter().all(|l| l.object.starts_with("packs/crm/") && l.until.is_some()), "{locked:?}");
    assert_eq!(made.datasets[0].open_requests, 0);

    scene.fake.bucket().lifecycle = vec![expiring("tidy", "")];
    scene.fake.bucket().denied = vec!["GetBucketReplication"];
    let made = statement("meddled with");
    let lifecycle = made.storage.iter().find(|f| f.aspect == Aspect::Lifecycle).unwrap();
    assert!(lifecycle.level == Level::Warning && lifecycle.text.contains("tidy"), "{lifecycle:?}");
    assert!(
        made.not_known.len() == 1 && made.not_known[0].contains("replication"),
        "what may not be asked is not known: {:?}",
        made.not_known
    );
    scene.fake.bucket().denied = vec!["ListObjectVersions"];
    let made = scene.command(|s| statement::make(s, &[])).unwrap();
    assert!(
        made.datasets[0].locked.is_none() && made.not_known.iter().any(|n| n.contains("what locks still keep")),
        "{:?}",
        made.not_known
    );
}

#[test]
fn keys_that_may_live_on_elsewhere_leave_an_erasure_unknown() {
    let scene = Scene::new(Fake::versioned(), false);
    scene.init();
    scene.insist(|s| scene.backup(s));
    scene.insist(|s| scene.ask(s, "p7@example.org"));
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    scene.fake.bucket().replication = vec![copying(None)];
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone), (0, Verdict::Unknown));
    scene.fake.bucket().replication.clear();
    scene.fake.bucket().denied = vec!["GetBucketReplication"];
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone), (0, Verdict::Unknown), "what may not be read is not known");
    scene.fake.bucket().denied.clear();
    let report = scene.command(|s| scene.erase(s)).unwrap();
    assert_eq!((report.done.len(), report.gone), (1, Verdict::Pass));
}

/// Objects that somebody deleted by hand in a bucket with versions can be brought back: no sweep may have removed what hides by then.
#[test]
fn what_was_deleted_by_hand_can_be_brought_back_after_a_sweep() {
    for folder in ["sheets/crm/", "archives/crm/", "datasets/"] {
        let scene = Scene::new(Fake::versioned(), false);
        scene.init();
        let (archive, _) = scene.insist(|s| scene.backup(s));
        let before = scene.insist(|s| scene.restored(s, &archive, "before")).0;
        let keys: Vec<String> = scene.open().unwrap().repo.location().keys.list(folder).unwrap().into_iter().map(|o| o.key).collect();
        assert!(!keys.is_empty());
        for key in &keys {
            scene.fake.mark_deleted(key);
        }
        for _ in 0..2 {
            match scene.command(|s| rotate::rotate(s, s.dataset_config("crm")?, false)) {
                Ok(report) => assert_eq!(report.gone, Verdict::Unknown, "{folder}"),
                Err(e) => assert!(matches!(e, Error::Damaged { .. }), "{folder}: {e}"),
            }
        }
        for key in &keys {
            scene.fake.bring_back(key);
        }
        assert!(scene.insist(|s| scene.restored(s, &archive, "after")).0 == before, "{folder}");
        let report = scene.insist(|s| rotate::rotate(s, s.dataset_config("crm")?, false)).0;
        assert_eq!(report.gone, Verdict::Pass, "{folder}");
    }
}

#[test]
fn an_old_sheet_that_a_crash_left_is_found_by_verify_and_removed_by_rotate() {
    let scene = Scene::new(Fake::versioned(), false);
    scene.init();
    scene.insist(|s| scene.backup(s));
    let session = scene.open().unwrap();
    let sheet = session.repo.location().keys.list("sheets/crm/").unwrap().remove(0).key;
    scene.fake.plant(&sheet, b"an old sheet");
    let checked = verify::verify(&session, &[], 0.0).unwrap();
    assert!(checked.iter().any(|c| c.verdict == Verdict::Failed && c.problems[0].contains("old version")), "{checked:?}");
    rotate::rotate(&session, session.dataset_config("crm").unwrap(), false).unwrap();
    assert!(verify::verify(&session, &[], 0.0).unwrap().iter().all(|c| c.verdict == Verdict::Pass));
}

#[test]
fn traffic_is_told_by_kind() {
    let scene = Scene::new(Fake::start(), false);
    scene.init();
    scene.insist(|s| scene.backup(s));
    let said = Mutex::new(None);
    scene.insist(|s| {
        let before = s.traffic();
        scene.backup(s)?;
        *said.lock().unwrap() = Some(s.traffic().since(&before));
        Ok(())
    });
    let traffic = said.into_inner().unwrap().unwrap();
    assert!(traffic.requests.get > 0 && traffic.requests.put > 0 && traffic.requests.list > 0 && traffic.bytes_written > 0, "{traffic:?}");
}

#[test]
fn more_people_than_memory_holds_are_erased_in_several_runs() {
    let scene = Scene::new(Fake::start(), false);
    scene.init();
    let mut session = scene.open().unwrap();
    let archive = scene.backup(&session).unwrap();
    let emails: Vec<String> = (0..5).map(|n| format!(r#"{{"email": "p{n}@example.org"}}"#)).collect();
    let opening = request::Opening {
        identities: format!("[{}]", emails.join(",")),
        datasets: vec![],
        kind: Kind::SubjectRequest,
        received: None,
        reason: None,
    };
    let ids = request::open(&session, &opening).unwrap();
    scene.clock.0.fetch_add(4 * 86_400, Ordering::SeqCst);
    let planned = |session: &Session| {
        let plan = plan(session, &Options::default()).unwrap();
        plan.datasets
            .iter()
            .flat_map(|d| &d.archives)
            .map(|a| (a.tally.clone(), a.cannot.clone(), a.also_known.clone()))
            .collect::<Vec<_>>()
    };
    let at_once = planned(&session);
    assert_eq!(at_once.iter().map(|(tally, ..)| tally.len()).collect::<Vec<_>>(), [5]);
    // Of two people.
    session.config.memory = 5 << 19;
    assert_eq!(planned(&session), at_once);
    let report = scene.erase(&session).unwrap();
    assert_eq!(report.done.iter().collect::<BTreeSet<_>>(), ids.iter().collect());
    assert_eq!((report.partial.len(), report.exit_code()), (0, 0));
    // Told as one.
    let [outcome] = report.archives.as_slice() else { panic!("{:?}", report.archives) };
    assert_eq!((outcome.before.0, outcome.after.0, outcome.requests.len(), outcome.complete.len()), (1, 4, 5, 5));
    session.config.memory = 256 << 20;
    let (people, _) = scene.restored(&session, &archive, "several").unwrap();
    assert!((0..5).all(|n| !people.contains(&format!(",p{n}@"))) && people.contains("Person 5,p5@example.org"));
    assert_eq!(people.lines().count(), 1 + 195 + 1);
    for id in &ids {
        assert!(session.state().unwrap().request(id).unwrap().finished.is_some());
    }
}

#[test]
fn a_generation_with_anything_that_the_edit_did_not_make_is_noticed() {
    let scene = Scene::new(Fake::start(), false);
    scene.init();
    let session = scene.open().unwrap();
    // More entries than one list chunk holds, so that most list chunks are the same.
    let data = scene.dir.path().join("data");
    for n in 0..3000 {
        std::fs::write(data.join(format!("file-{n:04}")), format!("{n}")).unwrap();
    }
    let night = |change: &dyn Fn()| {
        change();
        scene.clock.0.fetch_add(600, Ordering::SeqCst);
        scene.backup(&session).unwrap()
    };
    let first = night(&|| {});
    let same = night(&|| {});
    let others = [
        night(&|| std::fs::write(data.join("file-1500"), "another").unwrap()),
        night(&|| {
            std::fs::write(data.join("file-1500"), "1500").unwrap();
            std::fs::remove_file(data.join("file-0700")).unwrap();
        }),
        night(&|| std::fs::write(data.join("file-2999x"), "at the end").unwrap()),
    ];
    let view = session.view("crm").unwrap();
    let open = |id: &str| view.open(&session.find_archive(id).unwrap().head);
    let lists = open(&first).list_chunks().count();
    assert!(lists > 2, "{lists}");
    let compare = |old: &str, new: &str| no_collateral(&open(old), &open(new), &ArchiveEdit::default(), &Mutex::default());
    compare(&first, &same).unwrap();
    for other in &others {
        for (old, new) in [(&first, other), (other, &first)] {
            assert!(matches!(compare(old, new), Err(Error::Verification(_))), "{old} {new}");
        }
    }
}
