//! Many small objects at once: loading a dataset's sheets one after the other would be all waiting on a remote store.

use crate::store::{Store, StoreResult};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const THREADS: usize = 8;

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
