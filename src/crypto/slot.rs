//! Key slots: how one secret opens the repository, and how somebody who knows only one of them can give all of them a new root.
//!
//! A slot is an X25519 key pair. Its private key is sealed under the slot's secret; the **keyring** (the root keys) is sealed to
//! its public key with HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM). Replacing the root
//! therefore needs no other slot's secret.
//!
//! HPKE's base mode does not say who sealed: anybody who can write to the store could give a slot a keyring of his own, and the
//! next backup would be sealed for him. So the keyring is signed with the repository's Ed25519 key, and the public half of that
//! key is sealed beside the slot's private key, where only the secret's holder could have put it.

use super::NotAuthentic;
use super::kdf::{self, KdfParams};
use super::seal;
use super::secret::{Key, Secret};
use super::sign::{SigningKey, VerifyingKey};
use crate::env::Random;
use crate::{Error, Result};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as Dhkem;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::convert::Infallible;
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"RSS1";
const CHECK: usize = 16;
const MAX_ROOTS: usize = 8;

/// How far a change of the root has come. Written with the keyring, so that whoever comes after a crash can complete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One root.
    Stable,
    /// `[old, new]`: every slot learns the new root; everything is still sealed under the old one.
    Announced,
    /// `[new, old]`: everything is sealed under the new root; what is still under the old one is being sealed again.
    Switched,
}

/// The root keys that a slot gives.
pub struct Keyring {
    /// See [`Phase`].
    pub phase: Phase,
    /// The first one seals; all of them open. Never empty.
    pub roots: Vec<Key>,
}

impl Keyring {
    /// Version, phase, count, then 32 bytes per root.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(3 + 32 * self.roots.len()));
        let phase = match self.phase {
            Phase::Stable => 0,
            Phase::Announced => 1,
            Phase::Switched => 2,
        };
        out.extend_from_slice(&[1, phase, self.roots.len() as u8]);
        for root in &self.roots {
            out.extend_from_slice(root.bytes());
        }
        out
    }

    /// Reads what [`Keyring::encode`] made.
    pub fn decode(bytes: &[u8]) -> Option<Keyring> {
        let (front, roots) = bytes.split_at_checked(3)?;
        let &[1, phase, count] = front else { return None };
        let phase = match phase {
            0 => Phase::Stable,
            1 => Phase::Announced,
            2 => Phase::Switched,
            _ => return None,
        };
        let count = usize::from(count);
        if count == 0 || count > MAX_ROOTS || roots.len() != 32 * count {
            return None;
        }
        Some(Keyring { phase, roots: roots.chunks_exact(32).filter_map(Key::from_slice).collect() })
    }
}

/// What a slot's secret opens: its private key, and whose signature to trust.
pub struct Unlocked {
    private: Zeroizing<[u8; 32]>,
    /// The repository's public signing key, as the slot's maker knew it.
    pub verifying: VerifyingKey,
}

/// A slot as it is stored.
#[derive(Serialize, Deserialize)]
pub struct Slot {
    #[serde(with = "serde_bytes")]
    repository: [u8; 16],
    #[serde(with = "serde_bytes")]
    id: [u8; 16],
    created: jiff::Timestamp,
    /// Costs of Argon2id; absent for a key file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kdf: Option<KdfParams>,
    #[serde(with = "serde_bytes")]
    salt: [u8; 32],
    /// Private key and verifying key, sealed under the secret.
    sealed: ByteBuf,
    #[serde(with = "serde_bytes")]
    public: [u8; 32],
    /// HPKE's encapsulated key.
    #[serde(with = "serde_bytes")]
    enc: [u8; 32],
    /// HPKE's ciphertext of the keyring.
    keyring: ByteBuf,
    /// The slot's name, a sealed object of its own.
    label: ByteBuf,
    #[serde(with = "serde_bytes")]
    signature: [u8; 64],
}

/// What a new slot is made from.
pub struct NewSlot<'a> {
    /// The repository.
    pub repository: [u8; 16],
    /// The slot's own id.
    pub id: [u8; 16],
    /// Now.
    pub created: jiff::Timestamp,
    /// What will open it.
    pub secret: &'a Secret,
    /// Costs, for a passphrase.
    pub kdf: KdfParams,
    /// The repository's signing key.
    pub signing: &'a SigningKey,
    /// The root keys.
    pub keyring: &'a Keyring,
    /// The sealed label.
    pub label: Vec<u8>,
}

