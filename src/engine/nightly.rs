//! The nightly run, for cron or a systemd timer: backup → due erasures → rotate → sample verify → drill when due. A step that fails does not
//! keep the later ones from being tried, except that nothing is rotated out for a dataset whose backup failed.

use super::backup;
use super::drill;
use super::event::Verdict;
use super::intake::{self, Refused};
use super::propagate::{self, Options};
use super::rotate;
use super::session::Session;
use super::verify;
use crate::policy::clocks::drill_due;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Part of the data read every night.
pub const SAMPLE: f64 = 0.05;

/// What a nightly run did.
#[derive(Default)]
pub struct Report {
    /// Per dataset.
    pub backups: BTreeMap<String, Result<backup::Report>>,
    /// Erasures that were due.
    pub propagated: Option<Result<propagate::Report>>,
    /// Per dataset.
    pub rotated: BTreeMap<String, Result<rotate::Report>>,
    /// The new archives.
    pub verified: Vec<verify::Checked>,
    /// Errors of verifying.
    pub verify_errors: Vec<Error>,
    /// What put-only hosts handed in and does not check.
    pub refused: Vec<Refused>,
    /// Per dataset, where due.
    pub drilled: BTreeMap<String, Result<drill::Report>>,
}

/// Runs everything for the named datasets (all when empty).
pub fn nightly(session: &Session, names: &[String]) -> Result<Report> {
    let mut report = Report::default();
    let configs = session.datasets_named(names)?;
    for config in &configs {
        report.backups.insert(config.name.clone(), backup::backup(session, config, None));
        session.env.stop.check("run the same command again; what is done stays done")?;
    }
    let options = Options::default();
    report.propagated = Some(propagate::choose_requests(session, &options).and_then(|plan| propagate::execute(session, &plan, &options)));
    session.env.stop.check("run the same command again; what is done stays done")?;
    for config in &configs {
        // Verified before anything is rotated out: retention never takes the last archive that is known to be good.
        if let Some(Ok(done)) = report.backups.get(&config.name) {
            match verify::verify(session, &[done.head.archive.to_string()], SAMPLE) {
                Ok(checked) => report.verified.extend(checked),
                Err(e) => report.verify_errors.push(e),
            }
            report.rotated.insert(config.name.clone(), rotate::rotate(session, config, false));
        }
        session.env.stop.check("run the same command again; what is done stays done")?;
    }
    report.refused = intake::settle(session)?;
    let state = session.state()?;
    for config in &configs {
        let Some(every) = config.drill.as_ref().map(|d| d.every) else { continue };
        // Keys that are lost are for the drill to tell.
        if drill_due(state.last_drill.get(&config.name).copied(), every, session.now())
            && session.is_backed_up(&config.name).unwrap_or(true)
        {
            report.drilled.insert(config.name.clone(), drill::drill(session, config, None));
        }
    }
    Ok(report)
}

impl Report {
    /// The exit code: the worst of the steps.
    pub fn exit_code(&self) -> u8 {
        let error = |e: &Error| e.exit_code();
        let mut codes: Vec<u8> = Vec::new();
        for b in self.backups.values() {
            codes.push(b.as_ref().map_or_else(error, |r| if r.is_partial() { 3 } else { 0 }));
        }
        match &self.propagated {
            Some(Ok(r)) => codes.push(r.exit_code()),
            Some(Err(e)) => codes.push(error(e)),
            None => {}
        }
        codes.extend(self.rotated.values().map(|r| r.as_ref().map_or_else(error, |r| if r.gone == Verdict::Unknown { 3 } else { 0 })));
        codes.extend(self.verified.iter().map(|c| if c.verdict == Verdict::Pass { 0 } else { 4 }));
        codes.extend(self.refused.iter().map(|_| 3));
        codes.extend(self.verify_errors.iter().map(error));
        codes.extend(self.drilled.values().map(|d| d.as_ref().map_or_else(error, |r| if r.verdict == Verdict::Pass { 0 } else { 4 })));
        // What matters most to whoever is woken up: damage, then failed checks, locks, failures, and only then what is left to do.
        [6, 4, 5, 2, 1, 3].into_iter().find(|c| codes.contains(c)).unwrap_or(0)
    }
}
