//! Every command that writes is ended at every durable step, in turn; what is left must be the old state or the new one, never
//! wrong data, and the same command run again must complete it. Each run ends in a real process that aborts.
//!
//! By default a random part of the steps is taken (`RESEAL_CRASH_SEED` repeats a choice); `RESEAL_CRASH_ALL=1` takes them all.

mod common;

use common::shop::{DUE, OPENED, Shop, Tree, clean_live, differs_from_live, finish, knows_the_erased, night_time, scratch};
use common::tree;
use reseal::engine::session::Session;
use reseal::engine::{certificate, rotate, subject};
use reseal::env::{Random, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Steps taken per command unless all are.
const SAMPLE: usize = 16;

/// xorshift: enough to choose steps and moments.
struct Dice(u64);

impl Dice {
    fn new(salt: &str) -> Dice {
        let seed = std::env::var("RESEAL_CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let mut bytes = [0; 4];
            SystemRandom.fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes))
        });
        println!("{salt}: RESEAL_CRASH_SEED={seed}");
        let salted = blake3::hash(format!("{seed} {salt}").as_bytes());
        Dice(u64::from_le_bytes(salted.as_bytes()[..8].try_into().unwrap()) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// Steps to end the process at: the first, the last, and some between; all with `RESEAL_CRASH_ALL=1`.
fn chosen(steps: u64, salt: &str) -> BTreeSet<u64> {
    if std::env::var("RESEAL_CRASH_ALL").is_ok_and(|v| v == "1") {
        return (1..=steps).collect();
    }
    let mut dice = Dice::new(salt);
    let mut out = BTreeSet::from([1, steps]);
    while out.len() < SAMPLE.min(steps as usize) {
        out.insert(1 + dice.below(steps));
    }
    out
}

/// What must hold after a crash, and at the end.
struct Expected {
    /// Archives and what each restored to before the command.
    old: BTreeMap<String, Tree>,
    /// Archives and what each restores to after it. Archives of `old` that are missing here may go.
    new: BTreeMap<String, Tree>,
    /// What an archive that has neither of these ids holds.
    fresh: Option<Tree>,
    /// Nobody of the erased may be left at the end.
    erased: bool,
    /// Requests that may be open at the end.
    open_requests: usize,
}

type Check<'a> = &'a dyn Fn(&Shop, &str);

/// Ends `args` at every chosen step, each from a copy of `base`. `rerun_codes`: how the same command may end when it is run again.
#[allow(clippy::too_many_arguments)]
fn matrix(
    name: &str,
    base: &Shop,
    scratch: &Path,
    now: &str,
    args: &[&str],
    rerun_codes: &[i32],
    expected: Option<&Expected>,
    extra: Check,
) {
    let counted = base.copy(&scratch.join("counted"));
    let log = scratch.join("steps.log");
    let _ = std::fs::remove_file(&log);
    counted.run_with(now, args, &[("RESEAL_CRASH_LOG", log.to_str().unwrap())]).ok();
    let text = std::fs::read_to_string(&log).unwrap();
    let steps = text.lines().count() as u64;
    assert!(steps >= 3, "{name} has {steps} steps");
    let started = Instant::now();
    let (mut crashed, mut ended) = (0, 0);
    let all = chosen(steps, name);
    for n in &all {
        let shop = base.copy(&scratch.join("work"));
        let step = text.lines().nth(*n as usize - 1).unwrap();
        let at = format!("{name}, ended at step {step} of {steps}");
        let ran = shop.run_with(now, args, &[("RESEAL_CRASH_AT", &n.to_string())]);
        match ran.code {
            None => crashed += 1,
            // Packs have random names, so a run may need fewer folders and steps than the one that was counted.
            Some(0) => ended += 1,
            Some(code) => panic!("{at}: exit code {code}\n{}", ran.stderr),
        }
        if let Some(expected) = expected {
            whole(&shop, now, expected, false, &at);
        }
        // With nobody's help: the dead process' lease, its half-written files and rows must not be in the way.
        if ran.code.is_none() {
            let again = shop.run(now, args);
            assert!(
                again.code.is_some_and(|c| rerun_codes.contains(&c)),
                "{at}: again: {:?}\n{}\n{}",
                again.code,
                again.stdout,
                again.stderr
            );
        }
        if let Some(expected) = expected {
            whole(&shop, now, expected, true, &at);
        }
        extra(&shop, &at);
    }
    println!("{name}: {steps} steps, {} tried, {crashed} crashed, {ended} came to their end, {:.1?}", all.len(), started.elapsed());
    assert!(crashed * 10 >= all.len() * 7, "{name}: only {crashed} of {} were ended", all.len());
}

/// Opens the repository as a new process would and looks at everything in it.
fn whole(shop: &Shop, now: &str, expected: &Expected, complete: bool, at: &str) {
    let session = shop.open(now).unwrap_or_else(|e| panic!("{at}: {e}"));
    let restored = shop.restore_all(&session).unwrap_or_else(|e| panic!("{at}: {e}"));
    for id in expected.new.keys() {
        assert!(restored.contains_key(id), "{at}: archive {id} is gone");
    }
    for (id, tree) in &restored {
        let (old, new) = (expected.old.get(id), expected.new.get(id));
        let fits = match (old, new) {
            (None, None) => expected.fresh.as_ref().is_some_and(|f| differs_from_live(tree, f).is_none()),
            _ => new == Some(tree) || !complete && old == Some(tree),
        };
        assert!(
            fits,
            "{at}: archive {id} restores to neither the old nor the new tree (complete: {complete}): {}",
            differences(tree, old.or(expected.fresh.as_ref()), new)
        );
        if complete && expected.erased {
            assert_eq!(knows_the_erased(tree), None, "{at}: archive {id}");
        }
    }
    let verified = shop.verify_all(&session);
    assert_eq!(verified, restored.keys().cloned().collect(), "{at}");
    if complete {
        settled(shop, &session, expected, at);
    }
}

fn differences(tree: &Tree, old: Option<&Tree>, new: Option<&Tree>) -> String {
    let against = |other: Option<&Tree>| match other {
        None => "nothing to compare".to_string(),
        Some(o) => {
            let names: BTreeSet<&String> = tree.keys().chain(o.keys()).collect();
            names.into_iter().filter(|n| tree.get(*n) != o.get(*n)).cloned().collect::<Vec<_>>().join(" ")
        }
    };
    format!("against old: {}; against new: {}", against(old), against(new))
}

/// After the command has completed: nothing is left of people, processes or replaced generations.
fn settled(shop: &Shop, session: &Session, expected: &Expected, at: &str) {
    let state = session.state().unwrap();
    if expected.erased {
        for i in 0..2 {
            let text = std::fs::read_to_string(shop.path(&format!("identity{i}.yaml"))).unwrap();
            let who = subject::one_subject(session, &text).unwrap();
            for place in subject::find(session, &who).unwrap() {
                // The row stays, without its name and address; nothing else may.
                let left: u64 = place.collections.iter().filter(|(c, _)| *c != "customer").map(|(_, n)| n).sum();
                assert_eq!((left, place.failed.len()), (0, 0), "{at}: {place:?}");
            }
        }
        for request in &state.requests {
            assert_eq!(request.stage(session.now()).to_string(), "done", "{at}");
            let certified = certificate::make(session, &request.id).unwrap();
            assert_eq!(certified["body"]["result"], "PASS", "{at}: {certified:#}");
        }
    }
    let keys = shop.keys_dir();
    let open = state.requests.iter().filter(|r| !r.stage(session.now()).is_final()).count();
    assert_eq!(open, expected.open_requests, "{at}");
    // Whatever a dead process left is swept by the next rotation at the latest.
    for config in session.config.datasets.values() {
        if session.repo.dataset(&config.name).unwrap().is_some() {
            let kept = reseal::config::Dataset { retention: Default::default(), ..config.clone() };
            let report = rotate::rotate(session, &kept, false).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(report.gone, reseal::engine::event::Verdict::Pass, "{at}");
        }
    }
    for name in session.config.datasets.keys() {
        let lease = shop.path(&format!("{keys}/leases/{name}"));
        let held: serde_json::Value = serde_json::from_slice(&std::fs::read(&lease).unwrap()).unwrap();
        assert_eq!(held["released"], true, "{at}: {lease:?}");
    }
    let request_objects = shop.objects(&format!("{keys}/requests"));
    assert_eq!(request_objects.len(), open, "{at}: sealed identities of nobody's open request: {request_objects:?}");
    let names = |kind: &str, dir: &str| -> BTreeSet<String> {
        shop.objects(&format!("{dir}/{kind}")).into_iter().filter_map(|k| k.rsplit('/').next().map(str::to_string)).collect()
    };
    assert_eq!(names("packs", "backups"), names("sheets", keys), "{at}");
    for dir in ["backups", keys] {
        let left: Vec<String> = shop.objects(dir).into_iter().filter(|k| k.contains(".tmp-") && !k.ends_with(".tmp-lock")).collect();
        assert_eq!(left, Vec::<String>::new(), "{at}");
    }
    let heads = names("archives", "backups");
    let archives: BTreeSet<&str> = heads.iter().filter_map(|h| h.split('.').next()).collect();
    assert_eq!(heads.len(), archives.len(), "{at}: a replaced generation is still there: {heads:?}");
}

/// The shop's archives as they are restored now.
fn restored(shop: &Shop, now: &str) -> BTreeMap<String, Tree> {
    shop.restore_all(&shop.open(now).unwrap()).unwrap()
}

fn live(shop: &Shop) -> Tree {
    tree(&shop.path("data")).into_iter().map(|(name, bytes)| (format!("data/{name}"), bytes)).collect()
}

const NOTHING: Check = &|_, _| {};

#[test]
fn a_backup_that_ends_anywhere_leaves_the_archives_before_it_and_completes_when_run_again() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(1);
    shop.change(2);
    let old = restored(&shop, &night_time(2));
    let expected = Expected { new: old.clone(), old, fresh: Some(live(&shop)), erased: false, open_requests: 0 };
    let at_least_one_more = |s: &Shop, at: &str| assert!(s.objects("backups/archives").len() >= 2, "{at}");
    matrix("backup", &shop, scratch.path(), &night_time(2), &["backup"], &[0], Some(&expected), &at_least_one_more);
}

