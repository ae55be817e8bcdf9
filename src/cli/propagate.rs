//! `reseal propagate`: what an erasure would do, and what it did. Counts and grounds, never a value.

use super::args::{Propagate, Scope as ScopeArg};
use super::open::Context;
use super::text::{self, Align, Table};
use super::{DONE, buckets, deadlines, exports};
use crate::Result;
use crate::engine::certificate::{archive_json, locked_json};
use crate::engine::event::{ArchiveOutcome, Counts};
use crate::engine::propagate::{self, ArchivePlan, DatasetPlan, Options, Plan, Report, Scope};
use crate::engine::session::{Session, Traffic};
use crate::engine::state::Request;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Plans, and carries the plan out.
pub fn run(cx: &Context, args: &Propagate) -> Result<u8> {
    let session = cx.session()?;
    let scope = match args.verify {
        ScopeArg::Changed => Scope::Changed,
        ScopeArg::Full => Scope::Full,
    };
    let now = if args.now { args.reason.clone() } else { None };
    let options = Options { requests: args.requests.clone(), scope, now };
    if args.dry_run {
        let before = session.traffic();
        let plan = propagate::plan(&session, &options)?;
        let search = session.traffic().since(&before);
        say_plan(cx, &session, &plan);
        for dataset in &plan.datasets {
            let waiting = session.repo.pending(&dataset.dataset)?.len() as u64;
            if waiting > 0 {
                let what = text::count(waiting, "archive", "archives");
                cx.ui.warn(&format!(
                    "{}: {what} in the intake will be admitted first, and are not in this plan: reseal intake admit",
                    dataset.dataset
                ));
            }
        }
        if !plan.requests.is_empty() {
            let whole = estimate(&session, &plan, &search);
            cx.ui.data(&format!("\nthis search took {}, read {}", buckets::traffic_words(&search), text::bytes(search.bytes_read)));
            cx.ui.data(&format!(
                "the erasure takes about {}, reads {}, writes {}",
                buckets::traffic_words(&whole),
                text::bytes(whole.bytes_read),
                text::bytes(whole.bytes_written)
            ));
        }
        warn_deadlines(cx, &session)?;
        cx.ui.object(&plan_object(&session, &plan, &search));
        return Ok(DONE);
    }
    let plan = propagate::choose_requests(&session, &options)?;
    let report = propagate::execute(&session, &plan, &options)?;
    say(cx, &report, &plan);
    exports::warn(&cx.ui, &*session.state()?);
    warn_deadlines(cx, &session)?;
    cx.ui.object(&object(&report, &plan, scope));
    Ok(report.exit_code())
}

fn warn_deadlines(cx: &Context, session: &Session) -> Result<()> {
    deadlines::warn(&cx.ui, &session.state()?.requests, session.now());
    Ok(())
}

/// About what carrying the plan out takes: it searches as this did, reads back and searches again, twice reads what packs hold (to drop what is
/// dead, and to prove it), and writes what is touched anew. In a bucket nothing can be wiped: what lives in a pack from which a chunk goes is
/// stored again.
fn estimate(session: &Session, plan: &Plan, search: &Traffic) -> Traffic {
    let params = session.repo.params();
    let changed: Vec<&ArchivePlan> = plan
        .datasets
        .iter()
        .filter(|d| d.mode == "rewrite")
        .flat_map(|d| &d.archives)
        .filter(|a| !a.already && a.tally.values().flatten().any(|(_, c)| c.deleted + c.anonymised > 0))
        .collect();
    let bytes: u64 = changed.iter().map(|a| a.bytes).sum();
    let (archives, datasets) = (changed.len() as u64, plan.datasets.len() as u64);
    let packs = bytes.div_ceil(u64::from(params.sizes.pack).max(1)) + datasets;
    let mut whole = *search;
    whole.requests.get = search.requests.get * 4 + archives * 4;
    whole.requests.head = search.requests.head * 2;
    whole.requests.list = search.requests.list * 4 + 12 * datasets;
    // Packs and their sheets, sheets of what becomes dead, heads and their ledger entries, beginning and end.
    whole.requests.put = packs * 3 + archives * 2 + 2;
    whole.requests.delete = packs * 2 + archives;
    whole.bytes_read = search.bytes_read * 2 + bytes;
    whole.bytes_written = bytes;
    if session.repo.location().data.is_remote() {
        for dataset in plan.datasets.iter().filter(|d| d.mode == "rewrite") {
            let (packs, moved) = compacted(dataset);
            whole.requests.get += packs;
            whole.requests.put += packs * 4;
            whole.requests.delete += packs;
            whole.bytes_read += moved;
            whole.bytes_written += moved;
        }
    }
    whole
}

