//! Retention: which archives stay and which go. A plan, made of facts and a `now`; the engine only executes it.
//!
//! What it must never do, whatever the clock says: remove the last archive that is known to be good, go below `min_archives`, or
//! let an archive with a date in the future (made while a clock was wrong) push out a good one. The order of the rules:
//!
//! 1. An archive from the future stays and counts for nothing.
//! 2. The newest `min_archives`, the newest verified archive and held archives stay, whatever follows.
//! 3. Older than `max_age`: goes.
//! 4. Where `keep` rules are given and none selects it: goes.
//! 5. If more than `max_archives` are left: the oldest go until the cap is met.

use super::Period;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, HashSet};

/// Retention of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// At most this many archives. `None`: no cap.
    pub max_archives: Option<u32>,
    /// Never fewer than this; at least 1 is enforced.
    pub min_archives: u32,
    /// Older ones go. `None`: age is no reason.
    pub max_age: Option<Period>,
    /// Which archives of which past periods stay. `None`: all do, up to the other limits.
    pub keep: Option<KeepRules>,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { max_archives: None, min_archives: 1, max_age: None, keep: None }
    }
}

/// The newest archive of each of the last so many hours, days … that have one (in UTC; weeks are ISO weeks, from Monday).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepRules {
    /// The newest so many, whatever their time.
    pub last: u32,
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    /// Calendar months.
    pub monthly: u32,
    /// Calendar years.
    pub yearly: u32,
}

/// What retention needs to know of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Archive id.
    pub id: String,
    /// When its backup was made.
    pub created_at: Timestamp,
    /// Whether it was read back and found good since it was sealed.
    pub verified: bool,
    /// Whether somebody has put it on hold.
    pub held: bool,
}

/// Why an archive stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// On hold.
    Held,
    /// Its date lies in the future: a clock was or is wrong, so nothing is decided about it.
    FromTheFuture,
    /// The newest archive that is known to be good.
    LastVerified,
    /// Among the newest `min_archives`.
    MinArchives,
    /// Selected by `keep.last`.
    Last,
    /// Selected by `keep.hourly`.
    Hourly,
    /// Selected by `keep.daily`.
    Daily,
    /// Selected by `keep.weekly`.
    Weekly,
    /// Selected by `keep.monthly`.
    Monthly,
    /// Selected by `keep.yearly`.
    Yearly,
    /// No rule is against it.
    WithinLimits,
}

/// Why an archive goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expire {
    /// Older than `max_age`.
    MaxAge,
    /// No `keep` rule selects it.
    NotSelected,
    /// Beyond `max_archives`.
    MaxArchives,
}

/// What becomes of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for at least one reason.
    Keep(Vec<Keep>),
    /// It goes.
    Expire(Expire),
}

impl Verdict {
    /// Whether it goes.
    pub fn expires(&self) -> bool {
        matches!(self, Verdict::Expire(_))
    }
}

impl Keep {
    /// For people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Keep::Held => "held",
            Keep::FromTheFuture => "dated in the future",
            Keep::LastVerified => "last verified",
            Keep::MinArchives => "min_archives",
            Keep::Last => "last",
            Keep::Hourly => "hourly",
            Keep::Daily => "daily",
            Keep::Weekly => "weekly",
            Keep::Monthly => "monthly",
            Keep::Yearly => "yearly",
            Keep::WithinLimits => "within limits",
        }
    }
}

impl Expire {
    /// For people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Expire::MaxAge => "max_age",
            Expire::NotSelected => "no keep rule",
            Expire::MaxArchives => "max_archives",
        }
    }
}