#[test]
fn the_first_backup_of_a_repository_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.run(&night_time(1), &["init"]).ok();
    let expected = Expected { old: BTreeMap::new(), new: BTreeMap::new(), fresh: Some(live(&shop)), erased: false, open_requests: 0 };
    matrix("first backup", &shop, scratch.path(), &night_time(1), &["backup"], &[0], Some(&expected), NOTHING);
}

#[test]
fn a_propagation_that_ends_anywhere_leaves_each_archive_whole_old_or_new_and_completes_when_run_again() {
    for keys in [false, true] {
        let scratch = scratch();
        let shop = Shop::new(&scratch.path().join("base"), keys);
        shop.prepare(3);
        let old = restored(&shop, OPENED);
        shop.request();
        let done = shop.copy(&scratch.path().join("done"));
        done.run(DUE, &["propagate"]).ok();
        let new = restored(&done, DUE);
        assert!(old.values().all(|t| knows_the_erased(t).is_some()) && new.values().all(|t| knows_the_erased(t).is_none()));
        let heads = done.objects("backups/archives");
        let expected = Expected { old, new, fresh: None, erased: true, open_requests: 0 };
        let name = if keys { "propagate, keys apart" } else { "propagate" };
        matrix(name, &shop, scratch.path(), DUE, &["propagate"], &[0], Some(&expected), &|s, at| {
            assert_eq!(s.objects("backups/archives"), heads, "{at}: each archive is sealed anew exactly once");
        });
    }
}

