//! A store in memory: an export of keys is opened from it and checked to the last object before a single byte of it is written anywhere.

use super::{Object, Store, StoreError, StoreResult, Wiped, check_key};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects by key; gone with the process.
#[derive(Default)]
pub struct Memory {
    name: String,
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Memory {
    /// With these objects. `name` is what messages call it.
    pub fn new(name: impl Into<String>, objects: BTreeMap<String, Vec<u8>>) -> Memory {
        Memory { name: name.into(), objects: Mutex::new(objects) }
    }

    /// All of it.
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing { store: self.name.clone(), key: key.to_string() }
    }
}

impl Store for Memory {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn get(&self, key: &str) -> StoreResult<Vec<u8>> {
        check_key(key)?;
        self.objects().get(key).cloned().ok_or_else(|| self.missing(key))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> StoreResult<Vec<u8>> {
        check_key(key)?;
        let objects = self.objects();
        let bytes = objects.get(key).ok_or_else(|| self.missing(key))?;
        let range = offset as usize..offset.saturating_add(len) as usize;
        bytes.get(range).map(<[u8]>::to_vec).ok_or_else(|| StoreError::Short {
            store: self.name.clone(),
            key: key.to_string(),
            expected: offset.saturating_add(len),
            actual: bytes.len() as u64,
        })
    }

    fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        check_key(key)?;
        self.objects().insert(key.to_string(), bytes.to_vec());
        Ok(())
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<bool> {
        check_key(key)?;
        let mut objects = self.objects();
        let absent = !objects.contains_key(key);
        if absent {
            objects.insert(key.to_string(), bytes.to_vec());
        }
        Ok(absent)
    }

    fn replace_if(&self, key: &str, expected: &[u8], bytes: &[u8]) -> StoreResult<bool> {
        check_key(key)?;
        match self.objects().get_mut(key) {
            Some(there) if there == expected => {
                *there = bytes.to_vec();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn delete(&self, key: &str) -> StoreResult<()> {
        check_key(key)?;
        self.objects().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        if !prefix.is_empty() {
            check_key(prefix.strip_suffix('/').ok_or_else(|| StoreError::BadKey(prefix.to_string()))?)?;
        }
        let object = |(key, bytes): (&String, &Vec<u8>)| Object {
            key: key.clone(),
            len: bytes.len() as u64,
            version: None,
            is_latest: true,
            is_delete_marker: false,
        };
        Ok(self.objects().iter().filter(|(key, _)| key.starts_with(prefix)).map(object).collect())
    }

    fn list_versions(&self, prefix: &str) -> StoreResult<Vec<Object>> {
        self.list(prefix)
    }

    fn wipe(&self, key: &str, ranges: &[(u64, u64)]) -> StoreResult<Wiped> {
        check_key(key)?;
        let mut objects = self.objects();
        let bytes = objects.get_mut(key).ok_or_else(|| self.missing(key))?;
        for (offset, len) in ranges {
            let (actual, expected) = (bytes.len() as u64, offset.saturating_add(*len));
            match bytes.get_mut(*offset as usize..expected as usize) {
                Some(range) => range.fill(0),
                None => return Err(StoreError::Short { store: self.name.clone(), key: key.to_string(), expected, actual }),
            }
        }
        Ok(Wiped::Done)
    }

    fn remove_leftovers(&self, _spare: &dyn Fn(&str) -> bool) -> StoreResult<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_store_like_every_other() {
        crate::store::conformance::all(&Memory::new("memory", BTreeMap::new()));
    }
}
