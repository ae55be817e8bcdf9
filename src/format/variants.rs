//! The search behind "really gone": whether any form of an erased value is still in bytes. It knows no format and trusts none:
//! one automaton over raw bytes looks for every value in every encoding at once.
//!
//! Values too short to be distinctive are not searched (they would be everywhere by chance); [`VariantSearch::too_short`]
//! names them, so that whoever reports says how they were checked instead.

mod encode;
mod nested;

pub use nested::{Limits, Nested, NestedHit};

use crate::{Error, Result};
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::HashSet;
use unicode_normalization::UnicodeNormalization;

/// Shorter values are not distinctive, in characters.
const SHORTEST: usize = 6;

/// Shorter values that are digits only are not distinctive.
const SHORTEST_DIGITS: usize = 7;

/// Hits returned from one search at most; more say nothing more.
const MAX_HITS: usize = 10_000;

/// A form of a value in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hit {
    /// Index into the values that the search was made from.
    pub value_index: usize,
    /// "utf-8", "utf-16le", "utf-16be", "windows-1252", "json", "sql", "percent", "quoted-printable", "base64", "hex".
    pub variant: &'static str,
    /// Byte offset of its start.
    pub offset: usize,
    /// Letters or digits stand right beside it: it may be a part of a longer value that is somebody else's (joann@x.org, ann@x.org.uk).
    /// Says nothing in formats that keep values side by side without anything between them, such as databases.
    pub inside_word: bool,
}

/// Forms of more bytes than this in all are looked for by how they begin: an automaton of whole forms takes a hundred times their size while
/// it is made.
const MANY: usize = 128 << 10;

/// How much of each form the automaton then knows, in bytes.
const BEGINNING: usize = 12;

struct Pattern {
    value: usize,
    variant: &'static str,
    /// The whole form.
    form: Box<[u8]>,
    /// Case matters (base64): these bytes exactly.
    cased: bool,
    /// Bytes of a character, to look at the neighbours; 0 where neighbours tell nothing.
    width: usize,
    big: bool,
    /// Of an e-mail address, which has signs that carry it on.
    email: bool,
}

/// An automaton over all forms of all values.
pub struct VariantSearch {
    automaton: Option<AhoCorasick>,
    patterns: Vec<Pattern>,
    too_short: Vec<usize>,
}

impl VariantSearch {
    /// For these values, as people write them and as the map normalises them (give both).
    ///
    /// Fails when there are more forms than an automaton can hold.
    pub fn new(values: &[String]) -> Result<VariantSearch> {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut too_short = Vec::new();
        for (value, text) in values.iter().enumerate() {
            let mut known = HashSet::new();
            let text = text.trim();
            let length = text.chars().count();
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            if length < SHORTEST || (digits && length < SHORTEST_DIGITS) {
                too_short.push(value);
                continue;
            }
            for (variant, form, cased) in forms(text) {
                let folded = if cased { form.clone() } else { form.to_ascii_lowercase() };
                if !known.insert((cased, folded)) {
                    continue;
                }
                let width = match variant {
                    "utf-16le" | "utf-16be" => 2,
                    "base64" | "hex" => 0,
                    _ => 1,
                };
                patterns.push(Pattern {
                    value,
                    variant,
                    form: form.into_boxed_slice(),
                    cased,
                    width,
                    big: variant == "utf-16be",
                    email: text.contains('@'),
                });
            }
        }
        let all: usize = patterns.iter().map(|p| p.form.len()).sum();
        let longest = if all > MANY { BEGINNING } else { usize::MAX };
        let bytes = patterns.iter().map(|p| p.form.get(..longest).unwrap_or(&p.form));
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .ascii_case_insensitive(true)
                    .match_kind(MatchKind::Standard)
                    .build(bytes)
                    .map_err(|e| Error::Refused(format!("too many values to search for at once: {e}")))?,
            ),
        };
        Ok(VariantSearch { automaton, patterns, too_short })
    }

    /// Indices of the values that are not searched for.
    pub fn too_short(&self) -> &[usize] {
        &self.too_short
    }

    /// All hits, by offset (at most 10,000). Looks through soft line breaks of quoted-printable and line ends within base64.
    pub fn search(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        self.collect(bytes, |pattern, start, end| {
            hits.push(self.hit(pattern, bytes, start, end));
            hits.len() < MAX_HITS
        });
        if let Some((joined, seams)) = without_soft_breaks(bytes) {
            self.across(&joined, &seams, &mut hits, |p| p.variant != "base64");
        }
        if let Some((joined, seams)) = without_base64_breaks(bytes) {
            self.across(&joined, &seams, &mut hits, |p| p.variant == "base64");
        }
        hits.sort_unstable_by_key(|h| (h.offset, h.value_index, h.variant));
        hits.dedup();
        hits
    }

    /// Whether there is any hit.
    pub fn found_in(&self, bytes: &[u8]) -> bool {
        !self.search(bytes).is_empty()
    }

    /// Calls `each` with pattern, start and end until it says `false`.
    fn collect(&self, bytes: &[u8], mut each: impl FnMut(&Pattern, usize, usize) -> bool) {
        let Some(automaton) = &self.automaton else { return };
        for found in automaton.find_overlapping_iter(bytes) {
            let Some(pattern) = self.patterns.get(found.pattern().as_usize()) else { continue };
            let (start, end) = (found.start(), found.start() + pattern.form.len());
            let whole = bytes
                .get(start..end)
                .is_some_and(|b| if pattern.cased { *b == *pattern.form } else { b.eq_ignore_ascii_case(&pattern.form) });
            if whole && !each(pattern, start, end) {
                return;
            }
        }
    }

    /// Hits in joined text that lie across a seam; the others were found without joining.
    fn across(&self, joined: &[u8], seams: &[(usize, usize)], hits: &mut Vec<Hit>, of: impl Fn(&Pattern) -> bool) {
        self.collect(joined, |pattern, start, end| {
            let next = seams.partition_point(|(at, _)| *at <= start);
            let crosses = seams.get(next).is_some_and(|(at, _)| *at < end);
            if crosses && of(pattern) {
                let shift = next.checked_sub(1).and_then(|i| seams.get(i)).map_or(0, |(_, removed)| *removed);
                hits.push(Hit { offset: start + shift, ..self.hit(pattern, joined, start, end) });
            }
            hits.len() < MAX_HITS
        });
    }

    fn hit(&self, pattern: &Pattern, bytes: &[u8], start: usize, end: usize) -> Hit {
        let before = bytes.get(..start).unwrap_or_default();
        let after = bytes.get(end..).unwrap_or_default();
        let inside_word = match pattern.width {
            0 => false,
            1 => neighbour(pattern, before, true) || neighbour(pattern, after, false),
            _ => wide_neighbour(pattern, before.last_chunk()) || wide_neighbour(pattern, after.first_chunk()),
        };
        let inside_word = inside_word || pattern.email && carries_on(pattern, before, after);
        Hit { value_index: pattern.value, variant: pattern.variant, offset: start, inside_word }
    }
}

