//! What a propagation would do: the real search and the real decisions, nothing written.

use super::{Options, People, Scope, request_people};
use crate::config;
use crate::engine::archive::OpenArchive;
use crate::engine::decide::{Decided, Decider};
use crate::engine::edit::{Tally, tally};
use crate::engine::identity::Subject;
use crate::engine::matching::{Bound, Limits, Matches, bind, find_all};
use crate::engine::session::{NO_HEAD, Session, View};
use crate::engine::state::{Request, State};
use crate::engine::wanted::{Person, Wanted};
use crate::format::Disposition;
use crate::policy::State as Stage;
use crate::repository::Listed;
use crate::repository::entry::display_path;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of memory that the records of one person take in a run, and what was changed in them; more people are erased in several runs.
const PERSON: u64 = 5 << 18;

/// A printable plan.
pub struct Plan {
    /// The requests it carries, in a fixed order; other places refer to them by index.
    pub requests: Vec<Request>,
    /// Dataset by dataset.
    pub datasets: Vec<DatasetPlan>,
    /// Requests that exist but are not carried, and why.
    pub waiting: Vec<(String, String)>,
    /// Why the waiting is skipped.
    pub skipped_waiting: Option<String>,
}

/// A dataset's part of a plan.
pub struct DatasetPlan {
    /// Its name.
    pub dataset: String,
    /// Indices of the requests that concern it.
    pub requests: Vec<usize>,
    /// Archive by archive, oldest first.
    pub archives: Vec<ArchivePlan>,
    /// Heads that cannot be read: their archives stay unprocessed.
    pub damaged: Vec<String>,
    /// `rewrite`, `expire` or `replay`.
    pub mode: String,
    /// Packs of the dataset, and bytes in them.
    pub packs: (u64, u64),
}

/// What would happen to one archive.
pub struct ArchivePlan {
    /// The archive.
    pub listed: Listed,
    /// Already done by an earlier run of the same requests.
    pub already: bool,
    /// Counts per request index and collection index.
    pub tally: Tally,
    /// Records kept, with their grounds: (collection, ground) → how many.
    pub kept: BTreeMap<(usize, String), u64>,
    /// What cannot be done, and why.
    pub cannot: Vec<String>,
    /// Entries without a field or table that the map asks for: they are searched byte by byte afterwards.
    pub missing: Vec<String>,
    /// Entries that had to be read, because the map is newer than the archive's identity blocks.
    pub fell_back: Vec<String>,
    /// Bytes of plaintext of the pieces that would be read and written anew: an estimate, entry by entry.
    pub bytes: u64,
    /// Identity kinds found on the person's own records that the request does not name: (request index, kind) → distinct values.
    pub also_known: BTreeMap<(usize, String), u64>,
}

/// The search of one archive, as plan and execution both need it.
pub struct Searched<'k> {
    /// Mapped entries with their editors.
    pub bound: Vec<Bound<'k>>,
    /// What was found.
    pub matches: Matches,
    /// What becomes of it.
    pub decided: Vec<Decided>,
}

/// Chooses the requests of a run, without searching any archive: what [`super::execute`] needs.
pub fn choose_requests(session: &Session, options: &Options) -> Result<Plan> {
    let (requests, waiting) = choose(session, &*session.state()?, options)?;
    Ok(Plan { datasets: Vec::new(), waiting, skipped_waiting: options.now.clone(), requests })
}

/// Chooses requests and searches every archive of their datasets: what `--dry-run` prints.
pub fn plan(session: &Session, options: &Options) -> Result<Plan> {
    let state = session.state()?;
    let mut plan = choose_requests(session, options)?;
    let names: BTreeSet<String> = plan.requests.iter().flat_map(|r| r.datasets.keys().cloned()).collect();
    for name in names {
        let config = session.dataset_config(&name)?;
        let indices: Vec<usize> = (0..plan.requests.len()).filter(|i| plan.requests[*i].datasets.contains_key(&name)).collect();
        let mine: Vec<&Request> = indices.iter().map(|i| &plan.requests[*i]).collect();
        plan.datasets.push(plan_dataset(session, &state, config, indices.clone(), &mine)?);
    }
    Ok(plan)
}

/// Requests to carry, and those that are not with the reason.
type Chosen = (Vec<Request>, Vec<(String, String)>);

