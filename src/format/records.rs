//! The one editor of all record formats: finds a person's records through identity blocks, or by reading where no block
//! covers a probe; applies what was decided; and checks afterwards, on the bytes, that nothing else changed.

use super::blocks::{Covers, covers_text, tokens};
use super::recut::Recut;
use super::text_filter::WantedText;
use super::{
    Applied, Decision, Disposition, EntryContent, EntryEditor, Found, Malformed, Marks, Mentions, NewPiece, NewValue, Record, RecordFormat,
    RecordKey, Scanned, cutter, has_alternative, names_column,
};
use crate::datamap::{Collection, DataMap, Normalize, Probe, TokenKey, Tokens, Value};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Everything decided about one record.
#[derive(Debug, Default)]
struct Fate {
    delete: bool,
    rewrite: BTreeMap<String, Vec<Option<NewValue>>>,
}

/// Finds and edits in one entry of a record format.
pub struct RecordsEditor<'k> {
    content: Arc<dyn EntryContent>,
    recut: Option<Arc<Recut>>,
    format: &'static dyn RecordFormat,
    key: &'k TokenKey,
    found: HashSet<(usize, RecordKey)>,
    cache: VecDeque<(usize, Arc<Vec<u8>>)>,
    cached: usize,
    /// Bytes of opened pieces kept for the next question.
    keep: usize,
    fell_back: bool,
    missing: BTreeSet<String>,
    malformed: BTreeMap<usize, u32>,
    /// By piece, once decided.
    fates: Option<BTreeMap<usize, BTreeMap<u32, Fate>>>,
}

impl<'k> RecordsEditor<'k> {
    /// `collection` is one of those that name the entry: its dialect serves where the entry was cut before the map named it and so
    /// has no identity blocks. Such an entry is read once, here. `memory`: bytes that reading may take.
    pub fn new(
        content: Arc<dyn EntryContent>,
        format: &'static dyn RecordFormat,
        collection: &Collection,
        key: &'k TokenKey,
        memory: u64,
    ) -> Result<RecordsEditor<'k>> {
        let mut content = content;
        let mut recut = None;
        if content.pieces() > 0 && content.marks(0)?.is_none() {
            let view = Arc::new(Recut::new(content, format, collection, cutter::max_record(memory))?);
            content = view.clone();
            recut = Some(view);
        }
        Ok(RecordsEditor {
            content,
            recut,
            format,
            key,
            found: HashSet::new(),
            cache: VecDeque::new(),
            cached: 0,
            // A little: opened chunks are kept below, for all entries.
            keep: usize::try_from(memory / 64).unwrap_or(usize::MAX),
            fell_back: false,
            missing: BTreeSet::new(),
            malformed: BTreeMap::new(),
            fates: None,
        })
    }

    fn piece(&mut self, index: usize) -> Result<Arc<Vec<u8>>> {
        if let Some((_, bytes)) = self.cache.iter().find(|(i, _)| *i == index) {
            return Ok(bytes.clone());
        }
        let bytes = self.content.piece(index)?;
        self.cached += bytes.len();
        self.cache.push_back((index, bytes.clone()));
        while self.cached > self.keep && self.cache.len() > 1 {
            if let Some((_, old)) = self.cache.pop_front() {
                self.cached -= old.len();
            }
        }
        Ok(bytes)
    }

    fn marks(&self, index: usize) -> Result<Arc<Marks>> {
        self.content.marks(index)?.ok_or_else(|| Error::damaged(self.content.path(), format!("piece {index} has no identity block")))
    }

    fn collection<'m>(&self, map: &'m DataMap, index: usize) -> Result<&'m Collection> {
        if self.fates.is_some() {
            return Err(Error::Refused("records were asked for after the decisions had been applied".into()));
        }
        map.collections.get(index).ok_or_else(|| Error::Refused(format!("the data map has no collection number {index}")))
    }

    /// Scans one piece for records that `hit` accepts and that were not found before; hands them out with all their values.
    fn search(
        &mut self,
        piece: usize,
        index: usize,
        collection: &Collection,
        fields: &[String],
        hit: &mut dyn FnMut(&Record<'_>) -> Result<bool>,
        out: &mut Vec<Found>,
    ) -> Result<()> {
        let context = self.marks(piece)?;
        let bytes = self.piece(piece)?;
        let path = self.content.path();
        let named = |e| cutter::named(e, &path);
        let mut hits: BTreeSet<u32> = BTreeSet::new();
        let found = &self.found;
        let scanned = self
            .format
            .scan(&context.context, &bytes, fields, &mut |record| {
                if !found.contains(&(index, RecordKey::Piece(piece, record.index))) && hit(record)? {
                    hits.insert(record.index);
                }
                Ok(Decision::Keep)
            })
            .map_err(named)?;
        self.malformed.insert(piece, scanned.malformed);
        if hits.is_empty() {
            return Ok(());
        }
        let mut all: Vec<String> = collection.fields.keys().cloned().collect();
        let probed = collection.probes.iter().flat_map(|p| p.fields.iter().map(|(f, _)| f));
        all.extend(probed.filter(|f| !collection.fields.contains_key(*f)).cloned().collect::<BTreeSet<_>>());
        let named_by_map = all.len();
        all.extend(self.format.unmapped(&context.context, &bytes, &all).map_err(named)?);
        self.format
            .scan(&context.context, &bytes, &all, &mut |record| {
                if hits.contains(&record.index) {
                    let key = RecordKey::Piece(piece, record.index);
                    let values = all.iter().zip(record.values).enumerate();
                    let values = values
                        .filter(|(i, (_, values))| *i < named_by_map || !values.is_empty())
                        .map(|(_, (name, values))| (name.clone(), values.iter().cloned().map(Value::into_owned).collect()))
                        .collect();
                    out.push(Found { collection: index, key, values });
                }
                Ok(Decision::Keep)
            })
            .map_err(named)?;
        for record in hits {
            self.found.insert((index, RecordKey::Piece(piece, record)));
        }
        Ok(())
    }
}

