//! Hosts that only add archives. Such a host's key file names chunks, cuts and makes tokens like the repository does, and signs what it hands in;
//! it holds no root, no secret of a dataset and no key of a chunk. What it writes it seals to the dataset's *put key*, whose private half is sealed
//! under the root.
//!
//! Put keys are short-lived: once everything that was sealed to one is admitted, its private half is destroyed. What a versioned store, a snapshot or
//! a replica keeps of the intake then opens for nobody: otherwise every chunk key that an erasure destroys would live on in an old intake object.

use super::dataset::Dataset;
use super::id::{HostId, RepoId};
use super::sealer::How;
use super::{Repository, cbor, dataset};
use crate::crypto::letter;
use crate::crypto::seal::Purpose;
use crate::crypto::secret::Key;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::env::random_bytes;
use crate::store::Store;
use crate::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

const FILE_PREFIX: &str = "RESEAL-PUT-KEY-1:";
const HOSTS: &str = "records/hosts/";
const PUT_KEY_DOMAIN: &[u8] = b"reseal/v1/put-key\0";

/// A host's key, as its file holds it. No `Debug`, no `Clone`.
pub struct HostKey {
    /// Its id.
    pub id: HostId,
    /// The host's name, as the ledger calls it.
    pub label: String,
    /// The repository.
    pub repository: RepoId,
    /// BLAKE3 of `reseal.json`.
    pub(super) params: [u8; 32],
    /// Whose word it takes for the put key and for what is known.
    pub(super) verifying: VerifyingKey,
    pub(super) signing: SigningKey,
    pub(super) datasets: BTreeMap<String, Arc<Dataset>>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: HostId,
    label: String,
    repository: RepoId,
    #[serde(with = "serde_bytes")]
    params: [u8; 32],
    #[serde(with = "serde_bytes")]
    verifying: [u8; 32],
    #[serde(with = "serde_bytes")]
    seed: [u8; 32],
    datasets: Vec<(String, ByteBuf)>,
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.seed.zeroize();
        self.datasets.iter_mut().for_each(|(_, part)| part.zeroize());
    }
}

/// Whether a key file's text is a put-only host's.
pub fn is_host_key(text: &str) -> bool {
    text.lines().map(str::trim).any(|l| l.starts_with(FILE_PREFIX))
}

impl HostKey {
    /// The file's text: comments, then the prefix and hex of CBOR on one line.
    pub fn encode(&self) -> Result<Zeroizing<String>> {
        let datasets = self.datasets.iter().map(|(name, d)| (name.clone(), ByteBuf::from(d.host_part().to_vec()))).collect();
        let stored = StoredKey {
            id: self.id,
            label: self.label.clone(),
            repository: self.repository,
            params: self.params,
            verifying: self.verifying.to_bytes(),
            seed: *self.signing.seed(),
            datasets,
        };
        let plain = cbor::encode(&stored)?;
        let mut text = Zeroizing::new(String::with_capacity(2 * plain.len() + 256));
        text.push_str("# adds archives to a reseal repository; opens and deletes none\n");
        text.push_str(FILE_PREFIX);
        for byte in plain.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text.push('\n');
        Ok(text)
    }

    /// Reads the file's text; fails with [`Error::Usage`] when it is none.
    pub fn parse(text: &str) -> Result<HostKey> {
        let bad = || Error::Usage(format!("not a put-only key: one line of {FILE_PREFIX} and hex digits was expected"));
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let digits = lines.next().and_then(|l| l.strip_prefix(FILE_PREFIX)).ok_or_else(bad)?;
        if lines.next().is_some() {
            return Err(bad());
        }
        let plain = Zeroizing::new(hex::decode(digits).map_err(|_| bad())?);
        let stored: StoredKey = cbor::decode("the key file", &plain).map_err(|_| bad())?;
        let mut datasets = BTreeMap::new();
        for (name, part) in &stored.datasets {
            dataset::check_name(name)?;
            datasets.insert(name.clone(), Arc::new(Dataset::from_host_part(name, part).ok_or_else(bad)?));
        }
        Ok(HostKey {
            id: stored.id,
            label: stored.label.clone(),
            repository: stored.repository,
            params: stored.params,
            verifying: VerifyingKey::from_bytes(&stored.verifying).ok_or_else(bad)?,
            signing: SigningKey::from_seed(&stored.seed),
            datasets,
        })
    }

    /// The datasets that it may add to.
    pub fn datasets(&self) -> impl Iterator<Item = &str> {
        self.datasets.keys().map(String::as_str)
    }
}

/// What the repository keeps about a host: sealed, `records/hosts/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its key's id.
    pub id: HostId,
    /// Its name.
    pub label: String,
    /// Public half of what it signs with.
    #[serde(with = "serde_bytes")]
    verifying: [u8; 32],
    /// Datasets that it may add to.
    pub datasets: Vec<String>,
    /// When its key was made.
    pub created: Timestamp,
    /// When it was removed: nothing that is admitted later is taken from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Timestamp>,
}