impl Slot {
    /// Makes a slot.
    pub fn create(new: NewSlot<'_>, random: &dyn Random) -> Result<Slot> {
        let seed = Key::random(random)?;
        let (private, public) = Dhkem::derive_keypair(seed.bytes());
        let mut slot = Slot {
            repository: new.repository,
            id: new.id,
            created: new.created,
            kdf: matches!(new.secret, Secret::Passphrase(_)).then_some(new.kdf),
            salt: crate::env::random_bytes(random)?,
            sealed: ByteBuf::new(),
            public: public.to_bytes().into(),
            enc: [0; 32],
            keyring: ByteBuf::new(),
            label: ByteBuf::new(),
            signature: [0; 64],
        };
        let key = slot.wrapping_key(new.secret)?.ok_or_else(|| Error::Refused("a slot without costs for its passphrase".into()))?;
        let mut body = Vec::with_capacity(64 + seal::TAG);
        body.extend_from_slice(Zeroizing::new(<[u8; 32]>::from(private.to_bytes())).as_slice());
        body.extend_from_slice(&new.signing.verifying_key().to_bytes());
        seal::encrypt(&key, &slot.wrapping_aad(), &mut body)?;
        slot.sealed = ByteBuf::from(body);
        slot.set_keyring(new.keyring, new.label, new.signing, random)?;
        Ok(slot)
    }

    /// The slot's id.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// The repository that it belongs to.
    pub fn repository(&self) -> &[u8; 16] {
        &self.repository
    }

    /// When it was made.
    pub fn created(&self) -> jiff::Timestamp {
        self.created
    }

    /// Whether a passphrase opens it (otherwise a key file).
    pub fn is_passphrase(&self) -> bool {
        self.kdf.is_some()
    }

    /// The sealed label.
    pub fn label(&self) -> &[u8] {
        &self.label
    }

    /// `None` when the secret is of the other sort.
    fn wrapping_key(&self, secret: &Secret) -> Result<Option<Zeroizing<[u8; 32]>>> {
        let stretched = match (secret, self.kdf) {
            (Secret::Passphrase(p), Some(costs)) => kdf::argon2id(p, &self.salt, costs)?,
            (Secret::KeyFile(f), None) => Zeroizing::new(*f.key().bytes()),
            _ => return Ok(None),
        };
        Ok(Some(kdf::hkdf(&stretched, &self.salt, &[b"reseal/v1/slot"])))
    }

    fn wrapping_aad(&self) -> Vec<u8> {
        let costs = self.kdf.unwrap_or(KdfParams { memory_kib: 0, passes: 0, lanes: 0 });
        let mut aad = b"reseal/v1/slot\0".to_vec();
        aad.extend_from_slice(&self.repository);
        aad.extend_from_slice(&self.id);
        aad.push(if self.kdf.is_some() { 1 } else { 2 });
        for cost in [costs.memory_kib, costs.passes, costs.lanes] {
            aad.extend_from_slice(&cost.to_be_bytes());
        }
        aad.extend_from_slice(&self.public);
        aad
    }

    fn hpke_info(&self) -> Vec<u8> {
        [b"reseal/v1/keyring\0".as_slice(), &self.repository, &self.id].concat()
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = b"reseal/v1/slot-keyring\0".to_vec();
        for part in [self.repository.as_slice(), &self.id, &self.public, &self.enc, &self.keyring] {
            message.extend_from_slice(part);
        }
        message
    }

    /// Tries a secret: `None` when it is not this slot's. Fails when the slot asks for absurd costs.
    pub fn unlock(&self, secret: &Secret) -> Result<Option<Unlocked>> {
        let Some(key) = self.wrapping_key(secret)? else { return Ok(None) };
        let mut body = Zeroizing::new(self.sealed.to_vec());
        if seal::decrypt(&key, &self.wrapping_aad(), &mut body).is_err() {
            return Ok(None);
        }
        let mut private = Zeroizing::new([0u8; 32]);
        let (Some(first), Some(Ok(second))) = (body.get(..32), body.get(32..).map(<[u8; 32]>::try_from)) else { return Ok(None) };
        private.copy_from_slice(first);
        Ok(VerifyingKey::from_bytes(&second).map(|verifying| Unlocked { private, verifying }))
    }

    /// The root keys, once the signature has been checked.
    pub fn keyring(&self, unlocked: &Unlocked) -> Result<Keyring, NotAuthentic> {
        if !unlocked.verifying.verify(&self.signed_message(), &self.signature) {
            return Err(NotAuthentic);
        }
        let private = <Dhkem as Kem>::PrivateKey::from_bytes(unlocked.private.as_slice()).map_err(|_| NotAuthentic)?;
        let enc = <Dhkem as Kem>::EncappedKey::from_bytes(&self.enc).map_err(|_| NotAuthentic)?;
        let mut context = hpke::setup_receiver::<AesGcm256, HkdfSha256, Dhkem>(&OpModeR::Base, &private, &enc, &self.hpke_info())
            .map_err(|_| NotAuthentic)?;
        let plain = Zeroizing::new(context.open(&self.keyring, b"").map_err(|_| NotAuthentic)?);
        Keyring::decode(&plain).ok_or(NotAuthentic)
    }