/// Whether a block has a wanted token among the rows of a probe.
fn any_wanted(marks: &Marks, probe: u16, wanted: &dyn Tokens) -> bool {
    marks.of_probe(probe).any(|row| wanted.contains_short(row.short()))
}

impl RecordsEditor<'_> {
    /// A piece as the decisions about it leave it, checked; `None` when that is as it was.
    fn edited(&mut self, piece: usize, fates: Option<&BTreeMap<u32, Fate>>) -> Result<Option<Vec<u8>>> {
        let Some(fates) = fates else { return Ok(None) };
        let path = self.content.path();
        let marks = self.marks(piece)?;
        let old = self.piece(piece)?;
        let edit = edit(self.format, &marks.context, &old, fates).map_err(|e| cutter::named(e, &path))?;
        if let Some(new) = &edit.bytes {
            no_collateral(self.format, &marks.context, &old, new, fates).map_err(|e| match e {
                Error::Verification(detail) => Error::Verification(format!("{path}, piece {piece}: {detail}")),
                other => cutter::named(other, &path),
            })?;
        }
        Ok(edit.bytes)
    }

    /// Where the context names the columns, a probe's field must be one of them.
    fn note_missing(&mut self, probe: &Probe) -> Result<()> {
        if self.content.pieces() == 0 {
            return Ok(());
        }
        let Some(marks) = self.content.marks(0)? else { return Ok(()) };
        let columns = self.format.columns(&marks.context)?;
        if !columns.is_empty() {
            self.missing.extend(probe.fields.iter().filter(|(f, _)| !columns.contains(f)).map(|(f, _)| format!("column {f}")));
        }
        Ok(())
    }
}

