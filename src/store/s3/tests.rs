use super::fake::{Fake, Fault, Op, copying, expiring};
use super::*;
use crate::env::Stop;
use crate::store::fault::Counting;
use crate::store::{Aspect, Level, conformance};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn conforms_without_versions() {
    let fake = Fake::start();
    conformance::all(&fake.store());
    let root = S3Store::open(Options { prefix: String::new(), ..fake.options() }, &Env::system()).unwrap();
    conformance::all(&root);
}

#[test]
fn conforms_with_versions_and_through_a_counter() {
    let fake = Fake::versioned();
    let store = Counting::new(Arc::new(fake.store()));
    conformance::all(&store);
    assert!(store.counts().bytes_written > 0 && store.requests().unwrap().put > 0);
}

#[test]
fn nothing_old_is_left_on_a_versioned_bucket() {
    let fake = Fake::versioned();
    let store = fake.store();
    for n in 0..5u8 {
        store.put("sheets/a/b", &[n; 10]).unwrap();
    }
    assert_eq!(fake.versions("sheets/"), 1, "what was replaced is gone");
    assert!(store.replace_if("sheets/a/b", &[4; 10], b"new").unwrap());
    assert_eq!(fake.versions("sheets/"), 1);
    store.put("sheets/a/bc", b"another key with the same beginning").unwrap();
    store.delete("sheets/a/b").unwrap();
    assert_eq!(fake.versions("sheets/a/"), 1, "the other key stays");
    assert_eq!(store.list_versions("sheets/").unwrap().len(), 1);
    assert_eq!(store.get("sheets/a/bc").unwrap(), b"another key with the same beginning");
}

#[test]
fn what_a_crash_left_behind_is_found_and_removed() {
    let fake = Fake::versioned();
    let store = fake.store();
    for n in 0..20 {
        store.put(&format!("sheets/crm/{n}"), b"new").unwrap();
        fake.plant(&format!("sheets/crm/{n}"), b"an old sheet with keys");
    }
    store.put("packs/crm/aa/p", b"pack").unwrap();
    fake.plant("packs/crm/aa/p", b"old");
    assert_eq!(store.list_versions("sheets/").unwrap().iter().filter(|v| !v.is_latest).count(), 20);
    fake.abandon_upload("packs/crm/aa/x", 7200);
    fake.abandon_upload("packs/crm/aa/y", 60);
    assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 21);
    assert_eq!(fake.versions("sheets/"), 20);
    assert_eq!(fake.uploads(), 1, "a young upload may be somebody's");
    assert_eq!(fake.versions("packs/"), 2, "packs are the sweep's business");
    assert_eq!(store.get("sheets/crm/7").unwrap(), b"new");
}

#[test]
fn large_objects_go_in_parts() {
    let fake = Fake::start();
    let store = fake.store();
    let bytes: Vec<u8> = (0..(20 << 20) + 5u32).map(|i| (i % 251) as u8).collect();
    store.put("packs/crm/aa/big", &bytes).unwrap();
    assert_eq!(store.get("packs/crm/aa/big").unwrap(), bytes);
    assert_eq!(store.get_range("packs/crm/aa/big", 20 << 20, 5).unwrap(), bytes[20 << 20..]);
    assert_eq!(fake.bucket().log.iter().filter(|l| l.starts_with("UploadPart")).count(), 2, "parts of the same length, and no short one");
    let shared = std::sync::Arc::new(bytes.clone());
    store.put_shared("packs/crm/aa/shared", &shared).unwrap();
    assert_eq!(store.get("packs/crm/aa/shared").unwrap(), bytes);
    // A part that is lost twice, and a completion whose answer is lost.
    fake.fail(Op::Put, 2, Fault::Lost);
    store.put("packs/crm/aa/big2", &bytes).unwrap();
    fake.schedule({
        let mut done = false;
        let inner = fake.inner.clone();
        move |op, _| {
            let completing = inner.lock().unwrap().log.last().is_some_and(|l| l.starts_with("Complete"));
            (op == Op::Put && completing && !std::mem::replace(&mut done, completing)).then_some(Fault::Lost)
        }
    });
    store.put("packs/crm/aa/big3", &bytes).unwrap();
    assert_eq!(store.get("packs/crm/aa/big3").unwrap().len(), bytes.len());
    assert_eq!(fake.uploads(), 2, "the beginnings of which the answer got lost are left, for a later sweep");
}

#[test]
fn passing_faults_pass() {
    let fake = Fake::versioned();
    let store = fake.store();
    for fault in [Fault::Refuse("InternalError"), Fault::Refuse("SlowDown"), Fault::Lost, Fault::Refuse("BadDigest")] {
        fake.fail(Op::Any, 2, fault);
        store.put("a/b", b"0123456789").unwrap();
        fake.fail(Op::Any, 2, fault);
        assert_eq!(store.get("a/b").unwrap(), b"0123456789");
        fake.fail(Op::Any, 2, fault);
        assert_eq!(store.list("a/").unwrap().len(), 1);
        fake.fail(Op::Any, 2, fault);
        store.delete("a/b").unwrap();
        assert_eq!(fake.versions(""), 0);
    }
    store.put("a/b", b"0123456789").unwrap();
    for fault in [Fault::Cut, Fault::Garbled] {
        fake.fail(Op::Get, 2, fault);
        assert_eq!(store.get("a/b").unwrap(), b"0123456789", "{fault:?}");
    }
    // The first attempt takes longer than it may.
    fake.fail(Op::Get, 1, Fault::Slow(4000));
    assert_eq!(store.get("a/b").unwrap(), b"0123456789");
    assert!(store.requests().unwrap().again >= 18);
}

