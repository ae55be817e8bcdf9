//! An export of the keys' side: everything that opens archives, in one file, for the day when the place of the keys is lost.
//!
//! Its objects are the sealed objects as they lie on the keys store, key slots included, so it is opened by the same secrets and needs none of its
//! own. That is also its danger: it still holds every key that the repository destroys after it was made. Therefore every export is
//! recorded in the ledger, and an outdated one is named until its destruction is recorded, too.

use super::id::{PackId, RepoId};
use super::sheet::{self, Sheet};
use super::{Repository, cbor, params, signing_key, slots};
use crate::crypto::seal::{Envelope, Purpose};
use crate::crypto::slot::Phase;
use crate::store::Store;
use crate::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const MAGIC: &[u8; 4] = b"RSX1";
const DIGEST: usize = 32;
/// The only version of the file that there is.
const VERSION: u32 = 1;
/// What an export holds, in the order in which an import writes it: slots last, so that half an import opens nothing.
const PREFIXES: [&str; 8] = [
    "ledger/",
    "datasets/",
    "sheets/",
    slots::ENGINE_PREFIXES[0],
    slots::ENGINE_PREFIXES[1],
    slots::ENGINE_PREFIXES[2],
    "signing/",
    "slots/",
];

/// The keys' side of a repository at one moment.
pub struct Export {
    /// Its id, as the ledger names it: 12 hex digits.
    pub id: String,
    /// The repository.
    pub repository: RepoId,
    /// When it was made.
    pub created: Timestamp,
    /// The last ledger entry in it.
    pub ledger: u64,
    /// The sealed objects, by key.
    pub objects: BTreeMap<String, Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    id: String,
    repository: RepoId,
    created: Timestamp,
    ledger: u64,
    objects: Vec<(String, ByteBuf)>,
}

/// Of any version of the file.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: u64,
}

impl Export {
    /// The file: magic, BLAKE3 of the rest, CBOR. The digest only tells a rotten file from another secret; what is in it is sealed and chained.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let objects = self.objects.iter().map(|(key, bytes)| (key.clone(), ByteBuf::from(bytes.clone()))).collect();
        let (repository, created, ledger) = (self.repository, self.created, self.ledger);
        let body = cbor::encode(&Stored { version: VERSION, id: self.id.clone(), repository, created, ledger, objects })?;
        Ok([MAGIC.as_slice(), blake3::hash(&body).as_bytes(), &body].concat())
    }

    /// Reads a file; `name` is for the error.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Export> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| Error::Usage(format!("{name} is not an export of a repository's keys")))?;
        let (digest, body) = rest.split_at_checked(DIGEST).ok_or_else(|| Error::damaged(name, "it is too short"))?;
        if blake3::hash(body).as_bytes() != digest {
            return Err(Error::damaged(name, "its digest does not fit: it is cut off or altered"));
        }
        // The version before the rest: a later one may have other fields.
        let Version { version } = cbor::decode(name, body)?;
        if version != u64::from(VERSION) {
            return Err(Error::Refused(format!("{name} is of a version that this program does not know: use a newer reseal")));
        }
        let stored: Stored = cbor::decode(name, body)?;
        let mut objects = BTreeMap::new();
        for (key, bytes) in stored.objects {
            let known = PREFIXES.iter().any(|p| key.starts_with(p)) && crate::store::check_key(&key).is_ok();
            if !known || objects.insert(key, bytes.into_vec()).is_some() {
                return Err(Error::damaged(name, "it holds something that does not belong into it"));
            }
        }
        Ok(Export { id: stored.id, repository: stored.repository, created: stored.created, ledger: stored.ledger, objects })
    }

    /// Everything on the keys store up to ledger entry `ledger`. The caller holds every lease, so that nothing changes meanwhile, but entries that
    /// readers append. Second: what does not open, and is in the export as it is.
    pub fn collect(repo: &Repository, id: &str, ledger: u64) -> Result<(Export, Vec<(String, Error)>)> {
        repo.sealer().refresh()?;
        if repo.sealer().ring().phase != Phase::Stable {
            return Err(Error::Refused("a replacement of the root key was interrupted; complete it first: reseal keys rotate".into()));
        }
        let store = &*repo.location().keys;
        let (mut objects, mut damaged) = (BTreeMap::new(), Vec::new());
        for prefix in PREFIXES {
            for object in store.list(prefix)? {
                let foreign = prefix == "signing/" && object.key != signing_key(repo.id());
                let later =
                    prefix == "ledger/" && object.key.rsplit('/').next().and_then(|n| n.parse().ok()).is_some_and(|n: u64| n > ledger);
                if foreign || later {
                    continue;
                }
                let bytes = store.get(&object.key)?;
                if prefix != "slots/"
                    && let Err(e) = check_object(repo, &object.key, &bytes)
                {
                    damaged.push((object.key.clone(), e));
                }
                objects.insert(object.key, bytes);
            }
        }
        let created = repo.env().now();
        Ok((Export { id: id.to_string(), repository: *repo.id(), created, ledger, objects }, damaged))
    }

    /// Key sheets in it.
    pub fn sheets(&self) -> usize {
        self.objects.keys().filter(|k| k.starts_with("sheets/")).count()
    }
}

