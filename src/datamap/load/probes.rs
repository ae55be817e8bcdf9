//! How records are found: identity fields, composites, references in both directions, and keys that are followed by themselves.
//! Also whether every collection can be reached at all: one that cannot would keep people whom everybody believes erased.

use super::super::expr::Expr;
use super::super::model::{Collection, DataMap, Feed, Normalize, OnErase, Probe};
use super::super::raw::{RawCollection, RawDirection, RawReference};
use super::{Compiler, Place, is_kind};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) fn link(compiler: &mut Compiler, dataset: &str, map: &mut DataMap, sources: &[(&RawCollection, Place)]) {
    let index: HashMap<String, usize> = map.collections.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect();
    let mut probes: Vec<(usize, Probe)> = Vec::new();
    for (i, (collection, (raw, place))) in map.collections.iter().zip(sources).enumerate() {
        for field in collection.fields.values() {
            if let Some(kind) = &field.identity {
                let fields = vec![(field.name.clone(), field.normalize)];
                probes.push((i, Probe { fields, feed: Feed::Identity(kind.clone()), when: None }));
            }
        }
        composites(compiler, map, i, raw, place, &mut probes);
        for (n, reference) in raw.references.iter().enumerate() {
            let at = place.to("references").to(&n.to_string());
            if let Some(found) = resolve(compiler, dataset, map, &index, i, reference, &at) {
                probes.push(found);
            }
        }
    }
    keys(map, &mut probes);
    for (i, probe) in probes {
        if let Some(collection) = map.collections.get_mut(i) {
            let same = |p: &Probe| p.fields == probe.fields && p.feed == probe.feed && p.when == probe.when;
            if !collection.probes.iter().any(same) {
                collection.probes.push(probe);
            }
        }
    }
    placeholders(compiler, map, sources);
    if compiler.mistakes.is_empty() {
        reachable(compiler, map, sources);
    }
}

/// How a field's values are compared; raw where the map does not name it.
fn normalize_of(collection: &Collection, field: &str) -> Option<Normalize> {
    collection.fields.get(field).map(|f| f.normalize)
}

fn composites(compiler: &mut Compiler, map: &DataMap, i: usize, raw: &RawCollection, place: &Place, probes: &mut Vec<(usize, Probe)>) {
    for (n, identity) in raw.identities.iter().enumerate() {
        let at = place.to("identities").to(&n.to_string());
        let what = format!("collection {}: identity {:?}", raw.name, identity.name);
        if !is_kind(&identity.name) {
            compiler.at(&at.to("name"), format!("{what} cannot be an identity kind (letters, digits, `_`, `-`, `.`)"));
        }
        if identity.fields.len() < 2 {
            compiler.at(&at.to("fields"), format!("{what} needs two fields or more; one field alone gets `identity:` where it is mapped"));
            continue;
        }
        let unique: BTreeSet<&String> = identity.fields.iter().collect();
        if unique.len() != identity.fields.len() {
            compiler.at(&at.to("fields"), format!("{what} names a field twice"));
        }
        let kind_of_single = map.collections.iter().flat_map(|c| c.fields.values()).any(|f| f.identity.as_ref() == Some(&identity.name));
        if kind_of_single {
            compiler.at(&at.to("name"), format!("{what} is also the kind of a single field; give it another name"));
        }
        let Some(collection) = map.collections.get(i) else { continue };
        let fields = identity.fields.iter().map(|f| (f.clone(), normalize_of(collection, f).unwrap_or_default())).collect();
        probes.push((i, Probe { fields, feed: Feed::Identity(identity.name.clone()), when: None }));
    }
}