impl EntryEditor for RecordsEditor<'_> {
    fn find(&mut self, map: &DataMap, index: usize, probe: &Probe, wanted: &dyn Tokens) -> Result<Vec<Found>> {
        let collection = self.collection(map, index)?;
        let mut out = Vec::new();
        if wanted.is_empty() {
            return Ok(out);
        }
        let key = probe.key(&collection.name);
        let covered = self.content.covers().iter().position(|c| *c == key).and_then(|p| u16::try_from(p).ok());
        self.fell_back |= covered.is_none() && self.content.pieces() > 0;
        self.note_missing(probe)?;

        let mut fields: Vec<String> = probe.fields.iter().map(|(f, _)| f.clone()).collect();
        let places: Vec<usize> = (0..fields.len()).collect();
        let normalize: Vec<Normalize> = probe.fields.iter().map(|(_, n)| *n).collect();
        fields.extend(probe.when.iter().flat_map(|e| e.fields()));
        let mut hit = |record: &Record<'_>| {
            let mut matches = false;
            tokens(wanted.key(), record.values, &places, &normalize, &mut |token| matches |= wanted.contains(&token));
            match &probe.when {
                Some(when) if matches => when.holds(&|name: &str| {
                    let at = fields.iter().position(|f| f == name)?;
                    Some(record.values.get(at)?.first().cloned().map_or(Value::Null, Value::into_owned))
                }),
                _ => Ok(matches),
            }
        };
        let candidates = match covered {
            Some(probe) => self.content.candidates(probe, wanted)?,
            None => (0..self.content.pieces()).collect(),
        };
        for piece in candidates {
            if let Some(probe) = covered
                && !any_wanted(self.marks(piece)?.as_ref(), probe, wanted)
            {
                continue;
            }
            self.search(piece, index, collection, &fields, &mut hit, &mut out)?;
        }
        Ok(out)
    }

    fn find_text(&mut self, map: &DataMap, index: usize, mentions: &dyn Mentions) -> Result<Vec<Found>> {
        let collection = self.collection(map, index)?;
        let fields: Vec<String> = collection.fields.values().filter(|f| f.scan).map(|f| f.name.clone()).collect();
        let mut out = Vec::new();
        if fields.is_empty() {
            return Ok(out);
        }
        let mut hit = |record: &Record<'_>| {
            Ok(record.values.iter().flatten().any(|value| match value {
                Value::Text(text) => !mentions.spans(text).is_empty(),
                _ => false,
            }))
        };
        let covered = covers_text(self.content.covers(), &fields);
        self.fell_back |= !covered && mentions.features().is_some() && self.content.pieces() > 0;
        let wanted = mentions.features().filter(|_| covered).map(|groups| WantedText::new(self.key, groups));
        let candidates = match &wanted {
            Some(wanted) => self.content.mentioning(wanted)?,
            None => (0..self.content.pieces()).collect(),
        };
        for piece in candidates {
            if let Some(wanted) = &wanted
                && !wanted.may_be_in(self.marks(piece)?.text.as_deref())
            {
                continue;
            }
            self.search(piece, index, collection, &fields, &mut hit, &mut out)?;
        }
        Ok(out)
    }

    /// The order of collections makes no difference here: records do not depend on each other.
    fn apply(&mut self, map: &DataMap, _order: &[usize], decided: &[(Found, Disposition)]) -> Result<Applied> {
        let mut applied = Applied::default();
        let mut fates: BTreeMap<usize, BTreeMap<u32, Fate>> = BTreeMap::new();
        for (found, disposition) in decided {
            self.collection(map, found.collection)?;
            let RecordKey::Piece(piece, record) = found.key else {
                return Err(Error::Refused("a decision about a table row was given to an entry that is no database".into()));
            };
            match disposition {
                Disposition::Keep => {}
                Disposition::Delete => {
                    fates.entry(piece).or_default().entry(record).or_default().delete = true;
                    *applied.deleted.entry(found.collection).or_default() += 1;
                }
                Disposition::Rewrite(fields) if fields.values().flatten().any(Option::is_some) => {
                    let fate = fates.entry(piece).or_default().entry(record).or_default();
                    for (name, new) in fields {
                        merge(fate.rewrite.entry(name.clone()).or_default(), new);
                    }
                    *applied.rewritten.entry(found.collection).or_default() += 1;
                }
                Disposition::Rewrite(_) => {}
            }
        }
        let path = self.content.path();
        if fates.keys().any(|piece| *piece >= self.content.pieces()) {
            return Err(Error::format(&path, "a decision was made about a piece that does not exist"));
        }
        let malformed: u32 = self.malformed.values().sum();
        if malformed > 0 {
            applied.notes.push(format!(
                "{path}: {malformed} records could not be read as {}: kept, and nobody can be found in them",
                self.format.name()
            ));
        }
        self.fates = Some(fates);
        Ok(applied)
    }

    fn finish_into(mut self: Box<Self>, out: &mut dyn FnMut(NewPiece) -> Result<()>) -> Result<()> {
        let fates = self.fates.take().unwrap_or_default();
        // What is needed of these is one piece at a time, in order.
        (self.found, self.keep) = (HashSet::new(), 0);
        if let Some(recut) = self.recut.clone() {
            return recut.put_back(&fates.keys().copied().collect(), &mut |part| self.edited(part, fates.get(&part)), out);
        }
        let unknown = || Error::damaged(self.content.path(), "it covers something that is no probe");
        let covers = Covers::of_keys(self.content.covers()).ok_or_else(unknown)?;
        for (piece, fates) in &fates {
            let Some(bytes) = self.edited(*piece, Some(fates))? else { continue };
            let context = self.marks(*piece)?;
            let (marks, _) = covers.block(self.format, &context.context, &bytes, self.key)?;
            out(NewPiece { replaces: *piece..*piece + 1, bytes, marks: Some(marks) })?;
        }
        Ok(())
    }

    fn fell_back(&self) -> bool {
        self.fell_back
    }

    fn missing(&self) -> Vec<String> {
        self.missing.iter().cloned().collect()
    }

    fn malformed(&mut self) -> Result<Malformed> {
        if self.recut.is_none() {
            return self.content.malformed().map(Malformed::Pieces);
        }
        for piece in 0..self.content.pieces() {
            let (context, bytes) = (self.marks(piece)?, self.piece(piece)?);
            let scanned = self.format.scan(&context.context, &bytes, &[], &mut |_| Ok(Decision::Keep));
            if scanned.map_err(|e| cutter::named(e, &self.content.path()))?.malformed > 0 {
                return Ok(Malformed::Anywhere);
            }
        }
        Ok(Malformed::Pieces(Vec::new()))
    }

    fn may_hide(&mut self, map: &DataMap, index: usize, probe: &Probe) -> Result<Option<String>> {
        let collection = self.collection(map, index)?;
        if self.content.pieces() == 0 {
            return Ok(None);
        }
        let Some(marks) = self.content.marks(0)? else { return Ok(None) };
        let columns = self.format.columns(&marks.context)?;
        let has = |field: &str| columns.iter().any(|c| c == field);
        let absent: Vec<&str> = probe.fields.iter().map(|(f, _)| f.as_str()).filter(|f| !has(f)).collect();
        if columns.is_empty() || absent.is_empty() || has_alternative(collection, probe, &has) {
            return Ok(None);
        }
        let unnamed = columns.iter().any(|c| !names_column(collection, c, &|a, b| a == b));
        Ok(unnamed.then(|| format!("column {}", absent.join(", "))))
    }
}

