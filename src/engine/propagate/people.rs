//! The people of a run: their identities (sealed until every copy is processed), their random values, and the searchers of text.

use crate::datamap::strategy::Strategies;
use crate::datamap::{DataMap, Fingerprint, Normalize, Token, TokenKey, Tokens, fingerprint};
use crate::engine::event::IdentityTokens;
use crate::engine::identity::{SealedIdentities, Subject};
use crate::engine::session::Session;
use crate::engine::state::Request;
use crate::format::Mentions;
use crate::format::mentions::{PlainMentions, TokenMentions};
use crate::repository::Dataset;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where sealed identities are.
pub const REQUESTS: &str = "requests/";

/// Where a request's sealed identities are.
pub fn identities_key(request: &str) -> String {
    format!("{REQUESTS}{request}")
}

/// The purpose bound into their seal.
pub const IDENTITIES_PURPOSE: &str = "request";

/// The people of a run, in the order of its requests.
pub struct People {
    /// Sealed identities, opened.
    pub identities: Vec<SealedIdentities>,
}

/// Opens the identities of requests.
pub fn request_people(session: &Session, requests: &[&Request]) -> Result<People> {
    let identities = requests
        .iter()
        .map(|r| {
            let key = identities_key(&r.id);
            let bytes = session
                .repo
                .get_sealed(IDENTITIES_PURPOSE, &key)?
                .ok_or_else(|| Error::damaged(&key, "it is missing, so nobody can be searched for"))?;
            ciborium::from_reader(bytes.as_slice()).map_err(|_| Error::damaged(identities_key(&r.id), "its content is not what was sealed"))
        })
        .collect::<Result<_>>()?;
    Ok(People { identities })
}

/// What stands where an identity was.
const WITHHELD: &str = "[identity]";

impl People {
    /// Some of them, by index, for a run without those that cannot be carried out.
    pub fn only(&self, chosen: &[usize]) -> People {
        let pick = |i: &SealedIdentities| SealedIdentities { subject: i.subject.clone(), seed: i.seed.clone() };
        People { identities: chosen.iter().filter_map(|c| self.identities.get(*c)).map(pick).collect() }
    }

    /// A text with every identity of these people taken out, for reports, ledger and certificate.
    pub fn withhold(&self, text: &str) -> String {
        let mut out = text.to_string();
        for (_, value) in self.raw_values() {
            let value = value.trim();
            if value.chars().count() < 4 {
                continue;
            }
            let mut from = 0;
            while let Some(at) = out.get(from..).and_then(|rest| Some(from + rest.to_lowercase().find(&value.to_lowercase())?)) {
                // Lower case may be of another length; then nothing of the text is worth the risk.
                match out.get(at..at + value.len()) {
                    Some(found) if found.to_lowercase() == value.to_lowercase() => out.replace_range(at..at + value.len(), WITHHELD),
                    _ => return "(a text that names the person was withheld)".into(),
                }
                // Behind it: the value may stand in the word that replaces it.
                from = at + WITHHELD.len();
            }
        }
        out
    }

    /// The subjects.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.identities.iter().map(|i| &i.subject)
    }

    /// One maker of new values per request.
    pub fn strategies(&self, dataset: &Dataset) -> Result<Vec<Strategies>> {
        self.identities
            .iter()
            .map(|i| {
                let seed: [u8; 32] = i.seed.as_slice().try_into().map_err(|_| Error::damaged("request identities", "no seed"))?;
                Ok(Strategies::new(Zeroizing::new(seed), dataset.pseudonym_key()))
            })
            .collect()
    }

    /// One searcher of text per request, when the map searches any.
    pub fn mentions(&self, map: &DataMap) -> Result<Vec<Option<Box<dyn Mentions>>>> {
        let searched = map.collections.iter().any(|c| c.fields.values().any(|f| f.scan));
        self.identities
            .iter()
            .map(|i| {
                if !searched {
                    return Ok(None);
                }
                let values: Vec<(String, Vec<String>)> = i
                    .subject
                    .identities
                    .iter()
                    .map(|(kind, values)| (kind.clone(), values.iter().map(|components| components.join(" ")).collect()))
                    .collect();
                Ok(Some(Box::new(PlainMentions::new(values)?) as Box<dyn Mentions>))
            })
            .collect()
    }

    /// The plain values of every request's identities, for the search of raw bytes. Components of composite identities are left
    /// out: a family name alone names many.
    pub fn raw_values(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        for (who, identity) in self.identities.iter().enumerate() {
            for value in identity.subject.identities.values().flatten() {
                if let [single] = value.as_slice() {
                    out.push((who, single.clone()));
                }
            }
        }
        out
    }
}

/// A person's tokens, owned, for searching text in the restore gate.
struct OwnedTokens {
    dataset: Arc<Dataset>,
    full: HashSet<Token>,
    normalize: Vec<Normalize>,
    words: usize,
}

impl Tokens for OwnedTokens {
    fn key(&self) -> &TokenKey {
        self.dataset.token_key()
    }
    fn contains(&self, token: &Token) -> bool {
        self.full.contains(token)
    }
    fn contains_short(&self, short: u32) -> bool {
        self.full.iter().any(|t| t.short() == short)
    }
    fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.full.iter())
    }
    fn plaintext(&self) -> Option<Vec<Vec<String>>> {
        None
    }
    fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

impl Mentions for OwnedTokens {
    fn spans(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        TokenMentions::new(self, self.normalize.clone(), self.words).spans(text)
    }
}

/// One searcher of text per person, from tokens alone.
pub fn token_mentions(map: &DataMap, dataset: &Arc<Dataset>, people: &[&[IdentityTokens]]) -> Vec<Option<Box<dyn Mentions>>> {
    let searched = map.collections.iter().any(|c| c.fields.values().any(|f| f.scan));
    people
        .iter()
        .map(|identities| {
            if !searched {
                return None;
            }
            let single = || identities.iter().filter(|i| i.tokens.iter().all(|t| t.normalize.len() == 1));
            let bits: BTreeSet<u8> = single().flat_map(|i| &i.tokens).filter_map(|t| t.normalize.first().copied()).collect();
            Some(Box::new(OwnedTokens {
                dataset: dataset.clone(),
                full: single().flat_map(|i| &i.tokens).map(|t| t.token).collect(),
                normalize: Normalize::all().filter(|n| bits.contains(&n.bits())).collect(),
                words: single().map(|i| usize::from(i.words)).max().unwrap_or(1),
            }) as Box<dyn Mentions>)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_part_of_the_word_in_its_place_is_withheld_once() {
        let subject = Subject { identities: [("name".to_string(), vec![vec!["Dent".to_string()]])].into() };
        let people = People { identities: vec![SealedIdentities { subject, seed: Vec::new() }] };
        assert_eq!(people.withhold("students.db: DENT, dent"), "stu[identity]s.db: [identity], [identity]");
        assert_eq!(people.withhold("nobody"), "nobody");
    }
}
