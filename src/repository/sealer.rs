//! Seals and opens objects under the repository's root key, also while another process changes that root.
//!
//! A rotation gives every slot the new root before anything is sealed under it, so whoever meets an unknown root reads its own
//! slot again. And since a writer may seal under a root just as it is being retired, every write is followed by a look at the
//! slot: unchanged → the rotation's listing comes later and will find the object; changed → the writer seals it again.

use super::id::{RepoId, SlotId};
use super::slots::slot_key;
use crate::crypto::seal::{self, Envelope, Purpose, RootId};
use crate::crypto::sign::VerifyingKey;
use crate::crypto::slot::{Keyring, Slot, Unlocked};
use crate::env::Random;
use crate::store::Store;
use crate::{Error, Result};
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

/// How an object is stored.
#[derive(Clone, Copy)]
pub enum How<'a> {
    /// Replacing whatever is there.
    Put,
    /// Unless something is there.
    IfAbsent,
    /// If exactly these bytes are there.
    Replace(&'a [u8]),
}

struct State {
    ring: Arc<Keyring>,
    ids: Vec<RootId>,
    /// The slot's bytes that the keyring came from.
    slot: Vec<u8>,
}

/// See the file's header. Shared by everything that reads or writes sealed objects.
pub struct Sealer {
    repository: RepoId,
    keys: Arc<dyn Store>,
    random: Arc<dyn Random>,
    slot: SlotId,
    unlocked: Unlocked,
    state: RwLock<State>,
}

fn read_ring(slot: &Slot, unlocked: &Unlocked) -> Result<(Arc<Keyring>, Vec<RootId>)> {
    let damaged = |_| Error::damaged(slot_key(&SlotId(*slot.id())), "its keyring was not made by this repository");
    let ring = slot.keyring(unlocked).map_err(damaged)?;
    let ids = ring.roots.iter().map(seal::root_id).collect();
    Ok((Arc::new(ring), ids))
}

impl Sealer {
    /// With an unlocked slot.
    pub fn new(repository: RepoId, keys: Arc<dyn Store>, random: Arc<dyn Random>, slot: Slot, unlocked: Unlocked) -> Result<Sealer> {
        let (ring, ids) = read_ring(&slot, &unlocked)?;
        let state = RwLock::new(State { ring, ids, slot: slot.encode()? });
        Ok(Sealer { repository, keys, random, slot: SlotId(*slot.id()), unlocked, state })
    }

    /// The slot that opened the repository.
    pub fn slot(&self) -> &SlotId {
        &self.slot
    }

    /// The repository's public key, as the slot's maker knew it.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.unlocked.verifying
    }

    /// The keyring as of now.
    pub fn ring(&self) -> Arc<Keyring> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// Reads the slot again; whether it had changed.
    pub fn refresh(&self) -> Result<bool> {
        let key = slot_key(&self.slot);
        let bytes = match self.keys.get(&key) {
            Err(e) if e.is_missing() => {
                return Err(Error::Refused("the key slot that opened this repository has been removed meanwhile".to_string()));
            }
            other => other?,
        };
        if self.state.read().unwrap_or_else(PoisonError::into_inner).slot == bytes {
            return Ok(false);
        }
        let (ring, ids) = read_ring(&Slot::decode(&key, &bytes)?, &self.unlocked)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State { ring, ids, slot: bytes };
        Ok(true)
    }

    /// Seals an object; also says under which root.
    pub fn seal(&self, purpose: Purpose, key: &str, plain: &[u8]) -> Result<(Vec<u8>, RootId)> {
        let ring = self.ring();
        let root = ring.roots.first().ok_or_else(|| Error::damaged("the keyring", "it is empty"))?;
        Ok((seal::seal_object(root, &self.repository.0, purpose, key, plain, &*self.random)?, seal::root_id(root)))
    }

    /// Opens an object; [`Error::Damaged`] when it is not what was sealed under this key.
    pub fn open(&self, purpose: Purpose, key: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let envelope = Envelope::read(bytes).ok_or_else(|| Error::damaged(key, "not a sealed object"))?;
        if envelope.purpose != purpose {
            return Err(Error::damaged(key, format!("a sealed {} where a {} belongs", envelope.purpose.name(), purpose.name())));
        }
        let mut refreshed = false;
        loop {
            let (ring, at) = {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                (state.ring.clone(), state.ids.iter().position(|id| *id == envelope.root))
            };
            if let Some(root) = at.and_then(|at| ring.roots.get(at)) {
                return seal::open_object(root, &self.repository.0, purpose, key, bytes)
                    .map_err(|_| Error::damaged(key, "its seal does not open"));
            }
            if refreshed || !self.refresh()? {
                return Err(Error::damaged(key, "sealed under a root key that is not in the keyring"));
            }
            refreshed = true;
        }
    }

    /// Gets and opens.
    pub fn get(&self, store: &dyn Store, purpose: Purpose, key: &str) -> Result<Zeroizing<Vec<u8>>> {
        self.open(purpose, key, &store.get(key)?)
    }

    /// Seals and stores; the stored bytes, or `None` when `how` was not met.
    pub fn put(&self, store: &dyn Store, purpose: Purpose, key: &str, plain: &[u8], how: How<'_>) -> Result<Option<Vec<u8>>> {
        let (mut sealed, mut root) = self.seal(purpose, key, plain)?;
        let done = match how {
            How::Put => store.put(key, &sealed).map(|()| true),
            How::IfAbsent => store.put_if_absent(key, &sealed),
            How::Replace(expected) => store.replace_if(key, expected, &sealed),
        }?;
        if !done {
            return Ok(None);
        }
        while self.refresh()? {
            let (again, new_root) = self.seal(purpose, key, plain)?;
            if new_root == root {
                break;
            }
            if !store.replace_if(key, &sealed, &again)? {
                // Somebody replaced it meanwhile: the rotation itself, or its next writer.
                break;
            }
            (sealed, root) = (again, new_root);
        }
        Ok(Some(sealed))
    }
}
