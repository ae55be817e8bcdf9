//! Searching stored bytes for identities, in every encoding a value may have. Chunks that archives share are searched once and what
//! was found in them counts for every archive.

use super::{People, Scope};
use crate::Result;
use crate::engine::archive::OpenArchive;
use crate::format::sqlite::pages::Header;
use crate::format::sqlite::place::{Place, place_of};
use crate::format::variants::{Limits, VariantSearch};
use crate::repository::ListChunk;
use crate::repository::entry::{ChunkId, Entry, Role};
use std::collections::{HashMap, HashSet};

/// Entries up to this size are searched in one piece, so that what spans chunks and what is packed is seen as a whole.
const WHOLE: u64 = 32 << 20;
/// Bytes of the chunk before that are searched again with a chunk: longer than any form of a value.
const OVERLAP: usize = 4096;

/// (index of the value, the form it was found in).
pub type Hit = (usize, &'static str);

/// What was found in an entry.
#[derive(Clone, Default)]
pub struct Finds {
    /// Each find.
    pub hits: Vec<Hit>,
    /// Something packed could not be searched to its end.
    pub incomplete: bool,
    /// In a database, letters stand beside a find outside of the pages that tell columns apart (the rest of a long text): whether it is a
    /// word of its own only the values can tell.
    pub unclear: bool,
}

/// A search for some people's identities.
pub struct ByteSearch {
    searcher: VariantSearch,
    values: Vec<String>,
    scope: Scope,
    /// By chunk before (for the overlap) and chunk.
    chunks: HashMap<(Option<ChunkId>, ChunkId), Finds>,
    /// By the chunks of a small entry.
    entries: HashMap<Vec<ChunkId>, Finds>,
    /// By list chunk: how many entries carry an identity in their names.
    names: HashMap<ChunkId, u64>,
}

impl ByteSearch {
    /// For these people.
    pub fn new(people: &People, scope: Scope) -> Result<ByteSearch> {
        let values: Vec<String> = people.raw_values().into_iter().map(|(_, v)| v).collect();
        Ok(ByteSearch {
            searcher: VariantSearch::new(&values)?,
            values,
            scope,
            chunks: HashMap::new(),
            entries: HashMap::new(),
            names: HashMap::new(),
        })
    }

    /// The values.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// How much is to be searched.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Values that are not distinctive enough to be searched for in bytes.
    pub fn too_short(&self) -> &[usize] {
        self.searcher.too_short()
    }

    /// Whether a text holds an identity as a word of its own.
    pub fn stands_in(&self, text: &[u8]) -> bool {
        self.searcher.search(text).iter().any(|h| !h.inside_word)
    }

    /// How many entries of a list chunk carry an identity in their path, link, owner or attributes.
    pub fn names(&mut self, list: &ListChunk) -> u64 {
        if let Some(known) = self.names.get(&list.reference.id) {
            return *known;
        }
        let carries = |entry: &Entry| {
            let mut texts = vec![entry.path.as_slice(), entry.user.as_bytes(), entry.group.as_bytes()];
            texts.extend(entry.link.iter().map(|l| l.as_slice()));
            texts.extend(entry.xattrs.iter().flat_map(|(n, v)| [n.as_slice(), v.as_slice()]));
            texts.iter().any(|text| self.stands_in(text))
        };
        let found = list.entries.iter().filter(|entry| carries(entry)).count() as u64;
        self.names.insert(list.reference.id, found);
        found
    }

    /// The values that stand in a text as words of their own.
    pub fn standing_in<'s>(&'s self, text: &[u8]) -> impl Iterator<Item = usize> + use<'s> {
        self.searcher.search(text).into_iter().filter(|h| !h.inside_word).map(|h| h.value_index)
    }

    /// Searches an entry, or only some of its chunks.
    pub fn search(&mut self, archive: &OpenArchive, entry: &Entry, only: Option<&HashSet<ChunkId>>) -> Result<Finds> {
        let refs = archive.refs(entry)?;
        let database = entry.mapped.as_ref().is_some_and(|m| m.format == "sqlite");
        if database {
            return self.database(archive, entry, &refs.iter().map(|r| r.id).collect::<Vec<_>>(), only);
        }
        if only.is_none() && entry.content.as_ref().is_some_and(|c| c.len() <= WHOLE) {
            let key: Vec<ChunkId> = refs.iter().map(|r| r.id).collect();
            if let Some(known) = self.entries.get(&key) {
                return Ok(known.clone());
            }
            let mut bytes = Vec::new();
            for r in &refs {
                bytes.extend_from_slice(&archive.reader.read(&r.id, Role::Data)?);
            }
            let finds = self.plain(&bytes);
            self.entries.insert(key, finds.clone());
            return Ok(finds);
        }
        let mut out = Finds::default();
        let mut previous: Option<ChunkId> = None;
        for r in &refs {
            if only.is_none_or(|o| o.contains(&r.id)) {
                let key = (previous, r.id);
                let finds = match self.chunks.get(&key) {
                    Some(known) => known.clone(),
                    None => {
                        let mut bytes = match &previous {
                            Some(id) => tail(&archive.reader.read(id, Role::Data)?),
                            None => Vec::new(),
                        };
                        bytes.extend_from_slice(&archive.reader.read(&r.id, Role::Data)?);
                        let finds = self.plain(&bytes);
                        self.chunks.insert(key, finds.clone());
                        finds
                    }
                };
                out.hits.extend(finds.hits);
                out.incomplete |= finds.incomplete;
            }
            previous = Some(r.id);
        }
        Ok(out)
    }

    fn plain(&self, bytes: &[u8]) -> Finds {
        let nested = self.searcher.search_nested(bytes, Limits::default());
        let inner = nested.hits.into_iter().map(|n| n.hit);
        let hits =
            self.searcher.search(bytes).into_iter().chain(inner).filter(|h| !h.inside_word).map(|h| (h.value_index, h.variant)).collect();
        Finds { hits, incomplete: nested.incomplete, unclear: false }
    }

    /// In a database, columns stand back to back: whether a find is a word of its own is told within its column.
    fn database(&mut self, archive: &OpenArchive, entry: &Entry, runs: &[ChunkId], only: Option<&HashSet<ChunkId>>) -> Result<Finds> {
        let Some(first) = runs.first() else { return Ok(Finds::default()) };
        let head = archive.reader.read(first, Role::Data)?;
        let header = Header::parse(head.get(..100).unwrap_or_default(), entry.size).ok();
        let mut out = Finds::default();
        for (index, id) in runs.iter().enumerate() {
            if only.is_some_and(|o| !o.contains(id)) {
                continue;
            }
            let finds = match self.chunks.get(&(None, *id)) {
                Some(known) => known.clone(),
                None => {
                    let run = archive.reader.read(id, Role::Data)?;
                    let finds = self.run(&run, index as u64, header.as_ref());
                    self.chunks.insert((None, *id), finds.clone());
                    finds
                }
            };
            out.hits.extend(finds.hits);
            out.unclear |= finds.unclear;
        }
        // A value that goes over to another overflow page is not in one piece anywhere: a search of everything reads the values themselves.
        out.unclear |= only.is_none();
        Ok(out)
    }

    /// Whether a find is a word of its own within its column.
    fn stands_alone_in(&self, run: &[u8], column: std::ops::Range<usize>, hit: &crate::format::variants::Hit) -> bool {
        // UTF-16 that begins at an odd byte is most likely text read askew: the letter before it then has its other half before the column.
        let askew = hit.variant.starts_with("utf-16") && hit.offset.wrapping_sub(column.start) % 2 == 1;
        let from = column.start.saturating_sub(usize::from(askew));
        let found = self.searcher.search(run.get(from..column.end).unwrap_or_default());
        found.iter().any(|h| !h.inside_word && from + h.offset == hit.offset && h.variant == hit.variant)
    }

    fn run(&self, run: &[u8], index: u64, header: Option<&Header>) -> Finds {
        let mut finds = Finds::default();
        for hit in self.searcher.search(run) {
            let mut real = !hit.inside_word;
            if hit.inside_word {
                let end = hit.offset + 1;
                real = match header.map(|h| place_of(run, index, h, &(hit.offset..end))) {
                    Some(Place::Column(column)) => self.stands_alone_in(run, column, &hit),
                    // The rest of a long row: most likely of a long text, but columns may begin and end here too.
                    Some(Place::Overflow) => {
                        finds.unclear = true;
                        false
                    }
                    Some(Place::Gap) | None => true,
                };
            }
            if real {
                finds.hits.push((hit.value_index, hit.variant));
            }
        }
        finds
    }
}

fn tail(bytes: &[u8]) -> Vec<u8> {
    bytes.get(bytes.len().saturating_sub(OVERLAP)..).unwrap_or_default().to_vec()
}
