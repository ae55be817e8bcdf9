//! Looking inside: gzip members, zstd frames and deflated zip members found anywhere in the bytes are opened, within bounds, and what
//! is in them is searched too, again with all that lies in there. (Members of tar files are plain bytes: the outer search sees them.)
//!
//! What cannot be opened to its end makes the result `incomplete`: not checked, which is never the same as clean.

use super::{Hit, VariantSearch};
use std::io::Read;

/// How far a search inside goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Containers within containers.
    pub depth: usize,
    /// Bytes unpacked, all containers of a search together.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { depth: 4, bytes: 64 * 1024 * 1024 }
    }
}

/// A hit inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedHit {
    /// The containers from the outermost: their kind ("gzip", "zstd", "zip") and their offset in what holds them.
    pub inside: Vec<(&'static str, usize)>,
    /// The hit; its offset counts in the unpacked bytes of the innermost container.
    pub hit: Hit,
}

/// What a search inside found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nested {
    /// Hits inside containers (not those in the outer bytes themselves).
    pub hits: Vec<NestedHit>,
    /// Containers opened.
    pub members: usize,
    /// Something could not be opened to its end: cut off (perhaps by the end of the piece), encrypted, of an unknown method,
    /// too deep or too large.
    pub incomplete: bool,
}

/// What a container's first bytes say about it.
enum Found<'a> {
    Gzip(&'a [u8]),
    Zstd(&'a [u8]),
    Deflate(&'a [u8]),
    /// A zip member that is not packed: its bytes were searched as they lie.
    Stored,
    /// A zip member of another method, or an encrypted one.
    Closed,
}

impl VariantSearch {
    /// Searches inside the containers found in `bytes`. Give it whole files where possible: a container that was cut apart can be searched only up to the cut.
    pub fn search_nested(&self, bytes: &[u8], limits: Limits) -> Nested {
        let mut out = Nested::default();
        let mut budget = limits.bytes;
        self.inside(bytes, limits.depth, &mut budget, &mut Vec::new(), &mut out);
        out
    }

    fn inside(&self, bytes: &[u8], depth: usize, budget: &mut usize, path: &mut Vec<(&'static str, usize)>, out: &mut Nested) {
        // What a container has taken up is not looked at again: its packed bytes may look like anything.
        let mut done = 0;
        for (offset, found) in containers(bytes) {
            if offset < done {
                continue;
            }
            let (kind, mut rest) = match found {
                Found::Gzip(b) => ("gzip", b),
                Found::Zstd(b) => ("zstd", b),
                Found::Deflate(b) => ("zip", b),
                Found::Stored => continue,
                Found::Closed => {
                    out.incomplete = true;
                    continue;
                }
            };
            if depth == 0 || *budget == 0 {
                out.incomplete = true;
                return;
            }
            let mut unpacked = Vec::new();
            let whole = unpack(&found, &mut rest, *budget, &mut unpacked);
            if unpacked.is_empty() && !whole {
                // Bytes that look like a container by chance.
                continue;
            }
            if whole {
                done = bytes.len() - rest.len();
            }
            *budget = budget.saturating_sub(unpacked.len());
            out.incomplete |= !whole || *budget == 0;
            out.members += 1;
            path.push((kind, offset));
            out.hits.extend(self.search(&unpacked).into_iter().map(|hit| NestedHit { inside: path.clone(), hit }));
            self.inside(&unpacked, depth - 1, budget, path, out);
            path.pop();
        }
    }
}

/// Unpacks at most `limit` bytes and moves `rest` behind what was taken; whether it came to its end without a fault.
fn unpack(found: &Found<'_>, rest: &mut &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    let limit = limit as u64;
    match found {
        Found::Gzip(_) => flate2::bufread::GzDecoder::new(rest).take(limit).read_to_end(out).is_ok(),
        Found::Deflate(_) => flate2::bufread::DeflateDecoder::new(rest).take(limit).read_to_end(out).is_ok(),
        Found::Zstd(_) => {
            let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(rest) else { return false };
            let mut decoder = decoder.single_frame();
            // A window that a hostile header cannot blow up beyond 64 MiB.
            decoder.window_log_max(26).is_ok() && decoder.take(limit).read_to_end(out).is_ok()
        }
        Found::Stored | Found::Closed => false,
    }
}

/// Where the bytes look like the start of a container, in order.
fn containers(bytes: &[u8]) -> Vec<(usize, Found<'_>)> {
    let find = |magic: &'static [u8]| memchr::memmem::find_iter(bytes, magic).collect::<Vec<_>>();
    let rest = |at: usize| bytes.get(at..).unwrap_or_default();
    let mut out: Vec<(usize, Found<'_>)> = Vec::new();
    out.extend(find(b"\x1f\x8b\x08").into_iter().map(|at| (at, Found::Gzip(rest(at)))));
    out.extend(find(b"\x28\xb5\x2f\xfd").into_iter().map(|at| (at, Found::Zstd(rest(at)))));
    out.extend(find(b"PK\x03\x04").into_iter().filter_map(|at| Some((at, zip_member(rest(at))?))));
    out.sort_by_key(|(at, _)| *at);
    out
}

/// Reads a local file header (APPNOTE 4.3.7).
fn zip_member(bytes: &[u8]) -> Option<Found<'_>> {
    let word = |at: usize| match bytes.get(at..at + 2) {
        Some([a, b]) => Some(u16::from_le_bytes([*a, *b])),
        _ => None,
    };
    let encrypted = word(6)? & 1 != 0;
    let start = 30 + usize::from(word(26)?) + usize::from(word(28)?);
    let data = bytes.get(start..)?;
    Some(match word(8)? {
        _ if encrypted => Found::Closed,
        0 => Found::Stored,
        8 => Found::Deflate(data),
        _ => Found::Closed,
    })
}
