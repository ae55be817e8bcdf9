//! What is damaged × how: every object of a repository is flipped, cut, deleted, exchanged, rolled back, emptied and overwritten, in
//! turn. Nothing may ever be restored wrongly, nothing may panic, what is damaged is named, and what does not need it goes on.

mod common;

use common::shop::{DUE, OPENED, Shop, Tree, dataset, scratch};
use reseal::engine::event::Verdict;
use reseal::engine::session::Session;
use reseal::engine::verify;
use reseal::repository::Live;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    FlipFirst,
    FlipMiddle,
    FlipLast,
    Truncate,
    Delete,
    Swap,
    Stale,
    Empty,
    Garbage,
}

const HARMS: [Harm; 9] =
    [Harm::FlipFirst, Harm::FlipMiddle, Harm::FlipLast, Harm::Truncate, Harm::Delete, Harm::Swap, Harm::Stale, Harm::Empty, Harm::Garbage];

impl Harm {
    /// Whether it could be done and changed anything. `other` is another object of the same kind, `before` an older copy of the whole shop.
    fn inflict(self, shop: &Shop, object: &str, other: Option<&str>, before: &Shop) -> bool {
        let path = shop.path(object);
        let old = std::fs::read(&path).unwrap();
        let mut bytes = old.clone();
        let len = bytes.len();
        // Zeros may be what an erasure wiped: nobody needs them.
        let from = |at: usize| (at..len).chain((0..at).rev()).find(|i| old[*i] != 0).unwrap_or(at);
        match self {
            Harm::FlipFirst => bytes[from(0)] ^= 1,
            Harm::FlipMiddle => bytes[from(len / 2)] ^= 0x10,
            Harm::FlipLast => bytes[from(len - 1)] ^= 0x80,
            Harm::Truncate => bytes.truncate(len / 2),
            Harm::Empty => bytes.clear(),
            Harm::Garbage => bytes = blake3::hash(&old).as_bytes().iter().copied().cycle().take(len).collect(),
            Harm::Delete => {
                std::fs::remove_file(&path).unwrap();
                return true;
            }
            Harm::Swap => {
                let Some(other) = other else { return false };
                let other = shop.path(other);
                let there = std::fs::read(&other).unwrap();
                std::fs::write(&other, &old).unwrap();
                bytes = there;
            }
            Harm::Stale => match std::fs::read(before.path(object)) {
                Ok(stale) if stale != old => bytes = stale,
                _ => return false,
            },
        }
        std::fs::write(&path, &bytes).unwrap();
        bytes != old
    }
}

/// Two datasets with two archives each, a person erased from them, the root rotated; and how it was before that.
struct Base {
    _scratch: tempfile::TempDir,
    shop: Shop,
    before: Shop,
    work: std::path::PathBuf,
    /// Archive → what it restores to.
    expected: BTreeMap<String, Tree>,
    /// Archive → packs that it needs.
    needs: BTreeMap<String, BTreeSet<String>>,
}

fn base() -> Base {
    let scratch = scratch();
    let datasets = format!("{}{}", dataset("a", "data-a"), dataset("b", "data-b"));
    let shop = Shop::with(&scratch.path().join("base"), false, &datasets, &["data-a", "data-b"]);
    shop.prepare(2);
    shop.run(OPENED, &["keys", "add", "--label", "second", "--new-key-file", "key2"]).ok();
    shop.request();
    let before = shop.copy(&scratch.path().join("before"));
    shop.run(DUE, &["propagate"]).ok();
    shop.run(DUE, &["keys", "rotate"]).ok();
    shop.run(DUE, &["request", "open", "--identity-file", "identity0.yaml"]).ok();
    let session = shop.open(DUE).unwrap();
    let expected = shop.restore_all(&session).unwrap();
    let needs = needs(&session);
    drop(session);
    let work = scratch.path().join("work");
    Base { _scratch: scratch, shop, before, work, expected, needs }
}

