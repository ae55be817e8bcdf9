//! A field's value, as every format hands it to the engine, and as the engine hands the new one back.

use std::borrow::Cow;

/// A value read from a record. Borrowed where the format can lend it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL, JSON null, a missing path. An empty CSV field is `Text("")`.
    Null,
    /// A whole number.
    Integer(i64),
    /// Another number.
    Real(f64),
    /// JSON true and false.
    Bool(bool),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes that are not text.
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// The same value, owned.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Integer(i) => Value::Integer(i),
            Value::Real(r) => Value::Real(r),
            Value::Bool(b) => Value::Bool(b),
            Value::Text(t) => Value::Text(Cow::Owned(t.into_owned())),
            Value::Bytes(b) => Value::Bytes(Cow::Owned(b.into_owned())),
        }
    }

    /// The canonical text that tokens and comparisons use: the same for 42, "42" and 42.0 across formats. `None` for null and for
    /// the empty string: nothing can be found by it.
    pub fn canonical(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Null => None,
            Value::Integer(i) => Some(Cow::Owned(i.to_string())),
            Value::Real(r) if r.fract() == 0.0 && r.abs() < 9.0e15 => Some(Cow::Owned((*r as i64).to_string())),
            Value::Real(r) => Some(Cow::Owned(r.to_string())),
            Value::Bool(b) => Some(Cow::Borrowed(if *b { "true" } else { "false" })),
            Value::Text(t) if t.is_empty() => None,
            Value::Text(t) => Some(Cow::Borrowed(t)),
            Value::Bytes(b) => match std::str::from_utf8(b) {
                Ok("") => None,
                Ok(t) => Some(Cow::Borrowed(t)),
                Err(_) => Some(Cow::Owned(format!("x'{}'", hex::encode(b)))),
            },
        }
    }
}
