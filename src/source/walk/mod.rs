//! Names everything below the roots of a source, in the order of an archive, in memory bounded by the largest folder.
//!
//! Folders are opened relative to their parents and never through a symbolic link, so that nobody who can write in a source
//! can lead a backup that runs as root out of it, and paths may be longer than the system accepts in one piece.

mod roots;

use super::file::{SourceFile, is_sqlite, open_quietly};
use super::globs::PathGlobs;
use super::meta::{self, Owners};
use crate::error::Result;
use crate::repository::entry::{Entry, EntryKind, display_path};
use roots::{Root, below, join};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use rustix::io::Errno;
use serde_bytes::ByteBuf;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::vec;

/// What marks a folder as a cache (<https://bford.info/cachedir/>).
const CACHE_TAG: (&[u8], &[u8; 43]) = (b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");

/// Names that SQLite gives to what belongs to a database, after the database's own name.
const SIDECARS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];
/// Those of them that hold changes.
pub const LOGS: [&str; 2] = ["-wal", "-journal"];

/// Folders held open at a time: deeper ones let go of those far above and find them again through `..`.
const OPEN_FOLDERS: usize = 64;

/// Compares stored paths in the order of an archive: component by component, so that what is in a folder follows it directly.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |b: &u8| if *b == b'/' { 0 } else { u16::from(*b) + 1 };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

/// How much a [`Problem`] takes away from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing that an archive could hold is missing: a socket, a file deleted meanwhile, another file system left out.
    Note,
    /// The entry is in the archive, with something of it missing or in motion.
    Warning,
    /// What the source has is not in the archive. The backup is done in part.
    Lost,
}

/// Something that a backup could not do for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The stored path.
    pub path: Vec<u8>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, without the path.
    pub message: String,
}

impl Problem {
    pub(super) fn new(path: &[u8], severity: Severity, message: impl Into<String>) -> Problem {
        Problem { path: path.to_vec(), severity, message: message.into() }
    }

    /// What a failing system call means for a path that a listing has just named.
    fn of(path: &[u8], action: &str, e: &io::Error) -> Problem {
        match e.kind() {
            io::ErrorKind::NotFound => Problem::new(path, Severity::Note, "it was deleted meanwhile"),
            _ => Problem::new(path, Severity::Lost, format!("cannot {action}: {e}")),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", display_path(&self.path), self.message)
    }
}

/// What to walk and what to leave out.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// When not empty: only what matches or lies in a folder that matches, and the folders that lead there.
    pub include: PathGlobs,
    /// Left out, with everything below. Stronger than `include`; a root named explicitly is stronger still.
    pub exclude: PathGlobs,
    /// Leave out what is in folders marked by a `CACHEDIR.TAG`, but for that file.
    pub exclude_caches: bool,
    /// Stay on the file systems of the roots; the folders that others are mounted on are kept, empty.
    pub one_file_system: bool,
    /// Folders never entered or stored: the repository itself. Ones that do not exist are ignored.
    pub skip_repository: Vec<PathBuf>,
}

/// What a walk comes across.
#[derive(Debug)]
pub enum Walked {
    /// Something to store.
    Item(Box<WalkItem>),
    /// Something that cannot or need not be stored.
    Problem(Problem),
}

/// One path to store. A file holds its folder open: take items as they come, and keep no more of them than are being read.
#[derive(Debug)]
pub struct WalkItem {
    /// All but the content: no segments, no content, not mapped.
    pub entry: Entry,
    /// Where it is, for people and for what opens databases by name. Reading goes through [`WalkItem::open`].
    pub path: PathBuf,
    /// Extended attributes that could not be read.
    pub problem: Option<Problem>,
    /// The stored path of the SQLite database that this file (`-wal`, `-shm` or `-journal`) belongs to. A snapshot of the
    /// database holds what is in it, so it is not stored beside one.
    pub sidecar_of: Option<Vec<u8>>,
    /// Nothing lies beside it that holds changes of a database of its name.
    pub without_log: bool,
    /// Of a hard link: what it is when it has to stand for itself.
    own_kind: EntryKind,
    dir: Option<Arc<OwnedFd>>,
    name: Vec<u8>,
}

