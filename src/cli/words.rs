//! The ledger's events in words, for people, and in named parts, for scripts. No token of an identity is shown, though it says
//! nothing without the repository's keys.

use super::text;
use crate::engine::event::{Event, IdentityTokens};
use crate::repository::ArchiveId;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// An event, told.
pub struct Told {
    /// Its name, as the ledger has it.
    pub event: &'static str,
    /// In words.
    pub text: String,
    /// The dataset that it is about.
    pub dataset: Option<String>,
    /// The archive that it is about.
    pub archive: Option<String>,
    /// The requests that it is about.
    pub requests: Vec<String>,
}

impl Told {
    fn of(event: &'static str, text: String) -> Told {
        Told { event, text, dataset: None, archive: None, requests: Vec::new() }
    }

    fn archive(mut self, dataset: &str, archive: &ArchiveId) -> Told {
        (self.dataset, self.archive) = (Some(dataset.to_string()), Some(archive.to_string()));
        self
    }

    fn requests<'a>(mut self, ids: impl IntoIterator<Item = &'a String>) -> Told {
        self.requests = ids.into_iter().cloned().collect();
        self
    }
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |r| format!(": {r}"))
}

fn datasets(of: &BTreeMap<String, Vec<IdentityTokens>>) -> String {
    of.keys().cloned().collect::<Vec<_>>().join(", ")
}

fn utc(at: Timestamp) -> String {
    format!("{} UTC", text::time(at))
}

/// Tells an event.
pub fn tell(event: &Event) -> Told {
    match event {
        Event::RepositoryCreated { tool } => Told::of("repository-created", format!("the repository was made by {tool}")),
        Event::ArchiveSealed { .. }
        | Event::IntakeRefused { .. }
        | Event::IntakeDiscarded { .. }
        | Event::ArchiveResealed { .. }
        | Event::ArchiveRotated { .. }
        | Event::ArchiveVerified { .. }
        | Event::ArchiveDrilled { .. }
        | Event::GateSkipped { .. }
        | Event::Restored { .. }
        | Event::StillLive { .. } => about_an_archive(event),
        Event::PropagationStarted { requests, datasets, effective_at, skipped_waiting } => {
            let skipped = skipped_waiting.as_ref().map_or_else(String::new, |r| format!("; the waiting was skipped: {r}"));
            let what = format!("erasing {} from {}, as of {}{skipped}", requests.join(", "), datasets.join(", "), utc(*effective_at));
            Told::of("propagation-started", what).requests(requests)
        }
        Event::PropagationFinished { started, done, partial, archives, gone, scope, .. } => {
            let rest = if partial.is_empty() { String::new() } else { format!("; in part: {}", partial.join(", ")) };
            let finished = if done.is_empty() { "nothing".to_string() } else { done.join(", ") };
            let what = format!(
                "the erasure of entry {started} ended over {} (search: {scope}, old objects gone: {gone}); done: {finished}{rest}",
                text::count(archives.len() as u64, "archive", "archives")
            );
            Told::of("propagation-finished", what).requests(done.iter().chain(partial))
        }
        Event::KeyAdded { slot, label } => Told::of("key-added", format!("key slot {} ({label}) was added", text::short(slot))),
        Event::KeyRemoved { slot } => Told::of("key-removed", format!("key slot {} was removed", text::short(slot))),
        Event::KeyRotated { objects } => {
            Told::of("key-rotated", format!("the root key was replaced; {} sealed anew", text::count(*objects, "object", "objects")))
        }
        Event::KeysExported { export, label } => Told::of("keys-exported", format!("the keys were exported ({export}, {label})")),
        Event::KeysImported { export, ledger } => {
            Told::of("keys-imported", format!("the keys were brought back from the export {export}, which ends at entry {ledger}"))
        }
        Event::KeysExportDestroyed { export, reason } => {
            Told::of("keys-export-destroyed", format!("the export {export} of the keys does not exist any more: {reason}"))
        }
        Event::Unknown => Told::of("unknown", "something that this version of reseal does not know".into()),
        other => about_a_request(other),
    }
}

