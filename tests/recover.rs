//! `scripts/recover.py`, written from `docs/format.md` alone, restores what the command line sealed, exactly as `reseal restore`
//! does: names, bytes, holes, links, modes and times. `RESEAL_PYTHON` names an interpreter with the script's packages (`scripts/test`
//! sets it); without it the test says so and passes, except in CI.

mod common;

use common::described;
use common::shop::{DUE, OPENED, Shop, scratch};
use std::path::Path;
use std::process::{Command, Output};

fn python() -> Option<String> {
    match std::env::var("RESEAL_PYTHON") {
        Ok(python) => Some(python),
        Err(_) => {
            assert!(std::env::var("CI").map_or(true, |v| v != "true"), "RESEAL_PYTHON is not set: scripts/test sets it");
            println!("RESEAL_PYTHON is not set: scripts/recover.py is not tested (scripts/test sets it)");
            None
        }
    }
}

fn recover(python: &str, shop: &Shop, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/recover.py");
    Command::new(python)
        .arg(script)
        .args(["backups", "--keys", "keys", "--key-file", "key"])
        .args(arguments)
        .current_dir(&shop.root)
        .output()
        .unwrap()
}

/// Both ways, every archive.
fn same(python: &str, shop: &Shop, count: usize, now: &str, at: &str) {
    let listed = shop.run(now, &["archives", "--json"]).ok().json();
    let archives = listed["archives"].as_array().unwrap();
    assert_eq!(archives.len(), count, "{at}");
    for archive in archives {
        let id = archive["id"].as_str().unwrap();
        let (ours, theirs) = (shop.path("ours"), shop.path("theirs"));
        let _ = (std::fs::remove_dir_all(&ours), std::fs::remove_dir_all(&theirs));
        shop.run(now, &["restore", id, "--to", "ours"]).ok();
        let ran = recover(python, shop, &["--archive", id, "--to", "theirs"]);
        assert!(ran.status.success(), "{at}: {}", String::from_utf8_lossy(&ran.stderr));
        let (ours, theirs) = (described(&ours), described(&theirs));
        assert!(ours.len() > 15, "{at}: {ours:?}");
        assert_eq!(ours, theirs, "{at}: archive {id}");
    }
}

#[test]
fn the_script_restores_what_the_program_restores_also_after_an_erasure_and_a_rotation_of_the_root() {
    let Some(python) = python() else { return };
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("shop"), true);
    let data = shop.path("data");
    std::os::unix::fs::symlink("readme.txt", data.join("symbolic")).unwrap();
    std::fs::hard_link(data.join("readme.txt"), data.join("zzz-hard")).unwrap();
    assert!(Command::new("mkfifo").arg(data.join("pipe")).status().unwrap().success());
    let sparse = std::fs::File::create(data.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::fs::create_dir(data.join("empty")).unwrap();
    std::fs::write(data.join("nothing"), "").unwrap();
    std::fs::write(data.join("large"), (0..600_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    shop.prepare(2);
    same(&python, &shop, 2, OPENED, "as backed up");
    shop.request();
    shop.run(DUE, &["propagate"]).ok();
    same(&python, &shop, 2, DUE, "after an erasure");
    shop.run(DUE, &["keys", "rotate"]).ok();
    same(&python, &shop, 2, DUE, "after a rotation of the root key");
    let listed = recover(&python, &shop, &["--list"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().filter(|l| l.contains("crm")).count(), 2, "{listed:?}");
    // What a put-only host handed in is an archive like every other, once it is admitted.
    let later = "2026-10-20T01:00:00Z";
    shop.run(later, &["keys", "add", "--label", "web1", "--put-only", "put.key"]).ok();
    shop.change(3);
    shop.run(later, &["--key-file", "put.key", "backup"]).ok();
    shop.run(later, &["intake", "admit"]).ok();
    same(&python, &shop, 3, later, "handed in and admitted");
}
