//! `reseal.json`: what must be known before any key is. No secret, no personal data. It is plain, so its digest is sealed
//! (`signing/<id>`) and checked when the repository is opened.

use super::RepoId;
use crate::crypto::sign::VerifyingKey;
use crate::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Its object's key.
pub const KEY: &str = "reseal.json";
/// No chunk of any repository is longer, in bytes of plaintext.
pub const MAX_CHUNK: u32 = 64 << 20;
const MAX_PACK: u32 = 512 << 20;
/// Bytes in a run of database pages: the only length that this version knows.
pub const RUN: u32 = 64 << 10;

/// Least, average and largest length of a piece, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// No piece is shorter, except the last one.
    pub min: u32,
    /// On average.
    pub avg: u32,
    /// No piece is longer, except a single record that is.
    pub max: u32,
}

/// Sizes in bytes. A repository keeps those that it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// A pack is closed when it has reached this.
    pub pack: u32,
    /// Pieces of entries that the data map knows: small, since an erasure rewrites whole pieces.
    pub records: Cut,
    /// Pieces of everything else.
    pub opaque: Cut,
    /// Runs of database pages: [`RUN`].
    pub pages: u32,
    /// The longest chunk that is accepted, whatever its sort.
    pub chunk_limit: u32,
}

impl Default for Sizes {
    /// See `docs/format.md` for why these.
    fn default() -> Sizes {
        Sizes {
            pack: 16 << 20,
            records: Cut { min: 16 << 10, avg: 64 << 10, max: 256 << 10 },
            opaque: Cut { min: 256 << 10, avg: 1 << 20, max: 4 << 20 },
            pages: RUN,
            chunk_limit: 32 << 20,
        }
    }
}

impl Sizes {
    /// Says what is wrong with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let cut = |c: &Cut| c.min >= 64 && c.min <= c.avg && c.avg <= c.max && c.max <= self.chunk_limit;
        if !(4096..=MAX_PACK).contains(&self.pack) {
            return Err(format!("a pack of {} bytes: between 4096 and {MAX_PACK} are possible", self.pack));
        }
        if self.chunk_limit > MAX_CHUNK || self.chunk_limit < 1 << 16 {
            return Err(format!("a chunk limit of {} bytes: between 65536 and {MAX_CHUNK} are possible", self.chunk_limit));
        }
        if !cut(&self.records) || !cut(&self.opaque) {
            return Err("sizes of pieces must be at least 64, in the order min, avg, max, and within the chunk limit".to_string());
        }
        if self.pages != RUN {
            return Err(format!("runs of database pages of {} bytes: this version knows runs of {RUN} bytes only", self.pages));
        }
        Ok(())
    }
}

/// The contents of `reseal.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Format version.
    pub version: u32,
    /// The repository.
    pub id: RepoId,
    /// When it was made.
    pub created: Timestamp,
    /// Checks its signatures.
    pub verifying_key: VerifyingKey,
    /// Sizes.
    pub sizes: Sizes,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format: String,
    version: u32,
    repository: String,
    created: Timestamp,
    verifying_key: String,
    sizes: Sizes,
}

impl Params {
    pub(super) fn new(id: RepoId, created: Timestamp, verifying_key: VerifyingKey, sizes: Sizes) -> Params {
        Params { version: FORMAT_VERSION, id, created, verifying_key, sizes }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let json = Json {
            format: "reseal".to_string(),
            version: self.version,
            repository: self.id.to_string(),
            created: self.created,
            verifying_key: self.verifying_key.to_string(),
            sizes: self.sizes,
        };
        let mut bytes = serde_json::to_vec_pretty(&json).map_err(|e| Error::Refused(format!("{KEY} cannot be written: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Params> {
        let bad = |detail: &str| Error::damaged(KEY, detail);
        let any: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| bad("it is not JSON"))?;
        if any.get("format").and_then(|f| f.as_str()) != Some("reseal") {
            return Err(bad("it does not describe a reseal repository"));
        }
        match any.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            Some(version) => {
                return Err(Error::Refused(format!(
                    "the repository has format version {version}, this program knows version {FORMAT_VERSION}: use a newer reseal"
                )));
            }
            None => return Err(bad("it names no version")),
        }
        let json: Json = serde_json::from_value(any).map_err(|_| bad("its fields are not as expected"))?;
        let id = json.repository.parse().map_err(|_| bad("its repository id has not 32 hex digits"))?;
        let mut key = [0; 32];
        hex::decode_to_slice(&json.verifying_key, &mut key).map_err(|_| bad("its verifying key has not 64 hex digits"))?;
        let verifying_key = VerifyingKey::from_bytes(&key).ok_or_else(|| bad("its verifying key is none"))?;
        json.sizes.check().map_err(|e| bad(&e))?;
        Ok(Params { version: json.version, id, created: json.created, verifying_key, sizes: json.sizes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sign::SigningKey;
    use proptest::prelude::*;

    fn params() -> Params {
        Params::new(RepoId([3; 16]), Timestamp::UNIX_EPOCH, SigningKey::from_seed(&[1; 32]).verifying_key(), Sizes::default())
    }

    #[test]
    fn parameters_read_back_and_later_versions_are_told_apart_from_damage() {
        let bytes = params().encode().unwrap();
        assert_eq!(Params::decode(&bytes).unwrap(), params());
        let text = String::from_utf8(bytes).unwrap();
        let later = Params::decode(text.replace("\"version\": 1", "\"version\": 2").as_bytes());
        assert!(matches!(&later, Err(Error::Refused(m)) if m.contains("version 2")), "{later:?}");
        let silly = text.replace("\"pages\": 65536", "\"pages\": 65537");
        assert!(matches!(Params::decode(silly.as_bytes()), Err(Error::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn hostile_parameters_are_an_error(bytes in any::<Vec<u8>>(), at in 0usize..400, to in any::<u8>()) {
            prop_assert!(Params::decode(&bytes).is_err());
            let mut near = params().encode().unwrap();
            if let Some(b) = near.get_mut(at) { *b = to; }
            let _ = Params::decode(&near);
        }
    }
}
