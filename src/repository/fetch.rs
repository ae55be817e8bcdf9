//! Many small objects at once: one after the other, loading a dataset's sheets or changing them would be all waiting on a remote store.

use crate::Result;
use crate::store::{Store, StoreResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

const THREADS: usize = 8;

/// Threads for small changes that do not wait for each other: in a folder they wait for the disk, elsewhere each has its round trips.
pub fn hands(store: &dyn Store) -> usize {
    if store.is_remote() { store.parallel().min(THREADS) } else { 8 }
}

/// Does the same with every item, on up to so many threads; results come in the order of `items`. After the first failure nothing more is
/// begun; what has begun is waited for, and the failure of the earliest item is given.
pub fn at_once<I: Send, T: Send>(threads: usize, items: Vec<I>, act: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    let failed = AtomicBool::new(false);
    let done = side_by_side(threads, items, |item| {
        if failed.load(Ordering::SeqCst) {
            return None;
        }
        let value = act(item);
        if value.is_err() {
            failed.store(true, Ordering::SeqCst);
        }
        Some(value)
    });
    done.into_iter().flatten().collect()
}

/// Gets every key and hands it to `use_it` on one of several threads; results come in the order of `keys`.
pub fn fetch_all<T: Send>(store: &dyn Store, keys: &[String], use_it: impl Fn(&str, StoreResult<Vec<u8>>) -> T + Sync) -> Vec<T> {
    // A handful of objects is not worth a thread, unless each has its round trip.
    let each = if store.is_remote() { 2 } else { 8 };
    let threads = THREADS.min(keys.len().div_ceil(each));
    side_by_side(threads, keys.iter().collect(), |key: &String| use_it(key, store.get(key)))
}

/// [`at_once`] of what cannot fail.
pub(super) fn side_by_side<I: Send, T: Send>(threads: usize, items: Vec<I>, act: impl Fn(I) -> T + Sync) -> Vec<T> {
    if threads < 2 || items.len() < 2 {
        return items.into_iter().map(act).collect();
    }
    let (most, count) = (threads.min(items.len()), items.len());
    let waiting = Mutex::new(items.into_iter().enumerate());
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((n, item)) = next else { return };
            let value = act(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((n, value));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..most {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, value)| value).collect()
}