#[test]
fn a_rotation_that_ends_anywhere_loses_only_what_it_was_to_remove() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(4);
    shop.run(OPENED, &["verify", "--read-data"]).ok();
    let old = restored(&shop, OPENED);
    let done = shop.copy(&scratch.path().join("done"));
    done.run(OPENED, &["rotate"]).ok();
    let new = restored(&done, OPENED);
    assert_eq!((old.len(), new.len()), (4, 2));
    let expected = Expected { old, new, fresh: None, erased: false, open_requests: 0 };
    matrix("rotate", &shop, scratch.path(), OPENED, &["rotate"], &[0], Some(&expected), NOTHING);
}

#[test]
fn a_key_rotation_that_ends_anywhere_can_be_read_and_completed_by_every_slot() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(2);
    shop.request();
    shop.run(OPENED, &["keys", "add", "--label", "second", "--new-key-file", "key2"]).ok();
    let old = restored(&shop, OPENED);
    let expected = Expected { new: old.clone(), old, fresh: None, erased: false, open_requests: 2 };
    matrix("keys rotate", &shop, scratch.path(), OPENED, &["keys", "rotate"], &[0], Some(&expected), &|s, at| {
        let second = s.run_with(OPENED, &["archives", "--json"], &[("RESEAL_KEY_FILE", "key2")]);
        assert_eq!(second.code, Some(0), "{at}: {}", second.stderr);
    });
}

