//! Ids: 16 random bytes, written as 32 hex digits.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = crate::Error;

            /// Reads 32 lower-case hex digits.
            fn from_str(text: &str) -> crate::Result<$name> {
                let bad = || crate::Error::Usage("an id has 32 hex digits".to_string());
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| bad())?;
                // One id has one spelling: keys of objects are compared as text.
                if text.bytes().any(|b| b.is_ascii_uppercase()) { Err(bad()) } else { Ok($name(bytes)) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                Ok($name(serde_bytes::deserialize(d)?))
            }
        }
    };
}

id!(
    /// Names a repository.
    RepoId
);
id!(
    /// Names a pack.
    PackId
);
id!(
    /// Names an archive through all its generations.
    ArchiveId
);
id!(
    /// Names a key slot.
    SlotId
);
id!(
    /// Names a put-only host's key.
    HostId
);

impl ArchiveId {
    /// A fresh one.
    pub fn random(random: &dyn crate::env::Random) -> crate::Result<ArchiveId> {
        Ok(ArchiveId(crate::env::random_bytes(random)?))
    }
}

impl PackId {
    /// A fresh one.
    pub(crate) fn random(random: &dyn crate::env::Random) -> crate::Result<PackId> {
        Ok(PackId(crate::env::random_bytes(random)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = ArchiveId([0xab; 16]);
        assert_eq!(id.to_string().parse::<ArchiveId>().unwrap(), id);
        for bad in ["", "ab", &"AB".repeat(16), &"ab".repeat(17), &"zz".repeat(16)] {
            assert!(bad.parse::<ArchiveId>().is_err());
        }
    }
}
