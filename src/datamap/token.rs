//! Tokens: keyed hashes that stand for identity values wherever the values themselves must not be (identity blocks, ledger, catalog).
//!
//! A token says nothing without the dataset's key. The same normalised value always has the same token within a dataset, whatever
//! field it is in, so that `orders.customer_id` meets `customer.id`; across datasets tokens differ.

use super::{Normalize, Value};
use std::collections::HashSet;

/// So many combinations of values are made of a record whose fields have several, for a composite identity.
pub const COMBINATIONS: usize = 4096;

/// A keyed hash of one normalised value, or of several in order (composite identities).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Token(pub [u8; 16]);

impl Token {
    /// The first eight bytes.
    pub fn long(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The first four bytes: what identity blocks keep.
    pub fn short(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// Makes tokens. Holds a key: no `Debug`, no `Clone`.
pub struct TokenKey(zeroize::Zeroizing<[u8; 32]>);

impl TokenKey {
    /// From the dataset's derived key.
    pub fn new(key: zeroize::Zeroizing<[u8; 32]>) -> TokenKey {
        TokenKey(key)
    }

    /// A key for another use of the same secret. No token is made of such bytes: they would have to be of an impossible length.
    pub fn derived(&self, purpose: &str) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(*blake3::keyed_hash(&self.0, purpose.as_bytes()).as_bytes())
    }

    /// The token of values that are already normalised. The count and each length are hashed, so no two sequences collide.
    pub fn of_normalized<S: AsRef<str>>(&self, values: &[S]) -> Token {
        // In one call where it is short, which it nearly always is: setting up a hasher costs more than hashing.
        let mut short = [0u8; 256];
        let total: usize = values.iter().map(|v| 8 + v.as_ref().len()).sum();
        let hash = match short.get_mut(..total) {
            Some(buffer) => {
                let mut rest: &mut [u8] = buffer;
                for v in values {
                    let v = v.as_ref().as_bytes();
                    let (length, after) = std::mem::take(&mut rest).split_at_mut(8);
                    length.copy_from_slice(&(v.len() as u64).to_le_bytes());
                    let (text, after) = after.split_at_mut(v.len());
                    text.copy_from_slice(v);
                    rest = after;
                }
                blake3::keyed_hash(&self.0, buffer)
            }
            None => {
                let mut hasher = blake3::Hasher::new_keyed(&self.0);
                for v in values {
                    let v = v.as_ref();
                    hasher.update(&(v.len() as u64).to_le_bytes());
                    hasher.update(v.as_bytes());
                }
                hasher.finalize()
            }
        };
        let mut out = [0u8; 16];
        out.copy_from_slice(&hash.as_bytes()[..16]);
        Token(out)
    }

    /// The token of one value, or `None` where there is nothing to find by (null, empty after normalising).
    pub fn of_value(&self, value: &Value<'_>, normalize: Normalize) -> Option<Token> {
        let text = normalize.apply(value.canonical()?);
        if text.is_empty() { None } else { Some(self.of_normalized(&[text])) }
    }

    /// Tokens of a record's values for a probe: one per value of a single field; for several fields every combination
    /// (at most [`COMBINATIONS`]), each with all components present.
    pub fn of_fields(&self, values: &[Vec<Value<'_>>], normalize: &[Normalize]) -> Vec<Token> {
        if let ([values], [normalize]) = (values, normalize) {
            return values.iter().filter_map(|v| self.of_value(v, *normalize)).collect();
        }
        let mut combinations: Vec<Vec<String>> = vec![Vec::new()];
        for (field, normalize) in values.iter().zip(normalize) {
            let texts: Vec<String> =
                field.iter().filter_map(|v| Some(normalize.apply(v.canonical()?).into_owned())).filter(|t| !t.is_empty()).collect();
            combinations = combinations
                .iter()
                .flat_map(|c| texts.iter().map(move |t| c.iter().cloned().chain([t.clone()]).collect::<Vec<_>>()))
                .take(COMBINATIONS)
                .collect();
        }
        combinations.iter().map(|c| self.of_normalized(c)).collect()
    }
}

/// A set of wanted tokens, and the key to make tokens of values met.
pub trait Tokens: Send + Sync {
    /// The key.
    fn key(&self) -> &TokenKey;
    /// Whether this token is wanted.
    fn contains(&self, token: &Token) -> bool;
    /// Whether a token that begins so is wanted.
    fn contains_short(&self, short: u32) -> bool;
    /// Whether a token that begins like any of these is wanted.
    fn any_short(&self, shorts: &[u32]) -> bool {
        shorts.iter().any(|s| self.contains_short(*s))
    }
    /// The same for the same set of tokens, and for no other: what was found out for a set needs not be found out again.
    fn fingerprint(&self) -> Fingerprint;
    /// Plaintext of the wanted values, normalised, where it is known and every one is (not in the restore gate): lets a database use its indexes.
    fn plaintext(&self) -> Option<Vec<Vec<String>>>;
    /// Whether nothing is wanted.
    fn is_empty(&self) -> bool;
}

/// Tells sets of tokens apart: their number and the sum (exclusive or) of their bytes. Tokens are keyed hashes, so nobody can choose sets
/// that have the same.
pub type Fingerprint = (usize, [u8; 16]);

/// The fingerprint of a set.
pub fn fingerprint<'t>(tokens: impl Iterator<Item = &'t Token>) -> Fingerprint {
    tokens.fold((0, [0; 16]), |(n, mut sum), token| {
        sum.iter_mut().zip(token.0).for_each(|(s, t)| *s ^= t);
        (n + 1, sum)
    })
}

/// A bit for each value of a short token's first [`Sieve::BITS`] bits: most tokens that are not wanted fall through it.
struct Sieve(Box<[u64]>);

impl Sieve {
    const BITS: u32 = 16;

    fn new() -> Sieve {
        Sieve(vec![0; 1 << (Sieve::BITS - 6)].into_boxed_slice())
    }

    fn place(short: u32) -> (usize, u64) {
        let n = short >> (32 - Sieve::BITS);
        ((n >> 6) as usize, 1 << (n & 63))
    }

    fn insert(&mut self, short: u32) {
        let (word, bit) = Sieve::place(short);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn lets_through(&self, short: u32) -> bool {
        let (word, bit) = Sieve::place(short);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }
}

/// The plain implementation of [`Tokens`].
pub struct TokenSet<'k> {
    key: &'k TokenKey,
    full: HashSet<Token>,
    short: HashSet<u32>,
    sieve: Sieve,
    plaintext: Option<Vec<Vec<String>>>,
}

impl<'k> TokenSet<'k> {
    /// An empty set.
    pub fn new(key: &'k TokenKey) -> TokenSet<'k> {
        TokenSet { key, full: HashSet::new(), short: HashSet::new(), sieve: Sieve::new(), plaintext: Some(Vec::new()) }
    }

    /// Adds normalised values (one component, or several for composites); `false` when they were there already.
    pub fn insert_values(&mut self, values: Vec<String>) -> bool {
        let token = self.key.of_normalized(&values);
        let new = self.full.insert(token);
        if new {
            self.short.insert(token.short());
            self.sieve.insert(token.short());
            if let Some(known) = &mut self.plaintext {
                known.push(values);
            }
        }
        new
    }

    /// Adds a token whose value is not known.
    pub fn insert_token(&mut self, token: Token) -> bool {
        let new = self.full.insert(token);
        if new {
            self.short.insert(token.short());
            self.sieve.insert(token.short());
            self.plaintext = None;
        }
        new
    }
}

impl Tokens for TokenSet<'_> {
    fn key(&self) -> &TokenKey {
        self.key
    }
    fn contains(&self, token: &Token) -> bool {
        self.full.contains(token)
    }
    fn contains_short(&self, short: u32) -> bool {
        self.sieve.lets_through(short) && self.short.contains(&short)
    }
    fn any_short(&self, shorts: &[u32]) -> bool {
        shorts.iter().any(|s| self.sieve.lets_through(*s) && self.short.contains(s))
    }
    fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.full.iter())
    }
    fn plaintext(&self) -> Option<Vec<Vec<String>>> {
        self.plaintext.clone()
    }
    fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_values_are_hashed_alike() {
        let key = TokenKey::new(zeroize::Zeroizing::new([3; 32]));
        for lengths in [vec![0], vec![1, 2], vec![247], vec![248], vec![249], vec![100, 140], vec![100, 141], vec![5000]] {
            let values: Vec<String> = lengths.iter().map(|n| "é".repeat(n / 2) + &"x".repeat(n % 2)).collect();
            let mut hasher = blake3::Hasher::new_keyed(&[3; 32]);
            for v in &values {
                hasher.update(&(v.len() as u64).to_le_bytes()).update(v.as_bytes());
            }
            assert_eq!(key.of_normalized(&values).0, hasher.finalize().as_bytes()[..16]);
        }
    }
}
