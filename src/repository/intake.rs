//! What put-only hosts hand in, until somebody with the full key admits it: key sheets and a head, each sealed to the dataset's put key, the head
//! signed by the host and naming every sheet. The packs lie where all packs lie.
//!
//! ```text
//! intake/<dataset>/<archive id>/sheets/<pack id>    sealed when its pack is durable
//! intake/<dataset>/<archive id>/head                last; without it there is no archive, but an interrupted backup
//! ```
//!
//! Nothing of it is believed before it is checked: a host may be anybody's by now. Every chunk is opened and compared with its name (a row that lies
//! would make later backups of others share a chunk that is not there), and no sheet may take the place of one that is stored.

use super::dataset::Dataset;
use super::head::{self, Head};
use super::host::{self, Host, HostKey};
use super::id::{ArchiveId, HostId, PackId, RepoId};
use super::known::{self, Known};
use super::params::{self, Params};
use super::sealer::How;
use super::sheet::{self, Sheet, pack_key};
use super::{Location, Repository, cbor, chunk};
use crate::crypto::letter;
use crate::crypto::seal::Purpose;
use crate::crypto::secret::Key;
use crate::env::Env;
use crate::store::StoreError;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"RSI1";
const DOMAIN: &[u8] = b"reseal/v1/intake\0";

/// The plaintext of an intake's head.
#[derive(Serialize, Deserialize)]
pub(super) struct Signed {
    pub payload: ByteBuf,
    #[serde(with = "serde_bytes")]
    pub signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
pub(super) struct Payload {
    pub host: HostId,
    /// CBOR of the head.
    pub head: ByteBuf,
    /// Packs, and BLAKE3 of their sheets' objects.
    pub sheets: Vec<(PackId, ByteBuf)>,
}

fn folder(dataset: &str, archive: &ArchiveId) -> String {
    format!("intake/{dataset}/{archive}")
}

pub(super) fn head_key(dataset: &str, archive: &ArchiveId) -> String {
    format!("{}/head", folder(dataset, archive))
}

pub(super) fn sheet_key(dataset: &str, archive: &ArchiveId, pack: &PackId) -> String {
    format!("{}/sheets/{pack}", folder(dataset, archive))
}

fn info(repository: &RepoId, key: &str) -> Vec<u8> {
    [DOMAIN, &repository.0, key.as_bytes()].concat()
}

pub(super) fn signed_message(repository: &RepoId, key: &str, payload: &[u8]) -> Vec<u8> {
    [DOMAIN, &repository.0, key.as_bytes(), b"\0", payload].concat()
}

/// Where a host puts one archive.
pub struct Outbox {
    location: Location,
    env: Env,
    host: Arc<HostKey>,
    params: Params,
    dataset: Arc<Dataset>,
    public: [u8; 32],
    archive: ArchiveId,
    stored: Mutex<BTreeMap<PackId, Posted>>,
}

/// A pack that was handed in: digest of its sheet's object, and what is in it.
struct Posted {
    digest: [u8; 32],
    chunks: Vec<(super::entry::ChunkId, u8)>,
}

impl Outbox {
    /// For a new archive of this dataset. The caller holds the dataset's lease, so that the put key does not change meanwhile.
    pub fn open(location: Location, env: Env, host: Arc<HostKey>, dataset: &str) -> Result<Outbox> {
        let json = match location.data.get(params::KEY) {
            Err(e) if e.is_missing() => {
                return Err(Error::Refused(format!("no repository at {}: {} is missing", location.data.describe(), params::KEY)));
            }
            other => other?,
        };
        let params = Params::decode(&json)?;
        if params.id != host.repository {
            return Err(Error::Refused(format!("{} is another repository than the one that this key is for", location.data.describe())));
        }
        if *blake3::hash(&json).as_bytes() != host.params {
            return Err(Error::damaged(params::KEY, "it is not what it was when this host's key was made"));
        }
        let keys = host.datasets.get(dataset).cloned();
        let keys = keys.ok_or_else(|| {
            Error::Refused(format!("this host's key does not add to dataset {dataset}; make it one that does: reseal keys add --put-only"))
        })?;
        let public = host::published(&*location.keys, &host, dataset)?;
        let archive = ArchiveId::random(&*env.random)?;
        Ok(Outbox { location, env, host, params, dataset: keys, public, archive, stored: Mutex::default() })
    }

