//! What the tests of sources and targets share: scratch folders, a tree with everything in it, and a comparison of trees.

use super::file::{SourceFile, open_quietly};
use super::globs::PathGlobs;
use super::meta;
use super::walk::{Problem, Walk, WalkItem, WalkOptions, Walked};
use crate::repository::entry::{Entry, EntryKind, Time};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(super) fn plain_entry(path: &[u8], kind: EntryKind) -> Entry {
    let stat = rustix::fs::stat("/").unwrap();
    let mut entry = meta::entry(path.to_vec(), kind, &stat, &mut meta::Owners::default());
    entry.uid = rustix::process::geteuid().as_raw();
    entry.gid = rustix::process::getegid().as_raw();
    (entry.user, entry.group) = (String::new(), String::new());
    (entry.mode, entry.size, entry.seen, entry.mtime, entry.rdev) = (0o644, 0, None, Time(1_000_000_000, 0), None);
    entry
}

pub(super) fn open_source(path: &Path) -> (SourceFile, Entry) {
    let (fd, stat) = open_quietly(CWD, path.as_os_str().as_bytes(), FileType::RegularFile).unwrap();
    let entry = meta::entry(b"x".to_vec(), EntryKind::File, &stat, &mut meta::Owners::default());
    (SourceFile::new(fd, stat), entry)
}

pub(super) fn globs(patterns: &[&str]) -> PathGlobs {
    PathGlobs::new(patterns).unwrap()
}

/// Walks to the end: what is to be stored, and what was in the way.
pub(super) fn walk(roots: &[PathBuf], options: WalkOptions) -> (Vec<WalkItem>, Vec<Problem>) {
    let (mut items, mut problems) = (Vec::new(), Vec::new());
    for walked in Walk::new(roots, options).unwrap() {
        match walked {
            Walked::Item(item) => items.push(*item),
            Walked::Problem(problem) => problems.push(problem),
        }
    }
    (items, problems)
}

/// The content as stored, with holes left out, and the entry that fits it.
pub(super) fn read(item: &mut WalkItem) -> Vec<u8> {
    let mut content = Vec::new();
    if item.entry.kind == EntryKind::File {
        let mut source = item.open().unwrap();
        source.find_holes().unwrap();
        source.read_to_end(&mut content).unwrap();
        assert_eq!(source.finish(&mut item.entry), None);
    }
    content
}

pub(super) fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: last_modification, last_modification };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets an extended attribute if the file system has them.
pub(super) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let _ = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
}

