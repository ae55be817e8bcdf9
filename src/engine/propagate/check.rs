//! Verifying a re-sealed archive through the ordinary read path, before the old generation goes.
//!
//! - **absence**: the decoded bytes of the changed chunks (or of all chunks) hold no variant of any identity, and the search that found the
//!   person's records finds none but those that were kept on a ground;
//! - **no collateral**: every entry that was not edited is the same, every piece that was not edited is the same.
//!
//! Anything that was not checked to the end is UNKNOWN.

use super::People;
use super::plan::{Searched, search};
use crate::config;
use crate::datamap::Action;
use crate::engine::archive::OpenArchive;
use crate::engine::edit::{ArchiveEdit, EditedPiece, edited_entries, edited_pieces};
use crate::engine::event::Verdict;
use crate::engine::session::{Session, View};
use crate::format::variants::{Limits, VariantSearch};
use crate::format::{Disposition, Found, NewValue};
use crate::repository::entry::{ChunkId, Entry, Role};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How much is searched for what is left of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The chunks that the erasure changed, and every record by its identity blocks.
    #[default]
    Changed,
    /// Every data chunk of every archive.
    Full,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Scope::Changed => "changed",
            Scope::Full => "full",
        })
    }
}

/// What a check found.
pub struct Checked {
    /// The verdict.
    pub verdict: Verdict,
    /// What does not fit; no values.
    pub problems: Vec<String>,
    /// For the certificate.
    pub notes: Vec<String>,
}

