//! What is stored already, told to hosts that only add archives: per pack the ids and roles of its chunks, no places, no keys. So such a host shares chunks
//! with archives that it cannot open.
//!
//! Sealed under a key that every host of the dataset has, and signed: by the repository, or by the host that wrote the pack. A host believes the
//! repository and itself; otherwise one host could tell the others that something is there that is not, and their archives would lack it.
//!
//! What is listed must be there, and not the other way round: a list is written after the pack's sheet, and shortened before a sheet is.

use super::dataset::Dataset;
use super::entry::{ChunkId, Role};
use super::fetch::fetch_all;
use super::host::HostKey;
use super::id::{HostId, PackId, RepoId};
use super::sheet::{self, Sheet, role_byte};
use super::{Repository, cbor};
use crate::crypto::sign::SigningKey;
use crate::crypto::{kdf, seal};
use crate::env::{Env, random_bytes};
use crate::store::Store;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeSet;

const MAGIC: &[u8; 4] = b"RSK1";
const SALT: usize = 32;
const DOMAIN: &[u8] = b"reseal/v1/known\0";

type Chunk = (ChunkId, u8);

/// The chunks that need not be handed in.
#[derive(Default)]
pub struct Known(Vec<Chunk>);

impl Known {
    /// Whether a chunk is there.
    pub fn contains(&self, id: &ChunkId, role: Role) -> bool {
        self.0.binary_search(&(*id, role_byte(role))).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    ids: ByteBuf,
    roles: ByteBuf,
    /// The host that signed it; without one the repository did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<HostId>,
    #[serde(with = "serde_bytes")]
    signature: [u8; 64],
}

fn prefix(dataset: &str) -> String {
    format!("known/{dataset}/")
}

fn key(dataset: &str, pack: &PackId) -> String {
    format!("known/{dataset}/{pack}")
}

fn message(repository: &RepoId, key: &str, ids: &[u8], roles: &[u8]) -> Vec<u8> {
    [DOMAIN, &repository.0, key.as_bytes(), b"\0", ids, roles].concat()
}

fn object_key(dataset: &Dataset, salt: &[u8], key: &str) -> zeroize::Zeroizing<[u8; 32]> {
    kdf::hkdf(dataset.known_key().bytes(), salt, &[DOMAIN, key.as_bytes()])
}

/// Stores the list of a pack.
pub(super) fn put(
    keys: &dyn Store,
    env: &Env,
    repository: &RepoId,
    dataset: &Dataset,
    pack: &PackId,
    chunks: &[Chunk],
    (signing, by): (&SigningKey, Option<HostId>),
) -> Result<()> {
    let key = key(dataset.name(), pack);
    let ids: Vec<u8> = chunks.iter().flat_map(|(id, _)| id.0).collect();
    let roles: Vec<u8> = chunks.iter().map(|(_, role)| *role).collect();
    let signature = signing.sign(&message(repository, &key, &ids, &roles));
    let plain = cbor::encode(&Stored { ids: ByteBuf::from(ids), roles: ByteBuf::from(roles), by, signature })?;
    let salt: [u8; SALT] = random_bytes(&*env.random)?;
    let mut body = plain.to_vec();
    seal::encrypt(&object_key(dataset, &salt, &key), &[repository.0.as_slice(), key.as_bytes()].concat(), &mut body)?;
    Ok(keys.put(&key, &[MAGIC.as_slice(), &salt, &body].concat())?)
}

fn open(host: &HostKey, dataset: &Dataset, key: &str, bytes: &[u8]) -> Result<Vec<Chunk>> {
    let bad = |detail: &str| Error::damaged(key, detail);
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("not a list of chunks"))?;
    let (salt, body) = rest.split_at_checked(SALT).ok_or_else(|| bad("too short"))?;
    let mut plain = body.to_vec();
    seal::decrypt(&object_key(dataset, salt, key), &[host.repository.0.as_slice(), key.as_bytes()].concat(), &mut plain)
        .map_err(|_| bad("its seal does not open"))?;
    let stored: Stored = cbor::decode(key, &plain)?;
    let said = message(&host.repository, key, &stored.ids, &stored.roles);
    let believed = match stored.by {
        None => host.verifying.verify(&said, &stored.signature),
        Some(id) if id == host.id => host.signing.verifying_key().verify(&said, &stored.signature),
        Some(_) => return Err(bad("another host signed it")),
    };
    if !believed || stored.ids.len() != 32 * stored.roles.len() {
        return Err(bad("its signature does not fit"));
    }
    let ids = stored.ids.chunks_exact(32).map(|id| {
        let mut out = ChunkId([0; 32]);
        out.0.copy_from_slice(id);
        out
    });
    Ok(ids.zip(stored.roles.iter().copied()).collect())
}

