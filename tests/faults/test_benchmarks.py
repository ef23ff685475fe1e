"""The benchmarks on next to nothing: every side works, downloads the same bytes, and is recorded.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

import sshd
from benchmarks import build, data, report, results, sides, works
from benchmarks.arena import HERE, Sample


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark as `make bench` does."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.fetch", *arguments],
        cwd=HERE.parent, env={**os.environ, "PYTHONPATH": "tests/support"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


FEW = ["same", "changed", "tiny", "zips", "one", "xz", "rtt50", "gigabit", "s3-tar", "s3-tree"]


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("names", "full"), [(["tar", "zip", "big", "small"], ["--full"]), (FEW, [])]
)
def test_every_side_lands_the_same_bytes(tmp_path: Path, names: list[str], full: list[str]) -> None:
    sshd.need_sshd()
    names += ["sftp-small"] if sshd.ROOT and full else []
    done = bench("--size", "2", "--output", str(tmp_path), "--rounds", "1", *full, "--only", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "fetch.json").read_text())
    assert {"schema", "mode", "machine", "versions", "rounds", "missing", "memory"} <= set(written)
    assert {"cpu", "cores", "kernel", "file_system", "load"} <= set(written["machine"])
    assert [work["name"] for work in written["works"]] == names
    for work in written["works"]:
        assert work["sides"][0]["name"] == sides.OURS
        assert work["goals"] or written["missing"], "a goal has a peer to be measured against"
        measured = next(w for w in works.all_works() if w.name == work["name"]).measured
        for side in work["sides"]:
            if not full and side["name"] not in measured:
                continue
            assert [sample["fault"] for sample in side["samples"]] == [""], side["name"]
            assert {"median_seconds", "min_seconds", "max_seconds", "ratio"} <= set(side)
            assert all(sample["host_cpu_seconds"] > 0 for sample in side["samples"]), side["name"]
            assert side["cipher"].endswith(("@openssh.com", "-ctr")), side["name"]
            assert side["name"] in done.stdout
    assert ET.parse(tmp_path / "fetch.svg").getroot().tag.endswith("svg")


@pytest.mark.sshd
def test_growth_series_has_its_points(tmp_path: Path) -> None:
    sshd.need_sshd()
    done = bench("--size", "2", "--output", str(tmp_path), "--growth", "--only", "tar", "zip")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "growth.json").read_text())
    assert [line["name"] for line in written["series"]] == ["tar", "zip"]
    for line in written["series"]:
        assert all(point["peak_bytes"] > 0 for point in line["points"])
        assert {"seconds", "per_unit", "r2"} <= set(line["line"])
    assert ET.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")


def test_an_unknown_work_is_refused_with_the_known_names() -> None:
    done = bench("--only", "tarr")
    assert done.returncode == 2
    assert "sftp-tar" in done.stderr


@pytest.mark.parametrize("kind", ["tar", "zip", "repeated_tar", "repeated_zip"])
def test_digest_of_an_archive_is_that_of_its_members(tmp_path: Path, kind: str) -> None:
    made: data.Dataset = getattr(data.Store(tmp_path / "store"), kind)(400_000)
    if kind.endswith("tar"):
        with tarfile.open(made.source) as tar:
            tar.extractall(tmp_path / "out", filter="data")
    else:
        with zipfile.ZipFile(made.source) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path / "out")
    assert data.tree_digest(tmp_path / "out") == made.tree
    assert sum(path.stat().st_size for path in tmp_path.glob("out/**/*.csv")) == made.size
    assert 3 < made.size / made.packed < 5, "packs like a CSV that people have"


def test_digest_of_other_datasets_is_that_of_their_files(tmp_path: Path) -> None:
    store = data.Store(tmp_path / "store")
    for made in (store.tar_xz(400_000), store.repeated_tar(400_000, 1)):
        with tarfile.open(made.source) as tar:
            tar.extractall(tmp_path / made.top.name, filter="data")
        assert data.tree_digest(tmp_path / made.top.name) == made.tree
    for made in (store.tiny_members(50), store.zips(3)):
        for path in sorted(made.top.rglob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(tmp_path / made.top.name)
        assert data.tree_digest(tmp_path / made.top.name) == made.tree


def test_data_is_made_once_and_always_the_same(tmp_path: Path) -> None:
    store = data.Store(tmp_path / "one")
    first = store.small(30)
    made = first.source.stat().st_mtime_ns
    assert (store.small(30), first.source.stat().st_mtime_ns) == (first, made)
    assert data.Store(tmp_path / "other").small(30).tree == first.tree


def test_relay_forwards_every_byte_and_the_end_of_each_direction() -> None:
    sent, answer = bytes(range(256)) * 20_000, b"answer" * 100_000
    received = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            received.append(b"".join(iter(lambda: connection.recv(65536), b"")))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = str(listener.getsockname()[1])
        command = [sys.executable, str(HERE / "delay.py"), port, "0.02", "2e6", "127.0.0.1"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as relay:
            assert relay.stdin
            assert relay.stdout
            with socket.create_connection(("127.0.0.1", int(relay.stdout.readline()))) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: client.recv(65536), b""))
            relay.stdin.close()
            assert relay.wait(10) == 0
        thread.join(10)
    assert (received, got) == ([sent], answer)


def test_goals_are_compared_with_the_best_of_their_peers(tmp_path: Path) -> None:
    work = next(work for work in works.all_works() if work.name == "rtt50")
    seconds = {sides.OURS: 1.0, "scp": 4.0, "sftp": 2.0, "rsync": 3.5}
    standings = [
        results.Standing(side, [Sample(seconds[side.name], 0, 0, 0)])
        for side in work.sides
        if side.name in seconds
    ]
    standings[-1].samples.append(Sample(0.1, 0, 0, 0, "other bytes than the source's"))
    made = data.Dataset(tmp_path, tmp_path, "", 1, 1, 1)
    result = results.Result(work, made, standings)
    verdict = result.verdicts()[0]
    assert (verdict.rival.side.name, verdict.ratio, verdict.met) == ("sftp", 2.0, False)
    result.ours.samples = [Sample(seconds, 0, 0, 0) for seconds in (0.4, 0.4, 0.6)]
    standings[1].samples = standings[2].samples = [Sample(2.1, 0, 0, 0)] * 3
    assert result.verdicts()[0].verdict == "met, NOT in the worst round"
    result.ours.samples = [Sample(1.0, 0, 0, 0)]
    table = "\n".join(report.table(result))
    assert "NOT met" in table
    assert "FAILED: other bytes" in table


def test_straight_line_is_fitted() -> None:
    line = results.Line.through((x, 2 + 3 * x) for x in (1.0, 10.0, 100.0))
    assert line
    assert (line.base, line.slope, line.r2) == pytest.approx((2, 3, 1))
    assert results.Line.through([(1.0, 1.0), (2.0, 2.0)]) is None


def test_figure_of_a_build_is_compared_with_its_goals() -> None:
    row = build.Row("build", "s", most=1, share=0.5, ours=[0.5, 2, 0.75], peer=[1.0, 1.5, 1.25])
    assert row.ratio == pytest.approx(0.6)
    assert list(row.verdicts()) == ["<= 1 s met", "<= 0.5x NOT met"]
    assert "0.75 s 0.50..2.00" in row.line()
    assert "0.60x" in row.line()
    assert json.loads(json.dumps(row.as_data()))["goals"] == list(row.verdicts())
    alone = build.Row("start", "s", share=0.5, ours=[1])
    assert (alone.ratio, list(alone.verdicts())) == (None, [])
    assert build.Row("fetched", "packages", ours=[1], peer=[0]).ratio is None


def test_downloads_of_a_build_are_counted_from_the_logs_of_uv_and_pip() -> None:
    uv = "#9 1.2 Resolved 20 packages in 3ms\n#9 1.4 Prepared 2 packages in 100ms\n"
    pip = "#9 Collecting a\n#9 Downloading a-1-py3-none-any.whl (1 kB)\n#9 Using cached b-1.whl\n"
    assert build.fetched(uv) == 2
    assert build.fetched(pip) == 1
    assert build.fetched("#9 Resolved 20 packages in 3ms\n#9 Installed 20 packages\n") == 0