/// Decides about every archive, in the order given. The result depends on the set of facts only, not on their order.
pub fn plan(archives: &[Facts], policy: &Retention, now: Timestamp) -> Vec<(String, Verdict)> {
    // Newest first; equal times by id, so that the plan is the same on every machine.
    let mut order: Vec<usize> = (0..archives.len()).collect();
    let sort_key = |i: &usize| archives.get(*i).map(|a| (std::cmp::Reverse(a.created_at), a.id.clone()));
    order.sort_by_key(sort_key);
    let newest_first: Vec<(usize, &Facts)> = order.iter().filter_map(|i| Some((*i, archives.get(*i)?))).collect();

    let mut reasons: BTreeMap<usize, Vec<Keep>> = BTreeMap::new();
    let mut fate: BTreeMap<usize, Expire> = BTreeMap::new();
    let (future, known): (Vec<_>, Vec<_>) = newest_first.into_iter().partition(|(_, a)| a.created_at > now);
    for (i, _) in future {
        reasons.entry(i).or_default().push(Keep::FromTheFuture);
    }

    let mut protected = HashSet::new();
    let mut protect = |i: usize, reason: Keep| {
        protected.insert(i);
        reasons.entry(i).or_default().push(reason);
    };
    known.iter().filter(|(_, a)| a.held).for_each(|(i, _)| protect(*i, Keep::Held));
    known.iter().filter(|(_, a)| a.verified).take(1).for_each(|(i, _)| protect(*i, Keep::LastVerified));
    known.iter().take(policy.min_archives.max(1) as usize).for_each(|(i, _)| protect(*i, Keep::MinArchives));

    let oldest_allowed = policy.max_age.map_or(Timestamp::MIN, |age| age.before(now));
    for (i, archive) in &known {
        if !protected.contains(i) && archive.created_at < oldest_allowed {
            fate.insert(*i, Expire::MaxAge);
        }
    }

    if let Some(rules) = &policy.keep {
        // Buckets are counted over archives that exist, not back from `now`: a clock that jumps ahead selects the same ones.
        for (reason, count) in rules.counts() {
            let mut buckets = HashSet::new();
            for (i, archive) in &known {
                if buckets.len() >= count as usize {
                    break;
                }
                if buckets.insert(bucket(reason, archive)) {
                    reasons.entry(*i).or_default().push(reason);
                }
            }
        }
        for (i, _) in &known {
            if !reasons.contains_key(i) {
                fate.entry(*i).or_insert(Expire::NotSelected);
            }
        }
    }

    if let Some(max) = policy.max_archives {
        let left = known.iter().filter(|(i, _)| !fate.contains_key(i)).count();
        let excess = left.saturating_sub(max as usize);
        let oldest: Vec<usize> =
            known.iter().rev().map(|(i, _)| *i).filter(|i| !fate.contains_key(i) && !protected.contains(i)).take(excess).collect();
        fate.extend(oldest.into_iter().map(|i| (i, Expire::MaxArchives)));
    }

    let verdict = |i: usize| match fate.get(&i) {
        Some(reason) => Verdict::Expire(*reason),
        None => Verdict::Keep(reasons.get(&i).cloned().unwrap_or_else(|| vec![Keep::WithinLimits])),
    };
    archives.iter().enumerate().map(|(i, a)| (a.id.clone(), verdict(i))).collect()
}

impl KeepRules {
    fn counts(&self) -> [(Keep, u32); 6] {
        [
            (Keep::Last, self.last),
            (Keep::Hourly, self.hourly),
            (Keep::Daily, self.daily),
            (Keep::Weekly, self.weekly),
            (Keep::Monthly, self.monthly),
            (Keep::Yearly, self.yearly),
        ]
    }

    /// Whether it selects nothing at all.
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|(_, n)| *n == 0)
    }
}

/// Names the period that an archive falls into. `Last` has one per archive.
fn bucket(rule: Keep, archive: &Facts) -> (i16, i16, i16, String) {
    let at = TimeZone::UTC.to_datetime(archive.created_at);
    let none = String::new();
    let (month, day) = (i16::from(at.month()), i16::from(at.day()));
    match rule {
        Keep::Hourly => (at.year(), month, day * 24 + i16::from(at.hour()), none),
        Keep::Daily => (at.year(), month, day, none),
        Keep::Weekly => {
            let week = at.date().iso_week_date();
            (week.year(), i16::from(week.week()), 0, none)
        }
        Keep::Monthly => (at.year(), month, 0, none),
        Keep::Yearly => (at.year(), 0, 0, none),
        _ => (0, 0, 0, archive.id.clone()),
    }
}

/// Steps of [`expires_at`]; at one backup a day this looks 11 years ahead.
const MAX_STEPS: usize = 4000;

/// When each archive will probably go: by simulating the policy with backups that continue in the rhythm of the past ones (daily
/// where there are too few to tell), each verified. `None`: not within the horizon, or held. In the order given.
pub fn expires_at(archives: &[Facts], policy: &Retention, now: Timestamp) -> Vec<Option<Timestamp>> {
    let mut result = vec![None; archives.len()];
    if policy.max_archives.is_none() && policy.max_age.is_none() && policy.keep.is_none() {
        return result;
    }
    let step = rhythm(archives, now);
    let mut place: BTreeMap<String, usize> = archives.iter().enumerate().map(|(i, a)| (a.id.clone(), i)).collect();
    let mut left: Vec<Facts> = archives.to_vec();
    let mut at = now;
    for n in 0..MAX_STEPS {
        let gone: HashSet<String> = plan(&left, policy, at).into_iter().filter(|(_, v)| v.expires()).map(|(id, _)| id).collect();
        for id in &gone {
            if let Some(slot) = place.remove(id).and_then(|i| result.get_mut(i)) {
                *slot = Some(at);
            }
        }
        left.retain(|a| !gone.contains(&a.id));
        if place.is_empty() || left.iter().filter(|a| place.contains_key(&a.id)).all(|a| a.held) {
            break;
        }
        let next = step.after(at);
        if next <= at {
            break;
        }
        at = next;
        left.push(Facts { id: format!("\u{10ffff}{n}"), created_at: at, verified: true, held: false });
    }
    result
}

