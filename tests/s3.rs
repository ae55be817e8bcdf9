//! The main job by the real program against a real S3 server: two nights, a person's request, the erasure, its proof, a verification
//! and restores; on a bucket without versions, on one that keeps them, and with locked packs beside keys that are not.
//!
//! `scripts/s3-server run cargo test --test s3` brings a server; without one these tests say loudly that they are skipped. What requests
//! that go wrong do is tested without a server, in `src/engine/remote_test.rs`.

mod common;

use common::weed::server;
use jiff::SignedDuration;
use reseal::env::{Clock, Env, SystemClock};
use reseal::store::Store;
use reseal::store::s3::{Options, S3Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DATASET: &str = r#"
    source: {paths: [./data]}
    retention: {max_archives: 3}
    unmapped: preserve
    collections:
      - name: customer
        entry: data/crm.db
        primary_key: [id]
        on_erase: anonymize
        fields:
          id: {identity: customer_id}
          email:
            identity: email
            normalize: [trim, nfc, lower]
            action: {strategy: random_string_rewrite, format_preservation: {suffix: "@erased.invalid"}}
          name: {action: {strategy: null_rewrite}}
      - name: signups
        entry: data/*.csv
        on_erase: delete
        fields: {Email: {identity: email, normalize: [trim, nfc, lower]}}
"#;

struct Place {
    dir: tempfile::TempDir,
    /// By how much the program's clock is behind.
    behind: SignedDuration,
}

impl Place {
    fn new(endpoint: &str, repository: &str, more: &str) -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap(), behind: SignedDuration::ZERO };
        std::fs::create_dir(place.path("data")).unwrap();
        let text = format!(
            "version: 1\nrepository: {repository}\nstate_dir: ./state\ns3: {{endpoint: '{endpoint}', region: us-east-1}}\n{more}\ndatasets:\n  crm:{DATASET}"
        );
        std::fs::write(place.path("reseal.yaml"), text).unwrap();
        std::fs::write(place.path("jane.yaml"), "email: jane7@example.org\n").unwrap();
        let mut permissions = std::fs::metadata(place.path("jane.yaml")).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        std::fs::set_permissions(place.path("jane.yaml"), permissions).unwrap();
        let db = rusqlite::Connection::open(place.path("data/crm.db")).unwrap();
        db.execute_batch("CREATE TABLE customer (id INTEGER PRIMARY KEY, email TEXT NOT NULL, name TEXT); BEGIN").unwrap();
        let mut csv = String::from("Email,Stars\n");
        for n in 1..=300 {
            db.execute("INSERT INTO customer VALUES (?1, ?2, ?3)", (n, format!("jane{n}@example.org"), format!("Jane Number{n}"))).unwrap();
            csv += &format!("jane{n}@example.org,{}\n", n % 5);
        }
        db.execute_batch("COMMIT").unwrap();
        std::fs::write(place.path("data/list.csv"), csv).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command
            .current_dir(self.dir.path())
            .env("RESEAL_KEY_FILE", self.path("key"))
            .env("RESEAL_ACTOR", "tester")
            .arg("--json")
            .args(arguments);
        if !self.behind.is_zero() {
            command.env("RESEAL_NOW", (now() - self.behind).to_string());
        }
        command
    }

    fn code(&self, arguments: &[&str], code: i32) -> Value {
        let out = self.run(arguments);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {stderr}\n{}", String::from_utf8_lossy(&out.stdout));
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        self.code(arguments, 0)
    }
}

fn now() -> jiff::Timestamp {
    SystemClock.now()
}

fn prefix(name: &str) -> String {
    format!("it/{name}-{}", std::process::id())
}

fn contains(file: &Path, needle: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle.as_bytes()))
}

/// Backs up twice, erases, proves, verifies, restores; gives the propagation's report.
fn main_job(place: &Place) -> Value {
    let made = place.ok(&["init"]);
    assert!(made["repository"]["storage"].as_array().is_some_and(|s| !s.is_empty()), "{made}");
    place.ok(&["backup"]);
    std::fs::write(place.path("data/notes.txt"), "nothing about anybody").unwrap();
    place.ok(&["backup"]);
    let id = place.ok(&["request", "open", "--identity-file", "jane.yaml"])["request"]["id"].as_str().unwrap().to_string();
    let planned = place.ok(&["propagate", "--request", &id, "--now", "--reason", "a test", "--dry-run"]);
    let (search, estimate) = (&planned["plan"]["search"], &planned["plan"]["estimate"]);
    assert!(search["requests"]["get"].as_u64().unwrap() > 0 && estimate["requests"]["put"].as_u64().unwrap() > 0, "{planned}");
    let report = place.ok(&["propagate", "--request", &id, "--now", "--reason", "a test", "--verify", "full"]);
    assert_eq!(report["requests"][0]["state"], "done", "{report:#}");
    assert_eq!(report["propagation"]["listing"]["left"], 0, "{report:#}");
    eprintln!("estimated {}\nactually  {}", estimate, report["propagation"]["traffic"]);
    let certificate = place.ok(&["certificate", &id]);
    assert_eq!(certificate["body"]["result"], "PASS", "{certificate:#}");
    assert!(certificate["body"]["verification"]["listing"]["objects"].as_u64().unwrap() > 0);
    assert!(certificate["body"]["storage"].as_array().unwrap().len() >= 4);
    let verified = place.ok(&["verify", "--read-data"]);
    assert_eq!(verified["result"], "PASS", "{verified:#}");
    for archive in place.ok(&["archives"])["archives"].as_array().unwrap() {
        let (archive, out) = (archive["id"].as_str().unwrap(), place.path("out"));
        place.ok(&["restore", archive, "--to", out.to_str().unwrap()]);
        for file in ["crm.db", "list.csv"] {
            assert!(!contains(&out.join("data").join(file), "jane7@example.org"), "{file}");
            assert!(contains(&out.join("data").join(file), "jane8@example.org"), "{file}");
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
    place.ok(&["rotate"]);
    report
}

#[test]
fn the_main_job_on_a_bucket() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_BUCKET") else { return };
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{}", prefix("plain")), "");
    let report = main_job(&place);
    assert_eq!(report["propagation"]["listing"]["old_versions"], 0);
}

#[test]
fn the_main_job_on_a_bucket_that_keeps_versions() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_VERSIONED") else { return };
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{}", prefix("versioned")), "");
    let report = main_job(&place);
    let listing = &report["propagation"]["listing"];
    assert_eq!((&listing["old_versions"], &listing["delete_markers"]), (&Value::from(0), &Value::from(0)), "{listing}");
}

#[test]
fn the_main_job_with_locked_packs_and_keys_elsewhere() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_LOCKABLE") else { return };
    let Some((_, keys)) = server("RESEAL_TEST_S3_VERSIONED") else { return };
    let prefix = prefix("locked");
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{prefix}"), &format!("keys: s3://{keys}/{prefix}-keys"));
    let config = std::fs::read_to_string(place.path("reseal.yaml")).unwrap();
    let locked = config.replace("    retention:", "    lock: {mode: governance, days: 1}\n    retention:");
    std::fs::write(place.path("reseal.yaml"), locked).unwrap();
    let report = main_job(&place);
    let locked = report["propagation"]["locked"].as_array().unwrap();
    assert!(!locked.is_empty() && locked.iter().all(|l| l["locked_until"].is_string()), "{report:#}");
    let rotated = place.ok(&["rotate"]);
    assert_eq!(rotated["datasets"][0]["gone"], "PASS", "{rotated:#}");
    assert!(!rotated["datasets"][0]["locked"].as_array().unwrap().is_empty());
}

/// An administrator's client, for what the program never does.
fn administrator(endpoint: &str) -> aws_sdk_s3::Client {
    use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
    use aws_sdk_s3::config::{BehaviorVersion, Config, Region};
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Tries to remove every version that hides behind a newer one or a marker, with the right of an administrator to end a governance lock; those
/// that stay.
fn remove_by_force(endpoint: &str, bucket: &str, prefix: &str) -> (usize, Vec<String>) {
    block_on(async {
        let client = administrator(endpoint);
        let listed = client.list_object_versions().bucket(bucket).prefix(prefix).send().await.unwrap();
        let hidden = || listed.versions().iter().filter(|v| v.is_latest() != Some(true));
        let mut stayed = Vec::new();
        for v in hidden() {
            let delete = client.delete_object().bucket(bucket).key(v.key().unwrap()).version_id(v.version_id().unwrap());
            if let Err(e) = delete.bypass_governance_retention(true).send().await {
                eprintln!("by force: {:?}", e.raw_response().map(|r| r.status()));
                stayed.push(v.key().unwrap().to_string());
            }
        }
        (hidden().count(), stayed)
    })
}

/// A bucket that locks whatever is put into it for a day, so that administrators can end the lock.
fn bucket_with_default_retention(endpoint: &str) -> String {
    use aws_sdk_s3::types::{
        DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode::Governance, ObjectLockRule,
    };
    let name = format!("reseal-retention-{}", std::process::id());
    let rule = ObjectLockRule::builder().default_retention(DefaultRetention::builder().mode(Governance).days(1).build()).build();
    let locks = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).rule(rule).build();
    block_on(async {
        let client = administrator(endpoint);
        client.create_bucket().bucket(&name).object_lock_enabled_for_bucket(true).send().await.unwrap();
        client.put_object_lock_configuration().bucket(&name).object_lock_configuration(locks).send().await.unwrap();
    });
    name
}

#[test]
fn the_root_key_is_replaced_beside_a_bucket_that_locks_heads_by_itself() {
    let Some((endpoint, keys)) = server("RESEAL_TEST_S3_VERSIONED") else { return };
    let (bucket, prefix) = (bucket_with_default_retention(&endpoint), prefix("retention"));
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{prefix}"), &format!("keys: s3://{keys}/{prefix}-keys"));
    let report = main_job(&place);
    assert!(report["propagation"]["locked"].as_array().unwrap().iter().any(|l| l["object"].as_str().unwrap().starts_with("archives/")));
    place.ok(&["keys", "rotate"]);
    place.ok(&["keys", "export", "--label", "for the safe", place.path("keys.export").to_str().unwrap()]);
    let rotated = place.ok(&["rotate"]);
    let names = || -> Vec<String> {
        let archives = place.ok(&["archives"]);
        archives["archives"].as_array().unwrap().iter().map(|a| format!("archives/crm/{}", a["id"].as_str().unwrap())).collect()
    };
    let locked: Vec<&Value> = rotated["datasets"][0]["locked"].as_array().unwrap().iter().collect();
    assert_eq!(rotated["datasets"][0]["gone"], "PASS", "{rotated:#}");
    // Of each archive the generation before the erasure, and what the new root key was put over.
    for name in names() {
        for generation in [1, 2] {
            let of = locked.iter().find(|l| l["object"] == format!("{name}.{generation}"));
            assert!(of.is_some_and(|l| l["locked_until"].is_string()), "{name}.{generation}: {rotated:#}");
        }
    }
    assert_eq!(place.ok(&["verify", "--read-data"])["result"], "PASS");
    let (hidden, stayed) = remove_by_force(&endpoint, &bucket, &format!("{prefix}/archives/"));
    assert_eq!((hidden, stayed.len()), (2 * names().len(), 0), "the lock of a governor ends when an administrator says so");
    let rotated = place.ok(&["rotate"]);
    let left = rotated["datasets"][0]["locked"].as_array().unwrap();
    assert!(left.iter().all(|l| l["object"].as_str().unwrap().starts_with("packs/")), "{rotated:#}");
    assert_eq!(place.ok(&["verify", "--read-data"])["result"], "PASS");
}

#[test]
fn packs_locked_in_compliance_mode_lose_their_keys_at_once_and_their_bytes_when_the_lock_ends() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_LOCKABLE") else { return };
    let Some((_, keys)) = server("RESEAL_TEST_S3_VERSIONED") else { return };
    let objects = |report: &Value| -> Vec<(String, jiff::Timestamp)> {
        let locked = report["locked"].as_array().unwrap().iter();
        locked.map(|l| (l["object"].as_str().unwrap().into(), l["locked_until"].as_str().unwrap().parse().unwrap())).collect()
    };
    // A lock of a day, put by a clock that is almost a day behind, ends soon; on a machine with other work that may be too soon.
    for lasts in [60, 240, 900] {
        let prefix = prefix(&format!("compliance{lasts}"));
        let mut place = Place::new(&endpoint, &format!("s3://{bucket}/{prefix}"), &format!("keys: s3://{keys}/{prefix}-keys"));
        let config = std::fs::read_to_string(place.path("reseal.yaml")).unwrap();
        let locked = config.replace("    retention:", "    lock: {mode: compliance, days: 1}\n    retention:");
        std::fs::write(place.path("reseal.yaml"), locked).unwrap();
        place.behind = SignedDuration::from_hours(24) - SignedDuration::from_secs(lasts);
        place.ok(&["init"]);
        place.ok(&["backup"]);
        let first_ends = now() + SignedDuration::from_secs(lasts) - SignedDuration::from_secs(15);
        let id = place.ok(&["request", "open", "--identity-file", "jane.yaml"])["request"]["id"].as_str().unwrap().to_string();
        let report = place.ok(&["propagate", "--request", &id, "--now", "--reason", "a test"]);
        // Nobody ends it early, and nothing that is tried says it is gone.
        let rotated = place.ok(&["rotate"]);
        let stated = place.ok(&["retention"]);
        let (hidden, stayed) = remove_by_force(&endpoint, &bucket, &format!("{prefix}/packs/"));
        if now() > first_ends {
            eprintln!("too slow for a lock of {lasts} s");
            continue;
        }
        let locked = objects(&report["propagation"]);
        assert!(!locked.is_empty() && report["propagation"]["listing"]["left"] == 0, "{report:#}");
        assert_eq!(place.ok(&["certificate", &id])["body"]["result"], "PASS", "the keys are gone, and what is locked is named");
        assert_eq!((hidden, stayed.len()), (locked.len(), locked.len()), "a compliance lock was ended by force");
        assert_eq!(
            (&rotated["datasets"][0]["gone"], objects(&rotated["datasets"][0])),
            (&Value::from("PASS"), locked.clone()),
            "{rotated:#}"
        );
        assert_eq!(objects(&stated["retention"]["datasets"][0]), locked, "{stated:#}");
        let ends = locked.iter().map(|(_, until)| *until).max().unwrap() + SignedDuration::from_secs(2);
        while now() < ends {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        place.behind = SignedDuration::ZERO;
        let rotated = place.ok(&["rotate"]);
        assert_eq!(rotated["datasets"][0]["gone"], "PASS", "{rotated:#}");
        assert!(objects(&rotated["datasets"][0]).is_empty(), "the first rotation after the lock's end deletes it: {rotated:#}");
        assert_eq!(remove_by_force(&endpoint, &bucket, &format!("{prefix}/packs/")).0, 0);
        place.ok(&["verify", "--read-data"]);
        return;
    }
    panic!("this machine is too slow to look at a lock before it ends");
}

#[test]
fn what_a_bucket_cannot_give_is_refused_with_the_reason() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_BUCKET") else { return };
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{}", prefix("refused")), "");
    let config = std::fs::read_to_string(place.path("reseal.yaml")).unwrap();
    let with = |more: &str| config.replace("    retention:", &format!("    {more}\n    retention:"));
    std::fs::write(place.path("reseal.yaml"), with("lock: {mode: governance, days: 1}")).unwrap();
    let refused = place.code(&["init"], 1);
    assert!(refused["error"]["message"].as_str().unwrap().contains("no Object Lock"), "{refused}");
    std::fs::write(place.path("reseal.yaml"), config.replace(&bucket, "no-such-bucket-here")).unwrap();
    let refused = place.code(&["init"], 1);
    assert!(refused["error"]["message"].as_str().unwrap().contains("bucket is not there"), "{refused}");
    std::fs::write(place.path("reseal.yaml"), &config).unwrap();
    let none = place.code(&["archives"], 2);
    assert!(none["error"]["message"].as_str().unwrap().contains("there is no repository"), "{none}");
}

/// Ten nights of a tree of which little changes, with as much beside the person as fills packs.
#[test]
fn an_erasure_moves_at_most_three_times_the_packs_that_it_touches() {
    let Some((endpoint, bucket)) = server("RESEAL_TEST_S3_BUCKET") else { return };
    let place = Place::new(&endpoint, &format!("s3://{bucket}/{}", prefix("cost")), "");
    let text = std::fs::read_to_string(place.path("reseal.yaml")).unwrap().replace("max_archives: 3", "max_archives: 30");
    std::fs::write(place.path("reseal.yaml"), text).unwrap();
    place.ok(&["init"]);
    let mut stream = blake3::Hasher::new().finalize_xof();
    for n in 0..10 {
        let mut bytes = vec![0; if n == 0 { 48 << 20 } else { 1 << 20 }];
        stream.fill(&mut bytes);
        std::fs::write(place.path(&format!("data/scan-{n}.bin")), bytes).unwrap();
        place.ok(&["backup"]);
    }
    let id = place.ok(&["request", "open", "--identity-file", "jane.yaml"])["request"]["id"].as_str().unwrap().to_string();
    let store = Options {
        endpoint: Some(endpoint.clone()),
        path_style: true,
        region: Some("us-east-1".into()),
        ..Options::new(&bucket, prefix("cost"))
    };
    let store = S3Store::open(store, &Env::system()).unwrap();
    let packs = || store.list("packs/").unwrap().into_iter().map(|o| (o.key, o.len)).collect::<BTreeMap<_, _>>();
    let before = packs();
    let now = ["propagate", "--request", &id, "--now", "--reason", "a test"];
    let planned = place.ok(&[&now[..], &["--dry-run"]].concat());
    let report = place.ok(&now);
    let after = packs();
    let touched: u64 = before.iter().filter(|(key, _)| !after.contains_key(*key)).map(|(_, size)| size).sum();
    let [read, written] = ["bytes_read", "bytes_written"].map(|key| report["propagation"]["traffic"][key].as_u64().unwrap());
    eprintln!(
        "estimated {}\nactually  {}; {touched} bytes in touched packs",
        planned["plan"]["estimate"], report["propagation"]["traffic"]
    );
    assert!(touched > 16 << 20, "{touched} bytes in packs were touched: too few to tell anything");
    assert!(read + written <= 3 * touched, "read {read}, written {written}, in touched packs {touched}");
    // What the dry run said of it is of that size.
    let estimate = &planned["plan"]["estimate"];
    for (key, real) in [("bytes_read", read), ("bytes_written", written)] {
        let said = estimate[key].as_u64().unwrap();
        assert!(said > real / 3 && said < real * 3, "{key}: {said} said, {real} done");
    }
    for key in ["get", "put", "delete"] {
        let (said, real) =
            (estimate["requests"][key].as_u64().unwrap(), report["propagation"]["traffic"]["requests"][key].as_u64().unwrap());
        assert!(said > real / 4 && said < real * 4, "{key}: {said} said, {real} done");
    }
}