impl Host {
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        VerifyingKey::from_bytes(&self.verifying).is_some_and(|k| k.verify(message, signature))
    }
}

/// Private put keys of a dataset; the first is the published one.
#[derive(Serialize, Deserialize)]
struct PutKeys(Vec<ByteBuf>);

impl Drop for PutKeys {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|k| k.zeroize());
    }
}

/// What is published: `known/<dataset>/put`.
#[derive(Serialize, Deserialize)]
struct Published {
    #[serde(with = "serde_bytes")]
    public: [u8; 32],
    #[serde(with = "serde_bytes")]
    signature: [u8; 64],
}

pub(super) fn put_keys_key(dataset: &str) -> String {
    format!("records/put-keys/{dataset}")
}

fn published_key(dataset: &str) -> String {
    format!("known/{dataset}/put")
}

fn published_message(repository: &RepoId, dataset: &str, public: &[u8; 32]) -> Vec<u8> {
    [PUT_KEY_DOMAIN, &repository.0, published_key(dataset).as_bytes(), public].concat()
}

fn host_key(id: &HostId) -> String {
    format!("{HOSTS}{id}")
}

/// The put key of a dataset, as a host reads it: believed on the repository's signature only.
pub(super) fn published(keys: &dyn Store, host: &HostKey, dataset: &str) -> Result<[u8; 32]> {
    let key = published_key(dataset);
    let bytes = match keys.get(&key) {
        Err(e) if e.is_missing() => {
            return Err(Error::Refused(format!(
                "dataset {dataset} takes nothing from put-only hosts: {key} is missing at {}. If it took something before, the place is another one, or \
                 has lost what it held",
                keys.describe()
            )));
        }
        other => other?,
    };
    let published: Published = cbor::decode(&key, &bytes)?;
    if host.verifying.verify(&published_message(&host.repository, dataset, &published.public), &published.signature) {
        Ok(published.public)
    } else {
        Err(Error::damaged(key, "the repository did not sign it"))
    }
}

impl Repository {
    /// Makes a key for a host that only adds archives to these datasets, and registers it. The caller writes the file and records it; the datasets must
    /// be there and their put keys published ([`Repository::publish_put_key`]).
    pub fn make_host(&self, label: &str, datasets: &[String]) -> Result<HostKey> {
        let random = &*self.env().random;
        let mut opened = BTreeMap::new();
        for name in datasets {
            let dataset = self.dataset(name)?.ok_or_else(|| Error::Usage(format!("there is no dataset {name}")))?;
            opened.insert(name.clone(), dataset);
        }
        let json = self.location().data.get(super::params::KEY)?;
        let key = HostKey {
            id: HostId(random_bytes(random)?),
            label: label.to_string(),
            repository: *self.id(),
            params: *blake3::hash(&json).as_bytes(),
            verifying: self.verifying_key(),
            signing: SigningKey::generate(random)?,
            datasets: opened,
        };
        self.put_host(&Host {
            id: key.id,
            label: key.label.clone(),
            verifying: key.signing.verifying_key().to_bytes(),
            datasets: datasets.to_vec(),
            created: self.env().now(),
            removed: None,
        })?;
        Ok(key)
    }

    fn put_host(&self, host: &Host) -> Result<()> {
        self.put_sealed("record", &host_key(&host.id), &cbor::encode(host)?)
    }

    /// A host by its key's id; `None` when no such key was ever made here.
    pub fn host(&self, id: &HostId) -> Result<Option<Host>> {
        let key = host_key(id);
        self.get_sealed("record", &key)?.map(|plain| cbor::decode(&key, &plain)).transpose()
    }

