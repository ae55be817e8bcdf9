//! Verifying a re-sealed archive through the ordinary read path, before the old generation goes.
//!
//! - **no collateral** ([`no_collateral`]): every entry and piece that was not edited is the same, every edited one is what the edit made;
//! - **absence** ([`absence`]): the search that found the person's records finds none but those kept on a ground; names, links and attributes
//!   of entries do not carry an identity; and the decoded bytes hold no variant of any identity.
//!
//! Anything that was not checked to the end is UNKNOWN.

use super::People;
use super::bytes::{ByteSearch, Finds};
use super::plan::{Searched, search};
use crate::config;
use crate::datamap::Action;
use crate::engine::archive::{OpenArchive, PieceSource};
use crate::engine::edit::{ArchiveEdit, EditedPiece, Walked, edited_chunks, edited_pieces};
use crate::engine::event::Verdict;
use crate::engine::matching::open_database;
use crate::engine::session::{Session, View};
use crate::format::{Disposition, Found, Malformed, NewValue};
use crate::repository::entry::{ChunkId, Entry, EntryKind, Role};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

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

impl Checked {
    fn problem(&mut self, verdict: Verdict, text: String) {
        self.verdict = self.verdict.and(verdict);
        self.problems.push(text);
    }
}

/// Fails unless the new generation is the old one with exactly the edit applied. `new` must be read back from the store.
/// `read_back` are the chunks of the run that were read already.
pub fn no_collateral(old: &OpenArchive, new: &OpenArchive, edit: &ArchiveEdit, read_back: &Mutex<HashSet<ChunkId>>) -> Result<()> {
    let known = || read_back.lock().unwrap_or_else(PoisonError::into_inner);
    let differs = |entry: &Entry| {
        Error::Verification(format!("{} of the new generation is not what the edit makes of the old one", entry.display_path()))
    };
    let mut stored = new.shared_entries();
    let mut count = 0u64;
    edited_chunks(old, edit, |walked| {
        let (expected, change) = match walked {
            Walked::Same(chunk, _) => {
                count += chunk.entries.len() as u64;
                // The same list chunk: nothing to compare.
                if stored.passes(&chunk.reference.id) {
                    return Ok(());
                }
                for expected in chunk.entries.iter() {
                    if stored.next().transpose()?.as_ref() != Some(expected) {
                        return Err(differs(expected));
                    }
                }
                return Ok(());
            }
            Walked::Entry(expected, change) => (expected, change),
        };
        count += 1;
        let actual = stored.next().transpose()?.ok_or_else(|| differs(&expected))?;
        match change {
            None if actual == expected => Ok(()),
            None => Err(differs(&expected)),
            Some(change) => {
                let same = Entry { content: None, size: 0, edited: true, mapped: None, ..(*actual).clone() }
                    == Entry { content: None, size: 0, edited: true, mapped: None, ..(*expected).clone() };
                if !same {
                    return Err(differs(&expected));
                }
                let mut refs = new.each_ref(&actual);
                edited_pieces(old.each_ref(&expected), change, |piece| {
                    let actual = refs.next().ok_or_else(|| differs(&expected))??;
                    let fits = match piece {
                        EditedPiece::Kept(kept) => kept == actual,
                        // A chunk's name is a keyed hash of its bytes, and a reader hands out nothing else. Read once, for all archives.
                        EditedPiece::Made(PieceSource::Stored(made)) => {
                            // Looked up first: within the condition the lock would be held while reading, and the other threads wait.
                            let seen = known().contains(&actual.id);
                            let fits = *made == actual && (seen || new.reader.read(&actual.id, Role::Data)?.len() as u64 == actual.len);
                            if fits && !seen {
                                known().insert(actual.id);
                            }
                            fits
                        }
                        EditedPiece::Made(PieceSource::Fresh(_)) => false,
                    };
                    if fits { Ok(()) } else { Err(differs(&expected)) }
                })?;
                if refs.next().is_some() { Err(differs(&expected)) } else { Ok(()) }
            }
        }
    })?;
    if stored.next().transpose()?.is_some() || new.head.entry_count != count {
        return Err(Error::Verification("the new generation has other entries than the edit leaves".into()));
    }
    Ok(())
}

