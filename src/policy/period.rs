//! Periods as people and laws write them: `3d`, `1mo`, `5y`. Months and years are calendar months (GDPR Art. 12(3) counts those),
//! not a number of days, so a period has no fixed length; it is added to a point in time, in UTC.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use std::fmt;

/// A period of time: calendar months and, after them, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Period {
    /// Calendar months (a year is 12).
    pub months: u32,
    /// Seconds (a day is 86400: in UTC days have no other length).
    pub seconds: u64,
}

/// Units, longest name first where one begins another (`mo`, `m`).
const UNITS: [(&str, u32, u64); 7] =
    [("y", 12, 0), ("mo", 1, 0), ("w", 0, 604_800), ("d", 0, 86_400), ("h", 0, 3_600), ("min", 0, 60), ("s", 0, 1)];

/// No period is longer: 10,000 years.
const MAX_SECONDS: u64 = 10_000 * 366 * 86_400;
const MAX_MONTHS: u32 = 120_000;

impl Period {
    /// Days of 24 hours.
    pub const fn days(days: u64) -> Period {
        Period { months: 0, seconds: days * 86_400 }
    }

    /// Calendar months.
    pub const fn months(months: u32) -> Period {
        Period { months, seconds: 0 }
    }

    /// Parses `3d`, `12h`, `1mo`, `1y6mo`. Units: y, mo, w, d, h, min, s. The message says what is wrong.
    pub fn parse(text: &str) -> Result<Period, String> {
        const EXPECTED: &str = "expected a period such as 3d, 4w, 1mo, 5y or 12h";
        let mut period = Period::default();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(EXPECTED.into());
        }
        while !rest.is_empty() {
            let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
            let after = after.trim_start();
            let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
            let count: u64 = digits.parse().map_err(|_| EXPECTED.to_string())?;
            let Some((_, months, seconds)) = UNITS.iter().find(|(name, ..)| *name == unit) else {
                return Err(match unit {
                    "" => format!("{text:?} has no unit; the units are y, mo, w, d, h, min and s"),
                    "m" => "`m` is ambiguous: write `mo` for months or `min` for minutes".into(),
                    unit => format!("unknown unit {unit:?}; the units are y, mo, w, d, h, min and s"),
                });
            };
            // A unit counts either months or seconds; the other product is 0.
            let more_months = u64::from(*months).checked_mul(count).and_then(|m| u32::try_from(m).ok());
            let total_months = more_months.and_then(|m| period.months.checked_add(m)).filter(|m| *m <= MAX_MONTHS);
            let total_seconds = seconds.checked_mul(count).and_then(|s| period.seconds.checked_add(s)).filter(|s| *s <= MAX_SECONDS);
            period = Period { months: total_months.ok_or("too long")?, seconds: total_seconds.ok_or("too long")? };
            rest = after.trim_start();
        }
        Ok(period)
    }

    /// Whether it has no length.
    pub fn is_zero(&self) -> bool {
        self.months == 0 && self.seconds == 0
    }

    /// The moment this long after `at`. 31 January + 1 month is the last of February. Saturates at the ends of time.
    pub fn after(&self, at: Timestamp) -> Timestamp {
        self.shift(at, 1)
    }

    /// The moment this long before `at`. Saturates at the ends of time.
    pub fn before(&self, at: Timestamp) -> Timestamp {
        self.shift(at, -1)
    }

    fn shift(&self, at: Timestamp, sign: i64) -> Timestamp {
        let saturated = if sign < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let shifted = Span::new()
            .try_months(sign * i64::from(self.months))
            .ok()
            .and_then(|months| TimeZone::UTC.to_datetime(at).checked_add(months).ok())
            .and_then(|datetime| TimeZone::UTC.to_timestamp(datetime).ok())
            .and_then(|at| {
                let seconds = i64::try_from(self.seconds).ok()?;
                at.checked_add(SignedDuration::from_secs(sign * seconds)).ok()
            });
        shifted.unwrap_or(saturated)
    }

    /// The shortest it can be in any calendar, in seconds: a month has at least 28 days, a year 365.
    pub fn shortest_seconds(&self) -> u64 {
        let (years, months) = (u64::from(self.months / 12), u64::from(self.months % 12));
        // n consecutive months have at least 28 + 30·(n-1) days or more; the bound of 28 for the first is what matters.
        let days = years * 365 + if months == 0 { 0 } else { 28 + (months - 1) * 30 };
        days * 86_400 + self.seconds
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        let (years, months) = (self.months / 12, self.months % 12);
        if years > 0 {
            write!(f, "{years}y")?;
        }
        if months > 0 {
            write!(f, "{months}mo")?;
        }
        let mut rest = self.seconds;
        for (name, _, seconds) in UNITS.iter().filter(|(name, _, s)| *s > 0 && *name != "w") {
            if rest / seconds > 0 {
                write!(f, "{}{name}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn periods_are_read_and_shown() {
        for (text, months, seconds, shown) in [
            ("3d", 0, 3 * 86_400, "3d"),
            ("12h", 0, 43_200, "12h"),
            ("4w", 0, 28 * 86_400, "28d"),
            ("1mo", 1, 0, "1mo"),
            ("5y", 60, 0, "5y"),
            ("1y6mo", 18, 0, "1y6mo"),
            ("1mo 15 d", 1, 15 * 86_400, "1mo15d"),
            ("90min", 0, 5_400, "1h30min"),
            ("0s", 0, 0, "0s"),
        ] {
            let period = Period::parse(text).unwrap();
            assert_eq!((period.months, period.seconds, period.to_string().as_str()), (months, seconds, shown), "{text}");
        }
        for (text, part) in [
            ("", "expected"),
            ("d", "expected"),
            ("3", "no unit"),
            ("3m", "ambiguous"),
            ("3 fortnights", "unknown unit"),
            ("-3d", "expected"),
            ("99999999999999999999d", "expected"),
            ("9999999999y", "too long"),
        ] {
            assert!(Period::parse(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn months_follow_the_calendar() {
        let at: Timestamp = "2026-01-31T10:00:00Z".parse().unwrap();
        assert_eq!(Period::months(1).after(at).to_string(), "2026-02-28T10:00:00Z");
        assert_eq!(Period::days(30).before(at).to_string(), "2026-01-01T10:00:00Z");
        assert_eq!(Period::parse("9999y").unwrap().after(at), Timestamp::MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,24}") {
            if let Ok(period) = Period::parse(&text) {
                prop_assert_eq!(Period::parse(&period.to_string()).unwrap(), period);
            }
        }

        #[test]
        fn no_calendar_makes_it_shorter_than_its_bound(start in -60_000_000_000i64..200_000_000_000, months in 0u32..500, seconds in 0u64..10_000_000) {
            let (at, period) = (Timestamp::from_second(start).unwrap(), Period { months, seconds });
            let length = period.after(at).as_second() - at.as_second();
            prop_assert!(length >= period.shortest_seconds() as i64 - 3 * 86_400);
        }
    }
}
