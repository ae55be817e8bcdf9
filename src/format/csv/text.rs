//! The encodings that CSV files come in, behind one face: positions count code units, so that one parser serves bytes and UTF-16
//! and every span still leads back to the bytes it came from.

use crate::{Error, Result};
use std::borrow::Cow;

/// How a file's bytes are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Windows1252,
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf-8",
            Encoding::Windows1252 => "windows-1252",
            Encoding::Utf16Le => "utf-16le",
            Encoding::Utf16Be => "utf-16be",
        }
    }

    /// By name; Latin-1 is what the web calls windows-1252.
    pub(super) fn from_name(name: &str) -> Result<Encoding> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "ascii" | "us-ascii" => Encoding::Utf8,
            "windows-1252" | "cp1252" | "iso-8859-1" | "latin-1" | "latin1" => Encoding::Windows1252,
            "utf-16le" | "utf-16-le" => Encoding::Utf16Le,
            "utf-16be" | "utf-16-be" => Encoding::Utf16Be,
            _ => return Err(Error::format("", "its encoding is none of utf-8, windows-1252, utf-16le, utf-16be")),
        })
    }

    /// By the byte order mark; without one by how the bytes look. `whole`: there are no more bytes than these.
    pub(super) fn detect(head: &[u8], whole: bool) -> Encoding {
        for encoding in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
            if head.starts_with(encoding.bom()) {
                return encoding;
            }
        }
        // Text of mostly Latin letters in UTF-16 has a zero in nearly every second byte; no other text has any.
        let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|b| **b == 0).count();
        let (even, odd, half) = (zeros(0), zeros(1), head.len() / 2);
        if half > 0 && odd * 10 > half * 8 && even * 10 < half {
            return Encoding::Utf16Le;
        }
        if half > 0 && even * 10 > half * 8 && odd * 10 < half {
            return Encoding::Utf16Be;
        }
        match std::str::from_utf8(head) {
            Ok(_) => Encoding::Utf8,
            Err(e) if !whole && e.error_len().is_none() => Encoding::Utf8,
            Err(_) => Encoding::Windows1252,
        }
    }

    pub(super) fn bom(self) -> &'static [u8] {
        match self {
            Encoding::Utf8 => b"\xEF\xBB\xBF",
            Encoding::Windows1252 => b"",
            Encoding::Utf16Le => b"\xFF\xFE",
            Encoding::Utf16Be => b"\xFE\xFF",
        }
    }

    /// Text of these bytes. UTF-8 that is none is read as windows-1252, cell by cell: a file of mixed origin must not hide anybody.
    pub(super) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Encoding::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => Cow::Owned(bytes.iter().map(|b| from_1252(*b)).collect()),
            },
            Encoding::Windows1252 if bytes.is_ascii() => String::from_utf8_lossy(bytes),
            Encoding::Windows1252 => Cow::Owned(bytes.iter().map(|b| from_1252(*b)).collect()),
            Encoding::Utf16Le | Encoding::Utf16Be => {
                let units = bytes.chunks_exact(2).map(|pair| self.unit(pair));
                Cow::Owned(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
            }
        }
    }

    fn unit(self, pair: &[u8]) -> u16 {
        match (self, pair) {
            (Encoding::Utf16Be, [a, b]) => u16::from_be_bytes([*a, *b]),
            (_, [a, b]) => u16::from_le_bytes([*a, *b]),
            _ => 0,
        }
    }

    /// Bytes of this text; fails where the encoding has no such character.
    pub(super) fn encode(self, text: &str) -> Result<Vec<u8>> {
        match self {
            Encoding::Utf8 => Ok(text.as_bytes().to_vec()),
            Encoding::Windows1252 => text
                .chars()
                .map(|c| to_1252(c).ok_or_else(|| Error::format("", "a replacement has a character that windows-1252 cannot write")))
                .collect(),
            Encoding::Utf16Le => Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            Encoding::Utf16Be => Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        }
    }
}

/// The characters of 0x80 to 0x9F; the five holes are controls, as on the web.
const C1: [char; 32] = [
    '\u{20AC}', '\u{81}', '\u{201A}', '\u{0192}', '\u{201E}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{02C6}', '\u{2030}', '\u{0160}',
    '\u{2039}', '\u{0152}', '\u{8D}', '\u{017D}', '\u{8F}', '\u{90}', '\u{2018}', '\u{2019}', '\u{201C}', '\u{201D}', '\u{2022}',
    '\u{2013}', '\u{2014}', '\u{02DC}', '\u{2122}', '\u{0161}', '\u{203A}', '\u{0153}', '\u{9D}', '\u{017E}', '\u{0178}',
];

