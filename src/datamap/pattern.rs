//! Entry patterns: which entries a collection speaks of, and the identities that a path itself carries.
//!
//! A pattern is matched against the entry's path as `show --entries` prints it: `*` is anything but `/`, `?` one character but `/`,
//! `**` anything (`dir/**` also means everything below `dir`, `**/` also nothing at all), `{kind}` one or more bytes but `/` that
//! are an identity of that kind. `\` takes the next character literally. A pattern without `/` is matched against the last
//! component at any depth, as in a `.gitignore`; a leading `/` pins it to the top instead.
//!
//! globset alone would not do: paths are bytes, placeholders capture, and what they capture decides whose file it is.

use super::model::{EntryPattern, PatternPiece};
use crate::repository::entry::display_path;
use std::collections::HashSet;

/// Longest pattern, in bytes.
const MAX_LENGTH: usize = 4096;

impl EntryPattern {
    /// Compiles a pattern. The message says what is wrong with it.
    pub fn parse(source: &str) -> Result<EntryPattern, String> {
        if source.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes"));
        }
        let pinned = source.strip_prefix('/').or_else(|| source.strip_prefix("./"));
        let text = pinned.unwrap_or(source);
        if text.is_empty() {
            return Err("a pattern cannot be empty; `**` means every entry".into());
        }
        if text.split('/').any(|part| part == ".." || part == ".") {
            return Err("a pattern names stored paths, which have no `.` or `..` components".into());
        }
        let mut pieces = pieces(text)?;
        if text.ends_with('/') {
            pieces.push(PatternPiece::DoubleStar);
        }
        if pinned.is_none() && !text.contains('/') && pieces != [PatternPiece::DoubleStar] {
            pieces.splice(0..0, [PatternPiece::DoubleStar, PatternPiece::Literal("/".into())]);
        }
        let placeholders: Vec<String> =
            pieces.iter().filter_map(|p| if let PatternPiece::Identity(kind) = p { Some(kind.clone()) } else { None }).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = placeholders.iter().find(|k| !seen.insert(k.as_str())) {
            return Err(format!("{{{twice}}} stands in it twice"));
        }
        let variable = |p: &PatternPiece| !matches!(p, PatternPiece::Literal(_));
        let ambiguous = |a: &PatternPiece, b: &PatternPiece| {
            variable(a) && variable(b) && [a, b].iter().any(|p| matches!(p, PatternPiece::Identity(_)))
        };
        if pieces.windows(2).any(|w| matches!(w, [a, b] if ambiguous(a, b))) {
            return Err("where a placeholder ends cannot be told: put a literal between it and the next `*`, `?` or placeholder".into());
        }
        let folder = folder(&pieces);
        Ok(EntryPattern { source: source.to_string(), placeholders, needle: needle(&pieces), folder, pieces })
    }

    /// Whether the entry with this path is meant, and if so the identities (kind, value) that its path carries, in the order of
    /// the placeholders. Where a placeholder could end at several places, it ends at the first.
    ///
    /// A captured value that is not UTF-8 is given as [`super::Value::canonical`] gives such bytes: `x'6a61…'`.
    pub fn matches(&self, path: &[u8]) -> Option<Vec<(String, String)>> {
        // Most entries are rejected by their last bytes, or because what must stand in them does not: a backup asks this for each of perhaps a
        // million, an erasure for those of each archive.
        if matches!(self.pieces.last(), Some(PatternPiece::Literal(end)) if !path.ends_with(end.trim_start_matches('/').as_bytes())) {
            return None;
        }
        memchr::memmem::find(path, self.needle.as_bytes())?;
        self.captures(&self.pieces, path)
    }

    fn captures(&self, pieces: &[PatternPiece], path: &[u8]) -> Option<Vec<(String, String)>> {
        let mut failed = HashSet::new();
        let mut captures = Vec::new();
        if !matches_from(pieces, path, 0, 0, &mut captures, &mut failed) {
            return None;
        }
        let value = |(from, to): (usize, usize)| {
            let bytes = path.get(from..to).unwrap_or_default();
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_string(),
                Err(_) => format!("x'{}'", hex::encode(bytes)),
            }
        };
        Some(self.placeholders.iter().cloned().zip(captures.into_iter().map(value)).collect())
    }

    /// Like [`EntryPattern::matches`], for a folder on the way to what the pattern means, if its own path already carries every identity:
    /// of `users/{email}/profile.json`, the folder `users/jane@example.org`.
    pub fn matches_folder(&self, path: &[u8]) -> Option<Vec<(String, String)>> {
        self.captures(self.folder.as_deref()?, path)
    }

    /// Whether the entry with this path is meant.
    pub fn is_match(&self, path: &[u8]) -> bool {
        self.matches(path).is_some()
    }

    /// The path for messages and logs: what placeholders captured is shown as `{kind}`, since it names a person.
    pub fn display(&self, path: &[u8]) -> String {
        let (mut failed, mut captures) = (HashSet::new(), Vec::new());
        if self.placeholders.is_empty() || !matches_from(&self.pieces, path, 0, 0, &mut captures, &mut failed) {
            return display_path(path);
        }
        let (mut out, mut end) = (String::new(), 0);
        for (kind, (from, to)) in self.placeholders.iter().zip(captures) {
            out += &display_path(path.get(end..from).unwrap_or_default());
            out += &format!("{{{kind}}}");
            end = to;
        }
        out + &display_path(path.get(end..).unwrap_or_default())
    }

    /// Whether it can match one path only.
    pub fn is_literal(&self) -> bool {
        matches!(self.pieces.as_slice(), [PatternPiece::Literal(_)])
    }
}