/// The probe that a reference stands for, and the collection that it finds records of.
fn resolve(
    compiler: &mut Compiler,
    dataset: &str,
    map: &DataMap,
    index: &HashMap<String, usize>,
    own: usize,
    reference: &RawReference,
    place: &Place,
) -> Option<(usize, Probe)> {
    let collection = map.collections.get(own)?;
    let what = format!("collection {}: reference to {:?}", collection.name, reference.to);
    let named = index.get(&reference.to).or_else(|| index.get(reference.to.strip_prefix(dataset)?.strip_prefix('.')?));
    let Some(&target) = named else {
        let known: Vec<&str> = map.collections.iter().map(|c| c.name.as_str()).collect();
        let foreign = reference.to.split_once('.').filter(|(prefix, _)| *prefix != dataset);
        let message = match (closest(&reference.to, &known), foreign) {
            (Some(near), _) => format!("there is no such collection; did you mean {near:?}?"),
            (None, Some((other, _))) => {
                format!("there is no such collection, and references into another dataset ({other:?}) are not available in this version")
            }
            (None, None) => format!("there is no such collection; there are {}", known.join(", ")),
        };
        compiler.at(&place.to("to"), format!("{what}: {message}"));
        return None;
    };
    let other = map.collections.get(target)?;
    let fields = reference.fields.to_vec();
    let mut to_fields = reference.to_fields.to_vec();
    if to_fields.is_empty() {
        to_fields = other.primary_key.clone();
    }
    if fields.is_empty() {
        compiler.at(&place.to("fields"), format!("{what}: it needs at least one field"));
        return None;
    }
    if to_fields.is_empty() {
        compiler.at(place, format!("{what}: collection {} has no `primary_key`; give it one, or name `to_fields` here", other.name));
        return None;
    }
    if fields.len() != to_fields.len() {
        let message = format!("{} fields refer to {} ({})", fields.len(), to_fields.len(), to_fields.join(", "));
        compiler.at(&place.to("fields"), format!("{what}: {message}; there must be as many"));
        return None;
    }
    if collection.format.as_deref() == Some("path") || other.format.as_deref() == Some("path") {
        compiler.at(place, format!("{what}: entries of format path have no fields to refer by; use a placeholder in the pattern"));
        return None;
    }
    let when = match &reference.when {
        None => None,
        Some(source) => Some(compiler.expression(source, &place.to("when"), Expr::check_condition)?),
    };
    // One way of comparing for both sides: the finding side's where it says one, else the other's.
    let pairs = |finding: &Collection, wanted: &[String], feeding: &Collection, from: &[String]| {
        wanted
            .iter()
            .zip(from)
            .map(|(w, f)| (w.clone(), explicit(finding, w).or_else(|| normalize_of(feeding, f)).unwrap_or_default()))
            .collect()
    };
    Some(match reference.direction {
        None | Some(RawDirection::From) => {
            let feed = Feed::Reference { collection: target, fields: to_fields.clone() };
            (own, Probe { fields: pairs(collection, &fields, other, &to_fields), feed, when })
        }
        Some(RawDirection::To) => {
            let feed = Feed::Reference { collection: own, fields: fields.clone() };
            (target, Probe { fields: pairs(other, &to_fields, collection, &fields), feed, when })
        }
    })
}

/// The field's normalisation, where it has any step.
fn explicit(collection: &Collection, field: &str) -> Option<Normalize> {
    normalize_of(collection, field).filter(|n| *n != Normalize::default())
}

/// The single primary key fields that are identities: (collection, field, kind).
fn key_identities(map: &DataMap) -> Vec<(usize, String, String)> {
    let key = |(i, c): (usize, &Collection)| match c.primary_key.as_slice() {
        [key] => c.fields.get(key).and_then(|f| f.identity.clone()).map(|kind| (i, key.clone(), kind)),
        _ => None,
    };
    map.collections.iter().enumerate().filter_map(key).collect()
}

/// A person who is found by e-mail has a customer number: records elsewhere that carry it are found too, without a reference being
/// written down.
fn keys(map: &DataMap, probes: &mut Vec<(usize, Probe)>) {
    for (source, key, kind) in key_identities(map) {
        for (i, collection) in map.collections.iter().enumerate().filter(|(i, _)| *i != source) {
            for field in collection.fields.values().filter(|f| f.identity.as_ref() == Some(&kind)) {
                let feed = Feed::Reference { collection: source, fields: vec![key.clone()] };
                probes.push((i, Probe { fields: vec![(field.name.clone(), field.normalize)], feed, when: None }));
            }
        }
    }
}

