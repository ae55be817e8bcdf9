//! The ledger: what happened, in order, and the truth about it. Every entry is an object that is written once; each holds the
//! hash of the one before, so that none can be taken out, exchanged or put in between. Cutting off the end shows by the catalog,
//! which remembers the highest entry that it has seen.

use super::fetch::fetch_all;
use super::id::RepoId;
use super::sealer::How;
use super::{Repository, cbor};
use crate::crypto::seal::Purpose;
use crate::{Error, Result};
use ciborium::Value;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use zeroize::Zeroizing;

const PREFIX: &str = "ledger/";
/// Bytes of CBOR beyond which an entry is held packed.
const PACKED: usize = 4 << 10;
/// Other writers that may be first, before appending gives up.
const ATTEMPTS: usize = 1000;

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// From 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Hash of the entry before; of the first: of the repository's id.
    pub prev: [u8; 32],
    /// BLAKE3 of the entry's CBOR.
    pub hash: [u8; 32],
    held: Held,
}

/// An entry's CBOR: a long ledger is held as it is stored, and what an entry says is read when somebody asks.
#[derive(Debug, Clone, PartialEq)]
enum Held {
    Plain(Box<[u8]>),
    /// A twentieth of it, by zstd: what was done for hundreds of people repeats the same names.
    Packed {
        frame: Box<[u8]>,
        len: usize,
    },
}

impl Held {
    fn new(plain: &[u8]) -> Held {
        match (plain.len() > PACKED).then(|| zstd::bulk::compress(plain, 1)) {
            Some(Ok(frame)) => Held::Packed { frame: frame.into(), len: plain.len() },
            _ => Held::Plain(plain.into()),
        }
    }

    fn plain(&self) -> std::io::Result<Cow<'_, [u8]>> {
        match self {
            Held::Plain(plain) => Ok(Cow::Borrowed(plain)),
            Held::Packed { frame, len } => zstd::bulk::decompress(frame, *len).map(Cow::Owned),
        }
    }
}

impl LedgerEntry {
    pub(super) fn decode(key: &str, plain: &[u8]) -> Result<LedgerEntry> {
        let Stored { seq, at, actor, prev, body: IgnoredAny } = cbor::decode_any(key, plain)?;
        Ok(LedgerEntry { seq, at, actor, prev, hash: *blake3::hash(plain).as_bytes(), held: Held::new(plain) })
    }

