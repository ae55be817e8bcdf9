//! `reseal map`: the data map against what the source holds now.

use super::args::{Map, MapDatasets};
use super::open::Context;
use super::{DONE, USAGE, go_on, text};
use crate::config;
use crate::datamap::check::{Finding, Level, check};
use crate::engine::mapcheck::{Depth, gather};
use crate::engine::mapsuggest::suggest;
use crate::{Error, Result};
use serde_json::{Value, json};

/// Checks or drafts. Neither needs the repository or its secret.
pub fn run(cx: &Context, command: &Map) -> Result<u8> {
    let (Map::Check(MapDatasets { datasets }) | Map::Suggest(MapDatasets { datasets })) = command;
    let config = cx.config()?;
    let mut chosen: Vec<&config::Dataset> = Vec::new();
    for name in datasets {
        chosen.push(config.datasets.get(name).ok_or_else(|| {
            let known: Vec<&str> = config.datasets.keys().map(String::as_str).collect();
            Error::Usage(format!("no dataset {name:?} in the configuration; it has {}", known.join(", ")))
        })?);
    }
    if chosen.is_empty() {
        chosen = config.datasets.values().collect();
    }
    match command {
        Map::Check(_) => check_all(cx, &config, &chosen),
        Map::Suggest(_) => suggest_all(cx, &config, &chosen),
    }
}

fn check_all(cx: &Context, config: &config::Config, datasets: &[&config::Dataset]) -> Result<u8> {
    let mut objects = Vec::new();
    let mut errors = 0;
    for dataset in datasets {
        let gathered = gather(config, dataset, Depth::Mapped, &cx.env)?;
        for problem in &gathered.problems {
            cx.ui.warn(&format!("{}: {problem}", dataset.name));
        }
        let findings = check(&dataset.map, &gathered.facts);
        for f in &findings {
            say(cx, &dataset.name, f);
        }
        let n = |level: Level| findings.iter().filter(|f| f.level == level).count() as u64;
        errors += n(Level::Error);
        cx.ui.say(&format!(
            "{}: {}, {}; {} looked at, {}",
            dataset.name,
            text::count(n(Level::Error), "error", "errors"),
            text::count(n(Level::Warning), "warning", "warnings"),
            text::count(gathered.facts.entries.len() as u64, "entry", "entries"),
            text::count(dataset.map.collections.len() as u64, "collection", "collections")
        ));
        objects.push(json!({
            "dataset": dataset.name,
            "entries": gathered.facts.entries.len(),
            "findings": findings.iter().map(object).collect::<Vec<_>>(),
            "problems": gathered.problems,
        }));
        go_on(cx)?;
    }
    cx.ui.object(&json!({ "result": if errors == 0 { "PASS" } else { "FAILED" }, "datasets": objects }));
    Ok(if errors == 0 { DONE } else { USAGE })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    }
}

fn place(f: &Finding) -> String {
    match (&f.collection, &f.field) {
        (Some(c), Some(field)) => format!(".{c}.{field}"),
        (Some(c), None) => format!(".{c}"),
        _ => String::new(),
    }
}

fn say(cx: &Context, dataset: &str, f: &Finding) {
    cx.ui.data(&format!("{:<8} {dataset}{}: {}", format!("{}:", level(f.level)), place(f), f.message));
}

fn object(f: &Finding) -> Value {
    json!({ "level": level(f.level), "collection": f.collection, "field": f.field, "message": f.message })
}

fn suggest_all(cx: &Context, config: &config::Config, datasets: &[&config::Dataset]) -> Result<u8> {
    let mut objects = Vec::new();
    for dataset in datasets {
        let gathered = gather(config, dataset, Depth::All, &cx.env)?;
        for problem in &gathered.problems {
            cx.ui.warn(&format!("{}: {problem}", dataset.name));
        }
        let draft = suggest(dataset, &gathered.facts);
        if draft.collections == 0 {
            cx.ui.warn(&format!("{}: nothing in its source looks like records of people", dataset.name));
        }
        if !cx.ui.json {
            cx.ui.script(&draft.yaml);
        }
        objects.push(json!({ "dataset": dataset.name, "collections": draft.collections, "yaml": draft.yaml }));
    }
    cx.ui.warn("this is a draft by the names of tables and columns: a person must correct it; then: reseal map check");
    cx.ui.object(&json!({ "suggestions": objects }));
    Ok(DONE)
}