/// Packs that have a chunk which becomes dead, and bytes in them: archives share most pieces, chunks lie in packs at random, each piece has an
/// identity block, and two chunks of each archive's list change.
fn compacted(dataset: &DatasetPlan) -> (u64, u64) {
    let changed = dataset.archives.iter().filter(|a| a.bytes > 0);
    let pieces = changed.clone().map(|a| a.bytes.div_ceil(64 << 10)).max().unwrap_or(0);
    let chunks = (2 * pieces + 2 * changed.count() as u64) as f64;
    let (packs, bytes) = (dataset.packs.0 as f64, dataset.packs.1 as f64);
    if packs < 1.0 {
        return (0, 0);
    }
    let share = 1.0 - (1.0 - 1.0 / packs).powf(chunks);
    ((packs * share).ceil() as u64, (bytes * share) as u64)
}

// --- the plan -------------------------------------------------------------------------------------------------------------------

fn collection(session: &Session, dataset: &str, index: usize) -> String {
    let name = session.config.datasets.get(dataset).and_then(|d| d.map.collections.get(index)).map(|c| c.name.clone());
    name.unwrap_or_else(|| format!("collection {index}"))
}

/// The request that an index inside a dataset's plan means.
fn request_of<'p>(plan: &'p Plan, dataset: &DatasetPlan, index: usize) -> Option<&'p Request> {
    plan.requests.get(*dataset.requests.get(index)?)
}

fn say_plan(cx: &Context, session: &Session, plan: &Plan) {
    if plan.requests.is_empty() {
        cx.ui.data("nothing is due");
    } else {
        let ids: Vec<&str> = plan.requests.iter().map(|r| r.id.as_str()).collect();
        cx.ui.data(&format!("would erase {}: {}", text::count(ids.len() as u64, "request", "requests"), ids.join(", ")));
    }
    for dataset in &plan.datasets {
        say_dataset_plan(cx, session, plan, dataset);
    }
    say_waiting(cx, &plan.waiting);
}

fn say_dataset_plan(cx: &Context, session: &Session, plan: &Plan, dataset: &DatasetPlan) {
    let words = match dataset.mode.as_str() {
        "expire" => "; its archives are left to rotation (mode expire)",
        "replay" => "; its archives stay as they are and erasures are applied at restore (mode replay)",
        _ => "",
    };
    cx.ui.data(&format!("\n{}: {}{words}", dataset.dataset, text::count(dataset.archives.len() as u64, "archive", "archives")));
    let mut table = Table::new(&[
        ("time (UTC)", Align::Left),
        ("archive", Align::Left),
        ("generation", Align::Right),
        ("found", Align::Right),
        ("delete", Align::Right),
        ("anonymise", Align::Right),
        ("keep", Align::Right),
        ("touches", Align::Right),
        ("in", Align::Left),
    ]);
    for a in &dataset.archives {
        let (sum, collections) = totals(session, dataset, a);
        let generation = a.listed.head.generation;
        let changes = sum.deleted + sum.anonymised > 0 && dataset.mode == "rewrite";
        table.row(vec![
            text::time(a.listed.head.created_at),
            text::short(a.listed.head.archive),
            if changes { format!("{generation} → {}", generation + 1) } else { generation.to_string() },
            if a.already { "done".into() } else { sum.found.to_string() },
            sum.deleted.to_string(),
            sum.anonymised.to_string(),
            sum.retained.to_string(),
            text::bytes(a.bytes),
            collections,
        ]);
    }
    if !table.is_empty() {
        cx.ui.data(&table.render());
    }
    let mut kept: BTreeMap<(String, &String), u64> = BTreeMap::new();
    for a in &dataset.archives {
        for ((c, ground), n) in &a.kept {
            *kept.entry((collection(session, &dataset.dataset, *c), ground)).or_default() += n;
        }
    }
    for ((name, ground), n) in kept {
        cx.ui.data(&format!("kept: {} of {name}: {ground}", text::count(n, "record", "records")));
    }
    for a in &dataset.archives {
        let id = text::short(a.listed.head.archive);
        for entry in &a.fell_back {
            cx.ui.data(&format!("archive {id}: {entry} has to be read as a whole: the archive is older than the data map"));
        }
        for why in &a.cannot {
            cx.ui.warn(&format!("archive {id}: CANNOT be done: {why}"));
        }
    }
    for head in &dataset.damaged {
        cx.ui.warn(&format!("{}: cannot be read, its archive stays unprocessed: {head}", dataset.dataset));
    }
    for (request, kinds) in proposals(plan, dataset) {
        say_proposals(cx, &request, &kinds);
    }
}

