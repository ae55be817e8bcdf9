//! The backup's workers: pieces go in, in order; references to stored chunks come out, in the same order. Hashing happens where a piece
//! is cut (it decides whether there is any work at all), compressing, sealing and token making on the workers. What is in flight is bounded.

use crate::Result;
use crate::datamap::{DataMap, TokenKey};
use crate::engine::event::IdentityTokens;
use crate::format::blocks::Covers;
use crate::format::{Marks, RecordFormat};
use crate::repository::entry::{ChunkId, ChunkRef, Role};
use crate::repository::{ChunkWriter, Dataset};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a piece's identity block is made.
pub enum MarkJob {
    /// It has none.
    None,
    /// Made already (databases).
    Ready(Option<Marks>),
    /// Read from the piece's records.
    Records {
        /// The format.
        format: &'static dyn RecordFormat,
        /// The piece's context.
        context: Vec<u8>,
        /// What to read.
        coverage: Arc<Coverage>,
    },
}

/// What the identity blocks of an entry of records hold, and what making them saw.
pub struct Coverage {
    covers: Covers,
    /// Records that are not of the format: kept, and found by nobody.
    pub malformed: AtomicU64,
}

impl Coverage {
    /// For an entry that holds records of these collections.
    pub fn new(map: &DataMap, collections: &[usize]) -> Coverage {
        Coverage { covers: Covers::of_map(map, collections), malformed: AtomicU64::new(0) }
    }

    /// For [`crate::repository::entry::Mapped::covers`].
    pub fn keys(&self) -> Vec<String> {
        self.covers.keys().to_vec()
    }
}

/// A piece on its way.
struct Job {
    id: ChunkId,
    bytes: Vec<u8>,
    marks: MarkJob,
    reply: Sender<Result<ChunkRef>>,
}

/// A reference that is being made.
pub enum Ticket {
    /// Known at once: the chunk was stored before, or an earlier archive has a reference for exactly this piece ([`Pipeline::has`] says
    /// whether that holds).
    Known(ChunkRef),
    /// A worker has it.
    Coming(Receiver<Result<ChunkRef>>),
}

impl Ticket {
    /// Waits for it.
    pub fn wait(self) -> Result<ChunkRef> {
        match self {
            Ticket::Known(r) => Ok(r),
            Ticket::Coming(rx) => rx.recv().unwrap_or_else(|_| Err(crate::Error::Interrupted("a worker stopped".into()))),
        }
    }
}

/// Tokens of people who were erased from this dataset: meeting one means that the live source still has the person.
#[derive(Default)]
pub struct Erased {
    long: HashMap<u64, Vec<usize>>,
}

impl Erased {
    /// Of these people.
    pub fn new<'a>(people: impl Iterator<Item = &'a [IdentityTokens]>) -> Erased {
        let mut long: HashMap<u64, Vec<usize>> = HashMap::new();
        for (i, identities) in people.enumerate() {
            for t in identities.iter().flat_map(|i| &i.tokens) {
                let who = long.entry(t.token.long()).or_default();
                if !who.contains(&i) {
                    who.push(i);
                }
            }
        }
        Erased { long }
    }

    fn met(&self, marks: &Marks) -> HashSet<usize> {
        if self.long.is_empty() {
            return HashSet::new();
        }
        marks.rows.iter().filter_map(|r| self.long.get(&r.token)).flatten().copied().collect()
    }
}

/// What the workers share.
pub struct Shared<'a> {
    /// Stores chunks.
    pub writer: &'a ChunkWriter,
    /// Its keys.
    pub dataset: &'a Dataset,
    /// Erased people.
    pub erased: Erased,
    /// Erased people that were met, by index.
    pub met: std::sync::Mutex<HashSet<usize>>,
    /// Bytes stored for new chunks.
    pub stored: AtomicU64,
}

impl Shared<'_> {
    fn run(&self, job: Job) {
        let result = self.store(job.id, &job.bytes, job.marks);
        let _ = job.reply.send(result);
    }

    fn records(&self, format: &dyn RecordFormat, context: &[u8], bytes: &[u8], coverage: &Coverage) -> Result<Marks> {
        let (marks, scanned) = coverage.covers.block(format, context, bytes, self.dataset.token_key())?;
        coverage.malformed.fetch_add(u64::from(scanned.malformed), Ordering::Relaxed);
        Ok(marks)
    }

    fn store(&self, id: ChunkId, bytes: &[u8], marks: MarkJob) -> Result<ChunkRef> {
        let data = self.writer.add_hashed(Role::Data, id, bytes)?;
        self.stored.fetch_add(data.stored, Ordering::Relaxed);
        let marks = match marks {
            MarkJob::None => None,
            MarkJob::Ready(marks) => marks,
            MarkJob::Records { format, context, coverage } => Some(self.records(format, &context, bytes, &coverage)?),
        };
        let marks = match marks {
            None => None,
            Some(marks) => {
                let met = self.erased.met(&marks);
                if !met.is_empty() {
                    self.met.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(met);
                }
                let block = self.writer.add(Role::Marks, &marks.encode()?)?;
                self.stored.fetch_add(block.stored, Ordering::Relaxed);
                Some(block.id)
            }
        };
        Ok(ChunkRef { id, len: bytes.len() as u64, marks })
    }
}

/// The entrance.
pub struct Pipeline<'a> {
    jobs: Sender<Job>,
    shared: &'a Shared<'a>,
}

impl Pipeline<'_> {
    /// Hands in a piece.
    pub fn submit(&self, id: ChunkId, bytes: Vec<u8>, marks: MarkJob) -> Ticket {
        if matches!(marks, MarkJob::None) && self.shared.writer.has(Role::Data, &id) {
            return Ticket::Known(ChunkRef { id, len: bytes.len() as u64, marks: None });
        }
        let (reply, rx) = bounded(1);
        let job = Job { id, bytes, marks, reply };
        if let Err(failed) = self.jobs.send(job) {
            // No worker is left; the reply's sender goes with the job and the ticket fails.
            drop(failed);
        }
        Ticket::Coming(rx)
    }

    /// The dataset's id of these bytes.
    pub fn id(&self, bytes: &[u8]) -> ChunkId {
        self.shared.dataset.chunk_id(bytes)
    }

    /// Whether what a reference names is there.
    pub fn has(&self, known: &ChunkRef) -> bool {
        self.shared.writer.has(Role::Data, &known.id) && known.marks.is_none_or(|m| self.shared.writer.has(Role::Marks, &m))
    }

    /// Stores chunks.
    pub fn writer(&self) -> &ChunkWriter {
        self.shared.writer
    }

    /// Makes tokens.
    pub fn token_key(&self) -> &TokenKey {
        self.shared.dataset.token_key()
    }
}

/// Runs `work` with `workers` threads behind it.
pub fn with_workers<'a, T: Send>(shared: &'a Shared<'a>, workers: usize, work: impl FnOnce(&Pipeline<'a>) -> Result<T>) -> Result<T> {
    let (jobs, queue) = bounded::<Job>(workers * 4);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let queue = queue.clone();
            scope.spawn(move || {
                for job in queue {
                    shared.run(job);
                }
            });
        }
        drop(queue);
        let pipeline = Pipeline { jobs, shared };
        let result = work(&pipeline);
        drop(pipeline);
        result
    })
}