fn needs(session: &Session) -> BTreeMap<String, BTreeSet<String>> {
    let mut out = BTreeMap::new();
    for name in session.repo.datasets().unwrap() {
        let view = session.view(&name).unwrap();
        for listed in session.heads(&name).unwrap().latest {
            let mut live = Live::new();
            live.add(&view.reader, &listed.head).unwrap();
            let packs = live.iter().filter_map(|(id, role)| view.index.get(&id, role).map(|p| p.pack.to_string())).collect();
            out.insert(listed.head.archive.to_string(), packs);
        }
    }
    out
}

/// What a kind of object is to its repository.
struct Kind {
    /// Which objects to harm, by the beginning of their names; the first and the last one are.
    prefix: &'static str,
    /// A message about it has one of these.
    named: &'static [&'static str],
    /// Archives that a harm to this object may cost; `None`: all.
    may_cost: fn(&Base, &str) -> Option<BTreeSet<String>>,
    /// Whether `verify` has to notice (an older copy that was put back is the catalog's and the ledger's business).
    noticed: bool,
}

fn last(object: &str) -> &str {
    object.rsplit('/').next().unwrap()
}

fn of_pack(base: &Base, object: &str) -> Option<BTreeSet<String>> {
    Some(base.needs.iter().filter(|(_, packs)| packs.contains(last(object))).map(|(a, _)| a.clone()).collect())
}

fn of_head(_: &Base, object: &str) -> Option<BTreeSet<String>> {
    Some(BTreeSet::from([last(object).split('.').next().unwrap().to_string()]))
}

fn of_dataset(base: &Base, object: &str) -> Option<BTreeSet<String>> {
    let folder = format!("data-{}/", last(object));
    Some(base.expected.iter().filter(|(_, t)| t.keys().any(|n| n.starts_with(&folder))).map(|(a, _)| a.clone()).collect())
}

fn none(_: &Base, _: &str) -> Option<BTreeSet<String>> {
    Some(BTreeSet::new())
}

fn all(_: &Base, _: &str) -> Option<BTreeSet<String>> {
    None
}

/// Does everything to the first and the last object of a kind.
fn matrix(base: &Base, kind: &Kind) {
    let mut objects: Vec<String> =
        base.shop.objects("").into_iter().filter(|k| k.starts_with(kind.prefix) && !k.contains("/.tmp-")).collect();
    objects.sort();
    assert!(!objects.is_empty(), "nothing at {}", kind.prefix);
    let mut picked = vec![objects.first().unwrap().clone(), objects.last().unwrap().clone()];
    picked.dedup();
    let (mut tried, mut refused, mut restored) = (0, 0, 0);
    for object in &picked {
        let other = objects.iter().find(|o| *o != object).map(String::as_str);
        for harm in HARMS {
            let shop = base.shop.copy(&base.work);
            if !harm.inflict(&shop, object, other, &base.before) {
                continue;
            }
            tried += 1;
            let at = format!("{harm:?} {object}");
            // What a swap costs is the cost of both.
            let mut costs = (kind.may_cost)(base, object);
            if let (Harm::Swap, Some(other), Some(costs)) = (harm, other, &mut costs) {
                costs.extend((kind.may_cost)(base, other).unwrap());
            }
            let (r, f) = archives(base, kind, &shop, costs.as_ref(), &at);
            restored += r;
            refused += f;
            noticed(kind, &shop, harm, &at);
        }
    }
    println!("{}: {tried} harms, {restored} archives restored as they should, {refused} refused", kind.prefix);
}

#[track_caller]
fn is_clear(e: &reseal::Error, kind: &Kind, at: &str) {
    let text = e.to_string();
    assert!(e.exit_code() == 6 || text.contains("no repository"), "{at}: exit code {} for {e}", e.exit_code());
    assert!(kind.named.iter().any(|n| text.contains(n)), "{at}: the error names none of {:?}: {text}", kind.named);
}

