//! Wrappers around a store: one that counts (reports say what an erasure read and wrote, so the product uses it too), and one that
//! misbehaves on demand (what a crash, a full disk or a rotten disk leave behind is a test's business).

use super::{Finding, Object, Requests, Store, StoreError, StoreResult, Wiped};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What went through a [`Counting`] store so far. Lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Whole objects read.
    pub gets: u64,
    /// Ranges read.
    pub ranges: u64,
    /// Objects written, by any verb.
    pub puts: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Listings.
    pub lists: u64,
    /// Ranges wiped.
    pub wipes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes wiped in place.
    pub bytes_wiped: u64,
}

#[derive(Default)]
struct Counters {
    gets: AtomicU64,
    ranges: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    lists: AtomicU64,
    wipes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_wiped: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts what passes through.
pub struct Counting {
    inner: Arc<dyn Store>,
    counters: Counters,
}

impl Counting {
    /// Around this store.
    pub fn new(inner: Arc<dyn Store>) -> Counting {
        Counting { inner, counters: Counters::default() }
    }

    /// The figures so far.
    pub fn counts(&self) -> Counts {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        Counts {
            gets: get(&c.gets),
            ranges: get(&c.ranges),
            puts: get(&c.puts),
            deletes: get(&c.deletes),
            lists: get(&c.lists),
            wipes: get(&c.wipes),
            bytes_read: get(&c.bytes_read),
            bytes_written: get(&c.bytes_written),
            bytes_wiped: get(&c.bytes_wiped),
        }
    }
}

impl Store for Counting {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        let bytes = self.inner.get(key)?;
        add(&self.counters.gets, 1);
        add(&self.counters.bytes_read, bytes.len() as u64);
        Ok(bytes)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        let bytes = self.inner.get_range(key, offset, len)?;
        add(&self.counters.ranges, 1);
        add(&self.counters.bytes_read, bytes.len() as u64);
        Ok(bytes)
    }
    fn get_range_into(&self, key: &str, offset: u64, len: u64, into: &mut Vec<u8>) -> StoreResult<()> {
        self.inner.get_range_into(key, offset, len, into)?;
        add(&self.counters.ranges, 1);
        add(&self.counters.bytes_read, into.len() as u64);
        Ok(())
    }
    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        self.inner.put(key, bytes)?;
        add(&self.counters.puts, 1);
        add(&self.counters.bytes_written, bytes.len() as u64);
        Ok(())
    }
    fn put_shared(&self, key: &str, bytes: &Arc<Vec<u8>>) -> StoreResult<()> {
        self.inner.put_shared(key, bytes)?;
        add(&self.counters.puts, 1);
        add(&self.counters.bytes_written, bytes.len() as u64);
        Ok(())
    }
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        let done = self.inner.put_if_absent(key, bytes)?;
        add(&self.counters.puts, u64::from(done));
        add(&self.counters.bytes_written, if done { bytes.len() as u64 } else { 0 });
        Ok(done)
    }
    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        let done = self.inner.replace_if(key, expected, bytes)?;
        add(&self.counters.puts, u64::from(done));
        add(&self.counters.bytes_written, if done { bytes.len() as u64 } else { 0 });
        Ok(done)
    }
    fn delete(&self, key: &str) -> StoreResult<()> {
        self.inner.delete(key)?;
        add(&self.counters.deletes, 1);
        Ok(())
    }
    fn delete_many(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        let left = self.inner.delete_many(keys);
        add(&self.counters.deletes, (keys.len() as u64).saturating_sub(left.len() as u64));
        left
    }
    fn delete_old(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        self.inner.delete_old(keys)
    }
    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        add(&self.counters.lists, 1);
        self.inner.list(prefix)
    }
    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        add(&self.counters.lists, 1);
        self.inner.list_versions(prefix)
    }
    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        let wiped = self.inner.wipe(key, ranges)?;
        if wiped == Wiped::Done {
            add(&self.counters.wipes, ranges.len() as u64);
            add(&self.counters.bytes_wiped, ranges.iter().map(|(_, len)| len).sum());
        }
        Ok(wiped)
    }
    fn remove_leftovers(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        self.inner.remove_leftovers(spare)
    }
    fn inspect(&self) -> Vec<Finding> {
        self.inner.inspect()
    }
    fn parallel(&self) -> usize {
        self.inner.parallel()
    }
    fn requests(&self) -> Option<Requests> {
        self.inner.requests()
    }
}

