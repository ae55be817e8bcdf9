use super::super::testing::{globs, is_root, make_tree, plain_entry, scratch, unlock, walk};
use super::*;
use crate::error::Error;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A folder to walk, and the stored path that it gets.
struct Place {
    dir: tempfile::TempDir,
    stored: String,
}

impl Place {
    fn new(files: &[&str]) -> Place {
        let dir = scratch();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let stored = dir.path().to_str().unwrap().trim_start_matches('/').to_string();
        Place { dir, stored }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Walks the given roots, in this folder; what is stored, relative to it.
    fn names(&self, roots: &[&str], options: WalkOptions) -> Vec<String> {
        let roots: Vec<PathBuf> = roots.iter().map(|r| self.at(r)).collect();
        let (items, _) = walk(&roots, options);
        items.iter().map(|i| self.relative(&i.entry.path)).collect()
    }

    fn relative(&self, path: &[u8]) -> String {
        let path = String::from_utf8_lossy(path);
        path.strip_prefix(&self.stored).unwrap().trim_start_matches('/').to_string()
    }
}

#[test]
fn paths_come_in_the_order_of_an_archive() {
    let place = Place::new(&["a/x", "a-b", "a/b/c", "a.b", "a0", "b"]);
    let names = place.names(&[""], WalkOptions::default());
    assert_eq!(names, ["", "a", "a/b", "a/b/c", "a/x", "a-b", "a.b", "a0", "b"]);
    make_tree(&place.at("tree"));
    let (items, problems) = walk(&[place.at("")], WalkOptions::default());
    assert!(items.windows(2).all(|w| path_order(&w[0].entry.path, &w[1].entry.path).is_lt()));
    assert_eq!(problems, []);
    unlock(&place.at("tree"));
}

#[test]
fn a_root_is_stored_as_written_and_overlapping_ones_once() {
    let place = Place::new(&["a/x", "a/y/z", "b"]);
    let expected = ["", "a", "a/x", "a/y", "a/y/z", "b"];
    assert_eq!(place.names(&["", "", "a/y", "./a//./x", "a"], WalkOptions::default()), expected);
    assert_eq!(place.names(&["b", "a/y"], WalkOptions::default()), ["a/y", "a/y/z", "b"]);
    for (root, stored) in [("./src/source/", "src/source"), ("src/./source", "src/source")] {
        let (items, _) = walk(&[PathBuf::from(root)], WalkOptions::default());
        assert_eq!(items[0].entry.path, stored.as_bytes());
    }
    let (items, _) = walk(&[PathBuf::from(".")], WalkOptions { include: globs(&["/Cargo.toml"]), ..Default::default() });
    assert_eq!(items.iter().map(|i| &*i.entry.path).collect::<Vec<_>>(), [b"Cargo.toml"]);
}

#[test]
fn roots_that_cannot_be_told_apart_or_found_are_refused() {
    let place = Place::new(&["a/x"]);
    symlink("a", place.at("l")).unwrap();
    let refused = |roots: &[PathBuf]| Walk::new(roots, WalkOptions::default()).unwrap_err();
    assert!(matches!(refused(&[place.at("a/../b")]), Error::Usage(_)));
    assert!(matches!(refused(&[PathBuf::new()]), Error::Usage(_)));
    assert!(matches!(refused(&[place.at("missing")]), Error::Source { .. }));
    assert!(matches!(refused(&[PathBuf::from("src"), PathBuf::from("/"), PathBuf::from("src/source")]), Error::Usage(_)));
    let behind = refused(&[place.at(""), place.at("l/x")]);
    assert!(behind.to_string().contains("behind the symbolic link"), "{behind}");
    let skip_repository = vec![place.at("a")];
    let e = Walk::new(&[place.at("a")], WalkOptions { skip_repository, ..Default::default() }).unwrap_err();
    assert!(matches!(e, Error::Usage(_)));
}

#[test]
fn links_are_stored_and_only_a_root_is_followed() {
    let place = Place::new(&["real/x"]);
    symlink("real", place.at("l")).unwrap();
    symlink(".", place.at("real/loop")).unwrap();
    assert_eq!(place.names(&["l"], WalkOptions::default()), ["l", "l/loop", "l/x"]);
    let (items, _) = walk(&[place.at("")], WalkOptions::default());
    let l = items.iter().find(|i| i.path == place.at("l")).unwrap();
    assert_eq!((l.entry.kind, l.entry.link.as_ref().unwrap().as_slice()), (EntryKind::Symlink, &b"real"[..]));
    assert_eq!(place.names(&["", "l"], WalkOptions::default()), ["", "l", "l/loop", "l/x", "real", "real/loop", "real/x"]);
}

#[test]
fn exclusions_prune_and_inclusions_keep_the_folders_that_lead_there() {
    let place = Place::new(&["keep/a.txt", "keep/b.tmp", "node_modules/x/a.txt", "deep/er/c.txt", "deep/none/d", "docs/all/e"]);
    let exclude = globs(&["*.tmp", "node_modules"]);
    let names = place.names(&[""], WalkOptions { exclude: exclude.clone(), ..Default::default() });
    assert!(names.iter().all(|n| !n.contains("node_modules") && !n.ends_with("tmp")) && names.len() == 11, "{names:?}");
    let include = globs(&["*.txt", "docs/"]);
    let names = place.names(&[""], WalkOptions { include, exclude, ..Default::default() });
    assert_eq!(names, ["", "deep", "deep/er", "deep/er/c.txt", "docs", "docs/all", "docs/all/e", "keep", "keep/a.txt"]);
    let names = place.names(&["", "node_modules/x"], WalkOptions { exclude: globs(&["node_modules", "k*"]), ..Default::default() });
    let expected = ["", "deep", "deep/er", "deep/er/c.txt", "deep/none", "deep/none/d", "docs", "docs/all", "docs/all/e"];
    assert_eq!(names[..9], expected);
    assert_eq!(names[9..], ["node_modules/x", "node_modules/x/a.txt"]);
}

#[test]
fn caches_and_the_repository_are_left_out() {
    let place = Place::new(&["c/A/x", "c/z", "c/sub/y", "no/CACHEDIR.TAG", "no/z", "repo/packs/x"]);
    std::fs::write(place.at("c/CACHEDIR.TAG"), [CACHE_TAG.1, &b"\n# a comment"[..]].concat()).unwrap();
    let options = || WalkOptions { exclude_caches: true, skip_repository: vec![place.at("repo"), place.at("none")], ..Default::default() };
    let expected = ["", "c", "c/CACHEDIR.TAG", "no", "no/CACHEDIR.TAG", "no/z"];
    assert_eq!(place.names(&[""], options()), expected);
    let names = place.names(&["", "c/sub", "c/A"], options());
    assert_eq!(names[2..7], ["c/A", "c/A/x", "c/CACHEDIR.TAG", "c/sub", "c/sub/y"]);
    let (_, problems) = walk(&[place.at("")], options());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].severity, Severity::Note);
}

