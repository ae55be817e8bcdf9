//! A consistent view of a live database, its write-ahead log folded in, for as long as a backup takes. The source is not changed.
//!
//! In write-ahead-log mode a read transaction is all it takes: readers do not block writers there, so pages are read where they are,
//! through SQLite, while the transaction is open. With a rollback journal a reader does block writers; there are two ways:
//!
//! - *in place* ([`Options::in_place`]): the file is read without a lock, and whoever used what was read asks afterwards, with
//!   [`Snapshot::is_unchanged`], whether anybody wrote meanwhile. Nearly always nobody did, at night, and a copy is spared.
//! - *a copy*: the online backup copies pages in short steps into a [`Spool`](super::spool::Spool), beginning again when somebody wrote,
//!   and the snapshot is read from it.
//!
//! Nobody else in this process may open and close the same file while a snapshot of it is alive: POSIX drops *all* of a process's locks
//! on a file when *any* of its descriptors is closed.

use super::Image;
use super::pages::{HEADER, Header};
use super::spool::Spool;
use super::vfs::{Database, Medium};
use crate::env::{Random, SystemRandom};
use crate::{Error, Result};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes copied under one lock on a database with a rollback journal.
const STEP: usize = 4 << 20;

/// How often a copy begins anew because somebody wrote, before the rest is copied under one lock.
const RESTARTS: u32 = 5;

/// How long to wait for a lock in all, in pauses of [`PAUSE`].
const PATIENCE: u32 = 1200;
const PAUSE: Duration = Duration::from_millis(25);

/// Longer than a tick of any file system's clock that counts less than seconds.
const TICK: Duration = Duration::from_millis(25);

/// See the module.
pub struct Snapshot {
    path: PathBuf,
    len: u64,
    // Dropped in this order: the connection, whose locks closing the file would drop, then the file.
    source: Source,
    file: Option<File>,
}

enum Source {
    /// An empty file: an empty database.
    Empty,
    /// A read transaction.
    Live(Mutex<Live>),
    /// The file itself, and what it was like at the start.
    InPlace(Mutex<Watched>),
    /// A copy.
    Spooled(Spool),
}

/// A database with a rollback journal that is read without a lock.
struct Watched {
    connection: Connection,
    before: State,
}

/// What tells that nobody wrote: every commit counts up in the header, and whatever is written to the file (pages that a rollback takes
/// back, too) changes its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// Device, inode, length, and times of change in nanoseconds.
    file: (u64, u64, u64, i128, i128),
    /// The same of what the path leads to.
    path: (u64, u64),
    header: [u8; HEADER],
    pages: i64,
    data_version: i64,
}

struct Live {
    connection: Connection,
    page: usize,
    /// There was no write-ahead log before this connection came.
    tidy: bool,
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.connection.execute_batch("ROLLBACK");
        if self.tidy {
            // The last connection then takes the empty log with it, as it found the folder.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

/// Where to keep a copy, and chances for tests.
pub struct Options<'a> {
    /// Folder for the sealed temporary file of a database with a rollback journal; the system's by default.
    pub folder: PathBuf,
    /// For the key of that file.
    pub random: &'a dyn Random,
    /// Copy also where a read transaction would do.
    pub always_copy: bool,
    /// Read a database with a rollback journal where it is. What was read counts only if [`Snapshot::is_unchanged`] says so afterwards.
    pub in_place: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { folder: std::env::temp_dir(), random: &SystemRandom, always_copy: false, in_place: false }
    }
}

impl Snapshot {
    /// Takes a snapshot of the database at `path`.
    ///
    /// Fails with [`Error::Source`] when it is none, is locked for too long, or has a journal left by a crash that must be rolled back
    /// first (which would change the source). The caller may then store the file's plain bytes.
    pub fn open(path: &Path) -> Result<Snapshot> {
        Snapshot::open_with(path, &Options::default())
    }

