//! Makes the benchmarks' source tree: a small company's live data, invented, the same for the same seed and size on every machine.
//!
//! ```text
//! cargo run --release --example gen_crm -- base  DIR [--mb 1880] [--seed 1] [--identity FILE]
//! cargo run --release --example gen_crm -- night DIR N [--seed 1]
//! ```
//!
//! `base` writes about `--mb` megabytes into DIR: `db/crm.db` (SQLite: customers, orders, messages; a bit more than half),
//! `exports/` (CSV and NDJSON, a fifth), `mail/support.mbox` (a sixth), `mail/people/ID/` (letters of a hundred customers and of the one
//! to erase, a file each), `files/` (many small texts) and `random/` (what cannot be compressed). `night N` (2, 3, …) turns night
//! N - 1 into night N in place: 1 % of the orders change, nine in ten of them among the newest tenth; at 1,880 MB there come 5,000 orders, 200 customers, 1,000 messages and as many lines and mails as belong to that.
//! `--identity` writes the e-mail address and customer id of one person, as an identity file, to erase later. The person is in
//! the database and the exports, has a folder of letters, and is not in the mbox.
//!
//! A night's order of changes, the mix of sizes and the words' frequencies (Zipf) are meant to look like life; nothing else is.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// 2020-01-01 and 2025-01-01, in seconds: the past that `base` makes up. Nights follow it.
const PAST: (u64, u64) = (1_577_836_800, 1_735_689_600);
const DAY: u64 = 86_400;
const STATUS: [&str; 7] = ["new", "paid", "packed", "shipped", "delivered", "returned", "cancelled"];
const DOMAINS: [&str; 6] = ["example.com", "example.org", "mail.example", "post.example", "inbox.example", "corp.example"];
const STREETS: [&str; 8] = ["Street", "Road", "Avenue", "Lane", "Drive", "Way", "Court", "Square"];
const EVENTS: [&str; 5] = ["login", "view", "add_to_cart", "checkout", "ticket"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gen_crm: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut words, mut mb, mut seed, mut identity) = (Vec::new(), 1880u64, 1u64, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--mb" => mb = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "--identity" => identity = Some(PathBuf::from(value()?)),
            _ => words.push(argument),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["base", dir] => Crm::new(Path::new(dir), seed).base(mb.max(1), identity.as_deref()),
        ["night", dir, n] => Crm::new(Path::new(dir), seed).night(n.parse()?),
        _ => Err("usage: gen_crm base DIR [--mb N] [--seed N] [--identity FILE] | gen_crm night DIR N [--seed N]".into()),
    }
}

// --- chance and words --------------------------------------------------------------------------------------------------------------

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to make things up.
struct Rng(u64);

impl Rng {
    fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// In 0..1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Words of syllables with Zipf's frequencies, and names.
struct Words {
    all: Vec<String>,
    /// Cumulated frequencies.
    frequency: Vec<f64>,
    first: Vec<String>,
    last: Vec<String>,
}

impl Words {
    fn new(seed: u64) -> Words {
        const ONSETS: [&str; 20] =
            ["b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "ch", "sh", "pl", "gr"];
        const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "ea", "ou", "ai", "e", "a"];
        const CODAS: [&str; 10] = ["", "", "n", "r", "s", "t", "l", "nd", "ck", "ng"];
        let mut rng = Rng::new(seed, 1);
        let mut seen = std::collections::BTreeSet::new();
        let mut make = |syllables: std::ops::RangeInclusive<u64>| loop {
            let mut word = String::new();
            for _ in 0..rng.between(*syllables.start(), *syllables.end()) {
                for part in [rng.pick(&ONSETS), rng.pick(&VOWELS), rng.pick(&CODAS)] {
                    word.push_str(part);
                }
            }
            if seen.insert(word.clone()) {
                return word;
            }
        };
        let capital = |w: String| w[..1].to_uppercase() + &w[1..];
        // Frequent words are short.
        let all: Vec<String> = (0..30_000u32)
            .map(|i| match i {
                0..300 => make(1..=1),
                300..5000 => make(1..=2),
                _ => make(2..=4),
            })
            .collect();
        let first = (0..1500).map(|_| capital(make(2..=3))).collect();
        let last = (0..5000).map(|_| capital(make(2..=3))).collect();
        let mut sum = 0.0;
        let mut frequency: Vec<f64> = (0..all.len())
            .map(|rank| {
                sum += 1.0 / (rank as f64 + 3.7);
                sum
            })
            .collect();
        frequency.iter_mut().for_each(|f| *f /= sum);
        Words { all, frequency, first, last }
    }

