//! What becomes of each found record: hold or `retain` > the field's action > the collection's `on_erase` > `unmapped`.
//! A pure function of the map, the record and the time; nothing is changed here.

use super::event::Counts;
use super::matching::{Match, Matches, keeps_as_shared};
use super::wanted::Wanted;
use crate::datamap::strategy::Strategies;
use crate::datamap::{Action, Collection, DataMap, Feed, Field, Label, OnErase, TokenKey, Unmapped, Value};
use crate::format::{Disposition, Found, Mentions, NewValue};
use crate::{Error, Result};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// What was decided about one record, and how it counts.
pub struct Decided {
    /// Index into the matches.
    pub index: usize,
    /// For the editor.
    pub disposition: Disposition,
    /// For the report.
    pub counts: Counts,
    /// The ground, when it is kept.
    pub ground: Option<String>,
}

/// What decisions are made from.
pub struct Decider<'a> {
    /// The map.
    pub map: &'a DataMap,
    /// Makes tokens.
    pub key: &'a TokenKey,
    /// New values, one maker per request.
    pub strategies: &'a [Strategies],
    /// Searchers of text, one per request.
    pub mentions: &'a [Option<Box<dyn Mentions>>],
    /// For `retain`.
    pub now: Timestamp,
    /// Whether pseudonymising counts as erasing here.
    pub accept_pseudonymised: bool,
}

impl Decider<'_> {
    /// Decides about every record found in an archive.
    pub fn decide(&self, matches: &Matches, wanted: &Wanted<'_>) -> Result<Vec<Decided>> {
        matches.records.iter().enumerate().map(|(i, m)| self.one(i, m, wanted)).collect()
    }

    fn one(&self, index: usize, m: &Match, wanted: &Wanted<'_>) -> Result<Decided> {
        let found = &m.found;
        let collection = self.map.collections.get(found.collection).ok_or_else(|| Error::Refused("a record of no collection".into()))?;
        let keep = |ground: String| Decided {
            index,
            disposition: Disposition::Keep,
            counts: Counts { found: 1, retained: 1, ..Counts::default() },
            ground: Some(ground),
        };
        if let Some(ground) = self.retained(collection, found)? {
            return Ok(keep(ground));
        }
        if m.by_text {
            return Ok(self.rewritten(index, self.text_changes(collection, m), false));
        }
        if keeps_as_shared(self.map, wanted, &m.found) {
            let own = self.own_references(collection, m, wanted);
            return Ok(if own.is_empty() {
                keep("shared with other subjects".into())
            } else {
                let mut decided = self.rewritten(index, own, false);
                decided.ground = Some("shared with other subjects: the person's own reference was removed".into());
                decided
            });
        }
        match collection.on_erase {
            OnErase::Preserve => Ok(keep(
                collection
                    .basis
                    .clone()
                    .or_else(|| collection.retain.as_ref().map(|r| r.basis.clone()))
                    .unwrap_or_else(|| preserve_basis(collection)),
            )),
            OnErase::Delete => Ok(Decided {
                index,
                disposition: Disposition::Delete,
                counts: Counts { found: 1, deleted: 1, ..Counts::default() },
                ground: None,
            }),
            OnErase::Anonymize => self.anonymise(index, collection, m),
        }
    }

    /// The ground that keeps a record now.
    fn retained(&self, collection: &Collection, found: &Found) -> Result<Option<String>> {
        let Some(retain) = &collection.retain else { return Ok(None) };
        let until = retain.until.date_value(&|field| first_value(found, field))?;
        Ok(match until {
            // A date that cannot be read never loses a record that the law may want.
            None => Some(format!("{} (its date cannot be read, so it is kept)", retain.basis)),
            Some(until) if until > self.now => Some(match &retain.cite {
                Some(cite) => format!("{} ({cite}), until {}", retain.basis, until.strftime("%Y-%m-%d")),
                None => format!("{}, until {}", retain.basis, until.strftime("%Y-%m-%d")),
            }),
            Some(_) => None,
        })
    }

    fn anonymise(&self, index: usize, collection: &Collection, m: &Match) -> Result<Decided> {
        let mut changes = self.text_changes(collection, m);
        let mut pseudonymised = false;
        let strategies = self.strategies_of(m)?;
        for field in collection.fields.values().filter(|f| !f.scan) {
            let (Some(action), Some(values)) = (&field.action, m.found.values.get(&field.name)) else { continue };
            if action.label() == Label::Pseudonymised {
                if !self.accept_pseudonymised {
                    return Err(Error::Refused(format!(
                        "collection {}: {} would only pseudonymise, and the dataset does not accept that for an erasure",
                        collection.name, field.name
                    )));
                }
                pseudonymised = true;
            }
            let new = strategies.new_values(&collection.name, &field.name, action, values);
            if new.iter().any(Option::is_some) {
                changes.insert(field.name.clone(), new);
            }
        }
        for (name, values) in &m.found.values {
            if collection.fields.contains_key(name) || is_key_of(collection, name) {
                continue;
            }
            match self.map.unmapped {
                Unmapped::Preserve => {}
                Unmapped::Redact => {
                    let action = Action::Redact { replacement: "[erased]".into() };
                    changes.insert(name.clone(), strategies.new_values(&collection.name, name, &action, values));
                }
                Unmapped::Halt => {
                    return Err(Error::Refused(format!(
                        "collection {}: column {name:?} is not in the data map (`unmapped: halt`); map it, or choose `unmapped: redact` or `preserve`",
                        collection.name
                    )));
                }
            }
        }
        Ok(self.rewritten(index, changes, pseudonymised))
    }

    fn strategies_of(&self, m: &Match) -> Result<&Strategies> {
        m.who.first().and_then(|w| self.strategies.get(*w)).ok_or_else(|| Error::Refused("a record of nobody".into()))
    }

    fn rewritten(&self, index: usize, changes: BTreeMap<String, Vec<Option<NewValue>>>, pseudonymised: bool) -> Decided {
        let counts = Counts { found: 1, anonymised: 1, pseudonymised: u64::from(pseudonymised), ..Counts::default() };
        let disposition = if changes.is_empty() { Disposition::Keep } else { Disposition::Rewrite(changes) };
        Decided { index, disposition, counts, ground: None }
    }

    /// New texts of the `scan` fields, with the spans that name any of the people replaced.
    fn text_changes(&self, collection: &Collection, m: &Match) -> BTreeMap<String, Vec<Option<NewValue>>> {
        let mut changes = BTreeMap::new();
        for field in collection.fields.values().filter(|f| f.scan) {
            let Some(values) = m.found.values.get(&field.name) else { continue };
            let new: Vec<Option<NewValue>> = values.iter().map(|v| self.redacted(field, v)).collect();
            if new.iter().any(Option::is_some) {
                changes.insert(field.name.clone(), new);
            }
        }
        changes
    }

    fn redacted(&self, field: &Field, value: &Value<'_>) -> Option<NewValue> {
        let Value::Text(text) = value else { return None };
        let replacement = match &field.action {
            Some(Action::Redact { replacement }) => replacement.as_str(),
            _ => "[erased]",
        };
        let mut spans: Vec<_> = self.mentions.iter().flatten().flat_map(|s| s.spans(text)).collect();
        if spans.is_empty() {
            return None;
        }
        spans.sort_by_key(|s| (s.start, std::cmp::Reverse(s.end)));
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for span in spans {
            if span.start < at {
                // Overlaps what was replaced already; what sticks out goes with it.
                at = at.max(span.end);
                continue;
            }
            out.push_str(&text[at..span.start]);
            out.push_str(replacement);
            at = span.end;
        }
        out.push_str(&text[at..]);
        Some(NewValue::Text(out))
    }

    /// Sets the fields to null through which a shared record refers to the person.
    fn own_references(&self, collection: &Collection, m: &Match, wanted: &Wanted<'_>) -> BTreeMap<String, Vec<Option<NewValue>>> {
        let mut changes = BTreeMap::new();
        let keys: BTreeSet<&String> = collection.primary_key.iter().collect();
        for (p, probe) in collection.probes.iter().enumerate() {
            let [(field, n)] = probe.fields.as_slice() else { continue };
            if keys.contains(field) {
                continue;
            }
            let Some(values) = m.found.values.get(field) else { continue };
            let new: Vec<Option<NewValue>> = values
                .iter()
                .map(|v| self.key.of_value(v, *n).filter(|t| wanted.wants((m.found.collection, p), t)).map(|_| NewValue::Null))
                .collect();
            if new.iter().any(Option::is_some) {
                changes.insert(field.clone(), new);
            }
        }
        changes
    }
}