/// Every archive either restores as it should or is refused with a clear error; those that do not need the object restore.
fn archives(base: &Base, kind: &Kind, shop: &Shop, costs: Option<&BTreeSet<String>>, at: &str) -> (u32, u32) {
    let session = match shop.open(DUE) {
        Ok(session) => session,
        // A catalog that says something else is believed until it is rebuilt.
        Err(e) if kind.prefix == CATALOG.prefix && e.to_string().contains("reseal catalog rebuild") => {
            shop.run(DUE, &["catalog", "rebuild"]).ok();
            shop.open(DUE).unwrap()
        }
        Err(e) => {
            is_clear(&e, kind, at);
            assert_eq!(costs, None, "{at}: nothing can be restored any more: {e}");
            return (0, base.expected.len() as u32);
        }
    };
    let (mut restored, mut refused) = (0, 0);
    for (archive, expected) in &base.expected {
        match shop.restore_one(&session, archive) {
            Ok(tree) => {
                assert!(tree == *expected, "{at}: archive {archive} restored to something else");
                restored += 1;
            }
            Err(e) => {
                // Without its head there is no such archive.
                if !(kind.prefix == HEAD.prefix && e.exit_code() == 2) {
                    is_clear(&e, kind, at);
                }
                assert!(costs.is_none_or(|c| c.contains(archive)), "{at}: archive {archive} does not need it, and: {e}");
                refused += 1;
            }
        }
    }
    (restored, refused)
}

/// By the binary: `verify` notices, `restore` ends with the right code, and nothing panics.
fn noticed(kind: &Kind, shop: &Shop, harm: Harm, at: &str) {
    let checked = shop.run(DUE, &["verify", "--read-data"]);
    let code = checked.code.unwrap();
    if kind.noticed && harm != Harm::Stale {
        assert!([2, 4, 6].contains(&code), "{at}: verify says {code}: {}{}", checked.stdout, checked.stderr);
        let text = checked.stdout + &checked.stderr;
        assert!(kind.named.iter().any(|n| text.contains(n)) || text.contains("its head is not in the store"), "{at}: {text}");
    } else {
        assert!([0, 2, 4, 6].contains(&code), "{at}: verify says {code}: {}", checked.stderr);
    }
    let out = shop.path("restored");
    let ran = shop.run(DUE, &["restore", "a@latest", "--to", out.to_str().unwrap()]);
    assert!([Some(0), Some(2), Some(6)].contains(&ran.code), "{at}: restore says {:?}: {}", ran.code, ran.stderr);
}

const PACK: Kind = Kind { prefix: "backups/packs/", named: &["packs/", "pack "], may_cost: of_pack, noticed: true };
const SHEET: Kind = Kind { prefix: "backups/sheets/", named: &["sheets/", "key sheet", "has no key"], may_cost: of_pack, noticed: true };
const HEAD: Kind = Kind { prefix: "backups/archives/", named: &["archives/"], may_cost: of_head, noticed: true };
// An older slot opens, and then its root does not open what the newer one sealed.
const SLOT: Kind = Kind { prefix: "backups/slots/", named: &["slots", "key slot", "signing/"], may_cost: all, noticed: false };
const DATASET: Kind = Kind { prefix: "backups/datasets/", named: &["datasets/", "dataset "], may_cost: of_dataset, noticed: true };
const LEDGER: Kind = Kind { prefix: "backups/ledger/", named: &["ledger"], may_cost: all, noticed: true };
const PARAMS: Kind = Kind { prefix: "backups/reseal.json", named: &["reseal.json", "no repository"], may_cost: all, noticed: true };
const SIGNING: Kind = Kind { prefix: "backups/signing/", named: &["signing/"], may_cost: all, noticed: true };
const CATALOG: Kind = Kind { prefix: "state/", named: &["catalog"], may_cost: none, noticed: false };
const LEASE: Kind = Kind { prefix: "backups/leases/", named: &["leases/"], may_cost: none, noticed: false };
const REQUEST: Kind = Kind { prefix: "backups/requests/", named: &["requests/"], may_cost: none, noticed: false };