fn choose(session: &Session, state: &State, options: &Options) -> Result<Chosen> {
    let now = session.now();
    let named: Vec<&Request> = options.requests.iter().map(|id| state.request(id)).collect::<Result<_>>()?;
    let mut chosen: Vec<Request> = Vec::new();
    let mut waiting = Vec::new();
    for request in &state.requests {
        let is_named = named.iter().any(|n| n.id == request.id);
        if !options.requests.is_empty() && !is_named {
            continue;
        }
        let stage = request.stage(now);
        let take = match stage {
            Stage::Due | Stage::Propagating | Stage::Partial => true,
            Stage::Waiting => options.now.is_some() && is_named,
            _ => false,
        };
        if take {
            if !chosen.iter().any(|c| c.id == request.id) {
                chosen.push(request.clone());
            }
            continue;
        }
        let why = match stage {
            Stage::Waiting => format!(
                "waiting until {} (skip the waiting with --request {} --now --reason TEXT)",
                request.clock.due_at.strftime("%Y-%m-%d %H:%M UTC"),
                request.id
            ),
            Stage::Open => format!("needs {} more approval(s)", request.clock.approvals_missing()),
            Stage::Held => format!("held: {}", request.hold.clone().unwrap_or_default()),
            other => other.to_string(),
        };
        if is_named && !matches!(stage, Stage::Waiting | Stage::Done) {
            return Err(Error::Refused(format!("request {} cannot be propagated: {why}", request.id)));
        }
        if !matches!(stage, Stage::Done | Stage::Cancelled | Stage::Refused) || is_named {
            waiting.push((request.id.clone(), why));
        }
    }
    Ok((chosen, waiting))
}

fn plan_dataset(
    session: &Session,
    state: &State,
    config: &config::Dataset,
    requests: Vec<usize>,
    mine: &[&Request],
) -> Result<DatasetPlan> {
    let mode = config.erasure.mode.to_string();
    let mut out = DatasetPlan { dataset: config.name.clone(), requests, archives: Vec::new(), damaged: Vec::new(), mode, packs: (0, 0) };
    if !session.is_backed_up(&config.name)? {
        return Ok(out);
    }
    let view = session.view(&config.name)?;
    out.packs = view.index.packs().iter().fold((0, 0), |(n, bytes), pack| (n + 1, bytes + pack.size));
    let heads = session.heads(&config.name)?;
    out.damaged = heads.damaged.iter().map(|(key, e)| format!("{key}: {e}")).collect();
    let missing = session.missing_archives(&config.name, &heads)?;
    out.damaged.extend(missing.iter().map(|archive| format!("archive {archive}: {NO_HEAD}")));
    session.env.monitor.phase(&format!("searching {}", config.name), Some(heads.latest.len() as u64));
    for listed in heads.latest {
        if is_made_after(state, &listed, mine) {
            continue;
        }
        let already = is_processed(state, &listed, mine);
        let mut plan = ArchivePlan {
            listed,
            already,
            tally: Tally::new(),
            kept: BTreeMap::new(),
            cannot: Vec::new(),
            missing: Vec::new(),
            fell_back: Vec::new(),
            bytes: 0,
            also_known: BTreeMap::new(),
        };
        if !already {
            let archive = view.open(&plan.listed.head);
            let together = together(session);
            for (n, mine) in mine.chunks(together).enumerate() {
                // Who is not concerned by this archive any more keeps the index, and is searched for by nobody.
                let mut people = request_people(session, mine)?;
                for (identity, request) in people.identities.iter_mut().zip(mine) {
                    if is_made_after(state, &plan.listed, &[request]) || is_processed(state, &plan.listed, &[request]) {
                        identity.subject = Subject::default();
                    }
                }
                describe(session, config, &view, &archive, &people, n * together, &mut plan)?;
            }
        }
        session.env.monitor.advance(1);
        out.archives.push(plan);
    }
    Ok(out)
}

/// How many people are searched for together: what is found of them takes memory.
pub fn together(session: &Session) -> usize {
    (session.config.memory / PERSON).max(1) as usize
}

