"""Archives for tests, written in memory: valid, unusual, broken and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FILES = {
    "a.csv": b"date,id\n2026-01-01,1\n",
    "2026/01/b.csv": b'id,name\n2,"Zo\xc3\xab, ""Z"""\n' * 40_000,
    "2026/empty.csv": b"",
}
"""The content of the good archives: a short, a long (more than one block) and an empty file."""

ODD_NAMES = {
    "données/ünï çødé 🚢.csv": b"ship\n",
    "with space, comma.csv": b"1\n",
    "-rf.csv": b"2\n",
}

TarForm = Literal[0, 1, 2]
"""tarfile.USTAR_FORMAT, GNU_FORMAT or PAX_FORMAT."""
TAR_END = bytes(2 * tarfile.BLOCKSIZE)
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstd.compress,
}
WEB_PAGE = b"<!DOCTYPE html><title>404</title>" * 100
_TIME = 1_767_225_600  # 2026-01-01
_ZIP_TIME = (2026, 1, 1, 0, 0, 0)


# --- tar ----------------------------------------------------------------------------------


def entry(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Describe a member of a tar; attributes are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), _TIME, 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar_of(
    entries: Iterable[tuple[tarfile.TarInfo, bytes]], form: TarForm = tarfile.PAX_FORMAT
) -> bytes:
    """Write a tar with the given headers, wrong sizes included."""
    blocks = []
    for info, content in entries:
        blocks += [info.tobuf(form, "utf-8", "surrogateescape"), padded(content)]
    return b"".join(blocks) + TAR_END


def tarred(files: Mapping[str, bytes], form: TarForm = tarfile.PAX_FORMAT) -> bytes:
    """Write a plain tar of regular files."""
    return tar_of((entry(name, content) for name, content in files.items()), form)


def noise(size: int) -> bytes:
    """Return bytes that no archive makes smaller, the same each time."""
    return hashlib.shake_256(b"noise").digest(size)


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """Write a tar.gz of regular files."""
    return PACKINGS["tar.gz"](tarred(files))


def padded(content: bytes) -> bytes:
    """Fill up with zeros to the end of a block of a tar."""
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def with_checksum(header: bytes) -> bytes:
    """Give a tar header the right checksum."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def sparse_gnu(name: str, real: int, chunks: Mapping[int, bytes]) -> bytes:
    """Write a tar of one sparse member in GNU tar's own format (at most four chunks)."""
    info, stored = entry(name, b"".join(chunks.values()), type=tarfile.GNUTYPE_SPARSE)
    spans = b"".join(b"%011o\0%011o\0" % (at, len(data)) for at, data in chunks.items())
    fields = spans.ljust(96, b"\0") + b"\0" + b"%011o\0" % real
    header = info.tobuf(tarfile.GNU_FORMAT)
    header = with_checksum(header[:386] + fields + header[386 + len(fields) :])
    return header + padded(stored) + TAR_END


def sparse_pax(name: str, real: int, chunks: Mapping[int, bytes]) -> bytes:
    """Write a tar of one sparse member in PAX format 1.0: the map precedes the data."""
    numbers = [len(chunks), *(n for at, data in chunks.items() for n in (at, len(data)))]
    content = padded("".join(f"{n}\n" for n in numbers).encode()) + b"".join(chunks.values())
    records = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": name, "GNU.sparse.realsize": str(real),
    }  # fmt: skip
    return tar_of([entry("GNUSparseFile.0/x", content, pax_headers=records)])


