//! Small expressions over a record's fields, for `when:` and `retain.until:`.
//!
//! They decide whose records go and how long others must stay, so they follow the rules that the authors of a map know from SQL
//! (comparison with null is unknown, unknown does not hold) and refuse to guess: a date that cannot be read is an error, not a
//! `false` that would quietly let a record slip through an erasure.
//!
//! ```text
//! condition := and ("or" and)*            and := not ("and" not)*             not := "not" not | predicate
//! predicate := sum [ ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") sum
//!                  | ["not"] "in" "(" literal ("," literal)* ")" | "is" ["not"] "null" ]
//! sum       := primary (("+" | "-") period)*         period := digits ("y" | "mo" | "w" | "d")
//! primary   := "(" condition ")" | field | 'text' | number | true | false | null | YYYY-MM-DD | date 'YYYY-MM-DD …'
//! field     := name ("." name | "[]")* | "any name"
//! ```

mod dates;
mod parse;

use super::Value;
use crate::{Error, Result};
use jiff::Timestamp;
use std::cmp::Ordering;

pub use dates::parse_date;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// As written.
    pub source: String,
    node: Node,
}

/// Reads a field of the record at hand; `None` where the record does not have it (treated like null).
pub type Getter<'a> = &'a dyn Fn(&str) -> Option<Value<'static>>;

/// A literal.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Date(Timestamp),
}

/// Years, months and days of a period; signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Period {
    months: i32,
    days: i32,
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Literal(Literal),
    Field(String),
    Shift(Box<Node>, Vec<Period>),
    Compare(Box<Node>, Comparison, Box<Node>),
    In(Box<Node>, Vec<Literal>, bool),
    IsNull(Box<Node>, bool),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// What a scalar node evaluates to.
enum Scalar {
    Value(Value<'static>),
    /// A point in time; only from literals and date arithmetic.
    Date(Timestamp),
}

impl Expr {
    /// Parses an expression. The message says where (characters counted from 1) and what was expected.
    pub fn parse(source: &str) -> Result<Expr, String> {
        Ok(Expr { source: source.to_string(), node: parse::parse(source)? })
    }

    /// Whether the condition holds for a record. Unknown (a comparison with null) does not.
    ///
    /// Fails when a field that is compared with a date holds something that is not one.
    pub fn holds(&self, get: Getter<'_>) -> Result<bool> {
        Ok(self.truth(&self.node, get)? == Some(true))
    }

    /// The point in time that a date expression (`order_date + 5y`) stands for; `None` where a field is null or empty.
    ///
    /// Fails when a field holds something that is not a date. Beyond the year 9999 the result is the last representable moment.
    pub fn date_value(&self, get: Getter<'_>) -> Result<Option<Timestamp>> {
        let scalar = self.scalar(&self.node, get)?;
        self.to_date(scalar, &self.node)
    }

    /// Names of the fields it reads, each once, in the order of their first mention.
    pub fn fields(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.node.collect_fields(&mut names);
        names
    }

    /// Whether it can be true or false (for `when:`); otherwise says what is wrong.
    pub fn check_condition(&self) -> Result<(), String> {
        match &self.node {
            Node::Literal(Literal::Bool(_)) | Node::Field(_) => Ok(()),
            node if node.is_condition() => Ok(()),
            _ => Err("this is a value, not a condition: compare it with something".into()),
        }
    }

    /// Whether it can be a date (for `until:`); otherwise says what is wrong.
    pub fn check_date(&self) -> Result<(), String> {
        match &self.node {
            Node::Field(_) | Node::Shift(..) | Node::Literal(Literal::Date(_)) => Ok(()),
            Node::Literal(Literal::Text(t)) if parse_date(t).is_some() => Ok(()),
            _ => Err("this is not a date: write a field, a date, or one plus a period (order_date + 5y)".into()),
        }
    }