fn check_object(repo: &Repository, key: &str, bytes: &[u8]) -> Result<()> {
    let envelope = Envelope::read(bytes).ok_or_else(|| Error::damaged(key, "not a sealed object"))?;
    let plain = repo.sealer().open(envelope.purpose, key, bytes)?;
    if envelope.purpose == Purpose::Sheet {
        Sheet::decode(key, &plain)?;
    }
    Ok(())
}

/// What an import would write.
#[derive(Debug)]
pub struct ImportPlan {
    /// Keys of the objects to write, in order.
    pub write: Vec<String>,
    /// Objects that the place has already: the same, or newer.
    pub kept: u64,
    /// Key sheets that are not brought back, since their packs are gone from the repository.
    pub dead: u64,
    /// Whether the place was empty.
    pub empty: bool,
}

/// Decides what of an export may be written to the keys store of `location`. `from` is the export, opened from memory, and so proven to be whole and
/// this repository's. Into an empty place everything is written. Into one that is not: only what is missing, and only where what is there is the
/// same repository's, under the same root, and not older than the export. What is there is never overwritten.
pub fn plan_import(export: &Export, from: &Repository, location: &super::Location) -> Result<ImportPlan> {
    let there = stored(&*location.keys)?;
    let order = |key: &String| PREFIXES.iter().position(|p| key.starts_with(p));
    let mut write: Vec<String> = export.objects.keys().filter(|k| !there.contains(*k)).cloned().collect();
    write.sort_by_key(|k| (order(k), k.clone()));
    if there.is_empty() {
        return Ok(ImportPlan { write, kept: 0, dead: 0, empty: true });
    }
    let at = location.keys.describe();
    let refuse = |why: String| Err(Error::Refused(format!("{at} is not empty, and {why}; import into an empty place")));
    let mut changed: Option<String> = None;
    for key in &there {
        let bytes = location.keys.get(key)?;
        let ours = export.objects.get(key);
        if ours.is_some_and(|o| *o == bytes) {
            continue;
        }
        if key.starts_with("slots/") {
            // Another passphrase was added or one was removed since: that is newer, unless its root is another, which other objects tell.
            continue;
        }
        let opened = Envelope::read(&bytes).map(|e| from.sealer().open(e.purpose, key, &bytes));
        let Some(Ok(plain)) = opened else {
            return refuse(format!(
                "{key} there does not open with the keys of this export: it is another repository's, or the root key was replaced since"
            ));
        };
        if key.starts_with("ledger/")
            && let Some(ours) = ours
            && *from.sealer().open(Purpose::Ledger, key, ours)? != *plain
        {
            return refuse(format!("{key} there is another entry than the export's: its history is another one"));
        }
        changed.get_or_insert_with(|| key.clone());
    }
    let last =
        there.iter().filter(|k| k.starts_with("ledger/")).filter_map(|k| k.rsplit('/').next()?.parse::<u64>().ok()).max().unwrap_or(0);
    if let Some(key) = changed
        && last < export.ledger
    {
        return refuse(format!(
            "{key} there is another version than the export's, though its ledger ends before: its state is older than the export's"
        ));
    }
    // A sheet that a newer state does not have was destroyed, unless its pack is still there: then it was lost.
    let before = write.len();
    if last >= export.ledger && write.iter().any(|k| k.starts_with("sheets/")) {
        let packs: HashSet<PackId> = location.data.list("packs/")?.iter().filter_map(|o| sheet::pack_of_key(&o.key)).collect();
        write.retain(|k| !k.starts_with("sheets/") || sheet::pack_of_key(k).is_some_and(|p| packs.contains(&p)));
    }
    let dead = (before - write.len()) as u64;
    Ok(ImportPlan { kept: there.len() as u64, dead, write, empty: false })
}

/// Keys of the objects of a keys store that belong into an export.
pub fn stored(keys: &dyn Store) -> Result<BTreeSet<String>> {
    let mut there = BTreeSet::new();
    for prefix in PREFIXES {
        there.extend(keys.list(prefix)?.into_iter().map(|o| o.key));
    }
    Ok(there)
}

/// Writes what was planned.
pub fn import(export: &Export, plan: &ImportPlan, keys: &dyn Store) -> Result<()> {
    for key in &plan.write {
        let Some(bytes) = export.objects.get(key) else { continue };
        if !keys.put_if_absent(key, bytes)? {
            return Err(Error::Refused(format!("{}: somebody else writes {key} at the same time", keys.describe())));
        }
    }
    Ok(())
}

/// Whether a keys store has slots: without any it opens nothing.
pub fn has_slots(keys: &dyn Store) -> Result<bool> {
    Ok(!keys.list("slots/")?.is_empty())
}

/// Whether a keys store has a ledger: then a repository was made, and not only begun.
pub fn has_ledger(keys: &dyn Store) -> Result<bool> {
    Ok(!keys.list("ledger/")?.is_empty())
}