impl PartialEq for EntryPattern {
    fn eq(&self, other: &EntryPattern) -> bool {
        self.pieces == other.pieces
    }
}

fn pieces(text: &str) -> Result<Vec<PatternPiece>, String> {
    let mut pieces: Vec<PatternPiece> = Vec::new();
    let mut chars = text.chars().peekable();
    let literal = |pieces: &mut Vec<PatternPiece>, c: char| match pieces.last_mut() {
        Some(PatternPiece::Literal(text)) => text.push(c),
        _ => pieces.push(PatternPiece::Literal(c.to_string())),
    };
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                while chars.next_if_eq(&'*').is_some() {}
                if pieces.last() != Some(&PatternPiece::DoubleStar) {
                    pieces.push(PatternPiece::DoubleStar);
                }
            }
            '*' => pieces.push(PatternPiece::Star),
            '?' => pieces.push(PatternPiece::One),
            '{' => {
                let kind: String = std::iter::from_fn(|| chars.next_if(|c| *c != '}')).collect();
                if chars.next() != Some('}') {
                    return Err("`{` without `}`; write `\\{` for the character itself".into());
                }
                if kind.is_empty() || !kind.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-' || c == '.') {
                    return Err(format!(
                        "{{{kind}}} is not the name of an identity kind (alternatives in braces are not supported; list several collections or use `*`)"
                    ));
                }
                pieces.push(PatternPiece::Identity(kind));
            }
            '\\' => literal(&mut pieces, chars.next().ok_or("`\\` at the end takes nothing literally")?),
            '[' => return Err("character classes are not supported; write `?`, or `\\[` for the character itself".into()),
            '}' => return Err("`}` without `{`; write `\\}` for the character itself".into()),
            c => literal(&mut pieces, c),
        }
    }
    Ok(pieces)
}

/// What stands in every path that is meant: the longest literal, without the `/` that `**/` may leave out.
fn needle(pieces: &[PatternPiece]) -> String {
    let literals =
        pieces.iter().filter_map(|p| if let PatternPiece::Literal(text) = p { Some(text.trim_start_matches('/')) } else { None });
    literals.max_by_key(|text| text.len()).unwrap_or_default().to_string()
}

/// The pattern of a folder that carries every identity in its path already, on the way to what is meant: up to the end of the component in which
/// the last placeholder stands.
fn folder(pieces: &[PatternPiece]) -> Option<Vec<PatternPiece>> {
    let last = pieces.iter().rposition(|p| matches!(p, PatternPiece::Identity(_)))?;
    let mut out: Vec<PatternPiece> = pieces.get(..=last)?.to_vec();
    for piece in pieces.get(last + 1..)? {
        match piece {
            PatternPiece::Literal(text) => {
                let (before, after) = text.split_once('/').map_or((text.as_str(), None), |(b, a)| (b, Some(a)));
                if !before.is_empty() {
                    out.push(PatternPiece::Literal(before.to_string()));
                }
                if after.is_some() {
                    return Some(out);
                }
            }
            PatternPiece::DoubleStar => return None,
            other => out.push(other.clone()),
        }
    }
    None
}

