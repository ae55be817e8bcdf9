use super::entry::{ChunkId, ChunkRef, Role, Tree};
use super::testing::*;
use super::*;
use crate::store::fault::{Counting, Faulty};
use crate::store::local::LocalStore;
use crate::store::{Object, StoreResult, Wiped};
use proptest::prelude::*;
use std::time::Duration;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn what_is_backed_up_is_restored_also_by_another_process() {
    let t = fixture_with(small());
    let contents: Vec<Vec<u8>> = (0..50).map(|n| if n % 2 == 0 { bytes(n, 500 + n as usize) } else { vec![n as u8; 3000] }).collect();
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).chain([b"".as_slice()]).collect();
    let head = put_archive(&t, 1, &contents);
    let again = Arc::new(t.open().unwrap());
    let dataset = again.dataset("d").unwrap().unwrap();
    let heads = again.heads("d").unwrap();
    assert_eq!(heads.latest[0].head, head);
    let reader = ChunkReader::new(&again, &dataset, again.index(&dataset).unwrap(), 0);
    let restored = restore(&reader, &head).unwrap();
    assert_eq!(restored.len(), contents.len());
    for (n, (path, bytes)) in restored.iter().enumerate() {
        assert_eq!((path.as_str(), bytes.as_slice()), (format!("file-{n}").as_str(), contents[n]));
    }
    assert!(reader.index().packs().len() > 3, "small packs were asked for");
    assert_eq!(again.datasets().unwrap(), ["d"]);
    assert_eq!(again.verifying_key(), t.repo.verifying_key());
}

#[test]
fn the_same_chunk_is_stored_once_per_role_and_never_shared_between_datasets() {
    let t = fixture();
    let (a, b) = (t.repo.create_dataset("a").unwrap(), t.repo.create_dataset("b").unwrap());
    let writer = ChunkWriter::new(&t.repo, &a, t.repo.index(&a).unwrap(), WriteOptions::default());
    let first = writer.add(Role::Data, b"chunk").unwrap();
    assert!(first.new && first.stored == 5 + 16);
    assert_eq!(writer.add(Role::Data, b"chunk").unwrap(), Added { new: false, stored: 0, ..first });
    assert!(writer.add(Role::Marks, b"chunk").unwrap().new);
    let written = writer.finish().unwrap();
    assert_eq!((written.chunks, writer.finish().unwrap()), (2, written));
    assert!(writer.add(Role::Data, b"more").is_ok() && writer.finish().is_err(), "nothing added later is silently lost");
    let index = writer.index();
    assert!(index.contains(&first.id, Role::Data) && index.contains(&first.id, Role::Marks) && !index.contains(&first.id, Role::Index));
    assert_eq!(index.len(), 2);
    let again = ChunkWriter::new(&t.repo, &a, index, WriteOptions::default());
    assert!(!again.add(Role::Data, b"chunk").unwrap().new);
    let other = ChunkWriter::new(&t.repo, &b, t.repo.index(&b).unwrap(), WriteOptions::default());
    assert!(other.add(Role::Data, b"chunk").unwrap().new);
    assert_ne!(other.add(Role::Data, b"chunk").unwrap().id, first.id);
}

#[test]
fn a_sheet_is_not_written_once_the_lease_is_lost() {
    let t = fixture();
    let dataset = t.repo.create_dataset("d").unwrap();
    let write = |late: bool| {
        let lease = t.repo.lease("d", Duration::from_secs(60)).unwrap();
        let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default()).under(&lease);
        writer.add(Role::Data, if late { b"late" } else { b"in time" }).unwrap();
        if late {
            t.clock.advance(61);
        }
        writer.finish().map(|_| ())
    };
    write(false).unwrap();
    assert!(matches!(write(true), Err(Error::Refused(text)) if text.contains("lost")));
    let (sheets, packs) = (t.repo.location().keys.list("sheets/d/").unwrap(), t.repo.location().data.list("packs/d/").unwrap());
    assert_eq!((sheets.len(), packs.len()), (1, 2), "a pack without a sheet is swept; a sheet without a pack is not");
}

