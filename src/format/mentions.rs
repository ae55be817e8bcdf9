//! Finding a person in text: in notes, messages and other fields that hold prose. Two ways, one for each state of knowledge:
//! [`PlainMentions`] while a request's identities are known, [`TokenMentions`] in the restore gate, where only tokens are left.
//!
//! Both err on the side of whole words ("Ann" is not in "Annual") and of one person (ann@x.org is not in joann@x.org).

pub mod features;

use super::Mentions;
use crate::datamap::{Normalize, Tokens};
use aho_corasick::{AhoCorasick, MatchKind};
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use unicode_normalization::char::{decompose_canonical, is_combining_mark};

/// Digits from which on a value that is written like a phone number is also found in other spellings of it.
const PHONE_DIGITS: usize = 7;

/// Characters between two digits of a phone number at most ("(0) " and the like).
const PHONE_GAP: usize = 4;

/// Finds plaintext identities: whatever the case, the composition of accents and the white space between words.
pub struct PlainMentions {
    automaton: Option<AhoCorasick>,
    /// By pattern.
    shapes: Vec<Shape>,
    phones: Vec<Vec<u8>>,
    /// For each pattern and each phone number what a text that holds it has; `None` when one of them leaves no such trace.
    features: Option<Vec<Vec<String>>>,
}

/// What must not stand beside a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Word,
    Email,
    Number,
}

impl PlainMentions {
    /// For each identity its kind (for the reader; only the values' form decides) and the spellings to look for. Values that are empty
    /// or only white space are left out. Values of one or two characters match whole words only, like all others: whether they are
    /// worth searching for is the caller's question.
    ///
    /// Fails when there are more values than an automaton can hold.
    pub fn new(values: Vec<(String, Vec<String>)>) -> crate::Result<PlainMentions> {
        let mut patterns: Vec<String> = Vec::new();
        let mut known: HashSet<String> = HashSet::new();
        let mut phones: Vec<Vec<u8>> = Vec::new();
        for value in values.iter().flat_map(|(_, variants)| variants) {
            // What is ASCII is not folded when searched (the automaton ignores its case), so patterns must not be told apart by it.
            let folded = Folded::new(value.trim()).text.to_ascii_lowercase();
            if !folded.is_empty() && known.insert(folded.clone()) {
                patterns.push(folded);
            }
            let digits: Vec<u8> = value.bytes().filter(u8::is_ascii_digit).collect();
            let dialled = value.bytes().all(|b| b.is_ascii_digit() || is_phone_sign(b)) && digits.len() >= PHONE_DIGITS;
            if dialled && !phones.contains(&digits) {
                phones.push(digits);
            }
        }
        let shapes = patterns.iter().map(|p| shape(p)).collect();
        let features = patterns.iter().map(|p| features::of_pattern(p)).chain(phones.iter().map(|p| vec![features::of_phone(p)]));
        let features = features.map(|group| (!group.is_empty()).then_some(group)).collect();
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .ascii_case_insensitive(true)
                    .match_kind(MatchKind::Standard)
                    .build(&patterns)
                    .map_err(|e| crate::Error::Refused(format!("too many identities to search for at once: {e}")))?,
            ),
        };
        Ok(PlainMentions { automaton, shapes, phones, features })
    }
}

fn shape(pattern: &str) -> Shape {
    if pattern.contains('@') {
        Shape::Email
    } else if pattern.chars().all(|c| c.is_numeric()) {
        Shape::Number
    } else {
        Shape::Word
    }
}

impl Mentions for PlainMentions {
    fn spans(&self, text: &str) -> Vec<Range<usize>> {
        let mut spans = Vec::new();
        if let Some(automaton) = &self.automaton {
            let folded = Folded::new(text);
            for hit in automaton.find_overlapping_iter(folded.text.as_bytes()) {
                let shape = self.shapes.get(hit.pattern().as_usize()).copied().unwrap_or(Shape::Word);
                if stands_alone(&folded.text, hit.start(), hit.end(), shape) {
                    spans.push(folded.origin(hit.start()..hit.end()));
                }
            }
        }
        if !self.phones.is_empty() {
            for run in digit_runs(text) {
                spans.extend(self.phones.iter().flat_map(|phone| run.find(text, phone)));
            }
        }
        merged(spans)
    }

