//! What the identity blocks of an entry of records are made from, and making them: tokens for every probe of the data map, and the
//! filter over the texts that are searched for mentions.
//!
//! An entry keeps the list of what its blocks cover ([`crate::repository::entry::Mapped::covers`]), so that a search knows whether to
//! trust them and an edit can make the same blocks again when the map that asked for them is long gone.

use super::text_filter::{TextFilter, TextKey};
use super::{Decision, MarkRow, Marks, RecordFormat, Scanned};
use crate::datamap::{DataMap, Normalize, Token, TokenKey, Value};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// The fields that a probe reads, and how each is normalised.
pub type ProbeFields = Vec<(String, Normalize)>;

/// Prefix of the entry in `covers` that is no probe but lists the searched text: here as a JSON array of fields.
pub const TEXT: &str = "#text:";

/// What identity blocks cover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Covers {
    keys: Vec<String>,
    probes: Vec<ProbeFields>,
    /// Fields whose texts are in the filter; `None`: there is no filter.
    text: Option<Vec<String>>,
}

impl Covers {
    /// For what the map asks of these collections of one entry: every distinct probe in a fixed order, then the text.
    pub fn of_map(map: &DataMap, collections: &[usize]) -> Covers {
        let mut out = Covers::default();
        let mut text: BTreeSet<&String> = BTreeSet::new();
        for collection in collections.iter().filter_map(|index| map.collections.get(*index)) {
            for probe in &collection.probes {
                let key = probe.key(&collection.name);
                if !out.keys.contains(&key) {
                    out.keys.push(key);
                    out.probes.push(probe.fields.clone());
                }
            }
            text.extend(collection.fields.values().filter(|f| f.scan).map(|f| &f.name));
        }
        if !text.is_empty() {
            let text: Vec<String> = text.into_iter().cloned().collect();
            out.keys.push(text_key(&text));
            out.text = Some(text);
        }
        out
    }

    /// For what an archived entry's blocks cover; `None` when that holds something unknown.
    pub fn of_keys(keys: &[String]) -> Option<Covers> {
        let mut out = Covers { keys: keys.to_vec(), ..Covers::default() };
        for key in keys {
            match key.strip_prefix(TEXT) {
                // The rows of the blocks count probes, so nothing else may stand before one.
                Some(list) if out.text.is_none() => out.text = Some(serde_json::from_str(list).ok()?),
                None if out.text.is_none() => out.probes.push(covered_fields(key)?),
                _ => return None,
            }
        }
        Some(out)
    }

    /// For [`crate::repository::entry::Mapped::covers`].
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Makes the identity block of a piece. Also tells what the scan saw: malformed records have no tokens, so a backup must report them.
    pub fn block(&self, format: &dyn RecordFormat, context: &[u8], piece: &[u8], key: &TokenKey) -> Result<(Marks, Scanned)> {
        let probed = self.probes.iter().flatten().map(|(name, _)| name);
        let names: BTreeSet<&String> = probed.chain(self.text.iter().flatten()).collect();
        let fields: Vec<String> = names.into_iter().cloned().collect();
        let mut wanted: Vec<(u16, Vec<usize>, Vec<Normalize>)> = Vec::new();
        for (index, probe) in self.probes.iter().enumerate() {
            let number = u16::try_from(index).map_err(|_| Error::Refused("an entry has more than 65536 probes".into()))?;
            let places = probe.iter().filter_map(|(name, _)| fields.binary_search(name).ok()).collect();
            wanted.push((number, places, probe.iter().map(|(_, n)| *n).collect()));
        }
        let text_key = TextKey::new(key);
        let mut filter = self.text.as_ref().map(|_| TextFilter::new(&text_key));
        let texts: Vec<usize> = self.text.iter().flatten().filter_map(|name| fields.binary_search(name).ok()).collect();
        // By probe, so that each list comes sorted but for the few records with several values.
        let mut rows: Vec<Vec<MarkRow>> = vec![Vec::new(); wanted.len()];
        let scanned = format.scan(context, piece, &fields, &mut |record| {
            for ((probe, places, normalize), rows) in wanted.iter().zip(&mut rows) {
                tokens(key, record.values, places, normalize, &mut |token| {
                    rows.push(MarkRow { probe: *probe, record: i64::from(record.index), token: token.long() });
                });
            }
            if let Some(filter) = &mut filter {
                for value in texts.iter().filter_map(|at| record.values.get(*at)).flatten() {
                    if let Value::Text(text) = value {
                        filter.add(text);
                    }
                }
            }
            Ok(Decision::Keep)
        })?;
        for rows in &mut rows {
            rows.sort();
            rows.dedup();
        }
        let text = filter.and_then(|f| f.finish(piece.len()));
        Ok((
            Marks { context: context.to_vec(), records: scanned.records, rows: rows.concat(), text, malformed: scanned.malformed },
            scanned,
        ))
    }
}

