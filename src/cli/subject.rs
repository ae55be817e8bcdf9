//! `reseal subject`: where a person is, and what is held about them. No value of the person is ever printed.

use super::args::{Subject, SubjectExport, SubjectFind};
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL, secrets};
use crate::Result;
use crate::engine::subject;
use serde_json::json;
use std::collections::BTreeMap;

/// Finds or exports.
pub fn run(cx: &Context, args: &Subject) -> Result<u8> {
    match args {
        Subject::Find(a) => find(cx, a),
        Subject::Export(a) => export(cx, a),
    }
}

fn find(cx: &Context, args: &SubjectFind) -> Result<u8> {
    let session = cx.session()?;
    let text = secrets::identities(&args.identity_file, &cx.ui)?;
    let person = subject::one_subject(&session, &text)?;
    drop(text);
    let places = subject::find(&session, &person)?;
    let mut table = Table::new(&[
        ("archive", Align::Left),
        ("dataset", Align::Left),
        ("time (UTC)", Align::Left),
        ("records", Align::Right),
        ("in", Align::Left),
    ]);
    let (mut objects, mut unsearched, mut holding) = (Vec::new(), 0u64, 0u64);
    for place in &places {
        let records: u64 = place.collections.values().sum();
        if records > 0 {
            holding += 1;
            let collections: Vec<String> = place.collections.iter().map(|(c, n)| format!("{c} {n}")).collect();
            table.row(vec![
                text::short(place.archive),
                place.dataset.clone(),
                text::time(place.created_at),
                records.to_string(),
                collections.join(", "),
            ]);
        }
        for (entry, why) in &place.failed {
            unsearched += 1;
            cx.ui.warn(&format!("{entry} in archive {} was NOT searched: {why}", text::short(place.archive)));
        }
        for entry in &place.fell_back {
            cx.env.monitor.detail(&format!(
                "{entry} in archive {} was read as a whole: the archive is older than the data map",
                text::short(place.archive)
            ));
        }
        let failed: Vec<_> = place.failed.iter().map(|(entry, why)| json!({ "entry": entry, "message": why })).collect();
        objects.push(json!({
            "dataset": place.dataset,
            "archive": place.archive.to_string(),
            "created_at": place.created_at.to_string(),
            "records": records,
            "collections": place.collections,
            "not_searched": failed,
            "read_whole": place.fell_back,
        }));
    }
    if !table.is_empty() {
        cx.ui.data(&table.render());
    }
    cx.ui.data(&format!("the person is in {holding} of {}", text::count(places.len() as u64, "archive", "archives")));
    cx.ui.object(&json!({ "found": holding > 0, "archives": objects }));
    Ok(if unsearched > 0 { PARTIAL } else { DONE })
}

fn export(cx: &Context, args: &SubjectExport) -> Result<u8> {
    let session = cx.session()?;
    let text = secrets::identities(&args.identity_file, &cx.ui)?;
    let person = subject::one_subject(&session, &text)?;
    drop(text);
    let done = subject::export(&session, &person, &args.to)?;
    cx.ui.say(&format!("wrote {} about the person to {}:", text::count(done.records, "record", "records"), args.to.display()));
    for file in &done.files {
        cx.ui.say(&format!("  {file}"));
    }
    cx.ui.warn("these files are plaintext about a person: hand them over, then delete them");
    let archives: BTreeMap<&String, String> = done.archives.iter().map(|(d, a)| (d, a.to_string())).collect();
    cx.ui.object(&json!({
        "export": { "to": args.to.display().to_string(), "files": done.files, "records": done.records, "archives": archives }
    }));
    Ok(DONE)
}
