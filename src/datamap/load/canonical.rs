//! The digest of a compiled map. Certificates and heads name it, so it depends on what the map says, not on how it is written:
//! comments, order of keys, defaults spelled out and files it is spread over make no difference.

use super::super::model::{Action, Collection, DataMap, Feed, Field, OnErase, Probe, Shared, Unmapped};
use serde_json::{Value, json};

/// BLAKE3 of the map's canonical form, in hex.
pub fn digest(map: &DataMap) -> String {
    let unmapped = match map.unmapped {
        Unmapped::Halt => "halt",
        Unmapped::Redact => "redact",
        Unmapped::Preserve => "preserve",
    };
    let form = json!({"unmapped": unmapped, "collections": map.collections.iter().map(collection).collect::<Vec<_>>()});
    blake3::hash(form.to_string().as_bytes()).to_hex().to_string()
}

fn collection(c: &Collection) -> Value {
    let on_erase = match c.on_erase {
        OnErase::Delete => "delete",
        OnErase::Anonymize => "anonymize",
        OnErase::Preserve => "preserve",
    };
    let retain = c.retain.as_ref().map(|r| json!([r.until.source, r.basis, r.cite]));
    json!({
        "name": c.name,
        "entry": c.entry.source,
        "format": c.format,
        "table": c.table,
        "dialect": json!([c.dialect.delimiter, c.dialect.quote, c.dialect.header, c.dialect.encoding]),
        "primary_key": c.primary_key,
        "on_erase": on_erase,
        "shared": c.shared == Shared::Erase,
        "fields": c.fields.values().map(field).collect::<Vec<_>>(),
        "probes": c.probes.iter().map(probe).collect::<Vec<_>>(),
        "placeholder_feeds": c.placeholder_feeds,
        "placeholder_normalize": c.placeholder_normalize.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "retain": retain,
        "basis": c.basis,
        "triggers": c.triggers,
    })
}

fn field(f: &Field) -> Value {
    json!([f.name, f.category, f.identity, f.normalize.to_string(), f.action.as_ref().map(action), f.scan])
}

fn action(a: &Action) -> Value {
    match a {
        Action::Delete => json!(["delete"]),
        Action::NullRewrite => json!(["null_rewrite"]),
        Action::StringRewrite { rewrite_value } => json!(["string_rewrite", rewrite_value]),
        Action::RandomStringRewrite { length, suffix } => json!(["random_string_rewrite", length, suffix]),
        Action::Redact { replacement } => json!(["redact", replacement]),
        Action::Hmac => json!(["hmac"]),
        Action::Preserve { basis } => json!(["preserve", basis]),
    }
}

fn probe(p: &Probe) -> Value {
    let fields: Vec<Value> = p.fields.iter().map(|(f, n)| json!([f, n.to_string()])).collect();
    let feed = match &p.feed {
        Feed::Identity(kind) => json!(["identity", kind]),
        Feed::Reference { collection, fields } => json!(["reference", collection, fields]),
    };
    json!([fields, feed, p.when.as_ref().map(|w| &w.source)])
}
