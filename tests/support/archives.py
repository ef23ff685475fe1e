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
from dataclasses import dataclass
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
"""What the good archives hold: a short, a long (more than one block) and an empty file."""

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
_TIME = 1_767_225_600  # 2026-01-01
_ZIP_TIME = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Good:
    """An archive, and what must come out of it."""

    data: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Bad:
    """An archive that must be refused, and what (a pattern) the error must say."""

    data: bytes
    says: str


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
    """Write a tar whose headers are taken as they are, sizes that lie included."""
    blocks = []
    for info, content in entries:
        blocks += [info.tobuf(form, "utf-8", "surrogateescape"), padded(content)]
    return b"".join(blocks) + TAR_END


def tarred(files: Mapping[str, bytes], form: TarForm = tarfile.PAX_FORMAT) -> bytes:
    """Write a plain tar of regular files."""
    return tar_of((entry(name, content) for name, content in files.items()), form)


def noise(size: int) -> bytes:
    """Give bytes that no archive makes smaller, the same each time."""
    return hashlib.shake_256(b"noise").digest(size)


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """Write a tar.gz of regular files."""
    return PACKINGS["tar.gz"](tarred(files))


def padded(content: bytes) -> bytes:
    """Fill up with zeros to whole blocks of a tar."""
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def raw_header(
    name: bytes, size: bytes, kind: bytes = b"0", *, tail: bytes = b"", offset: int = 345
) -> bytes:
    """Write one tar header byte by byte, its checksum right; `tail` lies at `offset`."""
    header = bytearray(tarfile.BLOCKSIZE)
    header[: len(name)] = name
    header[100:108] = b"0000644\0"
    header[124 : 124 + len(size)] = size
    header[136:148] = b"%011o\0" % _TIME
    header[156:157] = kind
    header[257:265] = b"ustar  \0"
    header[offset : offset + len(tail)] = tail
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax_header(body: bytes) -> bytes:
    """Write a PAX extended header whose records are `body`, well formed or not."""
    return raw_header(b"PaxHeader", b"%011o\0" % len(body), tarfile.XHDTYPE) + padded(body)


def pax_records(records: Mapping[str, str]) -> bytes:
    """Write the records of a PAX header: `LENGTH KEY=VALUE`, the length counting itself."""
    lines = []
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while length != len(rest) + len(str(length)):
            length += 1
        lines.append(str(length).encode() + rest)
    return b"".join(lines)


def sparse_gnu(name: str, real: int, chunks: Mapping[int, bytes]) -> bytes:
    """Write a sparse member as GNU tar's own format has it (at most four chunks)."""
    stored = b"".join(chunks.values())
    spans = b"".join(b"%011o\0%011o\0" % (at, len(data)) for at, data in chunks.items())
    tail = spans.ljust(96, b"\0") + b"\0" + b"%011o\0" % real
    header = raw_header(
        name.encode(), b"%011o\0" % len(stored), tarfile.GNUTYPE_SPARSE, tail=tail, offset=386
    )
    return header + padded(stored)


def sparse_pax(name: str, real: int, chunks: Mapping[int, bytes]) -> bytes:
    """Write a sparse member as PAX 1.0 has it: the map comes before the data."""
    numbers = [len(chunks), *(n for at, data in chunks.items() for n in (at, len(data)))]
    content = padded("".join(f"{n}\n" for n in numbers).encode()) + b"".join(chunks.values())
    records = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": name, "GNU.sparse.realsize": str(real),
    }  # fmt: skip
    size = b"%011o\0" % len(content)
    return (
        pax_header(pax_records(records)) + raw_header(b"GNUSparseFile.0/x", size) + padded(content)
    )


