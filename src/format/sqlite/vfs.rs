//! Lets SQLite open a database that exists only in memory and archive: a virtual file system with three files ("db", "db-wal",
//! "db-journal"). Everything else, temporary files included, is refused, so that no plaintext can reach a disk.
//!
//! The only unsafe code of the crate. One file system serves one connection: no locks, no shared memory. Callbacks never unwind into
//! C, and an error in one (a damaged chunk, a limit) is kept and handed to the caller in place of SQLite's "disk I/O error".

use crate::env::Stop;
use crate::{Error, Result};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What stands behind the file "db".
pub trait Medium: Send {
    /// Reads at `offset`; how many bytes there were.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Writes at `offset`, growing the file where needed.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, len: u64) -> Result<()>;
    /// Length in bytes.
    fn size(&mut self) -> u64;
}

/// Write-ahead log and journal may grow to this many bytes; an edit keeps its journal in SQLite's memory, so they stay small.
const SIDE_LIMIT: usize = 64 << 20;

/// Steps of SQLite's machine between two looks at [`Bounds`]: some fractions of a millisecond.
const LOOK: c_int = 10_000;

/// What a connection to somebody's database must not exceed. A damaged one can be without end: inner pages that lead to the same pages again and
/// again double what a scan visits with every level.
pub struct Bounds {
    /// Of the entry, for messages.
    pub path: String,
    /// Ends a statement.
    pub stop: Stop,
    /// Most steps of SQLite's machine in one statement.
    pub steps: u64,
    /// Most bytes of a value or a row. SQLite holds one as a whole.
    pub longest: u64,
}

/// The side files, and what went wrong.
#[derive(Default)]
struct Side {
    files: [Option<Vec<u8>>; 2],
    error: Option<Error>,
}

/// What callbacks share. `methods` live here because every open file points at them.
struct State {
    db: Arc<Mutex<dyn Medium>>,
    side: Mutex<Side>,
    /// Steps of the statement that runs.
    steps: AtomicU64,
    methods: ffi::sqlite3_io_methods,
}

#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    state: *const State,
    which: Which,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Db,
    Side(usize),
}

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A registered file system; unregistered when dropped.
struct Vfs {
    name: CString,
    raw: *mut ffi::sqlite3_vfs,
    state: *const State,
}

// SAFETY: the pointers are owned by this value alone until it is dropped, what they point at is `Sync` (mutexes and constants),
// and SQLite's list of file systems has its own mutex.
unsafe impl Send for Vfs {}

impl Vfs {
    fn register(db: Arc<Mutex<dyn Medium>>) -> Result<Vfs> {
        let refused = |what: &str| Error::Refused(format!("sqlite does not accept a file system: {what}"));
        let name = CString::new(format!("reseal-{}", COUNT.fetch_add(1, Ordering::Relaxed))).map_err(|_| refused("its name"))?;
        let methods = ffi::sqlite3_io_methods {
            iVersion: 1,
            xClose: Some(close),
            xRead: Some(read),
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(always_ok),
            xFileSize: Some(size),
            xLock: Some(always_ok),
            xUnlock: Some(always_ok),
            xCheckReservedLock: Some(unlocked),
            xFileControl: Some(control),
            xSectorSize: Some(sector),
            xDeviceCharacteristics: Some(device),
            xShmMap: None,
            xShmLock: None,
            xShmBarrier: None,
            xShmUnmap: None,
            xFetch: None,
            xUnfetch: None,
        };
        let state = Arc::into_raw(Arc::new(State { db, side: Mutex::new(Side::default()), steps: AtomicU64::new(0), methods }));
        // SAFETY: `sqlite3_vfs_find(NULL)` gives the default file system, which lives as long as the process; its fields are copied
        // (randomness, sleep and clock stay the system's; its dynamic loading is replaced). `raw`, `name` and `state` live until
        // `Drop`, after the last connection is closed.
        unsafe {
            let os = ffi::sqlite3_vfs_find(ptr::null());
            if os.is_null() {
                drop(Arc::from_raw(state));
                return Err(refused("there is no default one to take the rest from"));
            }
            let raw = Box::into_raw(Box::new(ffi::sqlite3_vfs {
                szOsFile: size_of::<File>() as c_int,
                zName: name.as_ptr(),
                pAppData: state as *mut c_void,
                pNext: ptr::null_mut(),
                xOpen: Some(open),
                xDelete: Some(delete),
                xAccess: Some(access),
                xFullPathname: Some(full_name),
                xDlOpen: None,
                xDlError: None,
                xDlSym: None,
                xDlClose: None,
                ..*os
            }));
            let vfs = Vfs { name, raw, state };
            match ffi::sqlite3_vfs_register(raw, 0) {
                ffi::SQLITE_OK => Ok(vfs),
                code => Err(refused(&format!("code {code}"))),
            }
        }
    }

