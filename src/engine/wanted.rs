//! What is being looked for: for each probe of the data map the tokens wanted, which of them are new since the last search, and for which
//! request each is wanted. Fed by identities (plaintext, or tokens alone in the restore gate) and by the references of records found.

use super::event::IdentityTokens;
use super::identity::{Subject, normalized};
use crate::datamap::{COMBINATIONS, Collection, DataMap, Feed, Normalize, Probe, Token, TokenKey, TokenSet, Value};
use crate::format::Found;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};

/// Indices of the requests of a run.
pub type Who = BTreeSet<usize>;

/// A person to look for.
pub enum Person<'a> {
    /// With plaintext identities.
    Plain(&'a Subject),
    /// With the ledger's tokens alone.
    Tokens(&'a [IdentityTokens]),
}

/// The wanted tokens of one probe.
struct Set<'k> {
    all: HashMap<Token, Who>,
    fresh: TokenSet<'k>,
}

/// All wanted tokens of one archive's search.
pub struct Wanted<'k> {
    key: &'k TokenKey,
    probes: HashMap<(usize, usize), Set<'k>>,
    /// Placeholder values by identity kind and by how the placeholder compares them.
    paths: HashMap<(String, Normalize), HashMap<Token, Who>>,
}

/// How a placeholder's values are compared.
fn placeholder_way(collection: &Collection, n: usize) -> Normalize {
    collection.placeholder_normalize.get(n).copied().unwrap_or_default()
}

