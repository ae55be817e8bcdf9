//! A repository, a source and a clock for tests that use the library as the command line does.
#![allow(dead_code)]

pub mod shop;
pub mod weed;

use reseal::catalog::Catalog;
use reseal::config;
use reseal::crypto::kdf::KdfParams;
use reseal::crypto::secret::Secret;
use reseal::engine::session::Session;
use reseal::env::{Clock, Env, Silent, Stop, SystemRandom};
use reseal::repository::{InitOptions, Location, Repository};
use reseal::store::Store;
use reseal::store::fault::Counting;
use reseal::store::local::LocalStore;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A clock that tests move.
#[derive(Clone)]
pub struct TestClock(pub Arc<Mutex<jiff::Timestamp>>);

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A workplace in a temporary folder.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub clock: TestClock,
}

pub fn secret() -> Secret {
    Secret::passphrase("correct horse battery").unwrap()
}

impl Place {
    /// With this configuration; `repository: ./backups` and `state_dir: ./state` are set.
    pub fn new(config: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let text = format!("version: 1\nrepository: ./backups\nstate_dir: ./state\n{config}");
        std::fs::write(dir.path().join("reseal.yaml"), text).unwrap();
        let clock = TestClock(Arc::new(Mutex::new("2026-10-01T01:00:00Z".parse().unwrap())));
        Place { dir, clock }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.data(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn set_time(&self, text: &str) {
        *self.clock.0.lock().unwrap() = text.parse().unwrap();
    }

    pub fn advance_hours(&self, hours: i64) {
        let mut now = self.clock.0.lock().unwrap();
        *now += jiff::Span::new().hours(hours);
    }

    pub fn env(&self) -> Env {
        Env { clock: Arc::new(self.clock.clone()), random: Arc::new(SystemRandom), stop: Stop::default(), monitor: Arc::new(Silent) }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::open(&self.path("backups")).unwrap())
    }

    pub fn init(&self) -> Session {
        let store: Arc<dyn Store> = Arc::new(LocalStore::create(&self.path("backups")).unwrap());
        let options = InitOptions { kdf: KdfParams { memory_kib: 64, passes: 1, lanes: 1 }, ..InitOptions::default() };
        Repository::init(Location::single(store), &secret(), options, &self.env()).unwrap();
        self.open()
    }

    pub fn open(&self) -> Session {
        self.open_with(self.store())
    }

    pub fn open_with(&self, store: Arc<dyn Store>) -> Session {
        let counting = Arc::new(Counting::new(store));
        let repo = Repository::open(Location::single(counting.clone()), &secret(), &self.env()).unwrap();
        let config = config::load(&self.path("reseal.yaml")).unwrap();
        let (catalog, _) = Catalog::open(&self.path("state"), &repo.id().to_string()).unwrap();
        Session::new(config, Arc::new(repo), catalog, "tester".into(), self.env(), vec![counting]).unwrap()
    }
}

/// Every file below a folder, by relative path.
pub fn tree(dir: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(d) = stack.pop() {
        for e in std::fs::read_dir(&d).unwrap() {
            let e = e.unwrap();
            if e.file_type().unwrap().is_dir() {
                stack.push(e.path());
            } else {
                let name = e.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                out.insert(name, std::fs::read(e.path()).unwrap());
            }
        }
    }
    out
}

/// Everything below a folder that a restore has to bring back, in one comparable line per entry.
pub fn described(dir: &Path) -> std::collections::BTreeMap<String, String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut out = std::collections::BTreeMap::new();
    let mut stack = vec![dir.to_path_buf()];
    let mut inodes: std::collections::BTreeMap<u64, String> = std::collections::BTreeMap::new();
    while let Some(folder) = stack.pop() {
        let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                stack.push(path.clone());
                "folder".to_string()
            } else if kind.is_symlink() {
                format!("link to {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_fifo() {
                "pipe".to_string()
            } else {
                format!("{} bytes {}", meta.len(), blake3::hash(&std::fs::read(&path).unwrap()).to_hex())
            };
            let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
            let also = if meta.nlink() > 1 && kind.is_file() { format!(" with {first}") } else { String::new() };
            out.insert(name, format!("{what}{also} {:o} {}.{:09}", meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()));
        }
    }
    out
}
