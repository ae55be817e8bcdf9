//! The database file as SQLite sees it during an edit: runs of the archive, opened only when a page of theirs is read, and beside
//! them the pages that were written: in memory as far as it is allowed, and beyond that sealed in a file without a name. The archive is not
//! touched; dropping the overlay undoes everything.

use super::pages::Header;
use super::scrub::Edit;
use super::spool::Spool;
use super::vfs::Medium;
use super::{Image, RUN};
use crate::env::{Random, Stop, SystemRandom};
use crate::format::EntryContent;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// How much memory an edit may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pages written and kept aside until the edit is finished. What is written beyond it goes to [`Spill`].
    pub overlay: u64,
    /// Bytes of the longest value that is read, if not less than a record may have anyway.
    pub value: u64,
    /// Runs of the archive kept open for reading.
    pub runs: u64,
    /// SQLite's page cache.
    pub page_cache: u64,
    /// Databases up to this size are checked as a whole after an edit where what was written cannot be checked against what was there before.
    pub whole_check: u64,
    /// Databases are checked as a whole after each edit, however large.
    pub always_whole: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { overlay: 128 << 20, value: 128 << 20, runs: 32 << 20, page_cache: 16 << 20, whole_check: 64 << 20, always_whole: false }
    }
}

/// Where written pages go for which there is no room in memory: into a [`Spool`], so sealed under a key that only this process has.
#[derive(Clone)]
pub struct Spill {
    /// The folder whose file system holds them, in a file without a name.
    pub folder: PathBuf,
    /// Makes the key.
    pub random: Arc<dyn Random>,
}

impl Default for Spill {
    fn default() -> Spill {
        Spill { folder: std::env::temp_dir(), random: Arc::new(SystemRandom) }
    }
}

/// A written page.
enum Written {
    Here(Box<[u8]>),
    Spilled,
}

/// Runs that were opened, the least recently used dropped first.
struct Runs {
    open: HashMap<usize, (u64, Arc<Vec<u8>>)>,
    tick: u64,
    most: usize,
}

/// See the module. Reading is an [`Image`], writing an [`Edit`]; SQLite uses it as a [`Medium`].
pub struct Overlay {
    content: Arc<dyn EntryContent>,
    runs: Mutex<Runs>,
    base_len: u64,
    /// How much of the archived bytes shows: less than all once the file was cut, also after it has grown again.
    visible: u64,
    base: Header,
    page: usize,
    written: BTreeMap<u32, Written>,
    /// How many of them are in memory.
    here: u64,
    spill: Spill,
    spool: Option<Spool>,
    len: u64,
    limit: u64,
}

impl Overlay {
    /// Over an entry's content, which must have been cut into runs of [`RUN`] bytes.
    pub fn new(content: Arc<dyn EntryContent>, limits: &Limits, spill: Spill) -> Result<Overlay> {
        let path = content.path();
        let pieces = content.pieces();
        let mut base_len = 0;
        for i in 0..pieces {
            let len = content.piece_len(i);
            if len == 0 || len > RUN as u64 || (len < RUN as u64 && i + 1 < pieces) {
                return Err(Error::format(
                    path,
                    "was not cut into runs of pages when it was archived, so it cannot be edited page by page",
                ));
            }
            base_len += len;
        }
        let runs = Mutex::new(Runs { open: HashMap::new(), tick: 0, most: (limits.runs / RUN as u64).max(4) as usize });
        let base = match pieces {
            0 => Header::empty(),
            _ => Header::parse(&content.piece(0)?, base_len).map_err(|b| b.at(&path))?,
        };
        let page = base.page;
        Ok(Overlay {
            content,
            runs,
            base_len,
            visible: base_len,
            base,
            page,
            written: BTreeMap::new(),
            here: 0,
            spill,
            spool: None,
            len: base_len,
            limit: limits.overlay,
        })
    }

    /// The header of the database as archived.
    pub fn base_header(&self) -> &Header {
        &self.base
    }

    /// Numbers of the pages written so far.
    pub fn written(&self) -> BTreeSet<u32> {
        self.written.keys().copied().collect()
    }

    /// The wish to stop.
    pub fn stop(&self) -> Stop {
        self.content.stop()
    }

    /// Length of the database as archived, in bytes.
    pub fn base_len(&self) -> u64 {
        self.base_len
    }

    /// Runs whose bytes may differ from the archived ones, in order; those behind the end are not among them.
    pub fn touched_runs(&self) -> BTreeSet<u64> {
        let per = (RUN / self.page) as u64;
        let mut runs: BTreeSet<u64> = self.written.keys().map(|no| (u64::from(*no) - 1) / per).collect();
        if self.len != self.base_len && self.len > 0 {
            runs.insert((self.len - 1) / RUN as u64);
            // A file that grew over the end of a short last run changes that one too.
            runs.extend(self.base_len.checked_sub(1).map(|last| last / RUN as u64));
        }
        runs.retain(|run| run * (RUN as u64) < self.len);
        runs
    }

    /// The archived bytes of a run; `None` behind the archived end.
    pub fn base_run(&self, index: u64) -> Result<Option<Arc<Vec<u8>>>> {
        match usize::try_from(index) {
            Ok(i) if i < self.content.pieces() => Ok(Some(self.open_run(i)?)),
            _ => Ok(None),
        }
    }