impl WalkItem {
    /// Opens the file, never through a symbolic link, and brings the entry's metadata up to what is opened.
    ///
    /// Gives a problem when it is not there any more (`Note`), cannot be read, or has become something else (`Lost`).
    pub fn open(&mut self) -> Result<SourceFile, Problem> {
        let dir = at(&self.dir);
        match open_quietly(dir, &self.name, FileType::RegularFile) {
            Ok((fd, stat)) => {
                meta::refresh(&mut self.entry, &stat);
                Ok(SourceFile::new(fd, stat))
            }
            Err(e) => Err(Problem::of(&self.entry.path, "read it", &e)),
        }
    }

    /// Turns a hard link into an entry of its own, for when the entry it points to could not be stored.
    pub fn unlink(&mut self) {
        if self.entry.kind == EntryKind::Hardlink {
            self.entry.kind = self.own_kind;
            self.entry.link = None;
            self.entry.xattrs = meta::xattrs(&reach(&self.dir, &self.name, &self.path)).0;
            if let Ok(stat) = rustix::fs::statat(at(&self.dir), &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
                meta::refresh(&mut self.entry, &stat);
            }
        }
    }
}

fn at(dir: &Option<Arc<OwnedFd>>) -> BorrowedFd<'_> {
    dir.as_ref().map_or(CWD, |fd| fd.as_fd())
}

/// A path for calls that know no folder to start from; through `/proc` so that symbolic links above cannot redirect it.
fn reach(dir: &Option<Arc<OwnedFd>>, name: &[u8], path: &Path) -> PathBuf {
    match dir {
        Some(fd) if cfg!(target_os = "linux") => {
            static MOUNTED: OnceLock<bool> = OnceLock::new();
            let proc = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            if *MOUNTED.get_or_init(|| proc.exists()) { proc.join(OsStr::from_bytes(name)) } else { path.to_path_buf() }
        }
        _ => path.to_path_buf(),
    }
}

type FileId = (u64, u64);

fn id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

#[derive(Debug)]
enum Frame {
    Roots(vec::IntoIter<Root>),
    Folder(Folder),
}

#[derive(Debug)]
struct Folder {
    /// `None` while too many deeper ones are open.
    fd: Option<Arc<OwnedFd>>,
    id: FileId,
    stored: Vec<u8>,
    path: PathBuf,
    names: Vec<Vec<u8>>,
    /// These are all that it has.
    all_names: bool,
    next: usize,
    /// The device that everything below has to be on with `one_file_system`.
    device: u64,
    included: bool,
    /// A folder that is stored only if something below is.
    waiting: Option<Box<WalkItem>>,
    /// The last database asked about: its name, and whether it is one.
    database: Option<(Vec<u8>, bool)>,
}

/// Where a path is looked at: its folder's handle, its name there, and what to do with it.
struct Place {
    dir: Option<Arc<OwnedFd>>,
    name: Vec<u8>,
    stored: Vec<u8>,
    path: PathBuf,
    device: Option<u64>,
    included: bool,
    is_root: bool,
}

/// The walk: an iterator over [`Walked`], in the order of [`path_order`].
#[derive(Debug)]
pub struct Walk {
    options: WalkOptions,
    stack: Vec<Frame>,
    /// Roots that lie within other roots.
    inner: Vec<Root>,
    skip: HashSet<FileId>,
    owners: Owners,
    /// First names of files that have more: where, and how many names are still to come.
    links: HashMap<FileId, (Vec<u8>, u64)>,
    out: VecDeque<Walked>,
    /// The folder left last: from there, `..` finds a folder that was let go.
    left: Option<Arc<OwnedFd>>,
}

impl Walk {
    /// Prepares a walk of `roots`.
    ///
    /// A root is stored under its path as written, less `.` components and the `/` in front; what is in the root `.` is stored
    /// directly. A root that is a symbolic link stands for what it leads to (all other links are stored as links): who names
    /// a folder means its content. Roots given twice or lying within each other are stored once.
    ///
    /// Fails with `Usage` when a root has a `..` component, is the repository, or would be stored where another is; with
    /// `Source` when a root cannot be found, because an archive without it would look like one of an empty source.
    pub fn new(roots: &[PathBuf], options: WalkOptions) -> Result<Walk> {
        let skip = options.skip_repository.iter().filter_map(|p| rustix::fs::stat(p).ok()).map(|s| id(&s)).collect::<HashSet<_>>();
        let (planned, inner) = roots::plan(roots, &skip)?;
        Ok(Walk::planned(planned, inner, skip, options))
    }