/// Two collections may have decided about the same field: what either rewrites is rewritten.
fn merge(old: &mut Vec<Option<NewValue>>, new: &[Option<NewValue>]) {
    old.resize(old.len().max(new.len()), None);
    for (old, new) in old.iter_mut().zip(new) {
        if new.is_some() {
            old.clone_from(new);
        }
    }
}

/// One scan that applies all decisions about a piece.
fn edit(format: &dyn RecordFormat, context: &[u8], old: &[u8], fates: &BTreeMap<u32, Fate>) -> Result<Scanned> {
    let fields = rewritten_fields(fates);
    let mut met = 0;
    let scanned = format.scan(context, old, &fields, &mut |record| {
        let Some(fate) = fates.get(&record.index) else { return Ok(Decision::Keep) };
        met += 1;
        if fate.delete {
            return Ok(Decision::Delete);
        }
        let changes = fate.rewrite.iter().filter_map(|(name, new)| Some((fields.binary_search(name).ok()?, new.clone()))).collect();
        Ok(Decision::Rewrite(changes))
    })?;
    if met == fates.len() { Ok(scanned) } else { Err(Error::format("", "a decision was made about a record that does not exist")) }
}

/// Sorted, each once.
fn rewritten_fields(fates: &BTreeMap<u32, Fate>) -> Vec<String> {
    let names: BTreeSet<&String> = fates.values().flat_map(|f| f.rewrite.keys()).collect();
    names.into_iter().cloned().collect()
}

