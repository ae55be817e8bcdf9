//! Who can open the repository, and the change of its root key.
//!
//! A rotation goes through phases that are written into every slot, so that after a crash anybody who holds any slot's secret can
//! read everything and complete it:
//!
//! 1. *announced* `[old, new]`: every slot learns the new root; all still seal under the old one.
//! 2. *switched* `[new, old]`: every slot again; from now on all seal under the new one.
//! 3. every sealed object under the old root is sealed again (compare and replace, so that no writer's change is lost).
//! 4. *stable* `[new]`: every slot again. The old root is gone.

use super::id::{RepoId, SlotId};
use super::sealer::Sealer;
use super::{Location, Repository};
use crate::crypto::kdf::KdfParams;
use crate::crypto::seal::{self, Envelope, Purpose, RootId};
use crate::crypto::secret::{Key, Secret};
use crate::crypto::slot::{Keyring, NewSlot, Phase, Slot};
use crate::env::{Env, random_bytes};
use crate::store::Store;
use crate::{Error, Result};
use std::time::Duration;
use zeroize::Zeroizing;

/// Where sealed objects of the engine may live: a rotation must find them.
pub(super) const ENGINE_PREFIXES: [&str; 3] = ["requests/", "certificates/", "records/"];
/// The lease that changes of slots and root hold.
const LEASE: &str = "keys";
const LEASE_TTL: Duration = Duration::from_secs(120);
/// Passes over all objects before a rotation gives up on writers that keep writing under the old root.
const PASSES: usize = 5;

/// A key slot, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its id.
    pub id: SlotId,
    /// Its name.
    pub label: String,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Whether a passphrase opens it (otherwise a key file).
    pub passphrase: bool,
    /// Whether it opened this session.
    pub current: bool,
}

/// What a rotation did.
#[derive(Debug, Default)]
pub struct Rotated {
    /// Objects sealed again.
    pub resealed: u64,
    /// Objects that could not be opened before either: key and what is wrong.
    pub damaged: Vec<(String, Error)>,
    /// Whether an interrupted rotation was completed (and no new one begun).
    pub resumed: bool,
}

/// The slot's key on the keys store.
pub(super) fn slot_key(id: &SlotId) -> String {
    format!("slots/{id}")
}

pub(super) fn seal_label(root: &Key, repository: &RepoId, slot_key: &str, label: &str, env: &Env) -> Result<Vec<u8>> {
    seal::seal_object(root, &repository.0, Purpose::Label, slot_key, label.as_bytes(), &*env.random)
}

/// All slots of this repository; damaged ones apart.
fn load(keys: &dyn Store, repository: &RepoId) -> Result<(Vec<Slot>, Vec<Error>)> {
    let (mut slots, mut damaged) = (Vec::new(), Vec::new());
    let mut objects = keys.list("slots/")?;
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    for object in objects {
        let bytes = match keys.get(&object.key) {
            Err(e) if e.is_missing() => continue,
            other => other?,
        };
        match Slot::decode(&object.key, &bytes) {
            // Left behind by an interrupted init.
            Ok(slot) if *slot.repository() != repository.0 => {}
            Ok(slot) if slot_key(&SlotId(*slot.id())) != object.key => damaged.push(Error::damaged(object.key, "it is another slot")),
            Ok(slot) => slots.push(slot),
            Err(e) => damaged.push(e),
        }
    }
    Ok((slots, damaged))
}

/// Finds the slot that the secret opens.
pub(super) fn unlock(location: &Location, repository: &RepoId, secret: &Secret, env: &Env) -> Result<Sealer> {
    let (slots, mut damaged) = load(&*location.keys, repository)?;
    let count = slots.len() + damaged.len();
    for slot in slots {
        match slot.unlock(secret) {
            Ok(Some(unlocked)) => return Sealer::new(*repository, location.keys.clone(), env.random.clone(), slot, unlocked),
            Ok(None) => {}
            Err(e) => damaged.push(Error::damaged(slot_key(&SlotId(*slot.id())), e.to_string())),
        }
    }
    if count == 0 {
        return Err(Error::damaged("slots/", format!("{} has no key slot of repository {repository}", location.keys.describe())));
    }
    // Only where nothing is damaged is it certain that the secret is what is wrong.
    damaged.pop().map_or(Err(Error::WrongSecret { slots: count }), Err)
}

