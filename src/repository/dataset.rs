//! A dataset's secret, and the keys derived from it. Destroying the secret and the sheets shreds the dataset; two datasets never
//! share a chunk, a cut point or a token.

use super::cbor;
use super::entry::ChunkId;
use crate::crypto::secret::Key;
use crate::datamap::TokenKey;
use crate::env::Env;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The plaintext of `datasets/<name>`.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    created: jiff::Timestamp,
    #[serde(with = "serde_bytes")]
    secret: [u8; 32],
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// A dataset, opened. Holds keys: no `Debug`, no `Clone`.
pub struct Dataset {
    name: String,
    chunk_key: Key,
    gear: [u8; 32],
    tokens: TokenKey,
    token_key: Key,
    path_key: Key,
    pseudonyms: Key,
    known_key: Key,
}

/// Bytes of [`Dataset::host_part`].
const HOST_PART: usize = 5 * 32;

/// The object's key.
pub(super) fn key(name: &str) -> String {
    format!("datasets/{name}")
}

/// Names become parts of keys: letters, digits, `.`, `_`, `-`, not starting with a dot or dash, at most 100 bytes.
pub fn check_name(name: &str) -> Result<()> {
    let good = (1..=100).contains(&name.len())
        && !name.starts_with(['.', '-'])
        // The lease of slot changes and rotation is called so.
        && name != "keys"
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        Ok(())
    } else {
        Err(Error::Usage(format!(
            "a dataset cannot be called {name:?}: letters, digits, '.', '_' and '-' are possible, 100 at most, not starting with '.' or '-', and not \"keys\""
        )))
    }
}

impl Dataset {
    /// The plaintext of a new dataset's object.
    pub(super) fn generate(name: &str, env: &Env) -> Result<Zeroizing<Vec<u8>>> {
        check_name(name)?;
        let mut stored = Stored { name: name.to_string(), created: env.now(), secret: [0; 32] };
        env.random.fill(&mut stored.secret)?;
        cbor::encode(&stored)
    }

    pub(super) fn decode(name: &str, key: &str, plain: &[u8]) -> Result<Dataset> {
        let stored: Stored = cbor::decode(key, plain)?;
        if stored.name != name {
            return Err(Error::damaged(key, "it belongs to another dataset"));
        }
        Ok(Dataset::from_secret(name, &Key::new(Zeroizing::new(stored.secret))))
    }

    pub(super) fn from_secret(name: &str, secret: &Key) -> Dataset {
        Dataset {
            name: name.to_string(),
            chunk_key: secret.derive(b"reseal/v1/chunk-id"),
            gear: *secret.derive(b"reseal/v1/gear").bytes(),
            tokens: TokenKey::new(Zeroizing::new(*secret.derive(b"reseal/v1/token").bytes())),
            token_key: secret.derive(b"reseal/v1/token"),
            path_key: secret.derive(b"reseal/v1/path"),
            pseudonyms: secret.derive(b"reseal/v1/pseudonym"),
            known_key: secret.derive(b"reseal/v1/known"),
        }
    }

    /// What a host needs that only adds archives: the keys that name chunks, cut, make tokens and tell what is known. None of them opens a chunk, and
    /// the secret that they were derived from is not to be had from them.
    pub(super) fn host_part(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(HOST_PART));
        for key in [self.chunk_key.bytes(), &self.gear, self.token_key.bytes(), self.path_key.bytes(), self.known_key.bytes()] {
            out.extend_from_slice(key);
        }
        out
    }

    /// The reverse of [`Dataset::host_part`].
    pub(super) fn from_host_part(name: &str, part: &[u8]) -> Option<Dataset> {
        if part.len() != HOST_PART {
            return None;
        }
        let mut keys = part.chunks_exact(32).filter_map(Key::from_slice);
        let chunk_key = keys.next()?;
        let gear = *keys.next()?.bytes();
        let (token_key, path_key, known_key) = (keys.next()?, keys.next()?, keys.next()?);
        let tokens = TokenKey::new(Zeroizing::new(*token_key.bytes()));
        // A host erases nobody, so it never makes a pseudonym; this one is nobody's.
        let pseudonyms = chunk_key.derive(b"reseal/v1/no-pseudonyms");
        Some(Dataset { name: name.to_string(), chunk_key, gear, tokens, token_key, path_key, pseudonyms, known_key })
    }

    /// Seals the lists of what is stored already, for hosts that only add archives.
    pub(super) fn known_key(&self) -> &Key {
        &self.known_key
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names these bytes: BLAKE3 under the dataset's key.
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.chunk_key.bytes(), bytes).as_bytes())
    }

    /// Makes tokens of identity values.
    pub fn token_key(&self) -> &TokenKey {
        &self.tokens
    }

    /// Seeds the cutter, so that cut points tell nothing to who does not have it.
    pub fn gear_seed(&self) -> [u8; 32] {
        self.gear
    }

    /// Makes pseudonyms (the strategy `hmac`), the same over time.
    pub fn pseudonym_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.pseudonyms.bytes())
    }

    /// A keyed hash of a path.
    pub fn path_token(&self, path: &[u8]) -> [u8; 16] {
        let mut token = [0; 16];
        token.copy_from_slice(&blake3::keyed_hash(self.path_key.bytes(), path).as_bytes()[..16]);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_folder() {
        for good in ["crm", "a.b-c_D9"] {
            assert!(check_name(good).is_ok());
        }
        for bad in ["", ".", "..", "a/b", "-x", ".tmp-x", "ä", "a b", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_one_dataset_differ_and_of_two_datasets_too() {
        let (a, b) = (
            Dataset::from_secret("a", &Key::from_slice(&[1; 32]).unwrap()),
            Dataset::from_secret("b", &Key::from_slice(&[2; 32]).unwrap()),
        );
        assert_ne!(a.chunk_id(b"x"), b.chunk_id(b"x"));
        assert_ne!(a.path_token(b"x"), b.path_token(b"x"));
        assert_ne!(a.path_token(b"x"), a.chunk_id(b"x").0[..16]);
        assert_ne!(a.gear_seed(), b.gear_seed());
    }
}