/// One regular night, a key for a put-only host, and a day after that.
fn with_host(scratch: &Path) -> (Shop, BTreeMap<String, Tree>) {
    let shop = Shop::new(&scratch.join("base"), true);
    shop.prepare(1);
    shop.run(&night_time(1), &["keys", "add", "--label", "web1", "--put-only", "put.key"]).ok();
    shop.change(2);
    let old = restored(&shop, &night_time(2));
    (shop, old)
}

/// After the admission: nothing waits, what the host made is whole, and so is everything else.
fn admitted(shop: &Shop, old: &BTreeMap<String, Tree>, live: &Tree, at: &str) {
    shop.run(OPENED, &["intake", "admit"]).ok();
    assert_eq!(shop.objects("keys/intake"), BTreeSet::new(), "{at}");
    let all = restored(shop, OPENED);
    assert!(all.len() > old.len() && old.iter().all(|(id, tree)| all.get(id) == Some(tree)), "{at}");
    for (id, tree) in all.iter().filter(|(id, _)| !old.contains_key(*id)) {
        assert_eq!(differs_from_live(tree, live), None, "{at}: {id}");
    }
    // The host believes only what is so: its next archive is whole.
    shop.run(OPENED, &["--key-file", "put.key", "backup"]).ok();
    shop.run(OPENED, &["intake", "admit"]).ok();
    shop.verify_all(&shop.open(OPENED).unwrap());
}

#[test]
fn a_put_only_backup_may_end_anywhere() {
    let scratch = scratch();
    let (shop, old) = with_host(scratch.path());
    let (live, now) = (live(&shop), night_time(2));
    let expected = Expected { new: old.clone(), old: old.clone(), fresh: Some(live.clone()), erased: false, open_requests: 0 };
    let args = ["--key-file", "put.key", "backup"];
    matrix("put-only backup", &shop, scratch.path(), &now, &args, &[0], Some(&expected), &|s, at| admitted(s, &old, &live, at));
}

#[test]
fn an_admission_may_end_anywhere_and_makes_each_archive_once() {
    let scratch = scratch();
    let (shop, old) = with_host(scratch.path());
    let (live, now) = (live(&shop), night_time(2));
    shop.run(&now, &["--key-file", "put.key", "backup"]).ok();
    let expected = Expected { new: old.clone(), old: old.clone(), fresh: Some(live.clone()), erased: false, open_requests: 0 };
    matrix("intake admit", &shop, scratch.path(), &now, &["intake", "admit"], &[0], Some(&expected), &|s, at| {
        assert_eq!(restored(s, &now).len(), old.len() + 1, "{at}");
        admitted(s, &old, &live, at);
    });
}

#[test]
fn an_export_of_the_keys_may_end_anywhere_and_is_never_unrecorded() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(1);
    let args = ["keys", "export", "f", "--label", "safe"];
    matrix("keys export", &shop, scratch.path(), OPENED, &args, &[0, 2], None, &|s, at| {
        let exports = s.run(OPENED, &["keys", "exports", "--json"]).ok().json();
        assert!(!exports["exports"].as_array().unwrap().is_empty(), "{at}");
    });
}

#[test]
fn an_import_of_the_keys_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(1);
    let old = restored(&shop, OPENED);
    shop.run(OPENED, &["keys", "export", "f", "--label", "safe"]).ok();
    std::fs::remove_dir_all(shop.path("keys")).unwrap();
    matrix("keys import", &shop, scratch.path(), OPENED, &["keys", "import", "f"], &[0], None, &|s, at| {
        assert_eq!(restored(s, OPENED), old, "{at}");
    });
}