impl Repository {
    /// The key slots, by age.
    pub fn slots(&self) -> Result<Vec<SlotInfo>> {
        let (slots, damaged) = load(&*self.location().keys, self.id())?;
        if let Some(damaged) = damaged.into_iter().next() {
            return Err(damaged);
        }
        let mut out = Vec::with_capacity(slots.len());
        for slot in slots {
            let id = SlotId(*slot.id());
            let label = self.sealer().open(Purpose::Label, &slot_key(&id), slot.label())?;
            out.push(SlotInfo {
                id,
                label: String::from_utf8_lossy(&label).into_owned(),
                created: slot.created(),
                passphrase: slot.is_passphrase(),
                current: id == *self.sealer().slot(),
            });
        }
        out.sort_by_key(|s| (s.created, s.id));
        Ok(out)
    }

    /// Adds a slot that `secret` opens.
    pub fn add_slot(&self, secret: &Secret, label: &str, kdf: KdfParams) -> Result<SlotId> {
        kdf.check()?;
        let lease = self.lease(LEASE, LEASE_TTL)?;
        self.sealer().refresh()?;
        let keyring = self.sealer().ring();
        let id = SlotId(random_bytes(&*self.env().random)?);
        let key = slot_key(&id);
        let root = keyring.roots.first().ok_or_else(|| Error::damaged("the keyring", "it is empty"))?;
        let label = seal_label(root, self.id(), &key, label, self.env())?;
        let created = self.env().now();
        let new = NewSlot { repository: self.id().0, id: id.0, created, secret, kdf, signing: &self.signing, keyring: &keyring, label };
        let slot = Slot::create(new, &*self.env().random)?;
        lease.check()?;
        self.location().keys.put(&key, &slot.encode()?)?;
        Ok(id)
    }

    /// Removes a slot. Refused for the last one, and for the one that opened this session. Whoever knows its secret and has an old
    /// copy of it still has the root key: rotate the root as well.
    pub fn remove_slot(&self, id: &SlotId) -> Result<()> {
        let lease = self.lease(LEASE, LEASE_TTL)?;
        if id == self.sealer().slot() {
            return Err(Error::Refused("this slot opened the repository: open it with another one to remove it".to_string()));
        }
        let (slots, _) = load(&*self.location().keys, self.id())?;
        let others = slots.iter().filter(|s| *s.id() != id.0).count();
        if others == 0 {
            return Err(Error::Refused("the last key slot cannot be removed".to_string()));
        }
        if others == slots.len() && self.location().keys.get(&slot_key(id)).is_err() {
            return Err(Error::Usage(format!("there is no key slot {id}")));
        }
        lease.check()?;
        Ok(self.location().keys.delete(&slot_key(id))?)
    }

    /// Replaces the root key, or completes an interrupted replacement. Reading and writing may go on meanwhile.
    pub fn rotate_root(&self) -> Result<Rotated> {
        let lease = self.lease(LEASE, LEASE_TTL)?;
        self.sealer().refresh()?;
        let ring = self.sealer().ring();
        let mut out = Rotated { resumed: ring.phase != Phase::Stable, ..Rotated::default() };
        let copy = |n: usize| -> Result<Key> {
            let root = ring.roots.get(n).ok_or_else(|| Error::damaged("the keyring", "a root is missing"))?;
            Ok(Key::new(Zeroizing::new(*root.bytes())))
        };
        let (old, new) = match ring.phase {
            Phase::Stable => (copy(0)?, Key::random(&*self.env().random)?),
            Phase::Announced => (copy(0)?, copy(1)?),
            Phase::Switched => (copy(1)?, copy(0)?),
        };
        let twice = |k: &Key| Key::new(Zeroizing::new(*k.bytes()));
        if ring.phase != Phase::Switched {
            self.write_rings(&lease, &Keyring { phase: Phase::Announced, roots: vec![twice(&old), twice(&new)] })?;
        }
        self.write_rings(&lease, &Keyring { phase: Phase::Switched, roots: vec![twice(&new), twice(&old)] })?;
        self.reseal_all(&lease, seal::root_id(&new), &mut out)?;
        self.write_rings(&lease, &Keyring { phase: Phase::Stable, roots: vec![new] })?;
        Ok(out)
    }

