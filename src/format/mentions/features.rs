//! Features: short strings that a text must have when it mentions somebody, so that a small filter over them tells which pieces of an
//! entry cannot mention a person without opening one ([`crate::format::text_filter`]). They are taken from exactly the form
//! that [`PlainMentions`](super::PlainMentions) compares, which is why they stand beside it:
//!
//! - every **word**, a longest run of letters, digits and combining marks of the folded text. A value is found only where no such
//!   character of its own has another for a neighbour, so each word of the value is a whole word of the text;
//! - every **e-mail address**, from its first to its last word. An address is not found within a longer one, so they are equal;
//! - the last seven digits of every group of digits that could end a **phone number**, written `#1234567`. A phone number is found
//!   where its digits follow each other, whatever stands between, and a group ends with them.

use super::{DigitRun, PHONE_DIGITS, digit_runs, fold, is_folded, is_word};

/// Signs that carry the local part of an address on, and its domain: as in [`super::stands_alone`].
pub(super) const LOCAL_SIGNS: &str = "._%+-";
pub(super) const DOMAIN_SIGNS: &str = ".-";

/// Calls `each` with every feature of a text, some more than once.
pub fn of_text(text: &str, mut each: impl FnMut(&str)) {
    // Text that only differs by its case was not folded, but is compared without regard to it.
    let folded = if is_folded(text) { text.to_ascii_lowercase() } else { fold(text, |_, _, _| {}) };
    of_folded(&folded, &mut each);
    for run in digit_runs(text) {
        run.ends(text, &mut each);
    }
}

/// Features that every text has in which this pattern (folded, lower case) is found; none where nothing can be told.
pub(super) fn of_pattern(pattern: &str) -> Vec<String> {
    let mut out = Vec::new();
    let whole = pattern.chars().next().is_some_and(is_word) && pattern.chars().next_back().is_some_and(is_word);
    of_folded(pattern, &mut |feature: &str| {
        // A value that begins or ends with a sign may be found where the sign carries on somebody else's address.
        if whole || !feature.contains('@') {
            out.push(feature.to_string());
        }
    });
    out.sort_unstable();
    out.dedup();
    out
}

/// The feature of a phone number's digits.
pub(super) fn of_phone(digits: &[u8]) -> String {
    let last = digits.get(digits.len().saturating_sub(PHONE_DIGITS)..).unwrap_or_default();
    std::iter::once('#').chain(last.iter().map(|d| char::from(*d))).collect()
}

fn of_folded(folded: &str, each: &mut impl FnMut(&str)) {
    let mut word = None;
    for (at, c) in folded.char_indices() {
        match (is_word(c), word) {
            (true, None) => word = Some(at),
            (false, Some(from)) => {
                each(folded.get(from..at).unwrap_or_default());
                word = None;
            }
            _ => {}
        }
    }
    if let Some(from) = word {
        each(folded.get(from..).unwrap_or_default());
    }
    for at in memchr::memchr_iter(b'@', folded.as_bytes()) {
        let (local, domain) = folded.split_at(at);
        let domain = domain.get(1..).unwrap_or_default();
        let (start, len) = (local_start(local), domain_end(domain));
        if start < at && len > 0 {
            each(folded.get(start..at + 1 + len).unwrap_or_default());
        }
    }
}

/// Where the words before an `@` begin that single signs join.
fn local_start(text: &str) -> usize {
    let mut start = text.len();
    loop {
        let before = text.get(..start).unwrap_or_default();
        let word = before.trim_end_matches(is_word).len();
        if word == before.len() {
            return start.min(text.len());
        }
        let mut back = text.get(..word).unwrap_or_default().chars().rev();
        match (back.next(), back.next()) {
            (Some(sign), Some(next)) if LOCAL_SIGNS.contains(sign) && is_word(next) => start = word - sign.len_utf8(),
            _ => return word,
        }
    }
}

/// How far the words behind an `@` go that single signs join.
fn domain_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        let after = text.get(end..).unwrap_or_default();
        let rest = after.trim_start_matches(is_word);
        if rest.len() == after.len() {
            return end;
        }
        end = text.len() - rest.len();
        let mut ahead = rest.chars();
        match (ahead.next(), ahead.next()) {
            (Some(sign), Some(next)) if DOMAIN_SIGNS.contains(sign) && is_word(next) => end += sign.len_utf8(),
            _ => return end,
        }
    }
}