    /// Like [`Walk::new`], for roots whose stored paths are settled (pairs of stored path and where it is).
    pub fn of_roots(roots: &[(Vec<u8>, PathBuf)], options: WalkOptions) -> Result<Walk> {
        let skip = options.skip_repository.iter().filter_map(|p| rustix::fs::stat(p).ok()).map(|s| id(&s)).collect::<HashSet<_>>();
        let (planned, inner) = roots::plan_named(roots, &skip)?;
        Ok(Walk::planned(planned, inner, skip, options))
    }

    fn planned(planned: Vec<Root>, inner: Vec<Root>, skip: HashSet<FileId>, options: WalkOptions) -> Walk {
        let stack = vec![Frame::Roots(planned.into_iter())];
        Walk { options, stack, inner, skip, owners: Owners::default(), links: HashMap::new(), out: VecDeque::new(), left: None }
    }

    /// Takes one step: may put any number of things into `out`. False when there is nothing left.
    fn step(&mut self) -> bool {
        if matches!(self.stack.last(), Some(Frame::Folder(folder)) if folder.fd.is_none()) {
            self.reopen();
        }
        let place = match self.stack.last_mut() {
            None => {
                let unmet = self.inner.drain(..).map(|r| Problem::new(&r.stored, Severity::Lost, "cannot find it any more"));
                self.out.extend(unmet.map(Walked::Problem));
                return !self.out.is_empty();
            }
            Some(Frame::Roots(roots)) => match roots.next() {
                Some(root) => Place::of_root(root),
                None => {
                    self.stack.pop();
                    return true;
                }
            },
            Some(Frame::Folder(folder)) => match folder.names.get(folder.next).cloned() {
                Some(name) => {
                    folder.next += 1;
                    let stored = join(&folder.stored, &name);
                    match self.inner.iter().position(|r| r.stored == stored) {
                        Some(i) => Place::of_root(self.inner.remove(i)),
                        None => Place {
                            dir: folder.fd.clone(),
                            path: folder.path.join(OsStr::from_bytes(&name)),
                            name,
                            stored,
                            device: Some(folder.device),
                            included: folder.included,
                            is_root: false,
                        },
                    }
                }
                None => {
                    self.left = folder.fd.take();
                    self.stack.pop();
                    return true;
                }
            },
        };
        self.visit(place);
        true
    }