    fn features(&self) -> Option<&[Vec<String>]> {
        self.features.as_deref()
    }
}

/// Text in the form that values are compared in, and where each byte of it came from.
struct Folded<'a> {
    text: Cow<'a, str>,
    /// For each byte the character of the original that it came from; `None`: the text is the original.
    origin: Option<Vec<Range<usize>>>,
}

impl<'a> Folded<'a> {
    fn new(text: &'a str) -> Folded<'a> {
        if is_folded(text) {
            return Folded { text: Cow::Borrowed(text), origin: None };
        }
        let mut origin: Vec<Range<usize>> = Vec::with_capacity(text.len());
        let text = fold(text, |length, span, joins| match origin.last_mut().filter(|_| joins) {
            Some(last) => last.end = span.end,
            None => origin.resize(length, span),
        });
        Folded { text: Cow::Owned(text), origin: Some(origin) }
    }

    fn origin(&self, span: Range<usize>) -> Range<usize> {
        let Some(origin) = &self.origin else { return span };
        let start = origin.get(span.start).map_or(0, |o| o.start);
        let end = span.end.checked_sub(1).and_then(|last| origin.get(last)).map_or(start, |o| o.end);
        start..end.max(start)
    }
}

/// Whether folding would change nothing but the case.
fn is_folded(text: &str) -> bool {
    let spaces = |pair: &[u8]| matches!(pair, [a, b] if a.is_ascii_whitespace() && b.is_ascii_whitespace());
    let odd_space = |b: &u8| b.is_ascii_control();
    text.is_ascii() && !text.as_bytes().windows(2).any(spaces) && !text.as_bytes().iter().any(odd_space)
}

/// The text in the form that values are compared in. `place` is told of each character that left something: the length of what there is
/// with it, where it stands, and whether it is white space that joins the white space before it.
fn fold(text: &str, mut place: impl FnMut(usize, Range<usize>, bool)) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let mut joins = false;
        match c {
            '!'..='~' => out.push(c.to_ascii_lowercase()),
            // Invisible: soft hyphen, zero-width space and joiners, word joiner, byte order mark.
            '\u{AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}' => continue,
            c if c.is_whitespace() => {
                joins = out.ends_with(' ');
                if !joins {
                    out.push(' ');
                }
            }
            '\u{2018}' | '\u{2019}' | '\u{2BC}' => out.push('\''),
            '\u{2010}' | '\u{2011}' => out.push('-'),
            c => c.to_lowercase().for_each(|l| decompose_canonical(l, |d| out.push(d))),
        }
        place(out.len(), at..at + c.len_utf8(), joins);
    }
    out
}

fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    c.is_alphanumeric() || is_combining_mark(c)
}

/// Whether a match is not a part of something longer.
fn stands_alone(text: &str, start: usize, end: usize, shape: Shape) -> bool {
    let (Some(before), Some(inside), Some(after)) = (text.get(..start), text.get(start..end), text.get(end..)) else { return false };
    let mut back = before.chars().rev();
    let mut ahead = after.chars();
    let (left, farther_left) = (back.next(), back.next());
    let (right, farther_right) = (ahead.next(), ahead.next());
    let edge = |c: Option<char>, neighbour: Option<char>| !(c.is_some_and(is_word) && neighbour.is_some_and(is_word));
    if !edge(inside.chars().next(), left) || !edge(inside.chars().next_back(), right) || right.is_some_and(is_combining_mark) {
        return false;
    }
    match shape {
        Shape::Word => true,
        // A longer local part, or a longer domain.
        Shape::Email => {
            let local = left.is_some_and(|c| features::LOCAL_SIGNS.contains(c)) && farther_left.is_some_and(is_word);
            let domain = right.is_some_and(|c| features::DOMAIN_SIGNS.contains(c)) && farther_right.is_some_and(is_word);
            !local && !domain
        }
        // 42 is not in 42.50, nor in 1.42.
        Shape::Number => {
            let fraction = |sign: Option<char>, digit: Option<char>| sign == Some('.') && digit.is_some_and(|c| c.is_ascii_digit());
            !fraction(left, farther_left) && !fraction(right, farther_right)
        }
    }
}

