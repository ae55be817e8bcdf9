//! How numbers, times and tables look to a person. Times are UTC everywhere, so that two people on two continents read the same.

use jiff::Timestamp;

/// `2026-11-01 02:00`, UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Like [`time`]; `-` when there is none.
pub fn time_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_string(), time)
}

/// `512 B`, `1.5 KiB`, `20 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for u in UNITS {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = u;
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// `0.42 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(s: f64) -> String {
    let whole = s.max(0.0).round() as u64;
    match whole {
        0..=9 => format!("{:.2} s", s.max(0.0)),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        7200..=172_799 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} days", whole / 86_400),
    }
}

/// `1 archive`, `2 archives`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The first twelve digits of an id: enough to be unique, short enough to read out.
pub fn short(id: impl std::fmt::Display) -> String {
    id.to_string().chars().take(12).collect()
}

/// Removes what a terminal would obey instead of show.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Which side a column keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines with aligned columns; columns without any content are left out.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, without a line end at its end.
    pub fn render(&self) -> String {
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let used: Vec<usize> = (0..self.columns.len()).filter(|i| self.rows.iter().any(|r| !cell(r, *i).is_empty())).collect();
        let width = |i: usize| {
            let heading = self.columns.get(i).map_or(0, |(h, _)| h.chars().count());
            self.rows.iter().map(|r| cell(r, i).chars().count()).fold(heading, usize::max)
        };
        let widths: Vec<usize> = used.iter().map(|i| width(*i)).collect();
        let line = |get: &dyn Fn(usize) -> String| {
            let mut out = String::new();
            for (n, (i, width)) in used.iter().zip(&widths).enumerate() {
                if n > 0 {
                    out.push_str("  ");
                }
                let text = get(*i);
                let pad = " ".repeat(width.saturating_sub(text.chars().count()));
                match self.columns.get(*i) {
                    Some((_, Align::Right)) => out += &(pad + &text),
                    _ => out += &(text + &pad),
                }
            }
            out.trim_end().to_string()
        };
        let mut lines = vec![line(&|i| self.columns.get(i).map_or_else(String::new, |(h, _)| (*h).to_string()))];
        lines.extend(self.rows.iter().map(|r| line(&|i| cell(r, i))));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_well() {
        let sizes = [0, 1023, 1024, 1536, 20 << 20, (1 << 20) - 1, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "20 MiB", "1.0 MiB", "16 EiB"]);
        assert_eq!([0.42, 75.2, 200.0, 7500.0, 400_000.0].map(seconds), ["0.42 s", "75 s", "3 min 20 s", "2 h 5 min", "4 days"]);
        assert_eq!(time("2026-11-01T02:00:59Z".parse().unwrap()), "2026-11-01 02:00");
    }

    #[test]
    fn a_table_aligns_and_drops_empty_columns() {
        let mut table = Table::new(&[("id", Align::Left), ("size", Align::Right), ("tag", Align::Left)]);
        table.row(vec!["a".into(), "10 B".into(), String::new()]);
        table.row(vec!["long".into(), "9 B".into(), String::new()]);
        assert_eq!(table.render(), "id    size\na     10 B\nlong   9 B");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\u{7}"), "a\u{fffd}[31mb\u{fffd}");
    }
}
