"""The works: what is fetched, over which link, by whom, and what the goals are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks import sides
from benchmarks.data import MB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.data import Dataset, Store
    from benchmarks.sides import Side

SIZE = 406
"""MB of CSV where --size says nothing else; all other sizes follow it in proportion."""
Account = Literal["full", "sftp"]
_NOT_FAR = {"scp, gcm", "sftp, gcm", "rsync, gcm", "ssh cat, gcm", "three scripts (paramiko)"}
"""Left out at a round trip: the cipher does not limit there, and paramiko's get is Fabric's."""
_FAR_PEERS = ("scp", "sftp", "rsync", "lftp pget")


@dataclass(frozen=True)
class Goal:
    """What the project's wall time is held against.

    Attributes:
        ratio: How many times faster.
        peers: Names of sides; the best of them counts.
        title: For the table, where there are several.
    """

    ratio: float
    peers: tuple[str, ...]
    title: str = ""

    @property
    def against(self) -> str:
        """The peers in words."""
        return self.title or self.peers[0]


@dataclass(frozen=True)
class Work:
    """One row of the issue's table.

    Attributes:
        name: For --only.
        title: For people.
        make: Gives the data.
        sides: Who takes part, the project first.
        goals: What is to be reached.
        rtt: Seconds of round trip that a relay adds; 0 is no relay.
        account: Which account of the server logs in.
    """

    name: str
    title: str
    make: Callable[[Store], Dataset]
    sides: tuple[Side, ...]
    goals: tuple[Goal, ...] = ()
    rtt: float = 0.0
    account: Account = "full"

    @property
    def rivals(self) -> set[str]:
        """Names of the sides that a goal is held against."""
        return {name for goal in self.goals for name in goal.peers}


def all_works(size: float = SIZE) -> list[Work]:
    """Give the works, for `size` MB of CSV."""
    share = size / SIZE
    csv = int(size * MB)
    big, wide = int(448 * MIB * share), int(100 * MB * share)
    files = max(int(2000 * share), 20)

    def tar(store: Store) -> Dataset:
        return store.tar(csv)

    def zipped(store: Store) -> Dataset:
        return store.zip(csv)

    def one_big(store: Store) -> Dataset:
        return store.random(big)

    def one_wide(store: Store) -> Dataset:
        return store.random(wide)

    def small(store: Store) -> Dataset:
        return store.small(files)

    works = [
        Work(
            "tar", f"tar.gz of {size:g} MB of CSV, to extracted data", tar,
            (sides.ours("tar"), *sides.of_archive("tar")),
            (Goal(3, ("scp + tar xzf",)), Goal(1.2, ("ssh cat | igzip | tar x, gcm",))),
        ),
        Work(
            "zip", f"zip of {size:g} MB of CSV in 12 members, to extracted data", zipped,
            (sides.ours("zip"), *sides.of_archive("zip")),
            (Goal(5, ("scp + unzip",)),),
        ),
        Work(
            "big", f"one file of {big / MIB:.3g} MiB, random bytes", one_big,
            (sides.ours("file"), *sides.of_file()),
            (Goal(1.7, ("scp",)), Goal(1.2, ("scp, gcm",))),
        ),
        Work(
            "small", f"{files} files of 8 KiB in nested folders", small,
            (sides.ours("tree"), *sides.of_tree()),
            (Goal(1.5, ("rsync -r",)),),
        ),
    ]  # fmt: skip
    works += [
        Work(
            f"rtt{milliseconds}",
            f"{wide / MB:.3g} MB, random bytes, at {milliseconds} ms round trip", one_wide,
            tuple(side for side in works[2].sides if side.name not in _NOT_FAR),
            (Goal(ratio, _FAR_PEERS, "best of " + ", ".join(_FAR_PEERS)),),
            rtt=milliseconds / 1000,
        )
        for milliseconds, ratio in ((50, 3), (100, 4))
    ]  # fmt: skip
    return works + [_sftp_only(work) for work in works[:4]]


def _sftp_only(work: Work) -> Work:
    """Give a work over the account that may use SFTP and nothing else."""
    members = [
        side
        for side in work.sides
        if side.name == sides.OURS or side.name.startswith(("sftp", "lftp", "Connection"))
    ]
    peer = next(side.name for side in members if side.name.startswith("sftp"))
    return Work(
        f"sftp-{work.name}",
        f"SFTP only: {work.title}",
        work.make,
        tuple(members),
        (Goal(1.5, (peer,)),),
        account="sftp",
    )


def prepare(works: list[Work], store: Store) -> dict[str, Dataset]:
    """Make the data of all works, by name; two at a time, since zlib leaves Python's lock alone."""
    makers = list(dict.fromkeys(work.make for work in works))
    with ThreadPoolExecutor(2) as pool:
        made = dict(zip(makers, pool.map(lambda make: make(store), makers), strict=True))
    return {work.name: made[work.make] for work in works}