/// What was found in a chunk, before it is known whether it may stand there.
pub struct ChunkSearch {
    /// Index of the value, and its variant.
    found: Vec<(usize, &'static str)>,
    /// A value was seen with letters beside it.
    beside: bool,
    /// Not everything packed in it could be looked into.
    incomplete: bool,
}

/// Chunks that were searched for the same people: archives share most of theirs, and what stands in one stands in every archive that has it.
pub type Searches = HashMap<ChunkId, ChunkSearch>;

/// Fails unless the new generation is the old one with exactly the edit applied. `new` must be read back from the store.
pub fn no_collateral(old: &OpenArchive, new: &OpenArchive, edit: &ArchiveEdit) -> Result<()> {
    let differs = |path: &str| Error::Verification(format!("{path} of the new generation is not what the edit makes of the old one"));
    let mut stored = new.entries();
    let mut count = 0u64;
    edited_entries(old, edit, |expected, change| {
        count += 1;
        let name = expected.display_path();
        let actual = stored.next().ok_or_else(|| differs(&name))??;
        match change {
            None if actual == expected => Ok(()),
            None => Err(differs(&name)),
            Some(change) => {
                let same = Entry { content: None, size: 0, edited: true, mapped: None, ..actual.clone() }
                    == Entry { content: None, size: 0, edited: true, mapped: None, ..expected.clone() };
                let refs = new.refs(&actual)?;
                let pieces = edited_pieces(&old.refs(&expected)?, change)?;
                if !same || refs.len() != pieces.len() {
                    return Err(differs(&name));
                }
                for (r, piece) in refs.iter().zip(pieces) {
                    let fits = match piece {
                        EditedPiece::Kept(kept) => kept == *r,
                        EditedPiece::New(piece) => *new.reader.read(&r.id, Role::Data)? == piece.bytes,
                    };
                    if !fits {
                        return Err(differs(&name));
                    }
                }
                Ok(())
            }
        }
    })?;
    if stored.next().is_some() || new.head.entry_count != count {
        return Err(Error::Verification("the new generation has other entries than the edit leaves".into()));
    }
    Ok(())
}

/// Searches a generation as stored for what is left of the people. `before` is the generation that it replaces: what both share was
/// not changed.
#[allow(clippy::too_many_arguments)]
pub fn absence(
    session: &Session,
    config: &config::Dataset,
    view: &View,
    archive: &OpenArchive,
    before: Option<&OpenArchive>,
    people: &People,
    scope: Scope,
    known: &mut Searches,
) -> Result<Checked> {
    let mut checked = Checked { verdict: Verdict::Pass, problems: Vec::new(), notes: Vec::new() };
    let mut again = search(session, config, view, archive, people)?;
    for (entry, why) in &again.matches.failed {
        checked.verdict = checked.verdict.and(Verdict::Unknown);
        checked.problems.push(format!("{entry} could not be searched: {why}"));
    }
    for d in &again.decided {
        let Some(m) = again.matches.records.get(d.index) else { continue };
        if d.ground.is_none() && needs_change(config, &d.disposition, &m.found) {
            checked.verdict = Verdict::Failed;
            let collection = &config.map.collections[m.found.collection].name;
            checked.problems.push(format!("{}: a record of {collection} is still the person's", again.bound[m.entry].entry.display_path()));
        }
    }
    if !again.matches.paths.is_empty() {
        checked.verdict = Verdict::Failed;
        checked.problems.push(format!("{} entries still carry the person's identity in their path", again.matches.paths.len()));
    }
    checked.problems.sort();
    checked.problems.dedup();
    let raw = people.raw_values();
    let values: Vec<String> = raw.iter().map(|(_, v)| v.clone()).collect();
    let searcher = VariantSearch::new(&values)?;
    if !searcher.too_short().is_empty() {
        checked.notes.push(format!(
            "{} identity value(s) are too short to search bytes for; their absence is checked record by record",
            searcher.too_short().len()
        ));
    }
    let allowed = kept_values(config, &again, &values);
    let chosen = chunks_to_search(archive, before, scope)?;
    let mut hits: BTreeMap<(String, &'static str), u64> = BTreeMap::new();
    // Entries where a value was seen with letters beside it: in text a part of somebody else's, in a database perhaps the next column.
    let mut crowded: BTreeSet<String> = BTreeSet::new();
    for (path, id) in chosen {
        session.env.stop.check("nothing was removed yet; run the same command again")?;
        if !known.contains_key(&id) {
            let bytes = view.reader.read(&id, Role::Data)?;
            let nested = searcher.search_nested(&bytes, Limits::default());
            let all = searcher.search(&bytes).into_iter().chain(nested.hits.into_iter().map(|n| n.hit));
            let (beside, found): (Vec<_>, Vec<_>) = all.partition(|hit| hit.inside_word);
            let found = found.into_iter().map(|hit| (hit.value_index, hit.variant)).collect();
            known.insert(id, ChunkSearch { found, beside: !beside.is_empty(), incomplete: nested.incomplete });
        }
        let Some(chunk) = known.get(&id) else { continue };
        if chunk.incomplete {
            checked.notes.push(format!("{path}: packed members were too deep or too large to be searched to the end"));
        }
        if chunk.beside {
            crowded.insert(path.clone());
        }
        for (value, variant) in &chunk.found {
            if !allowed.contains(&(path.clone(), *value)) {
                *hits.entry((path.clone(), *variant)).or_default() += 1;
            }
        }
    }
    for bound in again.bound.iter_mut() {
        let path = bound.entry.display_path();
        let (true, Ok(editor)) = (crowded.contains(&path), &mut bound.editor) else { continue };
        editor.visit_values(&mut |value| {
            for hit in searcher.search(value) {
                if !hit.inside_word && !allowed.contains(&(path.clone(), hit.value_index)) {
                    *hits.entry((path.clone(), "value")).or_default() += 1;
                }
            }
        })?;
    }
    for ((path, variant), n) in hits {
        checked.verdict = Verdict::Failed;
        checked
            .problems
            .push(format!("{path}: an identity of the person stands in {n} place(s) ({variant}) that no rule of the data map reaches"));
    }
    if !allowed.is_empty() {
        checked.notes.push("identities remain in records that are kept on a ground".into());
    }
    Ok(checked)
}

/// Whether a record found again would still be changed: a rewrite that would write what stands there, or that already was done, is not one.
pub fn needs_change(config: &config::Dataset, disposition: &Disposition, found: &Found) -> bool {
    let collection = &config.map.collections[found.collection];
    match disposition {
        Disposition::Keep => false,
        Disposition::Delete => true,
        Disposition::Rewrite(fields) => fields.iter().any(|(name, new)| {
            let action = collection.fields.get(name).and_then(|f| f.action.as_ref());
            let values = found.values.get(name).map(Vec::as_slice).unwrap_or_default();
            new.iter().zip(values).any(|(n, v)| match n {
                None => false,
                Some(NewValue::Null) => v.canonical().is_some(),
                Some(NewValue::Text(t)) => !v.canonical().is_some_and(|c| c == t.as_str() || looks_made(action, &c)),
            })
        }),
    }
}

/// Whether a value has the form that a strategy's own output has: random values cannot be compared with what would be made now.
fn looks_made(action: Option<&Action>, value: &str) -> bool {
    match action {
        Some(Action::RandomStringRewrite { length, suffix }) => value
            .strip_suffix(suffix.as_str())
            .is_some_and(|random| random.chars().count() == *length && random.bytes().all(|b| b.is_ascii_alphanumeric())),
        Some(Action::Hmac) => value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()),
        _ => false,
    }
}

/// (entry, value index) pairs that may be found, because a record that holds the value is kept on a ground.
fn kept_values(config: &config::Dataset, searched: &Searched<'_>, values: &[String]) -> BTreeSet<(String, usize)> {
    let mut out = BTreeSet::new();
    for d in &searched.decided {
        let Some(m) = searched.matches.records.get(d.index) else { continue };
        if d.ground.is_none() && needs_change(config, &d.disposition, &m.found) {
            continue;
        }
        let texts: Vec<String> = m.found.values.values().flatten().filter_map(|v| v.canonical().map(|t| t.to_lowercase())).collect();
        for (i, value) in values.iter().enumerate() {
            let value = value.trim().to_lowercase();
            if texts.iter().any(|t| t.contains(&value)) {
                out.insert((searched.bound[m.entry].entry.display_path(), i));
            }
        }
    }
    out
}

fn chunks_to_search(archive: &OpenArchive, before: Option<&OpenArchive>, scope: Scope) -> Result<Vec<(String, ChunkId)>> {
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    let mut old: HashMap<Vec<u8>, Entry> = HashMap::new();
    if let (Scope::Changed, Some(before)) = (scope, before) {
        for entry in before.entries() {
            let entry = entry?;
            if entry.mapped.is_some() || entry.content.is_some() && entry.edited {
                old.insert(entry.path.clone(), entry);
            }
        }
    }
    for entry in archive.entries() {
        let entry = entry?;
        let mut shared = HashSet::new();
        if scope == Scope::Changed {
            match (&before, old.get(&entry.path)) {
                _ if !entry.edited => continue,
                (Some(_), Some(o)) if o.content == entry.content => continue,
                (Some(before), Some(o)) => shared.extend(before.refs(o)?.into_iter().map(|r| r.id)),
                _ => {}
            }
        }
        let path = entry.display_path();
        for r in archive.refs(&entry)? {
            if !shared.contains(&r.id) && seen.insert(r.id) {
                out.push((path.clone(), r.id));
            }
        }
    }
    Ok(out)
}

/// Searches bytes for plain values; for other parts of the product (drills, the residue test).
pub fn absence_in(bytes: &[u8], values: &[String]) -> bool {
    VariantSearch::new(values).is_ok_and(|s| !s.found_in(bytes) && s.search_nested(bytes, Limits::default()).hits.is_empty())
}
