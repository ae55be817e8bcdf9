//! A JSON parser that keeps what others throw away: where in the bytes each value stands, and every one of duplicate keys. It
//! builds nothing; it walks a line once and reports the spans that were asked for. Strict grammar (RFC 8259), depth bounded.

use super::path::{Paths, Step, print};
use crate::datamap::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

/// Nesting beyond this makes a line malformed; the same bound as serde_json's.
const MAX_DEPTH: usize = 128;

/// Names collected from one piece at most: a file whose keys are data would otherwise name everybody.
const MAX_NAMES: usize = 10_000;

/// Not JSON; nothing more is said, because nothing of the line may appear in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What is done with the values met.
pub(super) trait Sink {
    /// Whether paths of keys must be kept for [`Sink::leaf`].
    const LEAVES: bool;
    /// A value that field number `field` names, and where.
    fn field(&mut self, field: usize, span: Range<usize>);
    /// A scalar that no field names, nor anything around it.
    fn leaf(&mut self, steps: &[Step]);
}

/// Collects spans, in the order of their end.
#[derive(Debug, Default)]
pub(super) struct Spans(pub(super) Vec<(usize, Range<usize>)>);

impl Sink for Spans {
    const LEAVES: bool = false;
    fn field(&mut self, field: usize, span: Range<usize>) {
        self.0.push((field, span));
    }
    fn leaf(&mut self, _: &[Step]) {}
}

/// Collects the names of what no field names.
#[derive(Debug, Default)]
pub(super) struct Leaves(pub(super) BTreeSet<String>);

impl Sink for Leaves {
    const LEAVES: bool = true;
    fn field(&mut self, _: usize, _: Range<usize>) {}
    fn leaf(&mut self, steps: &[Step]) {
        if self.0.len() < MAX_NAMES {
            self.0.insert(print(steps));
        }
    }
}

/// Walks one JSON text, white space around it allowed, and gives it back as text. Spans count from the start of `text`.
pub(super) fn walk<'a, S: Sink>(text: &'a [u8], paths: &Paths, sink: &mut S) -> Result<&'a str, Malformed> {
    // Checked once for the whole line.
    let valid = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let mut parser = Parser { text, valid, at: 0, paths, sink, steps: Vec::new() };
    parser.space();
    parser.value(Some(0), false, 0)?;
    parser.space();
    if parser.at == text.len() { Ok(valid) } else { Err(Malformed) }
}

struct Parser<'a, S> {
    text: &'a [u8],
    /// The same.
    valid: &'a str,
    at: usize,
    paths: &'a Paths,
    sink: &'a mut S,
    steps: Vec<Step>,
}

impl<S: Sink> Parser<'_, S> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, b: u8) -> Result<(), Malformed> {
        if self.peek() == Some(b) {
            self.at += 1;
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// `node`: where in the tree of wanted paths this value is. `covered`: a field names something around it.
    fn value(&mut self, node: Option<usize>, covered: bool, depth: usize) -> Result<(), Malformed> {
        let start = self.at;
        let fields = node.map(|n| self.paths.fields(n)).unwrap_or_default();
        let covered = covered || !fields.is_empty();
        match self.peek().ok_or(Malformed)? {
            b'{' if depth < MAX_DEPTH => self.object(node, covered, depth)?,
            b'[' if depth < MAX_DEPTH => self.array(node, covered, depth)?,
            other => {
                match other {
                    b'"' => self.string().map(drop)?,
                    b't' => self.word(b"true")?,
                    b'f' => self.word(b"false")?,
                    b'n' => self.word(b"null")?,
                    b'-' | b'0'..=b'9' => self.number()?,
                    _ => return Err(Malformed),
                }
                if S::LEAVES && !covered {
                    self.sink.leaf(&self.steps);
                }
            }
        }
        for field in fields {
            self.sink.field(*field, start..self.at);
        }
        Ok(())
    }

    fn object(&mut self, node: Option<usize>, covered: bool, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let (span, escaped) = self.string()?;
            let mut child = None;
            let wanted = node.filter(|n| self.paths.has_keys(*n));
            if wanted.is_some() || S::LEAVES {
                let key = unescape(self.valid.get(span).unwrap_or_default(), escaped);
                child = wanted.and_then(|n| self.paths.key(n, &key));
                if S::LEAVES {
                    self.steps.push(Step::Key(key.into_owned()));
                }
            }
            self.space();
            self.expect(b':')?;
            self.space();
            self.value(child, covered, depth + 1)?;
            if S::LEAVES {
                self.steps.pop();
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    fn array(&mut self, node: Option<usize>, covered: bool, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let child = node.and_then(|n| self.paths.each(n));
        if S::LEAVES {
            self.steps.push(Step::Each);
        }
        loop {
            self.space();
            self.value(child, covered, depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        if S::LEAVES {
            self.steps.pop();
        }
        self.expect(b']')
    }

    /// The span between the quotes, and whether there is an escape in it.
    fn string(&mut self) -> Result<(Range<usize>, bool), Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            // Strings are mostly short, so a plain loop beats a search that must be set up.
            let rest = self.text.get(self.at..).unwrap_or_default();
            let n = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).ok_or(Malformed)?;
            self.at += n + 1;
            match rest.get(n) {
                Some(b'"') => return Ok((start..self.at - 1, escaped)),
                Some(b'\\') => {}
                _ => return Err(Malformed),
            }
            escaped = true;
            match self.peek() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                Some(b'u') => {
                    let digits = self.text.get(self.at + 1..self.at + 5).ok_or(Malformed)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(Malformed);
                    }
                    self.at += 5;
                }
                _ => return Err(Malformed),
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if self.text.get(self.at..).is_some_and(|t| t.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Malformed) }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

/// The text of a string's inside, which is of the grammar. Escapes of lone surrogates become U+FFFD.
fn unescape(plain: &str, escaped: bool) -> Cow<'_, str> {
    if !escaped {
        return Cow::Borrowed(plain);
    }
    let mut out = String::with_capacity(plain.len());
    let mut chars = plain.chars();
    let mut units: Vec<u16> = Vec::new();
    while let Some(c) = chars.next() {
        let escape = if c == '\\' { chars.next() } else { None };
        if escape == Some('u') {
            let code = (0..4).fold(0u16, |v, _| (v << 4) | chars.next().and_then(|c| c.to_digit(16)).unwrap_or_default() as u16);
            units.push(code);
            continue;
        }
        flush(&mut units, &mut out);
        out.push(match escape {
            None => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(other) => other,
        });
    }
    flush(&mut units, &mut out);
    Cow::Owned(out)
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    out.extend(char::decode_utf16(units.drain(..)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
}

/// The value of a span that [`walk`] reported. Objects and arrays are the text they are written as; whole numbers beyond 64 bits and
/// numbers beyond a double are their literal.
pub(super) fn value(json: &str) -> Value<'_> {
    if let Some(inside) = json.strip_prefix('"').and_then(|j| j.strip_suffix('"')) {
        return Value::Text(unescape(inside, inside.contains('\\')));
    }
    match json {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ if json.starts_with(['{', '[']) => Value::Text(Cow::Borrowed(json)),
        _ => match (json.parse::<i64>(), json.parse::<f64>()) {
            (Ok(i), _) => Value::Integer(i),
            (_, Ok(r)) if json.contains(['.', 'e', 'E']) && r.is_finite() => Value::Real(r),
            _ => Value::Text(Cow::Borrowed(json)),
        },
    }
}
