//! The object store: the few verbs that every place to keep archives must offer, and nothing about what is kept.
//!
//! One trait, one conformance suite (`store::conformance`), so that a local directory and a bucket behave alike.
//! Keys are `/`-separated, relative, of `[A-Za-z0-9._-]` segments; a store refuses others.
//!
//! The trait is blocking: the engine's work is CPU-bound and runs on threads. A remote store keeps its own runtime inside.

#[cfg(test)]
pub(crate) mod conformance;
mod direct;
pub mod fault;
pub mod local;
pub mod memory;
pub mod process;
pub mod s3;

use std::fmt;
use std::sync::Arc;

/// What a store answers instead of data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such object.
    #[error("{store}: no object {key}")]
    Missing {
        /// [`Store::describe`].
        store: String,
        /// Key of the object.
        key: String,
    },
    /// The object is shorter than the range asked for.
    #[error("{store}: {key} is {actual} bytes long, at least {expected} were expected")]
    Short {
        /// [`Store::describe`].
        store: String,
        /// Key of the object.
        key: String,
        /// Bytes it must have for the range to exist.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// The transport or the file system failed.
    #[error("{store}: cannot {action} {key}: {source}")]
    Failed {
        /// [`Store::describe`].
        store: String,
        /// "read", "write", "delete", "list" …
        action: &'static str,
        /// Key or prefix.
        key: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A lock that cannot be broken keeps it. It is hidden from [`Store::list`].
    #[error("{store}: {key} is locked {}", until_when(.until))]
    Locked {
        /// [`Store::describe`].
        store: String,
        /// Key of the object.
        key: String,
        /// When the lock ends; `None`: when somebody ends a legal hold.
        until: Option<jiff::Timestamp>,
    },
    /// A key that no store takes.
    #[error("not a key of the object store: {0:?}")]
    BadKey(String),
}

impl StoreError {
    /// Whether the object simply is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, StoreError::Missing { .. })
    }

    /// Whether the whole place is not there: a bucket that was removed, or never made.
    pub fn is_place_missing(&self) -> bool {
        matches!(self, StoreError::Failed { source, .. } if s3::is_bucket_missing(&**source))
    }
}

/// A store's result.
pub type StoreResult<T> = std::result::Result<T, StoreError>;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// The version, on stores that keep versions; `None` is the only one there is.
    pub version: Option<String>,
    /// A delete marker of a versioned store (length 0).
    pub is_delete_marker: bool,
    /// What a reader gets; `false`: an older version, or what is hidden behind a delete marker.
    pub is_latest: bool,
}

/// Requests to a remote service, attempts included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Reads of objects or parts of them.
    pub get: u64,
    /// Questions about objects.
    pub head: u64,
    /// Writes, parts of them, and what begins and ends them.
    pub put: u64,
    /// Pages of listings.
    pub list: u64,
    /// Removals; one may name a thousand objects.
    pub delete: u64,
    /// Questions about the bucket.
    pub other: u64,
    /// How many of all these were made again because an earlier attempt failed.
    pub again: u64,
}

/// Something that a store does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Keeping versions of what is replaced or deleted.
    Versions,
    /// Moving and expiring objects.
    Lifecycle,
    /// Copying objects elsewhere.
    Replication,
    /// Locking objects.
    Locks,
}

impl Aspect {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Versions => "versions",
            Aspect::Lifecycle => "lifecycle",
            Aspect::Replication => "replication",
            Aspect::Locks => "locks",
        }
    }
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Looked at, and nothing to say.
    Fine,
    /// Good to know.
    Note,
    /// Keeps what was erased, or loses what was not.
    Warning,
    /// Could not be read.
    Unknown,
    /// The service does not answer the question at all: unknown, and nothing can be granted to change that.
    NotOffered,
}

impl Level {
    /// For scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Fine => "fine",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Unknown | Level::NotOffered => "UNKNOWN",
        }
    }
}