def good_tars() -> dict[str, Good]:
    """Give tars that must be taken, by what is special in each."""
    plain, long = tarred(FILES), {"x" * 100 + "/" + "y" * 250 + ".csv": b"long\n"}
    folder = entry("2026", type=tarfile.DIRTYPE, mode=0o755)
    top = entry("./", type=tarfile.DIRTYPE, mode=0o755)
    return {
        **{kind: Good(pack(plain), FILES) for kind, pack in PACKINGS.items()},
        "ustar": Good(tarred(FILES, tarfile.USTAR_FORMAT), FILES),
        "GNU": Good(tarred(FILES, tarfile.GNU_FORMAT), FILES),
        "PAX long name": Good(tarred(long), long),
        "GNU long name": Good(tarred(long, tarfile.GNU_FORMAT), long),
        "PAX names beyond ASCII": Good(tarred(ODD_NAMES), ODD_NAMES),
        "GNU names beyond ASCII": Good(tarred(ODD_NAMES, tarfile.GNU_FORMAT), ODD_NAMES),
        "folders of their own": Good(tar_of([folder, *map(entry, FILES, FILES.values())]), FILES),
        "./ before each name": Good(
            tar_of([top, *(entry(f"./{name}", data) for name, data in FILES.items())]), FILES
        ),
        "padded to a record": Good(tarred(FILES).ljust(2**20 * 3, b"\0"), FILES),
        "one block of zeros at the end": Good(plain[: -tarfile.BLOCKSIZE], FILES),
        "upper case": Good(tarred({"UPPER.CSV": b"1\n"}), {"UPPER.CSV": b"1\n"}),
        "a global PAX header": Good(
            raw_header(b"g", b"%011o\0" % 18, tarfile.XGLTYPE)
            + padded(b"18 comment=abcdef\n")
            + plain,
            FILES,
        ),
        "other members": Good(tarred({"read.me": b"-" * 10**6, **FILES, "x/y.txt": b"z"}), FILES),
    }