    /// The archive's id.
    pub fn archive(&self) -> ArchiveId {
        self.archive
    }

    /// The dataset, as far as a host has it.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Where the repository is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    /// What need not be handed in; and lists that are not believed, for a word to the user.
    pub fn known(&self) -> Result<(Known, Vec<Error>)> {
        known::load(&*self.location.keys, &self.host, &self.dataset)
    }

    pub(super) fn post(&self, key: &str, plain: &[u8]) -> Result<[u8; 32]> {
        let sealed = letter::seal(&self.public, &info(&self.params.id, key), plain, &*self.env.random)?;
        let bytes = [MAGIC.as_slice(), &sealed].concat();
        self.location.keys.put(key, &bytes)?;
        Ok(*blake3::hash(&bytes).as_bytes())
    }

    pub(super) fn put_sheet(&self, sheet: &Sheet) -> Result<()> {
        let digest = self.post(&sheet_key(self.dataset.name(), &self.archive, &sheet.pack), &sheet.encode()?)?;
        let posted = Posted { digest, chunks: known::chunks_of(sheet) };
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(sheet.pack, posted);
        Ok(())
    }

    /// Hands the archive in: after this it can be admitted. Its digest.
    pub fn put_head(&self, head: &Head) -> Result<String> {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = cbor::encode(head)?;
        let key = head_key(self.dataset.name(), &self.archive);
        let sheets = stored.iter().map(|(pack, posted)| (*pack, ByteBuf::from(posted.digest))).collect();
        let payload = cbor::encode(&Payload { host: self.host.id, head: ByteBuf::from(plain.to_vec()), sheets })?;
        let signature = self.host.signing.sign(&signed_message(&self.params.id, &key, &payload));
        self.post(&key, &cbor::encode(&Signed { payload: ByteBuf::from(payload.to_vec()), signature })?)?;
        // Only now: what belongs to no archive may be swept.
        for (pack, posted) in stored.iter() {
            let by = (&self.host.signing, Some(self.host.id));
            known::put(&*self.location.keys, &self.env, &self.params.id, &self.dataset, pack, &posted.chunks, by)?;
        }
        Ok(head::digest(&plain))
    }
}

/// An archive in the intake, unopened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its dataset.
    pub dataset: String,
    /// Its id.
    pub archive: ArchiveId,
    /// Whether its head is there: otherwise it is an interrupted backup, or one that is going on.
    pub is_complete: bool,
    /// Packs whose sheets are there.
    pub packs: BTreeSet<PackId>,
    /// Objects that do not belong there.
    pub strange: Vec<String>,
}

/// An archive in the intake that was checked.
pub struct Opened {
    /// Who handed it in.
    pub host: Host,
    /// Its head.
    pub head: Head,
    /// The head's digest.
    pub digest: String,
    plain: Vec<u8>,
    sheets: Vec<Sheet>,
}

impl Opened {
    /// The sheets once more, keys included, for an index.
    pub(crate) fn sheets(&self) -> Vec<Sheet> {
        self.sheets.iter().map(Sheet::duplicate).collect()
    }

    /// Its packs.
    pub fn packs(&self) -> BTreeSet<PackId> {
        self.sheets.iter().map(|s| s.pack).collect()
    }
}

