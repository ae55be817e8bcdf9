#!/usr/bin/env python3
"""Makes the invented parts of the quickstart's data: web events, a newsletter list, support tickets, uploads, and nine nights of changes.

    python3 testdata/generated/make.py

Everything here is generated, seeded, about the (fictitious) customers of ../chinook/chinook.db, and the same on every machine.
What it writes: events.ndjson, tickets.ndjson, newsletter.csv, uploads/<customer id>/…, and ../quickstart/nights/NN/… with, per
night, SQL for the database, lines to append to the files, and new uploads.
"""

import json
import random
import shutil
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHINOOK = HERE.parent / "chinook" / "chinook.db"
NIGHTS = HERE.parent / "quickstart" / "nights"
FIRST_NIGHT = datetime(2026, 10, 1, 2, 0, 0)
PAGES = ["/", "/albums", "/artists", "/genres/rock", "/genres/jazz", "/playlists", "/account", "/account/invoices", "/cart", "/checkout"]
EVENTS = ["view"] * 6 + ["login", "login", "search", "add_to_cart", "checkout"]
SOURCES = ["checkout", "footer form", "concert booth", "friend"]
COLOURS = ["#7b4fa3", "#2f7f79", "#c2572d", "#35629c", "#8a8f1d", "#a33a5b"]
PROBLEMS = [
    "The download of track {track} stopped half way.",
    "I was charged twice for invoice {invoice}.",
    "Please send me a copy of invoice {invoice}.",
    "Track {track} skips after a minute.",
    "How do I change the address on my account?",
]
ANSWERS = ["Sent a fresh link.", "Refunded the second charge.", "Copy sent by mail.", "Replaced the file.", "Explained the account page."]
UPLOADERS = [1, 2, 5, 17, 23, 42]


def customers():
    db = sqlite3.connect(f"file:{CHINOOK}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    rows = [dict(r) for r in db.execute("SELECT * FROM Customer ORDER BY CustomerId")]
    top = {t: db.execute(f"SELECT max({t}Id) FROM {t}").fetchone()[0] for t in ("Invoice", "InvoiceLine", "Track", "Customer")}
    db.close()
    return rows, top


def stamp(when):
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def event(rng, who, when):
    return {
        "ts": stamp(when),
        "event": rng.choice(EVENTS),
        "user": {"id": who["CustomerId"], "email": who["Email"]},
        "ip": f"198.51.100.{rng.randint(1, 254)}",  # RFC 5737: documentation
        "page": rng.choice(PAGES),
        "session": f"{rng.getrandbits(64):016x}",
    }


def ticket(rng, number, who, when, top, about=None):
    text = rng.choice(PROBLEMS).format(track=rng.randint(1, top["Track"]), invoice=rng.randint(1, top["Invoice"]))
    note = rng.choice(ANSWERS)
    if about is not None:
        # A record of one person that names another one: the case that record-wise deletion misses.
        text = f"A friend gave me this album as a present, please confirm it to {about['Email']} too."
        note = f"Confirmed to {about['Email']}."
    name = f"{who['FirstName']} {who['LastName']}"
    return {
        "ticket": number,
        "opened": stamp(when),
        "customer": {"id": who["CustomerId"], "email": who["Email"], "name": name},
        "text": f"Hello, this is {name}. {text}" if rng.random() < 0.6 else text,
        "note": note,
    }


def ndjson(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows), encoding="utf-8", newline="")


def csv_line(who, when, source):
    # No name or address of Chinook's customers holds a comma or a quote.
    return f"{who['Email']},{who['FirstName']} {who['LastName']},{when.strftime('%Y-%m-%d')},{source}\n"


def avatar(who):
    initials = who["FirstName"][0] + who["LastName"][0]
    colour = COLOURS[who["CustomerId"] % len(COLOURS)]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96" viewBox="0 0 96 96">\n'
        f"  <title>{who['FirstName']} {who['LastName']}</title>\n"
        f'  <circle cx="48" cy="48" r="48" fill="{colour}"/>\n'
        f'  <text x="48" y="60" font-family="sans-serif" font-size="36" fill="#fff" text-anchor="middle">{initials}</text>\n'
        "</svg>\n"
    )


def letter(who, when, subject, body):
    place = ", ".join(x for x in (who["Address"], who["PostalCode"], who["City"], who["Country"]) if x)
    return (
        f"{who['FirstName']} {who['LastName']}\n{place}\n{who['Email']}\n\n{when.strftime('%Y-%m-%d')}\n\n"
        f"{subject}\n\n{body}\n\nKind regards,\n{who['FirstName']} {who['LastName']}\n"
    )


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def quote(v):
    return "NULL" if v is None else "'" + str(v).replace("'", "''") + "'"