#[test]
fn writers_threads_share_one_writer() {
    let t = fixture_with(small());
    let dataset = t.repo.create_dataset("d").unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions { level: 1, open_packs: 3 });
    let new: u64 = std::thread::scope(|scope| {
        let writer = &writer;
        let threads: Vec<_> = (0..4u64)
            .map(|k| {
                scope.spawn(move || {
                    (0..100).map(|n| u64::from(writer.add(Role::Data, &bytes(n + k % 2 * 50, 700)).unwrap().new)).sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(new, 150);
    assert_eq!(writer.finish().unwrap().chunks, 150);
    let reader = ChunkReader::new(&t.repo, &dataset, writer.index(), 1 << 20);
    for n in 0..150 {
        assert_eq!(*reader.read(&dataset.chunk_id(&bytes(n, 700)), Role::Data).unwrap(), bytes(n, 700));
    }
}

#[test]
fn a_store_that_fails_fails_the_writer_and_leaves_no_sheet_without_its_pack() {
    for step in 0..6 {
        let t = fixture_with(small());
        let dataset = t.repo.create_dataset("d").unwrap();
        let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default());
        t.faulty.fail_from(step);
        let added: Result<Vec<Added>> = (0..40).map(|n| writer.add(Role::Data, &bytes(n, 1000))).collect();
        assert!(added.is_err() || writer.finish().is_err());
        assert!(writer.finish().is_err());
        t.faulty.heal();
        let index = t.repo.index(&dataset).unwrap();
        let reader = ChunkReader::new(&t.repo, &dataset, index.clone(), 0);
        for (id, role) in index.iter() {
            reader.read(&id, role).unwrap();
        }
    }
}

#[test]
fn too_large_a_piece_is_refused() {
    let t = fixture_with(Sizes { chunk_limit: 1 << 20, opaque: Cut { min: 64, avg: 64, max: 64 }, ..small() });
    let dataset = t.repo.create_dataset("d").unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default());
    assert!(writer.add(Role::Data, &vec![0; 1 << 20]).is_ok());
    assert!(matches!(writer.add(Role::Data, &vec![0; (1 << 20) + 1]), Err(Error::Refused(_))));
    writer.finish().unwrap();
}

/// Opens everything and reads it all; what every kind of damage is tried against.
fn read_all(t: &Fixture) -> Result<Vec<(String, Vec<u8>)>> {
    let repo = Arc::new(t.open()?);
    let heads = repo.heads("d")?;
    if let Some((_, e)) = heads.damaged.into_iter().next() {
        return Err(e);
    }
    let dataset = repo.dataset("d")?.ok_or_else(|| Error::damaged("datasets/d", "gone"))?;
    let reader = ChunkReader::new(&repo, &dataset, repo.index(&dataset)?, 1 << 20);
    Ledger::load(&repo)?.check()?;
    repo.slots()?;
    let head = heads.latest.first().ok_or_else(|| Error::damaged("archives/", "gone"))?;
    restore(&reader, &head.head)
}

#[test]
fn no_flipped_byte_cut_end_or_missing_object_ever_gives_wrong_data() {
    let t = fixture();
    put_archive(&t, 1, &[b"first file", b"second file", &bytes(1, 200)]);
    let mut ledger = Ledger::load(&t.repo).unwrap();
    ledger.append("a", &"one").unwrap();
    ledger.append("a", &"two").unwrap();
    t.break_leases();
    let whole = read_all(&t).unwrap();
    for Object { key, len, .. } in t.data.list("").unwrap() {
        let good = t.data.get(&key).unwrap();
        let stride = (len as usize / 150).max(1);
        for at in (0..good.len()).step_by(stride).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            t.data.put(&key, &bad).unwrap();
            assert!(read_all(&t).is_err(), "{key}: byte {at} of {len}");
            t.data.put(&key, &good[..at]).unwrap();
            assert!(read_all(&t).is_err(), "{key}: cut to {at} of {len}");
        }
        t.data.delete(&key).unwrap();
        // The end of the ledger is the catalog's to remember.
        assert_eq!(read_all(&t).is_err(), key != "ledger/0000000002", "{key} missing");
        t.data.put(&key, &good).unwrap();
    }
    assert_eq!(read_all(&t).unwrap(), whole);
}

#[test]
fn damage_is_told_from_a_wrong_passphrase() {
    let t = fixture();
    let wrong = || t.open_with(&Secret::passphrase("wrong").unwrap());
    assert!(matches!(wrong(), Err(Error::WrongSecret { slots: 1 })));
    let slot = t.keys.list("slots/").unwrap()[0].key.clone();
    let mut bytes = t.keys.get(&slot).unwrap();
    bytes[60] ^= 1;
    t.keys.put(&slot, &bytes).unwrap();
    assert!(matches!(wrong(), Err(Error::Damaged { object, .. }) if object == slot));
    assert!(matches!(t.open(), Err(Error::Damaged { .. })));
    t.keys.delete(&slot).unwrap();
    assert!(matches!(t.open(), Err(Error::Damaged { .. })));
}

#[test]
fn a_repository_is_made_once_and_only_where_nothing_is() {
    let t = fixture();
    let init = |store: Arc<dyn Store>| {
        Repository::init(Location::single(store), &secret(), InitOptions { kdf: FAST, ..InitOptions::default() }, &t.env)
    };
    assert!(matches!(init(t.data.clone()), Err(Error::Refused(_))));
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(init(Arc::new(LocalStore::open(other.path()).unwrap())), Err(Error::Refused(_))));
    let empty = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(empty.path()).unwrap());
    assert!(matches!(Repository::open(Location::single(store.clone()), &secret(), &t.env), Err(Error::Refused(_))));
    // A crash at any point of init leaves no repository, and the next init is not disturbed by what it left.
    for step in 0..3 {
        let faulty = Arc::new(crate::store::fault::Faulty::new(store.clone()));
        faulty.fail_from(step);
        assert!(init(faulty).is_err());
        assert!(store.get(params::KEY).is_err());
    }
    init(store.clone()).unwrap();
    let repo = Repository::open(Location::single(store), &secret(), &t.env).unwrap();
    assert_eq!(repo.slots().unwrap().len(), 1);
}