def good_tars() -> dict[str, tuple[bytes, Mapping[str, bytes]]]:
    """Return tars that must be accepted, with their files, by what is special in each."""
    plain, long = tarred(FILES), {"x" * 100 + "/" + "y" * 250 + ".csv": b"long\n"}
    upper = {"UPPER.CSV": b"1\n"}
    folder = entry("2026", type=tarfile.DIRTYPE, mode=0o755)
    top = entry("./", type=tarfile.DIRTYPE, mode=0o755)
    with_dots = tar_of([top, *(entry(f"./{name}", data) for name, data in FILES.items())])
    global_header = tar_of([entry("g", b"18 comment=abcdef\n", type=tarfile.XGLTYPE)])
    return {
        **{kind: (pack(plain), FILES) for kind, pack in PACKINGS.items()},
        "ustar": (tarred(FILES, tarfile.USTAR_FORMAT), FILES),
        "GNU": (tarred(FILES, tarfile.GNU_FORMAT), FILES),
        "PAX long name": (tarred(long), long),
        "GNU long name": (tarred(long, tarfile.GNU_FORMAT), long),
        "PAX names beyond ASCII": (tarred(ODD_NAMES), ODD_NAMES),
        "GNU names beyond ASCII": (tarred(ODD_NAMES, tarfile.GNU_FORMAT), ODD_NAMES),
        "entries for folders": (tar_of([folder, *map(entry, FILES, FILES.values())]), FILES),
        "./ before each name": (with_dots, FILES),
        "padded to a record": (tarred(FILES).ljust(2**20 * 3, b"\0"), FILES),
        "one block of zeros at the end": (plain[: -tarfile.BLOCKSIZE], FILES),
        "upper case": (tarred(upper), upper),
        "a global PAX header": (global_header.removesuffix(TAR_END) + plain, FILES),
        "other members": (tarred({"read.me": b"-" * 10**6, **FILES, "x/y.txt": b"z"}), FILES),
    }


def bad_tars() -> dict[str, tuple[bytes, str]]:
    """Return tars that must be refused, with a pattern of the error, by what is wrong."""

    def one(name: str, content: bytes = b"", **attributes: Any) -> bytes:
        before, after = entry("first.csv", b"1\n"), entry("last.csv", b"2\n")
        return tar_of([before, entry(name, content, **attributes), after])

    def kind(kind: bytes, **attributes: Any) -> bytes:
        return one("link.csv", type=kind, **attributes)

    def pax(**records: str) -> bytes:
        return one("x.csv", b"1\n", pax_headers=records)

    good = tarred(FILES)
    header = good.index(b"2026/01/b.csv")
    damaged = bytearray(good)
    damaged[header + 130] ^= 1  # the size, so that the header's checksum is wrong
    blank = good[:header] + bytes(512) + good[header + 512 :]
    pax_header = tar_of([entry("x.csv", pax_headers={"path": "a.csv"})])[:1024]
    long_name = entry("././@LongLink", bytes(2**24), type=tarfile.GNUTYPE_LONGNAME)
    below_zero = [entry("a.csv", size=-512), entry("b.csv", b"1")]
    sparse = sparse_gnu("a.csv", 10, {0: b"1" * 4, 6: b"2" * 4})
    map_beyond_the_data = (
        with_checksum(sparse[:512].replace(b"%011o\0" % 8, b"%011o\0" % 0, 1)) + sparse[512:]
    )
    return {
        "absolute": (one("/etc/passwd.csv"), "absolute"),
        "leads out": (one("a/../../b.csv"), r"leads out.*\.\."),
        "NUL": (pax(path="a.csv\0.txt"), "control characters|broken"),
        "not UTF-8": (tar_of([entry("\udcff.csv", b"1")], tarfile.GNU_FORMAT), "not UTF-8"),
        "no name": (one(""), "no name"),
        "symbolic link": (kind(tarfile.SYMTYPE, linkname="/etc/passwd"), "symbolic link"),
        "hard link": (kind(tarfile.LNKTYPE, linkname="first.csv"), "hard link"),
        "character device": (kind(tarfile.CHRTYPE, devmajor=1, devminor=3), "device"),
        "FIFO": (kind(tarfile.FIFOTYPE), "FIFO"),
        "unknown type": (kind(b"Z"), "type"),
        "twice": (one("first.csv", b"other\n"), "collides"),
        "twice, ./ before one": (one("./first.csv", b"other\n"), "collides"),
        "file over folder": (tarred({"d.csv/1.csv": b"1", "d.csv": b"2"}), "collides"),
        "the manifest's name as a folder": (tarred({"manifest.json/1.csv": b"1"}), "collides"),
        "a corrupt header in the middle": (bytes(damaged), "broken"),
        "a header of zeros in the middle": (blank, "end marker"),
        "no end marker": (good[: -len(TAR_END)], "broken"),
        "more after the end marker": (good + good, "end marker"),
        "size below zero": (tar_of(below_zero, tarfile.GNU_FORMAT), "broken"),
        "PAX size below zero": (pax(size="-1024"), "broken"),
        "PAX size beyond the end": (pax(size="100000000000"), "broken"),
        "PAX size that is no number": (pax(size="2x"), "broken"),
        "PAX with nothing after it": (pax_header + TAR_END, "broken"),
        "huge PAX header": (pax(comment="x" * 2 * 2**20), "extended header"),
        "huge GNU long name": (tar_of([long_name]), "extended header"),
        "endless extended headers": (pax_header * 5000 + good, "broken"),
        "sparse bomb": (sparse_gnu("a.csv", 2**32, {0: b"1"}), "max_ratio"),
        "PAX sparse bomb": (sparse_pax("a.csv", 2**62, {0: b"1"}), "max_ratio"),
        "sparse map beyond the data": (map_beyond_the_data, "broken"),
        "huge sparse map": (sparse_pax("a.csv", 0, dict.fromkeys(range(2**18), b"")), "header"),
        "a web page": (WEB_PAGE, "not an archive: .* a web page.*supported"),
        "one byte": (b"\0", "broken"),
        "nothing": (b"", "empty"),
    }


