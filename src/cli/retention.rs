//! `reseal retention`: the statement for whoever asks how long copies can stay in backups. One text in Markdown, which can be read as it
//! is; the same facts as an object for scripts.

use super::args::Retention;
use super::open::{Context, store};
use super::{DONE, PARTIAL, buckets, exports, secrets, text};
use crate::Result;
use crate::config::{Config, RepositoryAt};
use crate::engine::statement::{self, DatasetStatement, Held, Rules, Statement, day};
use crate::policy;
use crate::store::Level;
use crate::store::s3::Region;
use serde_json::{Value, json};

/// A place, and in which region it is.
struct Place {
    holds: &'static str,
    at: String,
    region: InRegion,
}

/// What is known of a place's region.
enum InRegion {
    /// A folder has none.
    Folder,
    /// As the service says.
    Named(String),
    /// The service names none: as the configuration says.
    Configured(String),
    /// Why it is not known.
    NotKnown(String),
}

impl InRegion {
    fn words(&self) -> String {
        match self {
            InRegion::Folder => "a folder of the machine that made this statement".into(),
            InRegion::Named(name) => format!("region {name}, as the service says"),
            InRegion::Configured(name) => format!("region {name}, as the configuration says; the service names none"),
            InRegion::NotKnown(why) => format!("region NOT KNOWN ({why})"),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            InRegion::Named(name) | InRegion::Configured(name) => Some(name),
            InRegion::Folder | InRegion::NotKnown(_) => None,
        }
    }

    fn source(&self) -> Option<&'static str> {
        match self {
            InRegion::Named(_) => Some("service"),
            InRegion::Configured(_) => Some("configuration"),
            InRegion::Folder | InRegion::NotKnown(_) => None,
        }
    }
}

/// What no statement can see.
const NOT_COVERED: [&str; 3] = [
    "the live sources",
    "copies of the repository that others made: of its folders, by a bucket's replication, by snapshots of the machines below it",
    "what was restored or exported from archives",
];

/// Makes it.
pub fn run(cx: &Context, args: &Retention) -> Result<u8> {
    let session = cx.session()?;
    let mut made = statement::make(&session, &args.datasets)?;
    let places = places(cx, &session.config)?;
    made.not_known.extend(places.iter().filter_map(|p| match &p.region {
        InRegion::NotKnown(why) => Some(format!("{}: its region: {why}", p.at)),
        _ => None,
    }));
    let actor = cx.actor(&session.config)?;
    let page = text::plain(&page(&made, &places, &actor));
    match &args.out {
        Some(path) => {
            secrets::write_new(path, page.as_bytes())?;
            cx.ui.say(&format!("wrote the statement to {}", path.display()));
        }
        None => cx.ui.data(page.trim_end()),
    }
    for what in &made.not_known {
        cx.ui.warn(&format!("{what}: not known"));
    }
    cx.ui.object(&json!({ "retention": object(&made, &places, &actor, args.out.as_ref().map(|p| p.display().to_string())) }));
    Ok(if made.not_known.is_empty() { DONE } else { PARTIAL })
}

fn places(cx: &Context, config: &Config) -> Result<Vec<Place>> {
    let place = |holds: &'static str, at: &RepositoryAt| -> Result<Place> {
        let region = match store(config, at, &cx.env, false)?.0 {
            None => InRegion::Folder,
            Some(bucket) => match bucket.region() {
                Ok(Region::Named(name)) => InRegion::Named(name),
                Ok(Region::Configured(name)) => InRegion::Configured(name),
                Err(e) => InRegion::NotKnown(e.to_string()),
            },
        };
        Ok(Place { holds, at: at.to_string(), region })
    };
    match &config.keys {
        None => Ok(vec![place("packs, heads and keys", &config.repository)?]),
        Some(keys) => Ok(vec![place("packs and heads", &config.repository)?, place("keys", keys)?]),
    }
}

