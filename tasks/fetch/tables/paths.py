"""Which files are CSVs, and their paths as Parquet."""

from __future__ import annotations

import re

_CSV = re.compile(r"\.(csv|tsv)$", re.IGNORECASE)


def is_csv(path: str) -> bool:
    """Whether a file is a CSV, by its name."""
    return _CSV.search(path) is not None


def is_parquet(path: str) -> bool:
    """Whether a file is a Parquet file, by its name."""
    return path.lower().endswith(".parquet")


def parquet_path(path: str) -> str:
    """Return where a file lands that is converted if it is a CSV."""
    return _CSV.sub(".parquet", path)


def stem(path: str) -> str:
    """Return a path that is the same for a CSV and the Parquet made of it."""
    return parquet_path(path).removesuffix(".parquet")