fn totals(session: &Session, dataset: &DatasetPlan, a: &ArchivePlan) -> (Counts, String) {
    let mut sum = Counts::default();
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for (c, counts) in a.tally.values().flatten() {
        sum.add(counts);
        *by_name.entry(collection(session, &dataset.dataset, *c)).or_default() += counts.found;
    }
    (sum, by_name.iter().map(|(c, n)| format!("{c} {n}")).collect::<Vec<_>>().join(", "))
}

fn proposals(plan: &Plan, dataset: &DatasetPlan) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut out: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for a in &dataset.archives {
        for ((who, kind), n) in &a.also_known {
            if let Some(r) = request_of(plan, dataset, *who) {
                let slot = out.entry(r.id.clone()).or_default().entry(kind.clone()).or_default();
                *slot = (*slot).max(*n);
            }
        }
    }
    out
}

fn say_proposals(cx: &Context, request: &str, kinds: &BTreeMap<String, u64>) {
    let carried: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k} {}", if *n == 1 { "value" } else { "values" })).collect();
    cx.ui.warn(&format!(
        "request {request}: the person's records also carry {} that the request does not name; if they are the same person's: reseal request add-identities {request} --identity-file FILE",
        carried.join(" and ")
    ));
}

fn say_waiting(cx: &Context, waiting: &[(String, String)]) {
    for (request, why) in waiting {
        cx.ui.data(&format!("request {request} is left: {why}"));
    }
}

fn plan_object(session: &Session, plan: &Plan, search: &Traffic) -> Value {
    let datasets: Vec<Value> = plan
        .datasets
        .iter()
        .map(|d| {
            let archives: Vec<Value> = d.archives.iter().map(|a| plan_archive(session, plan, d, a)).collect();
            let requests: Vec<&String> = d.requests.iter().filter_map(|i| plan.requests.get(*i)).map(|r| &r.id).collect();
            json!({ "dataset": d.dataset, "mode": d.mode, "requests": requests, "archives": archives, "damaged": d.damaged })
        })
        .collect();
    json!({
        "plan": {
            "requests": plan.requests.iter().map(|r| &r.id).collect::<Vec<_>>(),
            "skipped_waiting": plan.skipped_waiting,
            "datasets": datasets,
            "search": buckets::traffic_object(search),
            "estimate": buckets::traffic_object(&estimate(session, plan, search)),
        },
        "waiting": waiting_object(&plan.waiting),
    })
}

fn plan_archive(session: &Session, plan: &Plan, d: &DatasetPlan, a: &ArchivePlan) -> Value {
    let id = |who: usize| request_of(plan, d, who).map(|r| r.id.clone());
    let mut collections = Vec::new();
    for (who, by_collection) in &a.tally {
        for (c, n) in by_collection {
            collections.push(json!({
                "request": id(*who), "collection": collection(session, &d.dataset, *c), "found": n.found, "deleted": n.deleted,
                "anonymised": n.anonymised, "pseudonymised": n.pseudonymised, "retained": n.retained, "failed": n.failed,
            }));
        }
    }
    let kept: Vec<Value> = a
        .kept
        .iter()
        .map(|((c, ground), n)| json!({ "collection": collection(session, &d.dataset, *c), "ground": ground, "records": n }))
        .collect();
    let known: Vec<Value> = a.also_known.iter().map(|((who, kind), n)| json!({ "request": id(*who), "kind": kind, "values": n })).collect();
    json!({
        "archive": a.listed.head.archive.to_string(),
        "backup_time": a.listed.head.created_at.to_string(),
        "generation": a.listed.head.generation,
        "already": a.already,
        "bytes": a.bytes,
        "collections": collections,
        "kept": kept,
        "cannot": a.cannot,
        "read_whole": a.fell_back,
        "also_known": known,
    })
}

fn waiting_object(waiting: &[(String, String)]) -> Value {
    waiting.iter().map(|(id, why)| json!({ "request": id, "why": why })).collect()
}

// --- the report -----------------------------------------------------------------------------------------------------------------

