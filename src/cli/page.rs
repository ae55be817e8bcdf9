//! A certificate as a page to read and print. The words are the JSON's, so that nothing can be said here that was not signed.

use serde_json::Value;

/// The page: one file, no script, nothing loaded from anywhere.
pub fn render(certificate: &Value) -> String {
    let empty = Value::Null;
    let body = certificate.get("body").unwrap_or(&empty);
    let at = |pointer: &str| body.pointer(pointer).map_or_else(String::new, text);
    let mut out = String::from(HEAD);
    out += &format!("<h1>Certificate of erasure</h1>\n<p class=\"result\">{}</p>\n", html(&at("/result")));
    out += "<table class=\"facts\">\n";
    for (name, pointer) in [
        ("Request", "/request/id"),
        ("Kind", "/request/kind"),
        ("Ground", "/request/ground/basis"),
        ("Received", "/request/received"),
        ("Deadline", "/request/deadline"),
        ("Effective at", "/effective_at"),
        ("Completed at", "/completed_at"),
        ("Performed by", "/performed_by"),
        ("Method", "/sanitization/method"),
        ("Technique", "/sanitization/technique"),
        ("Tool", "/sanitization/tool"),
        ("Verification", "/verification/method"),
        ("Search", "/verification/scope"),
        ("Old objects absent", "/verification/old_objects_absent"),
        ("Repository", "/repository"),
        ("Audit log entry", "/audit/entry"),
        ("Entry's hash", "/audit/hash"),
    ] {
        let value = at(pointer);
        if !value.is_empty() {
            out += &format!("<tr><th>{name}</th><td>{}</td></tr>\n", html(&value));
        }
    }
    if let Some(subject) = body.get("subject").and_then(Value::as_object) {
        for (dataset, reference) in subject {
            out += &format!("<tr><th>Person in {}</th><td>{}</td></tr>\n", html(dataset), html(&text(reference)));
        }
    }
    out += "</table>\n<h2>Records</h2>\n";
    let counts = ["dataset", "collection", "found", "deleted", "anonymised", "pseudonymised", "retained", "failed"];
    out += &table(body.get("collections"), &counts.map(|c| (c, format!("/{c}"))));
    out += "<h2>Archives</h2>\n";
    let archives = [
        ("dataset", "/dataset"),
        ("backup time", "/backup_time"),
        ("archive", "/archive"),
        ("generation before", "/before/generation"),
        ("digest before", "/before/digest"),
        ("generation after", "/after/generation"),
        ("digest after", "/after/digest"),
        ("verification", "/verification"),
        ("left", "/left"),
        ("notes", "/notes"),
    ];
    out += &table(body.get("archives"), &archives.map(|(n, p)| (n, p.to_string())));
    out += "<h2>Copies that survive</h2>\n";
    out += &table(
        body.get("surviving_copies"),
        &[("dataset", "/dataset"), ("archive", "/archive"), ("why", "/why"), ("until at the latest", "/can_exist_until")]
            .map(|(n, p)| (n, p.to_string())),
    );
    let exports = [("export", "/export"), ("kept at", "/label"), ("made", "/made_at"), ("up to ledger entry", "/ledger_entry")];
    if body.get("surviving_key_exports").and_then(Value::as_array).is_some_and(|e| !e.is_empty()) {
        out += "<h2>Exports of keys that survive</h2>\n";
        out += &table(body.get("surviving_key_exports"), &exports.map(|(n, p)| (n, p.to_string())));
    }
    out += "<h2>Not covered</h2>\n";
    out += &list(body.get("not_covered"));
    let signature = |p: &str| certificate.pointer(p).map_or_else(String::new, text);
    out += &format!(
        "<h2>Signature</h2>\n<p>The JSON form of this certificate is signed ({}) by the key <code>{}</code>:<br><code>{}</code></p>\n</html>\n",
        html(&signature("/signature/algorithm")),
        html(&signature("/signature/public_key")),
        html(&signature("/signature/value"))
    );
    out
}

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Certificate of erasure</title>\n<style>
body{font:14px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111;background:#fff}
table{border-collapse:collapse;margin:.5em 0}th,td{border:1px solid #bbb;padding:.2em .5em;text-align:left;vertical-align:top;overflow-wrap:anywhere}
.result{font-size:2em;font-weight:bold}code{overflow-wrap:anywhere}
</style>\n";

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(rows: Option<&Value>, columns: &[(&str, String)]) -> String {
    let rows = rows.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "<p>None.</p>\n".to_string();
    }
    let head: String = columns.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells: String =
                columns.iter().map(|(_, p)| format!("<td>{}</td>", html(&row.pointer(p).map_or_else(String::new, text)))).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!("<table><tr>{head}</tr>\n{body}</table>\n")
}

fn list(items: Option<&Value>) -> String {
    let items: String = items.and_then(Value::as_array).into_iter().flatten().map(|i| format!("<li>{}</li>", html(&text(i)))).collect();
    format!("<ul>{items}</ul>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_in_a_certificate_becomes_markup() {
        let evil = "<script>alert(1)</script>";
        let certificate = json!({ "body": {
            "result": evil, "request": {"id": evil}, "subject": {evil: evil}, "collections": [{"dataset": evil}],
            "archives": [{"left": [evil, evil]}], "not_covered": [evil],
        }, "signature": {"public_key": evil} });
        let page = render(&certificate);
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script&gt;"));
        render(&json!(null));
    }
}
