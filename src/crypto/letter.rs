//! Sealed to a public key: what a host hands in that must not be able to open it again, nor anything else. HPKE (RFC 9180) in base mode with the suite
//! of the key slots; who sent it is told by a signature inside, since base mode does not say.

use super::NotAuthentic;
use super::secret::Key;
use super::slot::Rng;
use crate::env::Random;
use crate::{Error, Result};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as Dhkem;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

/// Bytes of the encapsulated key, in front of the ciphertext.
const ENC: usize = 32;

/// A fresh private key.
pub fn generate(random: &dyn Random) -> Result<Key> {
    let seed = Key::random(random)?;
    let (private, _) = Dhkem::derive_keypair(seed.bytes());
    Ok(Key::new(Zeroizing::new(private.to_bytes().into())))
}

/// Its public half; `None` when the bytes are no private key.
pub fn public(private: &Key) -> Option<[u8; 32]> {
    let private = <Dhkem as Kem>::PrivateKey::from_bytes(private.bytes()).ok()?;
    Some(Dhkem::sk_to_pk(&private).to_bytes().into())
}

/// Encapsulated key and ciphertext.
pub fn seal(public: &[u8; 32], info: &[u8], plain: &[u8], random: &dyn Random) -> Result<Vec<u8>> {
    let failed = |_| Error::damaged("the put key", "it cannot be sealed to");
    let public = <Dhkem as Kem>::PublicKey::from_bytes(public).map_err(failed)?;
    let mut rng = Rng { random, failure: None };
    let sender = hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, Dhkem>(&OpModeS::Base, &public, info, &mut rng);
    if let Some(failure) = rng.failure {
        return Err(failure);
    }
    let (enc, mut context) = sender.map_err(failed)?;
    let mut out = Vec::with_capacity(ENC + plain.len() + super::seal::TAG);
    out.extend_from_slice(&enc.to_bytes());
    out.extend_from_slice(&context.seal(plain, b"").map_err(failed)?);
    Ok(out)
}

/// The reverse of [`seal`].
pub fn open(private: &Key, info: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let (enc, sealed) = bytes.split_at_checked(ENC).ok_or(NotAuthentic)?;
    let private = <Dhkem as Kem>::PrivateKey::from_bytes(private.bytes()).map_err(|_| NotAuthentic)?;
    let enc = <Dhkem as Kem>::EncappedKey::from_bytes(enc).map_err(|_| NotAuthentic)?;
    let mut context =
        hpke::setup_receiver::<AesGcm256, HkdfSha256, Dhkem>(&OpModeR::Base, &private, &enc, info).map_err(|_| NotAuthentic)?;
    Ok(Zeroizing::new(context.open(sealed, b"").map_err(|_| NotAuthentic)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRandom;

    #[test]
    fn a_letter_opens_for_its_receiver_and_purpose_only() {
        let (ours, theirs) = (generate(&SystemRandom).unwrap(), generate(&SystemRandom).unwrap());
        let sealed = seal(&public(&ours).unwrap(), b"info", b"plain", &SystemRandom).unwrap();
        assert_eq!(&**open(&ours, b"info", &sealed).unwrap(), b"plain");
        assert!(open(&theirs, b"info", &sealed).is_err() && open(&ours, b"other", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open(&ours, b"info", &bad).is_err() && open(&ours, b"info", &sealed[..at]).is_err(), "{at}");
        }
        assert_ne!(sealed, seal(&public(&ours).unwrap(), b"info", b"plain", &SystemRandom).unwrap());
    }
}