#[test]
fn keys_may_live_apart_from_the_data() {
    let t = fixture();
    let (data, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = |dir: &tempfile::TempDir| -> Arc<dyn Store> { Arc::new(LocalStore::open(dir.path()).unwrap()) };
    let location = Location { data: store(&data), keys: store(&keys) };
    let options = InitOptions { kdf: FAST, ..InitOptions::default() };
    let repo = Arc::new(Repository::init(location.clone(), &secret(), options, &t.env).unwrap());
    let t = Fixture { repo, data: location.data.clone(), keys: location.keys.clone(), ..t };
    put_archive(&t, 1, &[b"x"]);
    let folders = |dir: &tempfile::TempDir| {
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| !n.starts_with('.'));
        names.sort();
        names
    };
    assert_eq!(folders(&data), ["archives", "packs", "reseal.json"]);
    assert_eq!(folders(&keys), ["datasets", "sheets", "signing", "slots"]);
    let again = Arc::new(Repository::open(location, &secret(), &t.env).unwrap());
    again.rotate_root().unwrap();
    assert_eq!(again.heads("d").unwrap().latest.len(), 1);
    again.shred_dataset("d").unwrap();
    assert!(again.dataset("d").unwrap().is_none() && again.datasets().unwrap().is_empty());
    assert!(
        t.data.list("packs/").unwrap().is_empty()
            && t.data.list("archives/").unwrap().is_empty()
            && t.keys.list("sheets/").unwrap().is_empty()
    );
}

