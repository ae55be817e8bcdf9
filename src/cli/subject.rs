//! `reseal subject`: where a person is, and what is held about them. No value of the person is ever printed.

use super::args::{Subject as Command, SubjectExport, SubjectFind};
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, PARTIAL, secrets};
use crate::Result;
use crate::datamap::Token;
use crate::engine::identity::{Subject, ledger_tokens};
use crate::engine::session::Session;
use crate::engine::subject;
use jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Finds or exports.
pub fn run(cx: &Context, command: &Command) -> Result<u8> {
    match command {
        Command::Find(a) => find(cx, a),
        Command::Export(a) => export(cx, a),
    }
}

fn find(cx: &Context, args: &SubjectFind) -> Result<u8> {
    let (session, _) = cx.settled()?;
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
    let erased = erased_by(&session, &person)?;
    for (request, dataset, at) in &erased {
        cx.ui.data(&format!(
            "request {request} erased the person from {dataset} on {} UTC: what archives before that still have was anonymised or is kept on a ground",
            text::time(*at)
        ));
    }
    let erased: Vec<_> =
        erased.iter().map(|(request, dataset, at)| json!({ "request": request, "dataset": dataset, "at": at.to_string() })).collect();
    cx.ui.object(&json!({ "found": holding > 0, "archives": objects, "erased": erased }));
    Ok(if unsearched > 0 { PARTIAL } else { DONE })
}

/// Finished requests about the same person: what is found after them is what they left on purpose, and whoever reads the list must know.
fn erased_by(session: &Session, person: &Subject) -> Result<Vec<(String, String, Timestamp)>> {
    let state = session.state()?;
    let mut out = Vec::new();
    for config in session.config.datasets.values().filter(|d| !d.map.collections.is_empty()) {
        let Some(dataset) = session.repo.dataset(&config.name)? else { continue };
        let own: BTreeSet<Token> =
            ledger_tokens(person, &config.map, dataset.token_key()).iter().flat_map(|i| i.tokens.iter().map(|t| t.token)).collect();
        for request in &state.requests {
            let same = request.datasets.get(&config.name).into_iter().flatten().flat_map(|i| &i.tokens).any(|t| own.contains(&t.token));
            if let (true, Some(at), true) = (same, request.effective_at, request.finished.as_ref().is_some_and(|f| f.done)) {
                out.push((request.id.clone(), config.name.clone(), at));
            }
        }
    }
    Ok(out)
}

fn export(cx: &Context, args: &SubjectExport) -> Result<u8> {
    let (session, _) = cx.settled()?;
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