    /// Gives every slot this keyring.
    fn write_rings(&self, lease: &super::Lease, ring: &Keyring) -> Result<()> {
        let keys = &*self.location().keys;
        let (slots, damaged) = load(keys, self.id())?;
        // A slot that missed a change could never open the repository again.
        if let Some(damaged) = damaged.into_iter().next() {
            return Err(damaged);
        }
        let root = ring.roots.first().ok_or_else(|| Error::damaged("the keyring", "it is empty"))?;
        for mut slot in slots {
            let key = slot_key(&SlotId(*slot.id()));
            let label = self.sealer().open(Purpose::Label, &key, slot.label())?;
            let label = seal::seal_object(root, &self.id().0, Purpose::Label, &key, &label, &*self.env().random)?;
            slot.set_keyring(ring, label, &self.signing, &*self.env().random)?;
            lease.check()?;
            keys.put(&key, &slot.encode()?)?;
        }
        self.sealer().refresh()?;
        Ok(())
    }

    /// Seals everything again that is not under `root` yet, until a pass over all objects finds nothing.
    fn reseal_all(&self, lease: &super::Lease, root: RootId, out: &mut Rotated) -> Result<()> {
        for _ in 0..PASSES {
            out.damaged.clear();
            let mut found = 0;
            for (store, prefix) in self.sealed_prefixes() {
                for object in store.list(prefix)? {
                    // What an interrupted init left behind was never this repository's.
                    if prefix == "signing/" && object.key != super::signing_key(self.id()) {
                        continue;
                    }
                    self.env().stop.check("the rotation of the root key; run it again to complete it")?;
                    lease.check_cheaply()?;
                    match self.reseal(store, &object.key, root) {
                        Ok(done) => found += u64::from(done),
                        Err(e @ Error::Damaged { .. }) => out.damaged.push((object.key, e)),
                        Err(e) => return Err(e),
                    }
                }
            }
            out.resealed += found;
            if found == 0 {
                return Ok(());
            }
        }
        Err(Error::Refused("other processes keep writing under the old root key: run the rotation again when they are done".to_string()))
    }