    fn state(&self) -> &State {
        // SAFETY: `state` came from `Arc::into_raw` and is released in `Drop` only.
        unsafe { &*self.state }
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // SAFETY: `Database` drops its connection before this, so SQLite holds no pointer into the file system any more;
        // the three were made by `register` and are released once.
        unsafe {
            ffi::sqlite3_vfs_unregister(self.raw);
            drop(Box::from_raw(self.raw));
            drop(Arc::from_raw(self.state));
        }
    }
}

/// A connection to a database behind a [`Medium`].
pub struct Database {
    // Fields are dropped in this order: the connection must be gone before its file system.
    connection: Connection,
    vfs: Vfs,
    path: String,
    longest: u64,
}

impl Database {
    /// Opens it; with `writable` for changes.
    pub fn open(db: Arc<Mutex<dyn Medium>>, writable: bool) -> Result<Database> {
        let vfs = Vfs::register(db)?;
        let access = if writable { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        let name = vfs.name.to_str().unwrap_or_default();
        let connection = Connection::open_with_flags_and_vfs("db", access | OpenFlags::SQLITE_OPEN_NO_MUTEX, name);
        let kept = side(vfs.state()).error.take();
        match (connection, kept) {
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(Error::sqlite("opening a database in an archive")(error)),
            (Ok(connection), None) => Ok(Database { connection, vfs, path: String::new(), longest: u64::MAX }),
        }
    }

    /// Opens it within bounds.
    pub fn bounded(db: Arc<Mutex<dyn Medium>>, writable: bool, bounds: Bounds) -> Result<Database> {
        let mut database = Database::open(db, writable)?;
        let (path, longest) = (bounds.path.clone(), bounds.longest);
        let failed = |e| Error::sqlite("opening a database in an archive")(e);
        let longest = i32::try_from(longest).unwrap_or(i32::MAX);
        database.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest).map_err(failed)?;
        let longest = database.connection.limit(Limit::SQLITE_LIMIT_LENGTH).map_err(failed)?;
        (database.path, database.longest) = (path, longest.max(0) as u64);
        // SAFETY: the state lives until `Vfs` is dropped, which is after the connection; `started` reads it as what it is.
        let code = unsafe {
            let context = database.vfs.state.cast_mut().cast::<c_void>();
            ffi::sqlite3_trace_v2(database.connection.handle(), ffi::SQLITE_TRACE_STMT as c_uint, Some(started), context)
        };
        if code != ffi::SQLITE_OK {
            return Err(Error::Refused(format!("sqlite does not tell when statements begin: code {code}")));
        }
        let watch = Watch(database.vfs.state);
        database.connection.progress_handler(LOOK, Some(move || watch.ends(&bounds))).map_err(failed)?;
        Ok(database)
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection, for what needs it exclusively.
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Gives SQLite's error, or rather, where one of the callbacks failed, that error.
    pub fn explain(&self, context: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Error + '_ {
        let context = context.into();
        move |source| self.reason(&source).unwrap_or(Error::Sqlite { context, source })
    }

    /// What stands behind an error of SQLite's, where it is one of ours.
    pub fn reason(&self, error: &rusqlite::Error) -> Option<Error> {
        let too_big = || {
            let is = error.sqlite_error_code() == Some(ErrorCode::TooBig);
            is.then(|| {
                Error::format(
                    &self.path,
                    format!("a row or a value in it is longer than {} bytes, the most that may be held in memory", self.longest),
                )
            })
        };
        self.take_error().or_else(too_big)
    }

    /// The first error of a callback, if there was one.
    pub fn take_error(&self) -> Option<Error> {
        side(self.vfs.state()).error.take()
    }
}

/// The state, for a handler that the connection owns.
struct Watch(*const State);

// SAFETY: what it points at is `Sync` (mutexes, atomics and constants) and outlives the connection, which owns this.
unsafe impl Send for Watch {}

impl Watch {
    /// Whether the statement that runs has to end; why is kept for the caller.
    fn ends(&self, bounds: &Bounds) -> bool {
        // SAFETY: the handler goes with the connection, and the connection before the state.
        let state = unsafe { &*self.0 };
        let steps = state.steps.fetch_add(LOOK as u64, Ordering::Relaxed);
        let error = match bounds.stop.check("nothing was changed; run the same command again") {
            Err(stopped) => stopped,
            Ok(()) if steps > bounds.steps => Error::format(
                &bounds.path,
                "is damaged: reading it visits far more than it can hold, as where pages lead to the same pages again and again",
            ),
            Ok(()) => return false,
        };
        side(state).error.get_or_insert(error);
        true
    }
}

/// A statement begins, or a part of one that a trigger is.
unsafe extern "C" fn started(_: c_uint, context: *mut c_void, _: *mut c_void, _: *mut c_void) -> c_int {
    // SAFETY: the context is the state, see `Database::bounded`.
    unsafe { &*context.cast::<State>() }.steps.store(0, Ordering::Relaxed);
    0
}

fn side(state: &State) -> MutexGuard<'_, Side> {
    state.side.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a callback's body: a panic or an error becomes `code`, and the error is kept for the caller.
fn guard(state: &State, code: c_int, body: impl FnOnce() -> Result<c_int>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            side(state).error.get_or_insert(error);
            code
        }
        Err(_) => {
            side(state).error.get_or_insert(Error::Refused("an unexpected failure while reading an archived database".into()));
            code
        }
    }
}

