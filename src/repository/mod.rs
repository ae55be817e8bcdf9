//! The repository: heads, packs, key sheets, slots, ledger, leases; their bytes and the orders that keep them safe.
//! `docs/format.md` is the format's truth; what is here must agree with it (`scripts/recover.py` reads by that document alone).
//!
//! | file | idea |
//! |---|---|
//! | [`params`] | `reseal.json`: version, id, sizes |
//! | [`sealer`] | seals and opens objects under the current root, also while another process rotates it |
//! | [`dataset`] | a dataset's secret and what is derived from it |
//! | [`head`] | names an archive |
//! | [`sheet`], [`index`] | where chunks lie and their keys: of one pack, of a dataset |
//! | [`read`], [`write`] | chunks out, chunks in |
//! | [`tree`], [`list`] | sequences of chunks, lists of entries |
//! | [`live`], [`sweep`] | which chunks archives need; destroys the others: key first, then bytes |
//! | [`slots`] | who can open the repository; rotation of the root |
//! | [`ledger`] | what happened, chained |
//! | [`lease`] | one writer at a time |
//! | [`export`] | the keys' side in one file |
//! | [`host`], [`intake`], [`known`] | hosts that only add archives: their keys, what they hand in, what they need not |

mod bulk;
mod chunk;
pub mod dataset;
pub mod entry;
pub mod export;
pub mod head;
pub mod host;
mod id;
pub mod index;
pub mod intake;
pub mod known;
pub mod lease;
pub mod ledger;
pub mod list;
pub mod live;
pub mod params;
pub mod read;
pub mod sealer;
pub mod sheet;
pub mod slots;
pub mod sweep;
pub mod tree;
pub mod write;

mod cbor;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod recover_test;
#[cfg(test)]
pub(crate) mod testing;

use crate::crypto::kdf::KdfParams;
use crate::crypto::seal::Purpose;
use crate::crypto::secret::{Key, Secret};
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::crypto::slot::{Keyring, NewSlot, Phase, Slot};
use crate::env::{Env, random_bytes};
use crate::store::{Store, StoreError};
use crate::{Error, Result};
use sealer::{How, Sealer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

pub use dataset::Dataset;
pub(crate) use fetch::{at_once, hands};
pub use head::{Head, Heads, Listed};
pub use id::{ArchiveId, HostId, PackId, RepoId, SlotId};
pub use index::{ChunkIndex, PackInfo, Place};
pub use lease::Lease;
pub use ledger::{Ledger, LedgerEntry};
pub use list::{EntryListWriter, ListChunk, SharedEntries, entries, list_chunks, shared_entries};
pub use live::Live;
pub use params::{Cut, FORMAT_VERSION, Params, RUN, Sizes};
pub use read::ChunkReader;
pub use slots::{Rotated, SlotInfo};
pub use sweep::{DropOptions, Dropped, drop_chunks, drop_chunks_while};
pub use tree::{TreeWriter, tree_iter};
pub use write::{Added, ChunkWriter, WriteOptions, Written};

/// Where a repository lives: located, not opened.
#[derive(Clone)]
pub struct Location {
    /// Keeps `reseal.json`, packs and heads.
    pub data: Arc<dyn Store>,
    /// Keeps everything with keys: slots, datasets, sheets, ledger, requests, leases. Often the same store.
    pub keys: Arc<dyn Store>,
}

impl Location {
    /// Both on one store.
    pub fn single(store: Arc<dyn Store>) -> Location {
        Location { data: store.clone(), keys: store }
    }
}

/// How a repository is made.
pub struct InitOptions {
    /// Costs for a passphrase.
    pub kdf: KdfParams,
    /// Name of the first key slot.
    pub label: String,
    /// Sizes of packs and chunks.
    pub sizes: Sizes,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions { kdf: KdfParams::default(), label: "first".to_string(), sizes: Sizes::default() }
    }
}

/// The plaintext of `signing/<repository id>`.
#[derive(Serialize, Deserialize)]
struct SigningObject {
    /// The Ed25519 seed.
    #[serde(with = "serde_bytes")]
    seed: [u8; 32],
    /// BLAKE3 of `reseal.json`'s bytes: it cannot be altered unnoticed.
    #[serde(with = "serde_bytes")]
    params: [u8; 32],
}

impl Drop for SigningObject {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.seed);
    }
}

/// An opened repository.
pub struct Repository {
    location: Location,
    env: Env,
    params: Params,
    sealer: Arc<Sealer>,
    signing: SigningKey,
    datasets: Mutex<HashMap<String, Arc<Dataset>>>,
}

fn signing_key(id: &RepoId) -> String {
    format!("signing/{id}")
}