#[test]
fn damaged_packs_cost_only_the_archives_that_need_them() {
    let base = base();
    matrix(&base, &PACK);
    matrix(&base, &SHEET);
}

#[test]
fn damaged_heads_and_dataset_keys_cost_only_their_own() {
    let base = base();
    matrix(&base, &HEAD);
    matrix(&base, &DATASET);
}

#[test]
fn what_everything_hangs_on_is_refused_by_name_when_it_is_damaged() {
    let base = base();
    matrix(&base, &PARAMS);
    matrix(&base, &SIGNING);
    matrix(&base, &SLOT);
}

#[test]
fn a_damaged_ledger_hands_nothing_out_that_it_cannot_judge() {
    let base = base();
    matrix(&base, &LEDGER);
}

#[test]
fn with_a_damaged_ledger_not_even_a_part_is_handed_out() {
    let base = base();
    let shop = base.shop.copy(&base.work);
    assert!(Harm::FlipMiddle.inflict(&shop, "backups/ledger/0000000003", None, &base.before));
    let ran = shop.run(DUE, &["restore", "a@latest", "--to", "restored"]).exits(6);
    assert!(["ledger/0000000003", "scripts/recover.py"].iter().all(|words| ran.stderr.contains(words)), "{}", ran.stderr);
    assert_eq!(shop.objects("restored"), BTreeSet::new());
    assert_eq!(shop.run(DUE, &["export", "a@latest"]).exits(6).stdout, "");
}

#[test]
fn a_missing_dataset_key_is_never_replaced_by_a_new_one() {
    let base = base();
    let shop = base.shop.copy(&base.work);
    std::fs::remove_file(shop.path("backups/datasets/a")).unwrap();
    let later = "2026-10-20T09:00:00Z";
    for args in
        [&["backup", "a"][..], &["restore", "a@latest", "--to", "restored"], &["request", "open", "--identity-file", "identity1.yaml"]]
    {
        let ran = shop.run(later, args).exits(6);
        assert!(ran.stderr.contains("datasets/a"), "{args:?}: {}", ran.stderr);
    }
    assert!(!shop.path("backups/datasets/a").exists());
    let verified = shop.run(later, &["verify"]).exits(4);
    assert!((verified.stdout + &verified.stderr).contains("datasets/a"));
}

#[test]
fn a_damaged_catalog_lease_or_request_costs_no_archive() {
    let base = base();
    matrix(&base, &CATALOG);
    matrix(&base, &LEASE);
    matrix(&base, &REQUEST);
}

#[test]
fn the_root_key_is_not_replaced_while_something_that_it_seals_is_away() {
    let base = base();
    for below in ["backups/sheets", "backups/archives", "backups/datasets", "backups/ledger", "backups/requests"] {
        for harm in [Harm::Delete, Harm::Truncate] {
            let shop = base.shop.copy(&base.work);
            let object = first_object(&shop, below);
            let whole = std::fs::read(shop.path(&object)).unwrap();
            assert!(harm.inflict(&shop, &object, None, &base.before));
            let ran = shop.run(DUE, &["keys", "rotate"]);
            assert!([Some(1), Some(6)].contains(&ran.code), "{harm:?} {object}: {:?} {}", ran.code, ran.stderr);
            std::fs::write(shop.path(&object), whole).unwrap();
            shop.run(DUE, &["keys", "rotate"]).ok();
            assert_eq!(shop.restore_all(&shop.open(DUE).unwrap()).unwrap(), base.expected, "{harm:?} {object}");
        }
    }
}

fn first_object(shop: &Shop, below: &str) -> String {
    shop.objects(below).into_iter().find(|k| !k.contains("/.tmp-")).unwrap()
}

