"""The works: what is fetched, over which link, by whom, and what the goals are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks import sides
from benchmarks.arena import NEAR, Link, Prior
from benchmarks.data import MB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.data import Dataset, Store
    from benchmarks.sides import Side

SIZE = 406
"""MB of CSV where --size says nothing else; all other sizes follow it in proportion."""
Account = Literal["full", "sftp"]
_FAR_PEERS = ("scp", "sftp", "rsync", "lftp pget")
_FILE_PEERS = (
    "scp", "scp, gcm", "sftp", "sftp, gcm", "rsync", "rsync, gcm", "rclone copy",
)  # fmt: skip
BUCKET = "s3://$TARGET"
SIZE_ONLY = f"{sides.OURS} --verify=size"


@dataclass(frozen=True)
class Goal:
    """What the project's wall time is held against.

    Attributes:
        ratio: How many times faster.
        peers: Names of sides; the best of them counts.
        by: Which of the project's sides.
    """

    ratio: float
    peers: tuple[str, ...]
    by: str = sides.OURS


@dataclass(frozen=True)
class Work:
    """One thing to fetch, and who does it.

    Attributes:
        name: For --only.
        title: For people.
        make: Gives the data.
        sides: Who takes part, the project first.
        goals: What is to be reached.
        link: Between client and server.
        prior: What there is before the clock starts.
        account: Which account of the server logs in.
        to_bucket: Whether the data goes to a bucket, see `bucket`, and not to a folder.
    """

    name: str
    title: str
    make: Callable[[Store], Dataset]
    sides: tuple[Side, ...]
    goals: tuple[Goal, ...] = ()
    link: Link = NEAR
    prior: Prior = ""
    account: Account = "full"
    to_bucket: bool = False

    @property
    def measured(self) -> set[str]:
        """Names of the sides that a goal is about."""
        peers = {name for goal in self.goals for name in goal.peers}
        return {sides.OURS, *peers, *(goal.by for goal in self.goals)}


def all_works(size: float = SIZE) -> list[Work]:
    """Give the works, for `size` MB of CSV."""
    share = size / SIZE
    csv, gigabyte, xz = (int(number * MB * share) for number in (SIZE, 1000, 212))
    big, wide = int(448 * MIB * share), int(100 * MB * share)
    few, many, zips = (max(int(count * share), 20) for count in (2000, 20_000, 300))
    # Work.make is compared by `prepare`: one function for each dataset.
    makers: dict[str, Callable[[Store], Dataset]] = {
        "tar": lambda store: store.tar(csv),
        "zip": lambda store: store.zip(csv),
        "big": lambda store: store.random(big),
        "wide": lambda store: store.random(wide),
        "small": lambda store: store.small(few),
        "many": lambda store: store.small(many, 2048, 100),
        "tiny": lambda store: store.tiny_members(many),
        "zips": lambda store: store.zips(zips),
        "one": lambda store: store.repeated_tar(gigabyte, 1),
        "xz": lambda store: store.tar_xz(xz),
    }
    of_tar = (sides.ours("tar"), *sides.of_archive("tar"))
    of_zip = (sides.ours("zip"), *sides.of_archive("zip"))
    of_file = (sides.ours("file"), sides.ours("file", "--verify=size"), *sides.of_file())
    of_tree = (sides.ours("tree"), *sides.of_tree())
    of_mirror = (sides.ours("tree"), *sides.of_mirror())
    rsync = ("rsync -a",)
    works = [
        Work("tar", f"tar.gz of {size:g} MB of CSV, to extracted data", makers["tar"], of_tar,
             (Goal(3, ("scp + tar xzf",)), Goal(1.4, ("ssh cat | igzip | tar x, gcm",)))),
        Work("zip", f"zip of {size:g} MB of CSV in 12 members, to extracted data", makers["zip"],
             of_zip, (Goal(3.5, ("scp + unzip",)),)),
        Work("big", f"one file of {big / MIB:.3g} MiB, random bytes", makers["big"], of_file,
             (Goal(1.0, _FILE_PEERS), Goal(1.15, _FILE_PEERS, SIZE_ONLY),
              Goal(0.85, ("ssh cat, gcm",)))),
        Work("small", f"{few} files of 8 KiB in nested folders", makers["small"], of_tree,
             (Goal(1.0, ("rsync -r",)),)),
        Work("many", f"{many} files of 2 KiB in folders of 100", makers["many"], of_mirror,
             (Goal(1.2, rsync),)),
        Work("same", f"the same {many} files, nothing changed", makers["many"], of_mirror,
             (Goal(0.7, rsync),), prior="same"),
        Work("changed", f"the same {many} files, one changed", makers["many"], of_mirror,
             (Goal(0.7, rsync),), prior="one changed"),
        Work("tiny", f"zip of {many} members of 200 bytes", makers["tiny"], of_zip,
             (Goal(1.2, ("scp + unzip",)),)),
        Work("zips", f"{zips} zips of 100 KB", makers["zips"],
             (sides.ours("tree"), *sides.of_zips()), (Goal(2.5, ("scp -r, unzip each",)),)),
        Work("one", f"tar.gz of one CSV of {gigabyte / MB:.0f} MB", makers["one"], of_tar,
             (Goal(3, ("scp + tar xzf",)),)),
        Work("xz", f"tar.xz of {xz / MB:.0f} MB of CSV", makers["xz"],
             (sides.ours("tar"), *sides.of_xz()), (Goal(1.1, ("scp + tar xJf",)),)),
        *(
            Work(f"rtt{ms}", f"{wide / MB:.3g} MB, random bytes, at {ms} ms round trip",
                 makers["wide"], of_file, (Goal(ratio, _FAR_PEERS),), link=Link(ms / 1000))
            for ms, ratio in ((50, 4), (100, 5))
        ),
        Work("rtt100-big", f"{big / MIB:.3g} MiB at 100 ms round trip", makers["big"], of_file,
             (Goal(9, ("scp, gcm",)),), link=Link(0.1)),
        Work("gigabit", f"{big / MIB:.3g} MiB at 1 Gbit/s and 20 ms round trip", makers["big"],
             of_file, (Goal(1.0, ("scp", "scp, gcm", "rclone copy")),), link=Link(0.02, 125e6)),
        Work("s3-tar", f"tar.gz of {size:g} MB of CSV, to extracted data in a bucket",
             makers["tar"], (sides.ours("tar", target=BUCKET), *sides.of_archive_to_bucket()),
             (Goal(1.5, ("scp, tar xzf, rclone copy", "scp, tar xzf, rclone copy, gcm",
                         "rclone copy, tar xzf, rclone copy")),), to_bucket=True),
        Work("s3-tree", f"{few} files of 8 KiB in nested folders, to a bucket", makers["small"],
             (sides.ours("tree", target=BUCKET), *sides.of_tree_to_bucket()),
             (Goal(1.0, ("rclone copy",)),), to_bucket=True),
    ]  # fmt: skip
    return works + [_sftp_only(work) for work in works[:4]]


def _sftp_only(work: Work) -> Work:
    """Give a work over the account that may use SFTP and nothing else."""
    members = [
        side
        for side in work.sides
        if side.name == sides.OURS or side.name.startswith(("sftp", "lftp", "Connection"))
    ]
    peers = tuple(side.name for side in members if side.name.startswith("sftp"))
    return Work(
        f"sftp-{work.name}",
        f"SFTP only: {work.title}",
        work.make,
        tuple(members),
        (Goal(1.15, peers),),
        account="sftp",
    )


def prepare(works: list[Work], store: Store) -> dict[str, Dataset]:
    """Make the data of all works, by name; two at a time, since zlib leaves Python's lock alone."""
    makers = list(dict.fromkeys(work.make for work in works))
    with ThreadPoolExecutor(2) as pool:
        made = dict(zip(makers, pool.map(lambda make: make(store), makers), strict=True))
    return {work.name: made[work.make] for work in works}
