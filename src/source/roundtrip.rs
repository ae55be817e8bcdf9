//! What is backed up is what comes back, by every way out: our own restore, and the tar programs that people have.

use super::testing::{Blind, differences, is_root, make_tree, read, scratch, set_mtime, unlock, walk};
use super::walk::path_order;
use super::{TarWriter, Target, TargetOptions, WalkOptions};
use crate::repository::entry::{Entry, EntryKind};
use proptest::prelude::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree as entries whose paths are relative to it, with their content.
fn entries(tree: &Path) -> Vec<(Entry, Vec<u8>)> {
    let (items, problems) = walk(&[tree.to_path_buf()], WalkOptions::default());
    assert_eq!(problems, []);
    let prefix = items[0].entry.path.len() + 1;
    assert!(items.windows(2).all(|w| path_order(&w[0].entry.path, &w[1].entry.path).is_lt()));
    let strip = |path: &[u8]| path[prefix..].to_vec();
    let mut found = Vec::new();
    for mut item in items.into_iter().skip(1) {
        let content = read(&mut item);
        let mut entry = item.entry;
        entry.path = strip(&entry.path);
        if entry.kind == EntryKind::Hardlink {
            entry.link = entry.link.map(|l| serde_bytes::ByteBuf::from(strip(&l)));
        }
        found.push((entry, content));
    }
    found
}

fn tar_of(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.append(entry, &mut &**content).unwrap();
    }
    writer.finish().unwrap()
}