impl Repository {
    /// What is in the intake of a dataset.
    pub fn pending(&self, dataset: &str) -> Result<Vec<Pending>> {
        super::dataset::check_name(dataset)?;
        let prefix = format!("intake/{dataset}/");
        let mut out: BTreeMap<ArchiveId, Pending> = BTreeMap::new();
        for object in self.location().keys.list(&prefix)? {
            let Some(rest) = object.key.strip_prefix(&prefix) else { continue };
            let (name, member) = rest.split_once('/').unwrap_or((rest, ""));
            // What is no archive at all is nobody's, and named by nobody: it opens nothing and says nothing.
            let Ok(archive) = name.parse::<ArchiveId>() else { continue };
            let pending = out.entry(archive).or_insert_with(|| Pending {
                dataset: dataset.to_string(),
                archive,
                is_complete: false,
                packs: BTreeSet::new(),
                strange: Vec::new(),
            });
            match member.strip_prefix("sheets/").map(str::parse::<PackId>) {
                None if member == "head" => pending.is_complete = true,
                Some(Ok(pack)) => {
                    pending.packs.insert(pack);
                }
                _ => pending.strange.push(object.key.clone()),
            }
        }
        Ok(out.into_values().collect())
    }

    fn receive(&self, keys: &[Key], key: &str) -> Result<(Zeroizing<Vec<u8>>, [u8; 32])> {
        let bytes = match self.location().keys.get(key) {
            Err(e) if e.is_missing() => return Err(Error::damaged(key, "it is missing")),
            other => other?,
        };
        let sealed = bytes.strip_prefix(MAGIC).ok_or_else(|| Error::damaged(key, "not an intake object"))?;
        let info = info(self.id(), key);
        let opened = keys.iter().find_map(|k| letter::open(k, &info, sealed).ok());
        let plain = opened.ok_or_else(|| Error::damaged(key, "it does not open with the put keys of this dataset"))?;
        Ok((plain, *blake3::hash(&bytes).as_bytes()))
    }

    /// Opens an archive in the intake and checks who it is from and every chunk that came with it. Fails with `Damaged` or `Refused` when it is
    /// not what a host of this dataset handed in.
    pub fn open_pending(&self, dataset: &Dataset, pending: &Pending) -> Result<Opened> {
        let name = dataset.name();
        let key = head_key(name, &pending.archive);
        let refused = |why: String| Err(Error::Refused(format!("{key}: {why}")));
        let keys = self.private_put_keys(name)?;
        let (plain, _) = self.receive(&keys, &key)?;
        let signed: Signed = cbor::decode(&key, &plain)?;
        let payload: Payload = cbor::decode(&key, &signed.payload)?;
        let Some(host) = self.host(&payload.host)? else { return refused("no host of this repository handed it in".into()) };
        if !host.verify(&signed_message(self.id(), &key, &signed.payload), &signed.signature) {
            return refused(format!("its signature is not that of host {}", host.label));
        }
        if let Some(at) = host.removed {
            return refused(format!("the key of host {} was removed on {at}", host.label));
        }
        if !host.datasets.iter().any(|d| d == name) {
            return refused(format!("host {} may not add to this dataset", host.label));
        }
        let head: Head = cbor::decode(&key, &payload.head)?;
        if head.dataset != name || head.archive != pending.archive || head.generation != 1 {
            return refused("its head names another archive".into());
        }
        if head.ledger_epoch != 0 || head.previous.is_some() {
            return refused("its head claims to know the ledger".into());
        }
        // What else lies there was signed by nobody; it is ignored, and goes with the rest.
        let named: BTreeSet<PackId> = payload.sheets.iter().map(|(pack, _)| *pack).collect();
        if named.len() != payload.sheets.len() || !named.is_subset(&pending.packs) {
            return refused("a key sheet that its head names is missing".into());
        }
        let mut sheets = Vec::with_capacity(payload.sheets.len());
        for (pack, digest) in &payload.sheets {
            self.env().stop.check("what is admitted stays so; run the same command again")?;
            let key = sheet_key(name, &pending.archive, pack);
            let (plain, actual) = self.receive(&keys, &key)?;
            if *digest != actual {
                return Err(Error::damaged(key, "it is not the one that the head names"));
            }
            let sheet = Sheet::decode(&key, &plain)?;
            self.check_pack(dataset, &sheet)?;
            sheets.push(sheet);
        }
        let plain = payload.head.to_vec();
        Ok(Opened { host, digest: head::digest(&plain), head, plain, sheets })
    }

