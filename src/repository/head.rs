//! Heads: the small sealed objects that name archives. A head is written once and never changed; the next generation is another
//! object, so that the old one stays whole until the new one has been read back.

use super::entry::Tree;
use super::fetch::{at_once, fetch_all, hands};
use super::id::ArchiveId;
use super::sealer::How;
use super::{Repository, cbor, dataset};
use crate::crypto::seal::Purpose;
use crate::store::StoreError;
use crate::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names an archive and the top of its list of entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The archive.
    pub archive: ArchiveId,
    /// Its dataset.
    pub dataset: String,
    /// 1 when made; every re-seal makes the next.
    pub generation: u32,
    /// When the backup was taken. The same in every generation.
    pub created_at: Timestamp,
    /// When this generation was sealed.
    pub sealed_at: Timestamp,
    /// The user's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Ledger sequence up to which erasures are applied to it.
    pub ledger_epoch: u64,
    /// The list of entries.
    pub entries: Tree,
    /// How many there are.
    pub entry_count: u64,
    /// Bytes of all entries, as they would be restored.
    pub source_bytes: u64,
    /// Sealed bytes that this generation added to the repository.
    pub stored_bytes: u64,
    /// Digest of the data map that it was made with.
    pub map_digest: String,
    /// Digest of the previous generation's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Name and version of the program.
    pub tool: String,
    /// "paths", "sqlite", "command", "stdin".
    pub source: String,
    /// How many things went wrong without stopping the backup.
    #[serde(default)]
    pub warnings: u64,
}

/// A head as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The head.
    pub head: Head,
    /// BLAKE3 of the head's CBOR, hex. The same under every root key, so a rotation does not change it.
    pub digest: String,
    /// The object's key.
    pub key: String,
}

/// A dataset's heads.
#[derive(Debug, Default)]
pub struct Heads {
    /// The highest readable generation of every archive, by `created_at`, then id.
    pub latest: Vec<Listed>,
    /// Lower generations that are still stored.
    pub older: Vec<Listed>,
    /// Objects that are no readable head: key and what is wrong.
    pub damaged: Vec<(String, Error)>,
}

/// The object's key.
pub fn key(dataset: &str, archive: &ArchiveId, generation: u32) -> String {
    format!("archives/{dataset}/{archive}.{generation}")
}

pub(super) fn digest(plain: &[u8]) -> String {
    blake3::hash(plain).to_hex().to_string()
}

pub(super) fn parse_name(name: &str) -> Option<(ArchiveId, u32)> {
    let (archive, generation) = name.split_once('.')?;
    let number: u32 = generation.parse().ok()?;
    (number > 0 && number.to_string() == generation).then_some((archive.parse().ok()?, number))
}

impl Repository {
    /// Stores a head; its digest. Refused when that generation exists.
    pub fn put_head(&self, head: &Head) -> Result<String> {
        dataset::check_name(&head.dataset)?;
        if head.generation == 0 {
            return Err(Error::Refused("generations count from 1".to_string()));
        }
        let plain = cbor::encode(head)?;
        let key = key(&head.dataset, &head.archive, head.generation);
        match self.sealer().put(&*self.location().data, Purpose::Head, &key, &plain, How::IfAbsent)? {
            Some(_) => Ok(digest(&plain)),
            None => Err(Error::Refused(format!("{key} exists already"))),
        }
    }

    fn open_head(&self, key: &str, bytes: &[u8]) -> Result<Listed> {
        let plain = self.sealer().open(Purpose::Head, key, bytes)?;
        let head: Head = cbor::decode(key, &plain)?;
        if self::key(&head.dataset, &head.archive, head.generation) != key {
            return Err(Error::damaged(key, "it names another archive"));
        }
        Ok(Listed { head, digest: digest(&plain), key: key.to_string() })
    }

    /// One generation of an archive; `None` when it is not there.
    pub fn head(&self, dataset: &str, archive: &ArchiveId, generation: u32) -> Result<Option<Listed>> {
        dataset::check_name(dataset)?;
        let key = key(dataset, archive, generation);
        match self.location().data.get(&key) {
            Ok(bytes) => self.open_head(&key, &bytes).map(Some),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// All heads of a dataset. A damaged head is listed, and does not hide the others; fails only when the store does.
    pub fn heads(&self, dataset: &str) -> Result<Heads> {
        dataset::check_name(dataset)?;
        let prefix = format!("archives/{dataset}/");
        let mut out = Heads::default();
        let mut keys = Vec::new();
        for object in self.location().data.list(&prefix)? {
            match object.key.strip_prefix(&prefix).and_then(parse_name) {
                Some(_) => keys.push(object.key),
                None => out.damaged.push((object.key.clone(), Error::damaged(object.key, "its name is not a head's"))),
            }
        }
        keys.sort();
        let opened = fetch_all(&*self.location().data, &keys, |key, bytes| match bytes {
            Ok(bytes) => self.open_head(key, &bytes),
            Err(e) => Err(e.into()),
        });
        let mut latest: BTreeMap<ArchiveId, Listed> = BTreeMap::new();
        for (key, opened) in keys.into_iter().zip(opened) {
            let listed = match opened {
                Ok(listed) => listed,
                // Deleted since it was listed.
                Err(Error::Store(e)) if e.is_missing() => continue,
                Err(e @ Error::Damaged { .. }) => {
                    out.damaged.push((key, e));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let older = match latest.remove(&listed.head.archive) {
                Some(other) if other.head.generation > listed.head.generation => {
                    latest.insert(other.head.archive, other);
                    Some(listed)
                }
                other => {
                    latest.insert(listed.head.archive, listed);
                    other
                }
            };
            out.older.extend(older);
        }
        out.latest = latest.into_values().collect();
        out.latest.sort_by_key(|l| (l.head.created_at, l.head.archive));
        out.older.sort_by_key(|l| (l.head.created_at, l.head.archive, l.head.generation));
        Ok(out)
    }

    /// Stores several heads, at the same time where each has its round trips; `before` is called before each.
    pub fn put_heads(&self, heads: &[&Head], before: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        at_once(hands(&*self.location().data), heads.to_vec(), |head| {
            before()?;
            self.put_head(head)
        })?;
        Ok(())
    }

    /// Deletes several heads like [`Repository::delete_head`], at the same time where each has its round trips; `before` is called before each.
    pub fn delete_heads(&self, heads: &[&Head], before: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        at_once(hands(&*self.location().data), heads.to_vec(), |head| {
            before()?;
            self.delete_head(&head.dataset, &head.archive, head.generation)
        })?;
        Ok(())
    }

    /// Deletes one generation; no error when it is not there. One that a bucket's own lock keeps is hidden from every listing of heads,
    /// holds no keys, and is removed by the first sweep after the lock has ended.
    pub fn delete_head(&self, dataset: &str, archive: &ArchiveId, generation: u32) -> Result<()> {
        dataset::check_name(dataset)?;
        match self.location().data.delete(&key(dataset, archive, generation)) {
            Err(StoreError::Locked { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Deletes every generation of an archive, also those that cannot be read.
    pub fn delete_every_head(&self, dataset: &str, archive: &ArchiveId) -> Result<()> {
        dataset::check_name(dataset)?;
        let beginning = format!("archives/{dataset}/{archive}.");
        for object in self.location().data.list(&format!("archives/{dataset}/"))? {
            if object.key.starts_with(&beginning) {
                match self.location().data.delete(&object.key) {
                    Ok(()) | Err(StoreError::Locked { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }
}