/// The median distance of the archives that are there, at least an hour.
fn rhythm(archives: &[Facts], now: Timestamp) -> Period {
    let mut times: Vec<i64> = archives.iter().filter(|a| a.created_at <= now).map(|a| a.created_at.as_second()).collect();
    times.sort_unstable();
    let mut gaps: Vec<i64> = times.windows(2).filter_map(|w| if let [a, b] = w { Some(b - a) } else { None }).collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or(86_400);
    Period { months: 0, seconds: median.max(3_600).unsigned_abs() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + day * DAY).unwrap() // 2026-01-01
    }

    fn nightly(days: impl Iterator<Item = i64>) -> Vec<Facts> {
        days.map(|d| Facts { id: format!("{d:05}"), created_at: at(d), verified: true, held: false }).collect()
    }

    fn kept(archives: &[Facts], policy: &Retention, now: Timestamp) -> Vec<String> {
        plan(archives, policy, now).into_iter().filter(|(_, v)| !v.expires()).map(|(id, _)| id).collect()
    }

    #[test]
    fn the_cap_removes_the_oldest() {
        let policy = Retention { max_archives: Some(3), min_archives: 1, ..Retention::default() };
        assert_eq!(kept(&nightly(0..6), &policy, at(6)), ["00003", "00004", "00005"]);
    }

    #[test]
    fn min_archives_wins_over_age_and_cap() {
        let policy = Retention { max_archives: Some(2), min_archives: 4, max_age: Some(Period::days(1)), keep: None };
        assert_eq!(kept(&nightly(0..6), &policy, at(100)).len(), 4);
    }

    #[test]
    fn keep_rules_take_the_newest_of_each_period() {
        let keep = KeepRules { daily: 2, weekly: 2, monthly: 2, ..KeepRules::default() };
        let policy = Retention { keep: Some(keep), ..Retention::default() };
        // 2026-01-01 is a Thursday; day 45 is Sunday 15 February, day 38 the Sunday before, day 30 the last of January.
        assert_eq!(kept(&nightly(0..46), &policy, at(45)), ["00030", "00038", "00044", "00045"]);
    }

    #[test]
    fn the_last_verified_archive_stays_though_everything_is_against_it() {
        let mut archives = nightly(0..40);
        archives.iter_mut().skip(1).for_each(|a| a.verified = false);
        let policy = Retention {
            max_archives: Some(5),
            min_archives: 1,
            max_age: Some(Period::days(10)),
            keep: Some(KeepRules { daily: 3, ..KeepRules::default() }),
        };
        assert!(kept(&archives, &policy, at(40)).contains(&"00000".to_string()));
    }

    #[test]
    fn an_archive_from_the_future_evicts_nobody() {
        let policy =
            Retention { max_archives: Some(3), min_archives: 1, max_age: None, keep: Some(KeepRules { daily: 3, ..KeepRules::default() }) };
        let mut archives = nightly(0..3);
        archives.extend(nightly(4000..4003));
        assert_eq!(kept(&archives, &policy, at(3)).len(), 6);
    }

    #[test]
    fn a_clock_that_jumps_ahead_leaves_the_minimum() {
        let policy = Retention { max_archives: Some(30), min_archives: 3, max_age: Some(Period::days(90)), keep: None };
        assert_eq!(kept(&nightly(0..30), &policy, at(40_000)), ["00027", "00028", "00029"]);
    }

    #[test]
    fn expiry_is_foreseen() {
        let archives = nightly(0..5);
        let age = Retention { max_age: Some(Period::days(10)), ..Retention::default() };
        let days: Vec<i64> =
            expires_at(&archives, &age, at(4)).iter().map(|t| (t.unwrap().as_second() - at(0).as_second()) / DAY).collect();
        assert_eq!(days, [11, 12, 13, 14, 15]);
        let cap = Retention { max_archives: Some(5), ..Retention::default() };
        assert_eq!(expires_at(&archives, &cap, at(4)).first().unwrap().unwrap(), at(5));
        assert_eq!(expires_at(&archives, &Retention::default(), at(4)), vec![None; 5]);
    }

    fn facts() -> impl Strategy<Value = Vec<Facts>> {
        proptest::collection::vec((-2000i64..2000, any::<bool>(), proptest::bool::weighted(0.1)), 0..40).prop_map(|list| {
            let make = |(i, (hours, verified, held)): (usize, (i64, bool, bool))| Facts {
                id: format!("{i:03}"),
                created_at: Timestamp::from_second(at(0).as_second() + hours * 3600).unwrap(),
                verified,
                held,
            };
            list.into_iter().enumerate().map(make).collect()
        })
    }

    fn policies() -> impl Strategy<Value = Retention> {
        let keep =
            proptest::option::of(
                (0u32..4, 0u32..4, 0u32..4, 0u32..4, 0u32..4, 0u32..4)
                    .prop_map(|(last, hourly, daily, weekly, monthly, yearly)| KeepRules { last, hourly, daily, weekly, monthly, yearly }),
            );
        (proptest::option::of(0u32..20), 0u32..8, proptest::option::of(0u64..60), keep).prop_map(|(max, min, age, keep)| Retention {
            max_archives: max,
            min_archives: min,
            max_age: age.map(Period::days),
            keep,
        })
    }

    proptest! {
        #[test]
        fn invariants_hold_for_any_archives_policy_and_clock(archives in facts(), policy in policies(), hours in -3000i64..100_000, seed in any::<u64>()) {
            let now = Timestamp::from_second(at(0).as_second() + hours * 3600).unwrap();
            let verdicts = plan(&archives, &policy, now);
            prop_assert_eq!(verdicts.len(), archives.len());
            let verdict: BTreeMap<String, Verdict> = verdicts.iter().cloned().collect();
            let stays = |a: &&Facts| verdict.get(&a.id).is_some_and(|v| !v.expires());
            let known: Vec<&Facts> = archives.iter().filter(|a| a.created_at <= now).collect();

            // Held and future archives stay.
            prop_assert!(archives.iter().filter(|a| a.held || a.created_at > now).all(|a| stays(&a)));
            // Never fewer than min_archives, and never none.
            prop_assert!(known.iter().filter(|a| stays(a)).count() >= known.len().min(policy.min_archives.max(1) as usize));
            // The newest verified archive stays.
            if let Some(newest) = known.iter().filter(|a| a.verified).map(|a| a.created_at).max() {
                prop_assert!(known.iter().any(|a| a.verified && a.created_at == newest && stays(a)));
            }
            // The cap is met, unless protected archives alone exceed it.
            if let Some(max) = policy.max_archives {
                let protected = known.iter().filter(|a| a.held).count() + policy.min_archives.max(1) as usize + 1;
                prop_assert!(known.iter().filter(|a| stays(a)).count() <= protected.max(max as usize));
            }
            // Every verdict to keep has a reason.
            prop_assert!(verdicts.iter().all(|(_, v)| !matches!(v, Verdict::Keep(reasons) if reasons.is_empty())));

            // Future archives change nothing for the others.
            let without: Vec<Facts> = known.iter().map(|a| (*a).clone()).collect();
            for (id, v) in plan(&without, &policy, now) {
                prop_assert_eq!(verdict.get(&id), Some(&v));
            }
            // The order of the facts does not matter, and what is left is left again: rotating twice removes nothing more.
            let mut shuffled = archives.clone();
            shuffled.sort_by_key(|a| a.id.bytes().fold(seed, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b))));
            for (id, v) in plan(&shuffled, &policy, now) {
                prop_assert_eq!(verdict.get(&id), Some(&v));
            }
            let left: Vec<Facts> = archives.iter().filter(|a| stays(a)).cloned().collect();
            if policy.keep.is_none() {
                prop_assert!(plan(&left, &policy, now).iter().all(|(_, v)| !v.expires()));
            }
            // A longer life never shortens another archive's.
            prop_assert_eq!(&plan(&archives, &policy, now), &verdicts);
        }

        #[test]
        fn expiry_never_comes_before_now(archives in facts(), policy in policies()) {
            let archives: Vec<Facts> = archives.into_iter().take(8).collect();
            let now = at(60);
            // A short horizon is enough here.
            if policy.keep.is_none() && policy.max_archives.is_some() {
                for t in expires_at(&archives, &policy, now).into_iter().flatten() {
                    prop_assert!(t >= now);
                }
            }
        }
    }
}