impl Repository {
    /// Makes a repository. Refused where one is, or where something else is. `reseal.json` is written last, so that a crash
    /// before leaves nothing that looks like a repository.
    pub fn init(location: Location, secret: &Secret, options: InitOptions, env: &Env) -> Result<Repository> {
        options.kdf.check()?;
        options.sizes.check().map_err(Error::Usage)?;
        refuse_taken(&location)?;
        let id = RepoId(random_bytes(&*env.random)?);
        let signing = SigningKey::generate(&*env.random)?;
        let params = Params::new(id, env.now(), signing.verifying_key(), options.sizes);
        let json = params.encode()?;
        let keyring = Keyring { phase: Phase::Stable, roots: vec![Key::random(&*env.random)?] };
        let slot_id = SlotId(random_bytes(&*env.random)?);
        let slot_key = slots::slot_key(&slot_id);
        let label = match keyring.roots.first() {
            Some(root) => slots::seal_label(root, &id, &slot_key, &options.label, env)?,
            None => Vec::new(),
        };
        let new = NewSlot {
            repository: id.0,
            id: slot_id.0,
            created: env.now(),
            secret,
            kdf: options.kdf,
            signing: &signing,
            keyring: &keyring,
            label,
        };
        let slot = Slot::create(new, &*env.random)?;
        location.keys.put(&slot_key, &slot.encode()?)?;
        let unlocked = slot.unlock(secret)?.ok_or(Error::WrongSecret { slots: 1 })?;
        let sealer = Sealer::new(id, location.keys.clone(), env.random.clone(), slot, unlocked)?;
        let object = SigningObject { seed: *signing.seed(), params: *blake3::hash(&json).as_bytes() };
        sealer.put(&*location.keys, Purpose::Signing, &signing_key(&id), &cbor::encode(&object)?, How::Put)?;
        if !location.data.put_if_absent(params::KEY, &json)? {
            location.keys.delete(&slot_key)?;
            location.keys.delete(&signing_key(&id))?;
            return Err(Error::Refused(format!("{}: somebody else made a repository here at the same time", location.data.describe())));
        }
        Ok(Repository { location, env: env.clone(), params, sealer: Arc::new(sealer), signing, datasets: Mutex::default() })
    }

    /// Opens a repository. Fails with [`Error::WrongSecret`] when no slot opens, with [`Error::Damaged`] when one should but its
    /// contents do not fit together, with [`Error::Refused`] for a format version that this program does not know.
    pub fn open(location: Location, secret: &Secret, env: &Env) -> Result<Repository> {
        let json = match location.data.get(params::KEY) {
            Err(e) if e.is_missing() => {
                return Err(Error::Refused(format!("no repository at {}: {} is missing", location.data.describe(), params::KEY)));
            }
            other => other?,
        };
        let params = Params::decode(&json)?;
        let sealer = slots::unlock(&location, &params.id, secret, env)?;
        let key = signing_key(&params.id);
        let object: SigningObject = cbor::decode(&key, &sealer.get(&*location.keys, Purpose::Signing, &key)?)?;
        let signing = SigningKey::from_seed(&object.seed);
        let genuine = object.params == *blake3::hash(&json).as_bytes()
            && signing.verifying_key() == params.verifying_key
            && *sealer.verifying() == params.verifying_key;
        if !genuine {
            return Err(Error::damaged(params::KEY, "it is not what the sealed copy of its digest says"));
        }
        Ok(Repository { location, env: env.clone(), params, sealer: Arc::new(sealer), signing, datasets: Mutex::default() })
    }

    /// Whether a repository is just made and nobody has written into it, not even that it was made: what an interrupted `init` leaves.
    pub fn is_unused(location: &Location) -> Result<bool> {
        for (store, folder) in
            [(&location.keys, "ledger/"), (&location.keys, "datasets/"), (&location.data, "archives/"), (&location.data, "packs/")]
        {
            if !store.list(folder)?.is_empty() {
                return Ok(false);
            }
        }
        // Without its slots it is not new: its keys' side is gone.
        Ok(!location.keys.list("slots/")?.is_empty())
    }

    /// The repository's id.
    pub fn id(&self) -> &RepoId {
        &self.params.id
    }

    /// Version and sizes.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where it lives.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Clock, randomness, stop and monitor.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The key that signs certificates.
    pub fn signing_key(&self) -> Result<SigningKey> {
        Ok(SigningKey::from_seed(&self.signing.seed()))
    }