/// Backtracking with a memory of what failed, so that no pattern takes more than (pieces × path length) steps of work each.
fn matches_from(
    pieces: &[PatternPiece],
    path: &[u8],
    piece: usize,
    at: usize,
    captures: &mut Vec<(usize, usize)>,
    failed: &mut HashSet<(usize, usize)>,
) -> bool {
    let Some(current) = pieces.get(piece) else { return at == path.len() };
    if failed.contains(&(piece, at)) {
        return false;
    }
    let rest = path.get(at..).unwrap_or_default();
    let until_slash = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    let matched = match current {
        PatternPiece::Literal(text) => {
            let text = text.as_bytes();
            rest.starts_with(text) && matches_from(pieces, path, piece + 1, at + text.len(), captures, failed)
        }
        PatternPiece::One => until_slash > 0 && matches_from(pieces, path, piece + 1, at + first_char(rest), captures, failed),
        PatternPiece::Star => (0..=until_slash).any(|n| matches_from(pieces, path, piece + 1, at + n, captures, failed)),
        PatternPiece::DoubleStar => {
            // `**/` also stands for nothing, but only where a component begins.
            let after_slash = at == 0 || path.get(at - 1) == Some(&b'/');
            let optional = match pieces.get(piece + 1) {
                Some(PatternPiece::Literal(text)) if after_slash => text.strip_prefix('/'),
                _ => None,
            };
            let skipped = optional.is_some_and(|text| {
                rest.starts_with(text.as_bytes()) && matches_from(pieces, path, piece + 2, at + text.len(), captures, failed)
            });
            skipped || (0..=rest.len()).any(|n| matches_from(pieces, path, piece + 1, at + n, captures, failed))
        }
        PatternPiece::Identity(_) => (1..=until_slash).any(|n| {
            captures.push((at, at + n));
            let matched = matches_from(pieces, path, piece + 1, at + n, captures, failed);
            if !matched {
                captures.pop();
            }
            matched
        }),
    };
    if !matched {
        failed.insert((piece, at));
    }
    matched
}