#[test]
fn a_lost_answer_does_not_lose_the_race() {
    let fake = Fake::versioned();
    let store = fake.store();
    fake.fail(Op::Put, 1, Fault::Lost);
    assert!(store.put_if_absent("leases/crm", b"mine").unwrap(), "the first attempt won, and its answer got lost");
    fake.fail(Op::Put, 1, Fault::Lost);
    assert!(!store.put_if_absent("leases/crm", b"other").unwrap());
    fake.fail(Op::Put, 1, Fault::Lost);
    assert!(store.replace_if("leases/crm", b"mine", b"renewed").unwrap());
    fake.heal();
    assert_eq!(store.get("leases/crm").unwrap(), b"renewed");
    fake.fail(Op::Put, 2, Fault::Refuse("ConditionalRequestConflict"));
    assert!(store.replace_if("leases/crm", b"renewed", b"again").unwrap());
}

#[test]
fn a_pack_that_was_sent_twice_is_there_once() {
    let fake = Fake::versioned();
    let store = fake.store();
    fake.fail(Op::Put, 2, Fault::Lost);
    store.put("packs/crm/aa/p", b"pack").unwrap();
    assert_eq!(fake.versions("packs/"), 1);
}

#[test]
fn a_replacement_whose_answer_got_lost_leaves_nothing_behind_it() {
    let fake = Fake::versioned();
    let store = fake.store();
    for key in ["archives/crm/a.1", "sheets/crm/p"] {
        store.put(key, b"old").unwrap();
        fake.fail(Op::Put, 1, Fault::Lost);
        assert!(store.replace_if(key, b"old", b"new").unwrap());
        assert_eq!((fake.versions(key), store.get(key).unwrap()), (1, b"new".to_vec()), "{key}");
    }
}

#[test]
fn what_is_behind_a_living_object_goes_and_the_object_stays() {
    let fake = Fake::versioned();
    let store = fake.store();
    let keys: Vec<String> = (0..6).map(|n| format!("archives/crm/{n}.1")).collect();
    for key in &keys {
        store.put(key, b"lives").unwrap();
        fake.plant(key, b"old");
        fake.plant_marker(key);
        fake.plant(key, b"older");
    }
    store.put("archives/crm/hidden.1", b"x").unwrap();
    fake.bucket().default_days = Some(30);
    assert!(store.replace_if("archives/crm/hidden.1", b"x", b"y").unwrap());
    assert!(store.delete("archives/crm/hidden.1").is_err());
    fake.bucket().default_days = None;
    let before = fake.versions("archives/crm/hidden.1");
    assert!(store.delete_old(&["archives/crm/hidden.1".into(), "archives/crm/none.1".into()]).is_empty());
    assert_eq!(fake.versions("archives/crm/hidden.1"), before, "behind a marker nothing lives");
    assert!(store.delete_old(&keys).is_empty());
    for key in &keys {
        assert_eq!((fake.versions(key), store.get(key).unwrap()), (1, b"lives".to_vec()), "{key}");
    }
    // Locked: said with its end, and gone after it.
    fake.bucket().default_days = Some(30);
    assert!(store.replace_if(&keys[0], b"lives", b"locked").unwrap());
    assert!(store.replace_if(&keys[0], b"locked", b"new").unwrap(), "a lock on an old head stops nothing");
    assert!(matches!(store.delete_old(&keys)[..], [(ref key, StoreError::Locked { until: Some(_), .. })] if *key == keys[0]));
    assert_eq!(store.get(&keys[0]).unwrap(), b"new");
    fake.unlock();
    assert!(store.delete_old(&keys).is_empty());
    assert_eq!(fake.versions(&keys[0]), 1);
    // Not allowed is not locked.
    fake.plant(&keys[0], b"old");
    fake.bucket().denied = vec!["DeleteObject", "DeleteObjects"];
    assert!(matches!(store.delete_old(&keys)[..], [(_, StoreError::Failed { .. })]));
    assert!(store.replace_if(&keys[0], b"new", b"newer").is_err());
}

#[test]
fn lasting_faults_are_said_clearly_and_soon() {
    let fake = Fake::start();
    let store = fake.store();
    store.put("a/b", b"x").unwrap();
    let said = |code: &'static str| {
        fake.fail(Op::Any, u32::MAX, Fault::Refuse(code));
        let started = Instant::now();
        let text = store.get("a/b").unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(2), "{code}");
        text
    };
    assert!(said("ExpiredToken").contains("credentials have expired"));
    assert!(said("RequestTimeTooSkewed").contains("set the clock"));
    assert!(said("AccessDenied").contains("do not allow"));
    assert!(said("SignatureDoesNotMatch").contains("secret key"));
    fake.heal();
    fake.bucket().gone = true;
    let gone = store.get("a/b").unwrap_err();
    assert!(!gone.is_missing() && gone.to_string().contains("bucket is not there"), "{gone}");
    assert!(store.list("a/").unwrap_err().to_string().contains("bucket is not there"));
    assert!(store.put("a/c", b"x").is_err() && store.delete("a/b").is_err());
    fake.bucket().gone = false;
    assert_eq!(store.get("a/b").unwrap(), b"x");
    // A budget ends.
    let hasty = S3Store::open(Options { patience: Duration::from_secs(1), ..fake.options() }, &Env::system()).unwrap();
    fake.fail(Op::Any, u32::MAX, Fault::Refuse("SlowDown"));
    let started = Instant::now();
    assert!(hasty.get("a/b").unwrap_err().to_string().contains("fewer requests"));
    assert!(started.elapsed() < Duration::from_secs(8));
    // A secret that does not fit.
    fake.heal();
    fake.write_credentials(super::fake::ACCESS, "wrong");
    assert!(fake.store().get("a/b").unwrap_err().to_string().contains("secret key does not fit"));
}

