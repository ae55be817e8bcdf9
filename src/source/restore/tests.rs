use super::super::testing::{is_root, plain_entry, scratch};
use super::*;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn link(path: &[u8], kind: EntryKind, to: &[u8]) -> Entry {
    Entry { link: Some(ByteBuf::from(to)), ..plain_entry(path, kind) }
}

fn put(target: &Target, entry: &Entry, content: &[u8]) -> Result<()> {
    let entry = Entry { size: if entry.segments.is_some() { entry.size } else { content.len() as u64 }, ..entry.clone() };
    let sink = target.file(&entry)?;
    sink.write_at(0, content)?;
    target.finish_file(&sink, &entry)
}

fn open(path: &Path) -> Target {
    Target::open(path, TargetOptions::default()).unwrap()
}

#[test]
fn paths_that_lead_out_are_refused() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    for path in [&b"../out"[..], b"/out", b"a/../../out", b"..", ".".as_bytes(), b"", b"a//b", b"a/", b"a/./b", b"a\0b"] {
        assert!(put(&target, &plain_entry(path, EntryKind::File), b"x").is_err(), "{path:?}");
        for kind in [EntryKind::Directory, EntryKind::Fifo, EntryKind::Symlink, EntryKind::Hardlink] {
            assert!(target.create(&link(path, kind, b"x")).is_err(), "{path:?} {kind:?}");
        }
    }
    let report = target.finish().unwrap();
    assert_eq!((report.files, report.problems.len()), (0, 0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("to")).unwrap().count(), 0);
}

