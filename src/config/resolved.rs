//! The configuration as the rest of the program uses it: defaults filled in, paths absolute or relative to the file, everything checked.

use crate::datamap::{DataMap, EntryPattern};
use crate::policy::{ErasurePolicy, Period, Retention};
use crate::store::s3;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// Where archives and packs are.
    pub repository: RepositoryAt,
    /// Where keys, ledger and requests are; `None`: in the repository.
    pub keys: Option<RepositoryAt>,
    /// Folder of the local catalog; `None`: by the system's conventions.
    pub state_dir: Option<PathBuf>,
    /// Who acts, for the audit log; `None`: user and host.
    pub actor: Option<String>,
    /// For long work, in bytes.
    pub memory: u64,
    /// zstd level.
    pub compression_level: i32,
    /// By name.
    pub datasets: BTreeMap<String, Dataset>,
}

/// Where a repository, or its keys, are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryAt {
    /// A folder.
    Local(PathBuf),
    /// A bucket. Locks are not in it: they belong to datasets.
    S3(Box<s3::Options>),
}

impl std::fmt::Display for RepositoryAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RepositoryAt::Local(path) => write!(f, "{}", path.display()),
            RepositoryAt::S3(at) => write!(f, "{at}"),
        }
    }
}

/// A dataset: one source, its archives' retention, and whose data is in it.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name: `[a-z0-9][a-z0-9_-]{0,63}`.
    pub name: String,
    /// Where its backups come from.
    pub source: Source,
    /// Which archives stay.
    pub retention: Retention,
    /// When and how people are erased.
    pub erasure: ErasurePolicy,
    /// Restoring for real, regularly.
    pub drill: Option<Drill>,
    /// Lock of its packs.
    pub lock: Option<s3::Lock>,
    /// The region that its data must stay in.
    pub region: Option<String>,
    /// Whose records are whose.
    pub map: DataMap,
    /// BLAKE3 of the map's canonical form, in hex; changes exactly when the map says something else.
    pub map_digest: String,
}

/// Where a dataset's backups come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files and folders.
    Paths {
        /// What is backed up, and what its entries are called.
        roots: Vec<Root>,
        /// Only entries that match one of these; empty: all. Folders are always entered.
        include: Vec<EntryPattern>,
        /// Not these, nor what is below them.
        exclude: Vec<EntryPattern>,
        /// Skip the content of folders marked by a `CACHEDIR.TAG`.
        exclude_caches: bool,
        /// Do not enter other file systems.
        one_file_system: bool,
    },
    /// A database file, as a consistent snapshot.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Name of the entry.
        entry: String,
    },
    /// Standard output of a command.
    Command {
        /// Program and arguments; a command written as one text is `sh -c` and that text.
        argv: Vec<String>,
        /// Name of the entry.
        entry: String,
    },
    /// Standard input.
    Stdin {
        /// Name of the entry.
        entry: String,
    },
}

/// A file or folder that is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where it is.
    pub path: PathBuf,
    /// What its entry is called: the path as written, without a leading `./`, `/` or drive, like tar does; empty for `.`: then its
    /// content stands at the top. `./data` gives `data` and `data/…`.
    pub stored: String,
}

/// Restoring for real, regularly.
#[derive(Debug, Clone)]
pub struct Drill {
    /// How often.
    pub every: Period,
    /// What must hold of what was restored.
    pub checks: Vec<DrillCheck>,
}

/// Something that must hold of what was restored.
#[derive(Debug, Clone)]
pub struct DrillCheck {
    /// The entry that must be there.
    pub entry: EntryPattern,
    /// A query on it, as a database, that gives one number.
    pub sql: Option<String>,
    /// At least this: the query's number, or without one the entry's bytes.
    pub min: Option<i64>,
    /// At most this.
    pub max: Option<i64>,
}

impl Config {
    /// Folders that belong to reseal itself and are never backed up: the repository, its keys, the catalog.
    pub fn own_folders(&self) -> Vec<PathBuf> {
        let local = |at: &RepositoryAt| match at {
            RepositoryAt::Local(path) => Some(path.clone()),
            RepositoryAt::S3(_) => None,
        };
        [local(&self.repository), self.keys.as_ref().and_then(local), self.state_dir.clone()].into_iter().flatten().collect()
    }

    /// The folder of the configuration file: where commands run.
    pub fn folder(&self) -> Option<PathBuf> {
        self.path.parent().filter(|p| !p.as_os_str().is_empty()).map(PathBuf::from)
    }
}
