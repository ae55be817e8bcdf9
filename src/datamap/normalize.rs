//! Normalising identity values, so that " Jane@Example.ORG" meets "jane@example.org" where the data map says so.

use super::Normalize;
use std::borrow::Cow;
use std::fmt;
use unicode_normalization::{UnicodeNormalization, is_nfc};

impl Normalize {
    /// Applies the steps in their fixed order.
    pub fn apply<'a>(self, value: Cow<'a, str>) -> Cow<'a, str> {
        let mut value = value;
        // Nearly all values are ASCII, where most of this is simple: a backup normalises every value of every probe.
        let ascii = value.is_ascii();
        if self.nfc && !ascii && !is_nfc(&value) {
            value = Cow::Owned(value.nfc().collect());
        }
        if self.trim {
            let trimmed = value.trim();
            if trimmed.len() != value.len() {
                value = Cow::Owned(trimmed.to_string());
            }
        }
        if self.lower && ascii {
            if value.bytes().any(|b| b.is_ascii_uppercase()) {
                value = Cow::Owned(value.to_ascii_lowercase());
            }
        } else if self.lower && value.chars().any(|c| !c.is_ascii_lowercase() && c.to_lowercase().ne([c])) {
            value = Cow::Owned(value.to_lowercase());
        }
        if self.digits && value.chars().any(|c| !c.is_ascii_digit()) {
            value = Cow::Owned(value.chars().filter(char::is_ascii_digit).collect());
        }
        value
    }

    /// Every combination of steps: a ledger keeps a token for each, so that a later map with other steps still finds them.
    pub fn all() -> impl Iterator<Item = Normalize> {
        (0u8..16).map(|b| Normalize { nfc: b & 1 != 0, trim: b & 2 != 0, lower: b & 4 != 0, digits: b & 8 != 0 })
    }
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = [(self.nfc, "nfc"), (self.trim, "trim"), (self.lower, "lower"), (self.digits, "digits")];
        let names: Vec<&str> = steps.iter().filter(|(on, _)| *on).map(|(_, n)| *n).collect();
        f.write_str(if names.is_empty() { "raw" } else { "" })?;
        f.write_str(&names.join("+"))
    }
}

impl Normalize {
    /// The steps as bits, for the ledger: 1 nfc, 2 trim, 4 lower, 8 digits.
    pub fn bits(self) -> u8 {
        u8::from(self.nfc) | u8::from(self.trim) << 1 | u8::from(self.lower) << 2 | u8::from(self.digits) << 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_short_way_for_ascii_leads_to_the_same(value in "[ -~\t]{0,12}|.{0,8}") {
            for steps in Normalize::all() {
                let mut long: String = if steps.nfc { value.nfc().collect() } else { value.clone() };
                long = if steps.trim { long.trim().to_string() } else { long };
                long = if steps.lower { long.to_lowercase() } else { long };
                long = if steps.digits { long.chars().filter(char::is_ascii_digit).collect() } else { long };
                prop_assert_eq!(steps.apply(Cow::Borrowed(&value)), long);
            }
        }
    }
}