fn is_phone_sign(b: u8) -> bool {
    matches!(b, b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b'+')
}

/// Digits with nothing but phone signs between them, and where they are.
struct DigitRun {
    digits: Vec<u8>,
    places: Vec<usize>,
}

impl DigitRun {
    /// Where the digits of a phone number stand in the run as whole groups.
    fn find(&self, text: &str, phone: &[u8]) -> Vec<Range<usize>> {
        let digit = |at: Option<usize>| at.and_then(|i| text.as_bytes().get(i)).is_some_and(u8::is_ascii_digit);
        let finder = memchr::memmem::Finder::new(phone);
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(i) = self.digits.get(from..).and_then(|d| finder.find(d)).map(|i| i + from) {
            from = i + 1;
            let (Some(first), Some(last)) = (self.places.get(i), self.places.get(i + phone.len() - 1)) else { break };
            if !digit(first.checked_sub(1)) && !digit(Some(last + 1)) {
                let sign = first.checked_sub(1).filter(|i| text.as_bytes().get(*i) == Some(&b'+'));
                out.push(sign.unwrap_or(*first)..last + 1);
            }
        }
        out
    }
}

fn digit_runs(text: &str) -> Vec<DigitRun> {
    let mut runs = Vec::new();
    let mut run = DigitRun { digits: Vec::new(), places: Vec::new() };
    let mut gap = 0;
    let mut close = |run: &mut DigitRun| {
        // Most numbers are short, and there are many.
        if run.digits.len() >= PHONE_DIGITS {
            runs.push(std::mem::replace(run, DigitRun { digits: Vec::new(), places: Vec::new() }));
        } else {
            run.digits.clear();
            run.places.clear();
        }
    };
    for (at, b) in text.bytes().enumerate() {
        if b.is_ascii_digit() {
            run.digits.push(b);
            run.places.push(at);
            gap = 0;
        } else if is_phone_sign(b) && gap < PHONE_GAP {
            gap += 1;
        } else {
            close(&mut run);
            gap = 0;
        }
    }
    close(&mut run);
    runs
}

/// In order, overlapping ones joined.
fn merged(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|s| (s.start, s.end));
    let mut out: Vec<Range<usize>> = Vec::new();
    for span in spans.into_iter().filter(|s| !s.is_empty()) {
        match out.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => out.push(span),
        }
    }
    out
}

/// Finds identities of which only tokens are known, by making the tokens of everything in the text that could be one: words, runs
/// of words, e-mail addresses, numbers. Weaker than [`PlainMentions`]: a spelling that normalising does not bring back to the
/// value is not found, nor are composite identities.
pub struct TokenMentions<'a> {
    tokens: &'a dyn Tokens,
    normalize: Vec<Normalize>,
    words: usize,
}