/// Adds what would happen to an archive because of these people. `first` is the index of the first one's request among the dataset's.
fn describe(
    session: &Session,
    config: &config::Dataset,
    view: &View,
    archive: &OpenArchive,
    people: &People,
    first: usize,
    plan: &mut ArchivePlan,
) -> Result<()> {
    let also = |plan: &mut Vec<String>, more: Vec<String>| {
        plan.extend(more);
        plan.sort();
        plan.dedup();
    };
    match search(session, config, view, archive, people, Scope::Changed) {
        Ok(searched) => {
            plan.tally.extend(tally(&searched.matches, &searched.decided).into_iter().map(|(who, counts)| (first + who, counts)));
            for d in &searched.decided {
                if let (Some(ground), Some(m)) = (&d.ground, searched.matches.records.get(d.index)) {
                    *plan.kept.entry((m.found.collection, ground.clone())).or_default() += 1;
                }
            }
            let failed = searched.matches.failed.iter().map(|(entry, why)| people.withhold(&format!("{entry}: {why}")));
            also(&mut plan.cannot, failed.collect());
            let hidden = searched.matches.hidden.iter().filter(|h| h.reference).map(|h| people.withhold(&h.describe()));
            also(&mut plan.cannot, hidden.collect());
            let absent = searched.matches.missing.iter();
            let absent = absent.map(|(path, what)| people.withhold(&format!("{}: has no {}", display_path(path), what.join(", no "))));
            also(&mut plan.missing, absent.collect());
            also(&mut plan.fell_back, searched.matches.fell_back.clone());
            let touched: BTreeSet<usize> = searched
                .decided
                .iter()
                .filter(|d| d.disposition != Disposition::Keep)
                .filter_map(|d| searched.matches.records.get(d.index).map(|m| m.entry))
                .collect();
            let whole: u64 = touched.iter().filter_map(|i| searched.bound.get(*i)).map(|b| b.entry.size).sum();
            plan.bytes += (searched.decided.len() as u64 * 65536).min(whole);
            let also_known = also_known(config, people, &searched).into_iter();
            plan.also_known.extend(also_known.map(|((who, kind), n)| ((first + who, kind), n)));
        }
        Err(e @ (Error::Refused(_) | Error::Format { .. } | Error::Damaged { .. } | Error::Sqlite { .. })) => {
            also(&mut plan.cannot, vec![e.to_string()])
        }
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Whether nothing is left to do for any of these requests on exactly this generation. Only what the ledger says counts: the epoch in
/// a head is the number of another run where requests were carried out of turn, or of another ledger where an archive was made elsewhere.
pub fn is_processed(state: &State, listed: &Listed, requests: &[&Request]) -> bool {
    requests.iter().all(|r| state.was_processed(&r.id, &listed.head.archive, &listed.digest))
}

/// Whether an archive was made when all of these requests had begun to be carried out: what it holds of their people was in the source
/// again, or still. That is reported (`still live`), and never erased by an old request.
pub fn is_made_after(state: &State, listed: &Listed, requests: &[&Request]) -> bool {
    let facts = state.facts(&listed.head.dataset, &listed.head.archive);
    requests.iter().all(|r| {
        r.started.first().is_some_and(|started| match facts.sealed {
            // Handed in by a host before the erasure, and admitted only after it had begun.
            Some(_) if facts.host.is_some() && r.is_later_than(listed.head.created_at, &facts) => false,
            Some(sealed) => sealed > *started,
            // A backup that ended just before it could record the archive: a first generation names the ledger that it was made under.
            None => listed.head.generation == 1 && listed.head.ledger_epoch >= *started,
        })
    })
}

/// Searches one archive for the people and decides about what is found. With the scope [`Scope::Full`], what is then edited is checked as a whole.
pub fn search<'k>(
    session: &Session,
    config: &config::Dataset,
    view: &'k View,
    archive: &OpenArchive,
    people: &People,
    scope: Scope,
) -> Result<Searched<'k>> {
    let map = &config.map;
    let limits = Limits { overlay: session.config.memory as usize / 8, memory: session.config.memory / 2, whole: scope == Scope::Full };
    let mut bound = bind(map, view, archive, limits, &session.env)?;
    let who: Vec<Person<'_>> = people.subjects().map(Person::Plain).collect();
    let mut wanted = Wanted::new(map, view.dataset.token_key(), &who)?;
    let mentions = people.mentions(map)?;
    let matches = find_all(map, archive, &mut bound, &mut wanted, &mentions, &session.env)?;
    let strategies = people.strategies(&view.dataset)?;
    let decider = Decider {
        map,
        key: view.dataset.token_key(),
        strategies: &strategies,
        mentions: &mentions,
        now: session.now(),
        accept_pseudonymised: config.erasure.accept_pseudonymised,
    };
    let decided = decider.decide(&matches, &wanted)?;
    Ok(Searched { bound, matches, decided })
}

/// Identity kinds on the person's own records (found by an identity, not through others) that the request does not name, with the number of distinct new values.
pub fn also_known(config: &config::Dataset, people: &People, searched: &Searched<'_>) -> BTreeMap<(usize, String), u64> {
    let mut seen: BTreeMap<(usize, String), BTreeSet<String>> = BTreeMap::new();
    for m in searched.matches.records.iter().filter(|m| !m.by_text) {
        let collection = &config.map.collections[m.found.collection];
        for field in collection.fields.values() {
            let Some(kind) = &field.identity else { continue };
            // Numbers of records are followed by reference already; a person is asked about addresses.
            if collection.primary_key.contains(&field.name) {
                continue;
            }
            for who in &m.who {
                let Some(subject) = people.subjects().nth(*who) else { continue };
                let known: BTreeSet<String> = subject
                    .identities
                    .get(kind)
                    .into_iter()
                    .flatten()
                    .filter_map(|c| c.first())
                    .map(|v| field.normalize.apply(v.into()).into_owned())
                    .collect();
                for value in m.found.values.get(&field.name).into_iter().flatten() {
                    let Some(text) = value.canonical().map(|t| field.normalize.apply(t).into_owned()).filter(|t| !t.is_empty()) else {
                        continue;
                    };
                    if !known.contains(&text) {
                        seen.entry((*who, kind.clone())).or_default().insert(text);
                    }
                }
            }
        }
    }
    seen.into_iter().map(|(k, v)| (k, v.len() as u64)).collect()
}