/// Retention's limits, in words.
fn limits(r: &policy::Retention) -> String {
    let mut parts = Vec::new();
    parts.extend(r.max_age.map(|p| format!("none older than {p}")));
    parts.extend(r.max_archives.map(|n| format!("at most {}", text::count(u64::from(n), "archive", "archives"))));
    if let Some(keep) = &r.keep {
        let counts = counts(keep).into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}"));
        parts.push(format!("kept of the past: {}", counts.collect::<Vec<_>>().join(", ")));
    }
    if parts.is_empty() {
        parts.push("no rule removes archives".into());
    }
    parts.push(format!("never fewer than {}, and the newest one known to be whole stays", r.min_archives.max(1)));
    parts.join("; ")
}

fn counts(k: &policy::retention::KeepRules) -> [(&'static str, u32); 6] {
    [("last", k.last), ("hourly", k.hourly), ("daily", k.daily), ("weekly", k.weekly), ("monthly", k.monthly), ("yearly", k.yearly)]
}

fn locks(d: &DatasetStatement) -> String {
    let kept = match &d.locked {
        None => "what locks still keep is NOT KNOWN".to_string(),
        Some(held) if held.is_empty() => "no lock keeps an erased object".into(),
        Some(held) => {
            let last = held.iter().filter_map(|h| h.until).max().map(|t| format!(", the last date known is {} UTC", text::time(t)));
            let undated = held.iter().filter(|h| h.until.is_none()).count() as u64;
            let undated = if undated > 0 { format!(", of {undated} the date is NOT KNOWN or a legal hold") } else { String::new() };
            format!(
                "{} kept by a lock{}{undated}: ciphertext whose keys are destroyed",
                text::count(held.len() as u64, "object is", "objects are"),
                last.unwrap_or_default()
            )
        }
    };
    match d.rules.as_ref().and_then(|r| Some((r.lock_mode()?, r.lock?.days))) {
        Some((mode, days)) => format!("each pack is locked ({mode}) for {days} days from when it is written; {kept}"),
        None => format!("none is set by reseal; {kept}"),
    }
}

fn page(s: &Statement, places: &[Place], actor: &str) -> String {
    let mut out = format!(
        "# Retention of personal data in backups\n\nStated on {} UTC by {actor} with {}, about repository `{}`, up to entry {} of its audit log.\n",
        text::time(s.at),
        crate::TOOL,
        s.repository,
        s.ledger_entry
    );
    for d in &s.datasets {
        out += &format!("\n## {}\n\n", d.name);
        let mut line = |name: &str, value: String| out += &format!("- **{name}**: {value}\n");
        line("Comes from", if d.sources.is_empty() { "NOT KNOWN".into() } else { d.sources.join(", ") });
        let ages = match (&d.oldest, d.newest) {
            (Some(oldest), Some(newest)) => format!(
                ", the oldest of {}{}, the newest of {}",
                day(oldest.created_at),
                oldest.expires_at.map_or_else(|| " (its end is not known, or none is set)".into(), |t| format!(" (goes about {})", day(t))),
                day(newest)
            ),
            _ => String::new(),
        };
        line("Archives", format!("{}{ages}", d.archives));
        if d.unreadable > 0 {
            line("Not readable", format!("{}; what is in them is NOT KNOWN", text::count(d.unreadable, "archive", "archives")));
        }
        if d.waiting > 0 {
            line("Waiting for admission", format!("{}; no erasure reaches what waits", text::count(d.waiting, "archive", "archives")));
        }
        let rules = d.rules.as_ref();
        line("Rules of retention", rules.map_or_else(|| "NOT KNOWN".into(), |r| limits(&r.retention)));
        line("A copy stays", d.stays());
        line("An erasure", d.reach());
        for (collection, basis) in rules.map(|r| r.grounds.as_slice()).unwrap_or_default() {
            line("Kept on a ground", format!("records of {collection}: {basis}"));
        }
        line(
            "Requests",
            format!(
                "{}, of which {}",
                text::count(d.open_requests, "is open", "are open"),
                text::count(d.overdue_requests, "is past its deadline", "are past their deadline")
            ),
        );
        line("Locks", locks(d));
        if let Some(region) = rules.and_then(|r| r.region.as_ref()) {
            line("Has to stay in", region.clone());
        }
    }
    out += "\n## Where it is\n\n";
    for p in places {
        out += &format!("- {}: {} ({})\n", p.holds, p.at, p.region.words());
    }
    out += "\n## What the places do by themselves\n\n";
    for f in &s.storage {
        let mark = match f.level {
            Level::Fine | Level::Note => "",
            Level::Warning => "WARNING: ",
            Level::Unknown | Level::NotOffered => "NOT KNOWN: ",
        };
        out += &format!("- {}: {}: {mark}{}\n", f.place, f.aspect.as_str(), f.text);
    }
    if s.storage.is_empty() {
        out += "- Folders do nothing by themselves. Copies that are made below them are not seen from here.\n";
    }
    out += "\n## Exports of keys\n\n";
    for e in &s.exports {
        let state =
            if e.is_outdated() { "WARNING: holds keys that erasures destroyed; it has to be replaced and destroyed" } else { "current" };
        out += &format!("- {} of {} ({}): {state}\n", e.id, day(e.at), e.label);
    }
    if s.exports.is_empty() {
        out += "- None that is not recorded as destroyed.\n";
    }
    out += "\n## Not known\n\n";
    for what in &s.not_known {
        out += &format!("- {what}\n");
    }
    if s.not_known.is_empty() {
        out += "- Nothing of what was asked.\n";
    }
    out += "\n## Not covered\n\n";
    for what in NOT_COVERED {
        out += &format!("- {what}\n");
    }
    out
}

fn rules_object(r: &Rules) -> Value {
    let keep = r.retention.keep.as_ref().map(|k| counts(k).into_iter().collect::<std::collections::BTreeMap<_, _>>());
    json!({
        "retention": {
            "max_age": r.retention.max_age.map(|p| p.to_string()), "max_archives": r.retention.max_archives,
            "min_archives": r.retention.min_archives.max(1), "keep": keep,
        },
        "erasure": {
            "mode": r.erasure.mode.to_string(), "cooling_off": r.erasure.cooling_off.to_string(),
            "document_lifetime": r.erasure.document_lifetime.to_string(), "deadline": r.erasure.deadline.to_string(),
            "approvals": r.erasure.approvals, "mapped": r.mapped,
            "grounds": r.grounds.iter().map(|(c, basis)| json!({ "collection": c, "basis": basis })).collect::<Vec<_>>(),
        },
        "lock": r.lock_mode().zip(r.lock).map(|(mode, lock)| json!({ "mode": mode, "days": lock.days })),
        "region": r.region,
    })
}

fn object(s: &Statement, places: &[Place], actor: &str, out: Option<String>) -> Value {
    let held = |h: &Held| json!({ "object": h.object, "keys": "destroyed", "locked_until": h.until.map(|t| t.to_string()) });
    let dataset = |d: &DatasetStatement| {
        json!({
            "dataset": d.name, "sources": d.sources, "rules": d.rules.as_ref().map(rules_object), "archives": d.archives,
            "unreadable": d.unreadable, "waiting": d.waiting,
            "oldest": d.oldest.as_ref().map(|k| json!({
                "archive": k.id, "created_at": k.created_at.to_string(), "expires_at": k.expires_at.map(|t| t.to_string()),
            })),
            "newest_created_at": d.newest.map(|t| t.to_string()), "last_expires_at": d.last_expires.map(|t| t.to_string()),
            "stays": d.stays(), "reach": d.reach(), "locked": d.locked.as_ref().map(|l| l.iter().map(held).collect::<Vec<_>>()),
            "requests": { "open": d.open_requests, "overdue": d.overdue_requests },
        })
    };
    json!({
        "repository": s.repository, "stated_at": s.at.to_string(), "stated_by": actor, "tool": crate::TOOL, "ledger_entry": s.ledger_entry,
        "out": out, "datasets": s.datasets.iter().map(dataset).collect::<Vec<_>>(),
        "places": places.iter().map(|p| json!({
            "holds": p.holds, "place": p.at, "region": p.region.name(), "region_source": p.region.source(),
        })).collect::<Vec<_>>(),
        "storage": buckets::objects(&s.storage), "exports": exports::objects(&s.exports), "not_known": s.not_known,
        "not_covered": NOT_COVERED,
    })
}