/// The check that an edit did what was decided and nothing else, on the bytes, by reading both sides anew:
/// every byte outside the touched records is the same and in the same place, records are fewer by exactly those deleted, rewritten
/// records have the new values, and their other fields the old ones.
fn no_collateral(format: &dyn RecordFormat, context: &[u8], old: &[u8], new: &[u8], fates: &BTreeMap<u32, Fate>) -> Result<()> {
    let failed = |what: &str| Error::Verification(format!("after the edit {what}; nothing was changed"));
    let rewritten = rewritten_fields(fates);
    let others = format.unmapped(context, old, &rewritten)?;

    // The old side: records by place, and the other values of those rewritten.
    let mut records: Vec<(Range<usize>, Range<usize>, u32)> = Vec::new();
    let mut kept_values: VecDeque<(u32, Vec<Vec<Value<'static>>>)> = VecDeque::new();
    format.scan(context, old, &others, &mut |record| {
        records.push((record.span.clone(), record.content.clone(), record.index));
        if fates.get(&record.index).is_some_and(|f| !f.delete) {
            kept_values.push_back((record.index, owned(record.values)));
        }
        Ok(Decision::Keep)
    })?;

    // The new side: contents by place, and what rewritten records say now.
    let survivors: Vec<u32> = records.iter().map(|r| r.2).filter(|i| !fates.get(i).is_some_and(|f| f.delete)).collect();
    let mut contents: Vec<Range<usize>> = Vec::new();
    let mut fields = others.clone();
    fields.extend(rewritten.iter().cloned());
    format.scan(context, new, &fields, &mut |record| {
        let origin = survivors.get(contents.len()).ok_or_else(|| failed("there are more records than should be left"))?;
        contents.push(record.content.clone());
        if let Some(fate) = fates.get(origin) {
            let (before, after) = record.values.split_at(others.len().min(record.values.len()));
            let unchanged = kept_values.pop_front().is_some_and(|(index, values)| index == *origin && values == before);
            if !unchanged {
                return Err(failed("a rewritten record differs in a field that was to stay"));
            }
            for (name, values) in rewritten.iter().zip(after) {
                if fate.rewrite.get(name).is_some_and(|wanted| !says(values, wanted)) {
                    return Err(failed("a rewritten field does not have its new value"));
                }
            }
        }
        Ok(Decision::Keep)
    })?;
    if contents.len() != survivors.len() {
        return Err(failed("there are fewer records than should be left"));
    }

    // Both sides, byte by byte, touched records left out.
    let (mut from, mut at) = (0, 0);
    let mut contents = contents.into_iter();
    let same = |from: Range<usize>, at: &mut usize| {
        let bytes = old.get(from).unwrap_or_default();
        let end = *at + bytes.len();
        let same = new.get(*at..end) == Some(bytes);
        *at = end;
        same
    };
    for (span, content, index) in records {
        let fate = fates.get(&index);
        let mut good = same(from..span.start, &mut at);
        from = span.end;
        if fate.is_some_and(|f| f.delete) {
            if !good {
                return Err(failed("bytes between records differ"));
            }
            continue;
        }
        good &= same(span.start..content.start, &mut at);
        let now = contents.next().unwrap_or_default();
        good &= now.start == at;
        if fate.is_some() {
            at = now.end;
        } else {
            good &= same(content.clone(), &mut at) && now.end == at;
        }
        good &= same(content.end..span.end, &mut at);
        if !good {
            return Err(failed("bytes of records that were to stay differ"));
        }
    }
    if same(from..old.len(), &mut at) && at == new.len() { Ok(()) } else { Err(failed("bytes behind the last record differ")) }
}

fn owned(values: &[Vec<Value<'_>>]) -> Vec<Vec<Value<'static>>> {
    values.iter().map(|v| v.iter().cloned().map(Value::into_owned).collect()).collect()
}

/// Whether a field's values now are those wanted. No values at all: something around the field was replaced as a whole.
fn says(values: &[Value<'_>], wanted: &[Option<NewValue>]) -> bool {
    values.is_empty()
        || values.len() == wanted.len()
            && values.iter().zip(wanted).all(|(value, wanted)| match wanted {
                None => true,
                Some(NewValue::Null) => value.canonical().is_none(),
                Some(NewValue::Text(text)) => value.canonical().unwrap_or_default() == text.as_str(),
            })
}

#[cfg(test)]
mod tests;