    fn truth(&self, node: &Node, get: Getter<'_>) -> Result<Option<bool>> {
        Ok(match node {
            Node::Not(inner) => self.truth(inner, get)?.map(|b| !b),
            Node::And(parts) => self.fold(parts, get, false)?,
            Node::Or(parts) => self.fold(parts, get, true)?,
            Node::IsNull(inner, negated) => Some(self.is_null(inner, get)? != *negated),
            Node::Compare(left, comparison, right) => {
                let (l, r) = (self.scalar(left, get)?, self.scalar(right, get)?);
                self.order((l, left), (r, right))?
                    .map(|o| o.is_some_and(|o| comparison.admits(o)) || (o.is_none() && *comparison == Comparison::NotEqual))
            }
            Node::In(left, list, negated) => {
                let mut found = Some(false);
                for item in list {
                    let item = Node::Literal(item.clone());
                    let (l, r) = (self.scalar(left, get)?, self.scalar(&item, get)?);
                    match self.order((l, left), (r, &item))? {
                        Some(Some(Ordering::Equal)) => {
                            found = Some(true);
                            break;
                        }
                        None => found = None,
                        _ => {}
                    }
                }
                found.map(|b| b != *negated)
            }
            scalar => match self.scalar(scalar, get)? {
                Scalar::Value(Value::Bool(b)) => Some(b),
                Scalar::Value(Value::Integer(i)) => Some(i != 0),
                Scalar::Value(Value::Real(r)) => Some(r != 0.0),
                Scalar::Value(Value::Text(t)) => text_as_bool(&t),
                Scalar::Value(Value::Null | Value::Bytes(_)) | Scalar::Date(_) => None,
            },
        })
    }

    /// `and` with `decisive` false, `or` with `decisive` true: the decisive value wins, else unknown, else the other.
    fn fold(&self, parts: &[Node], get: Getter<'_>, decisive: bool) -> Result<Option<bool>> {
        let mut result = Some(!decisive);
        for part in parts {
            match self.truth(part, get)? {
                Some(b) if b == decisive => return Ok(Some(decisive)),
                None => result = None,
                Some(_) => {}
            }
        }
        Ok(result)
    }

    fn is_null(&self, node: &Node, get: Getter<'_>) -> Result<bool> {
        Ok(matches!(self.scalar(node, get)?, Scalar::Value(Value::Null)))
    }

    fn scalar(&self, node: &Node, get: Getter<'_>) -> Result<Scalar> {
        Ok(match node {
            Node::Field(name) => Scalar::Value(get(name).unwrap_or(Value::Null)),
            Node::Literal(literal) => match literal {
                Literal::Null => Scalar::Value(Value::Null),
                Literal::Bool(b) => Scalar::Value(Value::Bool(*b)),
                Literal::Integer(i) => Scalar::Value(Value::Integer(*i)),
                Literal::Real(r) => Scalar::Value(Value::Real(*r)),
                Literal::Text(t) => Scalar::Value(Value::Text(t.clone().into())),
                Literal::Date(d) => Scalar::Date(*d),
            },
            Node::Shift(inner, periods) => {
                let scalar = self.scalar(inner, get)?;
                match self.to_date(scalar, inner)? {
                    Some(date) => Scalar::Date(periods.iter().fold(date, |date, p| dates::shift(date, *p))),
                    None => Scalar::Value(Value::Null),
                }
            }
            condition => match self.truth(condition, get)? {
                Some(b) => Scalar::Value(Value::Bool(b)),
                None => Scalar::Value(Value::Null),
            },
        })
    }

    fn to_date(&self, scalar: Scalar, node: &Node) -> Result<Option<Timestamp>> {
        match scalar {
            Scalar::Date(date) => Ok(Some(date)),
            Scalar::Value(value) => dates::of_value(&value).map_err(|()| {
                // The value itself stays out of the message: it may be a person's.
                let what = match node {
                    Node::Field(name) => format!("field {name:?} holds something that is not a date (expected YYYY-MM-DD, YYYY-MM-DD hh:mm:ss, or seconds since 1970)"),
                    _ => "this is not a date".to_string(),
                };
                Error::Refused(format!("cannot evaluate `{}`: {what}", self.source))
            }),
        }
    }

