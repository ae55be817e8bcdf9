//! Finding everything of a person in one archive: identities first, then references to a fixpoint, across entries and formats,
//! then mentions in text, then paths.

use super::archive::OpenArchive;
use super::session::View;
use super::wanted::{Wanted, Who, record_tokens};
use crate::datamap::{Collection, DataMap, Feed, Shared};
use crate::env::Env;
use crate::format::records::RecordsEditor;
use crate::format::registry::{self, Serves};
use crate::format::sqlite::editor::SqliteEditor;
use crate::format::sqlite::overlay;
use crate::format::{EntryEditor, Found, Mentions};
use crate::repository::entry::{Entry, EntryKind};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

/// Records of one person that a single run will follow at most: a map whose references lead to everybody is a mistake.
const MAX_RECORDS: usize = 2_000_000;

/// A mapped entry with its editor.
pub struct Bound<'k> {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Collections whose records it holds.
    pub collections: Vec<usize>,
    /// The editor, or why there is none.
    pub editor: Result<Box<dyn EntryEditor + 'k>>,
    /// Name of the format.
    pub format: String,
}

/// A record found.
pub struct Match {
    /// Index into the bound entries.
    pub entry: usize,
    /// The record.
    pub found: Found,
    /// For whom.
    pub who: Who,
    /// Found only because its text mentions the person.
    pub by_text: bool,
}

/// An entry that is a record as a whole.
pub struct PathMatch {
    /// The entry's path.
    pub path: Vec<u8>,
    /// The collection.
    pub collection: usize,
    /// For whom.
    pub who: Who,
}

/// Everything of the requested people in one archive.
#[derive(Default)]
pub struct Matches {
    /// Records.
    pub records: Vec<Match>,
    /// Whole entries.
    pub paths: Vec<PathMatch>,
    /// Entries that had to be read because their identity blocks do not cover the map.
    pub fell_back: Vec<String>,
    /// Entries that could not be searched, and why.
    pub failed: Vec<(String, String)>,
    /// Entries that do not have what the map asks for: (stored path, what is missing). Nothing found there proves nothing.
    pub missing: Vec<(Vec<u8>, Vec<String>)>,
    /// Those of them that the person's records may stand behind, under another name.
    pub hidden: Vec<Hidden>,
}

/// What was asked of an entry that it may have under a name that the map does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// The entry.
    pub entry: String,
    /// The table or column.
    pub what: String,
    /// Whether a reference leads there: what refers to a record cannot be found any more when the record is gone.
    pub reference: bool,
    /// Whether it is one value of the request itself, which a search of the bytes finds wherever it stands.
    pub plain: bool,
}

impl Hidden {
    /// For reports.
    pub fn describe(&self) -> String {
        let lost =
            if self.reference { "what refers to the person's records cannot be told there" } else { "the person cannot be told there" };
        format!("{} has no {}, so {lost}: name the fields that this archive has", self.entry, self.what)
    }
}

/// Limits of a search.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of written pages kept in memory per entry.
    pub overlay: usize,
    /// Bytes of memory of one archive that is worked on, all in all.
    pub memory: u64,
    /// Whether an edited database is checked as a whole, however large.
    pub whole: bool,
}

impl Limits {
    /// Of the only archive that is worked on, with so many bytes of memory.
    pub fn alone(memory: u64) -> Limits {
        Limits { overlay: memory as usize / 2, memory, whole: false }
    }
}

/// Whether a collection's records are whole entries.
pub fn is_path_collection(collection: &Collection) -> bool {
    collection.format.as_deref() == Some("path")
}

