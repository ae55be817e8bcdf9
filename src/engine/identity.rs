//! A person's identities: read from a file or standard input, kept sealed while a request is open, turned into tokens for everything
//! that outlives it. The types here hold plaintext, so they have no `Debug` and wipe themselves.

use super::event::{IdentityTokens, NormalizedToken};
use crate::datamap::{DataMap, Feed, Normalize, Token, TokenKey, Value};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroize;

/// One person, by what is known of them.
#[derive(Serialize, Deserialize, Clone, Default)]
pub struct Subject {
    /// Identity kind → values; each value is one component, or several in order for a composite identity.
    pub identities: BTreeMap<String, Vec<Vec<String>>>,
}

impl Drop for Subject {
    fn drop(&mut self) {
        for values in self.identities.values_mut() {
            values.iter_mut().flatten().for_each(Zeroize::zeroize);
        }
    }
}

/// What is kept sealed in `requests/<id>` while a request is open.
#[derive(Serialize, Deserialize)]
pub struct SealedIdentities {
    /// The person.
    pub subject: Subject,
    /// Seed of the request's random values; destroyed with the identities.
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
}

impl Drop for SealedIdentities {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

/// Reads an identity file: YAML or JSON, one person (`{email: …, customer_id: …}`) or a list of them. A value may be a list of values;
/// a composite identity is a mapping from its fields to their values. Errors name kinds and positions, never values.
pub fn parse_identities(text: &str, map_kinds: &BTreeMap<String, Vec<String>>) -> Result<Vec<Subject>> {
    let value: serde_json::Value = if text.trim_start().starts_with(['{', '[']) {
        serde_json::from_str(text).or_else(|_| yaml(text)).map_err(|_| Error::Usage("the identity file is neither JSON nor YAML".into()))?
    } else {
        yaml(text).map_err(|_| Error::Usage("the identity file is neither JSON nor YAML".into()))?
    };
    let list = match value {
        serde_json::Value::Array(list) => list,
        one @ serde_json::Value::Object(_) => vec![one],
        _ => {
            return Err(Error::Usage(
                "the identity file must hold a mapping of identity kinds to values, or a list of such mappings".into(),
            ));
        }
    };
    if list.is_empty() {
        return Err(Error::Usage("the identity file names nobody".into()));
    }
    list.into_iter().enumerate().map(|(i, v)| subject(v, i + 1, map_kinds)).collect()
}

fn yaml(text: &str) -> std::result::Result<serde_json::Value, ()> {
    serde_saphyr::from_str(text).map_err(|_| ())
}

fn subject(value: serde_json::Value, position: usize, map_kinds: &BTreeMap<String, Vec<String>>) -> Result<Subject> {
    let usage = |m: String| Error::Usage(format!("identity file, person {position}: {m}"));
    let serde_json::Value::Object(fields) = value else { return Err(usage("not a mapping of identity kinds to values".into())) };
    let mut subject = Subject::default();
    for (kind, value) in fields {
        let Some(components) = map_kinds.get(&kind) else {
            let known: Vec<&str> = map_kinds.keys().map(String::as_str).collect();
            return Err(usage(format!("identity kind {kind:?} is not in the data map; it knows {}", known.join(", "))));
        };
        let alternatives = match value {
            serde_json::Value::Array(list) if components.len() == 1 || list.iter().any(|v| v.is_object() || v.is_array()) => list,
            one => vec![one],
        };
        for alternative in alternatives {
            let parts: Vec<String> = match alternative {
                serde_json::Value::Object(mut map) => components
                    .iter()
                    .map(|c| map.remove(c).and_then(|v| scalar(&v)).ok_or_else(|| usage(format!("{kind:?} needs a value for {c:?}"))))
                    .collect::<Result<_>>()?,
                serde_json::Value::Array(list) => list.iter().filter_map(scalar).collect(),
                one => scalar(&one).into_iter().collect(),
            };
            if parts.len() != components.len() || parts.iter().any(|p| p.trim().is_empty()) {
                return Err(usage(format!("{kind:?} needs {} value(s) that are not empty ({})", components.len(), components.join(", "))));
            }
            subject.identities.entry(kind.clone()).or_default().push(parts);
        }
    }
    if subject.identities.is_empty() {
        return Err(usage("no identity given".into()));
    }
    Ok(subject)
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(s) => Some(s.clone()),
        serde_json::Value::Number(n) => Some(n.to_string()),
        serde_json::Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// The identity kinds that a map can be asked for: kind → names of its components (one for a plain kind: its own name).
pub fn kinds_of(map: &DataMap) -> BTreeMap<String, Vec<String>> {
    let mut kinds = BTreeMap::new();
    for collection in &map.collections {
        for probe in &collection.probes {
            if let Feed::Identity(kind) = &probe.feed {
                let names =
                    if probe.fields.len() == 1 { vec![kind.clone()] } else { probe.fields.iter().map(|(f, _)| f.clone()).collect() };
                kinds.entry(kind.clone()).or_insert(names);
            }
        }
        for kind in &collection.entry.placeholders {
            kinds.entry(kind.clone()).or_insert_with(|| vec![kind.clone()]);
        }
    }
    kinds
}

/// Normalises components; `None` when one of them is empty then.
pub fn normalized(components: &[String], normalize: &[Normalize]) -> Option<Vec<String>> {
    components
        .iter()
        .zip(normalize)
        .map(|(c, n)| {
            let text = Value::Text(Cow::Borrowed(c));
            let applied = n.apply(text.canonical()?).into_owned();
            (!applied.is_empty()).then_some(applied)
        })
        .collect()
}

/// The tokens that the ledger keeps of a person in one dataset: for every way that all components alike can be normalised, and for
/// the ways that the map's probes of this kind do it, so that the restore gate needs no plaintext later.
pub fn ledger_tokens(subject: &Subject, map: &DataMap, key: &TokenKey) -> Vec<IdentityTokens> {
    let mut out = Vec::new();
    for (kind, values) in &subject.identities {
        for components in values {
            let mut ways: BTreeSet<Vec<Normalize>> = Normalize::all().map(|n| vec![n; components.len()]).collect();
            for probe in map.collections.iter().flat_map(|c| &c.probes) {
                if probe.feed == Feed::Identity(kind.clone()) && probe.fields.len() == components.len() {
                    ways.insert(probe.fields.iter().map(|(_, n)| *n).collect());
                }
            }
            let tokens = ways
                .iter()
                .filter_map(|way| {
                    let values = normalized(components, way)?;
                    Some(NormalizedToken { normalize: way.iter().map(|n| n.bits()).collect(), token: key.of_normalized(&values) })
                })
                .collect();
            let words = components.iter().map(|c| c.split_whitespace().count()).max().unwrap_or(1).clamp(1, 8) as u8;
            out.push(IdentityTokens { kind: kind.clone(), words, tokens });
        }
    }
    out
}

/// A name for the person in reports and certificates that says nothing without the dataset's key.
pub fn subject_reference(tokens: &[IdentityTokens]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut all: Vec<&Token> = tokens.iter().flat_map(|t| t.tokens.iter().map(|t| &t.token)).collect();
    all.sort();
    for t in all {
        hasher.update(&t.0);
    }
    format!("subject-{}", &hasher.finalize().to_hex()[..16])
}
