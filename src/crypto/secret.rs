//! What must not be copied, printed or left in memory: keys, passphrases, key files.

use super::kdf;
use crate::env::Random;
use crate::{Error, Result};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// A 256-bit key. Wiped when dropped; no `Debug`, no `Clone`, no `Serialize`.
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A fresh random key.
    pub fn random(random: &dyn Random) -> Result<Key> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        random.fill(bytes.as_mut_slice())?;
        Ok(Key(bytes))
    }

    /// From bytes that somebody keeps elsewhere.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Key {
        Key(bytes)
    }

    /// From a slice of exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Key> {
        let mut key = Zeroizing::new([0u8; 32]);
        if bytes.len() != 32 {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Key(key))
    }

    /// The bytes, for the primitives that need them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key derived from this one: HKDF-SHA256 with an empty salt; `info` names the purpose.
    pub fn derive(&self, info: &[u8]) -> Key {
        Key(kdf::hkdf(self.bytes(), &[], &[info]))
    }
}

/// What opens a key slot.
pub enum Secret {
    /// Words that somebody remembers. Stretched with Argon2id.
    Passphrase(Passphrase),
    /// A file that somebody keeps.
    KeyFile(KeyFile),
}

impl Secret {
    /// From what was typed or read; see [`Passphrase::new`].
    pub fn passphrase(text: &str) -> Result<Secret> {
        Ok(Secret::Passphrase(Passphrase::new(text)?))
    }
}

/// A passphrase, in Unicode normalization form C so that keyboards and systems that compose letters differently agree.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Fails with [`Error::Usage`] when empty.
    pub fn new(text: &str) -> Result<Passphrase> {
        if text.is_empty() {
            return Err(Error::Usage("the passphrase is empty".into()));
        }
        // Normalising at most triples the length (UAX #15), so the string never moves and leaves no copy behind.
        let mut normal = Zeroizing::new(String::with_capacity(text.len().saturating_mul(3)));
        normal.extend(text.nfc());
        Ok(Passphrase(normal))
    }

    /// The normalised bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

const KEY_FILE_PREFIX: &str = "RESEAL-KEY-1:";

/// 256 random bits in a text file: `RESEAL-KEY-1:` and 64 hex digits on one line; lines that start with `#` are comments.
pub struct KeyFile(Key);

impl KeyFile {
    /// A new one.
    pub fn generate(random: &dyn Random) -> Result<KeyFile> {
        Ok(KeyFile(Key::random(random)?))
    }

    /// The file's text.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(96));
        text.push_str(KEY_FILE_PREFIX);
        for byte in self.0.bytes() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text.push('\n');
        text
    }

    /// Reads the file's text; fails with [`Error::Usage`] when it is not a key file.
    pub fn parse(text: &str) -> Result<KeyFile> {
        let bad = || Error::Usage(format!("not a key file: one line of {KEY_FILE_PREFIX} and 64 hex digits was expected"));
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let digits = lines.next().and_then(|l| l.strip_prefix(KEY_FILE_PREFIX)).ok_or_else(bad)?;
        if lines.next().is_some() {
            return Err(bad());
        }
        let mut bytes = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| bad())?;
        Ok(KeyFile(Key::new(bytes)))
    }

    /// The key inside.
    pub fn key(&self) -> &Key {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemRandom;

    #[test]
    fn a_key_file_reads_back() {
        let file = KeyFile::generate(&SystemRandom).unwrap();
        let text = format!("# kept in the safe\n{}", &*file.encode());
        assert_eq!(KeyFile::parse(&text).unwrap().key().bytes(), file.key().bytes());
        for bad in ["", "RESEAL-KEY-1:00", "hello", &format!("{text}{}", &*file.encode())] {
            assert!(KeyFile::parse(bad).is_err());
        }
    }

    #[test]
    fn a_passphrase_is_the_same_however_its_letters_are_composed() {
        assert_eq!(Passphrase::new("cafe\u{301}").unwrap().bytes(), Passphrase::new("caf\u{e9}").unwrap().bytes());
        assert!(Passphrase::new("").is_err());
    }
}