#[test]
fn a_service_that_is_gone_is_waited_for_once() {
    let fake = Fake::start();
    let hasty = S3Store::open(Options { patience: Duration::from_secs(1), ..fake.options() }, &Env::system()).unwrap();
    hasty.put("a/b", b"x").unwrap();
    fake.fail(Op::Any, u32::MAX, Fault::Refuse("InternalError"));
    let started = Instant::now();
    for _ in 0..20 {
        let said = hasty.get("a/b").unwrap_err().to_string();
        assert!(said.contains(&fake.endpoint), "{said}");
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // And when it is back, everything is as before.
    fake.fail(Op::Any, 0, Fault::Lost);
    hasty.get("a/b").unwrap();
    fake.fail(Op::Any, 2, Fault::Refuse("InternalError"));
    hasty.get("a/b").unwrap();
    // Nobody listens at all.
    let endpoint = "http://127.0.0.1:9".to_string();
    let nobody = Options { endpoint: Some(endpoint), patience: Duration::from_secs(1), ..fake.options() };
    let said = S3Store::open(nobody, &Env::system()).unwrap().get("a/b").unwrap_err().to_string();
    assert!(said.contains("http://127.0.0.1:9 cannot be reached") && said.contains("run the same command again"), "{said}");
}

#[test]
fn who_may_not_list_is_told_denied_from_missing_where_it_can_be_told() {
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("leases/crm", b"x").unwrap();
    fake.bucket().denied = vec!["GetObject"];
    assert!(store.get("leases/other").unwrap_err().is_missing());
    assert!(store.get_range("leases/other", 0, 1).unwrap_err().is_missing());
    let denied = store.get("leases/crm").unwrap_err();
    assert!(!denied.is_missing() && denied.to_string().contains("do not allow"), "{denied}");
    fake.bucket().denied = vec!["GetObject", "ListObjectsV2"];
    assert!(!store.get("leases/other").unwrap_err().is_missing(), "not known is not gone");
    // Who may not see versions may add what hosts hand in, and nothing that holds keys.
    fake.bucket().denied = vec!["ListObjectVersions", "GetBucketVersioning"];
    for key in ["intake/crm/a/head", "known/crm/a", "packs/crm/aa/p"] {
        store.put(key, b"x").unwrap();
        store.put(key, b"x").unwrap();
    }
    assert!(store.replace_if("leases/crm", b"x", b"y").unwrap());
    assert!(store.put("sheets/crm/s", b"x").is_err());
    fake.bucket().denied.clear();
    store.delete("intake/crm/a/head").unwrap();
    assert_eq!(fake.versions("intake/"), 0, "who admits it removes what is behind it");
}

#[test]
fn a_batch_that_goes_in_part_is_completed_or_told() {
    for fake in [Fake::start(), Fake::versioned()] {
        let store = fake.store();
        let keys: Vec<String> = (0..23).map(|n| format!("packs/crm/aa/{n}")).collect();
        keys.iter().for_each(|k| store.put(k, b"x").unwrap());
        fake.fail(Op::Delete, 1, Fault::HalfBatch);
        assert!(store.delete_many(&keys).is_empty());
        assert_eq!(fake.versions("packs/"), 0);
        keys.iter().for_each(|k| store.put(k, b"x").unwrap());
        fake.bucket().denied = vec!["DeleteObject", "DeleteObjects"];
        assert_eq!(store.delete_many(&keys).len(), 23);
        fake.bucket().denied.clear();
        assert!(store.delete_many(&keys).is_empty());
    }
}

#[test]
fn locked_packs_stay_hidden_until_the_lock_ends() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    let lock = Lock { mode: LockMode::Governance, days: 30 };
    let store = S3Store::open(Options { locks: [("crm".to_string(), lock)].into(), ..fake.options() }, &Env::system()).unwrap();
    store.put("packs/crm/aa/p", b"locked").unwrap();
    store.put("packs/other/aa/p", b"free").unwrap();
    store.put("sheets/crm/p", b"free").unwrap();
    store.delete("packs/other/aa/p").unwrap();
    store.delete("sheets/crm/p").unwrap();
    for _ in 0..2 {
        match store.delete("packs/crm/aa/p").unwrap_err() {
            StoreError::Locked { until: Some(until), .. } => {
                let days = (until.as_second() - Env::system().now().as_second()) / 86_400;
                assert!((29..=30).contains(&days));
            }
            other => panic!("{other}"),
        }
        assert!(store.list("packs/").unwrap().is_empty(), "hidden");
        assert_eq!(store.list_versions("packs/").unwrap().len(), 2, "the pack and one marker, however often");
    }
    assert!(matches!(store.delete_many(&["packs/crm/aa/p".into()])[..], [(_, StoreError::Locked { .. })]));
    fake.unlock();
    fake.hold("packs/crm/aa/p", true);
    assert!(matches!(store.delete("packs/crm/aa/p"), Err(StoreError::Locked { until: None, .. })));
    fake.hold("packs/crm/aa/p", false);
    store.delete("packs/crm/aa/p").unwrap();
    assert_eq!(fake.versions("packs/"), 0);
    // Not allowed is not locked.
    store.put("packs/other/aa/q", b"x").unwrap();
    fake.bucket().denied = vec!["DeleteObject"];
    assert!(matches!(store.delete("packs/other/aa/q"), Err(StoreError::Failed { .. })));
}

