//! From text to a tree. Depth and length are bounded: a map may come from somebody else's hands.

use super::{Comparison, Literal, Node, Period, parse_date};

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 64;
/// Longest expression, in bytes.
const MAX_LENGTH: usize = 8192;
/// Longest period, in years; well beyond what any law asks for, and small enough to compute with.
const MAX_YEARS: i64 = 9999;

#[derive(Debug, Clone, PartialEq)]
enum Lexeme {
    Word(String),
    Quoted(String),
    Text(String),
    Integer(i64),
    Real(f64),
    Date(jiff::Timestamp),
    Period { count: i64, unit: String },
    Symbol(&'static str),
    End,
}

pub(super) fn parse(source: &str) -> Result<Node, String> {
    if source.len() > MAX_LENGTH {
        return Err(format!("longer than {MAX_LENGTH} bytes"));
    }
    let mut parser = Parser { lexemes: lex(source)?, at: 0, depth: 0 };
    let node = parser.condition()?;
    match parser.peek() {
        Lexeme::End => Ok(node),
        _ => Err(parser.wrong("expected `and`, `or` or the end")),
    }
}

fn message(at: usize, what: &str) -> String {
    format!("at character {}: {what}", at + 1)
}

fn lex(source: &str) -> Result<Vec<(usize, Lexeme)>, String> {
    let chars: Vec<char> = source.chars().collect();
    let get = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let mut i = 0;
    while let Some(&c) = chars.get(i) {
        let start = i;
        if c.is_whitespace() {
            i += 1;
            continue;
        }
        if c == '\'' || c == '"' {
            let (text, next) = quoted(&chars, i).ok_or_else(|| message(start, &format!("this text has no closing {c}")))?;
            i = next;
            out.push((start, if c == '"' { Lexeme::Quoted(text) } else { Lexeme::Text(text) }));
        } else if c.is_ascii_digit() || (c == '-' && get(i + 1).is_ascii_digit() && !follows_operand(&out)) {
            let (lexeme, next) = number(&chars, i).map_err(|what| message(start, &what))?;
            i = next;
            out.push((start, lexeme));
        } else if is_name_start(c) {
            while is_name_part(get(i)) || (get(i) == '.' && is_name_part(get(i + 1))) || (get(i) == '[' && get(i + 1) == ']') {
                i += if get(i) == '[' { 2 } else { 1 };
            }
            out.push((start, Lexeme::Word(chars.get(start..i).unwrap_or_default().iter().collect())));
        } else {
            const SYMBOLS: [&str; 13] = ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-"];
            let symbol = SYMBOLS.iter().find(|s| s.chars().enumerate().all(|(k, s)| get(i + k) == s));
            let symbol = symbol.ok_or_else(|| message(start, &format!("unexpected character {c:?}")))?;
            i += symbol.len();
            out.push((start, Lexeme::Symbol(symbol)));
        }
    }
    out.push((chars.len(), Lexeme::End));
    Ok(out)
}

/// Whether a `-` here subtracts rather than makes a number negative.
fn follows_operand(lexemes: &[(usize, Lexeme)]) -> bool {
    match lexemes.last() {
        Some((_, Lexeme::Word(word))) => !is_keyword(word),
        Some((_, Lexeme::Symbol(s))) => *s == ")",
        Some(_) => true,
        None => false,
    }
}

fn is_keyword(word: &str) -> bool {
    ["and", "or", "not", "in", "is"].iter().any(|k| word.eq_ignore_ascii_case(k))
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Text between quotes, doubled quotes standing for one; and the position after it.
fn quoted(chars: &[char], start: usize) -> Option<(String, usize)> {
    let quote = *chars.get(start)?;
    let mut text = String::new();
    let mut i = start + 1;
    loop {
        let c = *chars.get(i)?;
        i += 1;
        if c != quote {
            text.push(c);
        } else if chars.get(i) == Some(&quote) {
            text.push(quote);
            i += 1;
        } else {
            return Some((text, i));
        }
    }
}

/// A number, a date (`2020-01-31`), or a period (`5y`).
fn number(chars: &[char], start: usize) -> Result<(Lexeme, usize), String> {
    let get = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let text = |from: usize, to: usize| chars.get(from..to).unwrap_or_default().iter().collect::<String>();
    let digits = |mut i: usize| {
        while get(i).is_ascii_digit() {
            i += 1;
        }
        i
    };
    let after = digits(start + usize::from(get(start) == '-'));
    if after == start + 4 && get(after) == '-' && digits(after + 1) == after + 3 && get(after + 3) == '-' && digits(after + 4) == after + 6
    {
        let date = parse_date(&text(start, after + 6)).ok_or("not a date in the calendar")?;
        return Ok((Lexeme::Date(date), after + 6));
    }
    if get(after) == '.' && get(after + 1).is_ascii_digit() {
        let end = digits(after + 1);
        let value = text(start, end).parse().map_err(|_| "not a number")?;
        return Ok((Lexeme::Real(value), end));
    }
    let value: i64 = text(start, after).parse().map_err(|_| "this number is too large")?;
    let mut end = after;
    while is_name_part(get(end)) {
        end += 1;
    }
    let lexeme = if end == after { Lexeme::Integer(value) } else { Lexeme::Period { count: value, unit: text(after, end) } };
    Ok((lexeme, end))
}

struct Parser {
    lexemes: Vec<(usize, Lexeme)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Lexeme {
        self.lexemes.get(self.at).map_or(&Lexeme::End, |(_, l)| l)
    }

    fn next(&mut self) -> Lexeme {
        let lexeme = self.peek().clone();
        self.at = (self.at + 1).min(self.lexemes.len().saturating_sub(1));
        lexeme
    }

    fn wrong(&self, what: &str) -> String {
        message(self.lexemes.get(self.at).map_or(0, |(at, _)| *at), what)
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Lexeme::Word(w) if w.eq_ignore_ascii_case(word));
        if found {
            self.next();
        }
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Lexeme::Symbol(s) if *s == symbol);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.wrong(&format!("expected {symbol}"))) }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Result<T, String>) -> Result<T, String> {
        if self.depth >= MAX_DEPTH {
            return Err(self.wrong("nested too deeply"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn condition(&mut self) -> Result<Node, String> {
        self.chain("or", Parser::conjunction, Node::Or)
    }

    fn conjunction(&mut self) -> Result<Node, String> {
        self.chain("and", Parser::negation, Node::And)
    }

    fn chain(&mut self, word: &str, part: fn(&mut Parser) -> Result<Node, String>, join: fn(Vec<Node>) -> Node) -> Result<Node, String> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.word(word) {
            parts.push(part(self)?);
        }
        Ok(match parts.pop() {
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                join(parts)
            }
            None => join(parts),
        })
    }

    fn negation(&mut self) -> Result<Node, String> {
        if self.word("not") {
            return self.deeper(|p| Ok(Node::Not(Box::new(p.negation()?))));
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Node, String> {
        let left = self.sum()?;
        let comparison = match self.peek() {
            Lexeme::Symbol("=" | "==") => Some(Comparison::Equal),
            Lexeme::Symbol("!=" | "<>") => Some(Comparison::NotEqual),
            Lexeme::Symbol("<") => Some(Comparison::Less),
            Lexeme::Symbol("<=") => Some(Comparison::LessOrEqual),
            Lexeme::Symbol(">") => Some(Comparison::Greater),
            Lexeme::Symbol(">=") => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            self.operand(&left)?;
            self.next();
            if self.word("null") {
                self.at = self.at.saturating_sub(1);
                return Err(self.wrong("nothing equals null; write `is null` or `is not null`"));
            }
            let right = self.sum()?;
            self.operand(&right)?;
            return Ok(Node::Compare(Box::new(left), comparison, Box::new(right)));
        }
        if self.word("is") {
            self.operand(&left)?;
            let negated = self.word("not");
            if !self.word("null") {
                return Err(self.wrong("expected null"));
            }
            return Ok(Node::IsNull(Box::new(left), negated));
        }
        let at = self.at;
        let negated = self.word("not");
        if self.word("in") {
            self.operand(&left)?;
            self.expect("(")?;
            let mut list = vec![self.literal()?.ok_or_else(|| self.wrong("expected a value"))?];
            while self.symbol(",") {
                list.push(self.literal()?.ok_or_else(|| self.wrong("expected a value"))?);
            }
            self.expect(")")?;
            return Ok(Node::In(Box::new(left), list, negated));
        }
        self.at = at;
        Ok(left)
    }

    fn operand(&self, node: &Node) -> Result<(), String> {
        if node.is_condition() { Err(self.wrong("a condition cannot be compared")) } else { Ok(()) }
    }

    fn sum(&mut self) -> Result<Node, String> {
        let first = self.primary()?;
        let mut periods = Vec::new();
        loop {
            let sign = match self.peek() {
                Lexeme::Symbol("+") => 1,
                Lexeme::Symbol("-") => -1,
                _ => break,
            };
            self.operand(&first)?;
            self.next();
            periods.push(self.period(sign)?);
        }
        if periods.is_empty() {
            return Ok(first);
        }
        // A date in quotes is a date as soon as something is added to it.
        let first = match first {
            Node::Literal(Literal::Text(text)) => {
                Node::Literal(Literal::Date(parse_date(&text).ok_or_else(|| self.wrong("the text before it is not a date"))?))
            }
            Node::Field(_) | Node::Shift(..) | Node::Literal(Literal::Date(_)) => first,
            _ => return Err(self.wrong("a period can be added to a date only")),
        };
        Ok(Node::Shift(Box::new(first), periods))
    }

    fn period(&mut self, sign: i64) -> Result<Period, String> {
        let Lexeme::Period { count, unit } = self.peek().clone() else {
            return Err(self.wrong("expected a period such as 5y, 6mo, 2w or 30d"));
        };
        let (months, days) = match unit.as_str() {
            "y" => (12, 0),
            "mo" => (1, 0),
            "w" => (0, 7),
            "d" => (0, 1),
            _ => return Err(self.wrong(&format!("unknown unit {unit:?}; the units are y, mo, w and d"))),
        };
        // Bounded by years, so that months and days fit into 32 bits.
        let bound = MAX_YEARS * if months == 0 { 366 / days.max(1) } else { 12 / months };
        if count > bound {
            return Err(self.wrong(&format!("longer than {MAX_YEARS} years")));
        }
        self.next();
        let part = |per_unit: i64| i32::try_from(sign * count * per_unit).map_err(|_| self.wrong("this period is too long"));
        Ok(Period { months: part(months)?, days: part(days)? })
    }

    fn primary(&mut self) -> Result<Node, String> {
        if self.symbol("(") {
            return self.deeper(|p| {
                let node = p.condition()?;
                p.expect(")")?;
                Ok(node)
            });
        }
        if let Some(literal) = self.literal()? {
            return Ok(Node::Literal(literal));
        }
        match self.peek().clone() {
            Lexeme::Quoted(name) => {
                self.next();
                Ok(Node::Field(name))
            }
            Lexeme::Word(name) if !is_keyword(&name) => {
                self.next();
                Ok(Node::Field(name))
            }
            Lexeme::Period { .. } => Err(self.wrong("a period stands after + or - only")),
            _ => Err(self.wrong("expected a field or a value")),
        }
    }

    fn literal(&mut self) -> Result<Option<Literal>, String> {
        let literal = match self.peek().clone() {
            Lexeme::Text(text) => Literal::Text(text),
            Lexeme::Integer(i) => Literal::Integer(i),
            Lexeme::Real(r) => Literal::Real(r),
            Lexeme::Date(d) => Literal::Date(d),
            Lexeme::Word(w) if w.eq_ignore_ascii_case("true") => Literal::Bool(true),
            Lexeme::Word(w) if w.eq_ignore_ascii_case("false") => Literal::Bool(false),
            Lexeme::Word(w) if w.eq_ignore_ascii_case("null") => Literal::Null,
            Lexeme::Word(w) if w.eq_ignore_ascii_case("date") => {
                // `date '2020-01-31'`; a bare `date` is a field like any other.
                let Some((_, Lexeme::Text(text))) = self.lexemes.get(self.at + 1).cloned() else { return Ok(None) };
                self.next();
                Literal::Date(parse_date(&text).ok_or_else(|| self.wrong("not a date in the calendar"))?)
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(literal))
    }
}
