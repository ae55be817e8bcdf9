//! Many small objects at once: one after the other, loading a dataset's sheets or changing them would be all waiting on a remote store.

use crate::Result;
use crate::store::{Store, StoreResult};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const THREADS: usize = 8;

/// Threads for small changes that do not wait for each other: in a folder they wait for the disk, elsewhere each has its round trips.
pub fn hands(store: &dyn Store) -> usize {
    if store.is_remote() { store.parallel().min(THREADS) } else { 4 }
}

/// Does the same with every item, on up to so many threads; results come in the order of `items`. After the first failure nothing more is
/// begun; what has begun is waited for, and the failure of the earliest item is given.
pub fn at_once<I: Send, T: Send>(threads: usize, items: Vec<I>, act: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    if threads < 2 || items.len() < 2 {
        return items.into_iter().map(act).collect();
    }
    let (most, failed) = (threads.min(items.len()), AtomicBool::new(false));
    let waiting = Mutex::new(items.into_iter().enumerate());
    let done: Mutex<Vec<(usize, Result<T>)>> = Mutex::default();
    let work = || {
        while !failed.load(Ordering::SeqCst) {
            let next = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((n, item)) = next else { return };
            let value = act(item);
            if value.is_err() {
                failed.store(true, Ordering::SeqCst);
            }
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((n, value));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..most {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, value)| value).collect()
}

/// Gets every key and hands it to `use_it` on one of several threads; results come in the order of `keys`.
pub fn fetch_all<T: Send>(store: &dyn Store, keys: &[String], use_it: impl Fn(&str, StoreResult<Vec<u8>>) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(keys.len()));
    let work = || {
        while let n = next.fetch_add(1, Ordering::Relaxed)
            && let Some(key) = keys.get(n)
        {
            let value = use_it(key, store.get(key));
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((n, value));
        }
    };
    std::thread::scope(|scope| {
        // A handful of objects is not worth a thread.
        for _ in 1..THREADS.min(keys.len().div_ceil(8)) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, value)| value).collect()
}