/// As in `mentions`: ann@x.org is neither in jo.ann@x.org nor in ann@x.org.uk.
fn carries_on(pattern: &Pattern, before: &[u8], after: &[u8]) -> bool {
    // The n-th character away, if it is ASCII.
    let ascii = |unit: &[u8]| match (unit, pattern.big) {
        ([b], _) | ([b, 0], false) | ([0, b], true) if b.is_ascii() => Some(char::from(*b)),
        _ => None,
    };
    let w = pattern.width;
    let left = |n: usize| before.len().checked_sub(n * w).and_then(|from| before.get(from..from + w)).and_then(ascii);
    let right = |n: usize| after.get((n - 1) * w..n * w).and_then(ascii);
    let joined = |sign: Option<char>, signs: &str, next: Option<char>| {
        sign.is_some_and(|c| signs.contains(c)) && next.is_some_and(|c| c.is_ascii_alphanumeric())
    };
    w > 0 && (joined(left(1), "._%+-", left(2)) || joined(right(1), ".-", right(2)))
}

/// Whether a letter or digit stands at the near end of these bytes. Only where that is certain: a hit that is wrongly taken for a part of
/// something longer would be a remainder that nobody hears of.
fn neighbour(pattern: &Pattern, bytes: &[u8], left: bool) -> bool {
    let near = if left { bytes.last() } else { bytes.first() };
    let Some(near) = near else { return false };
    if near.is_ascii() {
        return near.is_ascii_alphanumeric() && !(left && ends_with_escape(bytes));
    }
    if pattern.variant == "windows-1252" {
        return super::csv::from_windows_1252(*near).is_alphanumeric();
    }
    (2..=4).any(|n| {
        let char = if left { bytes.len().checked_sub(n).and_then(|from| bytes.get(from..)) } else { bytes.get(..n) };
        let mut chars = char.and_then(|c| std::str::from_utf8(c).ok()).unwrap_or_default().chars();
        matches!((chars.next(), chars.next()), (Some(c), None) if c.is_alphanumeric())
    })
}

fn wide_neighbour(pattern: &Pattern, unit: Option<&[u8; 2]>) -> bool {
    let unit = unit.map(|u| if pattern.big { u16::from_be_bytes(*u) } else { u16::from_le_bytes(*u) });
    unit.and_then(|u| char::from_u32(u.into())).is_some_and(char::is_alphanumeric)
}

