//! A person's identities: read from a file or standard input, kept sealed while a request is open, turned into tokens for everything
//! that outlives it. The types here hold plaintext, so they have no `Debug` and wipe themselves.

use super::event::{IdentityTokens, NormalizedToken};
use crate::datamap::{DataMap, Feed, Normalize, Token, TokenKey, Value};
use crate::{Error, Result};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
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
    let shape: serde_json::Value = serde_saphyr::from_str(text).map_err(|_| ())?;
    serde_saphyr::with_deserializer_from_str(text, |yaml| AsWritten(&shape).deserialize(yaml)).map_err(|_| ())
}

/// Reads what an untyped reading gave this shape once more, with scalars as they are written: `0170123456` and `No` are what a person is called,
/// and neither a number nor a truth value.
struct AsWritten<'s>(&'s serde_json::Value);

impl<'de> DeserializeSeed<'de> for AsWritten<'_> {
    type Value = serde_json::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<serde_json::Value, D::Error> {
        match self.0 {
            serde_json::Value::Object(_) => from.deserialize_map(self),
            serde_json::Value::Array(_) => from.deserialize_seq(self),
            serde_json::Value::Null => serde_json::Value::deserialize(from),
            _ => from.deserialize_string(self),
        }
    }
}

impl<'de> Visitor<'de> for AsWritten<'_> {
    type Value = serde_json::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an identity")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<serde_json::Value, E> {
        Ok(text.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<serde_json::Value, A::Error> {
        let mut out = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match self.0.get(&key) {
                Some(shape) => map.next_value_seed(AsWritten(shape))?,
                None => map.next_value()?,
            };
            out.insert(key, value);
        }
        Ok(out.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<serde_json::Value, A::Error> {
        let mut out = Vec::new();
        while let Some(value) = seq.next_element_seed(AsWritten(self.0.get(out.len()).unwrap_or(&serde_json::Value::Null)))? {
            out.push(value);
        }
        Ok(out.into())
    }
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
        // Of JSON, as a record's number is compared.
        serde_json::Value::Number(n) => match (n.is_f64(), n.as_f64()) {
            (true, Some(real)) => Value::Real(real).canonical().map(Cow::into_owned),
            _ => Some(n.to_string()),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> BTreeMap<String, Vec<Vec<String>>> {
        let kinds = ["id", "phone", "name"].map(|k| (k.to_string(), vec![k.to_string()]));
        let kinds = kinds.into_iter().chain([("person".to_string(), vec!["last".to_string(), "born".to_string()])]).collect();
        parse_identities(text, &kinds).unwrap_or_else(|e| panic!("{text}: {e}")).remove(0).identities.clone()
    }

    fn one(text: &str) -> String {
        read(text).into_values().next().unwrap()[0][0].clone()
    }

    #[test]
    fn a_value_is_what_is_written() {
        for (text, value) in [
            ("phone: 0170123456", "0170123456"),
            ("phone: +491701234567", "+491701234567"),
            ("id: 00123", "00123"),
            ("id: 4711e2", "4711e2"),
            ("id: 12345678901234567890123", "12345678901234567890123"),
            ("id: 1_000", "1_000"),
            ("id: 0x1F", "0x1F"),
            ("name: No", "No"),
            (r#"name: "Zo\u00eb" # a comment"#, "Zo\u{eb}"),
            ("- id: 007", "007"),
            ("{id: 007}", "007"),
            (r#"{"id": "007"}"#, "007"),
            (r#"{"id": 42}"#, "42"),
            (r#"{"id": 42.0}"#, "42"),
        ] {
            assert_eq!(one(text), value, "{text}");
        }
        assert_eq!(read("id: [007, 08]")["id"], [["007"], ["08"]]);
        assert_eq!(read("person: {last: Yes, born: 1970-01-02}")["person"], [["Yes", "1970-01-02"]]);
        assert_eq!(read("person: [{last: No, born: 0}, {last: Null Island, born: 1e3}]")["person"], [["No", "0"], ["Null Island", "1e3"]]);
    }
}
