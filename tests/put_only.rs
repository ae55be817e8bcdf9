//! Hosts that only add archives. They share chunks with archives that they cannot open, and what they hand in is believed only after it was checked.

mod common;

use common::shop::{DUE, OPENED, Shop, Tree, differs_from_live, knows_the_erased, night_time, scratch};
use common::tree;
use std::collections::BTreeSet;
use std::path::Path;

/// A shop with one regular night, and a key for a host.
fn shop(dir: &Path) -> Shop {
    let shop = Shop::new(&dir.join("shop"), true);
    shop.prepare(1);
    shop.run(&night_time(1), &["keys", "add", "--label", "web1", "--put-only", "put.key"]).ok();
    shop
}

const HOST: &[(&str, &str)] = &[("RESEAL_KEY_FILE", "put.key")];

/// A backup by the host; the archive's id.
fn hand_in(shop: &Shop, now: &str) -> String {
    let ran = shop.run_with(now, &["backup", "--json"], HOST).ok();
    let json = ran.json();
    assert_eq!(json["backups"][0]["pending"], true);
    json["backups"][0]["archive"].as_str().unwrap().to_string()
}

fn intake(shop: &Shop) -> BTreeSet<String> {
    shop.objects("keys/intake")
}

fn archives(shop: &Shop, now: &str) -> usize {
    shop.run(now, &["archives", "--json"]).ok().json()["archives"].as_array().unwrap().len()
}

fn whole(shop: &Shop, now: &str) {
    shop.run(now, &["verify", "--read-data"]).ok();
}

#[test]
fn a_host_shares_chunks_opens_nothing_and_its_archive_is_restored_byte_by_byte() {
    let dir = scratch();
    let shop = shop(dir.path());
    shop.change(2);
    let ran = shop.run_with(&night_time(2), &["backup", "--json"], HOST).ok().json();
    let (stored, source) = (ran["backups"][0]["stored_bytes"].as_u64().unwrap(), ran["backups"][0]["source_bytes"].as_u64().unwrap());
    assert!(stored > 0 && stored * 4 < source, "{stored} of {source} bytes are new");
    assert_eq!(ran["backups"][0]["read_bytes"], source, "it reads everything");
    let archive = ran["backups"][0]["archive"].as_str().unwrap().to_string();
    // The second one shares with its own first, though nobody has admitted that.
    let again = shop.run_with(&night_time(2), &["backup", "--json"], HOST).ok().json();
    assert!(again["backups"][0]["stored_bytes"].as_u64().unwrap() < stored / 2);
    for args in [
        &["archives"][..],
        &["show", "latest", "--entries"],
        &["restore", "latest", "--to", "out"],
        &["export", "latest"],
        &["verify"],
        &["rotate"],
        &["nightly"],
        &["propagate"],
        &["keys", "list"],
        &["intake", "list"],
        &["audit"],
    ] {
        let ran = shop.run_with(OPENED, args, HOST).exits(1);
        assert!(ran.stderr.contains("put.key is a put-only key") && ran.stdout.is_empty(), "{args:?}: {}", ran.stderr);
    }
    assert!(!shop.path("out").exists());
    // The host needs nothing but what its role may read and write.
    let listed = shop.run(OPENED, &["archives", "--json"]).ok().json();
    assert_eq!((listed["archives"].as_array().unwrap().len(), listed["pending"].as_array().unwrap().len()), (1, 2));
    assert_eq!(listed["pending"][0]["state"], "pending");
    // A command that looks at archives admits them first.
    shop.run(OPENED, &["restore", &archive, "--to", "out"]).ok();
    let live: Tree = tree(&shop.path("data")).into_iter().map(|(name, bytes)| (format!("data/{name}"), bytes)).collect();
    assert_eq!(differs_from_live(&tree(&shop.path("out")), &live), None);
    assert_eq!((archives(&shop, OPENED), intake(&shop)), (3, BTreeSet::new()));
    whole(&shop, OPENED);
    let audit = shop.run(OPENED, &["audit", "--json"]).ok().json();
    let made: Vec<&serde_json::Value> = audit["entries"].as_array().unwrap().iter().filter(|e| e["event"] == "archive-sealed").collect();
    assert_eq!(made.iter().map(|e| e["actor"].as_str().unwrap()).collect::<Vec<_>>(), ["tester", "web1", "web1"]);
    assert!(made[1]["text"].as_str().unwrap().contains("tester admitted it"));
    // The officer's next backup shares with them, and a rotation keeps what is needed.
    let next = shop.run(OPENED, &["backup", "--json"]).ok().json();
    assert!(next["backups"][0]["files"]["unchanged"].as_u64().unwrap() > 0);
    assert!(next["backups"][0]["stored_bytes"].as_u64().unwrap() < stored / 2);
    let theirs = next["backups"][0]["archive"].as_str().unwrap();
    let session = shop.open(OPENED).unwrap();
    assert_eq!(shop.restore_one(&session, theirs).unwrap(), shop.restore_one(&session, &archive).unwrap(), "byte by byte");
    drop(session);
    shop.run(OPENED, &["rotate"]).ok();
    whole(&shop, OPENED);
    // And so does the host, after chunks were dropped.
    shop.change(3);
    hand_in(&shop, DUE);
    shop.run(DUE, &["intake", "admit"]).ok();
    whole(&shop, DUE);
}