    /// The public half, also in `reseal.json`.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.signing.verifying_key()
    }

    pub(crate) fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    fn datasets_cache(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Dataset>>> {
        self.datasets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the datasets, sorted.
    pub fn datasets(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            self.location.keys.list("datasets/")?.into_iter().filter_map(|o| Some(o.key.strip_prefix("datasets/")?.to_string())).collect();
        names.retain(|n| dataset::check_name(n).is_ok());
        names.sort();
        Ok(names)
    }

    /// A dataset by name; `None` when there is none.
    pub fn dataset(&self, name: &str) -> Result<Option<Arc<Dataset>>> {
        dataset::check_name(name)?;
        if let Some(known) = self.datasets_cache().get(name) {
            return Ok(Some(known.clone()));
        }
        let key = dataset::key(name);
        let plain = match self.sealer.get(&*self.location.keys, Purpose::Dataset, &key) {
            Err(Error::Store(e)) if e.is_missing() => return Ok(None),
            other => other?,
        };
        let dataset = Arc::new(Dataset::decode(name, &key, &plain)?);
        self.datasets_cache().insert(name.to_string(), dataset.clone());
        Ok(Some(dataset))
    }

    /// The dataset of this name, made when there is none.
    pub fn create_dataset(&self, name: &str) -> Result<Arc<Dataset>> {
        if let Some(there) = self.dataset(name)? {
            return Ok(there);
        }
        let plain = Dataset::generate(name, &self.env)?;
        self.sealer.put(&*self.location.keys, Purpose::Dataset, &dataset::key(name), &plain, How::IfAbsent)?;
        // Read back: another process may have been first, and then its secret counts.
        self.dataset(name)?.ok_or_else(|| Error::damaged(dataset::key(name), "it was written and is not there"))
    }

    /// Destroys a whole dataset: heads, then key sheets and the dataset's secret, then packs. The caller holds its lease. What a lock
    /// keeps is ciphertext without keys.
    pub fn shred_dataset(&self, name: &str) -> Result<()> {
        dataset::check_name(name)?;
        let (data, keys) = (&self.location.data, &self.location.keys);
        let all = |store: &Arc<dyn Store>, prefix: String| -> Result<()> {
            let found: BTreeSet<String> = store.list_versions(&prefix)?.into_iter().map(|o| o.key).collect();
            let found: Vec<String> = found.into_iter().collect();
            match store.delete_many(&found).into_iter().find(|(_, e)| !matches!(e, StoreError::Locked { .. })) {
                Some((_, error)) => Err(error.into()),
                None => Ok(()),
            }
        };
        all(data, format!("archives/{name}/"))?;
        for folder in ["sheets", "intake", "known"] {
            all(keys, format!("{folder}/{name}/"))?;
        }
        keys.delete(&host::put_keys_key(name))?;
        keys.delete(&dataset::key(name))?;
        self.datasets_cache().remove(name);
        all(data, format!("packs/{name}/"))
    }

    /// Stores a sealed object on the keys store, replacing an older one. `purpose` is "request", "certificate" or "record" and is
    /// needed again to open it; `key` lies under `requests/`, `certificates/` or `records/`, where a rotation finds it.
    pub fn put_sealed(&self, purpose: &str, key: &str, plain: &[u8]) -> Result<()> {
        self.sealer.put(&*self.location.keys, engine_purpose(purpose, key)?, key, plain, How::Put)?;
        Ok(())
    }

    /// Like [`Repository::put_sealed`], unless an object is there; `false` when one is.
    pub fn put_sealed_if_absent(&self, purpose: &str, key: &str, plain: &[u8]) -> Result<bool> {
        Ok(self.sealer.put(&*self.location.keys, engine_purpose(purpose, key)?, key, plain, How::IfAbsent)?.is_some())
    }

    /// Opens what [`Repository::put_sealed`] stored; `None` when it is not there.
    pub fn get_sealed(&self, purpose: &str, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        match self.sealer.get(&*self.location.keys, engine_purpose(purpose, key)?, key) {
            Err(Error::Store(e)) if e.is_missing() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Deletes it; no error when it is not there.
    pub fn delete_sealed(&self, key: &str) -> Result<()> {
        engine_purpose("record", key)?;
        Ok(self.location.keys.delete(key)?)
    }

    /// Keys of the objects on the keys store under a prefix that ends in `/`, sorted.
    pub fn list_sealed(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys: Vec<String> = self.location.keys.list(prefix)?.into_iter().map(|o| o.key).collect();
        keys.sort();
        Ok(keys)
    }
}

/// Only what a rotation of the root finds again may be sealed under it.
fn engine_purpose(name: &str, key: &str) -> Result<Purpose> {
    let purpose = match name {
        "request" => Purpose::Request,
        "certificate" => Purpose::Certificate,
        "record" => Purpose::Record,
        _ => return Err(Error::Usage(format!("there are no sealed objects of the sort {name:?}"))),
    };
    if slots::ENGINE_PREFIXES.iter().any(|p| key.starts_with(p)) {
        Ok(purpose)
    } else {
        Err(Error::Usage(format!("a sealed object at {key}: only {} are possible", slots::ENGINE_PREFIXES.join(", "))))
    }
}

/// A directory that holds anything but the traces of an interrupted `init` is not ours to fill.
fn refuse_taken(location: &Location) -> Result<()> {
    for store in [&location.data, &location.keys] {
        for object in store.list("")? {
            if object.key == params::KEY {
                return Err(Error::Refused(format!("{} is a repository already", store.describe())));
            }
            if !object.key.starts_with("slots/") && !object.key.starts_with("signing/") {
                return Err(Error::Refused(format!("{} is not empty: {} is there", store.describe(), object.key)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
