use super::*;
use crate::repository::testing::*;
use crate::repository::{ChunkIndex, Head, Live};
use std::sync::Arc;

fn content(n: u8) -> Vec<u8> {
    let mut out = vec![0; 900];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut out);
    out
}

/// What the second archive holds.
fn kept(n: u8) -> impl Iterator<Item = u8> {
    (0..n).step_by(2).chain(n..n + n / 2)
}

/// Two archives: the first has chunks 0..n, the second every other one of them and half as many others. Then the first goes.
struct Scene {
    t: Fixture,
    n: u8,
    kept: Head,
    /// Every chunk as it was sealed: role, key, additional data, sealed bytes.
    sealed: Vec<Old>,
}

struct Old {
    id: ChunkId,
    role: Role,
    row: Row,
    pack: PackId,
    bytes: Vec<u8>,
}

fn scene() -> Scene {
    scene_of(20)
}

fn scene_of(n: u8) -> Scene {
    let t = fixture_with(small());
    let contents: Vec<Vec<u8>> = (0..n + n / 2).map(content).collect();
    let pick = |which: &mut dyn Iterator<Item = u8>| which.map(|n| contents[usize::from(n)].as_slice()).collect::<Vec<_>>();
    let gone = put_archive(&t, 1, &pick(&mut (0..n)));
    let kept = put_archive(&t, 2, &pick(&mut kept(n)));
    let dataset = t.repo.dataset("d").unwrap().unwrap();
    let mut sealed = Vec::new();
    for (sheet, _) in t.repo.sheets(&dataset).unwrap().0 {
        let pack = t.data.get(&pack_key("d", &sheet.pack)).unwrap();
        for row in &sheet.rows {
            let bytes = pack[row.offset as usize..(row.offset + row.stored) as usize].to_vec();
            sealed.push(Old { id: row.id, role: row.role, row: row.duplicate(), pack: sheet.pack, bytes });
        }
    }
    t.repo.delete_head("d", &gone.archive, 1).unwrap();
    Scene { t, n, kept, sealed }
}

impl Scene {
    fn live(&self) -> Live {
        let mut live = Live::new();
        live.add(&self.t.reader(), &self.kept).unwrap();
        live
    }

    fn sweep(&self, live: &Live, options: DropOptions) -> Result<Dropped> {
        let dataset = self.t.repo.dataset("d").unwrap().unwrap();
        drop_chunks(&self.t.repo, &dataset, &|id, role| live.contains(id, role), options)
    }

    fn index(&self) -> Arc<ChunkIndex> {
        self.t.repo.index(&self.t.repo.dataset("d").unwrap().unwrap()).unwrap()
    }

    fn the_kept_archive_is_whole(&self) {
        let restored = restore(&self.t.reader(), &self.kept).unwrap();
        assert_eq!(restored.into_iter().map(|(_, b)| b).collect::<Vec<_>>(), kept(self.n).map(content).collect::<Vec<_>>());
    }

    /// No key anywhere opens what was dropped, and its ciphertext is in no object.
    fn the_dropped_is_gone(&self, live: &Live) {
        let index = self.index();
        assert!(index.damaged().is_empty());
        let objects: Vec<Vec<u8>> = self.t.data.list("").unwrap().iter().map(|o| self.t.data.get(&o.key).unwrap()).collect();
        let (mut dead, mut alive) = (0, 0);
        for old in &self.sealed {
            if live.contains(&old.id, old.role) {
                alive += 1;
                assert!(index.contains(&old.id, old.role));
                continue;
            }
            dead += 1;
            assert!(!index.contains(&old.id, old.role));
            let dataset = self.t.repo.dataset("d").unwrap().unwrap();
            for (sheet, _) in self.t.repo.sheets(&dataset).unwrap().0 {
                assert!(sheet.pending.is_empty(), "wiped and noted");
                for row in &sheet.rows {
                    assert_ne!(row.key, old.row.key);
                    let mut tried = old.row.duplicate();
                    tried.key = row.key;
                    assert!(chunk::open_body(self.t.repo.id(), &old.pack, &tried, old.bytes.clone()).is_err());
                }
            }
            let needle = &old.bytes[old.bytes.len() - 24..];
            assert!(objects.iter().all(|o| memchr::memmem::find(o, needle).is_none()), "ciphertext is still stored");
        }
        assert!(dead >= 10 && alive >= 20);
    }
}

