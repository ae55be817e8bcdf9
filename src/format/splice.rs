//! Copy-on-first-change: the new bytes of a piece, made from the old ones by leaving spans out and putting others in.
//! Nothing is copied as long as nothing changes, which is what most scans are.

use std::ops::Range;

/// Builds the new bytes. Changes come in order of their place.
pub(super) struct Splice<'a> {
    old: &'a [u8],
    new: Option<Vec<u8>>,
    copied: usize,
}

impl<'a> Splice<'a> {
    pub(super) fn new(old: &'a [u8]) -> Splice<'a> {
        Splice { old, new: None, copied: 0 }
    }

    /// Puts `with` in the place of `span`. A span that begins before the end of an earlier one is ignored (`false`):
    /// whoever came first, and so began further left, has replaced it already.
    pub(super) fn replace(&mut self, span: Range<usize>, with: &[u8]) -> bool {
        if span.start < self.copied {
            return false;
        }
        let Some(before) = self.old.get(self.copied..span.start) else { return false };
        let new = self.new.get_or_insert_with(|| Vec::with_capacity(self.old.len()));
        new.extend_from_slice(before);
        new.extend_from_slice(with);
        self.copied = span.end.min(self.old.len());
        true
    }

    /// The new bytes, or `None` when nothing changed.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        let mut new = self.new?;
        new.extend_from_slice(self.old.get(self.copied..).unwrap_or_default());
        (new != self.old).then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changed_is_none() {
        assert_eq!(Splice::new(b"abc").finish(), None);
        let mut same = Splice::new(b"abc");
        assert!(same.replace(1..2, b"b"));
        assert_eq!(same.finish(), None);
    }

    #[test]
    fn changes_come_where_they_belong_and_inner_ones_are_ignored() {
        let mut s = Splice::new(b"0123456789");
        assert!(s.replace(0..2, b""));
        assert!(s.replace(4..8, b"x"));
        assert!(!s.replace(5..6, b"y"));
        assert_eq!(s.finish().unwrap(), b"23x89");
    }
}
