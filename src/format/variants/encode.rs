//! The ways in which a value can stand in bytes. Each function makes the bytes that a search looks for.

use base64_alphabets::{STANDARD, URL_SAFE};

mod base64_alphabets {
    pub(super) const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    pub(super) const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
}

/// UTF-16; `big`: most significant byte first.
pub(super) fn utf16(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
}

/// Inside a JSON string. `slash`: `\/`; `ascii`: everything else as \u; `html`: also `<>&'`.
pub(super) fn json(text: &str, slash: bool, ascii: bool, html: bool) -> Vec<u8> {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '/' if slash => out.push_str("\\/"),
            c if u32::from(c) < 0x20 || (ascii && !c.is_ascii()) || (html && "<>&'".contains(c)) => {
                let mut units = [0u16; 2];
                c.encode_utf16(&mut units).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}")));
            }
            c => out.push(c),
        }
    }
    out.into_bytes()
}

/// Inside an SQL literal: quotes doubled, or with backslashes (MySQL).
pub(super) fn sql(text: &str, backslash: bool) -> Vec<u8> {
    match backslash {
        false => text.replace('\'', "''").into_bytes(),
        true => text.replace('\\', "\\\\").replace('\'', "\\'").replace('"', "\\\"").into_bytes(),
    }
}

/// Percent-encoding. `keep`: characters left as they are beside letters, digits and `-_.`; a space becomes `space`.
pub(super) fn percent(text: &str, keep: &str, space: &str) -> Vec<u8> {
    let mut out = String::new();
    for b in text.bytes() {
        match char::from(b) {
            ' ' => out.push_str(space),
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) || (b.is_ascii() && keep.contains(c)) => out.push(c),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out.into_bytes()
}

/// Quoted-printable; `word`: the encoded words of mail headers, where a space is `_` and more is quoted.
pub(super) fn quoted_printable(bytes: &[u8], word: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for b in bytes {
        match b {
            b' ' if word => out.push(b'_'),
            b'_' | b'?' | b',' | b'"' | b'(' | b')' | b'<' | b'>' | b'@' if word => out.extend(format!("={b:02X}").into_bytes()),
            b' '..=b'~' if *b != b'=' => out.push(*b),
            _ => out.extend(format!("={b:02X}").into_bytes()),
        }
    }
    out
}

/// The characters of base64 that these bytes alone decide, when they begin `before` bytes (0 to 2) after a group of three.
pub(super) fn base64(bytes: &[u8], before: usize, url: bool) -> Vec<u8> {
    let alphabet = if url { URL_SAFE } else { STANDARD };
    let mut padded = vec![0u8; before];
    padded.extend_from_slice(bytes);
    let bits = padded.len() * 8;
    let first = (before * 8).div_ceil(6);
    (first..bits / 6)
        .map(|i| {
            let at = i * 6;
            let byte = |n: usize| padded.get(n).copied().unwrap_or_default();
            let pair = u16::from_be_bytes([byte(at / 8), byte(at / 8 + 1)]);
            alphabet[usize::from((pair >> (10 - at % 8)) & 63)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_decides_only_what_the_value_decides() {
        // "xAnnx" and the like: the interior of the real encoding.
        assert_eq!(base64(b"Annabel", 0, false), b"QW5uYWJlb");
        assert_eq!(base64(b"Annabel", 1, false), b"FubmFiZW");
        assert_eq!(base64(b"Annabel", 2, false), b"Bbm5hYmVs");
        assert_eq!(base64(b"\xFB\xFF\xFE", 0, false), b"+//+");
        assert_eq!(base64(b"\xFB\xFF\xFE", 0, true), b"-__-");
    }

    #[test]
    fn escapes_are_those_of_the_field() {
        assert_eq!(json("a/é\"\u{1F600}'", true, true, true), br#"a\/\u00e9\"\ud83d\ude00\u0027"#);
        assert_eq!(percent("a b@é", "@", "+"), b"a+b@%C3%A9");
        assert_eq!(quoted_printable("é =".as_bytes(), true), b"=C3=A9_=3D");
        assert_eq!(sql("O'Neil", false), b"O''Neil");
        assert_eq!(sql("O'Neil", true), b"O\\'Neil");
    }
}
