//! Chunks in: deduplicated, compressed, sealed under a key of their own and spread over the open packs at random (so that a
//! pack's neighbours do not tell which file is which). A full pack goes to a thread that stores it and then its key sheet (to one
//! of three where a network is in between); the queue is bounded, so memory is `open_packs + 3` packs, or two more, however much is written.

use super::dataset::Dataset;
use super::entry::{ChunkId, Role};
use super::id::PackId;
use super::index::ChunkIndex;
use super::intake::Outbox;
use super::known::Known;
use super::lease::{Hold, Lease};
use super::params::Sizes;
use super::sheet::{Row, Sheet, pack_key, role_byte};
use super::{Location, RepoId, Repository, chunk};
use crate::env::Env;
use crate::store::Store;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use zeroize::Zeroizing;

/// How chunks are written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// zstd's level.
    pub level: i32,
    /// Packs that are filled with data at the same time; metadata goes to one more.
    pub open_packs: usize,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { level: 3, open_packs: 2 }
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Its id.
    pub id: ChunkId,
    /// Whether it was not there yet.
    pub new: bool,
    /// Sealed bytes that it added; 0 when it was there.
    pub stored: u64,
}

/// What a writer has written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// The packs, in the order they were stored.
    pub packs: Vec<PackId>,
    /// Chunks in them.
    pub chunks: u64,
    /// Sealed bytes in them.
    pub bytes: u64,
}