    /// Like [`Snapshot::open`].
    pub fn open_with(path: &Path, options: &Options<'_>) -> Result<Snapshot> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let log = sibling(path, "-wal");
        if size == 0 && std::fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
            return Ok(Snapshot { path: path.to_path_buf(), len: 0, source: Source::Empty, file: Some(file) });
        }
        let mut head = [0; HEADER];
        let _ = file.read_exact_at(&mut head, 0);
        if !Header::is_magic(&head) {
            return Err(refuse(path, "it is not an SQLite database, or an encrypted one"));
        }
        // An unknown header is SQLite's to judge; a write-ahead log is told by the read version.
        let wal = head.get(19) == Some(&2);
        if wal && !options.always_copy {
            match live(path, &log) {
                Ok(Some((live, len))) => {
                    return Ok(Snapshot { path: path.to_path_buf(), len, source: Source::Live(Mutex::new(live)), file: Some(file) });
                }
                Ok(None) => {} // this SQLite has no table of pages
                Err(error) => return Err(explain(path, error)),
            }
        }
        if !wal
            && options.in_place
            && !options.always_copy
            && let Some((watched, len)) = watch(path, &file).map_err(|e| explain(path, e))?
        {
            return Ok(Snapshot { path: path.to_path_buf(), len, source: Source::InPlace(Mutex::new(watched)), file: Some(file) });
        }
        let spool = copy(path, &file, size, wal, options)?;
        Ok(Snapshot { path: path.to_path_buf(), len: spool.len(), source: Source::Spooled(spool), file: Some(file) })
    }

    /// Whether pages are read from the source while the snapshot is alive (otherwise from a copy).
    pub fn is_live(&self) -> bool {
        matches!(self.source, Source::Live(_))
    }

    /// Whether what was read so far is one state of the database. Only where it is read in place can that be otherwise: then somebody wrote
    /// meanwhile, what was read is worth nothing (also an error met in reading), and a snapshot has to be taken again, by a copy.
    pub fn is_unchanged(&self) -> Result<bool> {
        let (Source::InPlace(watched), Some(file)) = (&self.source, &self.file) else { return Ok(true) };
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = State::of(&watched.connection, &self.path, file).map_err(|e| explain(&self.path, e))?;
        Ok(now.as_ref() == Some(&watched.before))
    }
}

impl State {
    /// Under a lock that keeps writers away for this moment. `None` where the file cannot be watched.
    fn of(connection: &Connection, path: &Path, file: &File) -> rusqlite::Result<Option<State>> {
        use std::os::unix::fs::MetadataExt;
        connection.execute_batch("BEGIN; PRAGMA user_version;")?;
        let read = (|| -> rusqlite::Result<Option<State>> {
            let pages = connection.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            let data_version = connection.query_row("PRAGMA data_version", [], |r| r.get(0))?;
            let (Ok(own), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return Ok(None) };
            let mut header = [0; HEADER];
            if file.read_exact_at(&mut header, 0).is_err() {
                return Ok(None);
            }
            let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
            // A file system that counts whole seconds cannot tell two writes apart.
            if own.mtime_nsec() == 0 && own.ctime_nsec() == 0 {
                return Ok(None);
            }
            let times = (nanoseconds(own.mtime(), own.mtime_nsec()), nanoseconds(own.ctime(), own.ctime_nsec()));
            let file = (own.dev(), own.ino(), own.len(), times.0, times.1);
            Ok(Some(State { file, path: (named.dev(), named.ino()), header, pages, data_version }))
        })();
        connection.execute_batch("COMMIT")?;
        read
    }
}

/// Begins to watch a database that is to be read in place; `None` where that cannot be done.
fn watch(path: &Path, file: &File) -> rusqlite::Result<Option<(Watched, u64)>> {
    let (connection, _) = connect(path, false)?;
    let page: i64 = connection.query_row("PRAGMA page_size", [], |r| r.get(0))?;
    let Some(before) = State::of(&connection, path, file)? else { return Ok(None) };
    // Nothing may be read within the tick of the file system's clock that may have been the last write's: a second write in the same
    // tick would leave no trace. Ticks are 1 to 10 ms long.
    std::thread::sleep(TICK);
    let len = before.pages.max(0) as u64 * page.max(512) as u64;
    if before.file.2 < len || before.path != (before.file.0, before.file.1) {
        return Ok(None);
    }
    Ok(Some((Watched { connection, before }, len)))
}