/// What a host finds listed, and the lists that it does not believe.
pub(super) fn load(keys: &dyn Store, host: &HostKey, dataset: &Dataset) -> Result<(Known, Vec<Error>)> {
    let names = keys.list(&prefix(dataset.name()))?.into_iter().map(|o| o.key).filter(|k| sheet::pack_of_key(k).is_some());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let opened = fetch_all(keys, &names, |key, bytes| match bytes {
        Ok(bytes) => open(host, dataset, key, &bytes),
        Err(e) => Err(e.into()),
    });
    let (mut known, mut doubted) = (Known::default(), Vec::new());
    for list in opened {
        match list {
            Ok(chunks) => known.0.extend(chunks),
            Err(Error::Store(e)) if e.is_missing() => {}
            Err(e @ Error::Damaged { .. }) => doubted.push(e),
            Err(e) => return Err(e),
        }
    }
    known.0.sort_unstable();
    known.0.dedup();
    Ok((known, doubted))
}

pub(super) fn chunks_of(sheet: &Sheet) -> Vec<Chunk> {
    sheet.rows.iter().map(|r| (r.id, role_byte(r.role))).collect()
}

impl Repository {
    fn put_known(&self, dataset: &Dataset, pack: &PackId, chunks: &[Chunk]) -> Result<()> {
        put(&*self.location().keys, self.env(), self.id(), dataset, pack, chunks, (&self.signing, None))
    }

    /// Packs whose lists are published. A host publishes those of an archive once its head is handed in.
    pub fn listed_packs(&self, dataset: &str) -> Result<BTreeSet<PackId>> {
        self.packs_below(&prefix(dataset))
    }

    fn packs_below(&self, prefix: &str) -> Result<BTreeSet<PackId>> {
        Ok(self.location().keys.list(prefix)?.iter().filter_map(|o| sheet::pack_of_key(&o.key)).collect())
    }