/// A pack being filled.
struct OpenPack {
    id: PackId,
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// Shared with the storing threads.
#[derive(Default)]
struct Stored {
    sheets: Vec<Sheet>,
    written: Written,
    failure: Option<Error>,
    failed: bool,
}

struct Storing {
    queue: Sender<OpenPack>,
    threads: Vec<JoinHandle<()>>,
}

/// Where packs and their sheets go.
struct Target {
    repository: RepoId,
    sizes: Sizes,
    location: Location,
    env: Env,
    sheets: Sheets,
    /// Memory of a pack that is stored, for the next one: fresh memory costs the kernel as much as copying into it.
    spare: Mutex<Vec<u8>>,
    /// The lease under which it writes.
    hold: OnceLock<Hold>,
}

/// Who keeps the keys of what was written.
enum Sheets {
    /// The repository, under its root: what is written can be read.
    Repository(Arc<Repository>),
    /// The intake, sealed to whoever admits it: the writer forgets them.
    Outbox(Arc<Outbox>),
}

/// What need not be written, since it is there.
enum Present {
    Index(Arc<ChunkIndex>),
    Known(Known),
}

impl Present {
    fn contains(&self, id: &ChunkId, role: Role) -> bool {
        match self {
            Present::Index(index) => index.contains(id, role),
            Present::Known(known) => known.contains(id, role),
        }
    }
}

/// Writes chunks of one dataset. All methods take `&self` and may be called from several threads. The caller holds the dataset's
/// lease. What was added is durable only once [`ChunkWriter::finish`] has returned.
pub struct ChunkWriter {
    target: Arc<Target>,
    dataset: Arc<Dataset>,
    present: Present,
    /// The index with what was stored up to the last call of [`ChunkWriter::index`].
    extended: Mutex<Arc<ChunkIndex>>,
    options: WriteOptions,
    pending: Mutex<HashSet<(ChunkId, u8)>>,
    open: Vec<Mutex<Option<OpenPack>>>,
    storing: Mutex<Option<Storing>>,
    stored: Arc<Mutex<Stored>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChunkWriter {
    /// A writer that knows what `index` knows.
    pub fn new(repository: &Arc<Repository>, dataset: &Arc<Dataset>, index: Arc<ChunkIndex>, options: WriteOptions) -> ChunkWriter {
        let target = Target {
            repository: *repository.id(),
            sizes: repository.params().sizes,
            location: repository.location().clone(),
            env: repository.env().clone(),
            sheets: Sheets::Repository(repository.clone()),
            spare: Mutex::default(),
            hold: OnceLock::new(),
        };
        ChunkWriter::to(target, dataset, Present::Index(index.clone()), index, options)
    }

    /// A writer for a host that only adds archives: it knows what it is told to be there, and cannot read what it has written.
    pub fn to_outbox(outbox: &Arc<Outbox>, known: Known, options: WriteOptions) -> ChunkWriter {
        let target = Target {
            repository: outbox.params().id,
            sizes: outbox.params().sizes,
            location: outbox.location().clone(),
            env: outbox.env().clone(),
            sheets: Sheets::Outbox(outbox.clone()),
            spare: Mutex::default(),
            hold: OnceLock::new(),
        };
        ChunkWriter::to(target, outbox.dataset(), Present::Known(known), Arc::default(), options)
    }

    fn to(target: Target, dataset: &Arc<Dataset>, present: Present, index: Arc<ChunkIndex>, options: WriteOptions) -> ChunkWriter {
        let (target, stored) = (Arc::new(target), Arc::new(Mutex::new(Stored::default())));
        let (queue, packs) = crossbeam_channel::bounded(1);
        let threads = (0..senders(&*target.location.data))
            .map(|_| {
                let (target, dataset, stored, packs) = (target.clone(), dataset.clone(), stored.clone(), packs.clone());
                std::thread::spawn(move || store_packs(&target, &dataset, &packs, &stored))
            })
            .collect();
        ChunkWriter {
            target,
            dataset: dataset.clone(),
            present,
            extended: Mutex::new(index),
            options,
            pending: Mutex::default(),
            open: (0..=options.open_packs.clamp(1, 16)).map(|_| Mutex::new(None)).collect(),
            storing: Mutex::new(Some(Storing { queue, threads })),
            stored,
        }
    }

    /// Asks for the lease between a pack and its key sheet. Whoever took it over may have removed the pack, since no sheet named it; a sheet
    /// without its pack would be taken for granted by every later backup.
    pub fn under(self, lease: &Lease) -> ChunkWriter {
        let _ = self.target.hold.set(lease.hold());
        self
    }

    /// The dataset that it writes to.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// How entries are cut in this repository.
    pub fn sizes(&self) -> &Sizes {
        &self.target.sizes
    }

    /// Adds a chunk unless it is there or has been added. Fails when storing an earlier pack failed.
    pub fn add(&self, role: Role, bytes: &[u8]) -> Result<Added> {
        self.add_hashed(role, self.dataset.chunk_id(bytes), bytes)
    }

    /// Whether the chunk is there, or was added.
    pub fn has(&self, role: Role, id: &ChunkId) -> bool {
        self.present.contains(id, role) || lock(&self.pending).contains(&(*id, role_byte(role)))
    }

    /// Like [`ChunkWriter::add`], for who has computed the id already.
    pub fn add_hashed(&self, role: Role, id: ChunkId, bytes: &[u8]) -> Result<Added> {
        let limit = self.target.sizes.chunk_limit;
        if bytes.len() > limit as usize {
            return Err(Error::Refused(format!("a piece of {} bytes: this repository takes at most {limit}", bytes.len())));
        }
        if self.present.contains(&id, role) || !lock(&self.pending).insert((id, role_byte(role))) {
            return Ok(Added { id, new: false, stored: 0 });
        }
        let added = self.seal_new(id, role, bytes);
        if added.is_err() {
            // Whoever was told "it is there" meanwhile must not get away with it.
            self.fail();
        }
        added
    }

    fn seal_new(&self, id: ChunkId, role: Role, bytes: &[u8]) -> Result<Added> {
        let (codec, mut body) = chunk::compress(bytes, self.options.level)?;
        let random = &*self.target.env.random;
        let mut fresh = Zeroizing::new([0u8; 33]);
        random.fill(fresh.as_mut_slice())?;
        let [choice, key @ ..] = *fresh;
        // Metadata has a pack of its own: looking a person up, or marking what is needed, then reads a few packs from end to end.
        let slot = match (role, self.open.split_last()) {
            (Role::Data, Some((_, data))) if !data.is_empty() => data.get(usize::from(choice) % data.len()),
            _ => self.open.last(),
        };
        let slot = slot.ok_or_else(|| Error::Refused("a writer without packs".to_string()))?;
        let pack_size = self.target.sizes.pack as usize;
        let (stored, full) = {
            let mut guard = lock(slot);
            let pack = match guard.as_mut() {
                Some(pack) => pack,
                None => {
                    let mut bytes = std::mem::take(&mut *lock(&self.target.spare));
                    bytes.reserve(pack_size + pack_size / 8);
                    guard.insert(OpenPack { id: PackId::random(random)?, bytes, rows: Vec::new() })
                }
            };
            let mut row = Row {
                id,
                key,
                ordinal: pack.rows.len() as u32,
                offset: pack.bytes.len() as u32,
                stored: 0,
                len: bytes.len() as u32,
                codec,
                role,
            };
            chunk::seal_body(&self.target.repository, &pack.id, &row, &mut body)?;
            row.stored = body.len() as u32;
            pack.bytes.extend_from_slice(&body);
            pack.rows.push(row);
            (body.len() as u64, if pack.bytes.len() >= pack_size { guard.take() } else { None })
        };
        if let Some(full) = full {
            self.send(full)?;
        }
        Ok(Added { id, new: true, stored })
    }

    fn send(&self, pack: OpenPack) -> Result<()> {
        self.check()?;
        let queue = lock(&self.storing).as_ref().map(|s| s.queue.clone());
        let queue = queue.ok_or_else(|| Error::Refused("the writer is finished".to_string()))?;
        queue.send(pack).map_err(|_| Error::Refused("the threads that store packs are gone".to_string()))
    }

    fn fail(&self) {
        lock(&self.stored).failed = true;
    }

    fn check(&self) -> Result<()> {
        let mut stored = lock(&self.stored);
        match stored.failure.take() {
            Some(failure) => Err(failure),
            None if stored.failed => Err(Error::Refused("an earlier write failed, so nothing more is written".to_string())),
            None => Ok(()),
        }
    }

    /// Stores what is left and waits until everything is durable. May be called once all `add`s have returned; again only to get
    /// the same answer.
    pub fn finish(&self) -> Result<Written> {
        for slot in &self.open {
            let pack = lock(slot).take();
            if let Some(pack) = pack {
                self.send(pack)?;
            }
        }
        self.stop();
        self.check()?;
        Ok(lock(&self.stored).written.clone())
    }

    fn stop(&self) {
        let storing = lock(&self.storing).take();
        if let Some(Storing { queue, threads }) = storing {
            drop(queue);
            // Every one of them, also after one that failed.
            let failed = threads.into_iter().filter_map(|t| t.join().err()).count();
            if failed > 0 {
                self.fail();
            }
        }
    }

    /// The index with everything that has been stored so far; after [`ChunkWriter::finish`]: with everything.
    pub fn index(&self) -> Arc<ChunkIndex> {
        let mut extended = lock(&self.extended);
        let sheets = std::mem::take(&mut lock(&self.stored).sheets);
        if !sheets.is_empty() {
            *extended = Arc::new(extended.extended(sheets));
        }
        extended.clone()
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Threads that store packs: a folder is as fast as one of them, a network has its round trips (and each pack goes in parts, at the same
/// time). What is still open when all has been read goes out as fast as they are many.
fn senders(store: &dyn Store) -> usize {
    if store.is_remote() { 3 } else { 1 }
}

/// A storing thread: pack, then its sheet. After a failure it only empties the queue, so that nobody waits forever.
fn store_packs(target: &Target, dataset: &Dataset, packs: &Receiver<OpenPack>, stored: &Mutex<Stored>) {
    for pack in packs {
        if lock(stored).failed {
            continue;
        }
        match store_pack(target, dataset, pack) {
            Ok(sheet) => {
                let mut stored = lock(stored);
                stored.written.packs.push(sheet.pack);
                stored.written.chunks += sheet.rows.len() as u64;
                stored.written.bytes += sheet.size;
                // A host drops the keys here.
                if matches!(target.sheets, Sheets::Repository(_)) {
                    stored.sheets.push(sheet);
                }
            }
            Err(failure) => {
                let mut stored = lock(stored);
                stored.failed = true;
                stored.failure = Some(failure);
            }
        }
    }
}

fn store_pack(target: &Target, dataset: &Dataset, pack: OpenPack) -> Result<Sheet> {
    let location = &target.location;
    let bytes = Arc::new(pack.bytes);
    location.data.put_shared(&pack_key(dataset.name(), &pack.id), &bytes)?;
    let sheet = Sheet { pack: pack.id, size: bytes.len() as u64, rows: pack.rows, pending: Vec::new() };
    // Whoever sent it may hold it for a moment longer.
    if let Ok(mut bytes) = Arc::try_unwrap(bytes) {
        bytes.clear();
        *lock(&target.spare) = bytes;
    }
    if let Some(hold) = target.hold.get() {
        hold.check()?;
    }
    match &target.sheets {
        Sheets::Repository(repository) => sheet.put(repository.sealer(), &*location.keys, dataset.name())?,
        Sheets::Outbox(outbox) => outbox.put_sheet(&sheet)?,
    }
    Ok(sheet)
}
