//! `reseal backup`: seals a new archive of each dataset.

use super::args::Backup;
use super::open::{Context, location};
use super::{DONE, PARTIAL, go_on, secrets, sides, text, ui, worst};
use crate::engine::backup::{self, Report};
use crate::repository::host::HostKey;
use crate::repository::intake::Outbox;
use crate::source::walk::Severity;
use crate::{Result, config};
use serde_json::{Value, json};
use std::sync::Arc;

/// Backs up the datasets named, or all. One that fails does not keep the others from being tried.
pub fn run(cx: &Context, args: &Backup) -> Result<u8> {
    if let Some(host) = secrets::host_key(&cx.global, &cx.ui)? {
        return put_only(cx, args, host);
    }
    let session = cx.session()?;
    let configs = session.datasets_named(&args.datasets)?;
    each(cx, &configs, |config| backup::backup(&session, config, args.tag.clone()))
}

/// By a host whose key only adds archives: to the datasets named, or to all that its key and its configuration have.
fn put_only(cx: &Context, args: &Backup, host: HostKey) -> Result<u8> {
    let config = cx.config()?;
    let (location, _) = location(&config, &cx.env, false)?;
    let named =
        |name: &String| config.datasets.get(name).ok_or_else(|| crate::Error::Usage(format!("no dataset {name:?} in the configuration")));
    let configs: Vec<&config::Dataset> = match args.datasets.as_slice() {
        [] => config.datasets.values().filter(|d| host.datasets().any(|n| n == d.name)).collect(),
        names => names.iter().map(named).collect::<Result<_>>()?,
    };
    if configs.is_empty() {
        return Err(crate::Error::Usage("this host's key adds to none of the configuration's datasets".into()));
    }
    let host = Arc::new(host);
    each(cx, &configs, |dataset| {
        // Before anything is written: the lease would be the first object in a place that was lost.
        Outbox::open(location.clone(), cx.env.clone(), host.clone(), &dataset.name).map_err(|e| sides::for_host(&config, &location, e))?;
        backup::put_only(&config, &location, &host, &cx.env, dataset, args.tag.clone())
    })
}

fn each(cx: &Context, configs: &[&config::Dataset], backup: impl Fn(&config::Dataset) -> Result<Report>) -> Result<u8> {
    let mut objects = Vec::new();
    let mut codes = vec![DONE];
    let only_one = configs.len() == 1;
    for config in configs {
        match backup(config) {
            Ok(report) => {
                say(cx, &report);
                codes.push(if report.is_partial() { PARTIAL } else { DONE });
                objects.push(object(&report));
            }
            Err(e) if only_one || matches!(e, crate::Error::Interrupted(_)) => return Err(e),
            Err(e) => {
                let text = ui::error_text(&e);
                cx.ui.warn(&format!("no archive of {} was made: {text}", config.name));
                codes.push(e.exit_code());
                objects.push(failed(&config.name, &text, e.exit_code()));
            }
        }
        go_on(cx)?;
    }
    cx.ui.object(&json!({ "backups": objects }));
    Ok(worst(codes))
}

/// In words.
pub fn say(cx: &Context, report: &Report) {
    let head = &report.head;
    let n = report.entries;
    cx.ui.say(&format!(
        "{}: {} archive {} of {} ({}), {} stored; files: {} new, {} changed, {} unchanged",
        head.dataset,
        if report.pending { "handed in" } else { "sealed" },
        text::short(head.archive),
        text::count(head.entry_count, "entry", "entries"),
        text::bytes(head.source_bytes),
        text::bytes(head.stored_bytes),
        n.new,
        n.changed,
        n.unchanged
    ));
    if report.pending {
        cx.ui.say(
            "every file was read: a put-only key cannot open the archive before to see what is unchanged; only new pieces were stored",
        );
        cx.ui.say("it is an archive once somebody with the full key has admitted it: reseal intake admit, or any command that changes the dataset");
    }
    let lost = report.problems.iter().filter(|(s, _)| *s == Severity::Lost).count() as u64;
    if lost > 0 {
        cx.ui.warn(&format!("{} of {} could not be stored (see above)", text::count(lost, "entry", "entries"), head.dataset));
    }
    for request in &report.still_live {
        cx.ui.warn(&format!(
            "{}: the source still holds the person of request {request}, who was erased from the backups: erase them there too, or record that they came back: reseal request came-back {request} --reason TEXT",
            head.dataset
        ));
    }
}

/// For scripts.
pub fn object(report: &Report) -> Value {
    let head = &report.head;
    let problems: Vec<Value> = report.problems.iter().map(|(s, m)| json!({ "severity": severity(*s), "message": m })).collect();
    json!({
        "dataset": head.dataset,
        "archive": head.archive.to_string(),
        "created_at": head.created_at.to_string(),
        "tag": head.tag,
        "entries": head.entry_count,
        "files": { "new": report.entries.new, "changed": report.entries.changed, "unchanged": report.entries.unchanged },
        "source_bytes": head.source_bytes,
        "read_bytes": report.read_bytes,
        "stored_bytes": head.stored_bytes,
        "complete": !report.problems.iter().any(|(s, _)| *s == Severity::Lost),
        "problems": problems,
        "still_live": report.still_live,
        "pending": report.pending,
    })
}

/// A dataset of which there is nothing else to say.
pub fn failed(dataset: &str, message: &str, exit_code: u8) -> Value {
    json!({ "dataset": dataset, "error": { "message": message, "exit_code": exit_code } })
}

fn severity(s: Severity) -> &'static str {
    match s {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Lost => "lost",
    }
}