/// A tree with everything in it that a backup has to bring back.
pub(super) fn make_tree(root: &Path) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    let write = |name: &[u8], data: &[u8], mode: u32, mtime: (i64, i64)| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), data).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(&at(name), mtime.0, mtime.1);
    };
    write(b"plain.txt", b"hello\n", 0o644, (1_700_000_000, 123_456_789));
    write(b"empty", b"", 0o400, (0, 0));
    write(b"block", &[b'b'; 512], 0o640, (1, 1));
    write(b"old", b"before the epoch", 0o600, (-1_000_000_000, 0));
    write(b"old-and-exact", b"before the epoch", 0o600, (-2, 500_000_000));
    write(b"set-id", b"#!/bin/sh\n", 0o6755, (1_000_000_001, 0));
    write(b"a-b", b"sorts after a/", 0o644, (1, 0));
    write(b"a/x", b"in a", 0o644, (1, 0));
    write("grüße/日本語.txt".as_bytes(), b"utf-8", 0o644, (2, 0));
    write(b"bytes/\xff\xfe latin \xe9", b"not utf-8", 0o644, (3, 7));
    write(&[b"bytes/\xff".to_vec(), vec![b'n'; 200]].concat(), b"long and not utf-8", 0o644, (3, 70));
    write(&[b"bytes/\xff".to_vec(), vec![b'd'; 180], b"/file".to_vec()].concat(), b"in it", 0o600, (4, 0));
    write(b"odd/ new\nline \\ \"quoted\" *?", b"odd", 0o644, (5, 0));
    write(&vec![b'n'; 255], b"the longest name", 0o644, (6, 0));
    let deep = (0..6).map(|i| format!("{i}{}", "ü".repeat(60))).collect::<Vec<_>>().join("/");
    write(deep.as_bytes(), b"deep", 0o644, (7, 0));
    let big: Vec<u8> = (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
    write(b"big", &big, 0o644, (8, 999_999_999));
    for (name, size, parts) in [
        (&b"sparse/middle"[..], 8 << 20, &[(1u64 << 20, 10_000usize), (4 << 20, 65_536)][..]),
        (b"sparse/ends", 1 << 20, &[(0, 4096), ((1 << 20) - 4096, 4096)]),
        (b"sparse/all hole", 5 << 20, &[]),
        (b"sparse/hole at the end \xff", (1 << 20) + 1, &[(0, 5)]),
    ] {
        write(name, b"", 0o644, (9, 0));
        let file = File::options().write(true).open(at(name)).unwrap();
        file.set_len(size).unwrap();
        parts.iter().for_each(|(offset, len)| file.write_all_at(&vec![b's'; *len], *offset).unwrap());
        set_mtime(&at(name), 9, 9);
    }
    set_xattr(&at(b"plain.txt"), "user.plain", b"value");
    set_xattr(&at(b"plain.txt"), "user.binary", b"\0\xff\n= \0");
    set_xattr(&at(b"plain.txt"), "user.empty", b"");
    set_xattr(&at(b"plain.txt"), "user.odd=%name", b"%3D");
    set_xattr(&at(b"a"), "user.folder", b"of a folder");
    if is_root() {
        // A POSIX access list: version 2; owner rw-, user 1234 r--, group r--, mask r--, others r--.
        let acl = [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)];
        let acl: Vec<u8> = acl.iter().flat_map(|(t, p, i)| [&t.to_le_bytes()[..], &p.to_le_bytes(), &i.to_le_bytes()].concat()).collect();
        set_xattr(&at(b"old"), "system.posix_acl_access", &[&2u32.to_le_bytes()[..], &acl].concat());
        set_mtime(&at(b"old"), -1_000_000_000, 0);
    }
    std::fs::hard_link(at(b"plain.txt"), at(b"second name")).unwrap();
    std::fs::hard_link(at(b"plain.txt"), at(&[b"bytes/\xff".to_vec(), vec![b'h'; 150]].concat())).unwrap();
    for (name, to) in [
        (&b"link"[..], b"plain.txt".to_vec()),
        (b"dangling", b"/nowhere/\xff".to_vec()),
        (b"link to folder", b"a/".to_vec()),
        (b"long link", vec![b'l'; 300]),
        (b"long odd link", [b"\xff".to_vec(), vec![b'l'; 300]].concat()),
    ] {
        std::os::unix::fs::symlink(OsStr::from_bytes(&to), at(name)).unwrap();
        set_mtime(&at(name), 1_234_567_890, 987_654_321);
    }
    rustix::fs::mknodat(CWD, at(b"pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    set_mtime(&at(b"pipe"), 10, 10);
    std::fs::create_dir_all(at(b"empty folder/and another")).unwrap();
    if is_root() {
        std::os::unix::fs::chown(at(b"a/x"), Some(3_000_000), Some(12_345)).unwrap();
        std::os::unix::fs::lchown(at(b"link"), Some(77), Some(78)).unwrap();
        set_mtime(&at(b"link"), 11, 0);
        // The null device, which every system has.
        if rustix::fs::mknodat(CWD, at(b"null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), rustix::fs::makedev(1, 3)).is_ok() {
            set_mtime(&at(b"null"), 12, 0);
        }
    }
    std::fs::set_permissions(at(b"a"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(at(b"sparse"), std::fs::Permissions::from_mode(0o555)).unwrap();
    for folder in [&b"a"[..], b"sparse", b"empty folder/and another", b"empty folder", b"bytes"] {
        set_mtime(&at(folder), 20, 123_000_000);
    }
}

/// Lets a read-only tree be deleted.
pub(super) fn unlock(root: &Path) {
    let _ = std::fs::set_permissions(root.join("sparse"), std::fs::Permissions::from_mode(0o755));
}

/// What to leave out of a comparison, because the program that unpacked cannot do it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Blind {
    /// Nanoseconds that a time may be off.
    pub(super) time: i128,
    pub(super) symlink_times: bool,
    pub(super) xattrs: bool,
    pub(super) holes: bool,
    pub(super) devices: bool,
    /// Times before 1970 that are no whole seconds.
    pub(super) old_fractions: bool,
    /// Attributes with a `=` or `%` in their name.
    pub(super) odd_attributes: bool,
}

/// One path of a tree, by all that a restore has to bring back.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Looks {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    mtime: i128,
    size: u64,
    content: blake3::Hash,
    link: Vec<u8>,
    first_name: PathBuf,
    sparse: bool,
    xattrs: meta::Xattrs,
    device: u64,
}

/// Says how two trees differ, path by path.
pub(super) fn differences(a: &Path, b: &Path, blind: Blind) -> Vec<String> {
    let (a, b) = (look(a), look(b));
    let mut found = Vec::new();
    for path in a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>() {
        match (a.get(path), b.get(path)) {
            (Some(x), Some(y)) => {
                let (mut x, mut y) = (x.clone(), y.clone());
                let symlink = x.kind == 0o120_000;
                if (x.mtime - y.mtime).abs() <= blind.time
                    || (blind.symlink_times && symlink)
                    || (blind.old_fractions && x.mtime < 0 && x.mtime % 1_000_000_000 != 0)
                {
                    y.mtime = x.mtime;
                }
                if blind.xattrs {
                    (x.xattrs, y.xattrs) = (vec![], vec![]);
                }
                if blind.odd_attributes {
                    [&mut x, &mut y].into_iter().for_each(|l| l.xattrs.retain(|(name, _)| !name.contains(&b'%')));
                }
                if blind.holes {
                    (x.sparse, y.sparse) = (false, false);
                }
                if x != y {
                    found.push(format!("{path:?}:\n  {x:?}\n  {y:?}"));
                }
            }
            (x, _) if blind.devices && x.is_some_and(|x| x.kind == 0o020_000) => {}
            (x, _) => found.push(format!("{path:?}: only in the {}", if x.is_some() { "first" } else { "second" })),
        }
    }
    found
}

fn look(root: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut found = BTreeMap::new();
    let mut first_names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let item = item.unwrap();
            if item.file_type().unwrap().is_dir() {
                folders.push(item.path());
            }
            paths.push(item.path());
        }
    }
    paths.sort();
    for path in paths {
        let m = std::fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_path_buf();
        let content = if m.is_file() { std::fs::read(&path).unwrap() } else { vec![] };
        let first_name = if m.is_file() { first_names.entry(m.ino()).or_insert(relative.clone()).clone() } else { PathBuf::new() };
        let looks = Looks {
            kind: m.mode() & 0o170_000,
            mode: m.mode() & 0o7777,
            owner: (m.uid(), m.gid()),
            mtime: i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec()),
            size: if m.is_dir() { 0 } else { m.size() },
            content: blake3::hash(&content),
            link: if m.is_symlink() { std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec() } else { vec![] },
            first_name,
            sparse: m.is_file() && m.blocks() * 512 < m.size(),
            xattrs: meta::xattrs(&path).0,
            device: if m.file_type().is_file() { 0 } else { m.rdev() },
        };
        found.insert(relative, looks);
    }
    found
}
