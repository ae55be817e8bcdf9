//! One suite for every store: what the repository relies on, and nothing else. A store's tests call [`all`] with an empty store.

use super::{Store, StoreError, Wiped};
use std::collections::BTreeSet;

/// Every check, each under a prefix of its own.
pub fn all(store: &dyn Store) {
    verbs(store);
    ranges(store);
    empty_objects(store);
    conditional_writes(store);
    put_if_absent_has_one_winner(store);
    replace_if_loses_no_update(store);
    readers_see_old_or_new(store);
    bad_keys(store);
    listing(store);
    wiping(store);
    assert!(store.remove_leftovers(&|_| false).is_ok());
}

fn verbs(store: &dyn Store) {
    assert!(store.get("verbs/a").unwrap_err().is_missing());
    store.put("verbs/a", b"one").unwrap();
    assert_eq!(store.get("verbs/a").unwrap(), b"one");
    store.put("verbs/a", b"three").unwrap();
    assert_eq!(store.get("verbs/a").unwrap(), b"three");
    store.put("verbs/deep/er/and/deeper", b"x").unwrap();
    store.delete("verbs/a").unwrap();
    assert!(store.get("verbs/a").unwrap_err().is_missing());
    assert!(store.get_range("verbs/a", 0, 1).unwrap_err().is_missing());
    store.delete("verbs/a").unwrap();
    store.delete("verbs/never/was/there").unwrap();
    assert!(store.get("verbs/deep").unwrap_err().is_missing(), "a folder is no object");
    for n in 0..7 {
        store.put(&format!("many/{n}"), b"x").unwrap();
    }
    let keys: Vec<String> = (0..6).map(|n| format!("many/{n}")).chain(["many/none".to_string(), "../bad".to_string()]).collect();
    let left = store.delete_many(&keys);
    assert!(matches!(&left[..], [(key, StoreError::BadKey(_))] if key == "../bad"), "{left:?}");
    assert_eq!(store.list_versions("many/").unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>(), ["many/6"]);
    assert!(!store.describe().is_empty());
}

fn ranges(store: &dyn Store) {
    store.put("ranges/a", b"0123456789").unwrap();
    assert_eq!(store.get_range("ranges/a", 0, 10).unwrap(), b"0123456789");
    assert_eq!(store.get_range("ranges/a", 3, 4).unwrap(), b"3456");
    assert_eq!(store.get_range("ranges/a", 10, 0).unwrap(), b"");
    for (offset, len) in [(0, 11), (10, 1), (11, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let answer = store.get_range("ranges/a", offset, len);
        assert!(matches!(answer, Err(StoreError::Short { actual: 10, .. })), "{offset} {len}: {answer:?}");
        assert!(matches!(store.get_range_into("ranges/a", offset, len, &mut vec![7; 5]), Err(StoreError::Short { actual: 10, .. })));
    }
    // Nothing of what the memory held before is left.
    let mut room = vec![7; 100];
    for (offset, len) in [(0, 10), (2, 3), (10, 0), (4, 6)] {
        store.get_range_into("ranges/a", offset, len, &mut room).unwrap();
        assert_eq!(room, store.get_range("ranges/a", offset, len).unwrap());
    }
}

fn empty_objects(store: &dyn Store) {
    store.put("empty/a", b"").unwrap();
    assert_eq!(store.get("empty/a").unwrap(), b"");
    store.put_shared("empty/a", &std::sync::Arc::default()).unwrap();
    assert_eq!(store.get_range("empty/a", 0, 0).unwrap(), b"");
    assert_eq!(store.list("empty/").unwrap().len(), 1);
}

fn conditional_writes(store: &dyn Store) {
    assert!(store.put_if_absent("cond/a", b"first").unwrap());
    assert!(!store.put_if_absent("cond/a", b"second").unwrap());
    assert_eq!(store.get("cond/a").unwrap(), b"first");
    assert!(!store.replace_if("cond/a", b"other", b"second").unwrap());
    assert!(!store.replace_if("cond/a", b"", b"second").unwrap());
    assert!(!store.replace_if("cond/none", b"first", b"second").unwrap());
    assert!(!store.replace_if("cond/none", b"", b"second").unwrap());
    assert!(store.get("cond/none").unwrap_err().is_missing());
    assert!(store.replace_if("cond/a", b"first", b"second").unwrap());
    assert_eq!(store.get("cond/a").unwrap(), b"second");
    store.delete("cond/a").unwrap();
    assert!(store.put_if_absent("cond/a", b"third").unwrap());
}

fn put_if_absent_has_one_winner(store: &dyn Store) {
    for round in 0..8 {
        let key = format!("race/{round}");
        let winners: Vec<u8> = std::thread::scope(|scope| {
            let key = &key;
            let threads: Vec<_> =
                (0..16u8).map(|i| scope.spawn(move || store.put_if_absent(key, &[i; 4096]).unwrap().then_some(i))).collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get(&key).unwrap(), [winners[0]; 4096]);
    }
}

/// Of a lease, the only kind of object that many replace at once.
fn replace_if_loses_no_update(store: &dyn Store) {
    store.put("leases/a", b"0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    loop {
                        let old = store.get("leases/a").unwrap();
                        let next = std::str::from_utf8(&old).unwrap().parse::<u32>().unwrap() + 1;
                        if store.replace_if("leases/a", &old, next.to_string().as_bytes()).unwrap() {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(store.get("leases/a").unwrap(), b"20");
}

fn readers_see_old_or_new(store: &dyn Store) {
    store.put("whole/a", &[0; 100_000]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..20u8).for_each(|i| store.put("whole/a", &[i; 100_000]).unwrap()));
        while !writer.is_finished() {
            let seen = store.get("whole/a").unwrap();
            assert!(seen.len() == 100_000 && seen.iter().all(|b| *b == seen[0]));
        }
    });
}

fn bad_keys(store: &dyn Store) {
    let long = "x".repeat(201);
    for key in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "ä", "a b", "a\0", "a\\b", ".tmp-x", "a/.tmp-x", &long] {
        assert!(matches!(store.get(key), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.get_range(key, 0, 0), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.put(key, b""), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.put_if_absent(key, b""), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.replace_if(key, b"", b""), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.delete(key), Err(StoreError::BadKey(_))), "{key:?}");
        assert!(matches!(store.wipe(key, &[]), Err(StoreError::BadKey(_))), "{key:?}");
    }
    for prefix in ["a", "/", "../", "a//", "a/../"] {
        assert!(matches!(store.list(prefix), Err(StoreError::BadKey(_))), "{prefix:?}");
    }
}