/// Changes what is read: key and bytes.
pub type Tamper = Box<dyn FnMut(&str, &mut Vec<u8>) + Send>;

/// Misbehaves on demand. For tests.
pub struct Faulty {
    inner: Arc<dyn Store>,
    changes: AtomicU64,
    fail_from: AtomicU64,
    no_wipe: AtomicBool,
    remote: AtomicBool,
    /// Prefix, and how many writes below it go well before one fails.
    one_write: Mutex<Option<(String, u64)>>,
    tamper: Mutex<Option<Tamper>>,
}

impl Faulty {
    /// Around this store; behaves until told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> Faulty {
        Faulty {
            inner,
            changes: AtomicU64::new(0),
            fail_from: AtomicU64::new(u64::MAX),
            no_wipe: AtomicBool::new(false),
            remote: AtomicBool::new(false),
            one_write: Mutex::new(None),
            tamper: Mutex::new(None),
        }
    }

    /// From the `n`-th changing call on (from 0, counted from now) every changing call fails without effect: a crash.
    pub fn fail_from(&self, n: u64) {
        self.changes.store(0, Ordering::SeqCst);
        self.fail_from.store(n, Ordering::SeqCst);
    }

    /// Behaves again.
    pub fn heal(&self) {
        self.fail_from.store(u64::MAX, Ordering::SeqCst);
        self.set_tamper(None);
    }

    /// Changing calls since [`Faulty::fail_from`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Whether [`Store::wipe`] answers [`Wiped::Unsupported`].
    pub fn without_wipe(&self, yes: bool) {
        self.no_wipe.store(yes, Ordering::SeqCst);
    }

    /// Whether it passes for a service's store, whose requests have their round trips.
    pub fn as_remote(&self, yes: bool) {
        self.remote.store(yes, Ordering::SeqCst);
    }

    /// Of the writes below a prefix from now on, the `n`-th (from 0) fails without effect, and only that one.
    pub fn fail_one_write(&self, prefix: &str, n: u64) {
        *self.one_write.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((prefix.to_string(), n));
    }

    /// Changes everything that is read from now on.
    pub fn set_tamper(&self, tamper: Option<Tamper>) {
        *self.tamper.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = tamper;
    }

    fn change(&self, action: &'static str, key: &str) -> StoreResult<()> {
        let n = self.changes.fetch_add(1, Ordering::SeqCst);
        let mut one = self.one_write.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fails = match one.as_mut() {
            Some((prefix, left)) if action == "write" && key.starts_with(prefix.as_str()) => {
                *left = left.wrapping_sub(1);
                *left == u64::MAX
            }
            _ => false,
        };
        if n < self.fail_from.load(Ordering::SeqCst) && !fails {
            return Ok(());
        }
        Err(StoreError::Failed {
            store: self.describe(),
            action,
            key: key.to_string(),
            source: Box::new(std::io::Error::other("the store was told to fail")),
        })
    }

    fn tampered(&self, key: &str, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(tamper) = self.tamper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut() {
            tamper(key, &mut bytes);
        }
        bytes
    }
}

impl Store for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        Ok(self.tampered(key, self.inner.get(key)?))
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        Ok(self.tampered(key, self.inner.get_range(key, offset, len)?))
    }
    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        self.change("write", key)?;
        self.inner.put(key, bytes)
    }
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        self.change("write", key)?;
        self.inner.put_if_absent(key, bytes)
    }
    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        self.change("replace", key)?;
        self.inner.replace_if(key, expected, bytes)
    }
    fn delete(&self, key: &str) -> StoreResult<()> {
        self.change("delete", key)?;
        self.inner.delete(key)
    }
    fn delete_old(&self, keys: &[String]) -> Vec<(String, StoreError)> {
        self.inner.delete_old(keys)
    }
    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.inner.list(prefix)
    }
    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.inner.list_versions(prefix)
    }
    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        if self.no_wipe.load(Ordering::SeqCst) {
            return Ok(Wiped::Unsupported);
        }
        self.change("wipe", key)?;
        self.inner.wipe(key, ranges)
    }
    fn remove_leftovers(&self, spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        self.inner.remove_leftovers(spare)
    }
    fn inspect(&self) -> Vec<Finding> {
        self.inner.inspect()
    }
    fn parallel(&self) -> usize {
        self.inner.parallel()
    }
    fn requests(&self) -> Option<Requests> {
        if self.remote.load(Ordering::SeqCst) { Some(self.inner.requests().unwrap_or_default()) } else { self.inner.requests() }
    }
}