    fn sealed_prefixes(&self) -> [(&dyn Store, &'static str); 8] {
        let (keys, data): (&dyn Store, &dyn Store) = (&*self.location().keys, &*self.location().data);
        [
            (keys, "signing/"),
            (keys, "datasets/"),
            (keys, "ledger/"),
            (keys, ENGINE_PREFIXES[0]),
            (keys, ENGINE_PREFIXES[1]),
            (keys, ENGINE_PREFIXES[2]),
            (keys, "sheets/"),
            (data, "archives/"),
        ]
    }

    /// Seals one object again; whether that was needed.
    fn reseal(&self, store: &dyn Store, key: &str, root: RootId) -> Result<bool> {
        loop {
            let bytes = match store.get(key) {
                Err(e) if e.is_missing() => return Ok(false),
                other => other?,
            };
            let envelope = Envelope::read(&bytes).ok_or_else(|| Error::damaged(key, "not a sealed object"))?;
            if envelope.root == root {
                return Ok(false);
            }
            let plain = self.sealer().open(envelope.purpose, key, &bytes)?;
            let (again, under) = self.sealer().seal(envelope.purpose, key, &plain)?;
            if under != root {
                return Err(Error::Refused("another process changed the root key at the same time".to_string()));
            }
            if store.replace_if(key, &bytes, &again)? {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, FAST};
    use super::*;
    use crate::crypto::secret::KeyFile;
    use crate::env::SystemRandom;
    use std::sync::Arc;

    fn everything_opens(repo: &Repository) {
        assert_eq!(**repo.get_sealed("request", "requests/a").unwrap().unwrap(), *b"sealed");
        assert!(repo.dataset("d").unwrap().is_some());
        let heads = repo.heads("d").unwrap();
        assert_eq!((heads.latest.len(), heads.damaged.len()), (1, 0));
    }

    fn sample() -> testing::Fixture {
        let t = testing::fixture();
        t.repo.put_sealed("request", "requests/a", b"sealed").unwrap();
        testing::put_archive(&t, 1, &[b"one", b"two"]);
        t.repo.add_slot(&Secret::passphrase("second").unwrap(), "for the safe", FAST).unwrap();
        t
    }

    #[test]
    fn slots_come_and_go_but_never_the_last_one() {
        let t = testing::fixture();
        let file = KeyFile::generate(&SystemRandom).unwrap();
        let text = file.encode();
        let id = t.repo.add_slot(&Secret::KeyFile(file), "key file", FAST).unwrap();
        let first = t.repo.slots().unwrap().into_iter().find(|s| s.current).unwrap();
        assert_eq!((first.label.as_str(), first.passphrase), ("first", true));
        assert!(matches!(t.repo.remove_slot(&first.id), Err(Error::Refused(_))));
        let with_file = || Secret::KeyFile(KeyFile::parse(&text).unwrap());
        let other = t.open_with(&with_file()).unwrap();
        assert_eq!(other.slots().unwrap().iter().find(|s| s.current).unwrap().label, "key file");
        other.remove_slot(&first.id).unwrap();
        assert!(matches!(t.open(), Err(Error::WrongSecret { slots: 1 })));
        assert!(matches!(other.remove_slot(&id), Err(Error::Refused(_))));
        assert!(other.remove_slot(&SlotId([9; 16])).is_err());
        assert!(t.open_with(&with_file()).is_ok());
        assert!(matches!(t.repo.put_sealed("request", "requests/x", b""), Err(Error::Refused(_))), "the removed slot's session ends");
    }

    #[test]
    fn after_a_rotation_every_slot_opens_everything_and_the_old_root_opens_nothing() {
        let t = sample();
        let before: Vec<_> = t.keys.list("").unwrap().into_iter().map(|o| (o.key.clone(), t.keys.get(&o.key).unwrap())).collect();
        let old = t.repo.sealer().ring();
        let stale = t.open().unwrap();
        let rotated = t.repo.rotate_root().unwrap();
        assert!(rotated.resealed > 4 && rotated.damaged.is_empty() && !rotated.resumed);
        everything_opens(&t.repo);
        everything_opens(&stale);
        everything_opens(&t.open().unwrap());
        everything_opens(&t.open_with(&Secret::passphrase("second").unwrap()).unwrap());
        let old_id = seal::root_id(&old.roots[0]);
        for object in t.keys.list("").unwrap().into_iter().chain(t.data.list("archives/").unwrap()) {
            let bytes = if object.key.starts_with("archives/") { t.data.get(&object.key) } else { t.keys.get(&object.key) }.unwrap();
            if let Some(envelope) = Envelope::read(&bytes) {
                assert_ne!(envelope.root, old_id, "{}", object.key);
            }
        }
        assert_eq!(t.repo.slots().unwrap().len(), 2);
        // An old slot put back gives the old root: it opens nothing any more.
        for (key, bytes) in before.iter().filter(|(k, _)| k.starts_with("slots/")) {
            t.keys.put(key, bytes).unwrap();
        }
        assert!(matches!(t.open(), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_writer_that_slept_through_a_rotation_seals_again_under_the_new_root() {
        let t = sample();
        let stale = t.open().unwrap();
        t.repo.rotate_root().unwrap();
        stale.put_sealed("request", "requests/late", b"late").unwrap();
        let envelope = Envelope::read(&t.keys.get("requests/late").unwrap()).unwrap();
        assert_eq!(envelope.root, seal::root_id(&t.repo.sealer().ring().roots[0]));
        assert_eq!(**t.repo.get_sealed("request", "requests/late").unwrap().unwrap(), *b"late");
    }

    #[test]
    fn a_rotation_that_stops_anywhere_leaves_everything_readable_and_can_be_completed_with_any_slot() {
        for secret in ["passphrase", "second"] {
            for step in 0.. {
                let t = sample();
                t.faulty.fail_from(step);
                let crashed = t.repo.rotate_root().is_err();
                t.faulty.heal();
                t.break_leases();
                everything_opens(&t.open().unwrap());
                everything_opens(&t.open_with(&Secret::passphrase("second").unwrap()).unwrap());
                let again = Arc::new(t.open_with(&Secret::passphrase(secret).unwrap()).unwrap());
                again.rotate_root().unwrap();
                everything_opens(&again);
                everything_opens(&t.open().unwrap());
                assert_eq!(again.sealer().ring().roots.len(), 1);
                if !crashed {
                    assert!(step > 10);
                    break;
                }
            }
        }
    }

    #[test]
    fn a_keyring_from_somebody_without_the_signing_key_is_refused() {
        let t = sample();
        let key = slot_key(t.repo.sealer().slot());
        let mut slot = Slot::decode(&key, &t.keys.get(&key).unwrap()).unwrap();
        let evil = Keyring { phase: Phase::Stable, roots: vec![Key::random(&SystemRandom).unwrap()] };
        let mallory = crate::crypto::sign::SigningKey::generate(&SystemRandom).unwrap();
        slot.set_keyring(&evil, vec![], &mallory, &SystemRandom).unwrap();
        t.keys.put(&key, &slot.encode().unwrap()).unwrap();
        assert!(matches!(t.open(), Err(Error::Damaged { .. })));
        assert!(t.repo.put_sealed("request", "requests/x", b"secret").is_err());
    }
}