fn is_key_of(collection: &Collection, name: &str) -> bool {
    collection.primary_key.iter().any(|k| k == name) || collection.probes.iter().any(|p| p.fields.iter().any(|(f, _)| f == name))
}

fn preserve_basis(collection: &Collection) -> String {
    collection
        .fields
        .values()
        .find_map(|f| match &f.action {
            Some(Action::Preserve { basis }) => Some(basis.clone()),
            _ => None,
        })
        .unwrap_or_else(|| "the data map preserves it".into())
}

/// A record's first value of a field, for expressions.
pub fn first_value(found: &Found, field: &str) -> Option<Value<'static>> {
    found.values.get(field).and_then(|v| v.first()).cloned()
}

/// Collections in the order in which they must be changed: those that refer come before what they refer to. Cycles in any order.
pub fn children_first(map: &DataMap) -> Vec<usize> {
    fn visit(map: &DataMap, at: usize, seen: &mut [bool], out: &mut Vec<usize>) {
        if std::mem::replace(&mut seen[at], true) {
            return;
        }
        for (child, collection) in map.collections.iter().enumerate() {
            let refers = collection.probes.iter().any(|p| matches!(&p.feed, Feed::Reference { collection, .. } if *collection == at));
            if refers {
                visit(map, child, seen, out);
            }
        }
        out.push(at);
    }
    let mut seen = vec![false; map.collections.len()];
    let mut out = Vec::new();
    for c in 0..map.collections.len() {
        visit(map, c, &mut seen, &mut out);
    }
    out
}
