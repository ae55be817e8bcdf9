//! The clocks of an erasure request: when it becomes due, until when it must be done, and which step may follow which.
//!
//! Two clocks, for two kinds of request: after a *deletion* by the operator the data stays recoverable for `document_lifetime`;
//! after a *subject request* (GDPR Art. 17) only for `cooling_off`, which has to end before the statutory deadline.

use super::Period;
use crate::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The statutory deadline: one calendar month from receipt (GDPR Art. 12(3)).
pub const STATUTORY_DEADLINE: Period = Period::months(1);
/// By how much it can be extended, once (GDPR Art. 12(3)).
pub const EXTENSION: Period = Period::months(2);
/// From how long before the deadline on every listing warns.
pub const APPROACHING: Period = Period::days(7);
/// `document_lifetime` lies between these, in days.
pub const DOCUMENT_LIFETIME_DAYS: std::ops::RangeInclusive<u64> = 3..=9999;

/// How erasures are done for a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasurePolicy {
    /// After a deletion by the operator, from 3 to 9999 days. Default 60.
    pub document_lifetime: Period,
    /// After a subject request. Default 3 days.
    pub cooling_off: Period,
    /// From receipt of a subject request until it must be done; one calendar month, or an earlier one that the operator sets.
    pub deadline: Period,
    /// What becomes of archives.
    pub mode: Mode,
    /// How many different people must approve a request before it is due.
    pub approvals: u32,
    /// Whether pseudonymising (`hmac`) counts as an erasure.
    pub accept_pseudonymised: bool,
}

impl Default for ErasurePolicy {
    fn default() -> ErasurePolicy {
        ErasurePolicy {
            document_lifetime: Period::days(60),
            cooling_off: Period::days(3),
            deadline: STATUTORY_DEADLINE,
            mode: Mode::Rewrite,
            approvals: 0,
            accept_pseudonymised: false,
        }
    }
}

/// What an erasure does to archives that hold the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They are rewritten.
    #[default]
    Rewrite,
    /// They are left to rotation, by a date: a recorded decision.
    Expire,
    /// They cannot be changed; the ledger is applied when they are restored.
    Replay,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Rewrite => "rewrite",
            Mode::Expire => "expire",
            Mode::Replay => "replay",
        })
    }
}

/// Why a person is erased; it decides which clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The person asked (GDPR Art. 17).
    #[default]
    SubjectRequest,
    /// The operator deleted the account or document.
    Deletion,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::SubjectRequest => "subject-request",
            Kind::Deletion => "deletion",
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Kind, String> {
        match text {
            "subject-request" => Ok(Kind::SubjectRequest),
            "deletion" => Ok(Kind::Deletion),
            other => Err(format!("unknown kind {other:?}; the kinds are subject-request and deletion")),
        }
    }
}

