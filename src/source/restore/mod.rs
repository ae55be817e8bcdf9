//! Puts entries back into a folder, and nowhere else, whatever an archive says.
//!
//! An archive may be hostile, or the folder may be one that others write in. So every folder on the way to an entry is opened
//! by itself, from the target down, never through a symbolic link; symbolic links come into being only after the last file; a
//! file is always a new one; nobody else can read it before its owner and mode are set; and a set-id bit is given only to a
//! file that has the owner it was meant for.

mod meta;
mod sink;

pub use sink::FileSink;

use super::meta::OwnerNumbers;
use super::walk::{Problem, Severity, path_order};
use crate::error::{Error, Result};
use crate::repository::entry::{Entry, EntryKind, display_path};
use meta::Handle;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a folder on the way is opened: good for going on from it, not for reading it, so that its mode does not matter.
const PASSAGE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How to restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct TargetOptions {
    /// Restore into a folder that is not empty, replacing what has the same path. Folders are merged; nothing else is removed.
    pub overwrite: bool,
    /// Take the owners' numbers as they are, instead of looking for their names on this machine first.
    pub numeric_owner: bool,
}

/// What a restore did, and what it could not do.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Files, hard links not counted.
    pub files: u64,
    /// Folders that have an entry.
    pub folders: u64,
    /// Symbolic and hard links.
    pub links: u64,
    /// Pipes and devices.
    pub specials: u64,
    /// Entries that keep another owner or group than the archive says, as everything does that is not restored as root.
    pub owners_refused: u64,
    /// Entries that lost their set-user-id or set-group-id bit with that.
    pub set_ids_dropped: u64,
    /// Extended attributes and times that the system did not take.
    pub attributes_refused: u64,
    /// Entries that could not be restored, or not as a whole.
    pub problems: Vec<Problem>,
}

/// A folder being restored into. All methods may be called from several threads.
#[derive(Debug)]
pub struct Target {
    root: Arc<OwnedFd>,
    path: PathBuf,
    options: TargetOptions,
    owners: Mutex<OwnerNumbers>,
    state: Mutex<State>,
    /// The folder of the last entry: most entries follow one of the same folder.
    last: Mutex<(Vec<u8>, Arc<OwnedFd>)>,
}

#[derive(Debug, Default)]
struct State {
    folders: Vec<Entry>,
    symlinks: Vec<Entry>,
    hardlinks: Vec<Entry>,
    report: RestoreReport,
}