    fn open_run(&self, index: usize) -> Result<Arc<Vec<u8>>> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.tick += 1;
        let tick = runs.tick;
        if let Some((used, run)) = runs.open.get_mut(&index) {
            *used = tick;
            return Ok(run.clone());
        }
        let run = self.content.piece(index)?;
        if run.len() as u64 != self.content.piece_len(index) {
            return Err(Error::damaged(self.path(), "a run has another length than its reference says"));
        }
        if runs.open.len() >= runs.most {
            // The oldest eighth at once, so that the search for it is rare.
            let mut ages: Vec<u64> = runs.open.values().map(|(used, _)| *used).collect();
            let nth = runs.most / 8;
            let (_, oldest, _) = ages.select_nth_unstable(nth);
            let oldest = *oldest;
            runs.open.retain(|_, (used, _)| *used > oldest);
        }
        runs.open.insert(index, (tick, run.clone()));
        Ok(run)
    }

    /// Archived bytes, of which those from `visible` on count as zero.
    fn read_base(&self, offset: u64, buf: &mut [u8], visible: u64) -> Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let rest = buf.get_mut(at..).unwrap_or_default();
            if position >= visible {
                rest.fill(0);
                break;
            }
            let run = self.open_run((position / RUN as u64) as usize)?;
            let from = run.get((position % RUN as u64) as usize..).unwrap_or_default();
            let n = from.len().min(rest.len()).min((visible - position) as usize);
            if n == 0 {
                return Err(Error::damaged(self.path(), "a run is shorter than it should be"));
            }
            if let (Some(to), Some(from)) = (rest.get_mut(..n), from.get(..n)) {
                to.copy_from_slice(from);
            }
            at += n;
        }
        Ok(())
    }

    fn read_some(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut at = 0;
        while at < buf.len() && offset + (at as u64) < self.len {
            let position = offset + at as u64;
            let inside = (position % self.page as u64) as usize;
            let n = (buf.len() - at).min(self.page - inside).min((self.len - position) as usize);
            let to = buf.get_mut(at..at + n).unwrap_or_default();
            match self.written.get(&self.number(position)) {
                Some(Written::Here(page)) => to.iter_mut().zip(page.iter().skip(inside)).for_each(|(to, from)| *to = *from),
                Some(Written::Spilled) => self.spool()?.read_at(position, to)?,
                None => self.read_base(position, to, self.visible)?,
            }
            at += n;
        }
        Ok(at)
    }

    fn number(&self, position: u64) -> u32 {
        (position / self.page as u64 + 1) as u32
    }

    fn spool(&self) -> Result<&Spool> {
        self.spool.as_ref().ok_or_else(|| Error::damaged(self.path(), "a written page is not where it was put"))
    }

    fn keep(&mut self, no: u32, page: &[u8]) -> Result<()> {
        match self.written.get_mut(&no) {
            Some(Written::Here(old)) => {
                old.copy_from_slice(page.get(..old.len()).ok_or_else(|| Error::format(self.content.path(), "a page is too short"))?);
                return Ok(());
            }
            Some(Written::Spilled) => {}
            None if (self.here + 1) * self.page as u64 <= self.limit => {
                self.written.insert(no, Written::Here(page.into()));
                self.here += 1;
                return Ok(());
            }
            None => {}
        }
        // What came first stays: a page goes out once, and no page is moved to make room.
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(Spool::new(self.page, u64::MAX, &self.spill.folder, &*self.spill.random)?),
        };
        spool.write((u64::from(no) - 1) * self.page as u64, page)?;
        self.written.insert(no, Written::Spilled);
        Ok(())
    }
}

/// The database as archived, whatever was written since.
pub struct Archived<'a>(pub &'a Overlay);

impl Image for Archived<'_> {
    fn path(&self) -> String {
        self.0.path()
    }
    fn len(&self) -> u64 {
        self.0.base_len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + buf.len() as u64 > self.0.base_len {
            return Err(Error::format(self.path(), "ends early"));
        }
        self.0.read_base(offset, buf, self.0.base_len)
    }
}

impl Image for Overlay {
    fn path(&self) -> String {
        self.content.path()
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.read_some(offset, buf)? < buf.len() {
            return Err(Error::format(self.path(), "ends early"));
        }
        Ok(())
    }
}

impl Edit for Overlay {
    fn write_page(&mut self, no: u32, page: &[u8]) -> Result<()> {
        self.keep(no, page)
    }
}

impl Medium for Overlay {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_some(offset, buf)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let (no, inside) = (self.number(position), (position % self.page as u64) as usize);
            let n = (bytes.len() - at).min(self.page - inside);
            let from = bytes.get(at..at + n).unwrap_or_default();
            match self.written.get_mut(&no) {
                _ if n == self.page => self.keep(no, from)?,
                Some(Written::Here(page)) => page.iter_mut().skip(inside).zip(from).for_each(|(to, from)| *to = *from),
                _ => {
                    let mut page = vec![0; self.page];
                    self.read_some(position - inside as u64, &mut page)?;
                    page.iter_mut().skip(inside).zip(from).for_each(|(to, from)| *to = *from);
                    self.keep(no, &page)?;
                }
            }
            at += n;
            self.len = self.len.max(offset + at as u64);
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let keep = len.div_ceil(self.page as u64);
        self.written.retain(|no, _| u64::from(*no) <= keep);
        self.here = self.written.values().filter(|w| matches!(w, Written::Here(_))).count() as u64;
        if let Some(spool) = &mut self.spool {
            spool.truncate(len)?;
        }
        self.len = self.len.min(len);
        self.visible = self.visible.min(len);
        Ok(())
    }

    fn size(&mut self) -> u64 {
        self.len
    }
}