#[test]
fn no_link_of_an_archive_redirects_what_it_writes() {
    let dir = scratch();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    let to = outside.as_os_str().as_bytes();
    let target = open(&dir.path().join("to"));
    // A symbolic link, and then a file, a folder and a link "in" it; in both orders.
    target.create(&link(b"a", EntryKind::Symlink, to)).unwrap();
    put(&target, &plain_entry(b"a/passwd", EntryKind::File), b"evil").unwrap();
    target.create(&plain_entry(b"b/folder", EntryKind::Directory)).unwrap();
    target.create(&link(b"b", EntryKind::Symlink, to)).unwrap();
    target.create(&link(b"c", EntryKind::Symlink, to)).unwrap();
    target.create(&link(b"c/link", EntryKind::Symlink, b"x")).unwrap();
    // Hard links to what is outside, directly and through links.
    target.create(&link(b"h1", EntryKind::Hardlink, b"../outside/secret")).unwrap();
    target.create(&link(b"h2", EntryKind::Hardlink, b"c/secret")).unwrap();
    target.create(&link(b"h3", EntryKind::Hardlink, &[to, b"/secret"].concat())).unwrap();
    let report = target.finish().unwrap();
    assert!(report.problems.len() >= 4, "{:?}", report.problems);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(std::fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
    assert_eq!(std::fs::read(dir.path().join("to/a/passwd")).unwrap(), b"evil");
    assert!(!dir.path().join("to/a").is_symlink() && !dir.path().join("to/b").is_symlink());
}

#[test]
fn links_that_are_there_already_are_not_followed() {
    let dir = scratch();
    let (outside, to) = (dir.path().join("outside"), dir.path().join("to"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::fs::write(outside.join("file"), b"mine").unwrap();
    std::os::unix::fs::symlink(&outside, to.join("a")).unwrap();
    std::os::unix::fs::symlink(&outside, to.join("b")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), to.join("f")).unwrap();
    std::fs::hard_link(outside.join("file"), to.join("g")).unwrap();
    assert!(matches!(Target::open(&to, TargetOptions::default()), Err(Error::Usage(_))));
    let target = Target::open(&to, TargetOptions { overwrite: true, ..Default::default() }).unwrap();
    assert!(put(&target, &plain_entry(b"a/file", EntryKind::File), b"new").is_err());
    target.create(&Entry { mode: 0o755, ..plain_entry(b"b", EntryKind::Directory) }).unwrap();
    for path in [&b"b/file"[..], b"f", b"g"] {
        put(&target, &plain_entry(path, EntryKind::File), b"new").unwrap();
    }
    assert!(target.finish().unwrap().problems.is_empty());
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"mine");
    for path in ["b/file", "f", "g"] {
        assert_eq!(std::fs::read(to.join(path)).unwrap(), b"new");
    }
}

#[test]
fn overwriting_replaces_files_merges_folders_and_keeps_the_rest() {
    let dir = scratch();
    let to = dir.path().join("to");
    std::fs::create_dir_all(to.join("folder")).unwrap();
    std::fs::create_dir_all(to.join("full/of")).unwrap();
    std::fs::create_dir_all(to.join("empty")).unwrap();
    std::fs::write(to.join("folder/kept"), b"kept").unwrap();
    std::fs::write(to.join("folder/file"), b"a longer old content").unwrap();
    std::fs::set_permissions(to.join("folder"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let target = Target::open(&to, TargetOptions { overwrite: true, ..Default::default() }).unwrap();
    target.create(&Entry { mode: 0o750, ..plain_entry(b"folder", EntryKind::Directory) }).unwrap();
    put(&target, &plain_entry(b"folder/file", EntryKind::File), b"new").unwrap();
    put(&target, &plain_entry(b"empty", EntryKind::File), b"a file now").unwrap();
    assert!(put(&target, &plain_entry(b"full", EntryKind::File), b"x").is_err());
    target.finish().unwrap();
    assert_eq!(std::fs::read(to.join("folder/file")).unwrap(), b"new");
    assert_eq!(std::fs::read(to.join("folder/kept")).unwrap(), b"kept");
    assert_eq!(std::fs::read(to.join("empty")).unwrap(), b"a file now");
    assert_eq!(std::fs::metadata(to.join("folder")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn a_file_is_private_until_it_is_complete_and_set_ids_need_their_owner() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    let mut entry = Entry { mode: 0o6755, size: 3, ..plain_entry(b"f", EntryKind::File) };
    let sink = target.file(&entry).unwrap();
    sink.write_at(0, b"abc").unwrap();
    let mode = |name: &str| std::fs::metadata(dir.path().join("to").join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("f"), 0o600);
    target.finish_file(&sink, &entry).unwrap();
    assert_eq!(mode("f"), 0o6755);
    if !is_root() {
        (entry.path, entry.uid) = (b"g".to_vec(), entry.uid + 1);
        put(&target, &entry, b"abc").unwrap();
        assert_eq!(mode("g"), 0o755);
        let report = target.finish().unwrap();
        assert_eq!((report.owners_refused, report.set_ids_dropped), (1, 1));
    }
}

#[test]
fn content_goes_where_its_segments_are_and_zeros_stay_holes() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    let segments = vec![(0u64, 10u64), (100_000, 300_000), (1 << 20, 7)];
    let entry = Entry { size: 2 << 20, segments: Some(segments.clone()), ..plain_entry(b"s", EntryKind::File) };
    let sink = target.file(&entry).unwrap();
    let mut content: Vec<u8> = (0..sink.content_len()).map(|i| (i % 251) as u8 + 1).collect();
    content[50_000..250_000].fill(0);
    std::thread::scope(|s| {
        for (i, part) in content.chunks(33_333).enumerate().collect::<Vec<_>>().into_iter().rev() {
            let sink = &sink;
            s.spawn(move || sink.write_at(i as u64 * 33_333, part).unwrap());
        }
    });
    assert!(matches!(sink.write_at(sink.content_len(), b"x"), Err(Error::Damaged { .. })));
    assert!(matches!(sink.write_at(u64::MAX, b"x"), Err(Error::Damaged { .. })));
    target.finish_file(&sink, &entry).unwrap();
    let path = dir.path().join("to/s");
    let mut expected = vec![0; 2 << 20];
    let mut at = 0;
    for (start, len) in segments {
        expected[start as usize..(start + len) as usize].copy_from_slice(&content[at..at + len as usize]);
        at += len as usize;
    }
    assert!(std::fs::read(&path).unwrap() == expected);
    let used = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(used < 150_000, "{used}");
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    for (i, segments) in [vec![(5u64, 6u64)], vec![(4, 2), (5, 1)], vec![(u64::MAX, 2)]].into_iter().enumerate() {
        let path = format!("s{i}");
        let entry = Entry { size: 10, segments: Some(segments), ..plain_entry(path.as_bytes(), EntryKind::File) };
        assert!(matches!(target.file(&entry), Err(Error::Format { .. })));
    }
}

#[test]
fn a_hard_link_whose_other_name_was_not_restored_is_a_problem() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    target.create(&link(b"second", EntryKind::Hardlink, b"first")).unwrap();
    let report = target.finish().unwrap();
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].message.contains("first, was not restored"));
}

#[test]
fn folders_get_their_times_after_everything_in_them() {
    let dir = scratch();
    let target = open(&dir.path().join("to"));
    for path in [&b"a"[..], b"a/b"] {
        target.create(&Entry { mode: 0o500, ..plain_entry(path, EntryKind::Directory) }).unwrap();
    }
    put(&target, &plain_entry(b"a/b/f", EntryKind::File), b"x").unwrap();
    target.create(&link(b"a/b/l", EntryKind::Symlink, b"f")).unwrap();
    target.create(&link(b"a/h", EntryKind::Hardlink, b"a/b/f")).unwrap();
    let report = target.finish().unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.files, report.folders, report.links), (1, 2, 2));
    for path in ["to/a", "to/a/b"] {
        let m = std::fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!((m.mtime(), m.mode() & 0o7777), (1_000_000_000, 0o500));
        std::fs::set_permissions(dir.path().join(path), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// A path, or where a link leads, as somebody with bad intentions would write it.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just(".."), 1 => Just("."), 1 => Just(""), 1 => Just("outside")];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/").into_bytes())
}

proptest! {
    #[test]
    fn no_archive_reaches_outside_the_target(
        entries in proptest::collection::vec((hostile(), hostile(), 0..6u8, any::<u32>()), 1..20),
        overwrite: bool,
    ) {
        let dir = scratch();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("a"), b"mine").unwrap();
        let to = dir.path().join("to");
        std::fs::create_dir(&to).unwrap();
        if overwrite {
            std::os::unix::fs::symlink("../outside", to.join("b")).unwrap();
        }
        let look = || {
            let looks = |p: &Path| std::fs::symlink_metadata(p).map(|m| (m.mode(), m.uid(), m.nlink(), m.mtime(), m.size())).unwrap();
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            (looks(&outside), looks(&outside.join("a")), std::fs::read_dir(&outside).unwrap().count(), names)
        };
        let before = look();
        let target = Target::open(&to, TargetOptions { overwrite, numeric_owner: true }).unwrap();
        for (path, other, kind, mode) in &entries {
            let kind = match kind {
                0 | 1 => EntryKind::File,
                2 => EntryKind::Directory,
                3 => EntryKind::Symlink,
                4 => EntryKind::Hardlink,
                _ => EntryKind::Fifo,
            };
            let mut entry = Entry { mode: mode % 0o10000, ..link(path, kind, other) };
            if kind == EntryKind::Symlink {
                entry.link = Some(ByteBuf::from([&b"../outside/"[..], other].concat()));
            }
            let _ = if kind == EntryKind::File { put(&target, &entry, b"evil") } else { target.create(&entry) };
        }
        let _ = target.finish().unwrap();
        prop_assert_eq!(before, look());
    }
}