#[test]
fn a_locked_pack_that_was_sent_twice_is_hidden_like_one_that_was_sent_once() {
    let fake = Fake::versioned();
    fake.bucket().lockable = true;
    let lock = Lock { mode: LockMode::Compliance, days: 30 };
    let store = S3Store::open(Options { locks: [("crm".to_string(), lock)].into(), ..fake.options() }, &Env::system()).unwrap();
    let keys = ["packs/crm/aa/p".to_string(), "packs/crm/aa/q".to_string()];
    for key in &keys {
        fake.fail(Op::Put, 1, Fault::Lost);
        store.put(key, b"pack").unwrap();
        assert_eq!(fake.versions(key), 2, "both are locked");
    }
    for _ in 0..2 {
        assert!(matches!(store.delete(&keys[0]), Err(StoreError::Locked { until: Some(_), .. })));
        assert!(matches!(store.delete_many(&keys)[..], [(_, StoreError::Locked { .. }), (_, StoreError::Locked { .. })]));
        assert!(store.list("packs/").unwrap().is_empty(), "hidden");
        assert!(keys.iter().all(|key| fake.versions(key) == 3), "one marker, however often");
    }
    fake.unlock();
    assert!(store.delete_many(&keys).is_empty());
    assert_eq!(fake.versions("packs/"), 0);
}

#[test]
fn what_a_lock_keeps_does_not_come_to_light_when_what_is_in_front_of_it_goes() {
    for hold in [false, true] {
        let fake = Fake::versioned();
        let store = fake.store();
        let keys: Vec<String> = (0..3).map(|n| format!("archives/crm/{n}.1")).collect();
        for key in &keys {
            fake.bucket().default_days = Some(30);
            store.put(key, b"old and locked").unwrap();
            fake.bucket().default_days = None;
            if hold {
                fake.hold(key, true);
            }
            assert!(store.replace_if(key, b"old and locked", b"free").unwrap());
        }
        let left = store.delete_many(&keys);
        assert!(left.len() == 3 && left.iter().all(|(_, e)| matches!(e, StoreError::Locked { until, .. } if until.is_none() == hold)));
        assert!(store.list("").unwrap().is_empty() && store.get(&keys[0]).unwrap_err().is_missing());
        assert!(keys.iter().all(|key| fake.versions(key) == 2), "the locked version and a marker; what was free is gone");
        fake.unlock();
        keys.iter().for_each(|key| fake.hold(key, false));
        assert!(store.delete_many(&keys).is_empty());
        assert_eq!(fake.versions(""), 0);
    }
    // A bucket that keeps no new versions any more: the marker takes the place of what is in front.
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("packs/crm/aa/p", b"old").unwrap();
    fake.hold("packs/crm/aa/p", true);
    fake.bucket().versioning = Some("Suspended");
    store.put("packs/crm/aa/p", b"free").unwrap();
    assert!(matches!(store.delete("packs/crm/aa/p"), Err(StoreError::Locked { until: None, .. })));
    assert_eq!((store.list("").unwrap().len(), fake.versions("")), (0, 2));
}

#[test]
fn a_wish_to_stop_aborts_uploads_and_waits_for_nothing() {
    let fake = Fake::start();
    let stop = Stop::default();
    let env = Env { stop: stop.clone(), ..Env::system() };
    let store = S3Store::open(Options { timeout: Duration::from_secs(60), ..fake.options() }, &env).unwrap();
    fake.schedule(|op, key| (op == Op::Put && key.ends_with("big")).then_some(Fault::Slow(300)));
    let bytes = vec![7u8; 40 << 20];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(450));
            stop.request();
        });
        let started = Instant::now();
        assert!(store.put("packs/crm/aa/big", &bytes).unwrap_err().to_string().contains("stopped"));
        assert!(started.elapsed() < Duration::from_secs(5));
    });
    assert_eq!(fake.uploads(), 0, "the upload was aborted");
    assert!(store.put("leases/crm", b"given back").is_ok(), "what is small still goes");
    fake.fail(Op::Any, u32::MAX, Fault::Refuse("SlowDown"));
    let started = Instant::now();
    assert!(store.get("leases/crm").is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "no more attempts");
}

#[test]
fn what_a_bucket_does_by_itself_is_named() {
    let fake = Fake::start();
    let store = fake.store();
    let level = |aspect: Aspect| store.inspect().into_iter().find(|f| f.aspect == aspect).unwrap().level;
    assert!(store.inspect().iter().all(|f| f.level == Level::Fine), "{:?}", store.inspect());
    {
        let mut bucket = fake.bucket();
        bucket.versioning = Some("Enabled");
        bucket.replication = vec![copying(None)];
        (bucket.lockable, bucket.default_days) = (true, Some(7));
        bucket.lifecycle = vec![expiring("ours", "backups/"), expiring("theirs", "logs/")];
    }
    let findings = store.inspect();
    let text = |aspect: Aspect| findings.iter().filter(|f| f.aspect == aspect).map(|f| f.text.clone()).collect::<Vec<_>>().join("; ");
    assert!(text(Aspect::Replication).contains("elsewhere"));
    assert!(text(Aspect::Lifecycle).contains("ours") && !text(Aspect::Lifecycle).contains("theirs"));
    assert!(text(Aspect::Locks).contains("7 days"));
    assert_eq!((level(Aspect::Versions), level(Aspect::Replication)), (Level::Note, Level::Warning));
    assert_eq!(store.default_retention().unwrap().unwrap(), "7 days (governance)");
    fake.bucket().denied =
        vec!["GetBucketReplication", "GetBucketLifecycleConfiguration", "GetObjectLockConfiguration", "GetBucketVersioning"];
    assert!(store.inspect().iter().all(|f| f.level == Level::Unknown));
    assert!(store.default_retention().is_err(), "not known is not none");
    assert_eq!(store.region().unwrap(), Region::Configured("us-east-1".into()), "the service names none");
    fake.bucket().region = Some("eu-central-1".into());
    assert_eq!(store.region().unwrap(), Region::Named("eu-central-1".into()));
    fake.bucket().region = None;
    fake.bucket().denied = vec!["HeadBucket", "GetBucketLocation"];
    assert!(store.region().is_err(), "what may not be asked is not known");
}