# --- zip ----------------------------------------------------------------------------------


def zipped(
    files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, *, stream: bool = False
) -> bytes:
    """Write a zip; as a `stream`, sizes come after the data, in data descriptors."""
    return zip_of([zip_info(name, method) for name in files], list(files.values()), stream=stream)


def zip_info(
    name: str, method: int = zipfile.ZIP_DEFLATED, mode: int = 0o100644
) -> zipfile.ZipInfo:
    """Describe a member of a zip."""
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.compress_type, info.external_attr = method, mode << 16
    return info


class _Unseekable(io.BytesIO):
    def tell(self) -> int:
        raise OSError("not seekable")


def zip_of(infos: list[zipfile.ZipInfo], contents: list[bytes], *, stream: bool = False) -> bytes:
    """Write a zip of these members."""
    file = _Unseekable() if stream else io.BytesIO()
    with mock.patch("warnings.warn"), zipfile.ZipFile(file, "w") as archive:
        for info, content in zip(infos, contents, strict=True):
            archive.writestr(info, content)
    return file.getvalue()


CENTRAL = struct.Struct("<4s6H3L5H2L")  # APPNOTE.TXT 4.3.12
LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
END = struct.Struct("<4s4H2LH")  # 4.3.16
ZIP64_RECORD = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
ZIP64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
# fields by number, from the signature on
CENTRAL_FLAGS, CENTRAL_METHOD, CENTRAL_CRC, CENTRAL_PACKED, CENTRAL_SIZE = 3, 4, 7, 8, 9
CENTRAL_OFFSET = 16
LOCAL_METHOD, LOCAL_CRC, LOCAL_PACKED, LOCAL_SIZE = 3, 6, 7, 8
END_COUNT, END_SIZE, END_OFFSET = 4, 5, 6


def patched(data: bytes, header: struct.Struct, changes: Mapping[int, int], nth: int = 0) -> bytes:
    """Change fields of the nth header of a kind, by field number."""
    magic = {CENTRAL.format: b"PK\1\2", LOCAL.format: b"PK\3\4", END.format: b"PK\5\6"}
    at = -1
    for _ in range(nth + 1):
        at = data.index(magic[header.format], at + 1)
    fields = list(header.unpack_from(data, at))
    for field, value in changes.items():
        fields[field] = value
    return data[:at] + header.pack(*fields) + data[at + header.size :]