fn text_key(fields: &[String]) -> String {
    format!("{TEXT}{}", serde_json::Value::from(fields))
}

/// Whether the filters of blocks that cover this speak for all of these fields.
pub(super) fn covers_text(covers: &[String], fields: &[String]) -> bool {
    let list = covers.iter().find_map(|key| key.strip_prefix(TEXT));
    list.and_then(|l| serde_json::from_str::<Vec<String>>(l).ok()).is_some_and(|list| fields.iter().all(|f| list.contains(f)))
}

/// The fields of a covered probe, from its key alone: the map that made the block may be long gone. `None` for what is no such key.
pub fn covered_fields(key: &str) -> Option<ProbeFields> {
    let (_, body) = key.split_once('(')?;
    let mut fields = Vec::new();
    let mut name = String::new();
    // A field's name may hold commas and colons; its end is where known steps follow the last colon.
    for part in body.strip_suffix(')')?.split(',') {
        name.push_str(part);
        match name.rsplit_once(':').and_then(|(field, steps)| Some((field.to_string(), normalize(steps)?))) {
            Some(field) => {
                fields.push(field);
                name.clear();
            }
            None => name.push(','),
        }
    }
    (name.is_empty() && !fields.is_empty()).then_some(fields)
}

fn normalize(steps: &str) -> Option<Normalize> {
    Normalize::all().find(|n| n.to_string() == steps)
}

/// Calls `each` with the tokens of a record for a probe.
pub(super) fn tokens(key: &TokenKey, values: &[Vec<Value<'_>>], places: &[usize], normalize: &[Normalize], each: &mut dyn FnMut(Token)) {
    match (places, normalize) {
        ([place], [normalize]) => {
            let values = values.get(*place).map(Vec::as_slice).unwrap_or_default();
            values.iter().filter_map(|v| key.of_value(v, *normalize)).for_each(each);
        }
        _ => {
            let components: Vec<Vec<Value<'_>>> = places.iter().map(|p| values.get(*p).cloned().unwrap_or_default()).collect();
            key.of_fields(&components, normalize).into_iter().for_each(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datamap::{Feed, Probe};

    #[test]
    fn covered_fields_are_read_back_from_their_key() {
        let lower = Normalize { nfc: true, trim: true, lower: true, digits: false };
        for fields in [vec!["email"], vec!["last, first", "a:raw b"], vec!["x(y)", "items[].id"]] {
            let fields: ProbeFields = fields.into_iter().map(|f| (f.to_string(), lower)).collect();
            let probe = Probe { feed: Feed::Identity("any".into()), fields, when: None };
            assert_eq!(covered_fields(&probe.key("a collection")).unwrap(), probe.fields);
        }
        for bad in ["", "x", "x()", "x(a)", "x(a:raw", "x(a:raw,)", "x(a:raw,b)", "x(a:lower+nfc)"] {
            assert_eq!(covered_fields(bad), None, "{bad}");
        }
    }

    #[test]
    fn covered_text_is_read_back_from_its_key() {
        let names = ["a".to_string(), "b\"c, d]".to_string()];
        let keys = ["t(a:raw)".to_string(), text_key(&names)];
        assert_eq!(keys[1], r##"#text:["a","b\"c, d]"]"##);
        let covers = Covers::of_keys(&keys).unwrap();
        assert_eq!((covers.text.as_deref(), covers.probes.len(), covers.keys()), (Some(names.as_slice()), 1, keys.as_slice()));
        assert!(covers_text(&keys, &names) && !covers_text(&keys, &["c".to_string()]) && !covers_text(&keys[..1], &names));
        for bad in [vec!["#text:"], vec!["#text:[1]"], vec!["#text:[]", "t(a:raw)"], vec!["#text:[]", "#text:[]"], vec!["#other"]] {
            let bad: Vec<String> = bad.into_iter().map(String::from).collect();
            assert_eq!(Covers::of_keys(&bad), None, "{bad:?}");
        }
    }
}