#[test]
fn objects_are_put_as_configured() {
    let fake = Fake::start();
    let encryption = Some(Encryption::SseKms(Some("key-1".into())));
    let options = Options { encryption, storage_class: Some("STANDARD_IA".into()), ..fake.options() };
    let store = S3Store::open(options, &Env::system()).unwrap();
    store.put("packs/crm/aa/p", b"x").unwrap();
    store.put("packs/crm/aa/in-parts", &vec![7; (16 << 20) + 1]).unwrap();
    store.put("sheets/crm/p", b"x").unwrap();
    assert!(store.put_if_absent("requests/r", b"x").unwrap() && store.replace_if("requests/r", b"x", b"y").unwrap());
    let plain = S3Store::open(Options { encryption: Some(Encryption::SseS3), ..fake.options() }, &Env::system()).unwrap();
    plain.put("sheets/crm/q", b"x").unwrap();
    let log = fake.bucket().log.join("\n");
    for line in [
        r#"shape backups/here/packs/crm/aa/p [Some("aws:kms"), Some("key-1"), Some("STANDARD_IA")]"#,
        r#"shape backups/here/packs/crm/aa/in-parts [Some("aws:kms"), Some("key-1"), Some("STANDARD_IA")]"#,
        r#"shape backups/here/sheets/crm/p [Some("aws:kms"), Some("key-1"), None]"#,
        r#"shape backups/here/sheets/crm/q [Some("AES256"), None, None]"#,
    ] {
        assert!(log.contains(line), "{log}");
    }
    assert_eq!(log.matches(r#"requests/r [Some("aws:kms"), Some("key-1"), None]"#).count(), 2, "conditional writes too: {log}");
}

#[test]
fn bandwidth_is_limited() {
    let fake = Fake::start();
    let store = S3Store::open(Options { bandwidth: Some(1 << 20), ..fake.options() }, &Env::system()).unwrap();
    let started = Instant::now();
    for n in 0..4 {
        store.put(&format!("packs/crm/aa/{n}"), &[0; 512 << 10]).unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(1400), "{:?}", started.elapsed());
}

#[test]
fn what_is_read_counts_against_the_bandwidth_as_well() {
    let fake = Fake::start();
    fake.store().put("packs/crm/aa/p", &[0; 512 << 10]).unwrap();
    let limited = S3Store::open(Options { bandwidth: Some(1 << 20), ..fake.options() }, &Env::system()).unwrap();
    let started = Instant::now();
    for _ in 0..4 {
        limited.get("packs/crm/aa/p").unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(1400), "{:?}", started.elapsed());
}

#[test]
fn a_large_object_on_a_slow_line_has_the_time_that_its_length_takes() {
    let fake = Fake::start();
    fake.store().put("packs/crm/aa/p", &[7; 256 << 10]).unwrap();
    fake.store().put("packs/crm/aa/small", &[7; 1 << 10]).unwrap();
    // Four seconds more by its length, which nobody knows before the answer begins.
    let hasty = Options { timeout: Duration::from_millis(300), patience: Duration::ZERO, ..fake.options() };
    let hasty = S3Store::open(hasty, &Env::system()).unwrap();
    fake.fail(Op::Get, 2, Fault::Drip(80));
    assert_eq!(hasty.get("packs/crm/aa/p").unwrap(), [7; 256 << 10]);
    let said = hasty.get("packs/crm/aa/small").unwrap_err().to_string();
    assert!(said.contains("no answer in time"), "what is small gets no more time: {said}");
}

#[test]
fn a_service_that_lists_no_versions_has_none() {
    for unknown in [&["ListObjectVersions"][..], &["ListObjectVersions", "GetBucketVersioning"]] {
        let fake = Fake::start();
        fake.bucket().unknown = unknown.to_vec();
        conformance::all(&fake.store());
        assert_eq!(fake.store().remove_leftovers(&|_| false).unwrap(), 0);
    }
    // Who may not ask whether there are versions looks for them, and finds that they cannot be listed.
    let fake = Fake::start();
    fake.bucket().unknown = vec!["ListObjectVersions"];
    fake.bucket().denied = vec!["GetBucketVersioning"];
    conformance::all(&fake.store());
    assert_eq!(fake.store().remove_leftovers(&|_| false).unwrap(), 0);
    // Where there are none, nobody needs a right to list them.
    let fake = Fake::start();
    fake.bucket().denied = vec!["ListObjectVersions"];
    fake.store().put("a/b", b"x").unwrap();
    assert_eq!(fake.store().list_versions("a/").unwrap().len(), 1);
}

#[test]
fn versions_that_cannot_be_listed_are_not_taken_for_none() {
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("sheets/crm/s", b"new").unwrap();
    fake.plant("sheets/crm/s", b"old");
    fake.bucket().unknown = vec!["ListObjectVersions"];
    assert!(store.list_versions("sheets/").is_err(), "the bucket says that it keeps versions");
    fake.bucket().unknown.clear();
    for status in [vec!["GetBucketVersioning"], vec![]] {
        fake.bucket().denied = status.clone();
        assert_eq!(fake.store().list_versions("sheets/").unwrap().len(), 2, "{status:?}");
    }
    fake.bucket().unknown = vec!["GetBucketVersioning"];
    assert_eq!(fake.store().list_versions("sheets/").unwrap().len(), 2);
    fake.bucket().denied = vec!["ListObjectVersions"];
    assert!(fake.store().list_versions("sheets/").is_err(), "not known is not none");
    fake.bucket().unknown.clear();
    assert!(fake.store().list_versions("sheets/").is_err());
}

#[test]
fn who_may_not_read_back_a_pack_whose_answer_got_lost_sends_it_once_more() {
    let bytes: Vec<u8> = (0..(20 << 20) + 5u32).map(|i| (i % 251) as u8).collect();
    for fake in [Fake::start(), Fake::versioned()] {
        let store = fake.store();
        let lose = |mut times: u32| {
            let inner = fake.inner.clone();
            fake.schedule(move |op, _| {
                let completing = inner.lock().unwrap().log.last().is_some_and(|l| l.starts_with("Complete"));
                let lost = op == Op::Put && completing && times > 0;
                times -= u32::from(lost);
                lost.then_some(Fault::Lost)
            });
        };
        fake.bucket().denied = vec!["GetObject", "HeadObject", "ListObjectsV2", "ListObjectVersions", "GetBucketVersioning"];
        lose(1);
        store.put("packs/crm/aa/p", &bytes).unwrap();
        assert_eq!(fake.bucket().log.iter().filter(|l| l.starts_with("CreateMultipartUpload")).count(), 2);
        // May read, and not see versions.
        fake.bucket().denied = vec!["ListObjectVersions", "GetBucketVersioning"];
        lose(1);
        store.put("packs/crm/aa/q", &bytes).unwrap();
        // What holds keys is never left with a version behind it that nobody looked for.
        lose(1);
        assert!(store.put("sheets/crm/s", &bytes).is_err() || fake.versions("sheets/") == 1);
        fake.heal();
        fake.bucket().denied.clear();
        for key in ["packs/crm/aa/p", "packs/crm/aa/q"] {
            assert!(store.get(key).unwrap() == bytes, "{key}");
        }
    }
}

#[test]
fn a_rule_that_copies_something_else_is_no_danger() {
    use s3s::dto::{ReplicationRule, ReplicationRuleAndOperator, ReplicationRuleFilter, ReplicationRuleStatus, Tag};
    let fake = Fake::start();
    let store = fake.store();
    let begins = |prefix: &str| ReplicationRuleFilter { prefix: Some(prefix.into()), ..Default::default() };
    let tag = || Tag { key: Some("kind".into()), value: Some("public".into()) };
    let both = |prefix: &str| {
        let and = ReplicationRuleAndOperator { prefix: Some(prefix.into()), tags: Some(vec![tag()]) };
        ReplicationRuleFilter { and: Some(and), ..Default::default() }
    };
    let old = |prefix: &str| ReplicationRule { prefix: Some(prefix.into()), ..copying(None) };
    let tagged = ReplicationRuleFilter { tag: Some(tag()), ..Default::default() };
    let off = ReplicationRuleStatus::from_static(ReplicationRuleStatus::DISABLED);
    let level = |rules: Vec<ReplicationRule>| {
        fake.bucket().replication = rules;
        store.inspect().into_iter().find(|f| f.aspect == Aspect::Replication).unwrap().level
    };
    for elsewhere in [copying(Some(begins("backups/data/"))), copying(Some(both("logs/"))), old("backups/data/")] {
        assert_eq!(level(vec![elsewhere.clone()]), Level::Fine, "{elsewhere:?}");
    }
    assert_eq!(level(vec![ReplicationRule { status: off, ..copying(None) }]), Level::Fine);
    for here in [
        copying(None),
        copying(Some(ReplicationRuleFilter::default())),
        copying(Some(begins("backups/"))),
        copying(Some(begins("backups/here/sheets/"))),
        copying(Some(begins("back"))),
        copying(Some(both("backups/"))),
        copying(Some(tagged)),
        old("backups/here"),
        old(""),
    ] {
        assert_eq!(level(vec![copying(Some(begins("logs/"))), here.clone()]), Level::Warning, "{here:?}");
    }
}

/// The buckets of a real server, in which every test has a prefix of its own.
fn real(variable: &str) -> Option<Options> {
    let endpoint = std::env::var("RESEAL_TEST_S3_ENDPOINT").ok();
    let bucket = std::env::var(variable).ok();
    let (Some(endpoint), Some(bucket)) = (endpoint, bucket) else {
        eprintln!("!!!!!!!! SKIPPED: RESEAL_TEST_S3_ENDPOINT or {variable} is not set; scripts/s3-server run … sets them !!!!!!!!");
        return None;
    };
    let prefix = format!("unit/{}", hex::encode(crate::env::random_bytes::<8>(&crate::env::SystemRandom).unwrap()));
    Some(Options { endpoint: Some(endpoint), path_style: true, ..Options::new(bucket, prefix) })
}

#[test]
fn conforms_on_a_real_server() {
    for variable in ["RESEAL_TEST_S3_BUCKET", "RESEAL_TEST_S3_VERSIONED", "RESEAL_TEST_S3_LOCKABLE"] {
        let Some(options) = real(variable) else { return };
        let store = S3Store::open(options, &Env::system()).unwrap();
        conformance::all(&store);
        let big: Vec<u8> = (0..(20 << 20) + 5u32).map(|i| (i % 251) as u8).collect();
        store.put("packs/crm/aa/big", &big).unwrap();
        assert_eq!(store.get_range("packs/crm/aa/big", (10 << 20) - 3, 9).unwrap(), big[(10 << 20) - 3..(10 << 20) + 6]);
        assert!(store.get("packs/crm/aa/big").unwrap() == big);
        let keys: Vec<String> = (0..30).map(|n| format!("packs/crm/bb/{n}")).collect();
        keys.iter().for_each(|k| store.put(k, b"x").unwrap());
        for n in 0..3u8 {
            store.put("sheets/crm/s", &[n]).unwrap();
        }
        assert!(store.delete_many(&keys).is_empty());
        store.delete("packs/crm/aa/big").unwrap();
        assert_eq!(store.list_versions("packs/").unwrap(), vec![]);
        let sheets = store.list_versions("sheets/").unwrap();
        assert!(matches!(&sheets[..], [one] if one.is_latest && !one.is_delete_marker), "{variable}: {sheets:?}");
        assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 0);
        for finding in store.inspect() {
            eprintln!("{variable}: {}: {:?}: {}", finding.aspect.as_str(), finding.level, finding.text);
        }
        eprintln!("{variable}: region {:?}", store.region());
        for object in store.list("").unwrap() {
            store.delete(&object.key).unwrap();
        }
        assert_eq!(store.list_versions("").unwrap(), vec![], "{variable}");
    }
}

#[test]
fn writers_of_a_real_server_lose_nothing_to_a_sweep_beside_them() {
    let Some(options) = real("RESEAL_TEST_S3_VERSIONED") else { return };
    let store = S3Store::open(options, &Env::system()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let key = |writer: u8, n: u8| format!("sheets/{writer}/{n}");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u8)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..30 {
                        let key = key(writer, n);
                        store.put(&key, b"old").unwrap();
                        store.put(&key, b"newer").unwrap();
                        assert!(store.replace_if(&key, b"newer", b"newest").unwrap(), "{key}");
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                store.remove_leftovers(&|_| false).unwrap();
                let keys: Vec<String> = store.list("sheets/").unwrap().into_iter().map(|o| o.key).collect();
                assert!(store.delete_old(&keys).is_empty());
            }
        });
        let ended: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        ended.into_iter().for_each(|e| e.unwrap());
    });
    for (writer, n) in (0..3).flat_map(|w| (0..30).map(move |n| (w, n))) {
        assert_eq!(store.get(&key(writer, n)).unwrap(), b"newest", "{writer} {n}");
    }
    store.remove_leftovers(&|_| false).unwrap();
    assert_eq!(store.list_versions("sheets/").unwrap().len(), 90);
}

