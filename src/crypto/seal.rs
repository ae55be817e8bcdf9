//! Sealing: AES-256-GCM with keys that are used exactly once, so that the nonce can be zero and no counter or birthday bound
//! has to be watched.
//!
//! - A **chunk** has a random key of its own, kept in the key sheet. Its additional data names its place, so that nothing can
//!   be moved or exchanged.
//! - An **object** (head, sheet, ledger entry …) is sealed under HKDF(root key, fresh 256-bit salt, purpose and object key).
//!
//! GCM does not commit to its key; chunks are checked against their keyed BLAKE3 id after opening, and an object's key depends
//! on the root, the salt and the name at once.

use super::NotAuthentic;
use super::kdf;
use super::secret::Key;
use crate::Result;
use crate::env::{Random, random_bytes};
use aes_gcm::aead::{AeadInOut, Nonce};
use aes_gcm::{Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

/// Bytes that a seal adds to a chunk.
pub const TAG: usize = 16;
/// Bytes in front of a sealed object's ciphertext: magic, kind, root id, salt.
pub const HEADER: usize = 4 + 1 + 8 + 32;
const MAGIC: &[u8; 4] = b"RSL1";
const CHUNK_DOMAIN: &[u8; 4] = b"RSC1";

/// AES-256-GCM, nonce zero, in place: `buffer` becomes ciphertext and tag. The key must never seal anything else.
pub fn encrypt(key: &[u8; 32], aad: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
    Aes256Gcm::new(key.into())
        .encrypt_in_place(&Nonce::<Aes256Gcm>::default(), aad, buffer)
        .map_err(|_| crate::Error::Refused("more than 64 GiB in one seal".into()))
}

/// The reverse of [`encrypt`]: `buffer` becomes the plaintext. On failure its contents mean nothing.
pub fn decrypt(key: &[u8; 32], aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), NotAuthentic> {
    Aes256Gcm::new(key.into()).decrypt_in_place(&Nonce::<Aes256Gcm>::default(), aad, buffer).map_err(|_| NotAuthentic)
}

/// Like [`decrypt`], without moving anything: what of `sealed` is plaintext then.
pub fn decrypt_slice<'b>(key: &[u8; 32], aad: &[u8], sealed: &'b mut [u8]) -> Result<&'b [u8], NotAuthentic> {
    let (body, tag) = sealed.split_last_chunk_mut::<TAG>().ok_or(NotAuthentic)?;
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&Nonce::<Aes256Gcm>::default(), aad, (&mut *body).into(), (&*tag).into())
        .map_err(|_| NotAuthentic)?;
    Ok(body)
}

/// Where a chunk lies and what it is: bound into its seal.
#[derive(Debug, Clone, Copy)]
pub struct ChunkPlace<'a> {
    /// The repository.
    pub repository: &'a [u8; 16],
    /// The pack.
    pub pack: &'a [u8; 16],
    /// Its number within the pack, from 0.
    pub ordinal: u32,
    /// Its id.
    pub id: &'a [u8; 32],
    /// Its role, as in the sheet.
    pub role: u8,
}

impl ChunkPlace<'_> {
    /// The additional data: `RSC1`, repository id, pack id, ordinal (big-endian), chunk id, role. 73 bytes.
    pub fn aad(&self) -> [u8; 73] {
        let mut out = [0u8; 73];
        out[..4].copy_from_slice(CHUNK_DOMAIN);
        out[4..20].copy_from_slice(self.repository);
        out[20..36].copy_from_slice(self.pack);
        out[36..40].copy_from_slice(&self.ordinal.to_be_bytes());
        out[40..72].copy_from_slice(self.id);
        out[72] = self.role;
        out
    }
}

/// What a sealed object is. The number is the envelope's kind byte, the name goes into the key's derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Names an archive.
    Head,
    /// Keys of a pack's chunks.
    Sheet,
    /// Ledger entry.
    Ledger,
    /// A dataset's secret.
    Dataset,
    /// The repository's signing key.
    Signing,
    /// A slot's label.
    Label,
    /// Sealed identities of an open request.
    Request,
    /// A certificate.
    Certificate,
    /// Anything else that the engine keeps.
    Record,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 9] = [
        Purpose::Head,
        Purpose::Sheet,
        Purpose::Ledger,
        Purpose::Dataset,
        Purpose::Signing,
        Purpose::Label,
        Purpose::Request,
        Purpose::Certificate,
        Purpose::Record,
    ];

    /// The kind byte.
    pub fn kind(self) -> u8 {
        match self {
            Purpose::Head => 1,
            Purpose::Sheet => 2,
            Purpose::Ledger => 3,
            Purpose::Dataset => 4,
            Purpose::Signing => 5,
            Purpose::Label => 6,
            Purpose::Request => 7,
            Purpose::Certificate => 8,
            Purpose::Record => 9,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Head => "head",
            Purpose::Sheet => "sheet",
            Purpose::Ledger => "ledger",
            Purpose::Dataset => "dataset",
            Purpose::Signing => "signing",
            Purpose::Label => "label",
            Purpose::Request => "request",
            Purpose::Certificate => "certificate",
            Purpose::Record => "record",
        }
    }

    /// By name.
    pub fn from_name(name: &str) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|p| p.name() == name)
    }

    /// By kind byte.
    pub fn from_kind(kind: u8) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|p| p.kind() == kind)
    }
}