fn about_an_archive(event: &Event) -> Told {
    match event {
        Event::ArchiveSealed { dataset, archive, created_at, admitted, .. } => {
            let by = admitted.as_ref().map_or_else(String::new, |(_, by)| format!("; {by} admitted it"));
            let what = format!("archive {} of {dataset} was made, with the state of {}{by}", text::short(archive), utc(*created_at));
            Told::of("archive-sealed", what).archive(dataset, archive)
        }
        Event::IntakeRefused { dataset, archive, why } => {
            Told::of("intake-refused", format!("archive {} of {dataset} was handed in and is NOT admitted: {why}", text::short(archive)))
                .archive(dataset, archive)
        }
        Event::IntakeDiscarded { dataset, archive, reason } => {
            let what = format!("archive {} of {dataset} was thrown away before it was admitted: {reason}", text::short(archive));
            Told::of("intake-discarded", what).archive(dataset, archive)
        }
        Event::ArchiveResealed { dataset, archive, generation, .. } => {
            Told::of("archive-resealed", format!("archive {} of {dataset} is generation {generation} now", text::short(archive)))
                .archive(dataset, archive)
        }
        Event::ArchiveRotated { dataset, archive, reason, .. } => {
            Told::of("archive-rotated", format!("archive {} of {dataset} was rotated out ({reason})", text::short(archive)))
                .archive(dataset, archive)
        }
        Event::ArchiveVerified { dataset, archive, generation, scope, result } => {
            let what = format!("archive {} of {dataset}, generation {generation}, was verified ({scope}): {result}", text::short(archive));
            Told::of("archive-verified", what).archive(dataset, archive)
        }
        Event::ArchiveDrilled { dataset, archive, result, restore_seconds, bytes, .. } => {
            let what = format!(
                "archive {} of {dataset} was restored for a drill ({} in {}): {result}",
                text::short(archive),
                text::bytes(*bytes),
                text::seconds(*restore_seconds)
            );
            Told::of("archive-drilled", what).archive(dataset, archive)
        }
        Event::GateSkipped { dataset, archive, reason, approver } => {
            let what = format!(
                "archive {} of {dataset} was handed out WITHOUT later erasures, approved by {approver}: {reason}",
                text::short(archive)
            );
            Told::of("gate-skipped", what).archive(dataset, archive)
        }
        Event::Restored { dataset, archive, how, replayed } => {
            let applied = if *replayed == 0 {
                String::new()
            } else {
                format!(", {} applied", text::count(*replayed, "later erasure", "later erasures"))
            };
            Told::of("restored", format!("archive {} of {dataset} was handed out ({how}{applied})", text::short(archive)))
                .archive(dataset, archive)
        }
        Event::StillLive { request, dataset, archive, records } => {
            let n: u64 = records.values().sum();
            let what = format!(
                "the person of request {request} was found again in archive {} of {dataset} ({})",
                text::short(archive),
                text::count(n, "record", "records")
            );
            Told::of("still-live", what).archive(dataset, archive).requests([request])
        }
        _ => Told::of("unknown", String::new()),
    }
}

