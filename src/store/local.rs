//! Objects as files in a directory.
//!
//! What has to hold: a reader sees the old bytes or the new ones, also after a power cut; nothing is ever written or read through
//! a symbolic link; what a dead writer left behind is recognised and removed. So every write is: a temporary name opened with
//! `O_EXCL|O_NOFOLLOW` → write → fsync → rename → fsync of the directory, and every path is walked segment by segment with
//! `O_NOFOLLOW` from a directory handle that is opened once.

use super::direct;
use super::process::{Alive, ProcessId};
use super::{Object, Store, StoreError, StoreResult, Wiped, check_key};
use crate::crash;
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const TMP: &str = ".tmp-";
const LOCK: &str = ".tmp-lock";
/// Temporary files of writers that cannot be looked at are left alone this long, in seconds.
const LEFTOVER_AGE: i64 = 3600;
const MAX_DEPTH: usize = 32;
const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that keeps objects.
pub struct LocalStore {
    root: OwnedFd,
    path: PathBuf,
    me: ProcessId,
}

/// Every temporary name of this process is another.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// Makes the directory (mode 0700) where it is missing, and opens it.
    pub fn create(dir: &Path) -> StoreResult<LocalStore> {
        let failed = |e: std::io::Error| failed_at(dir, "create", "", e);
        if !dir.is_dir() {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            crash::step("make the store's directory");
            builder.recursive(true).create(dir).map_err(failed)?;
            // The new name must survive a power cut as well.
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|d| d.sync_all()).map_err(failed)?;
        }
        LocalStore::open(dir)
    }

    /// Opens a directory that is there.
    pub fn open(dir: &Path) -> StoreResult<LocalStore> {
        // The root itself may be reached through a link: that is the user's choice. Nothing below it is.
        let root = fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed_at(dir, "open", "", e.into()))?;
        Ok(LocalStore { root, path: dir.to_path_buf(), me: ProcessId::current() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing { store: self.describe(), key: key.to_string() }
    }

    fn failed(&self, action: &'static str, key: &str, error: impl Into<std::io::Error>) -> StoreError {
        failed_at(&self.path, action, key, error.into())
    }

    /// Opens the directory that holds `key`, and gives the last segment. `None` when some part of the way is missing.
    fn parent<'k>(&self, action: &'static str, key: &'k str) -> StoreResult<Option<(OwnedFd, &'k str)>> {
        check_key(key)?;
        let (dirs, name) = key.rsplit_once('/').unwrap_or(("", key));
        Ok(self.directory(action, key, dirs)?.map(|dir| (dir, name)))
    }

    fn directory(&self, action: &'static str, key: &str, dirs: &str) -> StoreResult<Option<OwnedFd>> {
        let mut dir = self.root.try_clone().map_err(|e| self.failed(action, key, e))?;
        for segment in dirs.split('/').filter(|s| !s.is_empty()) {
            dir = match fs::openat(&dir, segment, DIR, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR) if !is_link(dir.as_fd(), segment) => return Ok(None),
                Err(e) => return Err(self.failed(action, key, e)),
            };
        }
        Ok(Some(dir))
    }

    /// Like [`LocalStore::parent`], making what is missing.
    fn make_parent<'k>(&self, key: &'k str) -> StoreResult<(OwnedFd, &'k str)> {
        check_key(key)?;
        let failed = |e: Errno| self.failed("write", key, e);
        let (dirs, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut dir = self.root.try_clone().map_err(|e| self.failed("write", key, e))?;
        for segment in dirs.split('/').filter(|s| !s.is_empty()) {
            dir = match fs::openat(&dir, segment, DIR, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    crash::step("make a directory");
                    match fs::mkdirat(&dir, segment, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(failed(e)),
                    }
                    fs::fsync(&dir).map_err(failed)?;
                    fs::openat(&dir, segment, DIR, Mode::empty()).map_err(failed)?
                }
                Err(e) => return Err(failed(e)),
            };
        }
        Ok((dir, name))
    }

    fn open_object(&self, action: &'static str, key: &str, flags: OFlags) -> StoreResult<(File, u64)> {
        let Some((dir, name)) = self.parent(action, key)? else { return Err(self.missing(key)) };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(&dir, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::ISDIR) => return Err(self.missing(key)),
            Err(e) => return Err(self.failed(action, key, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| self.failed(action, key, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(fd), stat.st_size as u64)),
            FileType::Directory => Err(self.missing(key)),
            _ => Err(self.failed(action, key, std::io::Error::other("not a regular file"))),
        }
    }

    /// Writes and syncs a temporary file in `dir`.
    fn temporary<'d>(&self, dir: &'d OwnedFd, key: &str, bytes: &[u8]) -> StoreResult<Temporary<'d>> {
        let n = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
        let ProcessId { boot, namespace, pid, start } = &self.me;
        let name = format!("{TMP}{}-{namespace}-{pid}-{start}-{n}", if boot.is_empty() { "0" } else { boot });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        crash::step("create a temporary file");
        let open = |flags| fs::openat(dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
        let large = bytes.len() >= direct::WORTH_IT;
        let fd = match if large { open(flags | OFlags::DIRECT) } else { open(flags) } {
            Err(Errno::INVAL) if large => {
                // Some file systems make the file before they refuse.
                let _ = fs::unlinkat(dir, name.as_str(), AtFlags::empty());
                open(flags)
            }
            other => other,
        };
        let fd = fd.map_err(|e| self.failed("write", key, e))?;
        let temporary = Temporary { dir, name, keep: false };
        let mut file = File::from(fd);
        crash::step("write the temporary file");
        let written = if large { direct::write_all(&mut file, bytes) } else { file.write_all(bytes) };
        written.and_then(|()| file.sync_all()).map_err(|e| self.failed("write", key, e))?;
        crash::step("rename the temporary file");
        Ok(temporary)
    }

    /// Held shared around every change of a name, and alone around compare-and-replace: so no update is lost.
    fn lock(&self, action: &'static str, key: &str, operation: FlockOperation) -> StoreResult<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |e| self.failed(action, key, e);
        let fd = fs::openat(&self.root, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        loop {
            match fs::flock(&fd, operation) {
                Err(Errno::INTR) => {}
                other => return other.map(|()| fd).map_err(failed),
            }
        }
    }

    fn sync(&self, action: &'static str, key: &str, dir: &OwnedFd) -> StoreResult<()> {
        crash::step("sync the directory");
        fs::fsync(dir).map_err(|e| self.failed(action, key, e))
    }

    /// Names in a directory with their types; without what the store itself keeps there.
    fn names(&self, action: &'static str, prefix: &str, dir: &OwnedFd) -> StoreResult<Vec<(String, FileType)>> {
        let failed = |e: Errno| self.failed(action, prefix, e);
        let mut out = Vec::new();
        for entry in fs::Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(failed(e)),
                },
                kind => kind,
            };
            out.push((name.to_string(), kind));
        }
        Ok(out)
    }

    fn walk(&self, prefix: &str, dir: &OwnedFd, depth: usize, out: &mut Vec<Object>) -> StoreResult<()> {
        for (name, kind) in self.names("list", prefix, dir)? {
            let key = format!("{prefix}{name}");
            if check_key(&key).is_err() {
                continue;
            }
            match kind {
                FileType::RegularFile => match fs::statat(dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => out.push(Object { key, len: stat.st_size as u64, version: None, is_delete_marker: false, is_latest: true }),
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(self.failed("list", &key, e)),
                },
                FileType::Directory if depth < MAX_DEPTH => match fs::openat(dir, name.as_str(), DIR, Mode::empty()) {
                    Ok(sub) => self.walk(&format!("{key}/"), &sub, depth + 1, out)?,
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(self.failed("list", &key, e)),
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn sweep(&self, prefix: &str, dir: &OwnedFd, now: i64, depth: usize) -> StoreResult<u64> {
        let mut removed = 0;
        for (name, kind) in self.names("clean", prefix, dir)? {
            match kind {
                FileType::RegularFile if name.starts_with(TMP) && name != LOCK && self.is_leftover(dir, &name, now) => {
                    crash::step("remove a leftover");
                    match fs::unlinkat(dir, name.as_str(), AtFlags::empty()) {
                        Ok(()) => removed += 1,
                        Err(Errno::NOENT) => {}
                        Err(e) => return Err(self.failed("delete", &format!("{prefix}{name}"), e)),
                    }
                }
                FileType::Directory if depth < MAX_DEPTH && check_key(&name).is_ok() => {
                    if let Ok(sub) = fs::openat(dir, name.as_str(), DIR, Mode::empty()) {
                        removed += self.sweep(&format!("{prefix}{name}/"), &sub, now, depth + 1)?;
                    }
                }
                _ => {}
            }
        }
        if removed > 0 {
            self.sync("clean", prefix, dir)?;
        }
        Ok(removed)
    }

    fn is_leftover(&self, dir: &OwnedFd, name: &str, now: i64) -> bool {
        let mut parts = name.trim_start_matches(TMP).split('-');
        let mut next = || parts.next().unwrap_or_default();
        let boot = next().to_string();
        let (namespace, pid, start) = (next().parse(), next().parse(), next().parse());
        if let (Ok(namespace), Ok(pid), Ok(start)) = (namespace, pid, start) {
            match (ProcessId { boot, namespace, pid, start }).alive() {
                Alive::Yes => return false,
                Alive::No => return true,
                Alive::Unknown => {}
            }
        }
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| now.saturating_sub(stat.st_mtime) > LEFTOVER_AGE)
    }
}

fn failed_at(root: &Path, action: &'static str, key: &str, source: std::io::Error) -> StoreError {
    StoreError::Failed { store: root.display().to_string(), action, key: key.to_string(), source: Box::new(source) }
}

fn is_link(dir: BorrowedFd<'_>, name: &str) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink)
}

/// A temporary file that goes away unless it got its name.
struct Temporary<'d> {
    dir: &'d OwnedFd,
    name: String,
    keep: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::unlinkat(self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Temporary<'_> {
    fn rename(mut self, name: &str) -> Result<(), Errno> {
        fs::renameat(self.dir, self.name.as_str(), self.dir, name)?;
        self.keep = true;
        Ok(())
    }

    /// Takes the name unless it is taken. File systems that cannot rename so get a hard link instead.
    fn rename_if_absent(mut self, name: &str) -> Result<bool, Errno> {
        match fs::renameat_with(self.dir, self.name.as_str(), self.dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.keep = true,
            Err(Errno::EXIST) => return Ok(false),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match fs::linkat(self.dir, self.name.as_str(), self.dir, name, AtFlags::empty()) {
                    Ok(()) => crash::step("drop the temporary name"),
                    Err(Errno::EXIST) => return Ok(false),
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }
}

impl Store for LocalStore {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        let (mut file, len) = self.open_object("read", key, OFlags::RDONLY)?;
        let mut bytes = Vec::with_capacity(len as usize);
        file.read_to_end(&mut bytes).map_err(|e| self.failed("read", key, e))?;
        Ok(bytes)
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        let mut bytes = Vec::new();
        self.get_range_into(key, offset, len, &mut bytes)?;
        Ok(bytes)
    }

    fn get_range_into(&self, key: &str, offset: u64, len: u64, into: &mut Vec<u8>) -> StoreResult<()> {
        let (file, actual) = self.open_object("read", key, OFlags::RDONLY)?;
        let expected = offset.saturating_add(len);
        if expected > actual || offset.checked_add(len).is_none() {
            return Err(StoreError::Short { store: self.describe(), key: key.to_string(), expected, actual });
        }
        // Fresh memory comes as zeros; what is there is written over and need not become zeros before.
        if into.is_empty() {
            *into = vec![0; len as usize];
        } else {
            into.resize(len as usize, 0);
        }
        file.read_exact_at(into, offset).map_err(|e| self.failed("read", key, e))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        let (dir, name) = self.make_parent(key)?;
        let temporary = self.temporary(&dir, key, bytes)?;
        let _lock = self.lock("write", key, FlockOperation::LockShared)?;
        temporary.rename(name).map_err(|e| self.failed("write", key, e))?;
        self.sync("write", key, &dir)
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        let (dir, name) = self.make_parent(key)?;
        let temporary = self.temporary(&dir, key, bytes)?;
        let _lock = self.lock("write", key, FlockOperation::LockShared)?;
        let done = temporary.rename_if_absent(name).map_err(|e| self.failed("write", key, e))?;
        // Also when another writer was first: whoever goes on from its object relies on it.
        self.sync("write", key, &dir)?;
        Ok(done)
    }

    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        let Some((dir, name)) = self.parent("write", key)? else { return Ok(false) };
        let _lock = self.lock("write", key, FlockOperation::LockExclusive)?;
        match self.get(key) {
            Ok(current) if current == expected => {}
            Ok(_) => return Ok(false),
            Err(e) if e.is_missing() => return Ok(false),
            Err(e) => return Err(e),
        }
        let temporary = self.temporary(&dir, key, bytes)?;
        temporary.rename(name).map_err(|e| self.failed("write", key, e))?;
        self.sync("write", key, &dir)?;
        Ok(true)
    }

    fn delete(&self, key: &str) -> StoreResult<()> {
        let Some((dir, name)) = self.parent("delete", key)? else { return Ok(()) };
        let _lock = self.lock("delete", key, FlockOperation::LockShared)?;
        crash::step("delete");
        match fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) => self.sync("delete", key, &dir),
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(e) => Err(self.failed("delete", key, e)),
        }
    }

    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        let dirs = match prefix {
            "" => "",
            _ => prefix.strip_suffix('/').ok_or_else(|| StoreError::BadKey(prefix.to_string()))?,
        };
        if !prefix.is_empty() {
            check_key(dirs)?;
        }
        let mut out = Vec::new();
        if let Some(dir) = self.directory("list", prefix, dirs)? {
            self.walk(prefix, &dir, 0, &mut out)?;
        }
        Ok(out)
    }

    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.list(prefix)
    }

    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        let (file, actual) = self.open_object("wipe", key, OFlags::RDWR)?;
        for (offset, len) in ranges {
            let expected = offset.saturating_add(*len);
            if expected > actual || offset.checked_add(*len).is_none() {
                return Err(StoreError::Short { store: self.describe(), key: key.to_string(), expected, actual });
            }
        }
        for &(offset, len) in ranges.iter().filter(|(_, len)| *len > 0) {
            crash::step("wipe a range");
            if !punch_hole(&file, offset, len).map_err(|e| self.failed("wipe", key, e))? {
                write_zeros(&file, offset, len).map_err(|e| self.failed("wipe", key, e))?;
            }
        }
        crash::step("sync what was wiped");
        file.sync_all().map_err(|e| self.failed("wipe", key, e))?;
        Ok(Wiped::Done)
    }

    fn remove_leftovers(&self, _spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        // The file system's own time, so that ages compare like with like and no clock is asked.
        let dir = self.root.try_clone().map_err(|e| self.failed("clean", "", e))?;
        let probe = self.temporary(&dir, "", b"")?;
        let now = fs::statat(&dir, probe.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.failed("clean", "", e))?.st_mtime;
        drop(probe);
        self.sweep("", &dir, now, 0)
    }
}