    /// Opens every chunk of a pack that came with an archive.
    fn check_pack(&self, dataset: &Dataset, sheet: &Sheet) -> Result<()> {
        let sizes = self.params().sizes;
        let key = pack_key(dataset.name(), &sheet.pack);
        if sheet.size > 2 * u64::from(sizes.pack) + u64::from(sizes.chunk_limit) || !sheet.pending.is_empty() || sheet.rows.is_empty() {
            return Err(Error::damaged(key, "no writer makes such a pack"));
        }
        let bytes = match self.location().data.get_range(&key, 0, sheet.size) {
            Err(e @ (StoreError::Missing { .. } | StoreError::Short { .. })) => return Err(Error::damaged(key, e.to_string())),
            other => other?,
        };
        for row in &sheet.rows {
            let range = row.offset as usize..row.offset as usize + row.stored as usize;
            let sealed = bytes.get(range).unwrap_or_default().to_vec();
            let checked = match row.len <= sizes.chunk_limit {
                true => chunk::open_body(self.id(), &sheet.pack, row, sealed).and_then(|body| chunk::decode_body(dataset, row, body)),
                false => Err("it is longer than this repository takes"),
            };
            checked.map(Zeroizing::new).map_err(|d| chunk::damaged(&key, &row.id, d))?;
        }
        Ok(())
    }

    /// Makes an archive of what was checked: its sheets under the root, then its head. Cut off anywhere, it is done again.
    pub fn admit(&self, dataset: &Dataset, opened: &Opened) -> Result<()> {
        let keys = &*self.location().keys;
        for sheet in &opened.sheets {
            let (at, plain) = (sheet::key(dataset.name(), &sheet.pack), sheet.encode()?);
            if self.sealer().put(keys, Purpose::Sheet, &at, &plain, How::IfAbsent)?.is_some() {
                continue;
            }
            // Of an admission that was cut off; anything else would replace the keys of somebody's archives.
            if *Sheet::open(self.sealer(), &at, &keys.get(&at)?)?.encode()? != *plain {
                return Err(Error::Refused(format!("it brings a key sheet for pack {}, which is stored already", sheet.pack)));
            }
        }
        let key = head::key(dataset.name(), &opened.head.archive, 1);
        let stored = self.sealer().put(&*self.location().data, Purpose::Head, &key, &opened.plain, How::IfAbsent)?;
        if stored.is_none() && self.head(dataset.name(), &opened.head.archive, 1)?.is_none_or(|l| l.digest != opened.digest) {
            return Err(Error::Refused(format!("{key} is there already, and is another archive's")));
        }
        Ok(())
    }