#[test]
fn adding_a_key_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(1);
    let old = restored(&shop, OPENED);
    let expected = Expected { new: old.clone(), old, fresh: None, erased: false, open_requests: 0 };
    let args = ["keys", "add", "--label", "second", "--new-key-file", "key2"];
    matrix("keys add", &shop, scratch.path(), OPENED, &args, &[0], Some(&expected), &|s, at| {
        let second = s.run_with(OPENED, &["archives"], &[("RESEAL_KEY_FILE", "key2")]);
        assert_eq!(second.code, Some(0), "{at}: {}", second.stderr);
    });
}

#[test]
fn opening_a_request_may_end_anywhere_and_leaves_no_identity_behind() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    shop.prepare(1);
    let args = ["request", "open", "--identity-file", "identity0.yaml"];
    matrix("request open", &shop, scratch.path(), OPENED, &args, &[0], None, &|s, at| {
        // The first run may have got as far as the ledger: then there are two requests for the same person, which is no harm.
        let session = s.open(OPENED).unwrap();
        let open = session.state().unwrap().requests.len();
        assert!((1..=2).contains(&open), "{at}: {open} requests");
        s.verify_all(&session);
        drop(session);
        s.run(DUE, &["propagate"]).ok();
        assert_eq!(s.objects("keys/requests"), BTreeSet::new(), "{at}: identities outlive their requests");
    });
}

#[test]
fn cancelling_a_request_may_end_anywhere_and_leaves_no_identity_behind() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(1);
    let ids = shop.request();
    let old = restored(&shop, OPENED);
    let expected = Expected { new: old.clone(), old, fresh: None, erased: false, open_requests: 1 };
    matrix("request cancel", &shop, scratch.path(), OPENED, &["request", "cancel", &ids[0]], &[0], Some(&expected), NOTHING);
}

#[test]
fn a_night_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(2);
    shop.request();
    clean_live(&shop.path("data"));
    let old = restored(&shop, OPENED);
    let fresh = live(&shop);
    let expected = |new| Expected { old: old.clone(), new, fresh: Some(fresh.clone()), erased: true, open_requests: 0 };
    let done = shop.copy(&scratch.path().join("done"));
    done.run(DUE, &["propagate"]).ok();
    let new = restored(&done, DUE);
    // Either of the two older archives may go, as retention says; what stays is as expected.
    let between = |s: &Shop, at: &str| {
        let session = s.open(DUE).unwrap();
        let all = s.restore_all(&session).unwrap();
        assert!(all.len() >= 2, "{at}");
        for (id, t) in &all {
            match new.get(id) {
                Some(n) => assert!(n == t, "{at}: archive {id}: {}", differences(t, None, Some(n))),
                None => assert_eq!(differs_from_live(t, &fresh), None, "{at}: archive {id}"),
            }
            assert_eq!(knows_the_erased(t), None, "{at}");
        }
        settled(s, &session, &expected(BTreeMap::new()), at);
    };
    matrix("nightly", &shop, scratch.path(), DUE, &["nightly"], &[0], None, &between);
}

#[test]
fn making_a_repository_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), true);
    // Once reseal.json is there it is a repository, and a second `init` is refused.
    matrix("init", &shop, scratch.path(), &night_time(1), &["init"], &[0, 1], None, &|s, at| {
        let ran = s.run(&night_time(1), &["backup"]);
        assert_eq!(ran.code, Some(0), "{at}: {}", ran.stderr);
        s.run(&night_time(1), &["audit", "--check"]).ok();
        let made = restored(s, &night_time(1)).into_values().next().unwrap();
        assert_eq!(differs_from_live(&made, &live(s)), None, "{at}");
    });
}

#[test]
fn rebuilding_the_catalog_may_end_anywhere() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(2);
    let old = restored(&shop, OPENED);
    let expected = Expected { new: old.clone(), old, fresh: None, erased: false, open_requests: 0 };
    std::fs::remove_dir_all(shop.path("state")).unwrap();
    matrix("catalog rebuild", &shop, scratch.path(), OPENED, &["catalog", "rebuild"], &[0], Some(&expected), NOTHING);
}