def overlapping_zip() -> bytes:
    """Write a zip whose two members are the same bytes, as in D. Fifield's bomb."""
    data = zipped({"a.csv": b"1" * 1000, "b.csv": b"1" * 1000})
    first = CENTRAL.unpack_from(data, data.index(b"PK\1\2"))
    return patched(data, CENTRAL, {CENTRAL_OFFSET: first[CENTRAL_OFFSET]}, nth=1)


def _zip64() -> bytes:
    file = io.BytesIO()
    archive = zipfile.ZipFile(file, "w")
    for name, content in FILES.items():
        with archive.open(zip_info(name), "w", force_zip64=True) as member:
            member.write(content)
    with mock.patch("zipfile.ZIP64_LIMIT", -1), mock.patch("zipfile.ZIP_FILECOUNT_LIMIT", 0):
        archive.close()
    return file.getvalue()


def huge_table(entries: int, declared: int) -> bytes:
    """Write a zip of nothing but a table of contents, which says that it has `declared` entries."""
    numbers = (20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    table = (CENTRAL.pack(b"PK\1\2", *numbers) + b"a") * entries
    zip64 = ZIP64_RECORD.pack(
        b"PK\6\6", 44, 45, 45, 0, 0, declared, declared, len(table), 0
    ) + ZIP64_LOCATOR.pack(b"PK\6\7", 0, len(table), 1)
    return table + zip64 + END.pack(b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)


def with_comment(archive: bytes, comment: bytes) -> bytes:
    """Add a comment to a zip."""
    return archive[:-2] + struct.pack("<H", len(comment)) + comment


def good_zips() -> dict[str, tuple[bytes, Mapping[str, bytes]]]:
    """Return zips that must be accepted, with their files, by what is special in each."""
    infos = [zip_info("2026/", mode=0o40755), *map(zip_info, FILES)]
    upper = {"UPPER.CSV": b"1\n"}
    cp437 = zipped({"@.csv": b"1"}).replace(b"@.csv", b"\x82.csv")
    methods = {
        "stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED,
        "bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA,
    }  # fmt: skip
    return {
        **{name: (zipped(FILES, method), FILES) for name, method in methods.items()},
        "zip64": (_zip64(), FILES),
        "data descriptors": (zipped(FILES, stream=True), FILES),
        "data descriptors, stored": (zipped(FILES, zipfile.ZIP_STORED, stream=True), FILES),
        "entries for folders": (zip_of(infos, [b"", *FILES.values()]), FILES),
        "./ before each name": (zipped({f"./{n}": d for n, d in FILES.items()}), FILES),
        "names beyond ASCII": (zipped(ODD_NAMES), ODD_NAMES),
        "names in code page 437": (cp437, {"é.csv": b"1"}),
        "upper case": (zipped(upper), upper),
        "a comment": (with_comment(zipped(FILES), b"by hand " * 100), FILES),
        "a program before it": (b"#!/bin/sh\nexit\n" + zipped(FILES), FILES),
        "no mode": (zip_of([zip_info("a.csv", mode=0)], [b"1"]), {"a.csv": b"1"}),
        "other members": (zipped({"read.me": b"-", **FILES, "x/y.txt": b"z"}), FILES),
    }


def bad_zips() -> dict[str, tuple[bytes, str]]:
    """Return zips that must be refused, with a pattern of the error, by what is wrong."""

    def one(name: str, content: bytes = b"", mode: int = 0o100644) -> bytes:
        infos = [zip_info("first.csv"), zip_info("@" * len(name.encode()), mode=mode)]
        data = zip_of([*infos, zip_info("last.csv")], [b"1\n", content, b"2\n"])
        return data.replace(b"@" * len(name.encode()), name.encode())

    good, text = zipped(FILES), b"id\n" + b"1\n" * 500
    single = zipped({"a.csv": text})
    crc = bytearray(zipped({"a.csv": text}, zipfile.ZIP_STORED))
    crc[crc.index(text) + 100] ^= 1
    entries: dict[str, tuple[dict[int, int], str]] = {
        "encrypted": ({CENTRAL_FLAGS: 1}, "encrypted"),
        "deflate64": ({CENTRAL_METHOD: 9}, "deflate64"),
        "unknown method": ({CENTRAL_METHOD: 77}, "method 77"),
        "another method in the two headers": ({CENTRAL_METHOD: 0}, "broken|overlaps|bytes"),
        "a size too small": ({CENTRAL_SIZE: 10}, "broken"),
        "a size too small with its CRC": (
            {CENTRAL_SIZE: 10, CENTRAL_CRC: zlib.crc32(text[:10])}, "broken",
        ),
        "a size too large": ({CENTRAL_SIZE: len(text) + 10}, "broken|bytes"),
        "a packed size too small": ({CENTRAL_PACKED: 5}, "broken|bytes"),
        "a packed size too large": ({CENTRAL_PACKED: 10**6}, "broken|overlaps"),
        "wrong CRC in the header": ({CENTRAL_CRC: 1}, "broken"),
        "an offset beyond the end": ({CENTRAL_OFFSET: 2**32 - 2}, "not where|broken"),
    }  # fmt: skip
    ends: dict[str, tuple[dict[int, int], str]] = {
        "a table of contents before the beginning": ({END_SIZE: 2**31}, "broken"),
        "a table of contents elsewhere": ({END_OFFSET: 2**31}, "broken|not where"),
    }
    return {
        **{k: (patched(single, CENTRAL, fields), says) for k, (fields, says) in entries.items()},
        **{k: (patched(single, END, fields), says) for k, (fields, says) in ends.items()},
        "absolute": (one("/etc/passwd.csv"), "absolute"),
        "leads out": (one("a/../../b.csv"), r"leads out.*\.\."),
        "NUL": (one("a.csv\0.txt"), "control characters"),
        "not UTF-8": (
            zipped({"é.csv": b"1"}).replace("é".encode(), b"\xff\xff"), "broken|not UTF-8",
        ),
        "symbolic link": (one("link.csv", b"/etc/passwd", 0o120777), "symbolic link"),
        "device": (one("link.csv", b"", 0o020666), "special file"),
        "FIFO": (one("link.csv", b"", 0o010666), "special file"),
        "twice": (one("first.csv", b"2"), "collides"),
        "file over folder": (zipped({"d.csv/1.csv": b"1", "d.csv": b"2"}), "collides"),
        "a folder with content": (one("d/", b"1"), "folder"),
        "overlapping members": (overlapping_zip(), "overlaps|broken"),
        "wrong data": (bytes(crc), "broken.*CRC"),
        "a name that differs in the two headers": (single.replace(b"a.csv", b"b.csv", 1), "broken"),
        "a selected name made another one": (
            single[:40] + single[40:].replace(b"a.csv", b"a.csw", 1), "broken",
        ),
        "cut in half": (good[: len(good) // 2], "broken"),
        "cut before its end record": (good[:-22], "broken"),
        "without its first bytes": (good[10:], "broken|not where"),
        "a web page": (WEB_PAGE, "not an archive: .* a web page.*supported"),
        "a RAR archive": (b"Rar!\x1a\x07\x01\x00" + bytes(600), "a RAR archive: have it packed"),
        "nothing": (b"", "empty"),
        "a zip64 offset beyond the end": (_far_zip64(), "not where|broken"),
    }  # fmt: skip


def _far_zip64() -> bytes:
    """Write a zip64 whose member lies at 2**64 - 1."""
    data = zipped({"a.csv": b"1"})
    at = data.index(b"PK\1\2")
    fields = list(CENTRAL.unpack_from(data, at))
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    fields[11], fields[CENTRAL_OFFSET] = len(extra), 2**32 - 1
    name = at + CENTRAL.size + len("a.csv")
    end = data[name:]
    longer = data[:at] + CENTRAL.pack(*fields) + b"a.csv" + extra + end
    size = END.unpack_from(end)[END_SIZE] + len(extra)
    return patched(longer, END, {END_SIZE: size})
