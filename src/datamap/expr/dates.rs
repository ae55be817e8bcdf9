//! Dates as real sources write them, and periods added to them. Without a zone, UTC is meant.

use super::{Period, Value};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Reads a date or a point in time: ISO 8601 with or without time and zone, `YYYY/MM/DD`, `YYYYMMDD`, `DD.MM.YYYY`, and seconds,
/// milliseconds or microseconds since 1970. `None` for anything else; `01/02/2020` is not guessed at.
pub fn parse_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() < 4 || text.len() > 64 || !text.is_ascii() {
        return None;
    }
    if text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit()) {
        return of_integer(text.parse().ok()?);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let iso = match text.as_bytes() {
        // 2020/01/31 …
        [_, _, _, _, b'/', _, _, b'/', ..] => text.replacen('/', "-", 2),
        // 31.01.2020 …
        [d1, d2, b'.', m1, m2, b'.', y1, y2, y3, y4, rest @ ..] => {
            let head = [*y1, *y2, *y3, *y4, b'-', *m1, *m2, b'-', *d1, *d2];
            format!("{}{}", String::from_utf8_lossy(&head), String::from_utf8_lossy(rest))
        }
        _ => text.to_string(),
    };
    // Only a leading YYYY-MM-DD counts, so that jiff's other notations (2020-W05-1, P5Y) do not slip in.
    let bytes = iso.as_bytes();
    let shape =
        bytes.len() >= 10 && bytes.iter().take(10).enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
    if !shape {
        return None;
    }
    if let Ok(at) = iso.parse::<Timestamp>() {
        return Some(at);
    }
    if iso.contains('[') {
        return None;
    }
    if bytes.len() == 10 {
        return start_of(iso.parse::<Date>().ok()?.to_datetime(jiff::civil::Time::midnight()));
    }
    start_of(iso.parse::<DateTime>().ok()?)
}

/// What a field's value says; `Ok(None)` for null and empty text, an error for what is not a date.
pub(super) fn of_value(value: &Value<'_>) -> Result<Option<Timestamp>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::Integer(i) => of_integer(*i).map(Some).ok_or(()),
        Value::Real(r) if r.is_finite() && r.abs() < 9.0e15 => of_integer(*r as i64).map(Some).ok_or(()),
        Value::Text(t) if t.trim().is_empty() => Ok(None),
        Value::Text(t) => parse_date(t).map(Some).ok_or(()),
        Value::Bytes(b) => std::str::from_utf8(b).ok().and_then(parse_date).map(Some).ok_or(()),
        Value::Real(_) | Value::Bool(_) => Err(()),
    }
}

/// `YYYYMMDD` where that is a date between 1900 and 2199 (as seconds it would lie in one summer of 1970), else time since 1970 by magnitude.
fn of_integer(n: i64) -> Option<Timestamp> {
    if (19_000_101..=21_991_231).contains(&n) {
        let (year, month, day) = ((n / 10_000) as i16, (n / 100 % 100) as i8, (n % 100) as i8);
        if let Ok(date) = Date::new(year, month, day) {
            return start_of(date.to_datetime(jiff::civil::Time::midnight()));
        }
    }
    match n.unsigned_abs() {
        0..100_000_000_000 => Timestamp::from_second(n).ok(),
        100_000_000_000..100_000_000_000_000 => Timestamp::from_millisecond(n).ok(),
        _ => Timestamp::from_microsecond(n).ok(),
    }
}

fn start_of(at: DateTime) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(at).ok()
}

/// Adds a period by the calendar (31 January + 1 month is the last of February); saturates at the ends of time.
pub(super) fn shift(at: Timestamp, period: Period) -> Timestamp {
    let saturated = if period.months < 0 || period.days < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let span = Span::new().try_months(period.months).and_then(|s| s.try_days(period.days));
    let Ok(span) = span else { return saturated };
    match TimeZone::UTC.to_datetime(at).checked_add(span) {
        Ok(shifted) => start_of(shifted).unwrap_or(saturated),
        Err(_) => saturated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_as_sources_write_them_are_read() {
        for (text, expected) in [
            ("2020-02-29", "2020-02-29T00:00:00Z"),
            (" 2020-02-29 ", "2020-02-29T00:00:00Z"),
            ("2009-01-01 00:00:00", "2009-01-01T00:00:00Z"),
            ("2022-01-28 10:58:52.222594-07", "2022-01-28T17:58:52.222594Z"),
            ("2022-01-28 10:58:52+00", "2022-01-28T10:58:52Z"),
            ("2022-01-28T10:58:52Z", "2022-01-28T10:58:52Z"),
            ("2022-01-28T10:58", "2022-01-28T10:58:00Z"),
            ("2022/01/28", "2022-01-28T00:00:00Z"),
            ("20220128", "2022-01-28T00:00:00Z"),
            ("28.01.2022", "2022-01-28T00:00:00Z"),
            ("28.01.2022 10:58:52", "2022-01-28T10:58:52Z"),
            ("1600000000", "2020-09-13T12:26:40Z"),
            ("1600000000000", "2020-09-13T12:26:40Z"),
            ("1600000000000000", "2020-09-13T12:26:40Z"),
        ] {
            assert_eq!(parse_date(text).map(|t| t.to_string()).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "soon", "01/02/2020", "2020-02-30", "2020-W05-1", "P5Y", "12", "2020-02-29 [Europe/Berlin]", "١٢٣٤"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = parse_date(&text);
        }

        #[test]
        fn shifting_never_panics(n in any::<i64>(), months in any::<i32>(), days in any::<i32>()) {
            if let Some(at) = of_integer(n) {
                shift(at, Period { months, days });
            }
        }
    }
}
