//! Checks a YAML tree against the JSON Schema that the raw types give, and reports every misfit with its place and the nearest
//! known word. One truth: what editors are told by `reseal schema` is what is checked here.

use super::yaml::{Kind, Node, pointer_step};
use crate::datamap::load::closest;
use crate::error::ConfigFinding;
use schemars::JsonSchema;
use serde_json::Value;

/// Strategies that the design knows and this version does not.
const LATER_STRATEGIES: [&str; 7] = ["fake", "generalize", "round", "top_bottom_code", "noise", "date_shift", "mask"];

/// Checks a document against the schema of `T`.
pub fn check<T: JsonSchema>(node: &Node, file: &str) -> Vec<ConfigFinding> {
    let schema = schemars::schema_for!(T).to_value();
    let mut checker = Checker { root: &schema, file, findings: Vec::new() };
    checker.check(node, &schema, "");
    checker.findings
}

struct Checker<'a> {
    root: &'a Value,
    file: &'a str,
    findings: Vec<ConfigFinding>,
}

impl<'a> Checker<'a> {
    fn find(&mut self, at: (usize, usize), message: String) {
        self.findings.push(ConfigFinding { file: self.file.to_string(), line: at.0, column: at.1, message });
    }

    /// Follows `$ref`s.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')).and_then(|p| self.root.pointer(p)) {
            Some(target) => target,
            None => schema,
        }
    }

    fn check(&mut self, node: &Node, schema: &'a Value, pointer: &str) {
        let schema = self.resolve(schema);
        let branches = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
        if let Some(branches) = branches {
            return self.check_branches(node, branches, pointer);
        }
        if let Some(words) = words(schema) {
            return self.check_word(node, &words, pointer);
        }
        if !self.type_fits(node, schema) {
            return self.wrong_type(node, &[schema], pointer);
        }
        match &node.kind {
            Kind::Map(pairs) => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let additional = schema.get("additionalProperties");
                for (key, value) in pairs {
                    let inner = format!("{pointer}/{}", pointer_step(&key.text));
                    match (properties.and_then(|p| p.get(&key.text)), additional) {
                        (Some(known), _) => self.check(value, known, &inner),
                        (None, Some(Value::Bool(false))) => {
                            let known: Vec<&str> = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str).collect();
                            let hint = match closest(&key.text, &known) {
                                Some(near) => format!("did you mean `{near}`?"),
                                None => format!("known here: {}", known.join(", ")),
                            };
                            self.find((key.line, key.column), format!("unknown key `{}`; {hint}", key.text));
                        }
                        (None, Some(any)) => self.check(value, any, &inner),
                        (None, None) => {}
                    }
                }
                for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                    if node.get(required).is_none() {
                        let what = if pointer.is_empty() { String::new() } else { format!(" in {}", readable(pointer)) };
                        self.find((node.line, node.column), format!("the key `{required}` is missing{what}"));
                    }
                }
            }
            Kind::List(items) => {
                if let Some(schema) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.check(item, schema, &format!("{pointer}/{i}"));
                    }
                }
            }
            Kind::Integer(i) => {
                if schema.get("minimum").and_then(Value::as_i64).is_some_and(|min| *i < min) {
                    self.find((node.line, node.column), format!("{}: {i} is too small", last(pointer)));
                }
                let largest = match schema.get("format").and_then(Value::as_str) {
                    Some("uint32") => i64::from(u32::MAX),
                    Some("int32") => i64::from(i32::MAX),
                    _ => i64::MAX,
                };
                if *i > largest {
                    self.find((node.line, node.column), format!("{}: {i} is too large", last(pointer)));
                }
            }
            _ => {}
        }
    }

    fn check_branches(&mut self, node: &Node, branches: &'a [Value], pointer: &str) {
        let branches: Vec<&Value> = branches.iter().map(|b| self.resolve(b)).collect();
        if node.kind == Kind::Null && branches.iter().any(|b| self.type_fits(node, b)) {
            return;
        }
        let branches: Vec<&Value> = branches.into_iter().filter(|b| b.get("type").and_then(Value::as_str) != Some("null")).collect();
        if let [only] = branches.as_slice() {
            return self.check(node, only, pointer);
        }
        // All of them words: an enumeration.
        let all_words: Option<Vec<&str>> = branches.iter().map(|b| words(b)).collect::<Option<Vec<_>>>().map(|w| w.concat());
        if let Some(all) = all_words {
            return self.check_word(node, &all, pointer);
        }
        // Objects that are told apart by one property's constant value.
        if let (Some(tag), Kind::Map(_)) = (branches.first().and_then(|b| tag_of(b)), &node.kind) {
            let tags: Vec<&str> = branches.iter().filter_map(|b| tag_value(b, tag)).collect();
            let Some(written) = node.get(tag) else {
                let what = format!("the key `{tag}` is missing in {}; it is one of {}", readable(pointer), tags.join(", "));
                return self.find((node.line, node.column), what);
            };
            let chosen = branches.iter().find(|b| matches!(&written.kind, Kind::Text(t) if tag_value(b, tag) == Some(t)));
            return match chosen {
                Some(chosen) => self.check(node, chosen, pointer),
                None => self.check_word(written, &tags, &format!("{pointer}/{tag}")),
            };
        }
        match branches.iter().find(|b| self.type_fits(node, b)) {
            Some(fitting) => self.check(node, fitting, pointer),
            None => self.wrong_type(node, &branches, pointer),
        }
    }

    fn check_word(&mut self, node: &Node, words: &[&str], pointer: &str) {
        let Kind::Text(text) = &node.kind else {
            let what = format!("{}: expected one of {}, found {}", last(pointer), words.join(", "), node.kind_name());
            return self.find((node.line, node.column), what);
        };
        if words.contains(&text.as_str()) {
            return;
        }
        let hint = match closest(text, words) {
            _ if last(pointer) == "strategy" && LATER_STRATEGIES.contains(&text.as_str()) => {
                let what = format!("strategy {text:?} is not available in this version; available: {}", words.join(", "));
                return self.find((node.line, node.column), what);
            }
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("expected one of {}", words.join(", ")),
        };
        self.find((node.line, node.column), format!("{}: unknown value {text:?}; {hint}", last(pointer)));
    }

    fn wrong_type(&mut self, node: &Node, schemas: &[&'a Value], pointer: &str) {
        let mut expected: Vec<&str> = Vec::new();
        for schema in schemas {
            let nested = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
            let all: Vec<&Value> = nested.map_or_else(|| vec![*schema], |n| n.iter().collect());
            for name in all.iter().flat_map(|s| types(self.resolve(s))) {
                let name = type_name(name);
                if name != "nothing" && !expected.contains(&name) {
                    expected.push(name);
                }
            }
        }
        let hint = match node.kind {
            Kind::Bool(_) | Kind::Integer(_) | Kind::Real(_) if expected.contains(&"text") => "; put it in quotes",
            _ => "",
        };
        let name = if pointer.is_empty() { "the file".to_string() } else { last(pointer).to_string() };
        self.find((node.line, node.column), format!("{name}: expected {}, found {}{hint}", expected.join(" or "), node.kind_name()));
    }

    fn type_fits(&self, node: &Node, schema: &'a Value) -> bool {
        if let Some(choice) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
            return choice.iter().any(|b| self.type_fits(node, self.resolve(b)));
        }
        let types = types(schema);
        types.is_empty()
            || types.iter().any(|t| {
                matches!(
                    (*t, &node.kind),
                    ("null", Kind::Null)
                        | ("boolean", Kind::Bool(_))
                        | ("integer", Kind::Integer(_))
                        | ("number", Kind::Integer(_) | Kind::Real(_))
                        | ("string", Kind::Text(_))
                        | ("array", Kind::List(_))
                        | ("object", Kind::Map(_))
                )
            })
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn type_name(name: &str) -> &'static str {
    match name {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        _ => "a mapping",
    }
}

/// The words that a schema of an enumeration (or one of its values) allows.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![word]);
    }
    schema.get("enum").and_then(Value::as_array).map(|all| all.iter().filter_map(Value::as_str).collect())
}

/// The property whose constant tells this object from others.
fn tag_of(schema: &Value) -> Option<&str> {
    let properties = schema.get("properties")?.as_object()?;
    properties.iter().find(|(_, p)| p.get("const").is_some()).map(|(name, _)| name.as_str())
}

fn tag_value<'v>(schema: &'v Value, tag: &str) -> Option<&'v str> {
    schema.get("properties")?.get(tag)?.get("const")?.as_str()
}

fn last(pointer: &str) -> &str {
    let mut steps = pointer.rsplit('/').filter(|s| s.parse::<usize>().is_err());
    steps.next().unwrap_or(pointer)
}

/// `/datasets/crm/collections/0` as `datasets.crm.collections[0]`.
fn readable(pointer: &str) -> String {
    let mut out = String::new();
    for step in pointer.split('/').skip(1) {
        match step.parse::<usize>() {
            Ok(index) => out += &format!("[{index}]"),
            Err(_) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out += &step.replace("~1", "/").replace("~0", "~");
            }
        }
    }
    out
}
