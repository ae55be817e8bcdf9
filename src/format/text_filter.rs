//! The filter in an identity block that tells of a piece's texts who is certainly not mentioned in them: a Bloom filter over keyed hashes of
//! their [features](super::mentions::features). A request that searches text opens only the pieces whose filter lets it.
//!
//! The hash is SipHash-2-4, because a backup hashes every word of every searched text; its key comes from the dataset's token key, so
//! that a filter says nothing to who does not have that. A filter depends on the piece's texts alone.

use super::mentions::features::of_text;
use crate::datamap::{Fingerprint, TokenKey};
use std::hash::Hasher;

/// Bits for each distinct feature. With [`PLACES`] of them set per feature one in eighty absent features looks present.
const BITS: usize = 10;

/// Below this many bits per feature a filter would let nearly everything pass and is left out.
const FEWEST: usize = 2;

/// Bits set for a feature.
const PLACES: u32 = 4;

/// Hashes that are remembered to leave out repetitions early.
const RECENT: usize = 2048;

/// A filter takes at most this share of the bytes that it speaks for,
const SHARE: usize = 32;
/// but may have this many bytes in any case,
const SMALL: usize = 64;
/// and never more than these.
const LARGEST: usize = 128 * 1024;

/// Hashes features. Holds a key: no `Debug`, no `Clone`.
pub struct TextKey(u64, u64);

impl TextKey {
    /// From the dataset's token key.
    pub fn new(key: &TokenKey) -> TextKey {
        let key = key.derived("reseal/v1/text");
        let word = |at: usize| key.get(at..at + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
        TextKey(word(0), word(8))
    }

    // SipHash-2-4 is what the type promises; what replaced it cannot be given a key.
    #[allow(deprecated)]
    fn hash(&self, feature: &str) -> u64 {
        let mut hasher = std::hash::SipHasher::new_with_keys(self.0, self.1);
        hasher.write(feature.as_bytes());
        hasher.finish()
    }
}

/// The bits of a feature in a filter of `bytes` bytes.
fn places(hash: u64, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let (first, step) = (hash as u32, (hash >> 32) as u32 | 1);
    (0..PLACES).map(move |i| {
        let spread = u64::from(first.wrapping_add(step.wrapping_mul(i)));
        let bit = ((spread * (bytes as u64 * 8)) >> 32) as usize;
        (bit / 8, 1 << (bit % 8))
    })
}

/// Collects the texts of one piece.
pub struct TextFilter<'k> {
    key: &'k TextKey,
    hashes: Vec<u64>,
    /// Those met lately, by their lowest bits: most words repeat soon.
    recent: Vec<u64>,
    /// How many there were when each was last there only once.
    distinct: usize,
    bytes: usize,
    given_up: bool,
}

impl<'k> TextFilter<'k> {
    /// Of no text yet.
    pub fn new(key: &'k TextKey) -> TextFilter<'k> {
        TextFilter { key, hashes: Vec::new(), recent: vec![0; RECENT], distinct: 0, bytes: 0, given_up: false }
    }

    /// Adds a text.
    pub fn add(&mut self, text: &str) {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.given_up {
            return;
        }
        let TextFilter { key, hashes, recent, distinct, given_up, .. } = self;
        of_text(text, |feature| {
            if *given_up {
                return;
            }
            let hash = key.hash(feature);
            match recent.get_mut(hash as usize % RECENT) {
                Some(last) if *last == hash => return,
                Some(last) => *last = hash,
                None => {}
            }
            hashes.push(hash);
            // Dropping what repeats now and then bounds the memory.
            if hashes.len() > 2 * *distinct + 16 * 1024 {
                hashes.sort_unstable();
                hashes.dedup();
                *distinct = hashes.len();
                *given_up = hashes.len() * FEWEST > LARGEST * 8;
            }
        });
    }

    /// A text is missing that cannot be read here: the piece may mention anybody.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// The filter for a piece of this many bytes; `None` when it has more features than a filter can tell apart.
    pub fn finish(mut self, piece: usize) -> Option<Vec<u8>> {
        self.hashes.sort_unstable();
        self.hashes.dedup();
        let most = (piece.max(self.bytes) / SHARE).clamp(SMALL, LARGEST);
        let bytes = (self.hashes.len() * BITS).div_ceil(8).min(most);
        if self.given_up || self.hashes.len() * FEWEST > bytes * 8 {
            return None;
        }
        let mut out = vec![0; bytes];
        for (at, bit) in self.hashes.iter().flat_map(|h| places(*h, bytes)) {
            if let Some(byte) = out.get_mut(at) {
                *byte |= bit;
            }
        }
        Some(out)
    }
}

/// Whom a search of text looks for, as a filter is asked.
pub struct WantedText(Vec<Vec<u64>>);

impl WantedText {
    /// For [`Mentions::features`](super::Mentions::features).
    pub fn new(key: &TokenKey, groups: &[Vec<String>]) -> WantedText {
        let key = TextKey::new(key);
        WantedText(groups.iter().map(|group| group.iter().map(|f| key.hash(f)).collect()).collect())
    }

