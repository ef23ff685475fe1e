"""The sample host's datasets: CSV events, in the three shapes that the tasks fetch.

    python datasets.py ROOT [ACCOUNT ...]

Nothing here depends on the clock, the machine or the order of a directory: two
generations are the same byte for byte. (The compressed bytes are those of the zlib that
Python runs on; one built on another deflate, such as zlib-ng, packs the same CSVs
differently. The sidecars are always right for their archives.)
"""

import csv
import gzip
import hashlib
import io
import os
import random
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

ACCOUNTS: Mapping[str, int] = MappingProxyType({"dev": 300, "prod": 60_000})
"""Each account, and the rows of one CSV in it: about 21 kB for dev and 4.5 MB for prod."""

HEADER = "date,id,name,country,amount,note\r\n"
STAMP = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
"""The modification time of every file and member, in seconds."""
LEVEL = 4
"""Deflate's level: half the time of the usual 6, for files a few percent larger."""

NAMES = (
    "Ada Lovelace",
    "Zoë Brontë",
    "Nguyễn Văn An",
    "山田 太郎",
    "O'Brien, Máire",
    'Juan "Chico" Pérez',
    "Łukasz Żółć",
    "Ωmega Παπαδοπούλου",
    "Li Wei",
    "Fatima al-Fihri",
    "",
)
COUNTRIES = ("DE", "FR", "JP", "VN", "PL", "GR", "IE", "BR", "US", "MA", "Côte d'Ivoire", "")
WORDS = (  # noqa: SIM905 -- as a list it would fill half a screen
    "crate pallet harbour lighter tide quay manifest seal customs delayed reloaded "
    "inspected signed forwarded returned weighed damp fragile urgent café naïve 船 Straße"
).split()
UGLY = (
    "",
    "two\nlines",
    "commas, many, of them",
    'she said "hold fast"',
    'three\r\nlines,\n"quoted" 🚢',
    "  spaces kept  ",
    "=1+1",
    "semi;colon\tand tab",
)


def generate(root: Path, accounts: Iterable[str] = tuple(ACCOUNTS)) -> None:
    """Make the datasets of `accounts` under `root`, a folder each, where they are missing.

    A folder appears complete or not at all, also with another process that generates at the same
    time. Nothing is written where all are there, so `root` may then be read-only.

    Args:
        root: the folder that holds the accounts' folders; made when missing.
        accounts: which of ACCOUNTS to make.

    Raises:
        OSError: the folder cannot be written.
    """
    missing = [name for name in accounts if not (root / name).is_dir()]
    if not missing:
        return
    for name in missing:
        partial = root / f".{name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)  # what a killed one left
        _write_account(partial / "datasets", name)
        _fix_times(partial)
        try:
            partial.rename(root / name)
        except OSError:  # made by another in the meantime
            shutil.rmtree(partial)
            if not (root / name).is_dir():
                raise


def _write_account(folder: Path, account: str) -> None:
    """Write the three datasets of `account` into the new `folder`."""
    tables = _tables(account)
    readme = f"Events of 2026, the {account} account. Not a CSV.\n".encode()

    months = {f"events-2026-{month:02}.csv": next(tables) for month in (1, 2, 3)}
    _write_archive(folder / "events.csv.zip", _zip(months))

    nested = {
        f"events/{path}/events.csv": next(tables) for path in ("2026/01", "2026/02", "2026/q2/04")
    }
    _write_archive(folder / "events.tar.gz", _tar_gz(nested))

    tree = folder / "events"
    _write(tree / "README.txt", readme)
    for path in ("2026/01/events.csv", "2026/03/north/events.csv", "index.csv"):
        _write(tree / path, next(tables))
    for path in ("2026/02/events.zip", "2026/03/south/coast/events.zip"):
        members = {"events.csv": next(tables), "late/events.csv": next(tables)}
        _write_archive(tree / path, _zip(members))


def _tables(account: str) -> Iterator[bytes]:
    """Yield CSVs without end, each of ACCOUNTS[account] rows, different and reproducible."""
    rows = ACCOUNTS[account]
    # Only random() is promised to give the same sequence in every Python.
    draw = random.Random(f"lighterage {account}").random  # noqa: S311 -- no secret is made here
    endings = _endings(draw)
    days = [(date(2026, 1, 1) + timedelta(days=day)).isoformat() for day in range(365)]
    number = 0
    while True:
        lines = [
            f"{days[row * 365 // rows]},{number + row},{endings[int(draw() * len(endings))]}"
            for row in range(rows)
        ]
        number += rows
        yield (HEADER + "".join(lines)).encode()


def _endings(draw: Callable[[], float]) -> list[str]:
    """Make a stock of row endings (all but date and id), quoted as CSV wants them.

    A full file takes its rows from the stock: writing each through csv would take ten
    times as long.
    """
    lines = []
    for _ in range(8192):
        words = [WORDS[int(draw() * len(WORDS))] for _ in range(2 + int(draw() * 6))]
        note = UGLY[int(draw() * len(UGLY))] if draw() < 0.1 else " ".join(words)
        amount = "" if draw() < 0.02 else f"{draw() * 100_000 - 5_000:.2f}"
        name = NAMES[int(draw() * len(NAMES))]
        country = COUNTRIES[int(draw() * len(COUNTRIES))]
        line = io.StringIO()
        csv.writer(line).writerow((name, country, amount, note))
        lines.append(line.getvalue())
    return lines


def _zip(members: Mapping[str, bytes]) -> bytes:
    """Pack `members` (name to content) as a zip, with fixed dates and modes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, so that the mode below counts, on any machine
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, LEVEL)
    return packed.getvalue()


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    """Pack `members` (name to content) and their folders as a tar.gz, without an owner's name."""
    packed = io.BytesIO()
    folders = {str(parent) for name in members for parent in Path(name).parents} - {"."}
    with (
        gzip.GzipFile("", "wb", LEVEL, packed, mtime=0) as gz,
        tarfile.open(fileobj=gz, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(folders | set(members)):
            info = tarfile.TarInfo(name)
            info.mtime = STAMP
            if name in members:
                info.size = len(members[name])
                archive.addfile(info, io.BytesIO(members[name]))
            else:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
    return packed.getvalue()


def _write_archive(path: Path, content: bytes) -> None:
    """Write an archive and, beside it, what `sha256sum` says of it."""
    _write(path, content)
    digest = hashlib.sha256(content).hexdigest()
    _write(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n".encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _fix_times(top: Path) -> None:
    """Give every file and folder STAMP, and modes that let any account's server read them."""
    for folder, _, files in os.walk(top, topdown=False):
        for path in (*(Path(folder, name) for name in files), Path(folder)):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (STAMP, STAMP))


if __name__ == "__main__":
    generate(Path(sys.argv[1]), sys.argv[2:] or ACCOUNTS)