    /// The hosts, removed ones too, by age.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let mut out = Vec::new();
        for key in self.list_sealed(HOSTS)? {
            if let Some(plain) = self.get_sealed("record", &key)? {
                out.push(cbor::decode::<Host>(&key, &plain)?);
            }
        }
        out.sort_by_key(|h| (h.created, h.id));
        Ok(out)
    }

    /// Takes nothing from a host any more.
    pub fn remove_host(&self, id: &HostId) -> Result<Host> {
        let mut host = self.host(id)?.ok_or_else(|| Error::Usage(format!("there is no put-only key {id}")))?;
        host.removed.get_or_insert(self.env().now());
        self.put_host(&host)?;
        Ok(host)
    }

    /// Whether hosts may add to the dataset.
    pub fn takes_from_hosts(&self, dataset: &str) -> Result<bool> {
        Ok(self.put_keys(dataset)?.is_some())
    }

    fn put_keys(&self, dataset: &str) -> Result<Option<PutKeys>> {
        let key = put_keys_key(dataset);
        self.get_sealed("record", &key)?.map(|plain| cbor::decode(&key, &plain)).transpose()
    }

    /// The private put keys of a dataset, the published one first.
    pub(super) fn private_put_keys(&self, dataset: &str) -> Result<Vec<Key>> {
        Ok(self.put_keys(dataset)?.map(|k| k.0.iter().filter_map(|k| Key::from_slice(k)).collect()).unwrap_or_default())
    }

    fn store_put_keys(&self, dataset: &str, keys: &PutKeys) -> Result<()> {
        let plain = cbor::encode(keys)?;
        self.sealer().put(&*self.location().keys, Purpose::Record, &put_keys_key(dataset), &plain, How::Put)?;
        Ok(())
    }

    /// Makes the dataset take archives from hosts: a put key, published. Nothing happens where that is so.
    /// The caller holds the dataset's lease.
    pub fn publish_put_key(&self, dataset: &str) -> Result<()> {
        dataset::check_name(dataset)?;
        let keys = match self.put_keys(dataset)? {
            Some(keys) if !keys.0.is_empty() => keys,
            _ => {
                let fresh = PutKeys(vec![ByteBuf::from(letter::generate(&*self.env().random)?.bytes().to_vec())]);
                self.store_put_keys(dataset, &fresh)?;
                fresh
            }
        };
        let private = keys.0.first().and_then(|k| Key::from_slice(k));
        let public = private.as_ref().and_then(letter::public);
        let public = public.ok_or_else(|| Error::damaged(put_keys_key(dataset), "it holds no key"))?;
        let signature = self.signing.sign(&published_message(self.id(), dataset, &public));
        let bytes = cbor::encode(&Published { public, signature })?;
        let key = published_key(dataset);
        // Ed25519 signs the same bytes the same way: what is there already is these bytes.
        if self.location().keys.get(&key).is_ok_and(|there| there == *bytes) {
            return Ok(());
        }
        Ok(self.location().keys.put(&key, &bytes)?)
    }

    /// Replaces the put key and destroys the old one: what was ever sealed to it opens for nobody from here. Only once the intake is empty; the
    /// caller holds the dataset's lease, so that no host is writing. Cut off anywhere: both are kept, and running it again completes it.
    pub fn renew_put_key(&self, dataset: &str) -> Result<()> {
        let Some(mut keys) = self.put_keys(dataset)? else { return Ok(()) };
        keys.0.insert(0, ByteBuf::from(letter::generate(&*self.env().random)?.bytes().to_vec()));
        self.store_put_keys(dataset, &keys)?;
        self.publish_put_key(dataset)?;
        keys.0.iter_mut().skip(1).for_each(|k| k.zeroize());
        keys.0.truncate(1);
        self.store_put_keys(dataset, &keys)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_host_key_reads_back_and_opens_nothing() {
        let t = testing::fixture();
        let dataset = t.repo.create_dataset("d").unwrap();
        let key = t.repo.make_host("web1", &["d".to_string()]).unwrap();
        let text = key.encode().unwrap();
        assert!(is_host_key(&text));
        let again = HostKey::parse(&text).unwrap();
        assert_eq!((again.id, again.label.as_str()), (key.id, "web1"));
        let theirs = &again.datasets["d"];
        assert_eq!(theirs.chunk_id(b"x"), dataset.chunk_id(b"x"));
        assert_eq!((theirs.gear_seed(), theirs.path_token(b"p")), (dataset.gear_seed(), dataset.path_token(b"p")));
        assert_eq!(theirs.token_key().of_normalized(&["x"]), dataset.token_key().of_normalized(&["x"]));
        assert_ne!(*theirs.pseudonym_key(), *dataset.pseudonym_key());
        assert!(crate::crypto::secret::KeyFile::parse(&text).is_err());
        for bad in ["", "RESEAL-PUT-KEY-1:00", &format!("{}{}", &*text, &*text)] {
            assert!(HostKey::parse(bad).is_err());
        }
        assert_eq!(t.repo.hosts().unwrap().len(), 1);
        assert!(t.repo.remove_host(&key.id).unwrap().removed.is_some());
    }

    #[test]
    fn a_put_key_is_believed_on_the_repositorys_signature_and_renewed_whole() {
        let t = testing::fixture();
        t.repo.create_dataset("d").unwrap();
        t.repo.publish_put_key("d").unwrap();
        let host = t.repo.make_host("web1", &["d".to_string()]).unwrap();
        let first = published(&*t.keys, &host, "d").unwrap();
        t.repo.publish_put_key("d").unwrap();
        assert_eq!(published(&*t.keys, &host, "d").unwrap(), first);
        t.repo.renew_put_key("d").unwrap();
        let second = published(&*t.keys, &host, "d").unwrap();
        assert_ne!(first, second);
        let private = t.repo.private_put_keys("d").unwrap();
        assert_eq!((private.len(), letter::public(&private[0])), (1, Some(second)));
        t.repo.rotate_root().unwrap();
        assert_eq!(t.repo.private_put_keys("d").unwrap().len(), 1);
        let forged = Published { public: first, signature: [7; 64] };
        t.keys.put("known/d/put", &cbor::encode(&forged).unwrap()).unwrap();
        assert!(matches!(published(&*t.keys, &host, "d"), Err(Error::Damaged { .. })));
    }
}