def invoice_sql(rng, number, line, who, when, top):
    """One new invoice with its lines; returns the SQL and the next line number."""
    tracks = rng.sample(range(1, top["Track"] + 1), rng.randint(1, 5))
    total = f"{len(tracks) * 99 / 100:.2f}"
    address = ", ".join(quote(who[c]) for c in ("Address", "City", "State", "Country", "PostalCode"))
    out = [f"INSERT INTO Invoice VALUES ({number}, {who['CustomerId']}, '{when.strftime('%Y-%m-%d')} 00:00:00', {address}, {total});"]
    for track in tracks:
        out.append(f"INSERT INTO InvoiceLine VALUES ({line}, {number}, {track}, 0.99, 1);")
        line += 1
    return out, line


def base(people, top):
    rng = random.Random(20261001)
    start = FIRST_NIGHT - timedelta(days=60)
    ndjson(HERE / "events.ndjson", [event(rng, rng.choice(people), start + timedelta(minutes=105 * i)) for i in range(800)])
    tickets = [ticket(rng, i + 1, rng.choice(people), start + timedelta(hours=20 * i), top) for i in range(70)]
    tickets[33] = ticket(rng, 34, people[1], start + timedelta(hours=20 * 33), top, about=people[0])
    ndjson(HERE / "tickets.ndjson", tickets)
    subscribers = [people[0]] + rng.sample(people[1:], 39)
    rng.shuffle(subscribers)
    lines = [csv_line(p, start - timedelta(days=rng.randint(0, 900)), rng.choice(SOURCES)) for p in subscribers]
    write(HERE / "newsletter.csv", "email,name,subscribed,source\n" + "".join(lines))
    shutil.rmtree(HERE / "uploads", ignore_errors=True)
    for p in people:
        if p["CustomerId"] in UPLOADERS:
            folder = HERE / "uploads" / str(p["CustomerId"])
            write(folder / "avatar.svg", avatar(p))
            if rng.random() < 0.6 or p["CustomerId"] == 1:
                body = "My last order arrived damaged. I should like to have it replaced."
                write(folder / "letter.txt", letter(p, start + timedelta(days=rng.randint(0, 50)), "Complaint", body))


def nights(people, top):
    shutil.rmtree(NIGHTS, ignore_errors=True)
    invoice, line, number, newcomer = top["Invoice"] + 1, top["InvoiceLine"] + 1, 71, top["Customer"] + 1
    for night in range(2, 11):
        rng = random.Random(20261000 + night)
        day = FIRST_NIGHT + timedelta(days=night - 1, hours=-12)
        folder = NIGHTS / f"{night:02}"
        sql = [f"-- What happened in the shop before night {night}. Generated by testdata/generated/make.py.", "BEGIN;"]
        buyers = rng.sample(people, rng.randint(2, 4))
        if night in (4, 8):
            buyers[0] = people[0]  # the person whom the quickstart erases
        for who in buyers:
            out, line = invoice_sql(rng, invoice, line, who, day, top)
            invoice += 1
            sql += out
        mover = rng.choice(people[1:])
        sql.append(f"UPDATE Customer SET Phone = '+00 555 01{rng.randint(0, 99):02}' WHERE CustomerId = {mover['CustomerId']};")
        if night in (3, 6, 9):
            sql.append(
                f"INSERT INTO Customer (CustomerId, FirstName, LastName, City, Country, Email, SupportRepId) "
                f"VALUES ({newcomer}, 'Newcomer', 'Number {newcomer}', 'Springfield', 'USA', 'newcomer{newcomer}@example.org', 3);"
            )
            newcomer += 1
        write(folder / "changes.sql", "\n".join(sql + ["COMMIT;"]) + "\n")
        visitors = [rng.choice(people) for _ in range(12)] + ([people[0]] if night % 3 == 0 else [])
        ndjson(folder / "events.ndjson", [event(rng, who, day + timedelta(minutes=31 * i)) for i, who in enumerate(visitors)])
        ndjson(folder / "tickets.ndjson", [ticket(rng, number, rng.choice(people), day + timedelta(hours=3), top)])
        number += 1
        if night % 2:
            write(folder / "newsletter.csv", csv_line(rng.choice(people[1:]), day, rng.choice(SOURCES)))
        if night == 7:
            body = "Thank you for the replacement. Please find my new bank details by separate mail."
            write(folder / "uploads" / "1" / "second-letter.txt", letter(people[0], day, "Your replacement", body))
        if night == 5:
            write(folder / "uploads" / "8" / "avatar.svg", avatar(people[7]))


def main():
    people, top = customers()
    base(people, top)
    nights(people, top)
    files = sorted(p for root in (HERE, NIGHTS) for p in root.rglob("*") if p.is_file())
    print(f"{len(files)} files, {sum(p.stat().st_size for p in files)} bytes")


if __name__ == "__main__":
    main()