    fn word(&self, rng: &mut Rng) -> &str {
        let at = rng.share();
        let rank = self.frequency.partition_point(|f| *f < at);
        &self.all[rank.min(self.all.len() - 1)]
    }

    /// Appends `n` words as sentences.
    fn text(&self, rng: &mut Rng, n: u64, out: &mut String) {
        let mut left_in_sentence = 0;
        for i in 0..n {
            let word = self.word(rng);
            if left_in_sentence == 0 {
                if i > 0 {
                    out.push_str(". ");
                }
                out.extend(word.chars().next().into_iter().flat_map(char::to_uppercase));
                out.push_str(&word[1..]);
                left_in_sentence = 5 + rng.below(12);
            } else {
                out.push(' ');
                out.push_str(word);
                left_in_sentence -= 1;
            }
        }
        out.push('.');
    }
}

/// Year, month and day of a day after 1970-01-01 (H. Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// `12:34:56`.
fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// `2024-02-29 12:34:56`.
fn timestamp(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / DAY);
    format!("{year:04}-{month:02}-{day:02} {}", clock(seconds))
}

/// `Thu Feb 29 12:34:56 2024` (the line before a mail in an mbox) and `Thu, 29 Feb 2024 12:34:56 +0000` (RFC 5322).
fn mail_dates(seconds: u64) -> (String, String) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (year, month, day) = civil(seconds / DAY);
    let (weekday, month, time) = (WEEKDAYS[(seconds / DAY % 7) as usize], MONTHS[month as usize - 1], clock(seconds));
    (format!("{weekday} {month} {day:02} {time} {year}"), format!("{weekday}, {day:02} {month} {year} {time} +0000"))
}

// --- the company ---------------------------------------------------------------------------------------------------------------------

struct Customer {
    id: u64,
    email: String,
    first: String,
    last: String,
    phone: String,
    address: String,
}

struct Crm {
    dir: PathBuf,
    seed: u64,
    words: Words,
}

impl Crm {
    fn new(dir: &Path, seed: u64) -> Crm {
        Crm { dir: dir.to_path_buf(), seed, words: Words::new(seed) }
    }

    /// Everything about a customer is a function of the seed and the id.
    fn customer(&self, id: u64) -> Customer {
        let mut rng = Rng::new(self.seed, 1_000_000_007 + id);
        let (first, last) = (rng.pick(&self.words.first).clone(), rng.pick(&self.words.last).clone());
        let email = format!("{}.{}{id}@{}", first.to_lowercase(), last.to_lowercase(), rng.pick(&DOMAINS));
        let phone = format!("+{} {} {}", rng.between(1, 98), rng.between(100, 999), rng.between(1_000_000, 9_999_999));
        let town = rng.pick(&self.words.last).clone();
        let address = format!(
            "{} {} {}, {town}ville {}",
            rng.between(1, 999),
            rng.pick(&self.words.last),
            rng.pick(&STREETS),
            rng.between(10_000, 99_999)
        );
        Customer { id, email, first, last, phone, address }
    }

    fn appender(&self, path: &str) -> Result<BufWriter<File>> {
        let path = self.dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(BufWriter::with_capacity(1 << 20, File::options().append(true).create(true).open(path)?))
    }

    fn message(&self, rng: &mut Rng, of: &Customer) -> String {
        let kind = rng.share();
        let mut body = String::new();
        if kind < 0.2 {
            body = format!("Hello, this is {} {}. ", of.first, of.last);
        }
        let words = 60 + rng.below(40);
        self.words.text(rng, words, &mut body);
        if (0.2..0.35).contains(&kind) {
            body += &format!(" You can reach me at {}. Regards, {} {}", of.email, of.first, of.last);
        }
        body
    }

    fn event(&self, rng: &mut Rng, of: &Customer, when: u64, out: &mut impl Write) -> Result<()> {
        let (kind, page) = (rng.pick(&EVENTS), self.words.word(rng));
        let ip = format!("10.{}.{}.{}", rng.below(256), rng.below(256), rng.between(1, 254));
        let (session, more) = (rng.next(), rng.next());
        writeln!(
            out,
            r#"{{"ts":"{}","event":"{kind}","user":{{"id":{},"email":"{}","name":"{} {}"}},"ip":"{ip}","session":"{session:016x}{more:016x}","path":"/{page}"}}"#,
            timestamp(when),
            of.id,
            of.email,
            of.first,
            of.last
        )?;
        Ok(())
    }