#[test]
fn locks_of_a_real_server_hold() {
    let Some(options) = real("RESEAL_TEST_S3_LOCKABLE") else { return };
    let lock = Lock { mode: LockMode::Governance, days: 1 };
    let store = S3Store::open(Options { locks: [("crm".to_string(), lock)].into(), ..options }, &Env::system()).unwrap();
    assert_eq!((store.can_lock(), store.default_retention().unwrap()), (Some(true), None));
    store.put("packs/crm/aa/p", b"locked").unwrap();
    store.put("packs/crm/aa/big", &vec![1; 17 << 20]).unwrap();
    (0..2).for_each(|_| store.put("packs/crm/aa/twice", b"sent twice").unwrap());
    store.put("packs/other/aa/p", b"free").unwrap();
    store.delete("packs/other/aa/p").unwrap();
    for key in ["packs/crm/aa/p", "packs/crm/aa/big", "packs/crm/aa/twice"] {
        assert!(matches!(store.delete(key), Err(StoreError::Locked { until: Some(_), .. })), "{key}");
    }
    assert!(store.list("").unwrap().is_empty());
    let left: std::collections::BTreeSet<_> = store.list_versions("").unwrap().into_iter().map(|v| v.key).collect();
    assert_eq!(left.len(), 3);
}