#[test]
fn generations_are_told_apart_and_a_damaged_head_hides_no_other() {
    let t = fixture();
    let first = put_archive(&t, 1, &[b"x"]);
    t.clock.advance(10);
    put_archive(&t, 2, &[b"y"]);
    assert!(matches!(t.repo.put_head(&first), Err(Error::Refused(_))), "a head is written once");
    let digest = t.repo.heads("d").unwrap().latest[0].digest.clone();
    let second = Head { generation: 2, previous: Some(digest), ..first.clone() };
    let digest = t.repo.put_head(&second).unwrap();
    t.data.put("archives/d/rubbish", b"x").unwrap();
    let heads = t.repo.heads("d").unwrap();
    let latest: Vec<_> = heads.latest.iter().map(|l| (l.head.archive.0[0], l.head.generation)).collect();
    assert_eq!(latest, [(1, 2), (2, 1)]);
    assert_eq!((heads.older.len(), heads.older[0].head.generation, heads.damaged.len()), (1, 1, 1));
    assert_eq!(heads.latest[0].digest, digest);
    t.repo.rotate_root().unwrap();
    assert_eq!(t.repo.heads("d").unwrap().latest[0].digest, digest, "the digest is the head's, not its seal's");
    t.repo.delete_head("d", &first.archive, 1).unwrap();
    assert!(t.repo.heads("d").unwrap().older.is_empty());
    // One head's bytes under another's name.
    let copy = t.data.get(&heads.latest[0].key).unwrap();
    t.data.put(&heads.latest[1].key, &copy).unwrap();
    let heads = t.repo.heads("d").unwrap();
    assert_eq!((heads.latest.len(), heads.damaged.len()), (1, 2));
}