#[test]
fn a_damaged_request_stops_its_erasure_by_name_and_a_damaged_lease_the_writer() {
    let base = base();
    let due = "2026-11-15T09:00:00Z";
    for harm in [Harm::FlipMiddle, Harm::Truncate, Harm::Delete, Harm::Empty, Harm::Garbage] {
        let shop = base.shop.copy(&base.work);
        assert!(harm.inflict(&shop, &first_object(&shop, "backups/requests"), None, &base.before));
        let ran = shop.run(due, &["propagate"]).exits(6);
        assert!(ran.stderr.contains("requests/"), "{harm:?}: {}", ran.stderr);
        let shop = base.shop.copy(&base.work);
        assert!(harm.inflict(&shop, "backups/leases/a", None, &base.before));
        let ran = shop.run(due, &["backup", "a"]);
        match ran.code {
            // 3: the source still has who was erased.
            Some(0 | 3) => {}
            Some(6) => assert!(ran.stderr.contains("leases/a"), "{harm:?}: {}", ran.stderr),
            other => panic!("{harm:?}: {other:?}: {}", ran.stderr),
        }
        shop.verify_all(&shop.open(due).unwrap());
    }
}

#[test]
fn with_one_slot_damaged_the_other_still_opens() {
    let base = base();
    let slots: Vec<String> = base.shop.objects("backups/slots").into_iter().collect();
    for slot in &slots {
        for harm in [Harm::FlipMiddle, Harm::Truncate, Harm::Delete, Harm::Empty, Harm::Garbage] {
            let shop = base.shop.copy(&base.work);
            assert!(harm.inflict(&shop, slot, None, &base.before));
            let codes: Vec<_> =
                ["key", "key2"].iter().map(|k| shop.run_with(DUE, &["archives"], &[("RESEAL_KEY_FILE", k)]).code.unwrap()).collect();
            assert!(codes == [0, 6] || codes == [6, 0], "{harm:?} {slot}: {codes:?}");
        }
    }
}

#[test]
fn a_missing_latest_head_is_told_when_an_older_archive_is_taken() {
    let base = base();
    let session = base.shop.open(DUE).unwrap();
    let latest = session.heads("a").unwrap().latest.pop().unwrap();
    drop(session);
    let shop = base.shop.copy(&base.work);
    std::fs::remove_file(shop.path(&format!("backups/{}", latest.key))).unwrap();
    let ran = shop.run(DUE, &["restore", "a@latest", "--to", "restored"]);
    let id = latest.head.archive.to_string();
    assert!(ran.code != Some(0) || ran.stderr.contains(&id[..12]), "{:?} {}", ran.code, ran.stderr);
}

#[test]
fn the_whole_repository_put_back_is_noticed_by_the_catalog() {
    let base = base();
    let shop = base.shop.copy(&base.work);
    std::fs::remove_dir_all(shop.path("backups")).unwrap();
    Shop { root: base.before.path("backups") }.copy(Path::new(&shop.path("backups")));
    for args in [&["archives"][..], &["backup"], &["propagate"], &["restore", "a@latest", "--to", "restored"]] {
        let ran = shop.run(DUE, args).exits(6);
        assert!(ran.stderr.contains("older copy"), "{}", ran.stderr);
    }
    shop.run(DUE, &["catalog", "rebuild"]).ok();
    shop.run(DUE, &["propagate"]).ok();
    let session = shop.open(DUE).unwrap();
    for c in verify::verify(&session, &[], 1.0).unwrap() {
        assert_eq!(c.verdict, Verdict::Pass);
    }
}