#[test]
fn only_ways_that_nobody_can_alter_go_without_a_signature_of_every_byte() {
    let way = super::client::is_private_way;
    for private in [
        None,
        Some("https://s3.example.org"),
        Some("HTTPS://10.0.0.1:9000"),
        Some("http://127.0.0.1:8333"),
        Some("http://[::1]:8333/x"),
        Some("http://localhost"),
    ] {
        assert!(way(private), "{private:?}");
    }
    for open in
        ["http://s3.example.org", "http://10.0.0.1:9000", "http://localhost.example.org", "http://127.0.0.1:1@example.org", "127.0.0.1", ""]
    {
        assert!(!way(Some(open)), "{open}");
    }
}

#[test]
fn what_hides_behind_a_marker_stays_where_it_is_spared() {
    let fake = Fake::versioned();
    let store = fake.store();
    for key in ["datasets/a", "datasets/b"] {
        store.put(key, b"keys of a dataset").unwrap();
    }
    fake.plant("datasets/a", b"an older state of it");
    // Somebody else deletes both.
    fake.mark_deleted("datasets/a");
    fake.mark_deleted("datasets/b");
    assert_eq!(store.remove_leftovers(&|key| key == "datasets/a").unwrap(), 2);
    assert_eq!((fake.versions("datasets/a"), fake.versions("datasets/b")), (3, 0));
    assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 3);
    assert_eq!(fake.versions("datasets/a"), 0);
}

#[test]
fn what_somebody_else_is_writing_is_no_old_version() {
    let fake = Fake::versioned();
    let store = fake.store();
    for key in ["sheets/crm/s", "requests/a", "datasets/b"] {
        store.put(key, b"first").unwrap();
    }
    fake.plant("sheets/crm/s", b"an older one");
    fake.arriving("sheets/crm/s", b"another's", 0);
    // By all ways on which old versions go.
    store.put("sheets/crm/s", b"second").unwrap();
    assert!(store.delete_old(&["sheets/crm/s".to_string()]).is_empty());
    assert_eq!(fake.versions("sheets/crm/s"), 2);
    fake.arriving("requests/a", b"another's", 0);
    assert!(store.replace_if("requests/a", b"first", b"second").unwrap());
    // One that nobody had written before; and one that a service has never made the latest.
    fake.arriving("slots/new", b"another's", 0);
    fake.arriving("slots/never", b"nobody's", 7200);
    // In front of somebody's marker.
    fake.mark_deleted("datasets/b");
    fake.arriving("datasets/b", b"another's", 0);
    assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 1);
    fake.arrive();
    for key in ["sheets/crm/s", "requests/a", "slots/new", "datasets/b"] {
        assert_eq!(store.get(key).unwrap(), b"another's", "{key}");
    }
    assert_eq!(store.list_versions("slots/").unwrap().len(), 1);
    // Once it has arrived, what it replaced is old.
    assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 4);
    assert_eq!((fake.versions("sheets/"), fake.versions("requests/"), fake.versions("datasets/")), (1, 1, 1));
}