impl ErasurePolicy {
    /// What contradicts itself or the law: pairs of the setting's name and what is wrong.
    pub fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let lifetime = self.document_lifetime.shortest_seconds();
        let (shortest, longest) = (DOCUMENT_LIFETIME_DAYS.start() * 86_400, DOCUMENT_LIFETIME_DAYS.end() * 86_400);
        if lifetime < shortest || lifetime > longest {
            found.push(("document_lifetime", format!("{} is not between 3d and 9999d", self.document_lifetime)));
        }
        // Compared over every start in a leap cycle: which of two periods is longer depends on the month they begin in.
        if self.ever(|at| self.deadline.after(at) > STATUTORY_DEADLINE.after(at)) {
            let what =
                format!("{} is later than the statutory deadline of 1mo (it can be extended per request, once, by 2mo)", self.deadline);
            found.push(("deadline", what));
        } else if self.deadline.is_zero() {
            found.push(("deadline", "a deadline of nothing cannot be met".into()));
        } else if self.ever(|at| self.cooling_off.after(at) >= self.deadline.after(at)) {
            let what = format!(
                "{} does not end before the deadline of {} in every month of the year; shorten it",
                self.cooling_off, self.deadline
            );
            found.push(("cooling_off", what));
        }
        found
    }

    /// Whether something holds for some day of a leap cycle.
    fn ever(&self, holds: impl Fn(Timestamp) -> bool) -> bool {
        // 2023-12-31 on: a leap year and a common one.
        (0..800).any(|day| Timestamp::from_second(1_703_980_800 + day * 86_400).is_ok_and(&holds))
    }

    /// When a request becomes due: its clock runs from receipt (or deletion), and ends no earlier than the request is opened.
    pub fn due_at(&self, kind: Kind, received: Timestamp, opened: Timestamp) -> Timestamp {
        let clock = match kind {
            Kind::SubjectRequest => self.cooling_off,
            Kind::Deletion => self.document_lifetime,
        };
        clock.after(received).max(opened)
    }

    /// Until when a request must be done; a deletion by the operator has no statutory deadline.
    pub fn deadline(&self, kind: Kind, received: Timestamp, extended: bool) -> Option<Deadline> {
        (kind == Kind::SubjectRequest).then(|| {
            // An extension counts from the statutory month, and months are added to the day of receipt, not to a clamped date.
            let period = if extended { Period::months(STATUTORY_DEADLINE.months + EXTENSION.months) } else { self.deadline };
            Deadline { at: period.after(received), extended }
        })
    }
}

/// Until when a subject request must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Timestamp,
    /// Whether it was extended.
    pub extended: bool,
}

/// How a deadline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadlineStatus {
    /// More than [`APPROACHING`] is left.
    OnTime {
        /// Whole days.
        days_left: i64,
    },
    /// Less is left.
    Approaching {
        /// Whole days.
        days_left: i64,
    },
    /// It has passed.
    Passed {
        /// Whole days since.
        days_over: i64,
    },
}

impl Deadline {
    /// How it stands at `now`.
    pub fn status(&self, now: Timestamp) -> DeadlineStatus {
        let days = |from: Timestamp, to: Timestamp| to.as_second().saturating_sub(from.as_second()) / 86_400;
        if now > self.at {
            DeadlineStatus::Passed { days_over: days(self.at, now) }
        } else if now >= APPROACHING.before(self.at) {
            DeadlineStatus::Approaching { days_left: days(now, self.at) }
        } else {
            DeadlineStatus::OnTime { days_left: days(now, self.at) }
        }
    }
}

/// Where a request stands, for people, JSON and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Approvals are missing.
    Open,
    /// Its clock runs.
    Waiting,
    /// It can be carried out.
    Due,
    /// It is being carried out; a crash leaves it here, and the next run goes on.
    Propagating,
    /// Some copies could not be processed, or something is unknown; retried.
    Partial,
    /// Every copy is processed and verified; the identities are not destroyed yet.
    Verified,
    /// Over.
    Done,
    /// Withdrawn before it was due.
    Cancelled,
    /// On legal hold.
    Held,
    /// Refused on a ground.
    Refused,
}

impl State {
    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, State::Done | State::Cancelled | State::Refused)
    }

    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Waiting => "waiting",
            State::Due => "due",
            State::Propagating => "propagating",
            State::Partial => "partial",
            State::Verified => "verified",
            State::Done => "done",
            State::Cancelled => "cancelled",
            State::Held => "held",
            State::Refused => "refused",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A step of a request. Reasons and actors are recorded by the ledger; here they only have to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Somebody approves.
    Approve {
        /// Who.
        actor: String,
    },
    /// A legal hold begins.
    Hold {
        /// Why.
        reason: String,
    },
    /// It ends.
    Release,
    /// Withdrawn.
    Cancel,
    /// The deadline moves, once.
    Extend {
        /// Why (GDPR Art. 12(3) wants it told to the person).
        reason: String,
    },
    /// Refused.
    Refuse {
        /// The ground, with citation.
        ground: String,
    },
    /// The waiting is skipped.
    SkipWaiting {
        /// Why.
        reason: String,
    },
    /// The engine begins, or goes on.
    Propagate,
    /// The engine could not process every copy.
    Incomplete,
    /// Every copy is processed and verified.
    Verify,
    /// Identities are destroyed, the certificate is made.
    Finish,
}

