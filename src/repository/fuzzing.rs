//! What the repository reads from its stores, laid open to the fuzz targets: the parsers behind the seals, since whoever may put into an intake,
//! or holds a key, seals what he likes. See [`crate::fuzzing`].

use super::entry::{ChunkId, ChunkRef, Entry, EntryKind, Role, Time, Tree};
use super::export::Export;
use super::host::HostKey;
use super::id::{ArchiveId, PackId, RepoId};
use super::intake::{self, Outbox, Payload, Pending, Signed};
use super::ledger::LedgerEntry;
use super::sheet::{self, Codec, Row, Sheet};
use super::{Dataset, Head, InitOptions, Location, Params, Repository, cbor, chunk, head, lease, ledger, list, tree};
use crate::crypto::kdf::KdfParams;
use crate::crypto::secret::{Key, KeyFile, Secret};
use crate::crypto::slot::Slot;
use crate::env::{Env, FixedClock, Random, Silent, Stop};
use crate::store::Store;
use crate::store::memory::Memory;
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

const REPOSITORY: RepoId = RepoId([1; 16]);
const PACK: PackId = PackId([5; 16]);
const NAME: &str = "d";

fn dataset() -> Dataset {
    Dataset::from_secret(NAME, &Key::new(Zeroizing::new([3; 32])))
}

fn row(dataset: &Dataset, plain: &[u8], stored: usize, codec: Codec) -> Row {
    Row {
        id: dataset.chunk_id(plain),
        key: [7; 32],
        ordinal: 0,
        offset: 0,
        stored: stored as u32,
        len: plain.len() as u32,
        codec,
        role: Role::Data,
    }
}

/// A chunk's body: codec, the length that its row tells, the bytes. Both ways of opening it say the same.
pub fn chunk(data: &[u8]) {
    let Some(([codec, a, b, c, d], body)) = data.split_first_chunk::<5>() else { return };
    let codec = if *codec == 0 { Codec::Raw } else { Codec::Zstd };
    let dataset = dataset();
    let mut row = row(&dataset, b"", body.len() + 16, codec);
    row.len = u32::from_be_bytes([*a, *b, *c, *d]) % (super::params::MAX_CHUNK + 1);
    // What the row's id says is what comes out, if anything does.
    if let Ok(plain) = zstd::bulk::decompress(body, row.len as usize) {
        row.id = dataset.chunk_id(&plain);
    }
    let first = chunk::decode_body(&dataset, &row, body.to_vec());
    let (mut sealed, mut room) = (body.to_vec(), Vec::new());
    assert!(chunk::seal_body(&REPOSITORY, &PACK, &row, &mut sealed).is_ok());
    let second = chunk::open_in_place(&REPOSITORY, &dataset, &PACK, &row, &mut sealed, &mut room);
    assert!(first.as_deref() == second.as_deref());
    assert!(first.is_err() || first.is_ok_and(|plain| plain.len() == row.len as usize));
}

/// A key sheet. What is read is written as it was.
pub fn sheet(data: &[u8]) {
    let Ok(sheet) = Sheet::decode(&sheet::key(NAME, &PACK), data) else { return };
    assert!(sheet.live() <= sheet.size && sheet.duplicate().rows.len() == sheet.rows.len());
    let again = sheet.encode().and_then(|bytes| Sheet::decode(&sheet::key(NAME, &PACK), &bytes)).and_then(|again| again.encode());
    assert!(again.is_ok_and(|again| sheet.encode().is_ok_and(|first| *first == *again)));
}

/// A head, and the name of its object.
pub fn head(data: &[u8]) {
    let _ = std::str::from_utf8(data).map(head::parse_name);
    if let Ok(head) = cbor::decode::<Head>("a head", data) {
        let _ = (tree::too_deep(&head.entries), head.entries.len());
        assert!(cbor::encode(&head).and_then(|bytes| cbor::decode::<Head>("a head", &bytes)).is_ok_and(|again| again == head));
    }
}

/// What a list chunk holds, and an index chunk.
pub fn list(data: &[u8]) -> Vec<Arc<Entry>> {
    if let Ok(refs) = cbor::decode::<Vec<ChunkRef>>("an index chunk", data) {
        let tree = Tree { depth: 1, refs };
        let _ = (tree::too_deep(&tree), tree.is_empty());
    }
    let Ok(entries) = list::decode(data) else { return Vec::new() };
    for entry in entries.iter() {
        let _ = entry.display_path();
        assert!(cbor::encode(&**entry).and_then(|bytes| cbor::decode::<Entry>("an entry", &bytes)).is_ok_and(|again| again == **entry));
    }
    entries.to_vec()
}