    /// Gives the slot another keyring, and a label sealed under its first root.
    pub fn set_keyring(&mut self, keyring: &Keyring, label: Vec<u8>, signing: &SigningKey, random: &dyn Random) -> Result<()> {
        let failed = |_| Error::damaged(format!("slots/{}", hex::encode(self.id)), "its public key cannot be sealed to");
        let public = <Dhkem as Kem>::PublicKey::from_bytes(&self.public).map_err(failed)?;
        let mut rng = Rng { random, failure: None };
        let sender = hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, Dhkem>(&OpModeS::Base, &public, &self.hpke_info(), &mut rng);
        if let Some(failure) = rng.failure {
            return Err(failure);
        }
        let (enc, mut context) = sender.map_err(failed)?;
        self.keyring = ByteBuf::from(context.seal(&keyring.encode(), b"").map_err(failed)?);
        self.enc = enc.to_bytes().into();
        self.label = ByteBuf::from(label);
        self.signature = signing.sign(&self.signed_message());
        Ok(())
    }

    /// Magic, 16 bytes of BLAKE3 over the rest (so that a flipped bit is told from a wrong passphrase), CBOR.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        ciborium::into_writer(self, &mut body).map_err(|e| Error::Refused(format!("a slot cannot be written: {e}")))?;
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&blake3::hash(&body).as_bytes()[..CHECK]);
        out.append(&mut body);
        Ok(out)
    }

    /// Reads what [`Slot::encode`] made; `key` is for the error.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<Slot> {
        let bad = |detail: &str| Error::damaged(key, detail);
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("not a key slot"))?;
        let (check, body) = rest.split_at_checked(CHECK).ok_or_else(|| bad("too short for a key slot"))?;
        if blake3::hash(body).as_bytes()[..CHECK] != *check {
            return Err(bad("its checksum does not fit"));
        }
        ciborium::from_reader(body).map_err(|_| bad("not the fields of a key slot"))
    }
}

/// Lends the environment's randomness to HPKE. It cannot fail there, so a failure is kept and asked for afterwards.
pub(super) struct Rng<'a> {
    pub random: &'a dyn Random,
    pub failure: Option<Error>,
}

impl hpke::rand_core::TryRng for Rng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        if let Err(e) = self.random.fill(out) {
            self.failure = Some(e);
        }
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Rng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::KeyFile;
    use crate::env::SystemRandom;
    use proptest::prelude::*;

    const FAST: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

    fn ring() -> Keyring {
        Keyring { phase: Phase::Announced, roots: vec![Key::random(&SystemRandom).unwrap(), Key::random(&SystemRandom).unwrap()] }
    }

    fn slot(secret: &Secret, signing: &SigningKey, keyring: &Keyring) -> Slot {
        let created = jiff::Timestamp::UNIX_EPOCH;
        let new = NewSlot { repository: [1; 16], id: [2; 16], created, secret, kdf: FAST, signing, keyring, label: vec![9] };
        Slot::create(new, &SystemRandom).unwrap()
    }

    fn same(a: &Keyring, b: &Keyring) -> bool {
        *a.encode() == *b.encode()
    }

    #[test]
    fn a_slot_gives_its_keyring_to_its_secret_only() {
        let signing = SigningKey::generate(&SystemRandom).unwrap();
        let file = || KeyFile::generate(&SystemRandom).unwrap();
        for (right, wrong) in [
            (Secret::passphrase("one").unwrap(), Secret::passphrase("two").unwrap()),
            (Secret::KeyFile(file()), Secret::KeyFile(file())),
            (Secret::KeyFile(file()), Secret::passphrase("one").unwrap()),
        ] {
            let keyring = ring();
            let made = slot(&right, &signing, &keyring);
            let slot = Slot::decode("slots/x", &made.encode().unwrap()).unwrap();
            let unlocked = slot.unlock(&right).unwrap().unwrap();
            assert!(same(&slot.keyring(&unlocked).unwrap(), &keyring));
            assert!(slot.unlock(&wrong).unwrap().is_none());
        }
    }

    #[test]
    fn a_keyring_can_be_replaced_without_the_secret_but_not_without_the_signing_key() {
        let signing = SigningKey::generate(&SystemRandom).unwrap();
        let secret = Secret::passphrase("one").unwrap();
        let mut slot = slot(&secret, &signing, &ring());
        let second = ring();
        slot.set_keyring(&second, vec![], &signing, &SystemRandom).unwrap();
        let unlocked = slot.unlock(&secret).unwrap().unwrap();
        assert!(same(&slot.keyring(&unlocked).unwrap(), &second));
        slot.set_keyring(&ring(), vec![], &SigningKey::generate(&SystemRandom).unwrap(), &SystemRandom).unwrap();
        assert!(slot.keyring(&unlocked).is_err());
    }

    #[test]
    fn any_flipped_byte_of_a_slot_is_noticed() {
        let signing = SigningKey::generate(&SystemRandom).unwrap();
        let bytes = slot(&Secret::passphrase("one").unwrap(), &signing, &ring()).encode().unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Slot::decode("slots/x", &bad).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_slot_and_no_keyring(bytes in any::<Vec<u8>>()) {
            prop_assert!(Slot::decode("x", &bytes).is_err());
            let mut checked = MAGIC.to_vec();
            checked.extend_from_slice(&blake3::hash(&bytes).as_bytes()[..CHECK]);
            checked.extend_from_slice(&bytes);
            prop_assert!(Slot::decode("x", &checked).is_err());
            let _ = Keyring::decode(&bytes);
        }
    }
}