#[test]
fn other_names_of_a_file_are_links_to_the_first_and_can_stand_alone() {
    let place = Place::new(&["a/first"]);
    std::fs::hard_link(place.at("a/first"), place.at("b")).unwrap();
    std::fs::hard_link(place.at("a/first"), place.at("c")).unwrap();
    let (mut items, _) = walk(&[place.at("")], WalkOptions::default());
    let b = &mut items[3];
    assert_eq!(b.entry.kind, EntryKind::Hardlink);
    assert_eq!(place.relative(b.entry.link.as_ref().unwrap()), "a/first");
    b.unlink();
    assert_eq!((b.entry.kind, b.entry.size, b.entry.link.is_none()), (EntryKind::File, 7, true));
    let mut content = String::new();
    b.open().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "a/first");
}

#[test]
fn what_belongs_to_a_database_is_marked() {
    let place = Place::new(&["db-wal", "db-shm", "db-journal", "text", "text-wal", "alone-wal"]);
    std::fs::write(place.at("db"), b"SQLite format 3\0 and more").unwrap();
    let (items, _) = walk(&[place.at("")], WalkOptions::default());
    let marked: Vec<_> = items.iter().filter(|i| i.sidecar_of.is_some()).map(|i| place.relative(&i.entry.path)).collect();
    assert_eq!(marked, ["db-journal", "db-shm", "db-wal"]);
    assert_eq!(place.relative(items[3].sidecar_of.as_ref().unwrap()), "db");
    let (items, _) = walk(&[place.at("")], WalkOptions { exclude: globs(&["db"]), ..Default::default() });
    assert!(items.iter().all(|i| i.sidecar_of.is_none()));
}