#[test]
fn what_is_behind_a_lease_goes_when_nobody_can_be_reading_it() {
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("leases/a", b"first").unwrap();
    assert!(store.replace_if("leases/a", b"first", b"second").unwrap());
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), fake.versions("leases/")), (0, 2));
    fake.age("leases/a", 3700);
    assert!(store.replace_if("leases/a", b"second", b"third").unwrap());
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), fake.versions("leases/")), (2, 1));
    assert_eq!(store.get("leases/a").unwrap(), b"third");
}

#[test]
fn every_body_goes_with_a_checksum_whatever_the_environment_says() {
    const SWITCH: &str = "AWS_REQUEST_CHECKSUM_CALCULATION";
    if std::env::var_os(SWITCH).is_none() {
        let name = "store::s3::tests::every_body_goes_with_a_checksum_whatever_the_environment_says";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let ran = again.args(["--exact", name]).env(SWITCH, "when_required").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    }
    let fake = Fake::start();
    let store = fake.store();
    for (key, len) in [("sheets/a", 100), ("packs/crm/aa/a", 1 << 20), ("packs/crm/aa/b", 17 << 20)] {
        store.put(key, &vec![7; len]).unwrap();
    }
    let log = fake.bucket().log.clone();
    let sums: Vec<&String> = log.iter().filter(|l| l.starts_with("checksum")).collect();
    assert_eq!(sums.len(), 4, "{log:?}");
    assert!(sums.iter().all(|s| s.ends_with("crc32")), "{sums:?}");
}

#[test]
fn thousands_of_objects_are_listed_and_removed_to_the_last() {
    const MANY: usize = 2_300;
    let fill = |store: &S3Store| -> Vec<String> {
        let keys: Vec<String> = (0..MANY).map(|n| format!("packs/crm/{:02x}/{n}", n % 7)).collect();
        std::thread::scope(|scope| {
            for part in keys.chunks(MANY.div_ceil(8)) {
                scope.spawn(move || part.iter().for_each(|k| store.put(k, b"x").unwrap()));
            }
        });
        keys
    };
    let check = |store: &S3Store| {
        let keys = fill(store);
        for listed in [store.list("packs/").unwrap(), store.list_versions("packs/").unwrap()] {
            let listed: std::collections::BTreeSet<String> = listed.into_iter().map(|o| o.key).collect();
            assert_eq!(listed.len(), MANY);
        }
        assert!(store.delete_many(&keys).is_empty());
        assert_eq!(store.list_versions("packs/").unwrap(), vec![]);
    };
    let fake = Fake::versioned();
    fake.bucket().page = 1000;
    check(&fake.store());
    for variable in ["RESEAL_TEST_S3_BUCKET", "RESEAL_TEST_S3_VERSIONED"] {
        let Some(options) = real(variable) else { return };
        check(&S3Store::open(options, &Env::system()).unwrap());
    }
}

#[test]
fn a_bucket_that_ceased_to_keep_versions_forgets_what_is_replaced() {
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("slots/a", b"first").unwrap();
    store.put("slots/b", b"first").unwrap();
    fake.bucket().versioning = Some("Suspended");
    // What may be known of the bucket is from before.
    for store in [store, fake.store()] {
        store.put("slots/a", b"second").unwrap();
        assert!(store.replace_if("slots/b", &store.get("slots/b").unwrap(), b"second").unwrap());
        assert_eq!((fake.versions("slots/a"), fake.versions("slots/b")), (1, 1));
    }
}

#[test]
fn what_is_on_its_way_is_told_by_its_time_where_places_tell_nothing() {
    // There before the bucket began to keep versions.
    let fake = Fake::start();
    fake.store().put("slots/a", b"first").unwrap();
    fake.age("slots/a", 10);
    fake.bucket().versioning = Some("Enabled");
    let store = fake.store();
    fake.arriving("slots/a", b"another's", 0);
    assert!(store.delete_old(&["slots/a".to_string()]).is_empty());
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), fake.versions("slots/a")), (0, 2));
    fake.arrive();
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), store.get("slots/a").unwrap()), (1, b"another's".to_vec()));
}

#[test]
fn what_never_arrived_goes_after_an_hour_also_in_front_of_what_did() {
    let fake = Fake::versioned();
    let store = fake.store();
    store.put("records/a", b"there").unwrap();
    fake.arriving("records/a", b"never", 3500);
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), fake.versions("records/a")), (0, 2));
    fake.age("records/a", 200);
    assert_eq!((store.remove_leftovers(&|_| false).unwrap(), fake.versions("records/a")), (1, 1));
    assert_eq!(store.get("records/a").unwrap(), b"there");
}

#[test]
fn a_lease_waits_for_no_pack() {
    let fake = Fake::start();
    let store = S3Store::open(Options { bandwidth: Some(1 << 20), concurrency: 1, ..fake.options() }, &Env::system()).unwrap();
    store.put("leases/a", b"first").unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Books the line for eight seconds, and is the one request that may be under way.
        let put = |n: u8| {
            scope.spawn({
                let store = &store;
                move || store.put(&format!("packs/crm/aa/{n}"), &vec![n; 4 << 20]).unwrap()
            })
        };
        let packs = [put(1), put(2)];
        std::thread::sleep(Duration::from_millis(300));
        assert!(store.replace_if("leases/a", b"first", b"second").unwrap());
        // In line it would wait for eight.
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        packs.into_iter().for_each(|pack| pack.join().unwrap());
    });
    assert!(started.elapsed() > Duration::from_secs(3), "the bandwidth is kept: {:?}", started.elapsed());
}