impl<'a> TokenMentions<'a> {
    /// `normalize`: the ways in which wanted tokens were made. `words`: the most words that an identity has.
    pub fn new(tokens: &'a dyn Tokens, normalize: Vec<Normalize>, words: usize) -> TokenMentions<'a> {
        TokenMentions { tokens, normalize, words: words.max(1) }
    }

    fn wanted(&self, candidate: &str) -> bool {
        // A step that leaves digits only is for numbers; of prose it would make a number out of any word beside one.
        let letters = candidate.contains(char::is_alphabetic);
        self.normalize.iter().filter(|n| !(n.digits && letters)).any(|normalize| {
            let value = normalize.apply(Cow::Borrowed(candidate));
            !value.is_empty() && self.tokens.contains(&self.tokens.key().of_normalized(&[value]))
        })
    }

    /// Runs of up to `words` neighbours, white space between them as one space.
    fn runs(&self, text: &str, words: &[Range<usize>], spans: &mut Vec<Range<usize>>) {
        for (i, first) in words.iter().enumerate() {
            let mut candidate = String::new();
            let mut end = first.start;
            for word in words.iter().skip(i).take(self.words) {
                let between = text.get(end..word.start).unwrap_or("?");
                if !candidate.is_empty() {
                    if between.is_empty() || !between.chars().all(char::is_whitespace) {
                        break;
                    }
                    candidate.push(' ');
                }
                candidate.push_str(text.get(word.clone()).unwrap_or_default());
                end = word.end;
                if self.wanted(&candidate) {
                    spans.push(first.start..end);
                }
            }
        }
    }
}

impl Mentions for TokenMentions<'_> {
    fn spans(&self, text: &str) -> Vec<Range<usize>> {
        let mut spans = Vec::new();
        if self.tokens.is_empty() {
            return spans;
        }
        // Words as white space parts them, punctuation around them left out: O'Neil, Jean-Luc, ann@x.org.
        let spaced: Vec<Range<usize>> = split(text, |c| !c.is_whitespace())
            .into_iter()
            .filter_map(|w| {
                let word = text.get(w.clone())?;
                let start = w.start + word.find(is_word)?;
                let last = word.char_indices().rfind(|(_, c)| is_word(*c))?;
                Some(start..w.start + last.0 + last.1.len_utf8())
            })
            .collect();
        self.runs(text, &spaced, &mut spans);
        // Letters and digits only: Lee in "Lee's", 4711 in "id=4711;".
        let plain = split(text, is_word);
        if plain != spaced {
            self.runs(text, &plain, &mut spans);
        }
        let mut alone = |candidates: Vec<Range<usize>>| {
            for candidate in candidates {
                if text.get(candidate.clone()).is_some_and(|c| self.wanted(c)) {
                    spans.push(candidate);
                }
            }
        };
        // Addresses within brackets, quotes and links.
        let mut addresses = split(text, |c| is_word(c) || "@._%+-".contains(c));
        addresses.retain(|a| text.get(a.clone()).is_some_and(|a| a.contains('@')));
        for address in &mut addresses {
            let trimmed = text.get(address.clone()).unwrap_or_default().trim_end_matches(['.', '-', '%', '+']);
            address.end = address.start + trimmed.len();
        }
        alone(addresses);
        // Numbers in groups, with the sign before them.
        let numbers = digit_runs(text).into_iter().filter_map(|r| Some(*r.places.first()?..*r.places.last()? + 1));
        let numbers: Vec<Range<usize>> = numbers
            .flat_map(|n| {
                let signed = n.start.checked_sub(1).filter(|i| text.as_bytes().get(*i) == Some(&b'+')).map(|i| i..n.end);
                [Some(n), signed]
            })
            .flatten()
            .collect();
        alone(numbers);
        merged(spans)
    }
}