#[test]
fn dropped_chunks_are_gone_and_kept_ones_stay() {
    let ways = [(true, 0.5), (true, 0.01), (true, 1.0), (false, 0.5), (false, 1.0)];
    for ((wipe, compact_above), remote) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let scene = scene();
        scene.t.faulty.without_wipe(!wipe);
        scene.t.faulty.as_remote(remote);
        let live = scene.live();
        let options = DropOptions { compact_above, dry_run: false, ..DropOptions::default() };
        let planned = scene.sweep(&live, DropOptions { dry_run: true, ..options }).unwrap();
        scene.the_kept_archive_is_whole();
        assert_eq!(scene.index().len(), scene.sealed.len(), "a dry run changes nothing");
        let dropped = scene.sweep(&live, options).unwrap();
        assert_eq!((planned.chunks, planned.bytes, planned.packs_deleted), (dropped.chunks, dropped.bytes, dropped.packs_deleted));
        assert!(dropped.damaged.is_empty() && dropped.left.is_empty());
        assert_eq!(dropped.chunks as usize, scene.sealed.iter().filter(|o| !live.contains(&o.id, o.role)).count());
        assert!(dropped.packs_compacted > 0 || (wipe && compact_above >= 0.5));
        assert!(dropped.packs_compacted == 0 || !wipe || compact_above < 1.0);
        scene.the_kept_archive_is_whole();
        scene.the_dropped_is_gone(&live);
        let again = scene.sweep(&live, options).unwrap();
        assert_eq!((again.chunks, again.sheets_rewritten, again.packs_deleted, again.packs_compacted, again.orphans), (0, 0, 0, 0, 0));
    }
}

#[test]
fn a_sweep_that_stops_anywhere_loses_nothing_and_the_next_one_completes_it() {
    for (wipe, compact_above, remote) in [(true, 0.5, false), (true, 0.2, false), (false, 0.5, false), (false, 0.5, true)] {
        for step in 0.. {
            let scene = scene();
            scene.t.faulty.without_wipe(!wipe);
            scene.t.faulty.as_remote(remote);
            let live = scene.live();
            let options = DropOptions { compact_above, dry_run: false, ..DropOptions::default() };
            scene.t.faulty.fail_from(step);
            let first = scene.sweep(&live, options);
            let complete = matches!(&first, Ok(d) if d.left.is_empty());
            scene.t.faulty.heal();
            scene.the_kept_archive_is_whole();
            let second = scene.sweep(&live, options).unwrap();
            assert!(second.left.is_empty() && second.damaged.is_empty(), "step {step}");
            scene.the_kept_archive_is_whole();
            scene.the_dropped_is_gone(&live);
            assert_eq!(scene.index().len(), scene.sealed.iter().filter(|o| live.contains(&o.id, o.role)).count(), "no copy is left over");
            if complete {
                assert!(step > 6);
                break;
            }
        }
    }
}

#[test]
fn an_upload_that_fails_amid_others_loses_nothing_and_the_next_sweep_completes_it() {
    for folder in ["packs/d/", "sheets/d/"] {
        let mut failures = 0;
        for n in (0..).step_by(if folder == "packs/d/" { 1 } else { 3 }) {
            let scene = scene_of(60);
            scene.t.faulty.without_wipe(true);
            scene.t.faulty.as_remote(true);
            let live = scene.live();
            scene.t.faulty.fail_one_write(folder, n);
            match scene.sweep(&live, DropOptions::default()) {
                Ok(_) => break,
                Err(e) => assert!(matches!(e, Error::Store(_)), "the failure itself, not what follows from it: {e}"),
            }
            failures += 1;
            scene.the_kept_archive_is_whole();
            for old in scene.sealed.iter().filter(|o| live.contains(&o.id, o.role)) {
                assert!(scene.t.reader().read(&old.id, old.role).is_ok(), "{folder} {n}");
            }
            let again = scene.sweep(&live, DropOptions::default()).unwrap();
            assert!(again.left.is_empty() && again.damaged.is_empty());
            scene.the_kept_archive_is_whole();
            scene.the_dropped_is_gone(&live);
            assert_eq!(scene.index().len(), scene.sealed.iter().filter(|o| live.contains(&o.id, o.role)).count(), "no copy is left over");
        }
        assert!(failures > 3, "{folder}: {failures}");
    }
}