pub(super) fn from_1252(b: u8) -> char {
    match b {
        0x80..=0x9F => C1[usize::from(b - 0x80)],
        _ => char::from(b),
    }
}

fn to_1252(c: char) -> Option<u8> {
    match u8::try_from(u32::from(c)) {
        Ok(b) if !(0x80..=0x9F).contains(&b) => Some(b),
        _ => C1.iter().position(|x| *x == c).map(|i| 0x80 + i as u8),
    }
}

/// Code units of a piece.
pub(super) trait Text: Copy {
    /// Bytes of a unit.
    const WIDTH: usize;
    /// Number of whole units.
    fn len(self) -> usize;
    /// One unit; 0 beyond the end.
    fn unit(self, i: usize) -> u16;
    /// The first place at or after `from` that holds `a`.
    fn find(self, from: usize, a: u8) -> Option<usize>;
    /// The first place at or after `from` that holds one of these.
    fn find3(self, from: usize, a: u8, b: u8, c: u8) -> Option<usize>;
}

/// One byte each: UTF-8 and windows-1252, where all that structures a CSV file is ASCII.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a>(pub(super) &'a [u8]);

impl Text for Narrow<'_> {
    const WIDTH: usize = 1;

    fn len(self) -> usize {
        self.0.len()
    }

    fn unit(self, i: usize) -> u16 {
        self.0.get(i).copied().unwrap_or_default().into()
    }

    fn find(self, from: usize, a: u8) -> Option<usize> {
        memchr::memchr(a, self.0.get(from..)?).map(|i| from + i)
    }

    fn find3(self, from: usize, a: u8, b: u8, c: u8) -> Option<usize> {
        memchr::memchr3(a, b, c, self.0.get(from..)?).map(|i| from + i)
    }
}

/// Two bytes each: UTF-16.
#[derive(Clone, Copy)]
pub(super) struct Wide<'a, const BE: bool>(pub(super) &'a [u8]);

impl<const BE: bool> Wide<'_, BE> {
    fn position(self, from: usize, is: impl Fn(u16) -> bool) -> Option<usize> {
        let units = self.0.get(from * 2..)?.chunks_exact(2);
        units
            .map(|pair| match pair {
                [a, b] if BE => u16::from_be_bytes([*a, *b]),
                [a, b] => u16::from_le_bytes([*a, *b]),
                _ => 0,
            })
            .position(is)
            .map(|i| from + i)
    }
}

impl<const BE: bool> Text for Wide<'_, BE> {
    const WIDTH: usize = 2;

    fn len(self) -> usize {
        self.0.len() / 2
    }

    fn unit(self, i: usize) -> u16 {
        match self.0.get(i * 2..i * 2 + 2) {
            Some([a, b]) if BE => u16::from_be_bytes([*a, *b]),
            Some([a, b]) => u16::from_le_bytes([*a, *b]),
            _ => 0,
        }
    }

    fn find(self, from: usize, a: u8) -> Option<usize> {
        self.position(from, |u| u == u16::from(a))
    }

    fn find3(self, from: usize, a: u8, b: u8, c: u8) -> Option<usize> {
        self.position(from, |u| u == u16::from(a) || u == u16::from(b) || u == u16::from(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_windows_1252_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = Encoding::Windows1252.decode(&all).into_owned();
        assert_eq!(text.chars().count(), 256);
        assert_eq!(Encoding::Windows1252.encode(&text).unwrap(), all);
        assert!(Encoding::Windows1252.encode("\u{3042}").is_err());
    }

    #[test]
    fn utf_16_comes_back_beyond_the_basic_plane() {
        for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
            let bytes = encoding.encode("añ\u{1F600}").unwrap();
            assert_eq!(encoding.decode(&bytes), "añ\u{1F600}");
        }
    }

    #[test]
    fn the_head_tells_the_encoding() {
        let wide = Encoding::Utf16Le.encode("id,name\n1,x\n").unwrap();
        assert_eq!(Encoding::detect(&wide, true), Encoding::Utf16Le);
        assert_eq!(Encoding::detect(b"\xFE\xFF\0a", true), Encoding::Utf16Be);
        assert_eq!(Encoding::detect("é".as_bytes(), true), Encoding::Utf8);
        assert_eq!(Encoding::detect(b"caf\xE9,1\n", true), Encoding::Windows1252);
        // Cut in the middle of a character: still UTF-8.
        assert_eq!(Encoding::detect(b"caf\xC3", false), Encoding::Utf8);
        assert_eq!(Encoding::detect(b"caf\xC3", true), Encoding::Windows1252);
    }
}