    /// A mail in an mbox.
    fn mail(&self, rng: &mut Rng, of: &Customer, when: u64, out: &mut impl Write) -> Result<()> {
        writeln!(out, "From {} {}", of.email, mail_dates(when).0)?;
        self.letter(rng, of, when, out)
    }

    /// Letters of a customer, in a folder named by the customer's id.
    fn folder(&self, rng: &mut Rng, of: &Customer, letters: u64, when: u64) -> Result<()> {
        for n in 1..=letters {
            let mut out = self.appender(&format!("mail/people/{}/{n}.eml", of.id))?;
            self.letter(rng, of, when + n * DAY, &mut out)?;
            out.flush()?;
        }
        Ok(())
    }

    fn letter(&self, rng: &mut Rng, of: &Customer, when: u64, out: &mut impl Write) -> Result<()> {
        let mut body = String::new();
        for _ in 0..rng.between(1, 4) {
            let words = 40 + rng.below(90);
            self.words.text(rng, words, &mut body);
            body.push_str("\n\n");
        }
        let (date, id) = (mail_dates(when).1, rng.next());
        let (email, name) = (&of.email, format!("{} {}", of.first, of.last));
        write!(
            out,
            "Return-Path: <{email}>\nMessage-ID: <{id:016x}@mail.example>\nDate: {date}\nFrom: {name} <{email}>\n\
             To: support@shop.example\nSubject: {} {}\nContent-Type: text/plain; charset=utf-8\n\nDear support,\n\n{body}Regards,\n{name}\n{}\n\n",
            self.words.word(rng),
            self.words.word(rng),
            of.phone
        )?;
        Ok(())
    }

    fn order_line(&self, id: u64, of: &Customer, order: &Order, out: &mut impl Write) -> Result<()> {
        let (first, last) = (&of.first, &of.last);
        writeln!(out, "{id},{},{},{first} {last},{},{},{}", order.placed, of.email, order.cents, order.sku, order.quantity)?;
        Ok(())
    }