/// The operator's source still has the people; a night comes between a propagation that was ended and the next one.
#[test]
fn a_night_after_an_ended_propagation_reports_who_is_still_live_and_completes_the_rest() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(2);
    let ids = shop.request();
    let log = scratch.path().join("steps.log");
    let counted = shop.copy(&scratch.path().join("counted"));
    counted.run_with(DUE, &["propagate"], &[("RESEAL_CRASH_LOG", log.to_str().unwrap())]).ok();
    let steps = std::fs::read_to_string(&log).unwrap().lines().count() as u64;
    for n in [steps / 4, steps / 2, steps * 3 / 4, steps - 2] {
        let work = shop.copy(&scratch.path().join("work"));
        assert_eq!(work.run_with(DUE, &["propagate"], &[("RESEAL_CRASH_AT", &n.to_string())]).code, None);
        let later = "2026-10-16T01:00:00Z";
        // 3: the new archive holds people who were to be erased before it was made; that is theirs who keep the live data.
        let night = work.run(later, &["nightly"]).exits(3);
        assert!(night.stderr.contains("still holds the person"), "{}", night.stderr);
        let session = work.open(later).unwrap();
        for id in &ids {
            assert_eq!(session.state().unwrap().request(id).unwrap().stage(session.now()).to_string(), "done", "step {n}");
        }
        assert_eq!(work.objects("backups/requests"), BTreeSet::new());
    }
}

fn kill(child: &std::process::Child, signal: &str) {
    let done = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

#[test]
fn killed_at_random_moments_archives_always_restore_and_the_last_run_completes() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("base"), false);
    shop.prepare(2);
    shop.run(&night_time(2), &["verify", "--read-data"]).ok();
    shop.request();
    clean_live(&shop.path("data"));
    let mut dice = Dice::new("kill -9");
    let started = Instant::now();
    let (mut killed, mut succeeded, mut rounds) = (0, 0, 0);
    // How long each takes: guessed, and the guess grows until one has come to its end.
    let mut usual: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut guess: BTreeMap<&str, Duration> = BTreeMap::new();
    let plans: [&[&str]; 4] = [&["backup"], &["propagate"], &["rotate"], &["nightly"]];
    while rounds < 25 && started.elapsed() < Duration::from_secs(60) {
        let args = plans[rounds % plans.len()];
        let now = format!("2026-10-15T09:{:02}:00Z", rounds + 1);
        let begun = Instant::now();
        let mut child = shop.spawn(&now, args, &[]);
        let guessed = guess.entry(args[0]).or_insert(Duration::from_millis(700));
        let usual_time = usual.get(args[0]).copied().unwrap_or(*guessed);
        // Up to a little more than it takes, so that some come to their end.
        let deadline = usual_time.mul_f64(1.3 * dice.below(1000) as f64 / 1000.0);
        while begun.elapsed() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_none() {
            kill(&child, "-KILL");
        }
        let ran = finish(child);
        match ran.code {
            None => {
                killed += 1;
                *guessed = guessed.mul_f64(1.7);
            }
            Some(0) => {
                succeeded += 1;
                usual.insert(args[0], begun.elapsed());
            }
            Some(code) => panic!("{args:?} in round {rounds}: exit code {code}\n{}\n{}", ran.stdout, ran.stderr),
        }
        let session = shop.open(&now).unwrap();
        let all = shop.restore_all(&session).unwrap_or_else(|e| panic!("after {args:?} in round {rounds}: {e}"));
        assert!(!all.is_empty());
        shop.verify_all(&session);
        rounds += 1;
    }
    println!("kill -9: {rounds} rounds, {killed} killed, {succeeded} came to their end, {:.1?}", started.elapsed());
    assert!(killed >= 3 && succeeded >= 2, "{killed} killed, {succeeded} succeeded");
    let end = "2026-10-16T09:00:00Z";
    for args in [&["backup"][..], &["propagate"], &["rotate"], &["nightly"], &["audit", "--check"], &["verify", "--read-data"]] {
        shop.run(end, args).ok();
    }
    for (id, tree) in restored(&shop, end) {
        assert_eq!(knows_the_erased(&tree), None, "archive {id}");
    }
}