/// Opens an editor for every entry that a collection names. Entries that no collection names are not even looked into.
pub fn bind<'k>(map: &DataMap, view: &'k View, archive: &OpenArchive, limits: Limits, env: &Env) -> Result<Vec<Bound<'k>>> {
    let mut bound: Vec<Bound<'k>> = Vec::new();
    let mut by_path: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut links: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    let named = |path: &[u8]| -> Vec<usize> {
        (0..map.collections.len())
            .filter(|c| !is_path_collection(&map.collections[*c]) && map.collections[*c].entry.matches(path).is_some())
            .collect()
    };
    for list in archive.list_chunks() {
        env.stop.check("nothing was changed; run the same command again")?;
        let list = list?;
        for place in view.named.of(&list, |entry| !named(&entry.path).is_empty()).iter() {
            let Some(entry) = list.entries.get(*place) else { continue };
            let collections = named(&entry.path);
            match entry.kind {
                EntryKind::File => {
                    by_path.insert(entry.path.clone(), bound.len());
                    bound.push(open(map, view, archive, limits, entry.clone(), collections)?);
                }
                EntryKind::Hardlink => {
                    if let Some(target) = &entry.link {
                        links.entry(target.to_vec()).or_default().extend(collections);
                    }
                }
                _ => {}
            }
        }
    }
    // A collection may name a file by another of its names than the one that carries the bytes.
    links.retain(|target, collections| match by_path.get(target) {
        Some(i) => !collections.iter().all(|c| bound[*i].collections.contains(c)),
        None => true,
    });
    if !links.is_empty() {
        for entry in archive.shared_entries() {
            let entry = entry?;
            if let Some(extra) = links.get(&entry.path) {
                let mut collections = named(&entry.path);
                collections.extend(extra);
                collections.sort_unstable();
                collections.dedup();
                let opened = open(map, view, archive, limits, entry, collections)?;
                match by_path.get(&opened.entry.path) {
                    Some(i) => bound[*i] = opened,
                    None => bound.push(opened),
                }
            }
        }
    }
    Ok(bound)
}

fn open<'k>(
    map: &DataMap,
    view: &'k View,
    archive: &OpenArchive,
    limits: Limits,
    entry: Arc<Entry>,
    collections: Vec<usize>,
) -> Result<Bound<'k>> {
    let head = match &entry.mapped {
        Some(_) => Vec::new(),
        None => {
            let mut head = Vec::new();
            archive.read(&entry)?.take(65536).read_to_end(&mut head).map_err(|e| Error::damaged(entry.display_path(), e.to_string()))?;
            head
        }
    };
    let (editor, format) = match kind_of(map, &entry, &collections, &head) {
        Err(e) => (Err(e), String::new()),
        Ok(kind) => {
            let name = kind.name().to_string();
            (editor_for(map, view, archive, limits, &entry, &collections, kind), name)
        }
    };
    Ok(Bound { entry, collections, editor, format })
}

fn editor_for<'k>(
    map: &DataMap,
    view: &'k View,
    archive: &OpenArchive,
    limits: Limits,
    entry: &Entry,
    collections: &[usize],
    kind: Serves,
) -> Result<Box<dyn EntryEditor + 'k>> {
    if entry.segments.is_some() {
        return Err(Error::format(
            entry.display_path(),
            "was archived as a sparse file before the data map named it, and cannot be edited in place",
        ));
    }
    let content = Arc::new(archive.content(entry, &view.marks)?);
    Ok(match kind {
        Serves::Sqlite => {
            // The reader keeps opened chunks already, for all entries.
            let memory = limits.memory;
            let limits = overlay::Limits {
                overlay: limits.overlay as u64,
                value: memory / 2,
                runs: memory / 64,
                page_cache: memory / 32,
                always_whole: limits.whole,
                ..overlay::Limits::default()
            };
            Box::new(SqliteEditor::open(content, view.dataset.token_key(), limits)?)
        }
        Serves::Records(format) => {
            let memory = limits.memory;
            Box::new(RecordsEditor::new(content, format, &map.collections[collections[0]], view.dataset.token_key(), memory)?)
        }
        Serves::Path => return Err(Error::format(entry.display_path(), "is a record as a whole and has none inside")),
    })
}

/// Opens a database that no collection has to name, to read its values.
pub fn open_database<'k>(view: &'k View, archive: &OpenArchive, entry: &Entry) -> Result<Box<dyn EntryEditor + 'k>> {
    let content = Arc::new(archive.content(entry, &view.marks)?);
    Ok(Box::new(SqliteEditor::open(content, view.dataset.token_key(), overlay::Limits::default())?))
}