    fn visit(&mut self, mut place: Place) {
        let stat = match rustix::fs::statat(at(&place.dir), &*place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) if place.is_root => {
                return self.problem(Problem::new(&place.stored, Severity::Lost, format!("cannot find it any more: {e}")));
            }
            Err(e) => return self.problem(Problem::of(&place.stored, "look at it", &e.into())),
        };
        let kind = meta::kind_of(&stat);
        let is_folder = kind == Some(EntryKind::Directory);
        if !place.is_root && self.options.exclude.matches(&place.stored, is_folder) {
            return self.enter_roots_below(&place.stored, |_| true);
        }
        if self.skip.contains(&id(&stat)) {
            return self.problem(Problem::new(&place.stored, Severity::Note, "it is the repository itself; left out"));
        }
        place.included |= self.options.include.is_empty() || self.options.include.matches(&place.stored, is_folder);
        match kind {
            Some(EntryKind::Directory) => self.enter(place, stat),
            _ if !place.included => {}
            Some(kind) => self.file(place, kind, &stat),
            None => self.problem(Problem::new(&place.stored, Severity::Note, "it is a socket; left out")),
        }
    }

    fn file(&mut self, place: Place, kind: EntryKind, stat: &Stat) {
        let sidecar_of = if kind == EntryKind::File { self.database_of(&place) } else { None };
        let without_log = self.is_without_log(&place);
        let mut entry = meta::entry(place.stored, kind, stat, &mut self.owners);
        let mut problem = None;
        // Hard links of symbolic links are stored as links of their own: not every tar program restores them.
        if meta::names(stat) > 1 && kind != EntryKind::Symlink && sidecar_of.is_none() {
            match self.links.get_mut(&id(stat)) {
                Some((first, left)) => {
                    entry.kind = EntryKind::Hardlink;
                    entry.link = Some(ByteBuf::from(first.clone()));
                    (entry.size, entry.seen, entry.rdev) = (0, None, None);
                    *left -= 1;
                    if *left == 0 {
                        self.links.remove(&id(stat));
                    }
                }
                None => {
                    self.links.insert(id(stat), (entry.path.clone(), meta::names(stat) - 1));
                }
            }
        }
        if kind == EntryKind::Symlink {
            match rustix::fs::readlinkat(at(&place.dir), &*place.name, Vec::new()) {
                Ok(to) => entry.link = Some(ByteBuf::from(to.into_bytes())),
                Err(e) => return self.problem(Problem::of(&entry.path, "read the link", &e.into())),
            }
        }
        if entry.kind != EntryKind::Hardlink {
            let (xattrs, note) = meta::xattrs(&reach(&place.dir, &place.name, &place.path));
            entry.xattrs = xattrs;
            problem = note.map(|n| Problem::new(&entry.path, Severity::Warning, n));
        }
        let dir = if kind == EntryKind::File { place.dir } else { None };
        self.emit(Box::new(WalkItem { entry, path: place.path, problem, sidecar_of, without_log, own_kind: kind, dir, name: place.name }));
    }

    fn enter(&mut self, place: Place, stat: Stat) {
        let mounted = self.options.one_file_system && place.device.is_some_and(|d| d != stat.st_dev);
        let opened = if mounted { None } else { Some(open_quietly(at(&place.dir), &place.name, FileType::Directory)) };
        // What is opened may be another folder by now; what is stored is about the one that is listed.
        let stat = if let Some(Ok((_, now))) = &opened { *now } else { stat };
        let mut entry = meta::entry(place.stored.clone(), EntryKind::Directory, &stat, &mut self.owners);
        let (xattrs, note) = meta::xattrs(&reach(&place.dir, &place.name, &place.path));
        entry.xattrs = xattrs;
        let problem = note.map(|n| Problem::new(&entry.path, Severity::Warning, n));
        let item = WalkItem {
            entry,
            path: place.path.clone(),
            problem,
            sidecar_of: None,
            without_log: true,
            own_kind: EntryKind::Directory,
            dir: None,
            name: place.name,
        };
        let mut waiting = (!place.stored.is_empty()).then(|| Box::new(item));
        if place.included
            && let Some(item) = waiting.take()
        {
            self.emit(item);
        }
        let fd = match opened {
            Some(Ok((fd, _))) => fd,
            Some(Err(e)) => {
                self.problem(Problem::of(&place.stored, "open the folder", &e));
                return self.enter_roots_below(&place.stored, |_| true);
            }
            None => {
                self.problem(Problem::new(&place.stored, Severity::Note, "another file system is mounted there; left out"));
                return self.enter_roots_below(&place.stored, |_| true);
            }
        };
        let (mut names, failed) = names(&fd);
        let all_names = failed.is_none();
        if let Some(e) = failed {
            let message = format!("cannot list all of the folder: {e}");
            self.problem(Problem::new(&place.stored, Severity::Lost, message));
        }
        let is_cache = self.options.exclude_caches && is_cache(&fd);
        let tag = join(&place.stored, CACHE_TAG.0);
        if is_cache {
            names.retain(|n| n == CACHE_TAG.0);
            self.enter_roots_below(&place.stored, |r| path_order(r, &tag).is_gt());
        }
        let stored = place.stored.clone();
        self.stack.push(Frame::Folder(Folder {
            fd: Some(Arc::new(fd)),
            id: id(&stat),
            stored: place.stored,
            path: place.path,
            names,
            all_names,
            next: 0,
            device: stat.st_dev,
            included: place.included,
            waiting,
            database: None,
        }));
        if let Some(above) = self.stack.len().checked_sub(OPEN_FOLDERS + 1)
            && let Some(Frame::Folder(folder)) = self.stack.get_mut(above)
        {
            folder.fd = None;
        }
        if is_cache {
            self.enter_roots_below(&stored, |_| true);
        }
    }

    /// Opens the folder on top again, which was let go while deeper ones were open.
    fn reopen(&mut self) {
        let Some(Frame::Folder(folder)) = self.stack.last_mut() else { return };
        let again =
            |dir: BorrowedFd<'_>, name: &[u8]| open_quietly(dir, name, FileType::Directory).ok().filter(|(_, s)| id(s) == folder.id);
        let from_below = self.left.as_ref().and_then(|fd| again(fd.as_fd(), b".."));
        match from_below.or_else(|| again(CWD, folder.path.as_os_str().as_bytes())) {
            Some((fd, _)) => folder.fd = Some(Arc::new(fd)),
            None => {
                let unread = folder.names.len() - folder.next;
                let message = format!("the folder was moved meanwhile; {unread} names in it were not reached");
                let problem = Problem::new(&folder.stored, Severity::Lost, message);
                self.stack.pop();
                if unread > 0 {
                    self.problem(problem);
                }
            }
        }
    }

    /// After a folder that is not entered: the roots within it, which were asked for by name.
    fn enter_roots_below(&mut self, stored: &[u8], which: impl Fn(&[u8]) -> bool) {
        let is_within = |r: &Root| below(stored, &r.stored).is_some() && which(&r.stored);
        let (within, others): (Vec<_>, Vec<_>) = self.inner.drain(..).partition(is_within);
        self.inner = others;
        let mut outermost: Vec<Root> = Vec::new();
        for root in within {
            match outermost.last() {
                Some(outer) if below(&outer.stored, &root.stored).is_some() => self.inner.push(root),
                _ => outermost.push(root),
            }
        }
        if !outermost.is_empty() {
            self.stack.push(Frame::Roots(outermost.into_iter()));
        }
    }

    /// By the names in its folder; of a root, which may come without one, it is not known.
    fn is_without_log(&self, place: &Place) -> bool {
        match self.stack.last() {
            Some(Frame::Folder(folder)) if !place.is_root && folder.all_names => LOGS.iter().all(|log| {
                let name = [place.name.as_slice(), log.as_bytes()].concat();
                folder.names.binary_search(&name).is_err()
            }),
            _ => false,
        }
    }

    /// The database that the file belongs to by its name, if that is one and is walked as well.
    fn database_of(&mut self, place: &Place) -> Option<Vec<u8>> {
        let base = SIDECARS.iter().find_map(|s| place.name.strip_suffix(*s)).filter(|b| !b.is_empty())?.to_vec();
        let Some(Frame::Folder(folder)) = self.stack.last_mut() else { return None };
        folder.names.binary_search(&base).ok()?;
        let stored = join(&folder.stored, &base);
        let options = &self.options;
        let wanted = folder.included || options.include.is_empty() || options.include.matches(&stored, false);
        if !wanted || options.exclude.matches(&stored, false) {
            return None;
        }
        let is_database = match &folder.database {
            Some((name, known)) if *name == base => *known,
            _ => {
                let is = open_quietly(at(&folder.fd), &base, FileType::RegularFile).is_ok_and(|(fd, _)| is_sqlite(&File::from(fd)));
                folder.database = Some((base, is));
                is
            }
        };
        is_database.then_some(stored)
    }

    fn emit(&mut self, item: Box<WalkItem>) {
        if !self.options.include.is_empty() {
            let waiting = self.stack.iter_mut().filter_map(|f| match f {
                Frame::Folder(folder) => folder.waiting.take(),
                Frame::Roots(_) => None,
            });
            self.out.extend(waiting.map(Walked::Item));
        }
        self.out.push_back(Walked::Item(item));
    }

    fn problem(&mut self, problem: Problem) {
        self.out.push_back(Walked::Problem(problem));
    }
}