/// An entry of the ledger; and the bodies of several, back to back.
pub fn ledger(data: &[u8]) -> Vec<LedgerEntry> {
    let mut out = Vec::new();
    out.extend(LedgerEntry::decode("ledger/0000000001", data));
    let mut rest = data;
    while let Ok(body) = ciborium::de::from_reader_with_recursion_limit::<ciborium::Value, _>(&mut rest, 64) {
        let plain = ledger::encode(out.len() as u64, jiff::Timestamp::UNIX_EPOCH, "somebody", [0; 32], &body);
        out.extend(plain.and_then(|plain| LedgerEntry::decode("ledger/0000000001", &plain)));
    }
    out
}

/// CBOR of a value: for seeds.
pub fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    cbor::encode(value).map(|bytes| bytes.to_vec()).unwrap_or_default()
}

/// `reseal.json`, and a lease.
pub fn params(data: &[u8]) {
    if let Ok(params) = Params::decode(data) {
        assert!(params.encode().and_then(|bytes| Params::decode(&bytes)).is_ok_and(|again| again == params));
    }
    let _ = lease::decode("leases/d", data);
}

/// A key slot behind its checksum, a put-only host's key.
pub fn keys(data: &[u8]) {
    let slot = |bytes: &[u8]| {
        let Ok(slot) = Slot::decode("slots/x", bytes) else { return };
        let secret = Secret::KeyFile(key_file());
        if let Ok(Some(unlocked)) = slot.unlock(&secret) {
            let _ = slot.keyring(&unlocked);
        }
        let _ = (slot.id(), slot.created(), slot.label(), slot.is_passphrase(), slot.encode());
    };
    slot(data);
    slot(&[b"RSS1".as_slice(), blake3::hash(data).as_bytes().get(..8).unwrap_or_default(), data].concat());
    let text = String::from_utf8_lossy(data);
    let _ = (KeyFile::parse(&text), HostKey::parse(&text), super::host::is_host_key(&text));
    let _ = HostKey::parse(&format!("RESEAL-PUT-KEY-1:{}\n", hex::encode(data)));
}

fn key_file() -> KeyFile {
    KeyFile::parse(&format!("RESEAL-KEY-1:{}", "07".repeat(32))).unwrap_or_else(|e| panic!("{e}"))
}

/// A file of exported keys, as it is and behind a digest that fits.
pub fn export(data: &[u8]) {
    let _ = Export::decode("f", data);
    let whole = [b"RSX1".as_slice(), blake3::hash(data).as_bytes(), data].concat();
    if let Ok(export) = Export::decode("f", &whole) {
        assert!(export.encode().and_then(|bytes| Export::decode("f", &bytes)).is_ok_and(|again| again.objects == export.objects));
    }
}

/// The same numbers each time, so that what a run found is found again.
struct Same(AtomicU64);

impl Random for Same {
    fn fill(&self, out: &mut [u8]) -> crate::Result<()> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(out);
        Ok(())
    }
}

/// A repository that takes from a host, and the host.
struct Receiver {
    repo: Repository,
    store: Arc<Memory>,
    host: Arc<HostKey>,
    outbox: Outbox,
    dataset: Arc<Dataset>,
    empty: BTreeMap<String, Vec<u8>>,
}

fn receiver() -> crate::Result<Receiver> {
    let store = Arc::new(Memory::new("memory", BTreeMap::new()));
    let location = Location::single(store.clone());
    let clock = Arc::new(FixedClock(jiff::Timestamp::UNIX_EPOCH));
    let env = Env { clock, random: Arc::new(Same(AtomicU64::new(0))), stop: Stop::default(), monitor: Arc::new(Silent) };
    let options = InitOptions { kdf: KdfParams { memory_kib: 8, passes: 1, lanes: 1 }, ..InitOptions::default() };
    let repo = Repository::init(location.clone(), &Secret::KeyFile(key_file()), options, &env)?;
    let dataset = repo.create_dataset(NAME)?;
    repo.publish_put_key(NAME)?;
    repo.list_known(&dataset, &BTreeSet::new())?;
    let host = Arc::new(repo.make_host("web1", &[NAME.to_string()])?);
    let outbox = Outbox::open(location, env, host.clone(), NAME)?;
    let empty = store.objects().clone();
    Ok(Receiver { repo, store, host, outbox, dataset, empty })
}