/// `false` where the file system has no holes.
#[cfg(target_os = "linux")]
fn punch_hole(file: &File, offset: u64, len: u64) -> Result<bool, Errno> {
    use rustix::fs::FallocateFlags;
    match fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_: &File, _: u64, _: u64) -> Result<bool, Errno> {
    Ok(false)
}

fn write_zeros(file: &File, mut offset: u64, mut len: u64) -> std::io::Result<()> {
    let zeros = [0u8; 64 * 1024];
    while len > 0 {
        let n = len.min(zeros.len() as u64);
        file.write_all_at(zeros.get(..n as usize).unwrap_or(&zeros), offset)?;
        offset += n;
        len -= n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::Duration;

    fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&dir.path().join("repository")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_directory_keeps_to_the_stores_contract() {
        crate::store::conformance::all(&store().1);
    }

    #[test]
    fn a_counting_directory_keeps_to_the_stores_contract() {
        let (_dir, store) = store();
        let counting = crate::store::fault::Counting::new(std::sync::Arc::new(store));
        crate::store::conformance::all(&counting);
        assert!(counting.counts().bytes_written > 0);
    }

    #[test]
    fn files_and_folders_are_for_their_owner_only() {
        let (_dir, store) = store();
        store.put("a/b", b"x").unwrap();
        let mode = |p: &str| std::fs::metadata(store.path().join(p)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("a"), mode("a/b")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn links_are_never_followed() {
        let (dir, store) = store();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), b"secret").unwrap();
        symlink(&outside, store.path().join("folder")).unwrap();
        symlink(outside.join("file"), store.path().join("file")).unwrap();
        for key in ["folder/file", "file"] {
            assert!(matches!(store.get(key), Err(StoreError::Failed { .. })), "{key}");
            assert!(matches!(store.get_range(key, 0, 1), Err(StoreError::Failed { .. })), "{key}");
            assert!(matches!(store.wipe(key, &[(0, 1)]), Err(StoreError::Failed { .. })), "{key}");
        }
        assert!(store.put("folder/new", b"x").is_err());
        assert!(store.delete("folder/file").is_err());
        assert!(store.list("folder/").is_err());
        assert_eq!(store.list("").unwrap(), vec![]);
        store.put("file", b"x").unwrap();
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"secret", "a link is replaced, not written through");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn wiping_keeps_the_length_and_frees_the_space() {
        let (_dir, store) = store();
        store.put("a", &vec![7; 1 << 20]).unwrap();
        let blocks = || std::fs::metadata(store.path().join("a")).unwrap().blocks();
        let before = blocks();
        assert_eq!(store.wipe("a", &[(0, 1 << 19)]).unwrap(), Wiped::Done);
        assert_eq!(store.get("a").unwrap().len(), 1 << 20);
        assert!(blocks() <= before);
        write_zeros(&File::options().write(true).open(store.path().join("a")).unwrap(), 1 << 19, 1 << 19).unwrap();
        assert!(store.get("a").unwrap().iter().all(|b| *b == 0));
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let (_dir, store) = store();
        store.put("a/b", b"x").unwrap();
        let me = ProcessId::current();
        let name = |boot: &str, start: u64, n: u32| format!(".tmp-{boot}-{}-{}-{start}-{n}", me.namespace, me.pid);
        let write = |name: &str, age: u64| {
            let path = store.path().join("a").join(name);
            std::fs::write(&path, b"plain?").unwrap();
            let file = File::options().write(true).open(path).unwrap();
            let then = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(age);
            file.set_modified(then).unwrap();
        };
        let (mine, dead) = (name(&me.boot, me.start, 900_000), name(&me.boot, me.start + 1, 1));
        let (strange_new, strange_old) = (name("abc", 1, 1), name("abc", 1, 2));
        write(&mine, 7200);
        write(&dead, 0);
        write(&strange_new, 3000);
        write(&strange_old, 7200);
        write(".tmp-odd", 7200);
        assert_eq!(store.remove_leftovers(&|_| false).unwrap(), 3);
        let left: Vec<_> =
            std::fs::read_dir(store.path().join("a")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.contains(&mine) && left.contains(&strange_new) && left.contains(&"b".to_string()) && left.len() == 3, "{left:?}");
    }

    #[test]
    fn a_temporary_file_that_never_got_its_name_goes_away() {
        let (_dir, store) = store();
        let (dir, _) = store.make_parent("a/b").unwrap();
        let temporary = store.temporary(&dir, "a/b", b"x").unwrap();
        drop(temporary);
        assert_eq!(std::fs::read_dir(store.path().join("a")).unwrap().count(), 0);
        assert!(matches!(LocalStore::open(&store.path().join("none")), Err(StoreError::Failed { .. })));
    }
}