/// What a store does by itself with what is kept in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// [`Store::describe`].
    pub place: String,
    /// What it is about.
    pub aspect: Aspect,
    /// What it means.
    pub level: Level,
    /// In words.
    pub text: String,
}

/// What became of a request to wipe byte ranges in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiped {
    /// The bytes are gone (a hole or zeros), durably.
    Done,
    /// This store cannot change objects in place; rewrite the object instead.
    Unsupported,
}

/// A place that keeps objects.
pub trait Store: Send + Sync {
    /// For messages: the directory or URL.
    fn describe(&self) -> String;
    /// The whole object.
    fn get(&self, key: &str) -> StoreResult<Vec<u8>>;
    /// `len` bytes from `offset`; [`StoreError::Short`] when the object ends before.
    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>>;
    /// Like [`Store::get_range`], into memory that is used again: what it holds afterwards, unless this fails, is what was asked for.
    fn get_range_into(&self, key: &str, offset: u64, len: u64, into: &mut Vec<u8>) -> StoreResult<()> {
        *into = self.get_range(key, offset, len)?;
        Ok(())
    }
    /// Stores the object durably, replacing an older one atomically: a reader sees the old or the new bytes, also after a crash.
    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()>;
    /// Like [`Store::put`], for large objects: a store that sends on other threads shares the bytes with them instead of copying them.
    fn put_shared(&self, key: &str, bytes: &Arc<Vec<u8>>) -> StoreResult<()> {
        self.put(key, bytes)
    }
    /// Stores the object durably unless one is there; `false` when one is. Atomic among any number of writers.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool>;
    /// Replaces the object if it still has exactly the bytes `expected`; `false` when it has others or is gone. Atomic among writers.
    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool>;
    /// Removes the object, with every version of it. Removing what is not there is no error.
    fn delete(&self, key: &str) -> StoreResult<()>;
    /// Removes many objects like [`Store::delete`]; gives those that could not be removed, with why.
    fn delete_many(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        keys.iter().filter_map(|key| Some((key.clone(), self.delete(key).err()?))).collect()
    }
    /// Removes what is behind the current version of these objects, and leaves alone those that have none; gives those of which something
    /// could not be removed, with why. Only on stores that keep versions there is anything behind.
    fn delete_old(&self, _keys: &[String]) -> Vec<(String, StoreError)> {
        Vec::new()
    }
    /// The current objects whose key starts with `prefix` (a whole number of segments, ending in `/`, or empty), in no particular order.
    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>>;
    /// Like [`Store::list`], with every version and delete marker: what proves that nothing is left.
    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>>;
    /// Wipes byte ranges (offset, length) of an object in place, so that only what is dead is touched.
    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped>;
    /// Removes what interrupted writes left behind (temporary files, multipart uploads, versions); how many. What is hidden, and has one of the
    /// keys to `spare`, stays: somebody may bring it back.
    fn remove_leftovers(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64>;
    /// What the store does by itself with what is kept in it: what may keep alive what was erased. Nothing for a folder.
    fn inspect(&self) -> Vec<Finding> {
        Vec::new()
    }
    /// How many threads reading from it or writing to it make it as fast as it gets.
    fn parallel(&self) -> usize {
        std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
    }
    /// Requests to a service so far; `None` where there is none.
    fn requests(&self) -> Option<Requests> {
        None
    }
    /// Whether there is a service, so that each request has its price.
    fn is_remote(&self) -> bool {
        self.requests().is_some()
    }
}

fn until_when(until: &Option<jiff::Timestamp>) -> String {
    until.map_or_else(|| "until its legal hold is ended".to_string(), |t| format!("until {t}"))
}

/// Fails for keys that could leave the store's root or that some store cannot keep.
pub fn check_key(key: &str) -> StoreResult<()> {
    let good = !key.is_empty()
        && key.len() <= 900
        && key.split('/').all(|s| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.len() <= 200
                && !s.starts_with(".tmp-")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        });
    if good { Ok(()) } else { Err(StoreError::BadKey(key.to_string())) }
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.describe())
    }
}