impl Target {
    /// Opens a folder to restore into; creates it, for its owner only, if it does not exist.
    ///
    /// Fails with `Usage` when it is not empty and `overwrite` is not set, or is no folder.
    pub fn open(path: &Path, options: TargetOptions) -> Result<Target> {
        if !path.exists() {
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            std::fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path))?;
        }
        if !path.is_dir() {
            return Err(Error::Usage(format!("{} is not a folder", path.display())));
        }
        let mut listing = std::fs::read_dir(path).map_err(Error::io("read", path))?;
        if !options.overwrite && listing.next().is_some() {
            return Err(Error::Usage(format!("{} is not empty; name a folder that is, or allow overwriting", path.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from).map_err(Error::io("open", path))?;
        let root = Arc::new(root);
        Ok(Target {
            last: Mutex::new((Vec::new(), Arc::clone(&root))),
            root,
            path: path.to_path_buf(),
            options,
            owners: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// The folder, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates anything but a file. Links are only noted: hard links are made when all files are there, symbolic links after
    /// them; folders get their mode and time at the very end. A device that may not be made is a problem in the report.
    pub fn create(&self, entry: &Entry) -> Result<()> {
        match entry.kind {
            EntryKind::Directory => self.create_dir(entry),
            EntryKind::Symlink | EntryKind::Hardlink => {
                components(&entry.path)?;
                let mut state = self.state();
                if entry.kind == EntryKind::Symlink {
                    state.symlinks.push(entry.clone());
                } else {
                    state.hardlinks.push(entry.clone());
                }
                Ok(())
            }
            EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => self.special(entry),
            EntryKind::File => Err(Error::format(entry.display_path(), "a file is restored through its sink")),
        }
    }

    /// Creates a folder, or takes the one that is there.
    pub fn create_dir(&self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = self.stat(&parent, name, &entry.path)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    // It may be one that not even its owner may write in.
                    if stat.st_mode & 0o700 != 0o700 {
                        let mode = Mode::from_raw_mode(stat.st_mode | 0o700);
                        Handle::by_name(&parent, name).chmod(mode).map_err(self.failed("change the mode of", &entry.path))?;
                    }
                } else {
                    self.make_room(&parent, name, &entry.path)?;
                    rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(self.failed("create", &entry.path))?;
                }
            }
            Err(e) => return Err(self.failed("create", &entry.path)(e)),
        }
        let mut state = self.state();
        state.folders.push(Entry { content: None, ..entry.clone() });
        Ok(())
    }

    /// Creates a file, empty and for its owner only, to be written through the sink and completed by [`Target::finish_file`].
    /// Fails with `Format` when the entry's segments make no sense.
    pub fn file(&self, entry: &Entry) -> Result<FileSink> {
        let (parent, name) = self.place(&entry.path)?;
        self.make_room(&parent, name, &entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(self.failed("create", &entry.path))?;
        FileSink::new(File::from(fd), entry, self.shown(&entry.path))
    }

    /// Completes a file: owner, extended attributes, mode and time.
    pub fn finish_file(&self, sink: &FileSink, entry: &Entry) -> Result<()> {
        self.apply(&Handle::Fd(sink.file().as_fd()), entry)?;
        self.state().report.files += 1;
        Ok(())
    }

    /// Makes the links and completes the folders. What cannot be done for one entry is a problem in the report.
    pub fn finish(self) -> Result<RestoreReport> {
        let (mut folders, symlinks, hardlinks) = {
            let state = &mut *self.state();
            (std::mem::take(&mut state.folders), std::mem::take(&mut state.symlinks), std::mem::take(&mut state.hardlinks))
        };
        for entry in &hardlinks {
            let made = self.hardlink(entry);
            self.note(entry, made, |r| r.links += 1);
        }
        for entry in &symlinks {
            let made = self.symlink(entry);
            self.note(entry, made, |r| r.links += 1);
        }
        // Folders within folders first: their parents may end up read-only, and their times must not change any more.
        folders.sort_by(|a, b| path_order(&a.path, &b.path));
        for entry in folders.iter().rev() {
            let made = self.complete_dir(entry);
            self.note(entry, made, |r| r.folders += 1);
        }
        let report = std::mem::take(&mut self.state().report);
        Ok(report)
    }

    fn note(&self, entry: &Entry, made: Result<()>, count: impl FnOnce(&mut RestoreReport)) {
        let report = &mut self.state().report;
        match made {
            Ok(()) => count(report),
            Err(e) => report.problems.push(Problem::new(&entry.path, Severity::Lost, e.to_string())),
        }
    }

    fn special(&self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        self.make_room(&parent, name, &entry.path)?;
        let (kind, (major, minor)) = match (entry.kind, entry.rdev) {
            (EntryKind::CharDevice, Some(device)) => (FileType::CharacterDevice, device),
            (EntryKind::BlockDevice, Some(device)) => (FileType::BlockDevice, device),
            (EntryKind::Fifo, _) => (FileType::Fifo, (0, 0)),
            _ => return Err(Error::format(entry.display_path(), "a device without a number")),
        };
        match rustix::fs::mknodat(&parent, name, kind, Mode::RUSR | Mode::WUSR, rustix::fs::makedev(major, minor)) {
            Ok(()) => {}
            Err(e @ (Errno::PERM | Errno::ACCESS)) if kind != FileType::Fifo => {
                let message = format!("cannot make a device: {e}");
                self.state().report.problems.push(Problem::new(&entry.path, Severity::Lost, message));
                return Ok(());
            }
            Err(e) => return Err(self.failed("create", &entry.path)(e)),
        }
        self.apply(&Handle::by_name(&parent, name), entry)?;
        self.state().report.specials += 1;
        Ok(())
    }

    fn hardlink(&self, entry: &Entry) -> Result<()> {
        let first = entry.link.as_ref().map_or(&[][..], |l| l.as_slice());
        let (from, from_name) = self.place(first)?;
        let (parent, name) = self.place(&entry.path)?;
        let of_first = match rustix::fs::statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                return Err(Error::Refused(format!("its other name, {}, was not restored", display_path(first))));
            }
            Err(e) => return Err(self.failed("look at", first)(e)),
        };
        if FileType::from_raw_mode(of_first.st_mode) == FileType::Symlink {
            return Err(Error::Refused(format!("its other name, {}, is a symbolic link", display_path(first))));
        }
        if (from_name, first) != (name, &*entry.path) {
            self.make_room(&parent, name, &entry.path)?;
            rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty()).map_err(self.failed("link", &entry.path))?;
        }
        Ok(())
    }

    fn symlink(&self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        self.make_room(&parent, name, &entry.path)?;
        let to = entry.link.as_ref().map_or(&[][..], |l| l.as_slice());
        rustix::fs::symlinkat(to, &parent, name).map_err(self.failed("link", &entry.path))?;
        self.apply(&Handle::by_name(&parent, name), entry)
    }

    fn complete_dir(&self, entry: &Entry) -> Result<()> {
        let (parent, name) = self.place(&entry.path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(self.failed("open", &entry.path))?;
        self.apply(&Handle::Fd(fd.as_fd()), entry)
    }

    fn apply(&self, handle: &Handle<'_>, entry: &Entry) -> Result<()> {
        let owner = match self.options.numeric_owner {
            true => (entry.uid, entry.gid),
            false => self.owners.lock().unwrap_or_else(PoisonError::into_inner).of(entry),
        };
        let refused = handle.apply(entry, owner).map_err(self.failed("complete", &entry.path))?;
        let report = &mut self.state().report;
        report.owners_refused += u64::from(refused.owner);
        report.set_ids_dropped += u64::from(refused.set_id);
        report.attributes_refused += refused.attributes;
        Ok(())
    }

    /// The open folder that an entry lies in, and its name there. Folders that have no entry are made.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8])> {
        let mut parts = components(path)?;
        let name = parts.pop().unwrap_or_default();
        let folder = path.get(..path.len().saturating_sub(name.len() + 1)).unwrap_or_default();
        {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.0 == folder {
                return Ok((Arc::clone(&last.1), name));
            }
        }
        let mut fd = Arc::clone(&self.root);
        for part in parts {
            fd = Arc::new(self.passage(fd.as_fd(), part, path)?);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (folder.to_vec(), Arc::clone(&fd));
        Ok((fd, name))
    }

    fn passage(&self, dir: BorrowedFd<'_>, part: &[u8], path: &[u8]) -> Result<OwnedFd> {
        let open = || rustix::fs::openat(dir, part, PASSAGE, Mode::empty());
        match open() {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(dir, part, Mode::from_raw_mode(0o777)) {
                    // Another thread may have been faster.
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(e) => Err(e),
                }
            }
            other => other,
        }
        .map_err(self.failed("open the folders of", path))
    }

    /// Removes what is in the place of a new entry, if that is allowed: files and links, and folders that are empty.
    fn make_room(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.failed("look at", path)(e)),
            Ok(_) if !self.options.overwrite => Err(Error::Refused(format!("{} exists already", self.shown(path).display()))),
            Ok(stat) => {
                let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(parent, name, flags).map_err(self.failed("replace", path))
            }
        }
    }

    fn stat(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Stat> {
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("look at", path))
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
    }

    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
        let shown = self.shown(path);
        move |e| Error::io(action, shown)(e.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names in a stored path. Fails with `Format` for one that could lead out of the target.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let bad = |part: &&[u8]| part.is_empty() || *part == b"." || *part == b".." || part.contains(&0);
    if parts.iter().any(bad) {
        return Err(Error::format(display_path(path), "this path does not stay within a folder; not restored"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
