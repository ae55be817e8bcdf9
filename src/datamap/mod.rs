//! The data map: whose records are whose. Collections, identities, references and strategies, in checked form; values, tokens and
//! the small expressions of `when:` and `until:`. Knows no store and no file format.

pub mod check;
pub mod expr;
pub mod load;
pub mod model;
pub mod normalize;
pub mod pattern;
pub mod raw;
pub mod strategy;
pub mod token;
pub mod value;

pub use model::{
    Action, Collection, DataMap, Dialect, EntryPattern, Feed, Field, Label, Normalize, OnErase, Probe, Retain, Shared, Unmapped,
};
pub use token::{COMBINATIONS, Fingerprint, Token, TokenKey, TokenSet, Tokens, fingerprint};
pub use value::Value;