impl Iterator for Walk {
    type Item = Walked;

    fn next(&mut self) -> Option<Walked> {
        loop {
            if let Some(walked) = self.out.pop_front() {
                return Some(walked);
            }
            if !self.step() {
                return None;
            }
        }
    }
}

impl Place {
    fn of_root(root: Root) -> Place {
        let name = root.path.as_os_str().as_bytes().to_vec();
        Place { dir: None, name, stored: root.stored, path: root.path, device: None, included: false, is_root: true }
    }
}

/// The names in a folder, sorted; and the error that ended the listing early.
fn names(fd: &OwnedFd) -> (Vec<Vec<u8>>, Option<Errno>) {
    let mut names = Vec::new();
    let mut failed = None;
    match rustix::fs::Dir::read_from(fd) {
        Ok(listing) => {
            for entry in listing {
                match entry {
                    Ok(entry) => names.push(entry.file_name().to_bytes().to_vec()),
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                }
            }
        }
        Err(e) => failed = Some(e),
    }
    names.retain(|n| n != b"." && n != b"..");
    names.sort_unstable();
    (names, failed)
}

fn is_cache(dir: &OwnedFd) -> bool {
    let mut head = [0; CACHE_TAG.1.len()];
    open_quietly(dir, CACHE_TAG.0, FileType::RegularFile)
        .is_ok_and(|(fd, _)| File::from(fd).read_exact_at(&mut head, 0).is_ok() && &head == CACHE_TAG.1)
}

#[cfg(test)]
mod tests;
