//! Patterns that choose paths, with the rules people know from `.gitignore`, so that nobody has to learn others: what to
//! leave out of a backup, what to take, what to restore.

use crate::error::{Error, Result};
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// An ordered list of patterns over stored paths.
///
/// - A pattern without `/` is compared with the last name of a path, at any depth: `*.tmp`, `node_modules`.
/// - A pattern with a `/` in front or within is compared with the whole stored path: `/var/cache`, `var/*/tmp`, `**/cache/*.bin`.
///   Stored paths have no leading `/`, so the one in front only says "from the top".
/// - A `/` at the end makes a pattern match folders only.
/// - `*` and `?` stop at `/`, `**` does not; `[a-z]` and `{a,b}` work; `\` takes the next character literally.
/// - A `!` in front takes back what earlier patterns matched: the last pattern that matches decides.
///
/// A folder that matches stands for everything below it; the callers see to that.
#[derive(Debug, Clone, Default)]
pub struct PathGlobs {
    set: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    folders_only: bool,
    takes_back: bool,
}

impl PathGlobs {
    /// Compiles patterns. Fails with `Usage`, naming the first pattern that is wrong.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<PathGlobs> {
        let mut set = GlobSetBuilder::new();
        let mut rules = Vec::with_capacity(patterns.len());
        for written in patterns {
            let written = written.as_ref();
            let wrong = |why: String| Error::Usage(format!("pattern {written:?}: {why}"));
            let (takes_back, rest) = match written.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, written),
            };
            let (folders_only, rest) = match rest.strip_suffix('/') {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            let anchored = rest.contains('/');
            let rest = rest.strip_prefix("./").unwrap_or(rest).trim_start_matches('/');
            if rest.is_empty() {
                return Err(wrong("matches nothing".to_string()));
            }
            let pattern = if anchored { rest.to_string() } else { format!("**/{rest}") };
            let glob = GlobBuilder::new(&pattern)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|e| wrong(e.kind().to_string()))?;
            set.add(glob);
            rules.push(Rule { folders_only, takes_back });
        }
        let set = set.build().map_err(|e| Error::Usage(format!("patterns: {}", e.kind())))?;
        Ok(PathGlobs { set, rules })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the path itself matches; `folder` says what it is. Folders above are not asked.
    pub fn matches(&self, path: &[u8], folder: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let candidate = Candidate::new(OsStr::from_bytes(path));
        let hits = self.set.matches_candidate(&candidate);
        let last = hits.iter().rev().filter_map(|i| self.rules.get(*i)).find(|r| folder || !r.folders_only);
        last.is_some_and(|r| !r.takes_back)
    }

    /// Whether the path or a folder above it matches, as a choice of entries of an archive needs it.
    pub fn covers(&self, path: &[u8], folder: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        self.matches(path, folder) || above.into_iter().any(|i| path.get(..i).is_some_and(|p| self.matches(p, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> PathGlobs {
        PathGlobs::new(patterns).unwrap()
    }

    #[test]
    fn a_bare_name_matches_at_any_depth_and_a_path_only_from_the_top() {
        let g = globs(&["*.tmp"]);
        assert!(g.matches(b"a.tmp", false) && g.matches(b"x/y/a.tmp", false) && !g.matches(b"a.tmp/b", false));
        let g = globs(&["/var/cache"]);
        assert!(g.matches(b"var/cache", true) && !g.matches(b"x/var/cache", true) && !g.matches(b"var/cache/x", false));
        assert!(g.covers(b"var/cache/x/y", false));
        let g = globs(&["var/*/tmp", "**/k/*.bin"]);
        assert!(g.matches(b"var/a/tmp", true) && !g.matches(b"var/a/b/tmp", true) && g.matches(b"k/a.bin", false));
        assert!(g.matches(b"q/r/k/a.bin", false));
    }

    #[test]
    fn the_last_match_decides_and_a_trailing_slash_asks_for_folders() {
        let g = globs(&["*.log", "!keep.log", "build/"]);
        assert!(g.matches(b"a.log", false) && !g.matches(b"x/keep.log", false));
        assert!(g.matches(b"x/build", true) && !g.matches(b"x/build", false));
    }

    #[test]
    fn names_that_are_not_utf8_match_too() {
        assert!(globs(&["*.tmp"]).matches(b"x/\xff\xfe.tmp", false));
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        for bad in ["a[", "/", "", "!"] {
            let e = PathGlobs::new(&[bad]).unwrap_err();
            assert!(matches!(&e, Error::Usage(m) if m.contains(&format!("{bad:?}"))), "{e}");
        }
    }
}