    /// What it says.
    pub fn body<B: DeserializeOwned>(&self) -> Result<B> {
        let name = format!("ledger entry {}", self.seq);
        let plain = self.held.plain().map_err(|e| Error::damaged(&name, e.to_string()))?;
        let stored: Stored<Value> = cbor::decode_any(&name, &plain)?;
        stored.body.deserialized().map_err(|e| Error::damaged(name, e.to_string()))
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<B> {
    seq: u64,
    at: Timestamp,
    actor: String,
    #[serde(with = "serde_bytes")]
    prev: [u8; 32],
    body: B,
}

/// The ledger as it was when it was loaded, and what was appended since.
pub struct Ledger {
    repository: Arc<Repository>,
    entries: Vec<LedgerEntry>,
    damaged: Vec<(String, Error)>,
}

fn key(seq: u64) -> String {
    format!("{PREFIX}{seq:010}")
}

fn origin(repository: &RepoId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"reseal/v1/ledger\0");
    hasher.update(&repository.0);
    *hasher.finalize().as_bytes()
}

pub(super) fn encode(seq: u64, at: Timestamp, actor: &str, prev: [u8; 32], body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>> {
    cbor::encode(&Stored { seq, at, actor: actor.to_string(), prev, body })
}

fn open(repository: &Repository, key: &str, bytes: &[u8]) -> Result<LedgerEntry> {
    let plain = repository.sealer().open(Purpose::Ledger, key, bytes)?;
    let entry = LedgerEntry::decode(key, &plain)?;
    if self::key(entry.seq) != key {
        return Err(Error::damaged(key, format!("it holds entry {}", entry.seq)));
    }
    Ok(entry)
}

impl Ledger {
    /// Loads all entries. Damaged ones do not hide the others; [`Ledger::check`] tells.
    pub fn load(repository: &Arc<Repository>) -> Result<Ledger> {
        let store = &*repository.location().keys;
        let mut keys: Vec<String> = store.list(PREFIX)?.into_iter().map(|o| o.key).collect();
        keys.sort();
        let opened = fetch_all(store, &keys, |key, bytes| match bytes {
            Ok(bytes) => open(repository, key, &bytes),
            Err(e) => Err(e.into()),
        });
        let mut ledger = Ledger { repository: repository.clone(), entries: Vec::with_capacity(keys.len()), damaged: Vec::new() };
        for (key, opened) in keys.into_iter().zip(opened) {
            match opened {
                Ok(entry) => ledger.entries.push(entry),
                Err(e @ Error::Damaged { .. }) => ledger.damaged.push((key, e)),
                Err(e) => return Err(e),
            }
        }
        ledger.entries.sort_by_key(|e| e.seq);
        Ok(ledger)
    }

    /// The readable entries, in order.
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    /// Entries that cannot be read: key and what is wrong.
    pub fn damaged(&self) -> &[(String, Error)] {
        &self.damaged
    }

    /// Sequence and hash of the last entry; 0 and the chain's origin when there is none.
    pub fn head(&self) -> (u64, [u8; 32]) {
        self.entries.last().map_or_else(|| (0, origin(self.repository.id())), |e| (e.seq, e.hash))
    }

    /// Whether the chain is whole from the first entry to the last one that is there.
    pub fn check(&self) -> Result<()> {
        if let Some((key, e)) = self.damaged.first() {
            let detail = match e {
                Error::Damaged { detail, .. } => detail.clone(),
                other => other.to_string(),
            };
            return Err(Error::damaged(key, detail));
        }
        let mut expected = (1, origin(self.repository.id()));
        for entry in &self.entries {
            if entry.seq != expected.0 {
                return Err(Error::damaged("the ledger", format!("entry {} is missing", expected.0)));
            }
            if entry.prev != expected.1 {
                return Err(Error::damaged("the ledger", format!("entry {} does not continue the one before it", entry.seq)));
            }
            expected = (entry.seq + 1, entry.hash);
        }
        Ok(())
    }

    /// Appends an entry; its number. Where another writer was first, its entries are read and ours comes after them.
    pub fn append(&mut self, actor: &str, body: &impl Serialize) -> Result<u64> {
        self.check()?;
        let repository = self.repository.clone();
        for _ in 0..ATTEMPTS {
            let (last, prev) = self.head();
            let seq = last + 1;
            let key = key(seq);
            let plain = encode(seq, repository.env().now(), actor, prev, body)?;
            if repository.sealer().put(&*repository.location().keys, Purpose::Ledger, &key, &plain, How::IfAbsent)?.is_some() {
                self.entries.push(LedgerEntry::decode(&key, &plain)?);
                return Ok(seq);
            }
            self.catch_up()?;
        }
        Err(Error::Refused("other processes keep writing to the ledger".to_string()))
    }

    /// Reads what others have appended since; how many entries.
    pub fn catch_up(&mut self) -> Result<u64> {
        let mut read = 0;
        loop {
            let key = key(self.head().0 + 1);
            let bytes = match self.repository.location().keys.get(&key) {
                Err(e) if e.is_missing() => return Ok(read),
                other => other?,
            };
            let entry = open(&self.repository, &key, &bytes)?;
            if entry.prev != self.head().1 {
                return Err(Error::damaged(key, "it does not continue the entry before it"));
            }
            self.entries.push(entry);
            read += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn entries_chain_and_read_back() {
        let t = testing::fixture();
        let mut ledger = Ledger::load(&t.repo).unwrap();
        assert_eq!(ledger.head().0, 0);
        for n in 1..=12u64 {
            assert_eq!(ledger.append("officer", &("noted", n)).unwrap(), n);
        }
        let long = vec!["the same words".to_string(); 1000];
        ledger.append("officer", &long).unwrap();
        let again = Ledger::load(&Arc::new(t.open().unwrap())).unwrap();
        again.check().unwrap();
        assert_eq!(again.entries(), ledger.entries());
        assert_eq!(again.head(), ledger.head());
        assert!(matches!(&again.entries()[12].held, Held::Packed { frame, len } if frame.len() * 20 < *len));
        assert_eq!(again.entries()[12].body::<Vec<String>>().unwrap(), long);
        assert_eq!(again.entries()[3].body::<(String, u64)>().unwrap().1, 4);
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let t = testing::fixture();
        std::thread::scope(|scope| {
            for actor in ["a", "b", "c", "d"] {
                let repo = &t.repo;
                scope.spawn(move || {
                    let mut ledger = Ledger::load(repo).unwrap();
                    (0..10).for_each(|n| assert!(ledger.append(actor, &n).unwrap() > 0));
                });
            }
        });
        let ledger = Ledger::load(&t.repo).unwrap();
        ledger.check().unwrap();
        assert_eq!(ledger.entries().len(), 40);
        for actor in ["a", "b", "c", "d"] {
            let bodies: Vec<u64> = ledger.entries().iter().filter(|e| e.actor == actor).map(|e| e.body().unwrap()).collect();
            assert_eq!(bodies, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn holes_swaps_copies_and_damage_are_noticed() {
        let keys: Vec<String> = (1..=5).map(key).collect();
        type Harm<'a> = (&'a str, &'a dyn Fn(&testing::Fixture));
        let harms: [Harm; 5] = [
            ("hole", &|t| t.keys.delete(&key(3)).unwrap()),
            ("first gone", &|t| t.keys.delete(&key(1)).unwrap()),
            ("swap", &|t| {
                let (a, b) = (t.keys.get(&keys[1]).unwrap(), t.keys.get(&keys[2]).unwrap());
                t.keys.put(&keys[1], &b).unwrap();
                t.keys.put(&keys[2], &a).unwrap();
            }),
            ("copy", &|t| t.keys.put(&key(6), &t.keys.get(&keys[4]).unwrap()).unwrap()),
            ("foreign name", &|t| t.keys.put("ledger/x", &t.keys.get(&keys[4]).unwrap()).unwrap()),
        ];
        for (name, harm) in harms {
            let t = testing::fixture();
            let mut ledger = Ledger::load(&t.repo).unwrap();
            (0..5).for_each(|n| assert!(ledger.append("a", &n).unwrap() > 0));
            harm(&t);
            let mut ledger = Ledger::load(&t.repo).unwrap();
            assert!(matches!(ledger.check(), Err(Error::Damaged { .. })), "{name}");
            assert!(ledger.append("a", &0).is_err(), "{name}: nothing is appended to a broken chain");
        }
    }
}