/// Whatever is missing today may be put back tomorrow: what runs every night must not have destroyed by then what it leads to.
fn nights_take_nothing_away(prefixes: &[&str], only_one_at_a_time: bool) {
    let base = base();
    let all: Vec<String> =
        base.shop.objects("").into_iter().filter(|k| prefixes.iter().any(|p| k.starts_with(p)) && !k.contains("/.tmp-")).collect();
    assert!(all.len() > 1);
    let groups: Vec<Vec<String>> = if only_one_at_a_time { all.iter().map(|o| vec![o.clone()]).collect() } else { vec![all.clone()] };
    for group in groups {
        for truncated in [false, true] {
            let shop = base.shop.copy(&base.work);
            let at = format!("{group:?}, truncated: {truncated}");
            for object in &group {
                let path = shop.path(object);
                let harm = if truncated { Harm::Truncate } else { Harm::Delete };
                assert!(harm.inflict(&shop, object, None, &base.before) && path.exists() == truncated);
            }
            for args in [&["rotate"][..], &["propagate"], &["rotate"], &["backup"]] {
                let ran = shop.run(DUE, args);
                // A pack is looked at by who reads it.
                let may_be_well = args[0] != "rotate" || prefixes == ["backups/packs/"];
                assert!(may_be_well || ran.code != Some(0), "{at}: {args:?} says that all is well: {}{}", ran.stdout, ran.stderr);
                assert_ne!(ran.code, Some(101), "{at}: {args:?}: {}", ran.stderr);
            }
            for object in &group {
                std::fs::create_dir_all(shop.path(object).parent().unwrap()).unwrap();
                std::fs::copy(base.shop.path(object), shop.path(object)).unwrap();
            }
            let session = shop.open(DUE).unwrap();
            for (archive, expected) in &base.expected {
                match shop.restore_one(&session, archive) {
                    Ok(tree) => assert!(tree == *expected, "{at}: archive {archive} restored to something else"),
                    Err(e) => panic!("{at}: archive {archive} is lost: {e}"),
                }
            }
            drop(session);
            shop.run(DUE, &["rotate"]).ok();
            shop.run(DUE, &["verify", "--read-data"]).ok();
        }
    }
}

#[test]
fn a_head_that_is_put_back_later_finds_its_chunks() {
    nights_take_nothing_away(&["backups/archives/"], true);
}

#[test]
fn all_heads_that_are_put_back_later_find_their_chunks() {
    nights_take_nothing_away(&["backups/archives/"], false);
}

#[test]
fn a_key_sheet_that_is_put_back_later_finds_its_pack() {
    nights_take_nothing_away(&["backups/sheets/"], true);
}

#[test]
fn all_key_sheets_that_are_put_back_later_find_their_packs() {
    nights_take_nothing_away(&["backups/sheets/"], false);
}

#[test]
fn packs_and_keys_of_datasets_that_are_put_back_later_are_what_was_missing() {
    nights_take_nothing_away(&["backups/packs/"], true);
    nights_take_nothing_away(&["backups/datasets/"], true);
}