#[test]
fn what_cannot_be_stored_is_told() {
    let place = Place::new(&["gone", "swapped", "closed/x"]);
    let _socket = std::os::unix::net::UnixListener::bind(place.at("socket")).unwrap();
    let (mut items, problems) = walk(&[place.at("")], WalkOptions::default());
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().ends_with("socket: it is a socket; left out"));
    std::fs::remove_file(place.at("gone")).unwrap();
    std::fs::remove_file(place.at("swapped")).unwrap();
    symlink("/etc/passwd", place.at("swapped")).unwrap();
    let open = |items: &mut Vec<WalkItem>, name: &str| items.iter_mut().find(|i| i.path.ends_with(name)).unwrap().open().unwrap_err();
    assert_eq!(open(&mut items, "gone").severity, Severity::Note);
    assert_eq!(open(&mut items, "swapped").severity, Severity::Lost);
    if is_root() {
        eprintln!("skipped: nothing is unreadable for root");
        return;
    }
    std::fs::set_permissions(place.at("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let (items, problems) = walk(&[place.at("")], WalkOptions::default());
    assert!(items.iter().any(|i| i.path.ends_with("closed")));
    assert!(problems.iter().any(|p| p.severity == Severity::Lost && p.message.contains("open the folder")));
    std::fs::set_permissions(place.at("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn folders_deeper_than_a_path_may_be_long_are_walked_with_few_open() {
    let dir = scratch();
    let target = super::super::restore::Target::open(&dir.path().join("deep"), Default::default()).unwrap();
    let name = "d".repeat(100);
    let mut path = name.clone();
    for _ in 0..150 {
        path.push('/');
        path.push_str(&name);
    }
    let entry = Entry { size: 4, ..plain_entry(format!("{path}/file").as_bytes(), EntryKind::File) };
    let sink = target.file(&entry).unwrap();
    sink.write_at(0, b"deep").unwrap();
    target.finish_file(&sink, &entry).unwrap();
    // Names after the deep one make the walk come back up through all levels.
    for levels in [1, 40, 100, 140] {
        let folder = vec![name.as_str(); levels].join("/");
        let entry = plain_entry(format!("{folder}/last").as_bytes(), EntryKind::File);
        target.finish_file(&target.file(&entry).unwrap(), &entry).unwrap();
    }
    let (mut items, problems) = walk(&[dir.path().join("deep")], WalkOptions::default());
    assert_eq!(problems, []);
    assert_eq!(items.iter().filter(|i| i.entry.path.ends_with(b"/last")).count(), 4);
    let file = items.iter_mut().find(|i| i.entry.path.ends_with(b"/file")).unwrap();
    let mut content = String::new();
    file.open().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "deep");
}

#[test]
fn a_walk_stays_on_its_file_system_when_told_to() {
    // Every Linux has another file system mounted on /proc.
    let options = WalkOptions { one_file_system: true, include: globs(&["/proc"]), exclude: globs(&["/tmp"]), ..Default::default() };
    let other = rustix::fs::stat("/proc").unwrap().st_dev != rustix::fs::stat("/").unwrap().st_dev;
    if !other {
        eprintln!("skipped: /proc is on the root's file system");
        return;
    }
    let mut walk = Walk::new(&[PathBuf::from("/")], options).unwrap();
    let found = walk.find(|w| matches!(w, Walked::Problem(p) if p.path == b"proc"));
    assert!(matches!(found, Some(Walked::Problem(p)) if p.message.contains("another file system")));
}