fn restore(entries: &[(Entry, Vec<u8>)], to: &Path) -> super::RestoreReport {
    let target = Target::open(to, TargetOptions::default()).unwrap();
    for (entry, content) in entries {
        if entry.kind == EntryKind::File {
            let sink = target.file(entry).unwrap();
            for (i, part) in content.chunks(100_000).enumerate() {
                sink.write_at(i as u64 * 100_000, part).unwrap();
            }
            target.finish_file(&sink, entry).unwrap();
        } else {
            target.create(entry).unwrap();
        }
    }
    target.finish().unwrap()
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// Runs a program that unpacks `archive` in an empty folder; it must have nothing to complain about.
fn unpack(program: &str, arguments: &[&str], archive: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let out = Command::new(program).args(arguments).arg(archive).current_dir(to).env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

const PYTHON: &str = "import sys, tarfile
with tarfile.open(sys.argv[1], 'r:', errorlevel=2) as t:
    kw = {'filter': 'fully_trusted'} if hasattr(tarfile, 'data_filter') else {}
    t.extractall('.', **kw)
";

const GNU: &[&str] = &["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--acls", "--same-permissions", "-xf"];

/// Unpacks with every program there is and says how each result differs from the tree.
fn differences_by_program(tree: &Path, archive: &Path, scratch: &Path) -> Vec<(&'static str, Vec<String>)> {
    let mut found = Vec::new();
    if has("tar") {
        unpack("tar", GNU, archive, &scratch.join("gnu"));
        found.push(("GNU tar", differences(tree, &scratch.join("gnu"), Blind::default())));
    }
    if has("bsdtar") {
        // Without -P it takes off a leading backslash, as it means a folder elsewhere.
        unpack("bsdtar", &["-P", "-p", "-x", "-f"], archive, &scratch.join("bsd"));
        // libarchive 3.6 misreads fractions of seconds before 1970, and does not know how GNU tar writes odd attribute names.
        let blind = Blind { old_fractions: true, odd_attributes: true, ..Default::default() };
        found.push(("bsdtar", differences(tree, &scratch.join("bsd"), blind)));
    }
    if has("python3") {
        unpack("python3", &["-c", PYTHON], archive, &scratch.join("python"));
        // Python's times are floating-point numbers; it knows no attributes and does not set the times of links.
        let blind = Blind { time: 1000, symlink_times: true, xattrs: true, ..Default::default() };
        found.push(("Python", differences(tree, &scratch.join("python"), blind)));
    }
    for name in ["gnu", "bsd", "python"] {
        unlock(&scratch.join(name));
    }
    found
}

#[test]
fn what_is_restored_is_what_was_backed_up() {
    let dir = scratch();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let entries = entries(&tree);
    let report = restore(&entries, &dir.path().join("back"));
    assert_eq!(report.problems, []);
    assert_eq!((report.owners_refused, report.attributes_refused, report.set_ids_dropped), (0, 0, 0));
    let found = differences(&tree, &dir.path().join("back"), Blind::default());
    assert!(found.is_empty(), "{}", found.join("\n"));
    [tree, dir.path().join("back")].iter().for_each(|t| unlock(t));
}

#[test]
fn tar_programs_unpack_what_was_backed_up() {
    let dir = scratch();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let entries = entries(&tree);
    let tar = tar_of(&entries);
    assert!(tar == tar_of(&entries), "the same entries give other bytes");
    let archive = dir.path().join("archive.tar");
    std::fs::write(&archive, &tar).unwrap();
    for (program, found) in differences_by_program(&tree, &archive, dir.path()) {
        assert!(found.is_empty(), "{program}:\n{}", found.join("\n"));
    }
    unlock(&tree);
}

#[test]
fn the_rust_tar_crate_reads_every_name() {
    let dir = scratch();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let entries = entries(&tree);
    let tar = tar_of(&entries);
    let mut archive = tar::Archive::new(&*tar);
    // It does not know the pax way of sparse files.
    let expected: Vec<_> = entries.iter().filter(|e| e.0.segments.is_none() || std::str::from_utf8(&e.0.path).is_err()).collect();
    let read = archive.entries().unwrap().map(|e| e.unwrap());
    let mut read = read.filter(|e| !e.path_bytes().starts_with(b"GNUSparseFile"));
    for (entry, _) in expected {
        let member = read.next().unwrap();
        let name = member.path_bytes();
        assert_eq!(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(&name)), OsStr::from_bytes(&entry.path));
        assert_eq!(member.link_name_bytes().as_deref(), entry.link.as_ref().map(|l| l.as_slice()));
    }
    assert!(read.next().is_none());
    unlock(&tree);
}

#[test]
fn an_empty_archive_is_one() {
    let dir = scratch();
    let archive = dir.path().join("archive.tar");
    std::fs::write(&archive, tar_of(&[])).unwrap();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    for (program, found) in differences_by_program(&dir.path().join("tree"), &archive, dir.path()) {
        assert!(found.is_empty(), "{program}: {found:?}");
    }
}

/// Real archives, unpacked by GNU tar as far as it can: what that gives is a tree like any other.
#[test]
fn trees_from_real_archives_come_back() {
    let Some(data) = std::env::var_os("RESEAL_TEST_DATA") else {
        eprintln!("skipped: RESEAL_TEST_DATA is not set");
        return;
    };
    let mut archives: Vec<PathBuf> = ["go-tar", "python"]
        .iter()
        .flat_map(|d| std::fs::read_dir(Path::new(&data).join("archive").join(d)).into_iter().flatten())
        .map(|f| f.unwrap().path())
        .filter(|p| p.to_str().is_some_and(|p| p.contains(".tar")))
        .collect();
    archives.sort();
    let mut trees = 0;
    for archive in archives {
        let dir = scratch();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        // Malformed ones are among them; whatever comes out of those is good enough.
        let limit =
            ["-c", "ulimit -f 200000; tar --xattrs --xattrs-include='user.*' -xf \"$0\"; chmod -R u+rwX .", archive.to_str().unwrap()];
        let _ = Command::new("sh").args(limit).current_dir(&tree).output().unwrap();
        let (items, _) = walk(std::slice::from_ref(&tree), WalkOptions::default());
        if items.len() < 2 || items.iter().any(|i| i.entry.size > 64 << 20) {
            continue;
        }
        trees += 1;
        let entries = entries(&tree);
        let report = restore(&entries, &dir.path().join("back"));
        assert_eq!(report.problems, [], "{archive:?}");
        let blind = Blind { devices: !is_root(), ..Default::default() };
        let found = differences(&tree, &dir.path().join("back"), blind);
        assert!(found.is_empty(), "{archive:?}:\n{}", found.join("\n"));
        let again = dir.path().join("again.tar");
        std::fs::write(&again, tar_of(&entries)).unwrap();
        for (program, found) in differences_by_program(&tree, &again, dir.path()) {
            assert!(found.is_empty(), "{archive:?}, {program}:\n{}", found.join("\n"));
        }
    }
    assert!(trees > 20, "only {trees} archives gave a tree");
}

/// A name of any bytes that a file system takes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'-'), Just(b'.'), any::<u8>()], 1..20),
        proptest::collection::vec(any::<u8>(), 90..255),
        "[a-zA-Zäß]{1,120}".prop_map(String::into_bytes),
    ];
    bytes.prop_map(|mut name| {
        name.iter_mut().filter(|b| **b == b'/' || **b == 0).for_each(|b| *b = b'_');
        if name == b"." || name == b".." { b"dots".to_vec() } else { name }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(
        files in proptest::collection::vec(
            (proptest::collection::vec(name(), 1..5), proptest::collection::vec(any::<u8>(), 0..1500), any::<i32>(), 0..1_000_000_000i64, 0..0o1000u32),
            1..15,
        ),
        links in proptest::collection::vec((name(), name()), 0..4),
    ) {
        let dir = scratch();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        for (parts, content, seconds, nanos, mode) in &files {
            let mut path = tree.clone();
            path.extend(parts.iter().map(|p| OsStr::from_bytes(p)));
            // Two paths may need the same name as a file and as a folder; the first one has it.
            if std::fs::create_dir_all(path.parent().unwrap()).is_ok() && std::fs::write(&path, content).is_ok() {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o600)).unwrap();
                set_mtime(&path, (*seconds).into(), *nanos);
            }
        }
        for (name, to) in &links {
            let _ = std::os::unix::fs::symlink(OsStr::from_bytes(to), tree.join(OsStr::from_bytes(name)));
        }
        let entries = entries(&tree);
        let report = restore(&entries, &dir.path().join("back"));
        prop_assert_eq!(report.problems, []);
        let found = differences(&tree, &dir.path().join("back"), Blind::default());
        prop_assert!(found.is_empty(), "{}", found.join("\n"));
        let archive = dir.path().join("archive.tar");
        std::fs::write(&archive, tar_of(&entries)).unwrap();
        for (program, found) in differences_by_program(&tree, &archive, dir.path()) {
            prop_assert!(found.is_empty(), "{}:\n{}", program, found.join("\n"));
        }
    }
}