fn listing(store: &dyn Store) {
    for key in ["list/a/1", "list/a/2", "list/ab/3", "list/b", "list/a-b"] {
        store.put(key, key.as_bytes()).unwrap();
    }
    let keys = |prefix: &str| -> BTreeSet<(String, u64)> {
        let listed = store.list(prefix).unwrap();
        assert!(listed.iter().all(|o| !o.is_delete_marker));
        listed.into_iter().map(|o| (o.key, o.len)).collect()
    };
    let expect = |keys: &[&str]| -> BTreeSet<(String, u64)> { keys.iter().map(|k| (k.to_string(), k.len() as u64)).collect() };
    assert_eq!(keys("list/a/"), expect(&["list/a/1", "list/a/2"]));
    assert_eq!(keys("list/"), expect(&["list/a/1", "list/a/2", "list/ab/3", "list/b", "list/a-b"]));
    assert_eq!(keys("list/none/"), expect(&[]));
    assert!(keys("").is_superset(&keys("list/")));
    store.delete("list/a/1").unwrap();
    assert_eq!(keys("list/a/"), expect(&["list/a/2"]));
    assert_eq!(store.list_versions("list/a/").unwrap().iter().filter(|v| v.key == "list/a/1").count(), 0, "every version goes");
}

fn wiping(store: &dyn Store) {
    let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8 + 1).collect();
    store.put("wipe/a", &bytes).unwrap();
    match store.wipe("wipe/a", &[(5, 10), (8192, 8192), (39_999, 1)]).unwrap() {
        Wiped::Unsupported => assert_eq!(store.get("wipe/a").unwrap(), bytes),
        Wiped::Done => {
            let mut expected = bytes;
            expected[5..15].fill(0);
            expected[8192..16384].fill(0);
            expected[39_999] = 0;
            assert_eq!(store.get("wipe/a").unwrap(), expected);
            assert!(matches!(store.wipe("wipe/a", &[(39_999, 2)]), Err(StoreError::Short { .. })));
            assert!(matches!(store.wipe("wipe/a", &[(u64::MAX, 2)]), Err(StoreError::Short { .. })));
            assert!(store.wipe("wipe/none", &[(0, 1)]).unwrap_err().is_missing());
            assert_eq!(store.get("wipe/a").unwrap(), expected);
        }
    }
}