/// Searches a generation as stored for what is left of the people. `before` is the generation that it replaces: what both share was
/// not changed. Without one, nothing was changed and only records and names are searched (unless the scope is full). `lacked`: what entries
/// did not have when the edit's own search asked for it. Once the records that led there are gone nobody asks again.
#[allow(clippy::too_many_arguments)]
pub fn absence(
    session: &Session,
    config: &config::Dataset,
    view: &View,
    archive: &OpenArchive,
    before: Option<&OpenArchive>,
    lacked: &[(Vec<u8>, Vec<String>)],
    people: &People,
    bytes: &mut ByteSearch,
) -> Result<Checked> {
    let mut checked = Checked { verdict: Verdict::Pass, problems: Vec::new(), notes: Vec::new() };
    let mut again = search(session, config, view, archive, people, bytes.scope())?;
    for (entry, why) in &again.matches.failed {
        checked.problem(Verdict::Unknown, format!("{entry} could not be searched: {why}"));
    }
    for hidden in again.matches.hidden.iter().filter(|h| !h.plain) {
        checked.problem(Verdict::Unknown, hidden.describe());
    }
    for d in &again.decided {
        let Some(m) = again.matches.records.get(d.index) else { continue };
        if d.ground.is_none() && needs_change(config, &d.disposition, &m.found) {
            let collection = &config.map.collections[m.found.collection].name;
            checked.problem(
                Verdict::Failed,
                format!("{}: a record of {collection} is still the person's", again.bound[m.entry].entry.display_path()),
            );
        }
    }
    if !again.matches.paths.is_empty() {
        checked.problem(Verdict::Failed, format!("{} entries still carry the person's identity in their path", again.matches.paths.len()));
    }
    let allowed = kept_values(config, &again, bytes.values());
    if !bytes.too_short().is_empty() {
        checked.notes.push(format!(
            "{} identity value(s) are too short to search bytes for; their absence is checked record by record",
            bytes.too_short().len()
        ));
    }
    names(archive, bytes, &mut checked)?;
    let mut missing: HashMap<Vec<u8>, BTreeSet<String>> = HashMap::new();
    for (path, what) in again.matches.missing.iter().chain(lacked) {
        missing.entry(path.clone()).or_default().extend(what.iter().cloned());
    }
    let mut finds: BTreeMap<(String, &'static str), u64> = BTreeMap::new();
    let mut chosen = to_search(archive, before, bytes.scope(), &missing)?;
    unreadable_records(archive, people, bytes, &mut again, &mut chosen, &mut checked)?;
    for chosen in chosen {
        session.env.stop.check("nothing was removed yet; run the same command again")?;
        let path = chosen.entry.display_path();
        let Finds { hits, incomplete, unclear } = bytes.search(archive, &chosen.entry, chosen.chunks.as_ref())?;
        for hit in hits.iter().filter(|h| !allowed.contains(&(path.clone(), h.0))) {
            *finds.entry((path.clone(), hit.1)).or_default() += 1;
        }
        if unclear {
            let mut visit = |value: &[u8]| {
                let found = bytes.standing_in(value).filter(|i| !allowed.contains(&(path.clone(), *i))).count() as u64;
                if found > 0 {
                    *finds.entry((path.clone(), "value")).or_default() += found;
                }
            };
            let bound = again.bound.iter_mut().find(|b| b.entry.path == chosen.entry.path).and_then(|b| b.editor.as_mut().ok());
            let visited = match bound {
                Some(editor) => editor.visit_values(&mut visit),
                // A database that no collection names.
                None => open_database(view, archive, &chosen.entry).and_then(|mut editor| editor.visit_values(&mut visit)),
            };
            if let Err(e) = visited {
                checked.problem(Verdict::Unknown, format!("{path}: the values in it could not be read one by one: {e}"));
            }
        }
        if incomplete {
            checked.problem(Verdict::Unknown, format!("{path}: packed data in it could not be searched to the end"));
        }
        if let Some(what) = missing.get(chosen.entry.path.as_slice()) {
            let what: Vec<&str> = what.iter().map(String::as_str).collect();
            let text = format!("{path} has no {}; all its bytes were searched instead", what.join(" and no "));
            match bytes.too_short().is_empty() {
                true => checked.notes.push(text),
                false => checked.problem(
                    Verdict::Unknown,
                    format!("{text}, which cannot be done for short values: name the fields that this archive has"),
                ),
            }
        }
    }
    for ((path, variant), n) in finds {
        let text = format!("{path}: an identity of the person stands in {n} place(s) ({variant}) that no rule of the data map reaches");
        checked.problem(Verdict::Failed, text);
    }
    if !allowed.is_empty() {
        checked.notes.push("identities remain in records that are kept on a ground, or as the key of an anonymised record".into());
    }
    for text in checked.problems.iter_mut().chain(&mut checked.notes) {
        *text = people.withhold(text);
    }
    checked.problems.sort();
    checked.problems.dedup();
    Ok(checked)
}

/// Records that could not be read have no tokens: their pieces are searched byte by byte.
fn unreadable_records(
    archive: &OpenArchive,
    people: &People,
    bytes: &ByteSearch,
    again: &mut Searched<'_>,
    chosen: &mut Vec<ToSearch>,
    checked: &mut Checked,
) -> Result<()> {
    let searched: BTreeSet<usize> = people.raw_values().into_iter().map(|(who, _)| who).collect();
    let all_named = searched.len() == people.identities.len() && bytes.too_short().is_empty();
    for b in &mut again.bound {
        let Ok(editor) = &mut b.editor else { continue };
        let chunks = match editor.malformed()? {
            Malformed::Pieces(pieces) if pieces.is_empty() => continue,
            Malformed::Pieces(pieces) => {
                let refs = archive.refs(&b.entry)?;
                Some(pieces.into_iter().filter_map(|piece| refs.get(piece).map(|r| r.id)).collect::<HashSet<ChunkId>>())
            }
            Malformed::Anywhere => None,
        };
        let path = b.entry.display_path();
        if all_named {
            checked.notes.push(format!("{path} has records that could not be read as {}; their bytes were searched instead", b.format));
        } else {
            let text = format!(
                "{path} has records that could not be read as {}, and not all that names the person can be searched for in bytes",
                b.format
            );
            checked.problem(Verdict::Unknown, text);
        }
        match chosen.iter_mut().find(|c| c.entry.path == b.entry.path) {
            None => chosen.push(ToSearch { entry: b.entry.clone(), chunks }),
            Some(already) => match (&mut already.chunks, chunks) {
                (Some(already), Some(more)) => already.extend(more),
                (all, _) => *all = None,
            },
        }
    }
    Ok(())
}

/// Names, links, owners and attributes must not carry an identity.
fn names(archive: &OpenArchive, bytes: &mut ByteSearch, checked: &mut Checked) -> Result<()> {
    let mut found = 0u64;
    for chunk in archive.list_chunks() {
        found += bytes.names(&chunk?);
    }
    if found > 0 {
        let text = format!(
            "the names, links or attributes of {found} entries carry an identity of the person; name them with a collection (entry: \"…/{{kind}}/**\")"
        );
        checked.problem(Verdict::Failed, text);
    }
    Ok(())
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

/// (entry, value index) pairs that may be found: the value is in a record that is kept on a ground, or is the number by which an anonymised
/// record goes on being referred to. An address is no such number.
fn kept_values(config: &config::Dataset, searched: &Searched<'_>, values: &[String]) -> BTreeSet<(String, usize)> {
    let mut out = BTreeSet::new();
    for d in &searched.decided {
        let Some(m) = searched.matches.records.get(d.index) else { continue };
        let collection = &config.map.collections[m.found.collection];
        let is_key = |name: &String| {
            collection.primary_key.contains(name)
                || collection
                    .probes
                    .iter()
                    .any(|p| matches!(p.feed, crate::datamap::Feed::Reference { .. }) && p.fields.iter().any(|(f, _)| f == name))
        };
        for (name, found) in &m.found.values {
            for text in found.iter().filter_map(|v| v.canonical().map(|t| t.to_lowercase())) {
                let may_stay = d.ground.is_some() || (is_key(name) && !text.contains('@'));
                for (i, value) in values.iter().enumerate().filter(|_| may_stay) {
                    if text.contains(&value.trim().to_lowercase()) {
                        out.insert((searched.bound[m.entry].entry.display_path(), i));
                    }
                }
            }
        }
    }
    out
}

/// An entry to search, or some of its chunks.
struct ToSearch {
    entry: Arc<Entry>,
    /// `None`: all of it.
    chunks: Option<HashSet<ChunkId>>,
}

fn to_search(
    archive: &OpenArchive,
    before: Option<&OpenArchive>,
    scope: Scope,
    missing: &HashMap<Vec<u8>, BTreeSet<String>>,
) -> Result<Vec<ToSearch>> {
    let mut out = Vec::new();
    let mut old: HashMap<Vec<u8>, Arc<Entry>> = HashMap::new();
    if let (Scope::Changed, Some(before)) = (scope, before) {
        for list in before.list_chunks() {
            old.extend(list?.entries.iter().filter(|entry| entry.mapped.is_some()).map(|entry| (entry.path.clone(), entry.clone())));
        }
    }
    for list in archive.list_chunks() {
        for entry in list?.entries.iter().filter(|entry| entry.kind == EntryKind::File) {
            if scope == Scope::Full || missing.contains_key(entry.path.as_slice()) {
                out.push(ToSearch { entry: entry.clone(), chunks: None });
                continue;
            }
            let Some(before) = before.filter(|_| entry.edited) else { continue };
            let chunks = match old.get(&entry.path) {
                Some(o) if o.content == entry.content => continue,
                Some(o) => {
                    let ids = |archive: &OpenArchive, entry: &Entry| archive.each_ref(entry).map(|r| Ok(r?.id)).collect::<Result<_>>();
                    let kept: HashSet<ChunkId> = ids(before, o)?;
                    let mut new: HashSet<ChunkId> = ids(archive, entry)?;
                    new.retain(|id| !kept.contains(id));
                    Some(new)
                }
                None => None,
            };
            out.push(ToSearch { entry: entry.clone(), chunks });
        }
    }
    Ok(out)
}
