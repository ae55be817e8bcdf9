//! Seal and open, key derivation, key slots, signatures. Small on purpose: everything here is a published construction put
//! together from published crates, and `docs/format.md` says every byte of it. No key type implements `Debug`, `Clone` or
//! `Serialize`, so that none ends in a log or in an object by accident.

pub mod kdf;
pub mod letter;
pub mod seal;
pub mod secret;
pub mod sign;
pub mod slot;

#[cfg(test)]
mod vectors;

/// Somebody altered the bytes, or the key is not the one that they were sealed with. AES-GCM cannot tell which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open")]
pub struct NotAuthentic;