    /// `None`: unknown (a null is involved). `Some(None)`: of kinds that are never equal.
    fn order(&self, left: (Scalar, &Node), right: (Scalar, &Node)) -> Result<Option<Option<Ordering>>> {
        Ok(match (left, right) {
            ((Scalar::Value(Value::Null), _), _) | (_, (Scalar::Value(Value::Null), _)) => None,
            ((Scalar::Value(l), _), (Scalar::Value(r), _)) => Some(order_values(&l, &r)),
            ((l, left), (r, right)) => match (self.to_date(l, left)?, self.to_date(r, right)?) {
                (Some(l), Some(r)) => Some(Some(l.cmp(&r))),
                _ => None,
            },
        })
    }
}

impl Node {
    fn is_condition(&self) -> bool {
        matches!(self, Node::Compare(..) | Node::In(..) | Node::IsNull(..) | Node::Not(_) | Node::And(_) | Node::Or(_))
    }

    fn collect_fields(&self, names: &mut Vec<String>) {
        match self {
            Node::Literal(_) => {}
            Node::Field(name) if names.contains(name) => {}
            Node::Field(name) => names.push(name.clone()),
            Node::Shift(inner, _) | Node::In(inner, _, _) | Node::IsNull(inner, _) | Node::Not(inner) => inner.collect_fields(names),
            Node::Compare(left, _, right) => {
                left.collect_fields(names);
                right.collect_fields(names);
            }
            Node::And(parts) | Node::Or(parts) => parts.iter().for_each(|p| p.collect_fields(names)),
        }
    }
}

impl Comparison {
    fn admits(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// Compares across formats: a CSV's "42" is a database's 42. Numbers when one side is a number and the other reads as one,
/// truth values likewise, else text by bytes.
fn order_values(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    if let (Value::Integer(l), Value::Integer(r)) = (left, right) {
        return Some(l.cmp(r));
    }
    if matches!(left, Value::Bool(_)) || matches!(right, Value::Bool(_)) {
        return Some(as_bool(left)?.cmp(&as_bool(right)?));
    }
    let numeric = |v: &Value<'_>| matches!(v, Value::Integer(_) | Value::Real(_));
    if numeric(left) || numeric(right) {
        return as_number(left)?.partial_cmp(&as_number(right)?);
    }
    Some(as_bytes(left).cmp(as_bytes(right)))
}

fn as_bool(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Integer(0) => Some(false),
        Value::Integer(1) => Some(true),
        Value::Text(t) => text_as_bool(t),
        _ => None,
    }
}

fn text_as_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "y" => Some(true),
        "false" | "f" | "0" | "no" | "n" => Some(false),
        _ => None,
    }
}

fn as_number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Integer(i) => Some(*i as f64),
        Value::Real(r) => Some(*r),
        Value::Text(t) => t.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        _ => None,
    }
}