    fn customer_line(&self, c: &Customer, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{},{},{},{},{},\"{}\"", c.id, c.email, c.first, c.last, c.phone, c.address)?;
        Ok(())
    }

    fn order(&self, rng: &mut Rng, customer: u64, when: u64, status: &'static str) -> Order {
        Order {
            customer,
            placed: timestamp(when),
            status,
            cents: rng.between(199, 99_999),
            sku: format!("{}-{}", self.words.word(rng), self.words.word(rng)),
            quantity: rng.between(1, 9),
        }
    }

    // --- the first night -------------------------------------------------------------------------------------------------------------

    fn base(&self, mb: u64, identity: Option<&Path>) -> Result<()> {
        if self.dir.exists() && fs::read_dir(&self.dir)?.next().is_some() {
            return Err(format!("{} is not empty", self.dir.display()).into());
        }
        fs::create_dir_all(self.dir.join("db"))?;
        let (customers, orders, messages) = (mb * 532, mb * 2128, mb * 532);
        // Somebody in the middle, whom the exports and the database know well, and the mail does not.
        let subject = customers / 2 + 1;
        let somebody = |rng: &mut Rng| rng.between(1, customers);
        let somebody_else = |rng: &mut Rng| Some(rng.between(1, customers)).filter(|id| *id != subject).unwrap_or(1);
        let span = PAST.1 - PAST.0;
        let everyone: Vec<Customer> = (1..=customers).map(|id| self.customer(id)).collect();
        let known = |id: u64| &everyone[id as usize - 1];
        let mut rng = Rng::new(self.seed, 2);

        let mut db = rusqlite::Connection::open(self.dir.join("db/crm.db"))?;
        db.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;
             CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT, first_name TEXT, last_name TEXT, phone TEXT, address TEXT, created TEXT);
             CREATE TABLE orders(id INTEGER PRIMARY KEY, customer_id INTEGER, placed TEXT, status TEXT, amount_cents INTEGER, sku TEXT, qty INTEGER);
             CREATE TABLE messages(id INTEGER PRIMARY KEY, customer_id INTEGER, sent TEXT, body TEXT);",
        )?;
        let load = db.transaction()?;
        {
            let mut insert = Inserts::prepare(&load)?;
            let mut csv = self.appender("exports/customers.csv")?;
            writeln!(csv, "id,email,first_name,last_name,phone,address")?;
            for c in &everyone {
                insert.customer(c, PAST.0 + span * c.id / customers)?;
                self.customer_line(c, &mut csv)?;
            }
            csv.flush()?;
            let mut csv = self.appender("exports/orders.csv")?;
            writeln!(csv, "order_id,placed,email,name,amount_cents,sku,qty")?;
            for id in 1..=orders {
                let (whom, status) = (if id % (orders / 4 + 1) == 7 { subject } else { somebody(&mut rng) }, rng.pick(&STATUS));
                let order = self.order(&mut rng, whom, PAST.0 + span * id / orders, status);
                insert.order(id, &order)?;
                if id > orders - orders * 35 / 100 {
                    self.order_line(id, known(whom), &order, &mut csv)?;
                }
            }
            csv.flush()?;
            for id in 1..=messages {
                let whom = if id % (messages / 3 + 1) == 5 { subject } else { somebody(&mut rng) };
                let body = self.message(&mut rng, known(whom));
                insert.message(id, whom, PAST.0 + span * id / messages, &body)?;
            }
        }
        load.commit()?;
        db.execute_batch(
            "CREATE INDEX customers_email ON customers(email); CREATE INDEX orders_customer ON orders(customer_id);
             CREATE INDEX messages_customer ON messages(customer_id);",
        )?;
        drop(db);

        let mut out = self.appender("exports/events.ndjson")?;
        let events = mb * 430;
        for i in 0..events {
            let whom = if i % (events / 5 + 1) == 11 { subject } else { somebody(&mut rng) };
            self.event(&mut rng, known(whom), PAST.0 + span * i / events, &mut out)?;
        }
        out.flush()?;
        let mut out = Counted { inner: self.appender("mail/support.mbox")?, bytes: 0 };
        while out.bytes < mb * 160_000 {
            let whom = somebody_else(&mut rng);
            let when = PAST.0 + span * out.bytes / (mb * 160_000);
            self.mail(&mut rng, known(whom), when, &mut out)?;
        }
        out.flush()?;
        for c in everyone.iter().step_by((customers / 100).max(1) as usize) {
            self.folder(&mut rng, c, c.id % 3 + 1, PAST.0)?;
        }
        if !(subject - 1).is_multiple_of((customers / 100).max(1)) {
            self.folder(&mut rng, known(subject), 3, PAST.0)?;
        }
        self.small_files(mb)?;
        for i in 0..10 {
            let mut out = self.appender(&format!("random/blob{i}.bin"))?;
            for _ in 0..mb * 5_000 / 8 {
                out.write_all(&rng.next().to_le_bytes())?;
            }
            out.flush()?;
        }
        if let Some(path) = identity {
            fs::write(path, format!("email: {}\ncustomer_id: \"{subject}\"\n", known(subject).email))?;
        }
        Ok(())
    }

    /// Texts of 100 bytes to 60 KB, mostly small, in folders of a hundred.
    fn small_files(&self, mb: u64) -> Result<()> {
        let mut rng = Rng::new(self.seed, 3);
        for i in 0..mb * 20_000 / 1880 {
            let words = 20 + (rng.share().powi(6) * 7_000.0) as u64;
            let mut text = String::new();
            self.words.text(&mut rng, words, &mut text);
            let folder = self.dir.join(format!("files/{:03}", i / 100));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!("note-{i:05}.txt")), text)?;
        }
        Ok(())
    }

    // --- the nights after ------------------------------------------------------------------------------------------------------------

    fn night(&self, n: u64) -> Result<()> {
        if n < 2 {
            return Err("the first night is `base`".into());
        }
        let mut rng = Rng::new(self.seed, 1000 + n);
        let day = PAST.1 + (n - 2) * DAY;
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let mut db = rusqlite::Connection::open_with_flags(self.dir.join("db/crm.db"), flags)?;
        // Like an application that never asked for it: deleted and overwritten rows leave their bytes behind.
        db.execute_batch("PRAGMA secure_delete=OFF; PRAGMA synchronous=OFF;")?;
        let top = |db: &rusqlite::Connection, table: &str| -> Result<u64> {
            Ok(u64::try_from(db.query_row(&format!("SELECT max(id) FROM {table}"), [], |r| r.get::<_, i64>(0))?)?)
        };
        let (customers, orders, messages) = (top(&db, "customers")?, top(&db, "orders")?, top(&db, "messages")?);
        let newcomers: Vec<Customer> = (1..=(customers / 5000).max(1)).map(|i| self.customer(customers + i)).collect();

        let change = db.transaction()?;
        {
            let mut changed = std::collections::BTreeSet::new();
            while (changed.len() as u64) < orders / 100 {
                let newest = orders - rng.below(orders / 10 + 1);
                let anywhere = rng.between(1, orders);
                changed.insert(if rng.share() < 0.9 { newest } else { anywhere });
            }
            let mut update = change.prepare("UPDATE orders SET status = ?, amount_cents = ? WHERE id = ?")?;
            for id in changed {
                update.execute((rng.pick(&STATUS[1..]), rng.between(199, 99_999) as i64, id as i64))?;
            }
            let mut insert = Inserts::prepare(&change)?;
            let mut csv = self.appender("exports/customers.csv")?;
            for c in &newcomers {
                insert.customer(c, day)?;
                self.customer_line(c, &mut csv)?;
            }
            csv.flush()?;
            let mut csv = self.appender("exports/orders.csv")?;
            for i in 1..=(orders / 800).max(1) {
                let whom = rng.between(1, customers + newcomers.len() as u64);
                let order = self.order(&mut rng, whom, day + i * 17 % DAY, "new");
                insert.order(orders + i, &order)?;
                self.order_line(orders + i, &self.customer(whom), &order, &mut csv)?;
            }
            csv.flush()?;
            for i in 1..=(messages / 1000).max(1) {
                let whom = self.customer(rng.between(1, customers));
                let body = self.message(&mut rng, &whom);
                insert.message(messages + i, whom.id, day + i * 80 % DAY, &body)?;
            }
        }
        change.commit()?;
        drop(db);

        let mut out = self.appender("exports/events.ndjson")?;
        for i in 0..(orders / 800).max(1) {
            let whom = self.customer(rng.between(1, customers));
            self.event(&mut rng, &whom, day + i * 17 % DAY, &mut out)?;
        }
        out.flush()?;
        let mut out = self.appender("mail/support.mbox")?;
        for i in 0..(customers / 5000).max(1) {
            let whom = &newcomers[i as usize % newcomers.len()];
            self.mail(&mut rng, whom, day + i * 400 % DAY, &mut out)?;
        }
        out.flush()?;
        self.folder(&mut rng, &newcomers[0], 1, day)?;
        for i in 0..5 {
            let mut text = String::new();
            self.words.text(&mut rng, 500, &mut text);
            fs::create_dir_all(self.dir.join("files/new"))?;
            fs::write(self.dir.join(format!("files/new/night-{n}-{i}.txt")), text)?;
        }
        Ok(())
    }
}