/// Maximal runs of characters for which this holds.
fn split(text: &str, inside: impl Fn(char) -> bool) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (inside(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                out.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    out.extend(start.map(|from| from..text.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datamap::{TokenKey, TokenSet};
    use proptest::prelude::*;

    fn plain(values: &[&str]) -> PlainMentions {
        PlainMentions::new(vec![("any".into(), values.iter().map(|v| v.to_string()).collect())]).unwrap()
    }

    fn found<'t>(mentions: &dyn Mentions, text: &'t str) -> Vec<&'t str> {
        mentions.spans(text).into_iter().map(|s| &text[s]).collect()
    }

    #[test]
    fn whole_words_only() {
        let m = plain(&["Ann", "42"]);
        assert_eq!(found(&m, "Ann's Annual, joann; ANN. ann"), ["Ann", "ANN", "ann"]);
        assert_eq!(found(&m, "42, id=42; 142 42.50 1.42 A42 (42)."), ["42", "42", "42"]);
    }

    #[test]
    fn case_accents_and_space_may_differ() {
        let m = plain(&["José  Müller", "O'Neil"]);
        let text = "JOSE\u{301}\n\u{a0}MÜLLER and jos\u{e9} mu\u{308}ller, Jose Müller; O\u{2019}NEIL";
        assert_eq!(found(&m, text), ["JOSE\u{301}\n\u{a0}MÜLLER", "jos\u{e9} mu\u{308}ller", "O\u{2019}NEIL"]);
        assert_eq!(found(&plain(&["jose"]), "josé jose\u{301} jose"), ["jose"]);
        assert_eq!(found(&plain(&["Annabel"]), "Anna\u{ad}bel"), ["Anna\u{ad}bel"]);
    }

    #[test]
    fn addresses_of_others_are_left_alone() {
        let m = plain(&["ann@x.org"]);
        assert_eq!(found(&m, "joann@x.org mary.ann@x.org ann@x.org.uk ann@x.orgy"), Vec::<&str>::new());
        assert_eq!(found(&m, "mailto:Ann@X.org. <ann@x.org>, -ann@x.org-"), ["Ann@X.org", "ann@x.org", "ann@x.org"]);
    }

    #[test]
    fn phone_numbers_are_found_in_other_spellings() {
        let m = plain(&["+49 170 1234567"]);
        assert_eq!(found(&m, "call +49 (170) 123-45-67 or 491701234567; not 4917012345678"), ["+49 (170) 123-45-67", "491701234567"]);
    }

    #[test]
    fn overlapping_mentions_become_one() {
        assert_eq!(found(&plain(&["Ann Lee", "Lee Grant", "Ann"]), "Ann Lee Grant, Ann"), ["Ann Lee Grant", "Ann"]);
        assert_eq!(found(&plain(&["", "  "]), "nothing here"), Vec::<&str>::new());
    }

    #[test]
    fn tokens_alone_find_the_same_mentions() {
        let key = TokenKey::new(zeroize::Zeroizing::new([4; 32]));
        let mut wanted = TokenSet::new(&key);
        for value in ["ann@x.org", "ann lee", "4711", "491701234567", "o'neil"] {
            wanted.insert_token(key.of_normalized(&[value]));
        }
        let normalize =
            vec![Normalize { nfc: true, trim: true, lower: true, digits: false }, Normalize { digits: true, ..Normalize::default() }];
        let m = TokenMentions::new(&wanted, normalize, 3);
        let text = "From <Ann@x.org>. Ann\n Lee's id=4711; O'Neil, call +49 170 1234567; ann@x.org.uk, 47112";
        assert_eq!(found(&m, text), ["Ann@x.org", "Ann\n Lee", "4711", "O'Neil", "+49 170 1234567"]);
        assert!(TokenMentions::new(&TokenSet::new(&key), vec![Normalize::default()], 3).spans("Ann").is_empty());
    }

    proptest! {
        #[test]
        fn spans_are_in_order_and_on_characters(values in proptest::collection::vec("[a-cé ß@.1+İ]{0,5}", 0..4), text in "[a-cÉé\u{301} ß@.1+\nİ\u{ad}-]{0,40}") {
            let key = TokenKey::new(zeroize::Zeroizing::new([4; 32]));
            let mut wanted = TokenSet::new(&key);
            for v in &values {
                wanted.insert_values(vec![v.clone()]);
            }
            let plain = plain(&values.iter().map(String::as_str).collect::<Vec<_>>());
            let token = TokenMentions::new(&wanted, Normalize::all().collect(), 3);
            for mentions in [&plain as &dyn Mentions, &token] {
                let mut end = 0;
                for span in mentions.spans(&text) {
                    prop_assert!(span.start >= end && span.start < span.end);
                    prop_assert!(text.get(span.clone()).is_some());
                    end = span.end;
                }
            }
        }
    }
}