#[test]
fn a_host_is_told_which_side_is_lost_and_writes_nothing_there() {
    let dir = scratch();
    let shop = shop(dir.path());
    let keys = shop.objects("keys");
    for (side, words) in [("keys", ["its keys' side is missing", "./keys"]), ("backups", ["its packs' side is missing", "./backups"])] {
        let (place, kept) = (shop.path(side), dir.path().join("kept"));
        std::fs::rename(&place, &kept).unwrap();
        // Not there, and there and empty: a mount point, a new bucket.
        for empty in [false, true] {
            if empty {
                std::fs::create_dir(&place).unwrap();
            }
            let ran = shop.run_with(&night_time(2), &["backup"], HOST).exits(6);
            assert!(words.iter().all(|word| ran.stderr.contains(word)), "{side}: {}", ran.stderr);
            assert!(!place.exists() || shop.objects(side).is_empty(), "{side}: {:?}", shop.objects(side));
            assert!(side == "keys" || shop.objects("keys") == keys);
        }
        std::fs::remove_dir_all(&place).unwrap();
        std::fs::rename(&kept, &place).unwrap();
    }
    hand_in(&shop, &night_time(2));
}

#[test]
fn a_host_needs_no_more_than_its_own_folders() {
    let dir = scratch();
    let shop = shop(dir.path());
    // What a bucket's policy would keep from it.
    for folder in ["slots", "ledger", "datasets", "sheets", "signing", "records"] {
        std::fs::rename(shop.path("keys").join(folder), dir.path().join(folder)).unwrap();
    }
    std::fs::rename(shop.path("backups/archives"), dir.path().join("archives")).unwrap();
    let before: BTreeSet<String> = shop.objects("keys");
    std::fs::remove_dir_all(shop.path("state")).unwrap();
    shop.change(2);
    hand_in(&shop, &night_time(2));
    let written: BTreeSet<String> =
        shop.objects("keys").difference(&before).map(|k| k.split('/').take(2).collect::<Vec<_>>().join("/")).collect();
    assert!(written.iter().all(|k| k.contains("intake") || k.contains("known")), "{written:?}");
    assert!(!shop.path("state").exists() && !shop.path("backups/archives").exists());
}

