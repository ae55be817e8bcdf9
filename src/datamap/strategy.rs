//! Strategies: what becomes of a value. Replacements are computed from a secret that lives as long as one request is worked on,
//! so that the same record becomes the same bytes in every archive (archives go on sharing chunks) and distinct values stay
//! distinct (unique columns), while nobody can compute a value back once the secret is gone.

use super::{Action, Value};
use crate::format::NewValue;
use std::ops::Range;
use zeroize::Zeroizing;

const ALPHANUMERIC: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Computes new values. Holds secrets: no `Debug`, no `Clone`.
pub struct Strategies {
    seed: Zeroizing<[u8; 32]>,
    hmac: Zeroizing<[u8; 32]>,
}

impl Strategies {
    /// `seed`: fresh for each request and never stored beyond it. `hmac`: derived from the dataset's secret, so that pseudonyms
    /// stay the same over time.
    pub fn new(seed: Zeroizing<[u8; 32]>, hmac: Zeroizing<[u8; 32]>) -> Strategies {
        Strategies { seed, hmac }
    }

    /// The new value for each of a field's values; `None` leaves it. Null and empty values are left: there is nothing in them.
    pub fn new_values(&self, collection: &str, field: &str, action: &Action, values: &[Value<'_>]) -> Vec<Option<NewValue>> {
        values.iter().map(|value| self.new_value(collection, field, action, value)).collect()
    }

    fn new_value(&self, collection: &str, field: &str, action: &Action, value: &Value<'_>) -> Option<NewValue> {
        let old = value.canonical()?;
        match action {
            Action::Preserve { .. } => None,
            Action::Delete | Action::NullRewrite => Some(NewValue::Null),
            Action::StringRewrite { rewrite_value } => Some(NewValue::Text(rewrite_value.clone())),
            Action::Redact { replacement } => Some(NewValue::Text(replacement.clone())),
            Action::RandomStringRewrite { length, suffix } => {
                let mut text = random_string(&self.seed, &[collection, field, &old], *length);
                text.push_str(suffix);
                Some(NewValue::Text(text))
            }
            // Not bound to collection and field: pseudonyms must go on joining tables.
            Action::Hmac => Some(NewValue::Text(keyed(&self.hmac, &[&old]).finalize().to_hex().to_string())),
        }
    }
}

/// Each part with its length, so that no two sequences are hashed alike.
fn keyed(key: &[u8; 32], parts: &[&str]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher
}

fn random_string(seed: &[u8; 32], parts: &[&str], length: usize) -> String {
    let mut stream = keyed(seed, parts).finalize_xof();
    let mut out = String::with_capacity(length);
    let mut block = [0u8; 64];
    while out.len() < length {
        stream.fill(&mut block);
        // Bytes from 248 on would favour the first letters.
        let letters = block.iter().filter(|b| **b < 248).filter_map(|b| ALPHANUMERIC.get(usize::from(b % 62)));
        out.extend(letters.take(length - out.len()).map(|b| char::from(*b)));
    }
    out
}

/// `text` with each of `spans` (in order, not overlapping, on character boundaries; others are ignored) replaced.
pub fn redact_spans(text: &str, spans: &[Range<usize>], replacement: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for span in spans {
        let (Some(before), Some(_)) = (text.get(at..span.start), text.get(span.clone())) else { continue };
        out.push_str(before);
        out.push_str(replacement);
        at = span.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;
    use std::collections::HashSet;

    fn strategies(seed: u8) -> Strategies {
        Strategies::new(Zeroizing::new([seed; 32]), Zeroizing::new([7; 32]))
    }

    fn text(t: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(t))
    }

    fn random(length: usize) -> Action {
        Action::RandomStringRewrite { length, suffix: "@erased.invalid".into() }
    }

    fn one(s: &Strategies, field: &str, action: &Action, value: &Value<'_>) -> Option<NewValue> {
        s.new_values("customer", field, action, std::slice::from_ref(value)).remove(0)
    }

    #[test]
    fn random_strings_are_the_same_for_the_same_value_and_differ_otherwise() {
        let s = strategies(1);
        let a = one(&s, "email", &random(30), &text("ann@x.org")).unwrap();
        assert_eq!(one(&strategies(1), "email", &random(30), &text("ann@x.org")), Some(a.clone()));
        let NewValue::Text(t) = &a else { panic!() };
        assert_eq!(t.len(), 30 + "@erased.invalid".len());
        assert!(t.strip_suffix("@erased.invalid").unwrap().bytes().all(|b| b.is_ascii_alphanumeric()));
        let others = [
            one(&s, "email", &random(30), &text("bob@x.org")),
            one(&s, "mail", &random(30), &text("ann@x.org")),
            one(&strategies(2), "email", &random(30), &text("ann@x.org")),
        ];
        assert!(others.iter().all(|o| *o != Some(a.clone())));
        let many: HashSet<String> = (0..2000).map(|i| format!("{:?}", one(&s, "id", &random(12), &Value::Integer(i)))).collect();
        assert_eq!(many.len(), 2000);
    }

    #[test]
    fn the_same_value_in_another_type_is_the_same() {
        let s = strategies(1);
        assert_eq!(one(&s, "id", &random(20), &Value::Integer(42)), one(&s, "id", &random(20), &text("42")));
    }

    #[test]
    fn long_random_strings_are_whole() {
        let Some(NewValue::Text(t)) = one(&strategies(1), "x", &random(1000), &text("a")) else { panic!() };
        assert_eq!(t.len(), 1015);
    }

    #[test]
    fn nothing_is_done_to_nothing_and_to_what_is_preserved() {
        let s = strategies(1);
        for action in [Action::NullRewrite, random(5), Action::Hmac, Action::Redact { replacement: "x".into() }] {
            assert_eq!(one(&s, "f", &action, &Value::Null), None);
            assert_eq!(one(&s, "f", &action, &text("")), None);
        }
        assert_eq!(one(&s, "f", &Action::Preserve { basis: "law".into() }, &text("a")), None);
    }

    #[test]
    fn pseudonyms_join_across_fields_and_requests() {
        let a = one(&strategies(1), "a", &Action::Hmac, &text("x"));
        assert_eq!(a, one(&strategies(2), "b", &Action::Hmac, &text("x")));
        assert!(matches!(a, Some(NewValue::Text(t)) if t.len() == 64));
    }

    #[test]
    fn the_plain_strategies_say_what_they_say() {
        let s = strategies(1);
        assert_eq!(one(&s, "f", &Action::Delete, &text("a")), Some(NewValue::Null));
        assert_eq!(one(&s, "f", &Action::StringRewrite { rewrite_value: "v".into() }, &text("a")), Some(NewValue::Text("v".into())));
        assert_eq!(one(&s, "f", &Action::Redact { replacement: "[x]".into() }, &text("a")), Some(NewValue::Text("[x]".into())));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, clippy::reversed_empty_ranges)]
    fn spans_are_redacted() {
        assert_eq!(redact_spans("Ann saw Bob.", &[0..3, 8..11], "[x]"), "[x] saw [x].");
        assert_eq!(redact_spans("é", &[0..1], "x"), "é");
        assert_eq!(redact_spans("abc", &[2..9], "x"), "abc");
        assert_eq!(redact_spans("abc", &[3..1], "x"), "abc");
    }
}