/// In words.
pub fn say(cx: &Context, report: &Report, plan: &Plan) {
    if plan.requests.is_empty() {
        cx.ui.say("nothing is due");
        say_waiting(cx, &plan.waiting);
        return;
    }
    let mut table = Table::new(&[
        ("time (UTC)", Align::Left),
        ("dataset", Align::Left),
        ("archive", Align::Left),
        ("generation", Align::Left),
        ("deleted", Align::Right),
        ("anonymised", Align::Right),
        ("kept", Align::Right),
        ("verification", Align::Left),
    ]);
    for a in &report.archives {
        let sum = sum(a, None);
        let (before, after) = (a.before.0, a.after.0);
        table.row(vec![
            text::time(a.created_at),
            a.dataset.clone(),
            text::short(a.archive),
            if before == after { before.to_string() } else { format!("{before} → {after}") },
            sum.deleted.to_string(),
            sum.anonymised.to_string(),
            sum.retained.to_string(),
            a.verification.to_string(),
        ]);
    }
    if !table.is_empty() {
        cx.ui.data(&table.render());
    }
    say_grounds(cx, &report.archives);
    for a in &report.archives {
        for left in &a.left {
            cx.ui.warn(&format!("archive {} of {}: left: {left}", text::short(a.archive), a.dataset));
        }
    }
    cx.ui.data(&format!(
        "read {}, wrote {}; destroyed the keys of {} ({}); old objects gone: {}",
        text::bytes(report.bytes_read),
        text::bytes(report.bytes_written),
        text::count(report.dropped.0, "chunk", "chunks"),
        text::bytes(report.dropped.1),
        report.gone
    ));
    cx.ui.say(&format!("requests: {}", buckets::traffic_words(&report.traffic)));
    buckets::say_locked(cx, &report.listing.locked);
    for (request, kinds) in &report.also_known {
        say_proposals(cx, request, kinds);
    }
    for id in &report.done {
        cx.ui.data(&format!("request {id} is done; its proof: reseal certificate {id}"));
    }
    for id in &report.partial {
        cx.ui.warn(&format!("request {id} is done in part; when what is left (above) is mended, run: reseal propagate --request {id}"));
    }
    say_waiting(cx, &plan.waiting);
}

/// Notes that many archives share are told once.
fn say_grounds(cx: &Context, archives: &[ArchiveOutcome]) {
    let mut notes: BTreeMap<&String, u64> = BTreeMap::new();
    for note in archives.iter().flat_map(|a| &a.notes) {
        *notes.entry(note).or_default() += 1;
    }
    for (note, n) in notes {
        cx.ui.say(&format!("{note} ({})", text::count(n, "archive", "archives")));
    }
}

fn sum(a: &ArchiveOutcome, request: Option<&str>) -> Counts {
    let mut sum = Counts::default();
    for (_, collections) in a.requests.iter().filter(|(id, _)| request.is_none_or(|r| r == id.as_str())) {
        collections.values().for_each(|c| sum.add(c));
    }
    sum
}

/// For scripts: per request and archive.
#[derive(Serialize)]
struct Output<'a> {
    requests: Requests<'a>,
    waiting: Value,
    propagation: Value,
}

/// One after the other: what a thousand requests did in thirty archives is large.
struct Requests<'a> {
    report: &'a Report,
    plan: &'a Plan,
}

impl Serialize for Requests<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(self.plan.requests.iter().map(|r| request_object(self.report, r)))
    }
}

fn object<'a>(report: &'a Report, plan: &'a Plan, scope: Scope) -> Output<'a> {
    Output {
        requests: Requests { report, plan },
        waiting: waiting_object(&plan.waiting),
        propagation: json!({
            "ledger_entry": report.started,
            "skipped_waiting": plan.skipped_waiting,
            "scope": scope.to_string(),
            "gone": report.gone.to_string(),
            "bytes_read": report.bytes_read,
            "bytes_written": report.bytes_written,
            "dropped": { "chunks": report.dropped.0, "bytes": report.dropped.1 },
            "outdated_exports": exports::objects(&report.exports),
            "traffic": buckets::traffic_object(&report.traffic),
            "listing": {
                "objects": report.listing.objects, "old_versions": report.listing.old_versions,
                "delete_markers": report.listing.delete_markers, "left": report.listing.left,
            },
            "locked": locked_json(&report.listing.locked),
        }),
    }
}

fn request_object(report: &Report, request: &Request) -> Value {
    let mut total = Counts::default();
    let mine = report.archives.iter().filter(|a| request.datasets.contains_key(&a.dataset));
    let archives: Vec<Value> = mine
        .map(|a| {
            let n = sum(a, Some(&request.id));
            total.add(&n);
            let mut object = archive_json(a, &request.id);
            if let Some(fields) = object.as_object_mut() {
                fields.insert("found".into(), n.found.into());
                fields.insert("erased".into(), (n.deleted + n.anonymised).into());
                fields.insert("kept".into(), n.retained.into());
                fields.insert("generation_before".into(), a.before.0.into());
                fields.insert("generation_after".into(), a.after.0.into());
            }
            object
        })
        .collect();
    json!({
        "id": request.id,
        "state": if report.done.contains(&request.id) { "done" } else { "partial" },
        "found": total.found,
        "erased": total.deleted + total.anonymised,
        "deleted": total.deleted,
        "anonymised": total.anonymised,
        "kept": total.retained,
        "failed": total.failed,
        "also_known": report.also_known.get(&request.id).cloned().unwrap_or_default(),
        "archives": archives,
    })
}