def bad_tars() -> dict[str, Bad]:
    """Give plain tars that must be refused, by what is wrong with each."""

    def one(name: str, content: bytes = b"", **attributes: Any) -> bytes:
        before, after = entry("first.csv", b"1\n"), entry("last.csv", b"2\n")
        return tar_of([before, entry(name, content, **attributes), after])

    def kind(kind: bytes, **attributes: Any) -> bytes:
        return one("link.csv", type=kind, **attributes)

    good = tarred(FILES)
    header = good.index(b"2026/01/b.csv")
    damaged = bytearray(good)
    damaged[header + 130] ^= 1  # the size, so that the header's checksum is wrong
    blank = good[:header] + bytes(512) + good[header + 512 :]
    return {
        "absolute": Bad(one("/etc/passwd.csv"), "absolute"),
        "leads out": Bad(one("a/../../b.csv"), r"leads out.*\.\."),
        "NUL": Bad(
            pax_header(pax_records({"path": "a.csv\0.txt"})) + tarred({"x.csv": b"1"}),
            "control characters|broken",
        ),
        "not UTF-8": Bad(tar_of([entry("\udcff.csv", b"1")], tarfile.GNU_FORMAT), "not UTF-8"),
        "no name": Bad(raw_header(b"", b"%011o\0" % 0) + TAR_END, "no name"),
        "symbolic link": Bad(kind(tarfile.SYMTYPE, linkname="/etc/passwd"), "symbolic link"),
        "hard link": Bad(kind(tarfile.LNKTYPE, linkname="first.csv"), "hard link"),
        "character device": Bad(kind(tarfile.CHRTYPE, devmajor=1, devminor=3), "device"),
        "FIFO": Bad(kind(tarfile.FIFOTYPE), "FIFO"),
        "unknown type": Bad(kind(b"Z"), "type"),
        "twice": Bad(one("first.csv", b"other\n"), "collides"),
        "twice, ./ before one": Bad(one("./first.csv", b"other\n"), "collides"),
        "file over folder": Bad(tarred({"d.csv/1.csv": b"1", "d.csv": b"2"}), "collides"),
        "the manifest's name as a folder": Bad(tarred({"manifest.json/1.csv": b"1"}), "collides"),
        "a corrupt header in the middle": Bad(bytes(damaged), "broken"),
        "a header of zeros in the middle": Bad(blank, "end marker"),
        "no end marker": Bad(good[: -len(TAR_END)], "broken"),
        "more after the end marker": Bad(good + good, "end marker"),
        "size below zero": Bad(
            raw_header(b"a.csv", b"\xff" * 10 + b"\xfe\0") + tarred(FILES), "broken"
        ),
        "PAX size below zero": Bad(
            pax_header(pax_records({"size": "-1024"})) + tarred(FILES), "broken"
        ),
        "PAX size that lies": Bad(
            pax_header(pax_records({"size": "100000000000"})) + tarred({"a.csv": b"1"}), "broken"
        ),
        "PAX size that is none": Bad(
            pax_header(pax_records({"size": "2x"})) + tarred({"a.csv": b"1\n"}), "broken"
        ),
        "PAX with nothing after it": Bad(
            pax_header(pax_records({"path": "a.csv"})) + TAR_END, "broken"
        ),
        "huge PAX header": Bad(
            pax_header(pax_records({"comment": "x" * 2 * 2**20})) + tarred(FILES), "extended header"
        ),
        "huge GNU long name": Bad(
            raw_header(b"././@LongLink", b"%011o\0" % 2**24, tarfile.GNUTYPE_LONGNAME)
            + bytes(2**24)
            + tarred(FILES),
            "extended header",
        ),
        "an extended header that calls itself": Bad(
            pax_header(pax_records({"path": "a.csv"})) * 5000 + tarred(FILES), "broken"
        ),
        "sparse bomb": Bad(sparse_gnu("a.csv", 2**32, {0: b"1"}) + TAR_END, "max_ratio"),
        "PAX sparse bomb": Bad(sparse_pax("a.csv", 2**62, {0: b"1"}) + TAR_END, "max_ratio"),
        "sparse map that lies": Bad(
            sparse_gnu("a.csv", 10, {0: b"1" * 4, 6: b"2" * 4}).replace(
                b"%011o\0" % 8, b"%011o\0" % 0, 1
            )
            + TAR_END,
            "broken",
        ),
        "huge sparse map": Bad(
            sparse_pax("a.csv", 0, dict.fromkeys(range(2**18), b"")) + TAR_END, "header"
        ),
        "ratio bomb": Bad(tar_gz({"a.csv": bytes(80 * 2**20)}), "max_ratio"),
        "a web page": Bad(
            b"<!DOCTYPE html><title>404</title>" * 100, "not an archive: .* a web page"
        ),
        "one byte": Bad(b"\0", "broken"),
        "nothing": Bad(b"", "empty"),
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
    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("not seekable")

    def tell(self) -> int:
        raise OSError("not seekable")


def zip_of(infos: list[zipfile.ZipInfo], contents: list[bytes], *, stream: bool = False) -> bytes:
    """Write a zip of such members."""
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


def good_zips() -> dict[str, Good]:
    """Give zips that must be taken, by what is special in each."""
    folder = zip_info("2026/", mode=0o40755)
    infos = [folder, *map(zip_info, FILES)]
    with_comment = io.BytesIO(zipped(FILES))
    with zipfile.ZipFile(with_comment, "a") as archive:
        archive.comment = b"by hand " * 100
    methods = {
        "stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED,
        "bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA,
    }  # fmt: skip
    return {
        **{name: Good(zipped(FILES, method), FILES) for name, method in methods.items()},
        "zip64": Good(_zip64(), FILES),
        "data descriptors": Good(zipped(FILES, stream=True), FILES),
        "data descriptors, stored": Good(zipped(FILES, zipfile.ZIP_STORED, stream=True), FILES),
        "folders of their own": Good(zip_of(infos, [b"", *FILES.values()]), FILES),
        "./ before each name": Good(zipped({f"./{n}": d for n, d in FILES.items()}), FILES),
        "names beyond ASCII": Good(zipped(ODD_NAMES), ODD_NAMES),
        "names in code page 437": Good(
            zipped({"@.csv": b"1"}).replace(b"@.csv", b"\x82.csv"), {"é.csv": b"1"}
        ),
        "upper case": Good(zipped({"UPPER.CSV": b"1\n"}), {"UPPER.CSV": b"1\n"}),
        "a comment": Good(with_comment.getvalue(), FILES),
        "a program before it": Good(b"#!/bin/sh\nexit\n" + zipped(FILES), FILES),
        "no mode": Good(zip_of([zip_info("a.csv", mode=0)], [b"1"]), {"a.csv": b"1"}),
        "other members": Good(zipped({"read.me": b"-", **FILES, "x/y.txt": b"z"}), FILES),
    }


def bad_zips() -> dict[str, Bad]:
    """Give zips that must be refused, by what is wrong with each."""

    def one(name: str, content: bytes = b"", mode: int = 0o100644) -> bytes:
        infos = [zip_info("first.csv"), zip_info("@" * len(name.encode()), mode=mode)]
        data = zip_of([*infos, zip_info("last.csv")], [b"1\n", content, b"2\n"])
        raw = name.encode("utf-8", "surrogateescape")
        return data.replace(b"@" * len(raw), raw)

    good, text = zipped(FILES), b"id\n" + b"1\n" * 500
    single = zipped({"a.csv": text})
    short = {CENTRAL_SIZE: 10, CENTRAL_CRC: zlib.crc32(text[:10])}
    stored = zipped({"a.csv": text}, zipfile.ZIP_STORED)
    crc = bytearray(stored)
    crc[stored.index(text) + 100] ^= 1
    return {
        "absolute": Bad(one("/etc/passwd.csv"), "absolute"),
        "leads out": Bad(one("a/../../b.csv"), r"leads out.*\.\."),
        "NUL": Bad(one("a.csv\0.txt"), "control characters"),
        "not UTF-8": Bad(
            zipped({"é.csv": b"1"}).replace("é".encode(), b"\xff\xff"), "broken|not UTF-8"
        ),
        "symbolic link": Bad(one("link.csv", b"/etc/passwd", 0o120777), "symbolic link"),
        "device": Bad(one("link.csv", b"", 0o020666), "special file"),
        "FIFO": Bad(one("link.csv", b"", 0o010666), "special file"),
        "twice": Bad(zip_of([zip_info("a.csv"), zip_info("a.csv")], [b"1", b"2"]), "collides"),
        "file over folder": Bad(zipped({"d.csv/1.csv": b"1", "d.csv": b"2"}), "collides"),
        "a folder with content": Bad(
            zip_of([zip_info("d@"), zip_info("a.csv")], [b"1", b"2"]).replace(b"d@", b"d/"),
            "folder",
        ),
        "encrypted": Bad(patched(single, CENTRAL, {CENTRAL_FLAGS: 1}), "encrypted"),
        "deflate64": Bad(patched(single, CENTRAL, {CENTRAL_METHOD: 9}), "deflate64"),
        "unknown method": Bad(patched(single, CENTRAL, {CENTRAL_METHOD: 77}), "method 77"),
        "another method in the two headers": Bad(
            patched(patched(single, CENTRAL, {CENTRAL_METHOD: 0}), LOCAL, {LOCAL_METHOD: 8}),
            "broken|overlaps|bytes",
        ),
        "overlapping members": Bad(overlapping_zip(), "overlaps|broken"),
        "a size too small": Bad(patched(single, CENTRAL, {CENTRAL_SIZE: 10}), "broken"),
        "a size too small, its CRC fitting": Bad(patched(single, CENTRAL, short), "broken"),
        "a size too large": Bad(
            patched(single, CENTRAL, {CENTRAL_SIZE: len(text) + 10}), "broken|bytes"
        ),
        "a packed size too small": Bad(
            patched(single, CENTRAL, {CENTRAL_PACKED: 5}), "broken|bytes"
        ),
        "a packed size too large": Bad(
            patched(single, CENTRAL, {CENTRAL_PACKED: 10**6}), "broken|overlaps"
        ),
        "wrong CRC in the header": Bad(patched(single, CENTRAL, {CENTRAL_CRC: 1}), "broken"),
        "wrong data": Bad(bytes(crc), "broken.*CRC"),
        "an offset beyond the end": Bad(
            patched(single, CENTRAL, {CENTRAL_OFFSET: 2**32 - 2}), "not where|broken"
        ),
        "a table of contents before the beginning": Bad(
            patched(single, END, {END_SIZE: 2**31}), "broken"
        ),
        "a table of contents that lies elsewhere": Bad(
            patched(single, END, {END_OFFSET: 2**31}), "broken|not where"
        ),
        "a name that differs in the two headers": Bad(
            single.replace(b"a.csv", b"b.csv", 1), "broken|two names"
        ),
        "a wanted name made an unwanted one": Bad(
            single[:40] + single[40:].replace(b"a.csv", b"a.csw", 1), "broken|two names"
        ),
        "ratio bomb": Bad(zipped({"a.csv": bytes(80 * 2**20)}), "max_ratio"),
        "cut in half": Bad(good[: len(good) // 2], "broken"),
        "cut before its end record": Bad(good[:-22], "broken"),
        "without its first bytes": Bad(good[10:], "broken|not where"),
        "a web page": Bad(
            b"<!DOCTYPE html><title>404</title>" * 100, "not an archive: .* a web page.*supported"
        ),
        "a RAR archive": Bad(b"Rar!\x1a\x07\x01\x00" + bytes(600), "a RAR archive; supported: zip"),
        "nothing": Bad(b"", "empty"),
        "an offset as zip64 gives it": Bad(_far_zip64(), "not where|broken"),
    }


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
