//! Encryption by the service with a key of its key management (SSE-KMS), by the real program against a real server that has one: that what
//! is stored is stored under that key can only be seen there. And a key that the service does not have must be an error that says so and
//! loses nothing.
//!
//! `scripts/s3-server run cargo test --test s3_kms` brings the server's program; without it the test says loudly that it is skipped.

mod common;

use aws_sdk_s3::Client;
use common::weed::{KMS_KEY, Weed, program};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const ACCESS: &str = "reseal-kms";
const SECRET: &str = "a-secret-of-the-test";

struct Place(tempfile::TempDir);

impl Place {
    fn new(weed: &Weed) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.path("data/deep")).unwrap();
        // More than a pack, which goes in parts, and what is less than one.
        let mut state = 7u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(40 << 20)
        .collect();
        std::fs::write(place.path("data/noise.bin"), noise).unwrap();
        std::fs::write(place.path("data/deep/note.txt"), "a note").unwrap();
        let secret = format!("[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n");
        std::fs::write(place.path("credentials"), secret).unwrap();
        place.configure(weed, KMS_KEY);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, weed: &Weed, key: &str) {
        let port = weed.port();
        let text = format!(
            "version: 1\nrepository: s3://kms-bucket/here\nstate_dir: ./state\n\
             s3: {{endpoint: 'http://127.0.0.1:{port}', region: us-east-1, credentials_file: credentials, encryption: sse-kms, kms_key: {key}, patience: 3s}}\n\
             datasets:\n  files: {{source: {{paths: [./data]}}, unmapped: preserve}}\n"
        );
        std::fs::write(self.path("reseal.yaml"), text).unwrap();
    }

    fn code(&self, arguments: &[&str], code: i32) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reseal"));
        command.current_dir(self.0.path()).env("RESEAL_KEY_FILE", self.path("key")).env("RESEAL_ACTOR", "tester");
        let out = command.arg("--json").args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {stderr}\n{}", String::from_utf8_lossy(&out.stdout));
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        self.code(arguments, 0)
    }

    fn restores_to(&self, archive: &str, files: &[(&str, Vec<u8>)]) {
        let out = self.path("out");
        self.ok(&["restore", archive, "--to", out.to_str().unwrap()]);
        for (name, content) in files {
            assert!(std::fs::read(out.join("data").join(name)).unwrap() == *content, "{name} differs");
        }
        assert_eq!(count(&out), files.len());
        std::fs::remove_dir_all(&out).unwrap();
    }
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| if e.file_type().unwrap().is_dir() { count(&e.path()) } else { 1 }).sum()
}

/// With which key each object is stored, by asking for its head.
fn keys_of_objects(weed: &Weed) -> Vec<(String, Option<String>, Option<String>)> {
    use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(ACCESS, SECRET, None, None, "test"))
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{}", weed.port()))
            .force_path_style(true)
            .build();
        let client = Client::from_conf(config);
        let listed = client.list_objects_v2().bucket("kms-bucket").prefix("here/").send().await.unwrap();
        let mut out = Vec::new();
        for object in listed.contents() {
            let key = object.key().unwrap();
            let head = client.head_object().bucket("kms-bucket").key(key).send().await.unwrap();
            let encryption = head.server_side_encryption().map(|e| e.as_str().to_string());
            out.push((key.to_string(), encryption, head.ssekms_key_id().map(str::to_string)));
        }
        out
    })
}

#[test]
fn everything_is_stored_under_the_key_of_the_services_key_management() {
    let Some(program) = program() else { return };
    let weed = Weed::with_kms(program, ACCESS, SECRET);
    weed.start();
    weed.bucket("kms-bucket", "plain");
    let place = Place::new(&weed);
    let note = ("deep/note.txt", b"a note".to_vec());
    let noise = ("noise.bin", std::fs::read(place.path("data/noise.bin")).unwrap());
    place.ok(&["init"]);
    place.ok(&["backup"]);
    let objects = keys_of_objects(&weed);
    let packs = objects.iter().filter(|(key, ..)| key.starts_with("here/packs/")).count();
    assert!(packs >= 3 && objects.len() > packs + 5, "{objects:?}");
    let id = objects[0].2.clone();
    assert!(id.as_ref().is_some_and(|id| !id.is_empty()), "{objects:?}");
    for (key, encryption, with) in &objects {
        assert_eq!((encryption.as_deref(), with), (Some("aws:kms"), &id), "{key}");
    }
    let first = place.ok(&["archives"])["archives"][0]["id"].as_str().unwrap().to_string();
    place.restores_to(&first, &[note.clone(), noise.clone()]);
    assert_eq!(place.ok(&["verify", "--read-data"])["result"], "PASS");

    // A key that the service does not have: an error that names it, and all that was there still is.
    place.configure(&weed, "no-such-key");
    std::fs::write(place.path("data/new.txt"), "new").unwrap();
    let refused = place.code(&["backup"], 1);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("no-such-key"), "{refused}");
    eprintln!("{message}");
    place.configure(&weed, KMS_KEY);
    place.restores_to(&first, &[note.clone(), noise.clone()]);
    assert_eq!(place.ok(&["archives"])["archives"].as_array().unwrap().len(), 1);
    assert_eq!(place.ok(&["verify", "--read-data"])["result"], "PASS");

    // And with the right key again the same command goes through.
    place.ok(&["backup"]);
    let archives = place.ok(&["archives"])["archives"].clone();
    let second = archives.as_array().unwrap().iter().filter_map(|a| a["id"].as_str()).find(|id| *id != first).unwrap();
    place.restores_to(second, &[note, noise, ("new.txt", b"new".to_vec())]);
    assert!(keys_of_objects(&weed).iter().all(|(_, encryption, with)| encryption.as_deref() == Some("aws:kms") && *with == id));
    place.ok(&["rotate"]);
}