#[test]
fn a_person_in_a_pending_archive_that_is_older_than_the_erasure_is_erased_from_it() {
    let dir = scratch();
    let shop = shop(dir.path());
    shop.change(2);
    let archive = hand_in(&shop, &night_time(2));
    let ids = shop.request();
    let report = shop.run(DUE, &["propagate", "--json"]).ok().json();
    let touched = &report["requests"][0]["archives"];
    assert!(touched.as_array().unwrap().iter().any(|a| a["archive"] == archive.as_str() && a["generation_after"] == 2), "{touched:#}");
    let session = shop.open(DUE).unwrap();
    for (id, tree) in shop.restore_all(&session).unwrap() {
        assert_eq!(knows_the_erased(&tree), None, "archive {id}");
    }
    for id in &ids {
        let certificate = shop.run(DUE, &["certificate", id]).ok().json();
        assert_eq!(certificate["body"]["result"], "PASS");
    }
    // Nothing of the intake opens any more, wherever a copy of it is.
    assert_eq!(intake(&shop), BTreeSet::new());
    whole(&shop, DUE);
    // The source still has them: that is told when the host's next archive is admitted.
    let later = "2026-10-20T01:00:00Z";
    hand_in(&shop, later);
    let ran = shop.run(later, &["intake", "admit"]).ok();
    assert!(ran.stderr.contains("who was erased"), "{}", ran.stderr);
    let request = shop.run(later, &["request", "show", &ids[0], "--json"]).ok().json();
    assert_eq!(request["request"]["still_live"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_admitted_late_is_never_certified_and_never_handed_out() {
    let dir = scratch();
    // No other archive: what an erasure destroys is in none that this one shares with, otherwise it could not be admitted at all.
    let shop = Shop::new(&dir.path().join("shop"), true);
    shop.run(OPENED, &["init", "--put-only-key", "put.key"]).ok();
    // Its clock is ahead: refused for now.
    let archive = hand_in(&shop, "2026-10-08T23:00:00Z");
    let ids = shop.request();
    let waiting = shop.run(OPENED, &["verify"]).exits(3);
    assert!(waiting.stderr.contains("yet to come"), "{}", waiting.stderr);
    let tampered = shop.path("keys/intake/crm").join(&archive).join("head");
    let good = std::fs::read(&tampered).unwrap();
    std::fs::write(&tampered, b"RSI1 nothing").unwrap();
    let ran = shop.run(DUE, &["propagate"]).exits(3);
    assert!(ran.stderr.contains("not admitted, so not searched"), "{}", ran.stderr);
    // Thrown away by mistake, and put back from a copy after the erasure was done.
    let folder = shop.path("keys/intake/crm").join(&archive);
    let copy = dir.path().join("copy");
    let (records, packs) = (dir.path().join("records"), dir.path().join("packs"));
    let (put_keys, stored) = (shop.path("keys/records/put-keys"), shop.path("backups/packs"));
    for (from, to) in [(&folder, &copy), (&put_keys, &records), (&stored, &packs)] {
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    }
    shop.run(DUE, &["intake", "discard", &archive[..12], "--reason", "it does not open"]).ok();
    shop.run(DUE, &["propagate"]).ok();
    let certified = |code: i32| shop.run(DUE, &["certificate", &ids[0]]).exits(code).json();
    assert_eq!(certified(0)["body"]["result"], "PASS");
    for (from, to) in [(&copy, &folder), (&records, &put_keys), (&packs, &stored)] {
        if from != &packs {
            let _ = std::fs::remove_dir_all(to);
        }
        let to = if from == &packs { &stored.parent().unwrap().to_path_buf() } else { to };
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    }
    std::fs::write(&tampered, good).unwrap();
    shop.run(DUE, &["intake", "admit"]).ok();
    let certificate = certified(3);
    assert_eq!(certificate["body"]["result"], "UNKNOWN");
    assert_eq!(certificate["body"]["surviving_copies"][0]["archive"], archive.as_str());
    let tree = shop.restore_one(&shop.open(DUE).unwrap(), &archive).unwrap();
    assert_eq!(knows_the_erased(&tree), None, "the gate stands between");
}

#[test]
fn an_archive_that_was_refused_before_the_erasure_began_is_erased_from_when_it_is_admitted() {
    let dir = scratch();
    let shop = Shop::new(&dir.path().join("shop"), true);
    shop.run(OPENED, &["init", "--put-only-key", "put.key"]).ok();
    // The host's clock is days ahead: the archive claims to be made after the erasure.
    let archive = hand_in(&shop, "2026-10-20T01:00:00Z");
    let ids = shop.request();
    let ran = shop.run(DUE, &["propagate"]).exits(3);
    assert!(ran.stderr.contains("not admitted, so not searched"), "{}", ran.stderr);
    let later = "2026-10-21T01:00:00Z";
    shop.run(later, &["intake", "admit"]).ok();
    assert_eq!(shop.run(later, &["certificate", &ids[0]]).exits(3).json()["body"]["result"], "UNKNOWN");
    let tree = shop.restore_one(&shop.open(later).unwrap(), &archive).unwrap();
    assert_eq!(knows_the_erased(&tree), None, "the gate stands between");
    let report = shop.run(later, &["propagate", "--json"]).ok().json();
    let touched = &report["requests"][0]["archives"];
    assert!(touched.as_array().unwrap().iter().any(|a| a["archive"] == archive.as_str() && a["generation_after"] == 2), "{touched:#}");
    assert_eq!(shop.run(later, &["certificate", &ids[0]]).ok().json()["body"]["result"], "PASS");
}

#[test]
fn the_lost_keys_of_a_dataset_with_nothing_but_an_intake_are_named_and_never_made_anew() {
    let dir = scratch();
    let shop = Shop::new(&dir.path().join("shop"), true);
    shop.run(OPENED, &["init", "--put-only-key", "put.key"]).ok();
    let ids = shop.request();
    let archive = hand_in(&shop, OPENED);
    let keys = shop.path("keys/datasets/crm");
    let bytes = std::fs::read(&keys).unwrap();
    std::fs::remove_file(&keys).unwrap();
    for args in [&["propagate"][..], &["backup"], &["intake", "admit"], &["subject", "find", "--identity-file", "identity0.yaml"]] {
        let ran = shop.run(DUE, args).exits(6);
        assert!(ran.stderr.contains("datasets/crm"), "{args:?}: {}", ran.stderr);
        assert!(!keys.exists(), "{args:?}");
    }
    std::fs::write(&keys, bytes).unwrap();
    let report = shop.run(DUE, &["propagate", "--json"]).ok().json();
    assert_eq!(report["requests"][0]["archives"][0]["archive"], archive.as_str());
    assert_eq!(shop.run(DUE, &["certificate", &ids[0]]).ok().json()["body"]["result"], "PASS");
}

#[test]
fn a_tampered_intake_is_refused_named_and_kept_until_it_is_thrown_away() {
    let dir = scratch();
    let base = shop(dir.path());
    base.change(2);
    let archive = hand_in(&base, &night_time(2));
    let objects: Vec<String> = intake(&base).into_iter().collect();
    assert!(objects.len() >= 3, "{objects:?}");
    let packs = base.objects("backups/packs");
    type Harm<'a> = (&'a str, &'a dyn Fn(&Shop));
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let of = |word: &str| objects.iter().find(|o| o.contains(word)).unwrap().clone();
    let own: Vec<String> = objects.iter().filter(|o| o.contains("/sheets/")).map(|o| o.rsplit('/').next().unwrap().to_string()).collect();
    let pack = packs.iter().find(|p| p.ends_with(own[0].as_str())).unwrap().clone();
    let harms: [Harm; 6] = [
        ("the head", &|s| flip(&s.path("").join(of("/head")))),
        ("a sheet", &|s| flip(&s.path("").join(of("/sheets/")))),
        ("a sheet is gone", &|s| std::fs::remove_file(s.path("").join(of("/sheets/"))).unwrap()),
        ("its pack", &|s| flip(&s.path("").join(&pack))),
        ("its pack is gone", &|s| std::fs::remove_file(s.path("").join(&pack)).unwrap()),
        ("moved to another name", &|s| {
            let folder = s.path("keys/intake/crm");
            std::fs::rename(folder.join(&archive), folder.join("0".repeat(32))).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let shop = base.copy(&dir.path().join("work"));
        harm(&shop);
        let before = intake(&shop);
        for args in [&["intake", "admit"][..], &["verify"]] {
            let ran = shop.run(OPENED, args).exits(3);
            assert!(ran.stderr.contains("is NOT admitted") && ran.stderr.contains("reseal intake discard"), "{name}: {}", ran.stderr);
        }
        // Others are not held up, and nothing of it is swept.
        shop.run(OPENED, &["backup"]).ok();
        let packs = shop.objects("backups/packs");
        shop.run(OPENED, &["rotate"]);
        // A pack whose keys are gone is noise.
        let own: Vec<&String> = own.iter().filter(|o| before.iter().any(|b| b.ends_with(o.as_str()))).collect();
        assert!(packs.iter().filter(|p| own.iter().any(|o| p.ends_with(o.as_str()))).all(|p| shop.path("").join(p).exists()), "{name}");
        assert_eq!(intake(&shop), before, "{name}");
        let listed = shop.run(OPENED, &["intake", "list", "--json"]).ok().json();
        assert_eq!(listed["intake"][0]["state"], "refused", "{name}");
        assert_eq!(
            shop.run(OPENED, &["audit", "--json"]).ok().json()["entries"].to_string().matches("intake-refused").count(),
            1,
            "{name}: said once"
        );
        let id = listed["intake"][0]["archive"].as_str().unwrap();
        shop.run(OPENED, &["intake", "discard", id, "--reason", "tampered with"]).ok();
        shop.run(OPENED, &["rotate"]).ok();
        assert_eq!(intake(&shop), BTreeSet::new(), "{name}");
        whole(&shop, OPENED);
        // The host hands in again what is not there.
        hand_in(&shop, DUE);
        shop.run(DUE, &["intake", "admit"]).ok();
        whole(&shop, DUE);
    }
}

#[test]
fn nothing_is_taken_from_a_removed_key_or_for_another_dataset() {
    let dir = scratch();
    let shop = shop(dir.path());
    let keys = shop.run(OPENED, &["keys", "list", "--json"]).ok().json();
    let host = keys["keys"].as_array().unwrap().iter().find(|k| k["kind"] == "put-only").unwrap().clone();
    assert_eq!((host["label"].as_str(), host["datasets"][0].as_str()), (Some("web1"), Some("crm")));
    shop.change(2);
    hand_in(&shop, &night_time(2));
    let ran = shop.run(OPENED, &["keys", "remove", &host["id"].as_str().unwrap()[..8]]).ok();
    assert!(ran.stderr.contains("will be refused"), "{}", ran.stderr);
    let ran = shop.run(OPENED, &["intake", "admit"]).exits(3);
    assert!(ran.stderr.contains("the key of host web1 was removed"), "{}", ran.stderr);
    assert_eq!(archives(&shop, OPENED), 1);
    shop.run(OPENED, &["keys", "remove", host["id"].as_str().unwrap()]).exits(2);
    // A key for a dataset that the configuration does not have, or that is of another repository.
    shop.run(OPENED, &["keys", "add", "--label", "x", "--put-only", "p", "--dataset", "nope"]).exits(2);
    assert!(!shop.path("p").exists());
    let other = Shop::new(&dir.path().join("other"), true);
    other.prepare(1);
    std::fs::copy(shop.path("put.key"), other.path("put.key")).unwrap();
    let ran = other.run_with(OPENED, &["backup"], HOST).exits(1);
    assert!(ran.stderr.contains("another repository"), "{}", ran.stderr);
    // The host waits for whoever writes.
    let session = shop.open(OPENED).unwrap();
    let lease = session.repo.lease("crm", std::time::Duration::from_secs(3600)).unwrap();
    shop.run_with(OPENED, &["backup"], HOST).exits(5);
    drop(lease);
    // And `init` makes a key, too.
    let fresh = Shop::new(&dir.path().join("fresh"), false);
    fresh.run(OPENED, &["init", "--put-only-key", "put.key"]).ok();
    hand_in(&fresh, OPENED);
    fresh.run(OPENED, &["nightly"]).ok();
    assert_eq!(archives(&fresh, OPENED), 2);
}

#[test]
fn an_interrupted_hand_in_leaves_nothing_and_an_interrupted_admission_is_completed() {
    let dir = scratch();
    let shop = shop(dir.path());
    shop.change(2);
    let archive = hand_in(&shop, &night_time(2));
    let folder = shop.path("keys/intake/crm").join(&archive);
    // Admitted, and the intake put back as if clearing up had been cut off: nothing is made twice.
    let copy = dir.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-r").arg(&folder).arg(&copy).status().unwrap().success());
    shop.run(OPENED, &["intake", "admit"]).ok();
    assert!(std::process::Command::new("cp").arg("-r").arg(&copy).arg(&folder).status().unwrap().success());
    shop.run(OPENED, &["intake", "admit"]).ok();
    assert_eq!((archives(&shop, OPENED), intake(&shop)), (2, BTreeSet::new()));
    // Without its head, and without the lists that come after it, it was never handed in.
    shop.change(3);
    let before = shop.objects("keys/known");
    let archive = hand_in(&shop, OPENED);
    std::fs::remove_file(shop.path("keys/intake/crm").join(&archive).join("head")).unwrap();
    for list in shop.objects("keys/known").difference(&before) {
        std::fs::remove_file(shop.path(list)).unwrap();
    }
    let admitted = shop.run(OPENED, &["intake", "admit", "--json"]).ok().json();
    assert_eq!(admitted["intake"]["interrupted"], 1);
    shop.run(OPENED, &["rotate"]).ok();
    whole(&shop, OPENED);
    let session = shop.open(OPENED).unwrap();
    let (packs, sheets) = (shop.objects("backups/packs").len(), shop.objects("keys/sheets").len());
    assert_eq!(packs, sheets, "no pack is left over");
    drop(session);
    // What a host reads is made again where it was lost: by whoever writes with the full key.
    std::fs::remove_dir_all(shop.path("keys/known")).unwrap();
    let ran = shop.run_with(OPENED, &["backup"], HOST).exits(1);
    assert!(ran.stderr.contains("known/crm/put is missing"), "{}", ran.stderr);
    shop.run(OPENED, &["backup"]).ok();
    let again = shop.run_with(OPENED, &["backup", "--json"], HOST).ok().json();
    assert_eq!(again["backups"][0]["stored_bytes"], 0, "everything is known again");
    // A rotated root opens the intake as well.
    hand_in(&shop, DUE);
    shop.run(DUE, &["keys", "rotate"]).ok();
    shop.run(DUE, &["intake", "admit"]).ok();
    whole(&shop, DUE);
}

#[test]
fn a_handed_in_archive_whose_head_is_away_is_no_interrupted_backup() {
    let dir = scratch();
    let shop = shop(dir.path());
    shop.change(2);
    hand_in(&shop, &night_time(2));
    let head = intake(&shop).into_iter().find(|k| k.ends_with("/head")).unwrap();
    let bytes = std::fs::read(shop.path(&head)).unwrap();
    let before = intake(&shop);
    std::fs::remove_file(shop.path(&head)).unwrap();
    // Twice: what is remembered of it must not be forgotten by the first.
    for _ in 0..2 {
        let ran = shop.run(OPENED, &["intake", "admit"]).exits(3);
        assert!(ran.stderr.contains("its head is missing"), "{}", ran.stderr);
        shop.run(OPENED, &["rotate"]);
    }
    std::fs::write(shop.path(&head), bytes).unwrap();
    assert_eq!(intake(&shop), before);
    shop.run(OPENED, &["intake", "admit"]).ok();
    assert_eq!(archives(&shop, OPENED), 2);
    whole(&shop, OPENED);
}
