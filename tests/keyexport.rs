//! One side of the repository is lost: every command says which, and an export of the keys brings the other back. An export outlives what the
//! repository destroys, and must not be forgotten.

mod common;

use common::shop::{DUE, FIRST_NIGHT, OPENED, Ran, Shop, night_time, scratch};
use std::path::Path;

fn shop(dir: &Path) -> Shop {
    let shop = Shop::new(&dir.join("shop"), true);
    shop.prepare(2);
    shop
}

fn export(shop: &Shop, now: &str, file: &str, more: &[&str]) -> String {
    let args: Vec<&str> = ["keys", "export", file, "--label", "in the safe", "--json"].iter().chain(more).copied().collect();
    shop.run(now, &args).ok().json()["export"]["id"].as_str().unwrap().to_string()
}

fn certificate(shop: &Shop, id: &str) -> (Ran, serde_json::Value) {
    let ran = shop.run(DUE, &["certificate", id]);
    let json = ran.json();
    (ran, json)
}

const COMMANDS: [&[&str]; 12] = [
    &["archives"],
    &["backup"],
    &["show", "latest"],
    &["restore", "latest", "--to", "out"],
    &["export", "latest"],
    &["verify"],
    &["propagate"],
    &["rotate"],
    &["drill"],
    &["nightly"],
    &["keys", "list"],
    &["audit"],
];

#[test]
fn every_command_names_the_side_that_is_missing_and_what_to_do() {
    let dir = scratch();
    let shop = shop(dir.path());
    // Whole folders, and empty mount points.
    for leave in [false, true] {
        for (side, words) in [
            ("backups", ["its packs' side is missing", "./backups", "Make the place available"]),
            ("keys", ["its keys' side is missing", "./keys", "reseal keys import FILE"]),
        ] {
            let work = shop.copy(&dir.path().join("work"));
            std::fs::remove_dir_all(work.path(side)).unwrap();
            if leave {
                std::fs::create_dir(work.path(side)).unwrap();
            }
            for args in COMMANDS {
                let ran = work.run(OPENED, args).exits(6);
                for word in words {
                    assert!(ran.stderr.contains(word), "{side} {args:?}: {}", ran.stderr);
                }
            }
        }
    }
    // Both: there never was one, for all that can be told.
    let work = shop.copy(&dir.path().join("work"));
    for side in ["backups", "keys"] {
        std::fs::remove_dir_all(work.path(side)).unwrap();
    }
    assert!(work.run(OPENED, &["archives"]).exits(2).stderr.contains("reseal init"));
}