/// A request's life, as far as the rules need it. Folded from the ledger by applying [`Transition`]s in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which clock runs.
    pub kind: Kind,
    /// When it was received, or the document deleted.
    pub received: Timestamp,
    /// When it was entered.
    pub opened: Timestamp,
    /// When its clock ends; settled when it is opened, so that a later policy cannot move it.
    pub due_at: Timestamp,
    /// Approvals that it needs, settled when it is opened.
    pub approvals_needed: u32,
    /// Who has approved.
    pub approvals: Vec<String>,
    /// On legal hold.
    pub held: bool,
    /// The deadline was extended.
    pub extended: bool,
    /// The waiting was skipped.
    pub skipped_waiting: bool,
    /// How far the work is.
    pub progress: Progress,
}

/// How far the work on a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing has been done.
    NotStarted,
    /// Begun.
    Propagating,
    /// Begun, and not everything could be done.
    Partial,
    /// Everything is done and verified.
    Verified,
    /// Over.
    Done,
    /// Withdrawn.
    Cancelled,
    /// Refused.
    Refused,
}

impl Request {
    /// A request that was just opened under a policy.
    ///
    /// Fails when it was received after it is opened: a clock is wrong, or a typing error would postpone the deadline.
    pub fn open(kind: Kind, received: Timestamp, opened: Timestamp, policy: &ErasurePolicy) -> Result<Request> {
        if received > opened {
            return Err(Error::Usage(format!("a request cannot be received in the future ({received}; it is {opened} now)")));
        }
        Ok(Request {
            kind,
            received,
            opened,
            due_at: policy.due_at(kind, received, opened),
            approvals_needed: policy.approvals,
            approvals: Vec::new(),
            held: false,
            extended: false,
            skipped_waiting: false,
            progress: Progress::NotStarted,
        })
    }

    /// Where it stands at `now`.
    pub fn state(&self, now: Timestamp) -> State {
        match self.progress {
            Progress::Done => State::Done,
            Progress::Cancelled => State::Cancelled,
            Progress::Refused => State::Refused,
            Progress::Verified => State::Verified,
            Progress::Propagating => State::Propagating,
            Progress::NotStarted | Progress::Partial if self.held => State::Held,
            Progress::Partial => State::Partial,
            Progress::NotStarted if self.approvals_missing() > 0 => State::Open,
            Progress::NotStarted if now < self.due_at && !self.skipped_waiting => State::Waiting,
            Progress::NotStarted => State::Due,
        }
    }

    /// How many approvals are still missing.
    pub fn approvals_missing(&self) -> u32 {
        self.approvals_needed.saturating_sub(u32::try_from(self.approvals.len()).unwrap_or(u32::MAX))
    }

    /// Until when it must be done.
    pub fn deadline(&self, policy: &ErasurePolicy) -> Option<Deadline> {
        policy.deadline(self.kind, self.received, self.extended)
    }

