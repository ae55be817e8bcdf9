//! `scripts/recover.py`, written from `docs/format.md` alone, restores what this crate sealed. Where Python or its packages are
//! missing, the test says so and passes; `RESEAL_PYTHON` names the interpreter.

use super::entry::{ChunkRef, Entry, EntryKind, Role, Time};
use super::testing::*;
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

fn python() -> Option<String> {
    let python = std::env::var("RESEAL_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let ready = Command::new(&python).args(["-c", "import cryptography, cbor2, zstandard, argon2, blake3"]).output();
    if ready.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    eprintln!("no Python with cryptography, cbor2, zstandard, argon2-cffi and blake3 (RESEAL_PYTHON): recover.py is not tested");
    None
}

fn recover(python: &str, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/recover.py");
    Command::new(python).arg(script).args(arguments).output().unwrap()
}

/// A sealed archive with one of everything.
fn archive(t: &Fixture) -> Head {
    let dataset = t.repo.create_dataset("d").unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default());
    let tree = |pieces: &mut dyn Iterator<Item = Vec<u8>>| {
        let mut tree = TreeWriter::new(&writer);
        for piece in pieces {
            let added = writer.add(Role::Data, &piece).unwrap();
            tree.push(ChunkRef { id: added.id, len: piece.len() as u64, marks: None }).unwrap();
        }
        Some(tree.finish().unwrap())
    };
    let link = |to: &str| Some(serde_bytes::ByteBuf::from(to.as_bytes().to_vec()));
    let entries = [
        Entry { kind: EntryKind::Directory, mode: 0o555, mtime: Time(-5, 7), ..entry("dir") },
        Entry {
            content: tree(&mut [b"small".to_vec()].into_iter()),
            size: 5,
            mode: 0o640,
            mtime: Time(1_600_000_000, 123_456_789),
            ..entry("dir/small")
        },
        Entry { content: tree(&mut (0..3000u32).map(|n| n.to_le_bytes().to_vec())), size: 12_000, ..entry("big") },
        Entry { content: None, ..entry("empty") },
        Entry { kind: EntryKind::Hardlink, link: link("big"), ..entry("hard") },
        Entry {
            content: tree(&mut [b"begin".to_vec(), b"ning, end".to_vec()].into_iter()),
            segments: Some(vec![(4096, 9), (1 << 20, 5)]),
            size: 3 << 20,
            ..entry("sparse")
        },
        Entry { kind: EntryKind::Symlink, link: link("dir/small"), mtime: Time(1_500_000_000, 0), ..entry("symbolic") },
        Entry {
            xattrs: vec![(serde_bytes::ByteBuf::from(b"user.note".to_vec()), serde_bytes::ByteBuf::from(b"value".to_vec()))],
            path: b"odd \xff name".to_vec(),
            ..entry("")
        },
    ];
    let mut list = EntryListWriter::new(&writer, &dataset);
    entries.iter().for_each(|e| list.push(e).unwrap());
    let entry_tree = list.finish().unwrap();
    writer.finish().unwrap();
    let head = Head { entries: entry_tree, entry_count: entries.len() as u64, tag: Some("monthly".into()), ..put_archive(t, 9, &[]) };
    let head = Head { archive: ArchiveId([0xab; 16]), ..head };
    t.repo.put_head(&head).unwrap();
    head
}

#[test]
fn the_script_restores_an_archive_with_nothing_but_a_secret() {
    let Some(python) = python() else { return };
    use std::os::unix::ffi::OsStrExt;
    let t = fixture();
    let head = archive(&t);
    let file = crate::crypto::secret::KeyFile::generate(&crate::env::SystemRandom).unwrap();
    let text = file.encode();
    t.repo.add_slot(&Secret::KeyFile(file), "key file", FAST).unwrap();
    t.repo.rotate_root().unwrap();
    let (root, scratch) = (t.data.describe(), tempfile::tempdir().unwrap());
    let path = |name: &str| scratch.path().join(name).display().to_string();
    std::fs::write(path("passphrase"), "passphrase\n").unwrap();
    std::fs::write(path("wrong"), "wrong\n").unwrap();
    std::fs::write(path("key"), text.as_bytes()).unwrap();

    let listed = recover(&python, &[&root, "--passphrase-file", &path("passphrase"), "--list"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains(&head.archive.to_string()) && text.contains("monthly"), "{listed:?}");
    assert!(!recover(&python, &[&root, "--passphrase-file", &path("wrong"), "--list"]).status.success());

    let out = scratch.path().join("out");
    let restored = recover(&python, &[&root, "--key-file", &path("key"), "--archive", "abab", "--to", &path("out")]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(std::fs::read(out.join("dir/small")).unwrap(), b"small");
    assert_eq!(std::fs::read(out.join("big")).unwrap(), (0..3000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    assert_eq!(std::fs::read(out.join("empty")).unwrap(), b"");
    let mut sparse = vec![0; 3 << 20];
    sparse[4096..4105].copy_from_slice(b"beginning");
    sparse[1 << 20..(1 << 20) + 5].copy_from_slice(b", end");
    assert_eq!(std::fs::read(out.join("sparse")).unwrap(), sparse);
    assert_eq!(std::fs::read_link(out.join("symbolic")).unwrap(), Path::new("dir/small"));
    let meta = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(meta("big").ino(), meta("hard").ino());
    assert_eq!((meta("dir/small").permissions().mode() & 0o7777, meta("dir").permissions().mode() & 0o7777), (0o640, 0o555));
    assert_eq!((meta("dir/small").mtime(), meta("dir/small").mtime_nsec()), (1_600_000_000, 123_456_789));
    assert_eq!((meta("dir").mtime(), meta("dir").mtime_nsec(), meta("symbolic").mtime()), (-5, 7, 1_500_000_000));
    let odd = out.join(std::ffi::OsStr::from_bytes(b"odd \xff name"));
    assert!(odd.exists());
    // So that the temporary folder can be removed.
    std::fs::set_permissions(out.join("dir"), std::fs::Permissions::from_mode(0o755)).unwrap();

    // A damaged pack costs the entries in it and is told.
    for object in t.data.list("packs/").unwrap() {
        let mut bytes = t.data.get(&object.key).unwrap();
        bytes.iter_mut().for_each(|b| *b ^= 1);
        t.data.put(&object.key, &bytes).unwrap();
    }
    let damaged = recover(&python, &[&root, "--key-file", &path("key"), "--archive", "abab", "--to", &path("again")]);
    assert!(!damaged.status.success() && String::from_utf8_lossy(&damaged.stderr).contains("damaged"), "{damaged:?}");
}
