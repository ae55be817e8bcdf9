//! `reseal certificate`: the signed proof of a request, and the check of one that somebody hands in.

use super::args::{Certificate, CertificateCommand};
use super::open::Context;
use super::{DONE, FAILED, PARTIAL, page, secrets};
use crate::engine::certificate::{self, CheckedCertificate};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Makes or checks one.
pub fn run(cx: &Context, args: &Certificate) -> Result<u8> {
    match (&args.check, &args.request) {
        (Some(CertificateCommand::Check { file }), _) => check(cx, file),
        (None, Some(request)) => make(cx, request, args.out.as_deref()),
        (None, None) => Err(Error::Usage("name a request, or check a certificate: reseal certificate check FILE".into())),
    }
}

fn make(cx: &Context, request: &str, out: Option<&Path>) -> Result<u8> {
    let session = cx.session()?;
    let certificate = certificate::make(&session, request)?;
    let Some(path) = out else {
        cx.ui.verbatim(&certificate);
        return Ok(code(result(&certificate)));
    };
    let is_page = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm"));
    let text = if is_page { page::render(&certificate) } else { format!("{certificate:#}\n") };
    // Made anew each time it is asked for; the text changes only when the request does.
    std::fs::write(path, text).map_err(Error::io("write", path))?;
    cx.ui.object(&certificate);
    cx.ui.say(&format!("wrote the certificate of the request to {}; its result is {}", path.display(), result(&certificate)));
    if is_page {
        cx.ui.say("the page is for reading; the signature holds for the JSON form: reseal certificate REQUEST --out FILE.json");
    } else {
        cx.ui.say(&format!("anybody can check it: reseal certificate check {}", path.display()));
    }
    Ok(code(result(&certificate)))
}

fn result(certificate: &Value) -> &str {
    certificate.pointer("/body/result").and_then(Value::as_str).unwrap_or("UNKNOWN")
}

/// A certificate that does not say PASS is no success of whoever asked for it.
fn code(result: &str) -> u8 {
    match result {
        "PASS" => DONE,
        "FAILED" => FAILED,
        _ => PARTIAL,
    }
}

fn check(cx: &Context, file: &Path) -> Result<u8> {
    let text = if file.as_os_str() == "-" { secrets::identities(file, &cx.ui)? } else { secrets::read(file)? };
    // Whoever is handed a certificate has no repository; the signature can be checked all the same.
    let session = if cx.global.config.exists() && secrets::is_given(&cx.global) { Some(cx.session()?) } else { None };
    let checked = certificate::check(&text, session.as_ref())?;
    let genuine = checked.ours != Some(false) && checked.in_chain != Some(false);
    say(cx, &checked);
    cx.ui.object(&json!({
        "check": {
            "signature": "PASS",
            "request": checked.request,
            "result": checked.result,
            "public_key": checked.public_key,
            "signed_by_this_repository": checked.ours,
            "in_audit_chain": checked.in_chain,
        }
    }));
    Ok(if genuine { code(&checked.result) } else { FAILED })
}

/// In words.
pub fn say(cx: &Context, checked: &CheckedCertificate) {
    cx.ui.data(&format!("the signature fits the text; it is by the key {}", checked.public_key));
    match checked.ours {
        Some(true) => cx.ui.data("that is the key of this repository"),
        Some(false) => cx.ui.warn("that is NOT the key of this repository: the certificate is another repository's, or forged"),
        None => cx.ui.data(
            "whose key that is was not checked: there is no opened repository to compare with; compare it with the one that you know",
        ),
    }
    match checked.in_chain {
        Some(true) => cx.ui.data("the audit chain has the entry that it names"),
        Some(false) => cx.ui.warn("the audit chain does NOT have the entry that it names"),
        None => {}
    }
    cx.ui.data(&format!("it certifies request {}: {}", checked.request, checked.result));
}