    /// Takes a step, or says why it cannot be taken. Nothing changes on failure.
    pub fn apply(&mut self, transition: &Transition, now: Timestamp, policy: &ErasurePolicy) -> Result<()> {
        let state = self.state(now);
        let refuse = |what: &str| Err(Error::Refused(what.to_string()));
        let needs = |text: &str, what: &str| {
            if text.trim().is_empty() { Err(Error::Usage(format!("{what} has to be given"))) } else { Ok(()) }
        };
        if state.is_final() {
            return refuse(&format!("the request is {state}; nothing can follow"));
        }
        let started = matches!(self.progress, Progress::Propagating | Progress::Verified);
        match transition {
            Transition::Approve { actor } => {
                needs(actor, "who approves")?;
                if self.approvals_missing() == 0 {
                    return refuse("the request needs no further approval");
                }
                if self.approvals.contains(actor) {
                    return refuse("the same person cannot approve twice");
                }
                self.approvals.push(actor.clone());
            }
            Transition::Hold { reason } => {
                needs(reason, "a reason")?;
                if started {
                    return refuse(&format!("the request is {state}: what is being erased cannot be held any more"));
                }
                if self.held {
                    return refuse("the request is on hold already");
                }
                self.held = true;
            }
            Transition::Release => {
                if !self.held {
                    return refuse("the request is not on hold");
                }
                self.held = false;
            }
            Transition::Cancel => {
                let before_due = Request { held: false, ..self.clone() }.state(now);
                if !matches!(before_due, State::Open | State::Waiting) {
                    return refuse(&format!("the request is {before_due}; it can be cancelled only before it is due"));
                }
                self.progress = Progress::Cancelled;
            }
            Transition::Extend { reason } => {
                needs(reason, "a reason")?;
                let Some(deadline) = self.deadline(policy) else { return refuse("a deletion by the operator has no deadline to extend") };
                if self.extended {
                    return refuse("the deadline was extended already; the law allows it once");
                }
                if now > deadline.at {
                    return refuse("the deadline has passed; it can be extended only before");
                }
                self.extended = true;
            }
            Transition::Refuse { ground } => {
                needs(ground, "a ground")?;
                if self.progress != Progress::NotStarted {
                    return refuse(&format!("the request is {state}: it cannot be refused any more"));
                }
                self.progress = Progress::Refused;
            }
            Transition::SkipWaiting { reason } => {
                needs(reason, "a reason")?;
                if state != State::Waiting {
                    return refuse(&format!("the request is {state}, not waiting"));
                }
                self.skipped_waiting = true;
            }
            Transition::Propagate => match state {
                State::Due | State::Partial | State::Propagating => self.progress = Progress::Propagating,
                State::Open => return refuse(&format!("{} more approvals are needed", self.approvals_missing())),
                State::Waiting => return refuse(&format!("the request is due only at {}", self.due_at)),
                _ => return refuse(&format!("the request is {state}")),
            },
            Transition::Incomplete | Transition::Verify if self.progress != Progress::Propagating => {
                return refuse(&format!("the request is {state}, not propagating"));
            }
            Transition::Incomplete => self.progress = Progress::Partial,
            Transition::Verify => self.progress = Progress::Verified,
            Transition::Finish => {
                if self.progress != Progress::Verified {
                    return refuse(&format!("the request is {state}, not verified"));
                }
                self.progress = Progress::Done;
            }
        }
        Ok(())
    }
}