#[test]
fn a_lost_lease_ends_a_sweep_before_its_next_change() {
    for remote in [false, true] {
        for allowed in 0..40 {
            let scene = scene();
            scene.t.faulty.without_wipe(true);
            scene.t.faulty.as_remote(remote);
            let live = scene.live();
            let dataset = scene.t.repo.dataset("d").unwrap().unwrap();
            let asked = std::sync::atomic::AtomicU64::new(0);
            let ours = || match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                n if n < allowed => Ok(()),
                _ => Err(Error::Refused("the lease was lost".to_string())),
            };
            let keep = |id: &ChunkId, role: Role| live.contains(id, role);
            let first = drop_chunks_while(&scene.t.repo, &dataset, &keep, DropOptions::default(), &ours);
            scene.the_kept_archive_is_whole();
            if first.is_ok() {
                break;
            }
            scene.sweep(&live, DropOptions::default()).unwrap();
            scene.the_kept_archive_is_whole();
            scene.the_dropped_is_gone(&live);
        }
    }
}

#[test]
fn orphans_go_and_packs_of_damaged_sheets_stay() {
    let scene = scene();
    let live = scene.live();
    scene.t.data.put(&pack_key("d", &PackId([0xee; 16])), b"never got a sheet").unwrap();
    let sheet = scene.t.keys.list("sheets/d/").unwrap()[0].key.clone();
    let good = scene.t.keys.get(&sheet).unwrap();
    scene.t.keys.put(&sheet, b"rubbish").unwrap();
    let pack = pack_key("d", &sheet::pack_of_key(&sheet).unwrap());
    let dropped = scene.sweep(&live, DropOptions::default()).unwrap();
    assert_eq!((dropped.orphans, dropped.damaged.len()), (1, 1), "what cannot be read is reported, never assumed gone");
    assert!(scene.t.data.get(&pack).is_ok());
    scene.t.keys.put(&sheet, &good).unwrap();
    scene.the_kept_archive_is_whole();
}

#[test]
fn a_damaged_living_chunk_stops_its_packs_compaction_and_nothing_else() {
    for remote in [false, true] {
        a_damaged_living_chunk(remote);
    }
}

fn a_damaged_living_chunk(remote: bool) {
    let scene = scene();
    scene.t.faulty.as_remote(remote);
    let live = scene.live();
    let old = scene.sealed.iter().find(|o| live.contains(&o.id, o.role)).unwrap();
    let key = pack_key("d", &old.pack);
    let mut pack = scene.t.data.get(&key).unwrap();
    pack[old.row.offset as usize] ^= 1;
    scene.t.data.put(&key, &pack).unwrap();
    let dropped = scene.sweep(&live, DropOptions { compact_above: 0.0, dry_run: false, ..DropOptions::default() }).unwrap();
    assert!(dropped.damaged.len() <= 1);
    assert!(scene.t.data.get(&key).is_ok(), "the damaged pack stays");
    assert!(scene.t.reader().read(&old.id, old.role).is_err());
    assert_eq!(scene.index().len(), scene.sealed.iter().filter(|o| live.contains(&o.id, o.role)).count());
}

#[test]
fn of_two_copies_a_good_one_stays() {
    // A compaction that stopped after the new pack was durable leaves both; the copy in the new pack rots.
    for rot in [false, true] {
        let options = DropOptions { compact_above: 0.0, dry_run: false, ..DropOptions::default() };
        let scene = scene();
        let live = scene.live();
        scene.t.faulty.without_wipe(true);
        let before: HashSet<PackId> = scene.index().packs().iter().map(|p| p.id).collect();
        // Each run may make two changes: after some that shrink sheets, one stores a new pack and its sheet, and stops.
        let doubled = (0..100).find_map(|_| {
            scene.t.faulty.fail_from(2);
            let _ = scene.sweep(&live, options);
            scene.t.faulty.heal();
            let index = scene.index();
            let doubled: Vec<(PackId, u32)> = index
                .iter()
                .filter(|(id, role)| index.find(id, *role).count() > 1)
                .flat_map(|(id, role)| index.find(&id, role).map(|f| (f.pack, f.row.offset)).collect::<Vec<_>>())
                .filter(|(pack, _)| !before.contains(pack))
                .collect();
            (!doubled.is_empty()).then_some(doubled)
        });
        let doubled = doubled.unwrap();
        for (pack, offset) in doubled.iter().filter(|_| rot) {
            let key = pack_key("d", pack);
            let mut bytes = scene.t.data.get(&key).unwrap();
            bytes[*offset as usize] = !bytes[*offset as usize];
            scene.t.data.put(&key, &bytes).unwrap();
        }
        scene.sweep(&live, options).unwrap();
        scene.the_kept_archive_is_whole();
    }
}

#[test]
fn ranges_join() {
    assert_eq!(merge(vec![(10, 5), (0, 5), (5, 5), (30, 1)]), [(0, 15), (30, 1)]);
    assert_eq!(merge(vec![(0, 10), (2, 3)]), [(0, 10)]);
}