    /// Lists every pack that is not listed, and `anew` in any case; takes back lists of packs that have no sheet; publishes the put key again where it
    /// was lost. Nothing where the dataset takes nothing from hosts. The caller holds the dataset's lease.
    pub fn list_known(&self, dataset: &Dataset, anew: &BTreeSet<PackId>) -> Result<()> {
        if !self.takes_from_hosts(dataset.name())? {
            return Ok(());
        }
        self.publish_put_key(dataset.name())?;
        let keys = &*self.location().keys;
        let (sheets, listed) = (self.packs_below(&format!("sheets/{}/", dataset.name()))?, self.listed_packs(dataset.name())?);
        for pack in listed.difference(&sheets) {
            keys.delete(&key(dataset.name(), pack))?;
        }
        for pack in sheets.iter().filter(|p| !listed.contains(p) || anew.contains(p)) {
            let at = sheet::key(dataset.name(), pack);
            match keys.get(&at).map_err(Error::from).and_then(|bytes| Sheet::open(self.sealer(), &at, &bytes)) {
                Ok(sheet) => self.put_known(dataset, pack, &chunks_of(&sheet))?,
                // Nobody should rely on what it holds.
                Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes back from the lists what is about to be dropped. Before the sheets: a host that believes a dropped chunk to be there hands in an archive
    /// without it. The caller holds the dataset's lease.
    pub fn forget_known(&self, dataset: &Dataset, keep: &dyn Fn(&ChunkId, Role) -> bool) -> Result<()> {
        if !self.takes_from_hosts(dataset.name())? {
            return Ok(());
        }
        self.list_known(dataset, &BTreeSet::new())?;
        for (sheet, _) in self.sheets(dataset)?.0 {
            let left: Vec<Chunk> = sheet.rows.iter().filter(|r| keep(&r.id, r.role)).map(|r| (r.id, role_byte(r.role))).collect();
            if left.is_empty() {
                self.location().keys.delete(&key(dataset.name(), &sheet.pack))?;
            } else if left.len() < sheet.rows.len() {
                self.put_known(dataset, &sheet.pack, &left)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, put_archive};
    use super::*;

    #[test]
    fn a_host_knows_what_is_stored_and_forgets_what_is_dropped() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one", b"two"]);
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        let nothing = BTreeSet::new();
        t.repo.list_known(&dataset, &nothing).unwrap();
        assert!(t.keys.list("known/").unwrap().is_empty(), "nobody asked for it");
        t.repo.publish_put_key("d").unwrap();
        t.repo.list_known(&dataset, &nothing).unwrap();
        let host = t.repo.make_host("web1", &["d".to_string()]).unwrap();
        let (known, doubted) = load(&*t.keys, &host, &dataset).unwrap();
        assert_eq!((known.len(), doubted.len()), (3, 0));
        let (one, two) = (dataset.chunk_id(b"one"), dataset.chunk_id(b"two"));
        assert!(known.contains(&one, Role::Data) && !known.contains(&one, Role::Marks));
        t.repo.forget_known(&dataset, &|id, _| *id != one).unwrap();
        let (known, _) = load(&*t.keys, &host, &dataset).unwrap();
        assert!(!known.contains(&one, Role::Data) && known.contains(&two, Role::Data));
    }

    #[test]
    fn lists_of_other_hosts_and_altered_ones_are_not_believed() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one"]);
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        t.repo.publish_put_key("d").unwrap();
        let names = ["d".to_string()];
        let (ours, theirs) = (t.repo.make_host("web1", &names).unwrap(), t.repo.make_host("web2", &names).unwrap());
        let chunks = [(ChunkId([9; 32]), 0)];
        put(&*t.keys, &t.env, t.repo.id(), &dataset, &PackId([1; 16]), &chunks, (&ours.signing, Some(ours.id))).unwrap();
        let knows = |host: &HostKey| load(&*t.keys, host, &dataset).unwrap();
        assert!(knows(&ours).0.contains(&ChunkId([9; 32]), Role::Data));
        let (known, doubted) = knows(&theirs);
        assert_eq!((known.len(), doubted.len()), (0, 1));
        // In another's name, or somewhere else.
        put(&*t.keys, &t.env, t.repo.id(), &dataset, &PackId([1; 16]), &chunks, (&ours.signing, None)).unwrap();
        assert_eq!(knows(&ours).1.len(), 1);
        put(&*t.keys, &t.env, t.repo.id(), &dataset, &PackId([1; 16]), &chunks, (&ours.signing, Some(ours.id))).unwrap();
        let bytes = t.keys.get(&key("d", &PackId([1; 16]))).unwrap();
        t.keys.put(&key("d", &PackId([2; 16])), &bytes).unwrap();
        assert_eq!((knows(&ours).0.len(), knows(&ours).1.len()), (1, 1));
        // What has no sheet is taken back.
        t.repo.list_known(&dataset, &BTreeSet::new()).unwrap();
        assert!(!knows(&ours).0.contains(&ChunkId([9; 32]), Role::Data));
    }
}