/// Whether a drill is due. A last drill in the future proves nothing: a clock was wrong.
pub fn drill_due(last: Option<Timestamp>, every: Period, now: Timestamp) -> bool {
    last.is_none_or(|last| last > now || every.after(last) <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_deadline_is_a_calendar_month_and_can_be_extended_by_two() {
        let policy = ErasurePolicy::default();
        let received = t("2026-01-31T12:00:00Z");
        let at = |extended| policy.deadline(Kind::SubjectRequest, received, extended).unwrap().at.to_string();
        assert_eq!(at(false), "2026-02-28T12:00:00Z");
        assert_eq!(at(true), "2026-04-30T12:00:00Z");
        assert!(policy.deadline(Kind::Deletion, received, false).is_none());
    }

    #[test]
    fn the_two_clocks_run_from_receipt() {
        let policy = ErasurePolicy::default();
        let (received, opened) = (t("2026-03-01T00:00:00Z"), t("2026-03-02T00:00:00Z"));
        assert_eq!(policy.due_at(Kind::SubjectRequest, received, opened), t("2026-03-04T00:00:00Z"));
        assert_eq!(policy.due_at(Kind::Deletion, received, opened), t("2026-04-30T00:00:00Z"));
        assert_eq!(policy.due_at(Kind::SubjectRequest, received, t("2026-03-20T00:00:00Z")), t("2026-03-20T00:00:00Z"));
    }

    #[test]
    fn deadlines_are_told_before_they_pass() {
        let deadline = Deadline { at: t("2026-03-31T00:00:00Z"), extended: false };
        assert_eq!(deadline.status(t("2026-03-01T00:00:00Z")), DeadlineStatus::OnTime { days_left: 30 });
        assert_eq!(deadline.status(t("2026-03-25T00:00:00Z")), DeadlineStatus::Approaching { days_left: 6 });
        assert_eq!(deadline.status(t("2026-04-02T01:00:00Z")), DeadlineStatus::Passed { days_over: 2 });
    }

    #[test]
    fn a_policy_that_cannot_keep_its_deadline_is_found() {
        let with = |f: fn(&mut ErasurePolicy)| {
            let mut policy = ErasurePolicy::default();
            f(&mut policy);
            policy.contradictions().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(with(|_| ()).is_empty());
        assert_eq!(with(|p| p.cooling_off = Period::days(28)), ["cooling_off"]);
        assert!(with(|p| p.cooling_off = Period::days(27)).is_empty());
        assert_eq!(with(|p| p.cooling_off = Period::months(1)), ["cooling_off"]);
        assert_eq!(with(|p| p.deadline = Period::days(31)), ["deadline"]);
        assert!(with(|p| p.deadline = Period::days(28)).is_empty());
        assert_eq!(with(|p| p.deadline = Period::days(2)), ["cooling_off"]);
        assert_eq!(with(|p| p.document_lifetime = Period::days(2)), ["document_lifetime"]);
        assert_eq!(with(|p| p.document_lifetime = Period::days(10_000)), ["document_lifetime"]);
    }

    #[test]
    fn a_request_goes_from_open_to_done() {
        let policy = ErasurePolicy { approvals: 2, ..ErasurePolicy::default() };
        let (day0, day5) = (t("2026-03-01T00:00:00Z"), t("2026-03-06T00:00:00Z"));
        let mut request = Request::open(Kind::SubjectRequest, day0, day0, &policy).unwrap();
        let approve = |who: &str| Transition::Approve { actor: who.into() };
        assert_eq!(request.state(day5), State::Open);
        assert!(request.apply(&Transition::Propagate, day5, &policy).is_err());
        request.apply(&approve("a"), day0, &policy).unwrap();
        assert!(request.apply(&approve("a"), day0, &policy).is_err());
        request.apply(&approve("b"), day0, &policy).unwrap();
        assert_eq!((request.state(day0), request.state(day5)), (State::Waiting, State::Due));
        assert!(request.apply(&Transition::Cancel, day5, &policy).is_err());
        request.apply(&Transition::Propagate, day5, &policy).unwrap();
        assert!(request.apply(&Transition::Hold { reason: "court".into() }, day5, &policy).is_err());
        request.apply(&Transition::Incomplete, day5, &policy).unwrap();
        assert_eq!(request.state(day5), State::Partial);
        request.apply(&Transition::Propagate, day5, &policy).unwrap();
        request.apply(&Transition::Verify, day5, &policy).unwrap();
        request.apply(&Transition::Finish, day5, &policy).unwrap();
        assert_eq!(request.state(day5), State::Done);
        assert!(request.apply(&Transition::Propagate, day5, &policy).is_err());
    }

    #[test]
    fn side_states_are_reached_only_where_the_rules_allow() {
        let policy = ErasurePolicy::default();
        let (day0, day1, day40) = (t("2026-03-01T00:00:00Z"), t("2026-03-02T00:00:00Z"), t("2026-04-10T00:00:00Z"));
        let fresh = Request::open(Kind::SubjectRequest, day0, day0, &policy).unwrap();
        assert!(Request::open(Kind::SubjectRequest, day1, day0, &policy).is_err());

        let mut cancelled = fresh.clone();
        cancelled.apply(&Transition::Cancel, day1, &policy).unwrap();
        assert_eq!(cancelled.state(day1), State::Cancelled);

        let mut held = fresh.clone();
        held.apply(&Transition::Hold { reason: "court".into() }, day1, &policy).unwrap();
        assert_eq!(held.state(day40), State::Held);
        assert!(held.apply(&Transition::Propagate, day40, &policy).is_err());
        assert!(held.apply(&Transition::Cancel, day40, &policy).is_err());
        held.apply(&Transition::Release, day40, &policy).unwrap();
        assert_eq!(held.state(day40), State::Due);

        let mut extended = fresh.clone();
        assert!(extended.apply(&Transition::Extend { reason: " ".into() }, day1, &policy).is_err());
        extended.apply(&Transition::Extend { reason: "complex".into() }, day1, &policy).unwrap();
        assert!(extended.apply(&Transition::Extend { reason: "more".into() }, day1, &policy).is_err());
        assert!(fresh.clone().apply(&Transition::Extend { reason: "late".into() }, day40, &policy).is_err());

        let mut skipped = fresh.clone();
        skipped.apply(&Transition::SkipWaiting { reason: "urgent".into() }, day1, &policy).unwrap();
        assert_eq!(skipped.state(day1), State::Due);

        let mut refused = fresh;
        refused.apply(&Transition::Refuse { ground: "Art. 17(3)(e)".into() }, day1, &policy).unwrap();
        assert_eq!(refused.state(day1), State::Refused);
    }

    #[test]
    fn drills_fall_due() {
        let now = t("2026-03-10T00:00:00Z");
        let week = Period::days(7);
        assert!(drill_due(None, week, now));
        assert!(drill_due(Some(t("2026-03-03T00:00:00Z")), week, now));
        assert!(!drill_due(Some(t("2026-03-04T00:00:00Z")), week, now));
        assert!(drill_due(Some(t("2036-03-04T00:00:00Z")), week, now));
    }

    fn transitions() -> impl Strategy<Value = Transition> {
        prop_oneof![
            "[ab]".prop_map(|actor| Transition::Approve { actor }),
            Just(Transition::Hold { reason: "r".into() }),
            Just(Transition::Release),
            Just(Transition::Cancel),
            Just(Transition::Extend { reason: "r".into() }),
            Just(Transition::Refuse { ground: "g".into() }),
            Just(Transition::SkipWaiting { reason: "r".into() }),
            Just(Transition::Propagate),
            Just(Transition::Incomplete),
            Just(Transition::Verify),
            Just(Transition::Finish),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_tried_nobody_is_erased_early_held_or_unapproved(steps in proptest::collection::vec((transitions(), 0i64..3), 0..40), approvals in 0u32..3) {
            let policy = ErasurePolicy { approvals, ..ErasurePolicy::default() };
            let start = t("2026-03-01T00:00:00Z");
            let mut request = Request::open(Kind::SubjectRequest, start, start, &policy).unwrap();
            let mut now = start;
            for (step, days) in steps {
                now = Period::days(days.unsigned_abs()).after(now);
                let before = request.clone();
                if request.apply(&step, now, &policy).is_err() {
                    prop_assert_eq!(&request, &before);
                    continue;
                }
                prop_assert!(!before.state(now).is_final());
                if step == Transition::Propagate {
                    prop_assert!(!before.held && before.approvals_missing() == 0);
                    prop_assert!(now >= before.due_at || before.skipped_waiting);
                }
                if step == Transition::Cancel {
                    prop_assert!(before.progress == Progress::NotStarted);
                }
                if request.state(now) == State::Done {
                    prop_assert_eq!(before.state(now), State::Verified);
                }
            }
        }
    }
}