impl DigitRun {
    /// The features of the phone numbers that could end within the run.
    fn ends(&self, text: &str, each: &mut impl FnMut(&str)) {
        for (window, last) in self.digits.windows(PHONE_DIGITS).zip(self.places.iter().skip(PHONE_DIGITS - 1)) {
            if !text.as_bytes().get(last + 1).is_some_and(u8::is_ascii_digit) {
                each(&of_phone(window));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mentions, PlainMentions};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn features(text: &str) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        of_text(text, |f| {
            out.insert(f.to_string());
        });
        out
    }

    fn set(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn words_addresses_and_phone_numbers_are_features() {
        assert_eq!(features("O'NEIL,  Jose\u{301}"), set(&["o", "neil", "jose\u{301}"]));
        assert_eq!(
            features("<Mary-Ann.Lee+x@Sub.Example.org>."),
            set(&["mary", "ann", "lee", "x", "sub", "example", "org", "mary-ann.lee+x@sub.example.org"])
        );
        assert_eq!(features("a--b@x..y @z c@"), set(&["a", "b", "x", "y", "z", "c", "b@x"]));
        assert_eq!(features("+49 (170) 123-45-67"), set(&["49", "170", "123", "45", "67", "#9170123", "#7012345", "#1234567"]));
        assert_eq!(features("…!"), set(&[]));
    }

    #[test]
    fn a_value_without_a_word_may_be_anywhere() {
        let plain = |values: &[&str]| PlainMentions::new(vec![("any".into(), values.iter().map(|v| v.to_string()).collect())]).unwrap();
        assert_eq!(plain(&["ann@x.org", "***"]).features(), None);
        assert_eq!(plain(&["", " "]).features(), Some([].as_slice()));
        let lee = plain(&["Ann Lee", "+49 170 1234567"]);
        let groups = lee.features().unwrap();
        assert_eq!(groups, [vec!["ann", "lee"], vec!["1234567", "170", "49"], vec!["#1234567"]]);
        // What begins with a sign is found where that sign carries on another's address.
        let odd = plain(&["-ann@x.org"]);
        assert!(!odd.spans("b-ann@x.org").is_empty());
        assert_eq!(odd.features().unwrap(), [vec!["ann", "org", "x"]]);
    }

    /// Pieces of text that meet the matcher's special cases.
    fn bits() -> impl Strategy<Value = String> {
        let special = prop::sample::select(vec![
            "ann",
            "Ann",
            "LEE",
            "o'neil",
            "\u{2019}",
            "é",
            "e\u{301}",
            "É",
            "\u{301}",
            "\u{ad}",
            "\u{200b}",
            "\u{feff}",
            "İ",
            "i\u{307}",
            "ß",
            "ſ",
            "K",
            "Å",
            "\u{1e9b}\u{323}",
            " ",
            "  ",
            "\t",
            "\n",
            "\u{a0}",
            "\u{2003}",
            "\0",
            ".",
            "..",
            "-",
            "\u{2010}",
            "_",
            "%",
            "+",
            "@",
            "@@",
            "'",
            ",",
            "(",
            ")",
            "/",
            "ann@x.org",
            "b.ann@x.org",
            "x.org.uk",
            "42",
            "42.50",
            "1.42",
            "+49 170 1234567",
            "0170/1234567",
            "(0170) 123-45-67",
            "1234567",
            "170123456",
            "\u{663}\u{664}",
            "\u{ff11}\u{ff12}",
            "ǆ",
            "ﬁ",
            "🦀",
            "中",
            "한",
            "\u{1100}\u{1161}",
            "ा",
            "क",
        ]);
        prop_oneof![6 => special.prop_map(String::from), 1 => "[a-c0-9]{1,3}", 1 => any::<char>().prop_map(String::from)]
    }

    fn text(most: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(bits(), 0..most).prop_map(|parts| parts.concat())
    }

    /// A value, and a text made around another spelling of it.
    fn around(value: &str, before: &str, after: &str, how: u8) -> String {
        use unicode_normalization::UnicodeNormalization;
        let spelled = match how % 7 {
            0 => value.to_string(),
            1 => value.to_uppercase(),
            2 => value.nfd().collect(),
            3 => value.nfc().collect(),
            4 => value.replace(' ', "\u{a0}\n "),
            5 => value.chars().flat_map(|c| [c, '\u{200b}']).collect(),
            _ => value.chars().filter(char::is_ascii_digit).flat_map(|c| [c, '-']).collect(),
        };
        format!("{before}{spelled}{after}")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn whoever_is_mentioned_has_all_features_in_the_text(
            values in proptest::collection::vec(text(5), 1..4),
            before in text(4), after in text(4), how in any::<u8>(), loose in text(12),
        ) {
            let mentions = PlainMentions::new(vec![("any".into(), values.clone())]).unwrap();
            for text in [around(&values[0], &before, &after, how), loose] {
                let Some(groups) = mentions.features() else { continue };
                let has = features(&text);
                let may = groups.iter().any(|g| g.iter().all(|f| has.contains(f)));
                prop_assert!(may || mentions.spans(&text).is_empty(), "{:?} in {:?}", values, text);
            }
        }
    }
}