    /// The same for the same features, and for no other.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for group in &self.0 {
            hasher.update(&(group.len() as u64).to_le_bytes());
            group.iter().for_each(|hash| {
                hasher.update(&hash.to_le_bytes());
            });
        }
        let mut out = [0; 16];
        hasher.finalize_xof().fill(&mut out);
        (self.0.len(), out)
    }

    /// Whether the texts behind a filter may mention the person. Without a filter they may.
    pub fn may_be_in(&self, filter: Option<&[u8]>) -> bool {
        let Some(filter) = filter else { return true };
        let has = |hash: &u64| places(*hash, filter.len()).all(|(at, bit)| filter.get(at).is_some_and(|byte| byte & bit != 0));
        self.0.iter().any(|group| group.iter().all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::mentions::PlainMentions;
    use crate::format::{Mentions, testing};
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_siphash_2_4() {
        // Aumasson and Bernstein 2012, appendix A: key 00..0f, message 00..0e.
        let key = TextKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(key.hash(std::str::from_utf8(&message).unwrap()), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn filters_keep_their_size() {
        let key = TextKey::new(&testing::key());
        let filter = |words: usize, width: usize, piece: usize| {
            let mut filter = TextFilter::new(&key);
            (0..words).for_each(|i| filter.add(&format!("w{i:0width$}")));
            filter.finish(piece).map(|f| f.len())
        };
        assert_eq!(filter(0, 0, 65_536), Some(0));
        assert_eq!(filter(100, 0, 65_536), Some(125));
        assert_eq!(filter(5000, 0, 65_536), Some(2048));
        assert_eq!(filter(10_000, 0, 65_536), None);
        assert_eq!(filter(200, 0, 10), Some(64));
        assert_eq!(filter(600_000, 0, 1 << 30), None);
        // The bytes of the texts count where they are more than the piece's own: long texts lie elsewhere in a database.
        assert_eq!(filter(20_000, 19, 4096), Some(12_500));
    }

    #[test]
    fn one_in_eighty_that_is_absent_looks_present() {
        let token = testing::key();
        let key = TextKey::new(&token);
        let mut filter = TextFilter::new(&key);
        (0..1500).for_each(|i| filter.add(&format!("name{i}")));
        let filter = filter.finish(65_536).unwrap();
        let asked = |i: usize| WantedText::new(&token, &[vec![format!("name{i}")]]).may_be_in(Some(&filter));
        assert!((0..1500).all(asked));
        let wrong = (1500..21_500).filter(|i| asked(*i)).count();
        assert!((100..400).contains(&wrong), "{wrong} of 20000");
        assert!(WantedText::new(&token, &[]).may_be_in(None) && !WantedText::new(&token, &[]).may_be_in(Some(&filter)));
        assert!(!WantedText::new(&token, &[vec!["a".into()]]).may_be_in(Some(&[])));
    }

    proptest! {
        #[test]
        fn who_is_mentioned_is_never_filtered_out(
            texts in proptest::collection::vec("[a-c@. é0-9-]{0,40}", 0..20),
            value in "[a-c]{1,3}(@[a-c]\\.[a-c])?|[0-9]{2,9}|[a-c] é",
        ) {
            let token = testing::key();
            let key = TextKey::new(&token);
            let mentions = PlainMentions::new(vec![("any".into(), vec![value])]).unwrap();
            let mut filter = TextFilter::new(&key);
            texts.iter().for_each(|t| filter.add(t));
            let wanted = WantedText::new(&token, mentions.features().unwrap());
            let may = wanted.may_be_in(filter.finish(1 << 20).as_deref());
            prop_assert!(may || texts.iter().all(|t| mentions.spans(t).is_empty()));
        }
    }
}