/// A shop on a file system of its own that is too small, where this may be mounted.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let done = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(at).output();
        done.is_ok_and(|o| o.status.success()).then(|| SmallDisk(at.to_path_buf()))
    }

    /// Leaves this many bytes.
    fn leave(&self, bytes: u64) {
        use std::io::Write;
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        let block = vec![7; 4096];
        while filler.write_all(&block).is_ok() {}
        let len = filler.metadata().unwrap().len();
        filler.set_len(len.saturating_sub(bytes)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_there_is_space_again_later() {
    let scratch = scratch();
    let base = Shop::new(&scratch.path().join("base"), false);
    base.prepare(2);
    base.request();
    let old = restored(&base, OPENED);
    let done = base.copy(&scratch.path().join("done"));
    done.run(DUE, &["propagate"]).ok();
    let new = restored(&done, DUE);
    base.change(9);
    let Some(disk) = SmallDisk::mount(&scratch.path().join("disk")) else {
        println!("no file system can be mounted here: the full disk is not tested");
        return;
    };
    for (args, left) in [("backup", 16 << 10), ("backup", 0), ("propagate", 0), ("propagate", 24 << 10), ("propagate", 64 << 10)] {
        let shop = base.copy(&disk.0.join("shop"));
        let at = format!("{args} with {left} bytes left");
        disk.leave(left);
        let ran = shop.run(DUE, &[args]);
        disk.free();
        assert_eq!(ran.code, Some(1), "{at}: {}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("No space left") || ran.stderr.contains("disk is full"), "{at}: {}", ran.stderr);
        let session = shop.open(DUE).unwrap();
        for (id, tree) in shop.restore_all(&session).unwrap() {
            assert!(old.get(&id) == Some(&tree) || new.get(&id) == Some(&tree), "{at}: archive {id}");
        }
        shop.verify_all(&session);
        drop(session);
        shop.run(DUE, &[args]).ok();
        let session = shop.open(DUE).unwrap();
        let all = shop.restore_all(&session).unwrap();
        for (id, tree) in &old {
            let expected = if args == "propagate" { &new[id] } else { tree };
            assert!(all[id] == *expected, "{at}: archive {id}");
        }
        assert_eq!(all.len(), if args == "propagate" { 2 } else { 3 }, "{at}");
    }
}

#[test]
fn an_interrupt_stops_at_a_safe_point_and_says_how_to_go_on() {
    let scratch = scratch();
    let base = Shop::new(&scratch.path().join("base"), false);
    base.prepare(2);
    base.request();
    // Enough to be in the middle of.
    for n in 0..400 {
        std::fs::write(base.path(&format!("data/large{n}")), blake3::hash(&[n as u8, (n / 256) as u8]).as_bytes().repeat(1000)).unwrap();
    }
    let old = restored(&base, OPENED);
    for command in ["backup", "propagate"] {
        let mut interrupted = 0;
        let mut wait = Duration::from_millis(60);
        for _ in 0..12 {
            let shop = base.copy(&scratch.path().join("work"));
            let child = shop.spawn(DUE, &[command], &[]);
            std::thread::sleep(wait);
            kill(&child, "-INT");
            let ran = finish(child);
            match ran.code {
                Some(1) => {
                    assert!(ran.stderr.contains("run the same command again") || ran.stderr.contains("run it again"), "{}", ran.stderr);
                    interrupted += 1;
                    let session = shop.open(DUE).unwrap();
                    let all = shop.restore_all(&session).unwrap();
                    assert!(old.keys().all(|id| all.contains_key(id)));
                    shop.verify_all(&session);
                    drop(session);
                    shop.run(DUE, &[command]).ok();
                    if interrupted == 2 {
                        break;
                    }
                }
                // Too late, or before it listened.
                Some(0) => wait = wait.mul_f64(0.6),
                None => wait = wait.mul_f64(1.5),
                Some(code) => panic!("{command}: exit code {code}: {}", ran.stderr),
            }
        }
        println!("interrupt: {command} was stopped {interrupted} times");
        assert!(interrupted > 0, "{command} was never stopped in the middle");
    }
}