/// An archive of files with these contents, and a reader whose requests are counted.
fn counted(t: &Fixture, contents: &[Vec<u8>]) -> (Arc<Counting>, ChunkReader) {
    put_archive(t, 1, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let counting = Arc::new(Counting::new(t.data.clone()));
    let repo = Arc::new(Repository::open(Location::single(counting.clone()), &secret(), &t.env).unwrap());
    let dataset = repo.dataset("d").unwrap().unwrap();
    let reader = ChunkReader::new(&repo, &dataset, repo.index(&dataset).unwrap(), 1 << 20);
    (counting, reader)
}

#[test]
fn prefetching_brings_neighbours_with_one_read() {
    let t = fixture();
    let contents: Vec<Vec<u8>> = (0..60).map(|n| bytes(n, 2000)).collect();
    let (counting, reader) = counted(&t, &contents);
    let (dataset, index) = (reader.dataset().clone(), reader.index().clone());
    let ids: Vec<(ChunkId, Role)> = contents.iter().map(|c| (dataset.chunk_id(c), Role::Data)).collect();
    let before = counting.counts().ranges;
    reader.prefetch(&ids);
    reader.prefetch(&[(ChunkId([0; 32]), Role::Data)]);
    for ((id, role), content) in ids.iter().zip(&contents) {
        assert_eq!(*reader.read(id, *role).unwrap(), *content);
    }
    assert!(counting.counts().ranges - before <= index.packs().len() as u64);
    let tiny = ChunkReader::new(reader.repository(), &dataset, index, 5000);
    tiny.prefetch(&ids);
    ids.iter().for_each(|(id, role)| drop(tiny.read(id, *role).unwrap()));
    assert_eq!(*tiny.read(&ids[3].0, Role::Data).unwrap(), contents[3]);
}

#[test]
fn many_chunks_are_handed_out_each_as_often_as_it_is_asked_for_and_the_damaged_one_alone_as_an_error() {
    let t = fixture();
    // Some compress, some do not, and all sizes are odd.
    let contents: Vec<Vec<u8>> = (0..80).map(|n| if n % 3 == 0 { vec![n as u8; 3001] } else { bytes(n, 1000 + n as usize) }).collect();
    let (counting, reader) = counted(&t, &contents);
    let (dataset, index) = (reader.dataset().clone(), reader.index().clone());
    let mut ids: Vec<(ChunkId, Role)> = contents.iter().map(|c| (dataset.chunk_id(c), Role::Data)).collect();
    ids.push(ids[5]);
    ids.push((ChunkId([7; 32]), Role::Data));
    let sequential = |reader: &ChunkReader| {
        let mut got: Vec<Option<Result<Vec<u8>, String>>> = vec![None; ids.len()];
        let take = |n: usize, read: Result<&[u8]>| {
            assert!(got[n].replace(read.map(<[u8]>::to_vec).map_err(|e| e.to_string())).is_none(), "{n} twice");
            Ok(())
        };
        reader.each(&ids, take).unwrap();
        got.into_iter().map(Option::unwrap).collect::<Vec<_>>()
    };
    let before = counting.counts().ranges;
    let got = sequential(&reader);
    assert!(counting.counts().ranges - before <= index.packs().len() as u64, "neighbours come with one read");
    contents.iter().enumerate().for_each(|(n, c)| assert_eq!(got[n].as_ref().unwrap(), c));
    assert_eq!(got[80].as_ref().unwrap(), &contents[5]);
    assert!(got[81].is_err());
    let parallel: Vec<std::sync::OnceLock<Result<Vec<u8>, String>>> = ids.iter().map(|_| std::sync::OnceLock::new()).collect();
    reader.each_parallel(&ids, &|| false, &|n, read| parallel[n].set(read.map(<[u8]>::to_vec).map_err(|e| e.to_string())).unwrap());
    assert_eq!(parallel.into_iter().map(|p| p.into_inner().unwrap()).collect::<Vec<_>>(), got);
    // One bit of one chunk.
    let hit = index.get(&ids[40].0, Role::Data).unwrap();
    let key = format!("packs/d/{}", pack_name(&*t.data, &hit.pack.to_string()));
    let mut pack = t.data.get(&key).unwrap();
    pack[hit.offset as usize] ^= 1;
    t.data.put(&key, &pack).unwrap();
    let damaged = sequential(&reader);
    (0..ids.len()).filter(|n| *n != 40).for_each(|n| assert_eq!(damaged[n], got[n]));
    assert!(damaged[40].as_ref().unwrap_err().contains("its seal does not open"), "{damaged:?}");
    // The pack ends early: only what is behind the end is lost.
    pack.truncate(hit.offset as usize);
    t.data.put(&key, &pack).unwrap();
    for (n, read) in sequential(&reader).iter().enumerate().take(80) {
        let place = index.get(&ids[n].0, Role::Data).unwrap();
        let lost = place.pack == hit.pack && place.offset >= hit.offset;
        assert_eq!(read.is_err(), lost, "{n}: {read:?}");
    }
    // And whoever says stop gets nothing more.
    assert!(reader.each(&ids, |_, _| Err(Error::Refused("enough".into()))).is_err());
    reader.each_parallel(&ids, &|| true, &|_, _| panic!("after the end"));
}

#[test]
fn what_is_far_away_is_shared_out_by_where_it_lies() {
    let t = fixture();
    let contents: Vec<Vec<u8>> = (0..30).map(|n| bytes(n, 1 << 20)).collect();
    put_archive(&t, 1, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let faulty = Arc::new(Faulty::new(t.data.clone()));
    faulty.as_remote(true);
    let counting = Arc::new(Counting::new(faulty));
    let repo = Arc::new(Repository::open(Location::single(counting.clone()), &secret(), &t.env).unwrap());
    let dataset = repo.dataset("d").unwrap().unwrap();
    let reader = ChunkReader::new(&repo, &dataset, repo.index(&dataset).unwrap(), 1 << 20);
    let mut wanted: Vec<usize> = (0..=30).collect();
    wanted.push(3);
    let id = |n: &usize| contents.get(*n).map(|c| (dataset.chunk_id(c), Role::Data));
    let shares = reader.by_place(wanted, id);
    let mut all: Vec<usize> = shares.iter().flatten().copied().collect();
    assert_eq!(all[0], 30, "what lies nowhere comes first");
    all.sort_unstable();
    assert_eq!(all, [&[0, 1, 2, 3, 3], &Vec::from_iter(4..=30)[..]].concat(), "each is in one share");
    let before = counting.counts().ranges;
    for share in &shares {
        let ids: Vec<_> = share.iter().filter_map(id).collect();
        reader.each(&ids, |_, read| read.map(drop)).unwrap();
    }
    let reads = counting.counts().ranges - before;
    assert!(reads <= 5, "30 MB in two packs: {reads} reads in {} shares", shares.len());
    assert!(shares.len() >= 3, "and yet there is work for several threads: {}", shares.len());
}

/// A pack's key below `packs/d/`.
fn pack_name(store: &dyn Store, id: &str) -> String {
    let listed = store.list("packs/d/").unwrap().into_iter().find(|o| o.key.ends_with(id)).unwrap();
    listed.key.trim_start_matches("packs/d/").to_string()
}

fn reference(n: u64) -> ChunkRef {
    let mut id = [0; 32];
    id.copy_from_slice(&bytes(n, 32));
    ChunkRef { id: ChunkId(id), len: n % 100, marks: n.is_multiple_of(3).then_some(ChunkId(id)) }
}

#[test]
fn trees_of_any_size_read_back_and_share_what_they_share() {
    let t = fixture();
    let dataset = t.repo.create_dataset("d").unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default());
    let build = |refs: &[ChunkRef]| -> Tree {
        let mut tree = TreeWriter::new(&writer);
        refs.iter().for_each(|r| tree.push(r.clone()).unwrap());
        tree.finish().unwrap()
    };
    let refs: Vec<ChunkRef> = (0..150_000).map(reference).collect();
    let sizes = [0, 1, 63, 64, 513, 1024, 1025, 5000, 150_000];
    let trees: Vec<Tree> = sizes.iter().map(|n| build(&refs[..*n])).collect();
    assert!(trees[3].depth == 0 && trees[4].depth == 1 && trees[8].depth == 2, "{:?}", trees.iter().map(|t| t.depth).collect::<Vec<_>>());
    let mut changed = refs.clone();
    changed.remove(70_000);
    let changed = build(&changed);
    writer.finish().unwrap();
    let reader = ChunkReader::new(&t.repo, &dataset, writer.index(), 1 << 20);
    for (n, tree) in sizes.iter().zip(&trees) {
        assert_eq!(tree_refs(&reader, tree).unwrap(), refs[..*n]);
        assert_eq!(tree.len(), refs[..*n].iter().map(|r| r.len).sum::<u64>());
    }
    let index_chunks = |tree: &Tree| -> std::collections::HashSet<ChunkId> { tree.refs.iter().map(|r| r.id).collect() };
    let (a, b) = (index_chunks(&trees[8]), index_chunks(&changed));
    assert!(b.difference(&a).count() <= 2, "{} of {} differ", b.difference(&a).count(), b.len());
    // Hostile shapes.
    let deep = Tree { depth: 200, refs: trees[8].refs.clone() };
    assert!(tree_refs(&reader, &deep).is_err());
    let wrong = Tree { depth: trees[8].depth + 1, refs: trees[8].refs.clone() };
    assert!(tree_refs(&reader, &wrong).is_err());
    let mut lying = trees[8].clone();
    lying.refs[0].len += 1;
    assert!(tree_refs(&reader, &lying).is_err());
}

fn tree_refs(reader: &ChunkReader, tree: &Tree) -> Result<Vec<ChunkRef>> {
    tree_iter(reader, tree).collect()
}

#[test]
fn lists_of_entries_read_back_and_one_more_file_changes_little() {
    let t = fixture();
    let dataset = t.repo.create_dataset("d").unwrap();
    let writer = ChunkWriter::new(&t.repo, &dataset, t.repo.index(&dataset).unwrap(), WriteOptions::default());
    let list = |paths: &[String]| {
        let mut list = EntryListWriter::new(&writer, &dataset);
        paths.iter().for_each(|p| list.push(&entry(p)).unwrap());
        assert_eq!(list.count(), paths.len() as u64);
        list.finish().unwrap()
    };
    let mut paths: Vec<String> = (0..20_000).map(|n| format!("folder-{:03}/file-{n:05}", n / 100)).collect();
    let (first, empty) = (list(&paths), list(&[]));
    paths.insert(9_999, "folder-099/file-09998-new".to_string());
    let second = list(&paths);
    writer.finish().unwrap();
    let reader = ChunkReader::new(&t.repo, &dataset, writer.index(), 1 << 22);
    let read: Vec<String> = entries(&reader, &second).map(|e| e.unwrap().display_path()).collect();
    assert_eq!(read, paths);
    assert_eq!(entries(&reader, &empty).count(), 0);
    let (a, b) = (tree_refs(&reader, &first).unwrap(), tree_refs(&reader, &second).unwrap());
    assert!(a.len() > 15 && b.iter().filter(|r| !a.contains(r)).count() <= 2);
}

#[test]
fn what_archives_need_is_marked_and_a_failure_keeps_everything() {
    let t = fixture();
    let head = put_archive(&t, 1, &[b"one", b"two"]);
    let reader = t.reader();
    let mut live = Live::new();
    live.add(&reader, &head).unwrap();
    assert_eq!(live.len(), reader.index().len());
    assert!(reader.index().iter().all(|(id, role)| live.contains(&id, role)));
    assert!(!live.contains(&ChunkId([0; 32]), Role::Data));
    let mut broken = head;
    broken.entries.refs.push(ChunkRef { id: ChunkId([0; 32]), len: 5, marks: None });
    assert!(live.add(&reader, &broken).is_err());
    assert!(live.contains(&ChunkId([1; 32]), Role::Data));
}

#[test]
fn sealed_objects_live_where_a_rotation_finds_them() {
    let t = fixture();
    t.repo.put_sealed("request", "requests/a", b"x").unwrap();
    assert!(!t.repo.put_sealed_if_absent("request", "requests/a", b"y").unwrap());
    assert_eq!(t.repo.list_sealed("requests/").unwrap(), ["requests/a"]);
    assert!(t.repo.get_sealed("certificate", "requests/a").is_err());
    assert!(t.repo.get_sealed("request", "requests/b").unwrap().is_none());
    assert!(t.repo.put_sealed("request", "slots/a", b"").is_err() && t.repo.put_sealed("head", "requests/a", b"").is_err());
    assert!(t.repo.delete_sealed("slots/x").is_err());
    t.repo.delete_sealed("requests/a").unwrap();
    assert!(t.repo.get_sealed("request", "requests/a").unwrap().is_none());
}

#[test]
fn a_repository_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Repository>();
    shared::<Dataset>();
    shared::<ChunkIndex>();
    shared::<ChunkReader>();
    shared::<ChunkWriter>();
    shared::<Lease>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_contents_survive(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..12)) {
        let t = fixture_with(small());
        let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let head = put_archive(&t, 1, &contents);
        let restored: Vec<Vec<u8>> = restore(&t.reader(), &head).unwrap().into_iter().map(|(_, b)| b).collect();
        prop_assert_eq!(restored, contents);
    }
}

