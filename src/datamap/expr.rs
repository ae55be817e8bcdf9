//! Small expressions over a record's fields, for `when:` and `retain.until:`.

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    /// As written.
    pub source: String,
}
