//! What the repository's tests share: a repository in a temporary directory, on a store that fails when told to, with a clock that
//! stands still.

use super::entry::{ChunkRef, Entry, EntryKind, Role, Time, Tree};
use super::*;
use crate::env::{Clock, Silent, Stop, SystemRandom};
use crate::store::fault::Faulty;
use crate::store::local::LocalStore;
use std::sync::atomic::{AtomicI64, Ordering};

pub const FAST: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

pub struct Fixture {
    /// The store behind [`Fixture::faulty`].
    pub data: Arc<dyn Store>,
    pub keys: Arc<dyn Store>,
    /// What the repository uses.
    pub faulty: Arc<Faulty>,
    pub clock: Arc<TestClock>,
    pub env: Env,
    pub repo: Arc<Repository>,
    pub _dir: tempfile::TempDir,
}

pub fn fixture() -> Fixture {
    fixture_with(Sizes::default())
}

pub fn fixture_with(sizes: Sizes) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("repository")).unwrap());
    let faulty = Arc::new(Faulty::new(store.clone()));
    let clock = Arc::new(TestClock(AtomicI64::new(1_800_000_000)));
    let env = Env { clock: clock.clone(), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) };
    let options = InitOptions { kdf: FAST, sizes, ..InitOptions::default() };
    let repo = Arc::new(Repository::init(Location::single(faulty.clone()), &secret(), options, &env).unwrap());
    Fixture { data: store.clone(), keys: store, faulty, clock, env, repo, _dir: dir }
}

/// Small packs, so that a test has many.
pub fn small() -> Sizes {
    Sizes { pack: 4096, ..Sizes::default() }
}

pub fn secret() -> Secret {
    Secret::passphrase("passphrase").unwrap()
}

impl Fixture {
    pub fn open(&self) -> Result<Repository> {
        self.open_with(&secret())
    }

    pub fn open_with(&self, secret: &Secret) -> Result<Repository> {
        Repository::open(Location::single(self.faulty.clone()), secret, &self.env)
    }

    /// As if every holder had died.
    pub fn break_leases(&self) {
        for object in self.keys.list("leases/").unwrap() {
            self.keys.delete(&object.key).unwrap();
        }
    }

    /// A reader of dataset `d` as it is stored now.
    pub fn reader(&self) -> ChunkReader {
        let dataset = self.repo.dataset("d").unwrap().unwrap();
        let index = self.repo.index(&dataset).unwrap();
        ChunkReader::new(&self.repo, &dataset, index, 1 << 20)
    }
}

pub fn entry(path: &str) -> Entry {
    Entry { mode: 0o644, mtime: Time(1_700_000_000, 5), ..Entry::bare(path.as_bytes().to_vec(), EntryKind::File) }
}

/// A list of files with these contents, named by their number.
pub fn put_files(writer: &ChunkWriter, dataset: &Dataset, contents: &[&[u8]]) -> Tree {
    let mut list = EntryListWriter::new(writer, dataset);
    for (n, content) in contents.iter().enumerate() {
        let mut tree = TreeWriter::new(writer);
        let added = writer.add(Role::Data, content).unwrap();
        tree.push(ChunkRef { id: added.id, len: content.len() as u64, marks: None }).unwrap();
        let content = Some(tree.finish().unwrap());
        list.push(&Entry { size: contents[n].len() as u64, content, ..entry(&format!("file-{n}")) }).unwrap();
    }
    list.finish().unwrap()
}

/// Seals an archive of dataset `d`: one file per content, one chunk per file.
pub fn put_archive(t: &Fixture, number: u8, contents: &[&[u8]]) -> Head {
    let dataset = t.repo.create_dataset("d").unwrap();
    let index = t.repo.index(&dataset).unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, index, WriteOptions::default());
    let entries = put_files(&writer, &dataset, contents);
    let written = writer.finish().unwrap();
    let head = Head {
        archive: ArchiveId([number; 16]),
        dataset: "d".to_string(),
        generation: 1,
        created_at: t.env.now(),
        sealed_at: t.env.now(),
        tag: None,
        ledger_epoch: 0,
        entries,
        entry_count: contents.len() as u64,
        source_bytes: contents.iter().map(|c| c.len() as u64).sum(),
        stored_bytes: written.bytes,
        map_digest: String::new(),
        previous: None,
        tool: "test".to_string(),
        source: "paths".to_string(),
        warnings: 0,
    };
    t.repo.put_head(&head).unwrap();
    head
}

/// Everything that an archive holds, by path.
pub fn restore(reader: &ChunkReader, head: &Head) -> Result<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    for entry in entries(reader, &head.entries) {
        let entry = entry?;
        let mut bytes = Vec::new();
        if let Some(content) = &entry.content {
            for reference in tree_iter(reader, content) {
                bytes.extend_from_slice(&reader.read(&reference?.id, Role::Data)?);
            }
        }
        out.push((entry.display_path(), bytes));
    }
    Ok(out)
}