#[test]
fn the_keys_are_lost_and_an_export_brings_every_archive_back() {
    let dir = scratch();
    let shop = shop(dir.path());
    let before = shop.restore_all(&shop.open(OPENED).unwrap()).unwrap();
    export(&shop, OPENED, "keys.export", &[]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(shop.path("keys.export")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(shop.path("keys")).unwrap();
    // Not with another secret, and not when a byte of it was changed.
    shop.run_with(OPENED, &["keys", "import", "keys.export"], &[("RESEAL_KEY_FILE", "identities.yaml")]).exits(2);
    let mut bytes = std::fs::read(shop.path("keys.export")).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    std::fs::write(shop.path("bad.export"), &bytes).unwrap();
    assert!(shop.run(OPENED, &["keys", "import", "bad.export"]).exits(6).stderr.contains("digest"));
    let ran = shop.run(OPENED, &["keys", "import", "keys.export"]).ok();
    assert!(ran.stdout.contains("next: reseal verify"), "{}", ran.stdout);
    shop.run(OPENED, &["verify", "--read-data"]).ok();
    assert_eq!(shop.restore_all(&shop.open(OPENED).unwrap()).unwrap(), before);
    assert!(shop.run(OPENED, &["audit"]).ok().stdout.contains("were brought back from the export"));
    // It goes on, and importing once more changes nothing.
    shop.change(3);
    shop.run(&night_time(3), &["backup"]).ok();
    let again = shop.run(OPENED, &["keys", "import", "keys.export", "--json"]).ok().json();
    assert_eq!(again["import"]["written"], 0);
    shop.run(OPENED, &["verify"]).ok();
}

#[test]
fn an_import_that_ended_half_way_is_completed_and_what_was_made_later_is_named() {
    let dir = scratch();
    let shop = shop(dir.path());
    export(&shop, OPENED, "keys.export", &[]);
    shop.change(3);
    shop.run(DUE, &["backup"]).ok();
    std::fs::remove_dir_all(shop.path("keys")).unwrap();
    let ran = shop.run(DUE, &["keys", "import", "keys.export"]).exits(3);
    assert!(ran.stderr.contains("made after the export cannot be opened"), "{}", ran.stderr);
    // This machine has seen more, and does not take the old ledger for the truth.
    assert!(shop.run(DUE, &["archives"]).exits(6).stderr.contains("reseal catalog rebuild"));
    std::fs::remove_dir_all(shop.path("keys/slots")).unwrap();
    std::fs::remove_file(
        shop.path("keys/signing").join(std::fs::read_dir(shop.path("keys/signing")).unwrap().next().unwrap().unwrap().file_name()),
    )
    .unwrap();
    shop.run(DUE, &["keys", "import", "keys.export"]).exits(3);
    shop.run(DUE, &["catalog", "rebuild"]).ok();
    let archives = shop.run(DUE, &["archives", "--json"]).ok().json();
    assert_eq!(archives["archives"].as_array().unwrap().len(), 3);
    // A sweep must not take the packs without keys for rubbish: the keys may yet be found.
    let packs = shop.objects("backups/packs").len();
    shop.run(DUE, &["rotate"]);
    assert_eq!(shop.objects("backups/packs").len(), packs);
}

#[test]
fn an_import_into_a_newer_place_brings_back_what_was_lost_and_not_what_was_removed() {
    let dir = scratch();
    let shop = shop(dir.path());
    shop.run(OPENED, &["keys", "add", "--label", "second", "--new-key-file", "key2"]).ok();
    shop.request();
    export(&shop, OPENED, "keys.export", &[]);
    let slots = shop.run(OPENED, &["keys", "list", "--json"]).ok().json();
    let second = slots["keys"].as_array().unwrap().iter().find(|k| k["label"] == "second").unwrap()["id"].as_str().unwrap().to_string();
    shop.run(OPENED, &["keys", "remove", &second]).ok();
    for id in shop.run(OPENED, &["request", "list", "--json"]).ok().json()["requests"].as_array().unwrap() {
        shop.run(OPENED, &["request", "cancel", id["id"].as_str().unwrap()]).ok();
    }
    let lost = shop.objects("keys/sheets").into_iter().next().unwrap();
    std::fs::remove_file(shop.path(&lost)).unwrap();
    shop.run(OPENED, &["verify"]).exits(4);
    let done = shop.run(OPENED, &["keys", "import", "keys.export", "--json"]).ok().json();
    assert_eq!(done["import"]["written"], 1, "{done:#}");
    shop.run(OPENED, &["verify", "--read-data"]).ok();
    assert!(shop.path(&lost).exists() && shop.objects("keys/requests").is_empty());
    shop.run_with(OPENED, &["archives"], &[("RESEAL_KEY_FILE", "key2")]).exits(6);
}

#[test]
fn an_outdated_export_is_named_until_its_destruction_is_recorded() {
    let dir = scratch();
    let shop = shop(dir.path());
    let old = export(&shop, OPENED, "old.export", &[]);
    let ids = shop.request();
    assert_eq!(shop.run(OPENED, &["keys", "exports", "--json"]).ok().json()["exports"][0]["state"], "current");
    let ran = shop.run(DUE, &["propagate"]).exits(3);
    assert!(ran.stderr.contains(&old) && ran.stderr.contains("in the safe"), "{}", ran.stderr);
    let (ran, json) = certificate(&shop, &ids[0]);
    ran.exits(3);
    assert_eq!((json["body"]["result"].as_str(), json["body"]["state"].as_str()), (Some("UNKNOWN"), Some("done")));
    assert_eq!(json["body"]["surviving_key_exports"][0]["export"], old.as_str());
    for args in [&["verify"][..], &["audit"], &["audit", "--check"], &["keys", "exports"]] {
        let ran = shop.run(DUE, args).ok();
        assert!(ran.stderr.contains(&old), "{args:?}: {}", ran.stderr);
    }
    assert!(shop.run(DUE, &["verify", "--json"]).ok().json()["outdated_exports"][0]["id"] == old.as_str());
    // Replaced by a newer one, and so gone.
    let new = export(&shop, DUE, "new.export", &["--replaces", &old]);
    let (ran, json) = certificate(&shop, &ids[0]);
    ran.ok();
    assert_eq!(json["body"]["result"], "PASS");
    let states: Vec<String> = shop.run(DUE, &["keys", "exports", "--json"]).ok().json()["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {}", e["id"].as_str().unwrap(), e["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [format!("{old} destroyed"), format!("{new} current")]);
    shop.run(DUE, &["keys", "forget-export", &new, "--reason", "shredded"]).ok();
    shop.run(DUE, &["keys", "forget-export", &new, "--reason", "shredded"]).exits(1);
    shop.run(DUE, &["keys", "forget-export", "ffff", "--reason", "x"]).exits(2);
    assert!(shop.run(DUE, &["audit"]).ok().stdout.contains("shredded"));
}

#[test]
fn an_export_waits_for_writers_and_is_never_unrecorded() {
    let dir = scratch();
    let shop = shop(dir.path());
    let session = shop.open(OPENED).unwrap();
    let lease = session.repo.lease("crm", std::time::Duration::from_secs(3600)).unwrap();
    shop.run(OPENED, &["keys", "export", "f", "--label", "x"]).exits(5);
    assert!(!shop.path("f").exists());
    drop(lease);
    // It cannot be written: then it is recorded as destroyed.
    shop.run(OPENED, &["keys", "export", "nowhere/f", "--label", "x"]).exits(1);
    let exports = shop.run(OPENED, &["keys", "exports", "--json"]).ok().json();
    assert_eq!(exports["exports"][0]["state"], "destroyed");
    shop.run(FIRST_NIGHT, &["keys", "export", "key", "--label", "x"]).exits(2);
}