fn as_bytes<'v>(value: &'v Value<'_>) -> &'v [u8] {
    match value {
        Value::Text(t) => t.as_bytes(),
        Value::Bytes(b) => b,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(name: &str) -> Option<Value<'static>> {
        Some(match name {
            "kind" => Value::Text("retail".into()),
            "total" => Value::Text("42.50".into()),
            "n" => Value::Integer(7),
            "nothing" => Value::Null,
            "active" => Value::Bool(true),
            "order_date" => Value::Text("2020-02-29".into()),
            "at" => Value::Integer(1_600_000_000),
            "user.email" => Value::Text("it's".into()),
            "odd name" => Value::Real(1.5),
            "items[].id" => Value::Integer(1),
            _ => return None,
        })
    }

    fn holds(source: &str) -> bool {
        Expr::parse(source).unwrap_or_else(|e| panic!("{source}: {e}")).holds(&record).unwrap_or_else(|e| panic!("{source}: {e}"))
    }

    #[test]
    fn conditions_hold_as_in_sql() {
        for yes in [
            "kind = 'retail'",
            "kind == 'retail' AND n >= 7",
            "kind <> 'b2b'",
            "kind != 'b2b' or nothing = 1",
            "total > 9",
            "total = 42.5",
            "n in (1, 7, 9)",
            "n in ('7')",
            "kind not in ('a','b')",
            "nothing is null and n is not null",
            "missing is null",
            "not (n < 7)",
            "not n < 7 and active",
            "active = true",
            "user.email = 'it''s'",
            "\"odd name\" = 1.5",
            "items[].id = 1",
            "order_date < 2020-03-01",
            "order_date + 1mo = date '2020-03-29'",
            "at > 2020-01-01",
            "n > -3",
            "(n = 7)",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in [
            "nothing = 1",
            "not nothing = 1",
            "nothing <> 1",
            "nothing in (1)",
            "n not in (1, null)",
            "kind > 5",
            "kind = 5",
            "order_date + 1d < order_date",
            "nothing + 5y > 2020-01-01",
        ] {
            assert!(!holds(no), "{no}");
        }
        assert!(holds("kind != 5"), "text that is no number differs from every number");
    }

    #[test]
    fn dates_are_computed_by_the_calendar() {
        for (source, expected) in [
            ("order_date + 5y", "2025-02-28T00:00:00Z"),
            ("order_date + 4y", "2024-02-29T00:00:00Z"),
            ("order_date + 1mo - 1d", "2020-03-28T00:00:00Z"),
            ("order_date + 2w", "2020-03-14T00:00:00Z"),
            ("at", "2020-09-13T12:26:40Z"),
            ("2024-01-31 + 1mo", "2024-02-29T00:00:00Z"),
        ] {
            let expr = Expr::parse(source).unwrap();
            assert!(expr.check_date().is_ok(), "{source}");
            assert_eq!(expr.date_value(&record).unwrap().unwrap().to_string(), expected, "{source}");
        }
        assert_eq!(Expr::parse("nothing + 5y").unwrap().date_value(&record).unwrap(), None);
        assert_eq!(Expr::parse("order_date + 9999y").unwrap().date_value(&record).unwrap(), Some(Timestamp::MAX));
    }

    #[test]
    fn an_unreadable_date_is_an_error_without_the_value() {
        let error = Expr::parse("kind + 5y").unwrap().date_value(&record).unwrap_err().to_string();
        assert!(error.contains("\"kind\"") && !error.contains("retail"), "{error}");
        assert!(Expr::parse("kind < 2020-01-01").unwrap().holds(&record).is_err());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (source, expected) in [
            ("", "at character 1: expected a field or a value"),
            ("kind = ", "at character 8: expected a field or a value"),
            ("kind = 'a", "at character 8: this text has no closing '"),
            ("kind ~ 'a'", "at character 6: unexpected character '~'"),
            ("a = null", "at character 5: nothing equals null; write `is null` or `is not null`"),
            ("a = 1 b", "at character 7: expected `and`, `or` or the end"),
            ("a in ()", "at character 7: expected a value"),
            ("(a = 1", "at character 7: expected )"),
            ("(a = 1) = 2", "at character 9: a condition cannot be compared"),
            ("a + 5", "at character 5: expected a period such as 5y, 6mo, 2w or 30d"),
            ("a + 5q", "at character 5: unknown unit \"q\"; the units are y, mo, w and d"),
            ("a = 2020-13-01", "at character 5: not a date in the calendar"),
            ("a = 99999999999999999999", "at character 5: this number is too large"),
        ] {
            assert_eq!(Expr::parse(source).unwrap_err(), expected, "{source}");
        }
        assert!(Expr::parse("a + 5y").unwrap().check_condition().is_err());
        assert!(Expr::parse("a = 1").unwrap().check_date().is_err());
        assert!(Expr::parse(&"(".repeat(100_000)).is_err());
        assert!(Expr::parse(&"not ".repeat(1000)).is_err());
    }

    #[test]
    fn fields_are_listed_once() {
        assert_eq!(Expr::parse("a = 1 and (b.c > a or \"d e\" is null)").unwrap().fields(), ["a", "b.c", "d e"]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(source in ".{0,60}") {
            if let Ok(expr) = Expr::parse(&source) {
                let _ = expr.holds(&record);
                let _ = expr.date_value(&record);
            }
        }

        #[test]
        fn arbitrary_tokens_never_panic(parts in proptest::collection::vec(prop_oneof![
            Just("a"), Just("'x'"), Just("1"), Just("5y"), Just("+"), Just("-"), Just("("), Just(")"), Just("and"), Just("not"),
            Just("in"), Just(","), Just("is"), Just("null"), Just("="), Just("<"), Just("2020-01-01"), Just("date"), Just("order_date"),
        ], 0..24)) {
            if let Ok(expr) = Expr::parse(&parts.join(" ")) {
                let _ = expr.holds(&record);
                let _ = expr.date_value(&record);
                prop_assert!(expr.fields().len() <= parts.len());
            }
        }
    }
}