#[test]
fn an_archive_that_is_lost_is_given_up_by_a_decision_and_no_other_one_is() {
    let base = base();
    let session = base.shop.open(DUE).unwrap();
    let heads = session.heads("a").unwrap().latest;
    drop(session);
    let (lost, kept) = (heads[0].clone(), heads[1].head.archive.to_string());
    let id = lost.head.archive.to_string();
    let shop = base.shop.copy(&base.work);
    let give_up = |id: &str| shop.run(DUE, &["rotate", "--lost", id, "--reason", "disk 3 died"]);
    assert!(give_up(&id).exits(1).stderr.contains("retention decides"), "it is whole");
    std::fs::remove_file(shop.path(&format!("backups/{}", lost.key))).unwrap();
    assert!(shop.run(DUE, &["archives"]).exits(4).stderr.contains(&id), "what is not there is not passed over");
    let warned = shop.run(DUE, &["rotate"]).exits(3);
    assert!(warned.stderr.contains(&id) && warned.stderr.contains("rotate --lost"), "{}", warned.stderr);
    assert!(shop.run(DUE, &["rotate", "--lost", &id]).code == Some(2), "without a reason");
    give_up(&kept).exits(1);
    give_up("ffffffffff").exits(2);
    let done = shop.run(DUE, &["rotate", "--lost", &id[..8], "--reason", "disk 3 died", "--json"]).ok().json();
    assert_eq!(
        (done["given_up"][0]["archive"].as_str(), done["datasets"][0]["gone"].as_str()),
        (Some(id.as_str()), Some("PASS")),
        "{done}"
    );
    shop.run(DUE, &["verify", "--read-data"]).ok();
    assert!(shop.run(DUE, &["audit"]).ok().stdout.contains("lost: disk 3 died"));
    // One that is there, and that a verification found damaged, can be given up as well.
    let session = shop.open(DUE).unwrap();
    let pack = of_pack_alone(&shop, &session, &kept);
    drop(session);
    std::fs::remove_file(shop.path(&pack)).unwrap();
    shop.run(DUE, &["verify"]).exits(4);
    give_up(&kept).ok();
    shop.run(DUE, &["verify", "--read-data"]).ok();
    assert!(!shop.run(DUE, &["archives"]).ok().stdout.contains(&kept[..8]));
}

/// A pack that this archive needs.
fn of_pack_alone(shop: &Shop, session: &Session, archive: &str) -> String {
    let packs = needs(session).remove(archive).unwrap();
    shop.objects("backups/packs/a").into_iter().find(|object| packs.contains(last(object))).unwrap()
}

#[test]
fn an_erasure_is_not_done_while_the_keys_of_a_dataset_are_missing() {
    let base = base();
    let shop = base.shop.copy(&base.work);
    std::fs::remove_file(shop.path("backups/datasets/a")).unwrap();
    for args in [
        &["propagate"][..],
        &["propagate", "--dry-run"],
        &["subject", "find", "--identity-file", "identity0.yaml"],
        &["rotate"],
        &["archives"],
    ] {
        let ran = shop.run("2026-11-15T09:00:00Z", args);
        assert_eq!(ran.code, Some(if args == ["archives"] { 4 } else { 6 }), "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("datasets/a"), "{args:?}: {}", ran.stderr);
    }
    std::fs::copy(base.shop.path("backups/datasets/a"), shop.path("backups/datasets/a")).unwrap();
    shop.run("2026-11-15T09:00:00Z", &["propagate"]).ok();
}

#[test]
fn a_backup_stores_anew_what_lay_in_packs_that_are_gone() {
    let scratch = scratch();
    let shop = Shop::new(&scratch.path().join("shop"), false);
    shop.prepare(2);
    let live = |shop: &Shop| -> Tree {
        common::tree(&shop.path("data")).into_iter().map(|(name, bytes)| (format!("data/{name}"), bytes)).collect()
    };
    // One after the other, the largest first: key sheets stay behind.
    for n in 3..6 {
        let mut packs: Vec<_> = shop.objects("backups/packs").into_iter().map(|o| shop.path(&o)).collect();
        packs.sort_by_key(|p| std::cmp::Reverse(std::fs::metadata(p).unwrap().len()));
        std::fs::remove_file(&packs[0]).unwrap();
        let now = common::shop::night_time(n);
        let ran = shop.run(&now, &["backup"]);
        assert!(ran.stderr.contains("are not there"), "{:?}: {}", ran.code, ran.stderr);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let _ = std::fs::remove_dir_all(shop.path("out"));
        shop.run(&now, &["restore", "latest", "--to", "out"]).ok();
        assert_eq!(common::shop::differs_from_live(&common::tree(&shop.path("out")), &live(&shop)), None);
        shop.run(&now, &["drill"]).ok();
        let latest = shop.run(&now, &["archives", "--json"]).ok().json()["archives"].as_array().unwrap().last().unwrap()["id"].to_string();
        let ran = shop.run(&now, &["verify", "--read-data", latest.trim_matches('"')]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    }
}