impl Receiver {
    /// Hands in what a host that lies signed.
    fn signed(&self, key: &str, payload: &[u8]) {
        let signature = self.host.signing.sign(&intake::signed_message(self.repo.id(), key, payload));
        let _ = self.outbox.post(key, &encoded(&Signed { payload: ByteBuf::from(payload.to_vec()), signature }));
    }

    fn payload(&self, head: Vec<u8>, sheets: Vec<(PackId, ByteBuf)>) -> Vec<u8> {
        encoded(&Payload { host: self.host.id, head: ByteBuf::from(head), sheets })
    }
}

fn some_head(archive: ArchiveId) -> Head {
    Head {
        archive,
        dataset: NAME.into(),
        generation: 1,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        sealed_at: jiff::Timestamp::UNIX_EPOCH,
        tag: Some("t".into()),
        ledger_epoch: 0,
        entries: Tree { depth: 0, refs: vec![ChunkRef { id: ChunkId([9; 32]), len: 7, marks: None }] },
        entry_count: 1,
        source_bytes: 7,
        stored_bytes: 30,
        map_digest: String::new(),
        previous: None,
        tool: "test".into(),
        source: "paths".into(),
        warnings: 0,
    }
}

/// What a put-only host hands in: a sealed object, a signed one, a head, a key sheet with its pack; the first byte says which.
pub fn intake(data: &[u8]) {
    static RECEIVER: OnceLock<crate::Result<Receiver>> = OnceLock::new();
    let Ok(to) = RECEIVER.get_or_init(receiver) else { panic!("no repository") };
    let Some((what, rest)) = data.split_first() else { return };
    *to.store.objects() = to.empty.clone();
    let archive = to.outbox.archive();
    let key = intake::head_key(NAME, &archive);
    match what % 6 {
        0 => drop(to.store.put(&key, rest)),
        1 => drop(to.outbox.post(&key, rest)),
        2 => to.signed(&key, rest),
        3 => to.signed(&key, &to.payload(rest.to_vec(), vec![])),
        4 => {
            // The sheet's length, the sheet, the pack.
            let Some(([a, b], rest)) = rest.split_first_chunk::<2>() else { return };
            let (plain, pack) = rest.split_at(usize::from(u16::from_be_bytes([*a, *b])).min(rest.len()));
            let Ok(digest) = to.outbox.post(&intake::sheet_key(NAME, &archive, &PACK), plain) else { return };
            let _ = to.store.put(&sheet::pack_key(NAME, &PACK), pack);
            to.signed(&key, &to.payload(encoded(&some_head(archive)), vec![(PACK, ByteBuf::from(digest))]));
        }
        _ => {
            let _ = to.store.put(&format!("known/{NAME}/{PACK}"), rest);
            let _ = to.outbox.known();
            return;
        }
    }
    for pending in to.repo.pending(NAME).unwrap_or_default() {
        if let Ok(opened) = to.repo.open_pending(&to.dataset, &pending) {
            let _ = to.repo.admit(&to.dataset, &opened);
        }
        let _ = to.repo.clear_pending(&Pending { strange: vec![], ..pending });
    }
}

