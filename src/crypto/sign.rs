//! Ed25519 (RFC 8032) for what others must be able to check: certificates of erasure, and key slots.
//! Verification is strict: no small-order keys, no second encoding of one signature.

use crate::Result;
use crate::env::Random;
use ed25519_dalek::Signer;
use zeroize::Zeroizing;

/// A signature, 64 bytes.
pub type Signature = [u8; 64];

/// Signs. Wiped when dropped; no `Debug`, no `Clone`.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new one.
    pub fn generate(random: &dyn Random) -> Result<SigningKey> {
        let mut seed = Zeroizing::new([0u8; 32]);
        random.fill(seed.as_mut_slice())?;
        Ok(SigningKey::from_seed(&seed))
    }

    /// From its 32-byte seed (RFC 8032's private key).
    pub fn from_seed(seed: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, to be sealed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs a message. Callers put a domain string in front of it.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
    }
}

/// Checks signatures. Public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// From its 32 bytes; `None` when they are not a key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<VerifyingKey> {
        ed25519_dalek::VerifyingKey::from_bytes(bytes).ok().map(VerifyingKey)
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether this is the key's signature of this message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl std::fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRandom;

    #[test]
    fn a_signature_holds_for_its_message_only() {
        let key = SigningKey::generate(&SystemRandom).unwrap();
        let signature = key.sign(b"message");
        let public = VerifyingKey::from_bytes(&SigningKey::from_seed(&key.seed()).verifying_key().to_bytes()).unwrap();
        assert!(public.verify(b"message", &signature));
        assert!(!public.verify(b"massage", &signature));
        assert!(!public.verify(b"message", &signature[..63]));
        assert!(!public.verify(b"message", &[]));
    }
}