/// The format that serves an entry: what it was cut as, else what its collections say, else its name and first bytes.
fn kind_of(map: &DataMap, entry: &Entry, collections: &[usize], head: &[u8]) -> Result<Serves> {
    if let Some(mapped) = &entry.mapped
        && let Some(kind) = registry::by_name(&mapped.format)
    {
        return Ok(kind);
    }
    let mut chosen: Option<Serves> = None;
    for c in collections {
        let kind = registry::serve(&map.collections[*c], &entry.path, head)?;
        match &chosen {
            Some(k) if k.name() != kind.name() => {
                return Err(Error::format(
                    entry.display_path(),
                    format!("collections disagree about its format: {} and {}", k.name(), kind.name()),
                ));
            }
            _ => chosen = Some(kind),
        }
    }
    chosen.ok_or_else(|| Error::format(entry.display_path(), "no collection names it"))
}

/// Finds everything. `mentions` holds one searcher per request, for `scan` fields.
pub fn find_all(
    map: &DataMap,
    archive: &OpenArchive,
    bound: &mut [Bound<'_>],
    wanted: &mut Wanted<'_>,
    mentions: &[Option<Box<dyn Mentions>>],
    env: &Env,
) -> Result<Matches> {
    let mut matches = Matches::default();
    // Records whose references were followed, for these requests. A record that is shared with somebody else leads on to their records, so
    // it is not followed while the map keeps shared records.
    let mut followed: Vec<Who> = Vec::new();
    loop {
        while let Some(((c, p), fresh)) = wanted.take_fresh() {
            env.stop.check("nothing was changed; run the same command again")?;
            let Some(probe) = map.collections.get(c).and_then(|c| c.probes.get(p)) else { continue };
            for (i, b) in bound.iter_mut().enumerate().filter(|(_, b)| b.collections.contains(&c)) {
                let Ok(editor) = &mut b.editor else { continue };
                match editor.find(map, c, probe, &fresh) {
                    Ok(found) => {
                        match editor.may_hide(map, c, probe) {
                            Ok(Some(what)) => {
                                let reference = matches!(probe.feed, Feed::Reference { .. });
                                let plain = !reference && probe.fields.len() == 1;
                                let hidden = Hidden { entry: b.entry.display_path(), what, reference, plain };
                                if !matches.hidden.contains(&hidden) {
                                    matches.hidden.push(hidden);
                                }
                            }
                            Ok(None) => {}
                            Err(e) => {
                                b.editor = Err(e);
                                continue;
                            }
                        }
                        for f in found {
                            matches.records.push(Match { entry: i, found: f, who: Who::new(), by_text: false });
                            followed.push(Who::new());
                        }
                    }
                    Err(e) => b.editor = Err(e),
                }
                if matches.records.len() > MAX_RECORDS {
                    return Err(Error::Refused(format!(
                        "the references of the data map lead to more than {MAX_RECORDS} records; check `references` and `shared`"
                    )));
                }
            }
        }
        // Requests whose records overlap: what one found may belong to another too, with everything that hangs on it.
        let mut changed = false;
        for (m, followed) in matches.records.iter_mut().zip(&mut followed) {
            m.who.extend(wanted.who_wants(map, &m.found));
            if m.who != *followed && !keeps_as_shared(map, wanted, &m.found) {
                changed |= wanted.feed_references(map, &m.found, &m.who);
                followed.clone_from(&m.who);
            }
        }
        if !changed && !wanted.has_fresh() {
            break;
        }
    }
    for (who, searcher) in mentions.iter().enumerate() {
        let Some(searcher) = searcher else { continue };
        for (i, b) in bound.iter_mut().enumerate() {
            for c in b.collections.clone() {
                if !map.collections[c].fields.values().any(|f| f.scan) {
                    continue;
                }
                let Ok(editor) = &mut b.editor else { continue };
                match editor.find_text(map, c, searcher.as_ref()) {
                    Ok(found) => {
                        matches.records.extend(found.into_iter().map(|f| Match {
                            entry: i,
                            found: f,
                            who: Who::from([who]),
                            by_text: true,
                        }));
                    }
                    Err(e) => b.editor = Err(e),
                }
            }
        }
    }
    // A text that names two of the people was returned for the first only.
    for m in &mut matches.records {
        for (who, searcher) in mentions.iter().enumerate() {
            if let Some(s) = searcher
                && scan_texts(map, &m.found).any(|t| !s.spans(t).is_empty())
            {
                m.who.insert(who);
            }
        }
    }
    matches.paths = find_paths(map, archive, wanted)?;
    for b in bound.iter() {
        match &b.editor {
            Ok(editor) => {
                if editor.fell_back() {
                    matches.fell_back.push(b.entry.display_path());
                }
                let missing = editor.missing();
                if !missing.is_empty() {
                    matches.missing.push((b.entry.path.clone(), missing));
                }
            }
            Err(e) => matches.failed.push((b.entry.display_path(), e.to_string())),
        }
    }
    Ok(matches)
}

/// The texts of a record's `scan` fields.
pub fn scan_texts<'a>(map: &'a DataMap, found: &'a Found) -> impl Iterator<Item = &'a str> {
    map.collections[found.collection]
        .fields
        .values()
        .filter(|f| f.scan)
        .flat_map(|f| found.values.get(&f.name).into_iter().flatten())
        .filter_map(|v| match v {
            crate::datamap::Value::Text(t) => Some(t.as_ref()),
            _ => None,
        })
}

/// Whether the map keeps this record because it also refers to somebody who is not being erased.
pub fn keeps_as_shared(map: &DataMap, wanted: &Wanted<'_>, found: &Found) -> bool {
    let Some(collection) = map.collections.get(found.collection) else { return false };
    if collection.shared != Shared::Skip {
        return false;
    }
    // A record that is somebody's own (others refer to it, or its key is an identity) is not shared because it has two addresses.
    let own = map
        .collections
        .iter()
        .flat_map(|c| &c.probes)
        .any(|p| matches!(&p.feed, Feed::Reference { collection, .. } if *collection == found.collection))
        || collection.primary_key.iter().any(|k| collection.fields.get(k).is_some_and(|f| f.identity.is_some()));
    let mut targets: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for (p, probe) in collection.probes.iter().enumerate() {
        if own && matches!(probe.feed, Feed::Identity(_)) {
            continue;
        }
        let tokens = record_tokens(wanted.key(), probe, found);
        if tokens.is_empty() {
            continue;
        }
        let ours = tokens.iter().filter(|t| wanted.wants((found.collection, p), t)).count();
        let slot = targets.entry(target(&probe.feed)).or_default();
        slot.0 |= ours > 0;
        slot.1 |= ours < tokens.len();
    }
    targets.values().any(|(ours, others)| *ours && *others)
}

/// What a probe leads to, so that two references to the same target can be told.
fn target(feed: &Feed) -> String {
    match feed {
        Feed::Identity(kind) => format!("identity {kind}"),
        Feed::Reference { collection, fields } => format!("collection {collection} {}", fields.join(",")),
    }
}

/// Entries that are records as a whole, and the folders that carry the identity in their name and have nothing else left in them.
fn find_paths(map: &DataMap, archive: &OpenArchive, wanted: &Wanted<'_>) -> Result<Vec<PathMatch>> {
    let collections: Vec<usize> = (0..map.collections.len()).filter(|c| is_path_collection(&map.collections[*c])).collect();
    let mut out: Vec<PathMatch> = Vec::new();
    if collections.is_empty() {
        return Ok(out);
    }
    // Folders above the current entry that would go if they become empty: (index into `out`).
    let mut open: Vec<usize> = Vec::new();
    let mut stay: Vec<usize> = Vec::new();
    for entry in archive.shared_entries() {
        let entry = entry?;
        open.retain(|i| is_below(&out[*i].path, &entry.path));
        let mut goes = false;
        for c in &collections {
            let collection = &map.collections[*c];
            let is_folder = entry.kind == EntryKind::Directory;
            let captures = collection
                .entry
                .matches(&entry.path)
                .or_else(|| if is_folder { collection.entry.matches_folder(&entry.path) } else { None });
            let Some(captures) = captures else { continue };
            let who = wanted.who_wants_path(collection, &captures);
            if !who.is_empty() {
                goes = true;
                if is_folder {
                    open.push(out.len());
                }
                out.push(PathMatch { path: entry.path.clone(), collection: *c, who });
                break;
            }
        }
        if !goes {
            // What stays keeps every folder above it.
            stay.append(&mut open);
        }
    }
    stay.sort_unstable();
    stay.dedup();
    for i in stay.into_iter().rev() {
        out.remove(i);
    }
    Ok(out)
}

fn is_below(folder: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}