/// Length of the first character; of one byte where the bytes are not UTF-8.
fn first_char(bytes: &[u8]) -> usize {
    let len = match bytes.first() {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => 1,
    };
    if bytes.get(..len).is_some_and(|b| std::str::from_utf8(b).is_ok()) { len } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captured(pattern: &str, path: &str) -> Option<Vec<String>> {
        let found = EntryPattern::parse(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).matches(path.as_bytes());
        found.map(|f| f.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
    }

    #[test]
    fn paths_match_as_people_expect() {
        for (pattern, yes, no) in [
            ("crm.db", &["crm.db", "data/crm.db", "a/b/crm.db"][..], &["xcrm.db", "crm.db/x", "crm.db2"][..]),
            ("/crm.db", &["crm.db"], &["data/crm.db"]),
            ("./crm.db", &["crm.db"], &["data/crm.db"]),
            ("data/crm.db", &["data/crm.db"], &["x/data/crm.db", "crm.db"]),
            ("exports/*.csv", &["exports/a.csv", "exports/.csv"], &["exports/a/b.csv", "exports/a.csv.gz"]),
            ("*.csv", &["a.csv", "x/y/a.csv"], &["a.csv/b"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb", "x/a/b"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab/c"]),
            ("a/", &["a/b", "a/b/c"], &["a", "ab/c"]),
            ("**/a", &["a", "x/a", "x/y/a"], &["xa", "a/b"]),
            ("**", &["a", "a/b"], &[]),
            ("a?c", &["abc", "x/aüc"], &["ac", "a/c", "abbc"]),
            ("a\\*\\[1\\]", &["a*[1]"], &["ab[1]"]),
            ("log-**.txt", &["log-1.txt"], &["x.txt"]),
        ] {
            let compiled = EntryPattern::parse(pattern).unwrap();
            for path in yes {
                assert!(compiled.is_match(path.as_bytes()), "{pattern} should match {path}");
            }
            for path in no {
                assert!(!compiled.is_match(path.as_bytes()), "{pattern} should not match {path}");
            }
        }
    }

    #[test]
    fn placeholders_capture_identities() {
        assert_eq!(captured("uploads/{customer_id}/**", "uploads/42/a/b.png").unwrap(), ["customer_id=42"]);
        assert_eq!(captured("uploads/{customer_id}/**", "uploads//b.png"), None);
        assert_eq!(captured("uploads/{customer_id}/**", "uploads/42"), None);
        assert_eq!(captured("mail/{email}.mbox", "mail/jane.d@example.org.mbox").unwrap(), ["email=jane.d@example.org"]);
        assert_eq!(captured("{id}-*.png", "x/a-b-c.png").unwrap(), ["id=a"]);
        assert_eq!(captured("u/{id}-{kind}.png", "u/7-face.png").unwrap(), ["id=7", "kind=face"]);
        assert_eq!(captured("**/{id}/f", "7/f").unwrap(), ["id=7"]);
    }

    #[test]
    fn folders_on_the_way_carry_the_identity_too() {
        for (pattern, yes, no) in [
            ("uploads/{id}/**", &["uploads/42"][..], &["uploads", "uploads/42/a", "x/uploads/42"][..]),
            ("**/mail/people/{id}/**", &["mail/people/42", "a/mail/people/42"], &["mail/people", "mail/people/42/1.eml"]),
            ("u/{id}-x/p.json", &["u/7-x"], &["u/7", "u/7-x/p.json"]),
            ("u/{id}.png", &[], &["u", "u/7.png"]),
            ("u/x/**", &[], &["u/x"]),
        ] {
            let compiled = EntryPattern::parse(pattern).unwrap();
            for path in yes {
                assert!(compiled.matches_folder(path.as_bytes()).is_some(), "{pattern} should mean the folder {path}");
            }
            for path in no {
                assert!(compiled.matches_folder(path.as_bytes()).is_none(), "{pattern} should not mean the folder {path}");
            }
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_matches_too() {
        let pattern = EntryPattern::parse("u/{id}/*").unwrap();
        assert_eq!(pattern.matches(b"u/\xff1/\xfe").unwrap(), [("id".to_string(), "x'ff31'".to_string())]);
        assert!(EntryPattern::parse("a?c").unwrap().is_match(b"a\xffc"));
    }

    #[test]
    fn messages_show_the_kind_instead_of_the_person() {
        let pattern = EntryPattern::parse("u/{email}/**").unwrap();
        assert_eq!(pattern.display(b"u/jane@example.org/a.png"), "u/{email}/a.png");
        assert_eq!(pattern.display(b"other"), "other");
    }

    #[test]
    fn mistakes_are_refused_with_a_reason() {
        for (pattern, part) in [
            ("", "cannot be empty"),
            ("a/../b", "`..` components"),
            ("{a", "without `}`"),
            ("a}", "without `{`"),
            ("{a,b}.csv", "alternatives"),
            ("{a}*", "cannot be told"),
            ("{a}{b}", "cannot be told"),
            ("**{a}", "cannot be told"),
            ("{a}/{a}", "twice"),
            ("[ab].csv", "character classes"),
            ("a\\", "at the end"),
        ] {
            let error = EntryPattern::parse(pattern).unwrap_err();
            assert!(error.contains(part), "{pattern}: {error}");
        }
    }

    /// The same pattern for globset.
    fn globset(pieces: &[PatternPiece]) -> globset::GlobMatcher {
        let mut out = String::new();
        for piece in pieces {
            match piece {
                PatternPiece::Literal(text) => {
                    for c in text.chars() {
                        match c {
                            '[' | ']' | '{' | '}' | '*' | '?' | '\\' | ',' | '!' => out.extend(['[', c, ']']),
                            c => out.push(c),
                        }
                    }
                }
                PatternPiece::Star | PatternPiece::Identity(_) => out.push('*'),
                PatternPiece::One => out.push('?'),
                PatternPiece::DoubleStar => out += "**",
            }
        }
        globset::GlobBuilder::new(&out).literal_separator(true).build().unwrap().compile_matcher()
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_and_paths_never_panic(pattern in "[a/*?{}\\\\.ü]{0,12}", path in any::<Vec<u8>>()) {
            if let Ok(compiled) = EntryPattern::parse(&pattern) {
                if let Some(found) = compiled.matches(&path) {
                    prop_assert_eq!(found.len(), compiled.placeholders.len());
                }
                compiled.display(&path);
            }
        }

        #[test]
        fn nothing_that_is_meant_is_passed_over(pattern in "[ab/*?{}k]{1,10}", path in "/?[abk]{1,2}(/[abk]{0,2}){0,3}") {
            if let Ok(compiled) = EntryPattern::parse(&pattern) {
                let slow = compiled.captures(&compiled.pieces, path.as_bytes());
                prop_assert_eq!(compiled.matches(path.as_bytes()), slow);
            }
        }

        #[test]
        fn a_path_matches_itself(path in "[a-z0-9_.]{1,5}(/[a-z0-9_]{1,5}){0,3}") {
            prop_assume!(!path.split('/').any(|p| p == "." || p == ".."));
            prop_assert!(EntryPattern::parse(&path).unwrap().is_match(path.as_bytes()));
        }

        #[test]
        fn the_glob_agrees_with_the_pattern(pattern in "[ab/*?]{1,8}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
            // globset takes `**` between slashes only; elsewhere the two may differ.
            prop_assume!(!pattern.contains("**"));
            prop_assume!(pattern.contains('/') && !pattern.ends_with('/'));
            if let Ok(compiled) = EntryPattern::parse(&pattern) {
                prop_assert_eq!(compiled.is_match(path.as_bytes()), globset(&compiled.pieces).is_match(&path));
            }
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let compiled = EntryPattern::parse(&"*a".repeat(30)).unwrap();
        assert!(!compiled.is_match(&vec![b'a'; 500].iter().chain(b"b").copied().collect::<Vec<_>>()));
    }
}