/// `\n`, `\u00e9`, `\x41`, `%20`, `=20`: the last letter or digit is no text.
fn ends_with_escape(bytes: &[u8]) -> bool {
    let hex = |b: &[u8]| b.iter().all(u8::is_ascii_hexdigit);
    match bytes {
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f' | b'v' | b'0'] => true,
        _ => {
            let last = |n: usize| bytes.len().checked_sub(n).and_then(|from| bytes.get(from..)).unwrap_or_default();
            matches!(last(3), [b'%' | b'=', digits @ ..] if hex(digits))
                || matches!(last(4), [b'\\', b'x', digits @ ..] if hex(digits))
                || matches!(last(6), [b'\\', b'u', digits @ ..] if hex(digits))
        }
    }
}

/// Every form of a value: its variant, the bytes, and whether their case matters.
fn forms(text: &str) -> Vec<(&'static str, Vec<u8>, bool)> {
    let mut spellings: Vec<String> = vec![text.to_string()];
    for spelling in [text.nfc().collect::<String>(), text.nfd().collect()] {
        for cased in [spelling.to_lowercase(), spelling.to_uppercase(), title_case(&spelling), spelling] {
            if !spellings.contains(&cased) {
                spellings.push(cased);
            }
        }
    }
    let mut out = Vec::new();
    for s in &spellings {
        let mut add = |variant: &'static str, bytes: Vec<u8>| out.push((variant, bytes, false));
        let utf8 = s.as_bytes();
        add("utf-8", utf8.to_vec());
        add("utf-16le", encode::utf16(s, false));
        add("utf-16be", encode::utf16(s, true));
        for (slash, ascii, html) in [
            (false, false, false),
            (true, false, false),
            (false, true, false),
            (true, true, false),
            (false, true, true),
            (true, true, true),
        ] {
            add("json", encode::json(s, slash, ascii, html));
        }
        add("sql", encode::sql(s, false));
        add("sql", encode::sql(s, true));
        for (keep, space) in [("~", "%20"), ("", "+"), ("*", "+"), ("~!*'()", "%20"), ("~@", "%20"), ("~!$&'()*+,;=:@/", "%20"), ("@", "+")]
        {
            add("percent", encode::percent(s, keep, space));
        }
        for word in [false, true] {
            add("quoted-printable", encode::quoted_printable(utf8, word));
        }
        add("hex", hex::encode(utf8).into_bytes());
        let latin = super::csv::windows_1252(s).filter(|_| !s.is_ascii());
        if let Some(latin) = &latin {
            add("windows-1252", latin.clone());
            add("quoted-printable", encode::quoted_printable(latin, false));
            add("quoted-printable", encode::quoted_printable(latin, true));
        }
        for before in 0..3 {
            for url in [false, true] {
                out.push(("base64", encode::base64(utf8, before, url), true));
                out.push(("base64", encode::base64(&encode::utf16(s, false), before, url), true));
                out.extend(latin.iter().map(|latin| ("base64", encode::base64(latin, before, url), true)));
            }
        }
    }
    out
}

/// "ann LEE" → "Ann Lee".
fn title_case(text: &str) -> String {
    let mut start = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        start = !c.is_alphanumeric();
    }
    out
}

/// Text without some of its bytes, and for each place where some were left out: where it is in the joined text, and how many bytes were
/// left out up to there.
type Joined = (Vec<u8>, Vec<(usize, usize)>);

/// Without quoted-printable's soft line breaks; `None` where there are none.
fn without_soft_breaks(bytes: &[u8]) -> Option<Joined> {
    let soft = |at: usize| match bytes.get(at + 1..) {
        Some([b'\n', ..]) => 2,
        Some([b'\r', b'\n', ..]) => 3,
        _ => 0,
    };
    join(bytes, memchr::memchr_iter(b'=', bytes).map(|at| (at, soft(at))))
}

/// Without line ends that have a long run of base64 before and some after them; `None` where there are none.
fn without_base64_breaks(bytes: &[u8]) -> Option<Joined> {
    const LINE: usize = 40;
    let is = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
    let breaks = memchr::memchr_iter(b'\n', bytes).map(|lf| {
        let at = if lf > 0 && bytes.get(lf - 1) == Some(&b'\r') { lf - 1 } else { lf };
        let line = at.checked_sub(LINE).and_then(|from| bytes.get(from..at));
        let inside = line.is_some_and(|l| l.iter().all(is)) && bytes.get(lf + 1).is_some_and(is);
        (at, if inside { lf + 1 - at } else { 0 })
    });
    join(bytes, breaks)
}

/// Leaves out `breaks` (place, length; length 0: nothing).
fn join(bytes: &[u8], breaks: impl Iterator<Item = (usize, usize)>) -> Option<Joined> {
    let mut joined = Vec::new();
    let mut seams = Vec::new();
    let (mut copied, mut removed) = (0, 0);
    for (at, len) in breaks.filter(|(_, len)| *len > 0) {
        joined.extend_from_slice(bytes.get(copied..at)?);
        copied = at + len;
        removed += len;
        seams.push((joined.len(), removed));
    }
    if seams.is_empty() {
        return None;
    }
    joined.extend_from_slice(bytes.get(copied..)?);
    Some((joined, seams))
}

#[cfg(test)]
mod tests;