struct Order {
    customer: u64,
    placed: String,
    status: &'static str,
    cents: u64,
    sku: String,
    quantity: u64,
}

/// The three INSERT statements.
struct Inserts<'c> {
    customer: rusqlite::Statement<'c>,
    order: rusqlite::Statement<'c>,
    message: rusqlite::Statement<'c>,
}

impl<'c> Inserts<'c> {
    fn prepare(db: &'c rusqlite::Connection) -> Result<Inserts<'c>> {
        Ok(Inserts {
            customer: db.prepare("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?)")?,
            order: db.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)")?,
            message: db.prepare("INSERT INTO messages VALUES (?, ?, ?, ?)")?,
        })
    }

    fn customer(&mut self, c: &Customer, when: u64) -> Result<()> {
        self.customer.execute((c.id as i64, &c.email, &c.first, &c.last, &c.phone, &c.address, timestamp(when)))?;
        Ok(())
    }

    fn order(&mut self, id: u64, o: &Order) -> Result<()> {
        self.order.execute((id as i64, o.customer as i64, &o.placed, o.status, o.cents as i64, &o.sku, o.quantity as i64))?;
        Ok(())
    }

    fn message(&mut self, id: u64, customer: u64, when: u64, body: &str) -> Result<()> {
        self.message.execute((id as i64, customer as i64, timestamp(when), body))?;
        Ok(())
    }
}

/// Counts what passes.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
