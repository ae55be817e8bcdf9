//! Several processes at once: writers of one dataset exclude each other and say so, writers of different datasets do not, and readers
//! get one generation of an archive or another, never a mixture.

mod common;

use common::shop::{DUE, OPENED, Shop, Tree, dataset, finish, knows_the_erased, scratch};
use common::tree;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Something that takes a while to back up.
fn weigh_down(shop: &Shop, folder: &str, files: u32) {
    for n in 0..files {
        let seed = blake3::hash(&n.to_le_bytes());
        let mut bytes = vec![0; 200_000];
        let mut reader = blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof();
        reader.fill(&mut bytes);
        std::fs::write(shop.path(&format!("{folder}/weight{n}")), bytes).unwrap();
    }
}

#[test]
fn of_two_backups_of_one_dataset_at_once_one_is_told_that_it_is_locked() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("shop"), false);
    weigh_down(&shop, "data", 40);
    shop.run("2026-10-01T01:00:00Z", &["init"]).ok();
    let children = [1, 2].map(|n| shop.spawn(&format!("2026-10-01T02:00:0{n}Z"), &["backup"], &[]));
    let ran = children.map(finish);
    let mut codes: Vec<i32> = ran.iter().map(|r| r.code.unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 5], "{ran:?}");
    let refused = ran.iter().find(|r| r.code == Some(5)).unwrap();
    assert!(refused.stderr.contains("leases/crm is locked by process"), "{}", refused.stderr);
    let session = shop.open(OPENED).unwrap();
    assert_eq!(shop.verify_all(&session).len(), 1);
    shop.run(OPENED, &["backup"]).ok();
}

#[test]
fn a_dataset_is_backed_up_while_another_one_is_erased_from() {
    let scratch = scratch();
    let datasets = format!("{}{}", dataset("a", "data-a"), dataset("b", "data-b"));
    let shop = Shop::with(&scratch.path().join("shop"), false, &datasets, &["data-a", "data-b"]);
    shop.prepare(2);
    let ran = shop.run(OPENED, &["request", "open", "--identity-file", "identities.yaml", "--dataset", "b", "--json"]).ok();
    assert_eq!(ran.json()["requests"].as_array().unwrap().len(), 2);
    for n in 0..3 {
        weigh_down(&shop, "data-a", 20 + n);
        let now = format!("2026-10-15T09:0{n}:00Z");
        let children = [&["backup", "a"][..], &["propagate"]].map(|args| shop.spawn(&now, args, &[]));
        for ran in children.map(finish) {
            ran.ok();
        }
    }
    let session = shop.open(DUE).unwrap();
    assert_eq!(shop.verify_all(&session).len(), 2 + 3 + 2);
    for (id, tree) in shop.restore_all(&session).unwrap() {
        let b = tree.keys().any(|name| name.starts_with("data-b/"));
        assert_eq!(knows_the_erased(&tree).is_none(), b, "archive {id}");
    }
}

/// What an exported tar holds.
fn untar(path: &std::path::Path) -> Tree {
    let mut out = BTreeMap::new();
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            out.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
    }
    out
}

#[test]
fn readers_during_an_erasure_get_one_generation_or_the_other_and_never_fail() {
    let scratch = scratch();
    let base = Shop::new(&scratch.path().join("base"), false);
    weigh_down(&base, "data", 10);
    base.prepare(3);
    let old = base.restore_all(&base.open(OPENED).unwrap()).unwrap();
    base.request();
    let done = base.copy(&scratch.path().join("done"));
    done.run(DUE, &["propagate"]).ok();
    let new = done.restore_all(&done.open(DUE).unwrap()).unwrap();
    let ids: Vec<&String> = old.keys().collect();
    let (mut reads, mut before, mut rounds) = (0, 0, 0);
    let started = Instant::now();
    while rounds < 6 && started.elapsed() < Duration::from_secs(40) {
        let shop = base.copy(&scratch.path().join("work"));
        let mut writer = shop.spawn(DUE, &["propagate"], &[]);
        let mut running = true;
        while running {
            running = writer.try_wait().unwrap().is_none();
            let id = ids[reads % ids.len()];
            let child = if reads % 2 == 0 {
                let _ = std::fs::remove_dir_all(shop.path("restored"));
                shop.spawn(DUE, &["restore", id, "--to", "restored"], &[])
            } else {
                let _ = std::fs::remove_file(shop.path("exported.tar"));
                shop.spawn(DUE, &["export", id, "--out", "exported.tar"], &[])
            };
            finish(child).ok();
            let got = if reads % 2 == 0 { tree(&shop.path("restored")) } else { untar(&shop.path("exported.tar")) };
            assert!(got == old[id] || got == new[id], "archive {id} is a mixture");
            before += usize::from(got == old[id]);
            reads += 1;
        }
        finish(writer).ok();
        shop.verify_all(&shop.open(DUE).unwrap());
        rounds += 1;
    }
    println!("{reads} reads in {rounds} rounds, {before} of them of the generation before");
}

#[test]
fn a_person_can_be_looked_for_and_archives_listed_while_a_writer_works() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("shop"), false);
    shop.prepare(2);
    shop.request();
    let mut writer = shop.spawn(DUE, &["propagate"], &[]);
    let mut looked = 0;
    while writer.try_wait().unwrap().is_none() || looked == 0 {
        for args in [
            &["archives", "--json"][..],
            &["subject", "find", "--identity-file", "identity0.yaml", "--json"],
            &["request", "list"],
            &["audit", "--check"],
        ] {
            shop.run(DUE, args).ok();
        }
        looked += 1;
    }
    finish(writer).ok();
    println!("looked {looked} times");
}