fn which(name: &[u8]) -> Option<Which> {
    match name {
        b"db" => Some(Which::Db),
        b"db-wal" => Some(Which::Side(0)),
        b"db-journal" => Some(Which::Side(1)),
        _ => None,
    }
}

/// # Safety
/// `name` is null or a C string that outlives the result.
unsafe fn name_of<'a>(name: *const c_char) -> &'a [u8] {
    // SAFETY: as promised by the caller.
    if name.is_null() { b"" } else { unsafe { CStr::from_ptr(name) }.to_bytes() }
}

/// # Safety
/// `vfs` is the one registered in [`Vfs::register`], not yet dropped.
unsafe fn state_of<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a State {
    // SAFETY: `pAppData` was set to a live `State` there.
    unsafe { &*((*vfs).pAppData as *const State) }
}

/// # Safety
/// `file` was filled in by [`open`] and not yet closed.
unsafe fn file_of<'a>(file: *mut ffi::sqlite3_file) -> (&'a State, Which) {
    // SAFETY: `open` wrote a `File` there, whose `state` lives as long as the file system.
    unsafe {
        let file = &*(file as *const File);
        (&*file.state, file.which)
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes its own file system, a name or null, and `szOsFile` bytes at `file`.
    unsafe {
        (*file).pMethods = ptr::null();
        let state = state_of(vfs);
        let name = name_of(name);
        guard(state, ffi::SQLITE_CANTOPEN, || {
            let Some(which) = which(name) else { return Ok(ffi::SQLITE_CANTOPEN) };
            if let Which::Side(i) = which
                && let Some(slot) = side(state).files.get_mut(i)
                && slot.is_none()
            {
                if flags & ffi::SQLITE_OPEN_CREATE == 0 {
                    return Ok(ffi::SQLITE_CANTOPEN);
                }
                *slot = Some(Vec::new());
            }
            ptr::write(file as *mut File, File { methods: &state.methods, state, which });
            if !out.is_null() {
                *out = flags;
            }
            Ok(ffi::SQLITE_OK)
        })
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int) -> c_int {
    // SAFETY: SQLite passes its own file system and a C string.
    let (state, name) = unsafe { (state_of(vfs), name_of(name)) };
    guard(state, ffi::SQLITE_IOERR_DELETE, || {
        Ok(match which(name) {
            Some(Which::Side(i)) => {
                if let Some(slot) = side(state).files.get_mut(i) {
                    *slot = None;
                }
                ffi::SQLITE_OK
            }
            _ => ffi::SQLITE_IOERR_DELETE,
        })
    })
}

unsafe extern "C" fn access(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes its own file system, a C string, and a place for the answer.
    unsafe {
        let (state, name) = (state_of(vfs), name_of(name));
        guard(state, ffi::SQLITE_IOERR_ACCESS, || {
            // An empty log or journal counts as absent.
            *out = match which(name) {
                Some(Which::Db) => 1,
                Some(Which::Side(i)) => side(state).files.get(i).and_then(Option::as_ref).is_some_and(|f| !f.is_empty()).into(),
                None => 0,
            };
            Ok(ffi::SQLITE_OK)
        })
    }
}

unsafe extern "C" fn full_name(_: *mut ffi::sqlite3_vfs, name: *const c_char, n: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite passes a C string and `n` bytes at `out`; the copy is bounded by them.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if n < 0 || bytes.len() > n as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open file; null methods mark it closed. A `File` owns nothing.
    unsafe { (*file).pMethods = ptr::null() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buf: *mut c_void, n: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes an open file and `n` bytes at `buf`.
    let ((state, which), buf) = unsafe { (file_of(file), std::slice::from_raw_parts_mut(buf.cast::<u8>(), n.max(0) as usize)) };
    guard(state, ffi::SQLITE_IOERR_READ, || {
        let got = match which {
            Which::Db => lock(state).read(offset.max(0) as u64, buf)?,
            Which::Side(i) => {
                let side = side(state);
                let from = side.files.get(i).and_then(Option::as_deref).and_then(|f| f.get(offset.max(0) as usize..)).unwrap_or_default();
                buf.iter_mut().zip(from).map(|(to, from)| *to = *from).count()
            }
        };
        if got == buf.len() {
            return Ok(ffi::SQLITE_OK);
        }
        buf.get_mut(got..).unwrap_or_default().fill(0);
        Ok(ffi::SQLITE_IOERR_SHORT_READ)
    })
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, buf: *const c_void, n: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes an open file and `n` bytes at `buf`.
    let ((state, which), buf) = unsafe { (file_of(file), std::slice::from_raw_parts(buf.cast::<u8>(), n.max(0) as usize)) };
    guard(state, ffi::SQLITE_IOERR_WRITE, || {
        match which {
            Which::Db => lock(state).write(offset.max(0) as u64, buf)?,
            Which::Side(i) => {
                let mut side = side(state);
                let at = offset.max(0) as usize;
                let end = at.saturating_add(buf.len());
                if end > SIDE_LIMIT {
                    return Ok(ffi::SQLITE_FULL);
                }
                let Some(slot) = side.files.get_mut(i) else { return Ok(ffi::SQLITE_IOERR_WRITE) };
                let file = slot.get_or_insert_default();
                file.resize(file.len().max(end), 0);
                if let Some(to) = file.get_mut(at..end) {
                    to.copy_from_slice(buf);
                }
            }
        }
        Ok(ffi::SQLITE_OK)
    })
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: SQLite passes an open file.
    let (state, which) = unsafe { file_of(file) };
    guard(state, ffi::SQLITE_IOERR_TRUNCATE, || {
        match which {
            Which::Db => lock(state).truncate(len.max(0) as u64)?,
            Which::Side(i) => {
                if let Some(Some(file)) = side(state).files.get_mut(i) {
                    file.truncate(len.max(0) as usize);
                }
            }
        }
        Ok(ffi::SQLITE_OK)
    })
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: SQLite passes an open file and a place for the answer.
    unsafe {
        let (state, which) = file_of(file);
        guard(state, ffi::SQLITE_IOERR_FSTAT, || {
            *out = match which {
                Which::Db => lock(state).size() as i64,
                Which::Side(i) => side(state).files.get(i).and_then(Option::as_ref).map_or(0, |f| f.len() as i64),
            };
            Ok(ffi::SQLITE_OK)
        })
    }
}

fn lock(state: &State) -> MutexGuard<'_, dyn Medium + 'static> {
    state.db.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn always_ok(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn unlocked(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn device(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE | ffi::SQLITE_IOCAP_SAFE_APPEND | ffi::SQLITE_IOCAP_SEQUENTIAL
}