fn placeholders(compiler: &mut Compiler, map: &mut DataMap, sources: &[(&RawCollection, Place)]) {
    let keys = key_identities(map);
    let kinds: BTreeMap<String, Normalize> =
        map.collections.iter().flat_map(|c| c.fields.values()).filter_map(|f| Some((f.identity.clone()?, f.normalize))).collect();
    let composites: BTreeSet<&String> = sources.iter().flat_map(|(raw, _)| &raw.identities).map(|i| &i.name).collect();
    for (collection, (_, place)) in map.collections.iter_mut().zip(sources) {
        for (n, kind) in collection.entry.placeholders.iter().enumerate() {
            if composites.contains(kind) {
                let message =
                    format!("collection {}: {{{kind}}} is an identity of several fields; a path can carry a single one", collection.name);
                compiler.at(&place.to("entry"), message);
            }
            let known: Vec<&str> = kinds.keys().map(String::as_str).collect();
            if let Some(near) = closest(kind, &known).filter(|_| !kinds.contains_key(kind)) {
                let message =
                    format!("collection {}: no field has the identity kind {{{kind}}}; did you mean {{{near}}}?", collection.name);
                compiler.at(&place.to("entry"), message);
            }
            if let (Some(slot), Some(normalize)) = (collection.placeholder_normalize.get_mut(n), kinds.get(kind)) {
                *slot = *normalize;
            }
            let feeds = keys.iter().filter(|(_, _, k)| k == kind).map(|(i, field, _)| (kind.clone(), *i, field.clone()));
            collection.placeholder_feeds.extend(feeds);
        }
    }
}

/// Reports collections to whose records nothing leads.
fn reachable(compiler: &mut Compiler, map: &DataMap, sources: &[(&RawCollection, Place)]) {
    let mut reached: BTreeSet<usize> = BTreeSet::new();
    loop {
        let leads = |p: &Probe| match &p.feed {
            Feed::Identity(_) => true,
            Feed::Reference { collection, .. } => reached.contains(collection),
        };
        let scans = |c: &Collection| c.on_erase != OnErase::Delete && c.fields.values().any(|f| f.scan);
        let more: Vec<usize> = map
            .collections
            .iter()
            .enumerate()
            .filter(|(i, c)| !reached.contains(i) && (c.probes.iter().any(leads) || !c.entry.placeholders.is_empty() || scans(c)))
            .map(|(i, _)| i)
            .collect();
        if more.is_empty() {
            break;
        }
        reached.extend(more);
    }
    for (i, (collection, (_, place))) in map.collections.iter().zip(sources).enumerate() {
        if !reached.contains(&i) && collection.on_erase != OnErase::Preserve {
            let message = "unreachable: no identity, reference or placeholder leads to its records, so an erasure would never find them";
            compiler.at(place, format!("collection {} is {message}", collection.name));
        }
    }
}

/// The known word that somebody who wrote this probably meant.
pub fn closest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = written.to_lowercase();
    let distance = |k: &&str| strsim::damerau_levenshtein(&lower, &k.to_lowercase());
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= (best.chars().count().max(lower.chars().count()) / 3).clamp(1, 3)).then_some(best)
}

impl DataMap {
    /// The identity kinds by which people can be found, and of how many values each is made.
    pub fn identity_kinds(&self) -> BTreeMap<String, usize> {
        let probes = self.collections.iter().flat_map(|c| &c.probes);
        let fields = probes.filter_map(|p| if let Feed::Identity(kind) = &p.feed { Some((kind.clone(), p.fields.len())) } else { None });
        let paths = self.collections.iter().flat_map(|c| &c.entry.placeholders).map(|kind| (kind.clone(), 1));
        paths.chain(fields).collect()
    }
}