/// Things to begin with, by the name of their target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let text = b"so it goes ".repeat(20);
    let frame = zstd::bulk::compress(&text, 3).unwrap_or_default();
    let packed = |repository: &RepoId, dataset: &Dataset, codec: Codec| {
        let mut body = if codec == Codec::Raw { text.clone() } else { frame.clone() };
        let row = row(dataset, &text, body.len() + 16, codec);
        let _ = chunk::seal_body(repository, &PACK, &row, &mut body);
        let size = body.len() as u64;
        (Sheet { pack: PACK, size, rows: vec![row], pending: vec![] }, body)
    };
    match target {
        "chunk" => {
            let with = |codec: u8, body: &[u8]| [&[codec], (text.len() as u32).to_be_bytes().as_slice(), body].concat();
            vec![with(0, &text), with(1, &frame)]
        }
        "sheet" => {
            let (mut sheet, _) = packed(&REPOSITORY, &dataset(), Codec::Zstd);
            let one = sheet.encode().map(|b| b.to_vec()).unwrap_or_default();
            let mut more = row(&dataset(), b"more", 20, Codec::Raw);
            (more.ordinal, more.offset, more.role) = (1, sheet.size as u32 + 7, Role::Marks);
            sheet.pending.push((sheet.size, 7));
            sheet.size += 27;
            sheet.rows.push(more);
            vec![one, sheet.encode().map(|b| b.to_vec()).unwrap_or_default()]
        }
        "head" => {
            let mut head = some_head(ArchiveId([2; 16]));
            let first = encoded(&head);
            (head.generation, head.previous, head.ledger_epoch, head.tag) = (2, Some("00".repeat(32)), 5, None);
            vec![first, encoded(&head), b"02020202020202020202020202020202.2".to_vec()]
        }
        "list" | "tar" => vec![encoded(&some_head(ArchiveId([2; 16])).entries.refs), entries().iter().flat_map(encoded).collect()],
        "ledger" => {
            #[derive(serde::Serialize)]
            struct Entry<'a> {
                seq: u64,
                at: jiff::Timestamp,
                actor: &'a str,
                #[serde(with = "serde_bytes")]
                prev: [u8; 32],
                body: BTreeMap<&'a str, &'a str>,
            }
            let body = BTreeMap::from([("event", "repository-created"), ("tool", "test")]);
            vec![encoded(&Entry { seq: 1, at: jiff::Timestamp::UNIX_EPOCH, actor: "me", prev: [0; 32], body })]
        }
        "params" => receiver().ok().and_then(|to| to.store.get(super::params::KEY).ok()).into_iter().collect(),
        "keys" => {
            let Ok(to) = receiver() else { return vec![] };
            let mut out = vec![key_file().encode().as_bytes().to_vec()];
            let slots = to.empty.iter().filter(|(key, _)| key.starts_with("slots/"));
            out.extend(slots.filter_map(|(_, bytes)| bytes.get(12..).map(<[u8]>::to_vec)));
            let text = to.host.encode().map(|t| t.to_string()).unwrap_or_default();
            out.extend(text.trim().split_once(':').and_then(|(_, digits)| hex::decode(digits).ok()));
            out.push(text.into_bytes());
            out
        }
        "export" => {
            let Ok(to) = receiver() else { return vec![] };
            let Ok((export, _)) = Export::collect(&to.repo, "0123456789ab", 0) else { return vec![] };
            let file = export.encode().unwrap_or_default();
            vec![file.get(36..).unwrap_or_default().to_vec(), file]
        }
        "intake" => {
            let Ok(to) = receiver() else { return vec![] };
            let head = encoded(&some_head(to.outbox.archive()));
            let mut out = vec![[&[3], head.as_slice()].concat(), [&[2], to.payload(head, vec![]).as_slice()].concat()];
            for codec in [Codec::Raw, Codec::Zstd] {
                let (sheet, pack) = packed(to.repo.id(), &to.dataset, codec);
                let sheet = sheet.encode().map(|b| b.to_vec()).unwrap_or_default();
                out.push([&[4], (sheet.len() as u16).to_be_bytes().as_slice(), &sheet, &pack].concat());
            }
            let objects = to.empty.values().take(4).map(|bytes| [&[5], bytes.as_slice()].concat());
            out.extend(objects.chain([b"\x00RSI1 and so on".to_vec(), b"\x01\xa0".to_vec()]));
            out
        }
        _ => vec![],
    }
}

fn entries() -> Vec<Entry> {
    let tree = Tree { depth: 0, refs: vec![ChunkRef { id: ChunkId([9; 32]), len: 7, marks: Some(ChunkId([8; 32])) }] };
    let plain = |path: &[u8], kind| Entry {
        mode: 0o640,
        uid: 1,
        gid: 2,
        user: "u".into(),
        group: "g".into(),
        mtime: Time(1_700_000_000, 5),
        ..Entry::bare(path.to_vec(), kind)
    };
    let mut file = plain(b"a/b.csv", EntryKind::File);
    (file.size, file.content) = (7, Some(tree));
    file.mapped = Some(super::entry::Mapped { format: "csv".into(), covers: vec!["x(email:raw)".into()], scrubbed: false });
    file.xattrs = vec![(ByteBuf::from(b"user.x".to_vec()), ByteBuf::from(b"y".to_vec()))];
    let mut sparse = plain(b"a/\xffsparse", EntryKind::File);
    (sparse.size, sparse.segments) = (100, Some(vec![(3, 4), (50, 3)]));
    let mut link = plain(b"a/l", EntryKind::Symlink);
    link.link = Some(ByteBuf::from(b"b.csv".to_vec()));
    let mut device = plain(b"dev", EntryKind::CharDevice);
    device.rdev = Some((1, 3));
    vec![plain(b"a", EntryKind::Directory), file, sparse, link, device]
}