/// The first eight bytes of HKDF(root key, info `reseal/v1/root-id`): tells which root an object is sealed under.
pub type RootId = [u8; 8];

/// See [`RootId`].
pub fn root_id(root: &Key) -> RootId {
    let mut id = [0u8; 8];
    id.copy_from_slice(&root.derive(b"reseal/v1/root-id").bytes()[..8]);
    id
}

/// The readable front of a sealed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub purpose: Purpose,
    /// Under which root.
    pub root: RootId,
}

impl Envelope {
    /// Reads the front; `None` when these bytes are not a sealed object.
    pub fn read(bytes: &[u8]) -> Option<Envelope> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (kind, rest) = rest.split_first()?;
        let root = rest.get(..8)?.try_into().ok()?;
        Some(Envelope { purpose: Purpose::from_kind(*kind)?, root })
    }
}

fn object_key(root: &Key, salt: &[u8], purpose: Purpose, key: &str) -> Zeroizing<[u8; 32]> {
    kdf::hkdf(root.bytes(), salt, &[purpose.name().as_bytes(), &[0], key.as_bytes()])
}

fn object_aad(header: &[u8], repository: &[u8; 16], key: &str) -> Vec<u8> {
    [header, repository, key.as_bytes()].concat()
}

/// Seals an object that will be stored under `key`.
pub fn seal_object(root: &Key, repository: &[u8; 16], purpose: Purpose, key: &str, plain: &[u8], random: &dyn Random) -> Result<Vec<u8>> {
    let salt: [u8; 32] = random_bytes(random)?;
    let mut header = Vec::with_capacity(HEADER + plain.len() + TAG);
    header.extend_from_slice(MAGIC);
    header.push(purpose.kind());
    header.extend_from_slice(&root_id(root));
    header.extend_from_slice(&salt);
    // Room for the tag from the start: a buffer that moves would leave plaintext behind.
    let mut body = Vec::with_capacity(plain.len() + TAG);
    body.extend_from_slice(plain);
    encrypt(&object_key(root, &salt, purpose, key), &object_aad(&header, repository, key), &mut body)?;
    header.append(&mut body);
    Ok(header)
}

/// Opens an object that was stored under `key`.
pub fn open_object(
    root: &Key,
    repository: &[u8; 16],
    purpose: Purpose,
    key: &str,
    bytes: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(NotAuthentic)?;
    let envelope = Envelope::read(header).ok_or(NotAuthentic)?;
    if envelope.purpose != purpose || envelope.root != root_id(root) {
        return Err(NotAuthentic);
    }
    let salt = header.get(HEADER - 32..).ok_or(NotAuthentic)?;
    let mut plain = Zeroizing::new(body.to_vec());
    decrypt(&object_key(root, salt, purpose, key), &object_aad(header, repository, key), &mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRandom;
    use proptest::prelude::*;

    #[test]
    fn an_object_opens_only_as_what_it_is_and_where_it_is() {
        let (root, other) = (Key::random(&SystemRandom).unwrap(), Key::random(&SystemRandom).unwrap());
        let sealed = seal_object(&root, &[7; 16], Purpose::Head, "archives/a/1", b"plain", &SystemRandom).unwrap();
        assert_eq!(sealed.len(), HEADER + 5 + TAG);
        assert_eq!(&**open_object(&root, &[7; 16], Purpose::Head, "archives/a/1", &sealed).unwrap(), b"plain");
        assert!(open_object(&other, &[7; 16], Purpose::Head, "archives/a/1", &sealed).is_err());
        assert!(open_object(&root, &[8; 16], Purpose::Head, "archives/a/1", &sealed).is_err());
        assert!(open_object(&root, &[7; 16], Purpose::Sheet, "archives/a/1", &sealed).is_err());
        assert!(open_object(&root, &[7; 16], Purpose::Head, "archives/a/2", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open_object(&root, &[7; 16], Purpose::Head, "archives/a/1", &bad).is_err(), "byte {at}");
            assert!(open_object(&root, &[7; 16], Purpose::Head, "archives/a/1", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_same_plaintext_is_never_sealed_to_the_same_bytes() {
        let root = Key::random(&SystemRandom).unwrap();
        let seal = || seal_object(&root, &[0; 16], Purpose::Record, "x", b"same", &SystemRandom).unwrap();
        assert_ne!(seal()[HEADER..], seal()[HEADER..]);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(plain in any::<Vec<u8>>(), key in "[a-z/]{1,40}") {
            let root = Key::random(&SystemRandom).unwrap();
            let sealed = seal_object(&root, &[1; 16], Purpose::Ledger, &key, &plain, &SystemRandom).unwrap();
            prop_assert_eq!(&**open_object(&root, &[1; 16], Purpose::Ledger, &key, &sealed).unwrap(), &plain);
        }

        #[test]
        fn hostile_bytes_do_not_open(bytes in any::<Vec<u8>>()) {
            let root = Key::random(&SystemRandom).unwrap();
            prop_assert!(open_object(&root, &[1; 16], Purpose::Ledger, "x", &bytes).is_err());
        }
    }
}