/// Whether a data store has a repository.
pub fn has_params(data: &dyn Store) -> Result<bool> {
    match data.get(params::KEY) {
        Ok(_) => Ok(true),
        Err(e) if e.is_missing() => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Packs of the repository that no key sheet opens: how many.
pub fn packs_without_sheet(repo: &Repository) -> Result<u64> {
    let location = repo.location();
    let sheets: HashSet<PackId> = location.keys.list("sheets/")?.iter().filter_map(|o| sheet::pack_of_key(&o.key)).collect();
    let packs = location.data.list("packs/")?;
    Ok(packs.iter().filter_map(|o| sheet::pack_of_key(&o.key)).filter(|p| !sheets.contains(p)).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, put_archive};
    use super::super::{Ledger, Location};
    use super::*;
    use crate::store::memory::Memory;
    use std::sync::Arc;

    fn exported(t: &testing::Fixture) -> Export {
        let ledger = Ledger::load(&t.repo).unwrap().head().0;
        let (export, damaged) = Export::collect(&t.repo, "0123456789ab", ledger).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        let bytes = export.encode().unwrap();
        Export::decode("f", &bytes).unwrap()
    }

    fn opened(t: &testing::Fixture, export: &Export) -> Result<Repository> {
        let keys = Arc::new(Memory::new("the export", export.objects.clone()));
        Repository::open(Location { data: t.data.clone(), keys }, &testing::secret(), &t.env)
    }

    #[test]
    fn what_was_exported_opens_every_archive_from_an_empty_place() {
        let t = testing::fixture();
        let head = put_archive(&t, 1, &[b"one", b"two"]);
        Ledger::load(&t.repo).unwrap().append("a", &1).unwrap();
        let export = exported(&t);
        let from = opened(&t, &export).unwrap();
        let keys = Arc::new(Memory::new("empty", BTreeMap::new()));
        let location = Location { data: t.data.clone(), keys: keys.clone() };
        let plan = plan_import(&export, &from, &location).unwrap();
        assert!(plan.empty && plan.write.last().unwrap().starts_with("slots/"));
        import(&export, &plan, &*keys).unwrap();
        let repo = Arc::new(Repository::open(location, &testing::secret(), &t.env).unwrap());
        let dataset = repo.dataset("d").unwrap().unwrap();
        let reader = super::super::ChunkReader::new(&repo, &dataset, repo.index(&dataset).unwrap(), 1 << 20);
        assert_eq!(testing::restore(&reader, &head).unwrap().len(), 2);
        assert_eq!(packs_without_sheet(&repo).unwrap(), 0);
        Ledger::load(&repo).unwrap().check().unwrap();
    }

    #[test]
    fn a_place_that_is_newer_gets_only_what_it_lost() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one"]);
        Ledger::load(&t.repo).unwrap().append("a", &1).unwrap();
        let export = exported(&t);
        let from = opened(&t, &export).unwrap();
        put_archive(&t, 2, &[b"two"]);
        Ledger::load(&t.repo).unwrap().append("a", &2).unwrap();
        // One sheet was lost, another destroyed together with its pack.
        let sheets: Vec<String> = export.objects.keys().filter(|k| k.starts_with("sheets/")).cloned().collect();
        assert_eq!(sheets.len(), 2);
        for key in &sheets {
            t.keys.delete(key).unwrap();
        }
        t.data.delete(&sheet::pack_key("d", &sheet::pack_of_key(&sheets[1]).unwrap())).unwrap();
        let plan = plan_import(&export, &from, t.repo.location()).unwrap();
        assert_eq!((plan.write, plan.dead, plan.empty), (vec![sheets[0].clone()], 1, false));
    }

    #[test]
    fn other_repositories_other_roots_and_other_histories_are_refused() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one"]);
        Ledger::load(&t.repo).unwrap().append("a", &1).unwrap();
        let export = exported(&t);
        let from = opened(&t, &export).unwrap();
        let foreign = testing::fixture();
        put_archive(&foreign, 1, &[b"one"]);
        let refused = |location: &Location, word: &str| match plan_import(&export, &from, location) {
            Err(Error::Refused(m)) => assert!(m.contains(word), "{m}"),
            other => panic!("{other:?}"),
        };
        refused(foreign.repo.location(), "another repository's");
        let before = t.keys.get("ledger/0000000001").unwrap();
        t.keys.delete("ledger/0000000001").unwrap();
        Ledger::load(&t.repo).unwrap().append("b", &9).unwrap();
        refused(t.repo.location(), "history");
        t.keys.put("ledger/0000000001", &before).unwrap();
        t.repo.rotate_root().unwrap();
        refused(t.repo.location(), "root key was replaced");
    }

    #[test]
    fn a_file_that_is_cut_or_altered_is_noticed() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one"]);
        let bytes = exported(&t).encode().unwrap();
        for at in (0..bytes.len()).step_by(37) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Export::decode("f", &bad).is_err(), "{at}");
            assert!(Export::decode("f", &bytes[..at]).is_err(), "{at}");
        }
        assert!(matches!(Export::decode("f", b"hello"), Err(Error::Usage(_))));
    }
}
