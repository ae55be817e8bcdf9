//! YAML as a tree of values that know where they stand, so that every finding can name its line, also those that come up long
//! after parsing. serde alone would stop at the first mistake and forget the places of the rest.

use crate::error::ConfigFinding;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// 1-based; 0 when unknown.
    pub line: usize,
    /// 1-based; 0 when unknown.
    pub column: usize,
    /// What it is.
    pub kind: Kind,
}

/// A mapping's key and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// As text, whatever YAML takes it for (`1:` is "1").
    pub text: String,
    /// 1-based; 0 when unknown.
    pub line: usize,
    /// 1-based; 0 when unknown.
    pub column: usize,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~`, nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in order.
    Map(Vec<(Key, Node)>),
}

/// Parses one YAML document. On a mistake in the syntax there is exactly one finding, the first.
pub fn parse(text: &str, file: &str) -> Result<Node, ConfigFinding> {
    match serde_saphyr::from_str::<Node>(text) {
        Ok(node) => Ok(node),
        Err(error) => {
            let error = error.without_snippet();
            let (line, column) = error.location().map_or((0, 0), place);
            // The parser repeats the place in its text; the finding shows it in front.
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default();
            let message = message.split(" at line ").next().unwrap_or(message).trim_end_matches([':', ' ']);
            let message = message.strip_prefix(&format!("line {line} column {column}: ")).unwrap_or(message);
            Err(ConfigFinding { file: file.to_string(), line, column, message: format!("not valid YAML: {message}") })
        }
    }
}

fn place(location: Location) -> (usize, usize) {
    (usize::try_from(location.line()).unwrap_or(0), usize::try_from(location.column()).unwrap_or(0))
}

impl Node {
    /// What it is, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Integer(_) | Kind::Real(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// A mapping's value.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(pairs) => pairs.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The place of what a JSON pointer names (`/datasets/crm/collections/0`), or of the nearest thing around it that exists.
    pub fn locate(&self, pointer: &str) -> (usize, usize) {
        let mut place = (self.line, self.column);
        let mut node = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match &node.kind {
                Kind::Map(pairs) => pairs.iter().find(|(k, _)| k.text == step).map(|(k, v)| {
                    // A block that follows on further lines is better named by its key.
                    let nested = matches!(v.kind, Kind::Map(_) | Kind::List(_)) || v.line == 0;
                    (if nested { (k.line, k.column) } else { (v.line, v.column) }, v)
                }),
                Kind::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|v| ((v.line, v.column), v)),
                _ => None,
            };
            let Some((at, next)) = next else { break };
            if at != (0, 0) {
                place = at;
            }
            node = next;
        }
        place
    }

    /// The same without places.
    pub fn to_json(&self) -> Json {
        match &self.kind {
            Kind::Null => Json::Null,
            Kind::Bool(b) => Json::Bool(*b),
            Kind::Integer(i) => Json::from(*i),
            Kind::Real(r) => Json::from(*r),
            Kind::Text(t) => Json::String(t.clone()),
            Kind::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Kind::Map(pairs) => Json::Object(pairs.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect()),
        }
    }
}

/// One step of a JSON pointer, escaped.
pub fn pointer_step(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        let (line, column) = place(spanned.referenced);
        Ok(Node { line, column, kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Kind, E> {
        Ok(i64::try_from(v).map_or(Kind::Real(v as f64), Kind::Integer))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Kind, E> {
        Ok(Kind::Real(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Kind, E> {
        Ok(Kind::Text(v.to_string()))
    }
    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut pairs: Vec<(Key, Node)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<KeyText>, Node>()? {
            let (line, column) = place(key.referenced);
            if pairs.iter().any(|(k, _)| k.text == key.value.0) {
                return Err(de::Error::custom(format!("the key {:?} stands here twice", key.value.0)));
            }
            pairs.push((Key { text: key.value.0, line, column }, value));
        }
        Ok(Kind::Map(pairs))
    }
}

/// A key's text, of whatever type YAML thinks it is.
struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyText, D::Error> {
        String::deserialize(deserializer).map(KeyText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_knows_its_place() {
        let node = parse("a: 1\nb:\n  - x\n  - {c: true, 1: ~}\n", "f").unwrap();
        assert_eq!(node.to_json(), serde_json::json!({"a": 1, "b": ["x", {"c": true, "1": null}]}));
        assert_eq!(node.locate("/a"), (1, 4));
        assert_eq!(node.locate("/b/0"), (3, 5));
        assert_eq!(node.locate("/b/1/c"), (4, 9));
        assert_eq!(node.locate("/b"), (2, 1));
        assert_eq!(node.locate("/b/1/missing"), (4, 5));
    }

    #[test]
    fn aliases_and_quotes_work() {
        let node = parse("x: &x [trim, nfc]\ny: *x\nz: \"42\"\n", "f").unwrap();
        assert_eq!(node.to_json(), serde_json::json!({"x": ["trim", "nfc"], "y": ["trim", "nfc"], "z": "42"}));
    }

    #[test]
    fn a_mistake_in_the_syntax_is_named_with_its_line() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n", "reseal.yaml").unwrap_err();
        assert!(error.line >= 2 && error.message.starts_with("not valid YAML: "), "{error}");
        let error = parse("a: 1\na: 2\n", "reseal.yaml").unwrap_err();
        assert_eq!(error.line, 2, "{error}");
        assert!(!error.to_string().contains("-->"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[-a-c:\\[\\]{}\"'#&*!|>%@ \\n\\t0-9,.~]{0,60}") {
            if let Ok(node) = parse(&text, "f") {
                node.to_json();
                node.locate("/a/0/b");
            }
        }
    }
}