fn about_a_request(event: &Event) -> Told {
    let (name, id, text) = match event {
        Event::RequestOpened { request, kind, datasets: of, due_at, deadline, reason, .. } => {
            let until = deadline.map_or_else(String::new, |d| format!(", deadline {}", utc(d)));
            ("request-opened", request, format!("was opened ({kind} in {}, due {}{until}){}", datasets(of), utc(*due_at), because(reason)))
        }
        Event::RequestApproved { request } => ("request-approved", request, "was approved".into()),
        Event::RequestHeld { request, reason } => ("request-held", request, format!("was put on hold: {reason}")),
        Event::RequestReleased { request, reason } => ("request-released", request, format!("was released{}", because(reason))),
        Event::RequestCancelled { request, reason } => ("request-cancelled", request, format!("was cancelled{}", because(reason))),
        Event::RequestRefused { request, ground, citation } => {
            let cite = citation.as_ref().map_or_else(String::new, |c| format!(" ({c})"));
            ("request-refused", request, format!("was refused: {ground}{cite}"))
        }
        Event::RequestExtended { request, deadline, reason } => {
            ("request-extended", request, format!("has its deadline extended to {}: {reason}", utc(*deadline)))
        }
        Event::IdentitiesConfirmed { request, datasets: of } => {
            ("identities-confirmed", request, format!("has identities added in {}", datasets(of)))
        }
        Event::CameBack { request, since, reason } => {
            ("came-back", request, format!("is about somebody who is a customer again since {}: {reason}", utc(*since)))
        }
        _ => return Told::of("unknown", "something that this version of reseal cannot tell".into()),
    };
    Told::of(name, format!("request {id} {text}")).requests([id])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Verdict;

    #[test]
    fn every_event_is_told_under_the_name_that_the_ledger_has() {
        let at: Timestamp = "2026-11-01T02:00:00Z".parse().unwrap();
        let (dataset, archive, request) = ("crm".to_string(), ArchiveId([0xab; 16]), "2e5840f9ede9".to_string());
        let of = || BTreeMap::from([("crm".to_string(), Vec::new())]);
        let text = || "because".to_string();
        let events = [
            Event::RepositoryCreated { tool: text() },
            Event::ArchiveSealed { dataset: dataset.clone(), archive, digest: text(), created_at: at, admitted: None },
            Event::IntakeRefused { dataset: dataset.clone(), archive, why: text() },
            Event::IntakeDiscarded { dataset: dataset.clone(), archive, reason: text() },
            Event::ArchiveResealed {
                dataset: dataset.clone(),
                archive,
                generation: 2,
                digest: text(),
                previous: text(),
                complete: vec![],
                counts: BTreeMap::new(),
            },
            Event::ArchiveRotated { dataset: dataset.clone(), archive, generation: 2, reason: text() },
            Event::ArchiveVerified { dataset: dataset.clone(), archive, generation: 2, scope: text(), result: Verdict::Pass },
            Event::ArchiveDrilled {
                dataset: dataset.clone(),
                archive,
                generation: 2,
                result: Verdict::Pass,
                restore_seconds: 1.5,
                bytes: 3,
            },
            Event::GateSkipped { dataset: dataset.clone(), archive, reason: text(), approver: text() },
            Event::Restored { dataset: dataset.clone(), archive, how: "restore".into(), replayed: 1 },
            Event::StillLive { request: request.clone(), dataset, archive, records: BTreeMap::from([("c".to_string(), 2)]) },
            Event::RequestApproved { request: request.clone() },
            Event::RequestHeld { request: request.clone(), reason: text() },
            Event::RequestReleased { request: request.clone(), reason: None },
            Event::RequestCancelled { request: request.clone(), reason: Some(text()) },
            Event::RequestRefused { request: request.clone(), ground: text(), citation: Some(text()) },
            Event::RequestExtended { request: request.clone(), deadline: at, reason: text() },
            Event::IdentitiesConfirmed { request: request.clone(), datasets: of() },
            Event::CameBack { request: request.clone(), since: at, reason: text() },
            Event::PropagationStarted { requests: vec![request], datasets: vec![], effective_at: at, skipped_waiting: Some(text()) },
            Event::KeyAdded { slot: text(), label: text() },
            Event::KeyRemoved { slot: text() },
            Event::KeyRotated { objects: 1 },
            Event::KeysExported { export: text(), label: text() },
            Event::KeysImported { export: text(), ledger: 1 },
            Event::KeysExportDestroyed { export: text(), reason: text() },
        ];
        for event in &events {
            let told = tell(event);
            let stored = serde_json::to_value(event).unwrap();
            assert_eq!(stored["event"], told.event);
            assert!(told.text.len() > 10, "{}", told.event);
            let about = stored.get("request").is_some() || stored.get("requests").is_some();
            assert_eq!(about, !told.requests.is_empty(), "{}", told.event);
            assert_eq!(stored.get("archive").is_some(), told.archive.is_some(), "{}", told.event);
        }
    }
}