impl Image for Snapshot {
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(Error::format(Image::path(self), "ends early"));
        }
        match &self.source {
            Source::Empty => Ok(()),
            Source::Spooled(spool) => spool.read_at(offset, buf),
            Source::InPlace(_) => match &self.file {
                Some(file) => file.read_exact_at(buf, offset).map_err(Error::io("read", &self.path)),
                None => Err(Error::format(Image::path(self), "is not open")),
            },
            Source::Live(live) => {
                let live = live.lock().unwrap_or_else(PoisonError::into_inner);
                live.read_at(offset, buf).map_err(|e| explain(&self.path, e))
            }
        }
    }
}

impl Live {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached("SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1")?;
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let inside = (position % self.page as u64) as usize;
            let n = (buf.len() - at).min(self.page - inside);
            let mut rows = statement.query([(position / self.page as u64 + 1) as i64])?;
            let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            let page = row.get_ref(0)?.as_blob()?;
            match (buf.get_mut(at..at + n), page.get(inside..inside + n)) {
                (Some(to), Some(from)) => to.copy_from_slice(from),
                _ => return Err(rusqlite::Error::QueryReturnedNoRows),
            }
            at += n;
        }
        Ok(())
    }
}

fn sibling(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn refuse(path: &Path, detail: impl Into<String>) -> Error {
    Error::Source { what: path.display().to_string(), detail: detail.into() }
}

fn explain(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ffi;
    let extended = error.sqlite_error().map_or(0, |e| e.extended_code);
    if extended == ffi::SQLITE_READONLY_ROLLBACK {
        return refuse(
            path,
            "a crash left a journal beside it that has to be rolled back first, which would change it: open it once with its application or with sqlite3",
        );
    }
    match extended & 0xff {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => refuse(path, "it stayed locked by a writer for too long"),
        ffi::SQLITE_CANTOPEN => refuse(path, format!("sqlite cannot open it, or the log or journal beside it: {error}")),
        _ => refuse(path, format!("sqlite cannot read it: {error}")),
    }
}

/// Opens the source without a way to change it. In write-ahead-log mode a writable descriptor is needed to leave no empty log behind,
/// so there `query_only` is what forbids writing.
fn connect(path: &Path, wal: bool) -> rusqlite::Result<(Connection, bool)> {
    // Absolute, because SQLite takes names that begin with "file:" for something else.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let journal = std::fs::metadata(sibling(&path, "-journal")).map_or(0, |m| m.len());
    let readable = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut writable = false;
    let mut connection = None;
    if wal && journal == 0 {
        connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).ok();
        writable = match &connection {
            Some(c) => !c.is_readonly(rusqlite::MAIN_DB)?,
            None => false,
        };
    }
    let connection = match connection {
        Some(c) => c,
        None => Connection::open_with_flags(&path, readable)?,
    };
    connection.busy_timeout(PAUSE * PATIENCE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok((connection, writable))
}

/// Begins a read transaction; `None` where this SQLite has no table of pages.
fn live(path: &Path, log: &Path) -> rusqlite::Result<Option<(Live, u64)>> {
    let had_log = log.exists();
    let (connection, writable) = connect(path, true)?;
    let mut live = Live { connection, page: 0, tidy: writable && !had_log };
    let c = &live.connection;
    // The header's user version is read without the schema; the transaction stays open after it.
    c.execute_batch("BEGIN; PRAGMA user_version;")?;
    let has_pages: i64 = c.query_row("SELECT count(*) FROM pragma_module_list WHERE name = 'sqlite_dbpage'", [], |r| r.get(0))?;
    if has_pages == 0 {
        return Ok(None);
    }
    let page: i64 = c.query_row("PRAGMA page_size", [], |r| r.get(0))?;
    let pages: i64 = c.query_row("PRAGMA page_count", [], |r| r.get(0))?;
    live.page = page.max(512) as usize;
    let len = pages.max(0) as u64 * live.page as u64;
    if len > 0 {
        live.read_at(0, &mut [0; HEADER])?;
    }
    Ok(Some((live, len)))
}

/// Copies the database with the online backup.
fn copy(path: &Path, file: &File, size: u64, wal: bool, options: &Options<'_>) -> Result<Spool> {
    let (source, _) = connect(path, false).map_err(|e| explain(path, e))?;
    source.execute_batch("PRAGMA user_version;").map_err(|e| explain(path, e))?;
    let page: i64 = source.query_row("PRAGMA page_size", [], |r| r.get(0)).map_err(|e| explain(path, e))?;
    let page = page.clamp(512, 65_536) as usize;
    let spool = Arc::new(Mutex::new(Spool::new(page, size, &options.folder, options.random)?));
    {
        let mut target = Database::open(spool.clone(), true)?;
        let configured = (|| {
            let c = target.connection();
            c.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            let _: String = c.query_row("PRAGMA journal_mode=OFF", [], |r| r.get(0))?;
            c.pragma_update(None, "synchronous", "OFF")?;
            c.pragma_update(None, "page_size", page as i64)
        })();
        configured.map_err(target.explain("preparing a snapshot"))?;
        let copied = steps(&source, target.connection_mut(), (STEP / page).max(1) as i32);
        if let Some(kept) = target.take_error() {
            return Err(kept);
        }
        match copied {
            Ok(()) => {}
            Err(Stuck::Sqlite(error)) => return Err(explain(path, error)),
            Err(Stuck::Locked) => return Err(refuse(path, "it stayed locked by a writer for too long")),
        }
        // Still inside the read transaction that `steps` has begun for the last step: what the file says now is what was copied.
        let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut head = [0; HEADER];
        if !wal && file.read_exact_at(&mut head, 0).is_ok() && !spool.is_empty() {
            keep_header(&mut spool, &head)?;
        }
    }
    drop(source);
    let mut spool = Arc::into_inner(spool)
        .ok_or_else(|| refuse(path, "its snapshot is still in use"))?
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if wal && !spool.is_empty() {
        // The copy itself has no log, but the database says of itself that it wants one.
        spool.write(18, &[2, 2])?;
    }
    Ok(spool)
}

/// The backup counts the copy as a change of its own; the source's counters are put back, so that the copy is the source byte for byte
/// and the next night's is the same.
fn keep_header(spool: &mut Spool, head: &[u8; HEADER]) -> Result<()> {
    for range in [18..20, 24..28, 40..44, 92..100] {
        spool.write(range.start as u64, head.get(range).unwrap_or_default())?;
    }
    Ok(())
}

enum Stuck {
    Sqlite(rusqlite::Error),
    Locked,
}

/// Copies in steps of `pages`. Leaves `source` inside a read transaction, in which the last step was made.
fn steps(source: &Connection, target: &mut Connection, pages: i32) -> Result<(), Stuck> {
    match stepwise(source, target, pages, RESTARTS)? {
        true => Ok(()),
        // It shrank under our hands, so that an early step was the last: once more, in one.
        false => stepwise(source, target, pages, 0).map(|_| ()),
    }
}

/// `false` when the copy ended outside a transaction.
fn stepwise(source: &Connection, target: &mut Connection, pages: i32, patience: u32) -> Result<bool, Stuck> {
    let total: i64 = source.query_row("PRAGMA page_count", [], |r| r.get(0)).map_err(Stuck::Sqlite)?;
    let backup = Backup::new(source, target).map_err(Stuck::Sqlite)?;
    let (mut waited, mut restarts, mut begun) = (0, 0, false);
    let mut remaining = i32::try_from(total).unwrap_or(i32::MAX);
    loop {
        let last = restarts >= patience || remaining <= pages;
        if last && source.is_autocommit() {
            // Under one lock from here on, so that nothing comes between the last pages and the header.
            source.execute_batch("BEGIN; PRAGMA user_version;").map_err(Stuck::Sqlite)?;
        }
        match backup.step(if last { -1 } else { pages }).map_err(Stuck::Sqlite)? {
            StepResult::Done => return Ok(!source.is_autocommit()),
            StepResult::More => {
                let now = backup.progress().remaining;
                restarts += u32::from(begun && now >= remaining);
                (remaining, begun) = (now, true);
                // A writer that waits for the lock gets its turn.
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => {
                waited += 1;
                if waited > PATIENCE {
                    return Err(Stuck::Locked);
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}
