//! Field names of JSON records: `user.email`, `items[].owner.id`, `"a.b".c`. Compiled together into one tree, so that a line is
//! walked once for all fields.

use crate::{Error, Result};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A member of an object.
    Key(String),
    /// Every element of an array.
    Each,
}

/// Parses a path. `$` is the whole value; a key with other characters than the plain ones stands in quotes, as a JSON string.
pub(super) fn parse(path: &str) -> Result<Vec<Step>> {
    let bad = || Error::format("", "a field is no path like user.email, items[].id or \"a.b\".c");
    if path == "$" {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = closing_quote(quoted).ok_or_else(bad)?;
            let literal = rest.get(..end + 2).ok_or_else(bad)?;
            steps.push(Step::Key(serde_json::from_str(literal).map_err(|_| bad())?));
            rest = rest.get(end + 2..).unwrap_or_default();
        } else if !rest.starts_with('[') {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let key = rest.get(..end).filter(|k| !k.is_empty()).ok_or_else(bad)?;
            steps.push(Step::Key(key.to_string()));
            rest = rest.get(end..).unwrap_or_default();
        }
        while let Some(after) = rest.strip_prefix("[]") {
            steps.push(Step::Each);
            rest = after;
        }
        if rest.is_empty() {
            return Ok(steps);
        }
        rest = rest.strip_prefix('.').ok_or_else(bad)?;
        if rest.is_empty() || rest.starts_with('[') {
            return Err(bad());
        }
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })
}

/// Writes a path as [`parse`] reads it.
pub(super) fn print(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Each => out.push_str("[]"),
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                if key.is_empty() || key == "$" || key.contains(['.', '[', '"']) {
                    out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                } else {
                    out.push_str(key);
                }
            }
        }
    }
    if out.is_empty() { "$".to_string() } else { out }
}

/// Paths as a tree. Node 0 is the whole value.
#[derive(Debug, Default)]
pub(super) struct Paths {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    keys: Vec<(String, usize)>,
    each: Option<usize>,
    fields: Vec<usize>,
}

impl Paths {
    pub(super) fn new(fields: &[String]) -> Result<Paths> {
        let mut paths = Paths { nodes: vec![Node::default()] };
        for (field, name) in fields.iter().enumerate() {
            let mut at = 0;
            for step in parse(name)? {
                at = paths.child(at, step);
            }
            if let Some(node) = paths.nodes.get_mut(at) {
                node.fields.push(field);
            }
        }
        Ok(paths)
    }

    fn child(&mut self, at: usize, step: Step) -> usize {
        let known = match &step {
            Step::Key(key) => self.key(at, key),
            Step::Each => self.each(at),
        };
        known.unwrap_or_else(|| {
            let new = self.nodes.len();
            if let Some(node) = self.nodes.get_mut(at) {
                match step {
                    Step::Key(key) => node.keys.push((key, new)),
                    Step::Each => node.each = Some(new),
                }
            }
            self.nodes.push(Node::default());
            new
        })
    }

    pub(super) fn key(&self, at: usize, key: &str) -> Option<usize> {
        self.nodes.get(at)?.keys.iter().find(|(k, _)| k == key).map(|(_, node)| *node)
    }

    /// Whether any key of this node is wanted: saves decoding keys where none is.
    pub(super) fn has_keys(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(|n| !n.keys.is_empty())
    }

    pub(super) fn each(&self, at: usize) -> Option<usize> {
        self.nodes.get(at)?.each
    }

    /// Indices of the fields that end here.
    pub(super) fn fields(&self, at: usize) -> &[usize] {
        self.nodes.get(at).map(|n| n.fields.as_slice()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_read_and_written() {
        let key = |k: &str| Step::Key(k.to_string());
        assert_eq!(parse("user.email").unwrap(), [key("user"), key("email")]);
        assert_eq!(parse("items[].owner.id").unwrap(), [key("items"), Step::Each, key("owner"), key("id")]);
        assert_eq!(parse("[].a[][]").unwrap(), [Step::Each, key("a"), Step::Each, Step::Each]);
        assert_eq!(parse(r#""a.b"[].c"#).unwrap(), [key("a.b"), Step::Each, key("c")]);
        assert_eq!(parse(r#""q\"\u00e9""#).unwrap(), [key("q\"é")]);
        assert_eq!(parse("$").unwrap(), []);
        for bad in ["", ".", "a.", "a..b", "a[0]", "a[", "a.[]", "\"a", "\"a\"b", "a\"b\".", "\"\\x\""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(keys in proptest::collection::vec(proptest::option::of(".{0,4}"), 0..5)) {
            let steps: Vec<Step> = keys.into_iter().map(|k| k.map_or(Step::Each, Step::Key)).collect();
            prop_assert_eq!(parse(&print(&steps)).unwrap(), steps);
        }

        #[test]
        fn nothing_makes_it_panic(path in ".{0,20}") {
            let _ = parse(&path);
        }
    }
}
