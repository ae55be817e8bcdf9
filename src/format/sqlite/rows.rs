//! Reading rows by key: how a row is named, which columns it has, and its values as the data map sees them.

use super::record::text;
use super::schema::{Table, TableKind, quote};
use crate::datamap::{Collection, Value};
use crate::format::RecordKey;
use crate::{Error, Result};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql, params_from_iter};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A value as SQLite returns it.
pub fn from_sql(value: ValueRef<'_>) -> Value<'static> {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Integer(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => text(t).into_owned(),
        ValueRef::Blob(b) => Value::Bytes(Cow::Owned(b.to_vec())),
    }
}

/// One component of a key, to be bound exactly as it was read (also text that is not valid UTF-8).
#[derive(Debug, Clone, PartialEq)]
pub enum KeyPart {
    /// NULL.
    Null,
    /// An integer, also a row id.
    Integer(i64),
    /// A real number.
    Real(f64),
    /// Text.
    Text(Vec<u8>),
    /// A blob.
    Blob(Vec<u8>),
}

impl ToSql for KeyPart {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            KeyPart::Null => ValueRef::Null,
            KeyPart::Integer(i) => ValueRef::Integer(*i),
            KeyPart::Real(r) => ValueRef::Real(*r),
            KeyPart::Text(t) => ValueRef::Text(t),
            KeyPart::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

impl KeyPart {
    /// From a value as SQLite returns it.
    pub fn from_sql(value: ValueRef<'_>) -> KeyPart {
        match value {
            ValueRef::Null => KeyPart::Null,
            ValueRef::Integer(i) => KeyPart::Integer(i),
            ValueRef::Real(r) => KeyPart::Real(r),
            ValueRef::Text(t) => KeyPart::Text(t.to_vec()),
            ValueRef::Blob(b) => KeyPart::Blob(b.to_vec()),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |tag: u8, bytes: &[u8]| {
            out.push(tag);
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        match self {
            KeyPart::Null => put(0, &[]),
            KeyPart::Integer(i) => put(1, &i.to_be_bytes()),
            KeyPart::Real(r) => put(2, &r.to_bits().to_be_bytes()),
            KeyPart::Text(t) => put(3, t),
            KeyPart::Blob(b) => put(4, b),
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<KeyPart> {
        let (tag, rest) = bytes.split_first()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
        *bytes = rest;
        Some(match tag {
            0 => KeyPart::Null,
            1 => KeyPart::Integer(i64::from_be_bytes(part.try_into().ok()?)),
            2 => KeyPart::Real(f64::from_bits(u64::from_be_bytes(part.try_into().ok()?))),
            3 => KeyPart::Text(part.to_vec()),
            _ => KeyPart::Blob(part.to_vec()),
        })
    }
}

/// How the rows of a table are named and read.
pub struct RowShape {
    /// As SQL expressions, without a table's name.
    pub keys: Vec<String>,
    /// Whether the key is the row id.
    pub by_rowid: bool,
    /// `main."table"`.
    pub from: String,
    /// Names of all visible columns.
    pub columns: Vec<String>,
}

impl RowShape {
    /// Of a table; views have none.
    pub fn of(table: &Table) -> Result<RowShape> {
        let (keys, by_rowid) = match table.kind {
            TableKind::View => return Err(Error::Refused(format!("{} is a view: map the tables behind it", table.name))),
            TableKind::WithoutRowid => (table.key_columns().iter().map(|c| quote(&c.name)).collect(), false),
            _ => (vec![table.rowid_name()?], true),
        };
        Ok(RowShape {
            keys,
            by_rowid,
            from: format!("main.{}", quote(&table.name)),
            columns: table.visible().map(|c| c.name.clone()).collect(),
        })
    }

    /// `"a" = ?1 AND "b" = ?2`, with parameters from `first` on.
    pub fn is_key(&self, first: usize) -> String {
        self.keys.iter().enumerate().map(|(i, k)| format!("{k} = ?{}", first + i)).collect::<Vec<_>>().join(" AND ")
    }

    /// The key in the first columns of a result row.
    pub fn key(&self, row: &Row<'_>) -> rusqlite::Result<RecordKey> {
        if self.by_rowid {
            return Ok(RecordKey::Row(row.get(0)?));
        }
        let mut bytes = Vec::new();
        for i in 0..self.keys.len() {
            KeyPart::from_sql(row.get_ref(i)?).encode(&mut bytes);
        }
        Ok(RecordKey::Key(bytes))
    }

    /// The parts of a key, to be bound; `None` for a key of another kind of table.
    pub fn parts(&self, key: &RecordKey) -> Option<Vec<KeyPart>> {
        match key {
            RecordKey::Row(id) if self.by_rowid => Some(vec![KeyPart::Integer(*id)]),
            RecordKey::Key(bytes) if !self.by_rowid => {
                let mut rest = bytes.as_slice();
                let parts: Option<Vec<KeyPart>> = self.keys.iter().map(|_| KeyPart::decode(&mut rest)).collect();
                parts.filter(|_| rest.is_empty())
            }
            _ => None,
        }
    }

    /// `SELECT` of the key and these columns, without a condition.
    pub fn select(&self, columns: &[String]) -> String {
        let all: Vec<String> = self.keys.iter().cloned().chain(columns.iter().map(|c| quote(c))).collect();
        format!("SELECT {} FROM {}", all.join(", "), self.from)
    }

    /// All visible columns of the row with this key, in order; `None` when there is no such row.
    pub fn load(&self, db: &Connection, key: &RecordKey) -> rusqlite::Result<Option<Vec<Value<'static>>>> {
        let Some(parts) = self.parts(key) else { return Ok(None) };
        let mut statement = db.prepare_cached(&format!("{} WHERE {}", self.select(&self.columns), self.is_key(1)))?;
        let mut rows = statement.query(params_from_iter(parts))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let skip = self.keys.len();
        (0..self.columns.len()).map(|i| Ok(from_sql(row.get_ref(skip + i)?))).collect::<rusqlite::Result<_>>().map(Some)
    }
}

/// A row's values by the names that the data map uses (unmapped columns by their own).
pub fn by_name(collection: &Collection, columns: &[String], values: Vec<Value<'static>>) -> BTreeMap<String, Vec<Value<'static>>> {
    let mut out = BTreeMap::new();
    for (column, value) in columns.iter().zip(values) {
        let name = match collection.fields.contains_key(column) {
            true => column,
            false => collection.fields.keys().find(|f| f.eq_ignore_ascii_case(column)).unwrap_or(column),
        };
        out.insert(name.clone(), vec![value]);
    }
    out
}

/// A field's value among a row's values, whatever the case of its name.
pub fn field<'v>(values: &'v BTreeMap<String, Vec<Value<'static>>>, name: &str) -> Option<&'v Vec<Value<'static>>> {
    values.get(name).or_else(|| values.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_come_back_as_they_were(i in any::<i64>(), r in any::<f64>().prop_filter("nan", |r| !r.is_nan()), t in any::<Vec<u8>>()) {
            let parts = [KeyPart::Integer(i), KeyPart::Real(r), KeyPart::Text(t.clone()), KeyPart::Blob(t), KeyPart::Null];
            let mut bytes = Vec::new();
            parts.iter().for_each(|p| p.encode(&mut bytes));
            let mut rest = bytes.as_slice();
            for p in &parts {
                let back = KeyPart::decode(&mut rest);
                prop_assert_eq!(back.as_ref(), Some(p));
            }
        }

        #[test]
        fn hostile_keys_are_refused(bytes in any::<Vec<u8>>()) {
            let mut rest = bytes.as_slice();
            while KeyPart::decode(&mut rest).is_some() {}
        }
    }
}
