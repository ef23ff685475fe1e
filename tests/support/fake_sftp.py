"""A fake SFTP server on standard input and output, for a real sshd: its listings have no end.

`python fake_sftp.py MODE` serves one folder, whatever it is called. Only what a listing takes is
answered, as draft-ietf-secsh-filexfer-02 has it; what is wrong is said by the mode.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import time
from collections import defaultdict

INIT, CLOSE, OPENDIR, READDIR, STAT = 1, 4, 11, 12, 17
VERSION, STATUS, HANDLE, NAME, ATTRS = 2, 101, 102, 104, 105
OK, END, NO_SUCH_FILE = 0, 1, 2
FOLDER, FILE = 0o040755, 0o100644
MODES = {
    "empty": "answers without a name",
    "dots": "answers with . and .. only",
    "same": "the same name in each answer",
    "slow": "an answer without a name each 0.2 seconds",
    "drip": "a byte of an answer each 0.2 seconds",
    "trickle": "one new name each 0.2 seconds",
    "unasked": "answers without a request",
    "deep": "a folder in each folder",
    "many": "100,000 names, and an end",
}
PAUSE = 0.2


def packed(text: bytes) -> bytes:
    """Write a string of the protocol."""
    return struct.pack(">I", len(text)) + text


def attributes(mode: int) -> bytes:
    """Write the size, mode and times of a file of no bytes."""
    return struct.pack(">IQIII", 1 | 4 | 8, 0, mode, 0, 0)


def names(*found: tuple[bytes, int]) -> bytes:
    """Write the body of a NAME answer."""
    body = b"".join(packed(name) + packed(b"") + attributes(mode) for name, mode in found)
    return struct.pack(">I", len(found)) + body


def exactly(size: int) -> bytes:
    """Read from standard input; ends the process at its end."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        os._exit(0)
    return data


def send(kind: int, number: int, body: bytes, pause: float = 0) -> None:
    """Write an answer, with a pause after each byte where one is asked for."""
    packet = struct.pack(">IBI", len(body) + 5, kind, number) + body
    for piece in [packet[at : at + 1] for at in range(len(packet))] if pause else [packet]:
        os.write(1, piece)
        time.sleep(pause)


def listed(mode: str, count: int) -> bytes | None:
    """Give the answer to READDIR number `count`; None at the end."""
    if mode in {"slow", "trickle"}:
        time.sleep(PAUSE)
    if mode == "many":
        first = count * 100
        files = [(b"measurement-%06d.csv" % n, FILE) for n in range(first, first + 100)]
        return names(*files) if first < 100_000 else None
    if mode == "deep":
        return names((b"folder", FOLDER)) if count == 0 else None
    if mode == "trickle":
        return names((b"%d.csv" % count, FILE))
    if mode == "same":
        return names((b"same.csv", FILE))
    return names((b".", FOLDER), (b"..", FOLDER)) if mode == "dots" else names()


def main(mode: str) -> None:
    """Serve."""
    counts: defaultdict[bytes, itertools.count[int]] = defaultdict(itertools.count)
    while True:
        size, kind = struct.unpack(">IB", exactly(5))
        body = exactly(size - 1)
        number = struct.unpack(">I", body[:4])[0]
        if kind == INIT:
            os.write(1, struct.pack(">IBI", 5, VERSION, 3))
        elif kind == OPENDIR:
            send(HANDLE, number, packed(body[:4]))
        elif kind == READDIR:
            while mode == "unasked":
                send(STATUS, 2**31, struct.pack(">I", OK))
            found = listed(mode, next(counts[body[4:]]))
            if found is None:
                send(STATUS, number, struct.pack(">I", END) + packed(b"") + packed(b""))
            else:
                send(NAME, number, found, PAUSE if mode == "drip" else 0)
        elif kind == STAT and body[8:].endswith((b"top", b"folder")):
            send(ATTRS, number, attributes(FOLDER))
        else:
            code = OK if kind == CLOSE else NO_SUCH_FILE
            send(STATUS, number, struct.pack(">I", code) + packed(b"") + packed(b""))


if __name__ == "__main__":
    main(sys.argv[1])
