//! What an archive holds: entries, and the trees of chunk references that name their bytes.
//!
//! These are the plaintext shapes inside sealed chunks. They are CBOR maps with short text keys, described in `docs/format.md`
//! so that a script in another language can read them. Unknown keys are ignored by readers, so later versions may add some.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names a chunk: BLAKE3 of its plaintext, keyed per dataset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for ChunkId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChunkId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<ChunkId, D::Error> {
        Ok(ChunkId(serde_bytes::ByteArray::deserialize(d)?.into_array()))
    }
}

/// What a chunk is for; bound into its seal, so that chunks of different roles cannot be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Bytes of an entry.
    Data,
    /// Entries of an archive.
    Entries,
    /// References to chunks: an inner level of a [`Tree`].
    Index,
    /// Identity block: tokens of one data chunk.
    Marks,
}

/// One chunk of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// The chunk.
    #[serde(rename = "i")]
    pub id: ChunkId,
    /// Its length in bytes of plaintext. In an inner level of a tree: of all the data below it.
    #[serde(rename = "n")]
    pub len: u64,
    /// Its identity block, for data chunks of mapped entries.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<ChunkId>,
}

/// A sequence of chunks, as a shallow tree: with `depth` 0 the references name the data itself, with `depth` n each names an
/// index chunk (a CBOR array of [`ChunkRef`]) that holds the references of depth n - 1. Inner levels are cut content-defined,
/// so that one changed chunk changes one index chunk per level and archives share the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Tree {
    /// Levels of index chunks above the data.
    #[serde(rename = "d")]
    pub depth: u8,
    /// The top level.
    #[serde(rename = "r")]
    pub refs: Vec<ChunkRef>,
}

impl Tree {
    /// Length in bytes of plaintext of everything below.
    pub fn len(&self) -> u64 {
        self.refs.iter().fold(0, |sum, r| sum.saturating_add(r.len))
    }

    /// Whether it holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file; also a database, a dump, a command's output.
    File,
    /// A folder.
    Directory,
    /// A symbolic link; `link` is where to.
    Symlink,
    /// Another name of the file entry whose path is `link`.
    Hardlink,
    /// A named pipe.
    Fifo,
    /// A character device; `rdev` says which.
    CharDevice,
    /// A block device; `rdev` says which.
    BlockDevice,
}

/// Seconds and nanoseconds since 1970-01-01 UTC; nanoseconds count forward, also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Time(pub i64, pub u32);

/// What told a later backup that a file has not changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Inode number.
    pub ino: u64,
    /// Device number.
    pub dev: u64,
    /// Time of the last change of status.
    pub ctime: Time,
    /// Length on disk as it was read (differs from [`Entry::size`] for databases taken by snapshot).
    pub size: u64,
}

/// How a mapped entry was cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mapped {
    /// Name of the format: "csv", "ndjson", "sqlite", or "path" for an entry that is a record as a whole.
    pub format: String,
    /// What its identity blocks cover: the keys ([`crate::datamap::Probe::key`]) of the probes, in the order that the rows of the blocks count them.
    /// A probe that is not listed here must be answered by reading the entry.
    pub covers: Vec<String>,
    /// For databases: every page has been scrubbed of what is not live data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scrubbed: bool,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Path as stored, relative, `/`-separated, not necessarily UTF-8.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, where the system knew it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Group's name, where the system knew it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Time of the last modification.
    pub mtime: Time,
    /// Logical length in bytes, holes included.
    #[serde(default)]
    pub size: u64,
    /// Where a symbolic or hard link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<serde_bytes::ByteBuf>,
    /// Device (major, minor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdev: Option<(u32, u32)>,
    /// Extended attributes (name, value), sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(serde_bytes::ByteBuf, serde_bytes::ByteBuf)>,
    /// Of a sparse file: its data segments (offset, length) in order. `content` then holds only these, back to back;
    /// the rest up to `size` are holes. `None` for a file without holes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Vec<(u64, u64)>>,
    /// The bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Tree>,
    /// How it was cut, when a collection of the data map names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped: Option<Mapped>,
    /// For the next backup to see that nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// An erasure has changed this entry, so it is no longer what the source had: the next backup must read the source again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
}

impl Entry {
    /// Of nobody's, with nothing set but path and kind.
    pub fn bare(path: Vec<u8>, kind: EntryKind) -> Entry {
        Entry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            mtime: Time::default(),
            size: 0,
            link: None,
            rdev: None,
            xattrs: Vec::new(),
            segments: None,
            content: None,
            mapped: None,
            seen: None,
            edited: false,
        }
    }

    /// The path for people: invalid UTF-8 is replaced, control characters are escaped.
    pub fn display_path(&self) -> String {
        display_path(&self.path)
    }
}

/// A stored path for people: invalid UTF-8 is replaced, control characters are escaped.
pub fn display_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}