/// A store that answers slowly shows that leases do not depend on quick answers.
struct Slow(Arc<dyn Store>);

impl Store for Slow {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        std::thread::sleep(Duration::from_millis(2));
        self.0.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        self.0.get_range(key, offset, len)
    }
    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        std::thread::sleep(Duration::from_millis(2));
        self.0.put(key, bytes)
    }
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        self.0.put_if_absent(key, bytes)
    }
    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        std::thread::sleep(Duration::from_millis(2));
        self.0.replace_if(key, expected, bytes)
    }
    fn delete(&self, key: &str) -> StoreResult<()> {
        self.0.delete(key)
    }
    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.0.list(prefix)
    }
    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.0.list_versions(prefix)
    }
    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        self.0.wipe(key, ranges)
    }
    fn remove_leftovers(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        self.0.remove_leftovers(spare)
    }
}

#[test]
fn a_rotation_during_writes_loses_none_of_them() {
    let t = fixture();
    let writer = Arc::new(Repository::open(Location::single(Arc::new(Slow(t.data.clone()))), &secret(), &t.env).unwrap());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut ledger = Ledger::load(&writer).unwrap();
            for n in 0..60u32 {
                writer.put_sealed("request", &format!("requests/{n}"), &n.to_le_bytes()).unwrap();
                ledger.append("a", &n).unwrap();
            }
        });
        let mut rotations = 0;
        while !writing.is_finished() {
            t.repo.rotate_root().unwrap();
            rotations += 1;
        }
        assert!(rotations > 1);
    });
    t.repo.rotate_root().unwrap();
    let again = Arc::new(t.open().unwrap());
    let ledger = Ledger::load(&again).unwrap();
    ledger.check().unwrap();
    assert_eq!(ledger.entries().len(), 60);
    for n in 0..60u32 {
        assert_eq!(**again.get_sealed("request", &format!("requests/{n}")).unwrap().unwrap(), n.to_le_bytes());
    }
}