    /// Takes an archive out of the intake, its head last: what is left of a run that was cut off is taken out by the next.
    pub fn clear_pending(&self, pending: &Pending) -> Result<()> {
        let keys = &self.location().keys;
        for pack in &pending.packs {
            keys.delete(&sheet_key(&pending.dataset, &pending.archive, pack))?;
        }
        for strange in &pending.strange {
            keys.delete(strange)?;
        }
        Ok(keys.delete(&head_key(&pending.dataset, &pending.archive))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Fixture, put_archive};
    use super::super::write::WriteOptions;
    use super::super::{ChunkReader, ChunkWriter};
    use super::*;

    fn host(t: &Fixture, label: &str) -> Arc<HostKey> {
        t.repo.create_dataset("d").unwrap();
        t.repo.publish_put_key("d").unwrap();
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        t.repo.list_known(&dataset, &BTreeSet::new()).unwrap();
        let key = t.repo.make_host(label, &["d".to_string()]).unwrap();
        Arc::new(HostKey::parse(&key.encode().unwrap()).unwrap())
    }

    fn outbox(t: &Fixture, host: &Arc<HostKey>) -> Arc<Outbox> {
        Arc::new(Outbox::open(t.repo.location().clone(), t.env.clone(), host.clone(), "d").unwrap())
    }

    fn head(t: &Fixture, outbox: &Outbox, entries: super::super::entry::Tree, count: u64) -> Head {
        Head {
            archive: outbox.archive(),
            dataset: "d".into(),
            generation: 1,
            created_at: t.env.now(),
            sealed_at: t.env.now(),
            tag: None,
            ledger_epoch: 0,
            entries,
            entry_count: count,
            source_bytes: 0,
            stored_bytes: 0,
            map_digest: String::new(),
            previous: None,
            tool: "test".into(),
            source: "paths".into(),
            warnings: 0,
        }
    }

    /// Hands an archive in: one file per content; how many chunks were new.
    fn hand_in(t: &Fixture, outbox: &Arc<Outbox>, contents: &[&[u8]]) -> u64 {
        let (known, doubted) = outbox.known().unwrap();
        assert!(doubted.is_empty(), "{doubted:?}");
        let writer = ChunkWriter::to_outbox(outbox, known, WriteOptions::default());
        let entries = testing::put_files(&writer, outbox.dataset(), contents);
        let written = writer.finish().unwrap();
        outbox.put_head(&head(t, outbox, entries, contents.len() as u64)).unwrap();
        written.chunks
    }

    fn opened(t: &Fixture) -> Result<(Pending, Opened)> {
        let pending = t.repo.pending("d").unwrap().pop().unwrap();
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        t.repo.open_pending(&dataset, &pending).map(|opened| (pending, opened))
    }

    #[test]
    fn what_a_host_hands_in_shares_chunks_and_becomes_an_archive() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one", b"two"]);
        let host = host(&t, "web1");
        let outbox = outbox(&t, &host);
        // One file and the list of entries are new.
        assert_eq!(hand_in(&t, &outbox, &[b"one", b"three"]), 2);
        let (pending, opened) = opened(&t).unwrap();
        assert_eq!((opened.host.label.as_str(), opened.head.archive), ("web1", outbox.archive()));
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        t.repo.admit(&dataset, &opened).unwrap();
        // As if it had been cut off.
        t.repo.admit(&dataset, &opened).unwrap();
        t.repo.clear_pending(&pending).unwrap();
        assert!(t.repo.pending("d").unwrap().is_empty());
        let listed = t.repo.head("d", &outbox.archive(), 1).unwrap().unwrap();
        let reader = ChunkReader::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), 1 << 20);
        let restored = testing::restore(&reader, &listed.head).unwrap();
        assert_eq!(restored.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), [b"one".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn once_the_put_key_is_renewed_an_old_intake_opens_for_nobody() {
        let t = testing::fixture();
        let host = host(&t, "web1");
        let outbox = outbox(&t, &host);
        hand_in(&t, &outbox, &[b"one"]);
        assert!(opened(&t).is_ok());
        t.repo.renew_put_key("d").unwrap();
        assert!(matches!(opened(&t), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_host_that_lies_about_its_chunks_is_refused() {
        let t = testing::fixture();
        let host = host(&t, "web1");
        let outbox = outbox(&t, &host);
        hand_in(&t, &outbox, &[b"one"]);
        let (_, good) = opened(&t).unwrap();
        // The same pack, whose row says that it holds what somebody else will want to store.
        let wanted = outbox.dataset().chunk_id(b"what others will back up");
        for (lie, word) in [(0, "its seal does not open"), (1, "no writer makes such a pack")] {
            let mut sheets = good.sheets();
            let sheet = &mut sheets[0];
            match lie {
                0 => sheet.rows[0].id = wanted,
                _ => sheet.rows.clear(),
            }
            let again = Arc::new(Outbox::open(t.repo.location().clone(), t.env.clone(), host.clone(), "d").unwrap());
            again.put_sheet(sheet).unwrap();
            again.put_head(&head(&t, &again, good.head.entries.clone(), 1)).unwrap();
            let pending = t.repo.pending("d").unwrap().into_iter().find(|p| p.archive == again.archive()).unwrap();
            let refused = t.repo.open_pending(&t.repo.dataset("d").unwrap().unwrap(), &pending).err().unwrap();
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }

    #[test]
    fn no_sheet_takes_the_place_of_one_that_is_stored() {
        let t = testing::fixture();
        put_archive(&t, 1, &[b"one", b"two", b"three", b"four", b"five"]);
        let host = host(&t, "web1");
        let dataset = t.repo.dataset("d").unwrap().unwrap();
        // A host that had got hold of the keys of a pack, and would have the repository forget one of them.
        let mut sheet = t.repo.sheets(&dataset).unwrap().0.into_iter().map(|(s, _)| s).find(|s| s.rows.len() > 1).unwrap();
        let at = sheet::key("d", &sheet.pack);
        let before = t.keys.get(&at).unwrap();
        sheet.rows.truncate(1);
        let outbox = outbox(&t, &host);
        outbox.put_sheet(&sheet).unwrap();
        outbox.put_head(&head(&t, &outbox, Default::default(), 0)).unwrap();
        let (_, opened) = opened(&t).unwrap();
        assert!(matches!(t.repo.admit(&dataset, &opened), Err(Error::Refused(m)) if m.contains("stored already")));
        assert_eq!(t.keys.get(&at).unwrap(), before);
    }

    #[test]
    fn an_archive_in_anothers_name_is_refused() {
        let t = testing::fixture();
        let (ours, theirs) = (host(&t, "web1"), host(&t, "web2"));
        let outbox = outbox(&t, &ours);
        let key = head_key("d", &outbox.archive());
        let plain = cbor::encode(&head(&t, &outbox, Default::default(), 0)).unwrap();
        let post = |id: HostId, ledger: &[u8]| {
            let payload = cbor::encode(&Payload { host: id, head: ByteBuf::from(ledger.to_vec()), sheets: vec![] }).unwrap();
            let signature = ours.signing.sign(&signed_message(t.repo.id(), &key, &payload));
            outbox.post(&key, &cbor::encode(&Signed { payload: ByteBuf::from(payload.to_vec()), signature }).unwrap()).unwrap();
            opened(&t).map(|_| ()).map_err(|e| e.to_string())
        };
        assert!(post(ours.id, &plain).is_ok());
        assert!(post(theirs.id, &plain).unwrap_err().contains("its signature is not that of host web2"));
        assert!(post(HostId([7; 16]), &plain).unwrap_err().contains("no host of this repository"));
        let knowing = Head { ledger_epoch: 99, ..head(&t, &outbox, Default::default(), 0) };
        assert!(post(ours.id, &cbor::encode(&knowing).unwrap()).unwrap_err().contains("claims to know the ledger"));
        let other = Head { dataset: "e".into(), ..head(&t, &outbox, Default::default(), 0) };
        assert!(post(ours.id, &cbor::encode(&other).unwrap()).unwrap_err().contains("another archive"));
        t.repo.remove_host(&ours.id).unwrap();
        assert!(post(ours.id, &plain).unwrap_err().contains("was removed"));
    }

    #[test]
    fn hostile_bytes_in_the_intake_are_refused() {
        let t = testing::fixture();
        let host = host(&t, "web1");
        let outbox = outbox(&t, &host);
        let key = head_key("d", &outbox.archive());
        for bytes in [&b""[..], b"RSI1", b"RSI1 and so on", &[0xff; 200]] {
            t.keys.put(&key, bytes).unwrap();
            assert!(matches!(opened(&t), Err(Error::Damaged { .. })));
        }
        for plain in [&b""[..], b"\xa0", &[0xff; 64]] {
            outbox.post(&key, plain).unwrap();
            assert!(matches!(opened(&t), Err(Error::Damaged { .. })));
        }
        t.keys.put("intake/d/rubbish", b"x").unwrap();
        t.keys.put("intake/d/rubbish/more", b"x").unwrap_or_default();
        assert_eq!(t.repo.pending("d").unwrap().len(), 1);
    }
}
