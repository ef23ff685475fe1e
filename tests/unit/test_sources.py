"""What was found on the host: which items belong to which source, as some are left out."""

from __future__ import annotations

from tasks.fetch.plan import Item
from tasks.fetch.sources import Found, Named
from tasks.fetch.ssh.remote_files import RemoteFile


def test_items_stay_with_their_source_as_others_are_left_out() -> None:
    found = Found(
        items=[Item(RemoteFile(name, 1, 1), name, True) for name in "xyz"],
        named=[Named(name, False, start, start + 1) for start, name in enumerate("xyz")],
    )
    assert found.keep_items(lambda item: item.path != "x") == 1
    assert [(one.path, one.start, one.end) for one in found.named] == [
        ("x", 0, 0),
        ("y", 0, 1),
        ("z", 1, 2),
    ]
    found.named[1].reason = "no marker"
    found.leave_out()
    assert ([item.path for item in found.items], found.late) == (["z"], ["y"])
    assert [(one.start, one.end) for one in found.named] == [(0, 0), (0, 0), (0, 1)]