impl<'k> Wanted<'k> {
    /// What these people's identities want of the map. Fails when a probe cannot be answered from tokens alone.
    pub fn new(map: &DataMap, key: &'k TokenKey, people: &[Person<'_>]) -> Result<Wanted<'k>> {
        let mut wanted = Wanted { key, probes: HashMap::new(), paths: HashMap::new() };
        for (who, person) in people.iter().enumerate() {
            for (c, collection) in map.collections.iter().enumerate() {
                for (p, probe) in collection.probes.iter().enumerate() {
                    if let Feed::Identity(kind) = &probe.feed {
                        wanted.feed_identity((c, p), probe, kind, person, who)?;
                    }
                }
                for (n, kind) in collection.entry.placeholders.iter().enumerate() {
                    wanted.feed_path(kind, placeholder_way(collection, n), person, who);
                }
            }
        }
        Ok(wanted)
    }

    fn feed_identity(&mut self, at: (usize, usize), probe: &Probe, kind: &str, person: &Person<'_>, who: usize) -> Result<()> {
        let normalize: Vec<Normalize> = probe.fields.iter().map(|(_, n)| *n).collect();
        match person {
            Person::Plain(subject) => {
                for components in subject.identities.get(kind).into_iter().flatten() {
                    if components.len() == normalize.len()
                        && let Some(values) = normalized(components, &normalize)
                    {
                        self.want_values(at, values, who);
                    }
                }
            }
            Person::Tokens(identities) => {
                let bits: Vec<u8> = normalize.iter().map(|n| n.bits()).collect();
                for identity in identities.iter().filter(|i| i.kind == kind) {
                    let width = identity.tokens.first().map_or(0, |t| t.normalize.len());
                    if width != bits.len() {
                        continue;
                    }
                    match identity.tokens.iter().find(|t| t.normalize == bits) {
                        Some(t) => self.want_token(at, t.token, who),
                        // A combination that left nothing (the digits of a name) has no token, and nothing could match it.
                        None if bits.windows(2).all(|w| w[0] == w[1]) => {}
                        None => {
                            return Err(Error::Refused(format!(
                                "the data map now normalises {kind:?} in a way that the ledger has no token for; an erased person could not be recognised"
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn feed_path(&mut self, kind: &str, way: Normalize, person: &Person<'_>, who: usize) {
        let set = self.paths.entry((kind.to_string(), way)).or_default();
        let mut add = |token: Token| {
            set.entry(token).or_default().insert(who);
        };
        match person {
            Person::Plain(subject) => {
                for components in subject.identities.get(kind).into_iter().flatten() {
                    if let Some(values) = normalized(components, &vec![way; components.len()]) {
                        add(self.key.of_normalized(&values));
                    }
                }
            }
            Person::Tokens(identities) => {
                for t in identities.iter().filter(|i| i.kind == kind).flat_map(|i| &i.tokens) {
                    if t.normalize == [way.bits()] {
                        add(t.token);
                    }
                }
            }
        }
    }

    fn set(&mut self, at: (usize, usize)) -> &mut Set<'k> {
        let key = self.key;
        self.probes.entry(at).or_insert_with(|| Set { all: HashMap::new(), fresh: TokenSet::new(key) })
    }

    fn want_values(&mut self, at: (usize, usize), values: Vec<String>, who: usize) {
        let token = self.key.of_normalized(&values);
        let set = self.set(at);
        if !set.all.contains_key(&token) {
            set.fresh.insert_values(values);
        }
        set.all.entry(token).or_default().insert(who);
    }

    fn want_token(&mut self, at: (usize, usize), token: Token, who: usize) {
        let set = self.set(at);
        if !set.all.contains_key(&token) {
            set.fresh.insert_token(token);
        }
        set.all.entry(token).or_default().insert(who);
    }

    /// Takes the next probe with tokens that were not searched yet.
    pub fn take_fresh(&mut self) -> Option<((usize, usize), TokenSet<'k>)> {
        use crate::datamap::Tokens;
        let at = *self.probes.iter().filter(|(_, s)| !s.fresh.is_empty()).map(|(at, _)| at).min()?;
        let key = self.key;
        let set = self.probes.get_mut(&at)?;
        Some((at, std::mem::replace(&mut set.fresh, TokenSet::new(key))))
    }

    /// Whether anything wanted was not searched for yet.
    pub fn has_fresh(&self) -> bool {
        use crate::datamap::Tokens;
        self.probes.values().any(|s| !s.fresh.is_empty())
    }

    /// Makes tokens.
    pub fn key(&self) -> &'k TokenKey {
        self.key
    }

    /// Requests that want a record of `collection` directly, by any of its probes.
    pub fn who_wants(&self, map: &DataMap, found: &Found) -> Who {
        let mut who = Who::new();
        let Some(collection) = map.collections.get(found.collection) else { return who };
        for (p, probe) in collection.probes.iter().enumerate() {
            let Some(set) = self.probes.get(&(found.collection, p)) else { continue };
            for token in record_tokens(self.key, probe, found) {
                who.extend(set.all.get(&token).into_iter().flatten());
            }
        }
        who
    }

    /// Requests that want this token of a probe.
    pub fn wants(&self, at: (usize, usize), token: &Token) -> bool {
        self.probes.get(&at).is_some_and(|s| s.all.contains_key(token))
    }

    /// Wants what the references and keys of a found record lead to; true when anything was new (a token, or a request for a token).
    pub fn feed_references(&mut self, map: &DataMap, found: &Found, who: &Who) -> bool {
        let mut new = false;
        for (c, collection) in map.collections.iter().enumerate() {
            for (p, probe) in collection.probes.iter().enumerate() {
                let Feed::Reference { collection: from, fields } = &probe.feed else { continue };
                if *from != found.collection {
                    continue;
                }
                for values in combinations(found, fields, &probe.fields.iter().map(|(_, n)| *n).collect::<Vec<_>>()) {
                    for w in who {
                        let token = self.key.of_normalized(&values);
                        if !self.probes.get(&(c, p)).and_then(|s| s.all.get(&token)).is_some_and(|s| s.contains(w)) {
                            self.want_values((c, p), values.clone(), *w);
                            new = true;
                        }
                    }
                }
            }
            for (kind, from, field) in &collection.placeholder_feeds {
                if *from != found.collection {
                    continue;
                }
                let ways = collection
                    .entry
                    .placeholders
                    .iter()
                    .enumerate()
                    .filter(|(_, k)| *k == kind)
                    .map(|(n, _)| placeholder_way(collection, n));
                for way in ways {
                    for values in combinations(found, std::slice::from_ref(field), &[way]) {
                        let token = self.key.of_normalized(&values);
                        let set = self.paths.entry((kind.clone(), way)).or_default().entry(token).or_default();
                        for w in who {
                            new |= set.insert(*w);
                        }
                    }
                }
            }
        }
        new
    }

    /// Requests that want an entry because of the identities in its path. `captures` are the placeholders' values in their order.
    pub fn who_wants_path(&self, collection: &Collection, captures: &[(String, String)]) -> Who {
        let mut who = Who::new();
        for (n, (kind, value)) in captures.iter().enumerate() {
            let way = placeholder_way(collection, n);
            let Some(set) = self.paths.get(&(kind.clone(), way)) else { continue };
            if let Some(values) = normalized(std::slice::from_ref(value), &[way]) {
                who.extend(set.get(&self.key.of_normalized(&values)).into_iter().flatten());
            }
        }
        who
    }
}

/// The tokens of a record's values for a probe.
pub fn record_tokens(key: &TokenKey, probe: &Probe, found: &Found) -> Vec<Token> {
    let fields: Vec<String> = probe.fields.iter().map(|(f, _)| f.clone()).collect();
    let normalize: Vec<Normalize> = probe.fields.iter().map(|(_, n)| *n).collect();
    combinations(found, &fields, &normalize).iter().map(|v| key.of_normalized(v)).collect()
}

/// Normalised values of a record's fields, in every combination where fields have several (bounded).
fn combinations(found: &Found, fields: &[String], normalize: &[Normalize]) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = vec![Vec::new()];
    for (field, n) in fields.iter().zip(normalize) {
        let texts: Vec<String> =
            found.values.get(field).map(Vec::as_slice).unwrap_or_default().iter().filter_map(|v| normalized_value(v, *n)).collect();
        out = out
            .iter()
            .flat_map(|c| texts.iter().map(move |t| c.iter().cloned().chain([t.clone()]).collect::<Vec<_>>()))
            .take(COMBINATIONS)
            .collect();
    }
    out
}

fn normalized_value(value: &Value<'_>, n: Normalize) -> Option<String> {
    let text = n.apply(value.canonical()?).into_owned();
    (!text.is_empty()).then_some(text)
}
