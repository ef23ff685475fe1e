"""Memory: what is free, of the machine and of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.fetch import memory

MB = 10**6
V1 = "memory/memory."


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 800 * MB),
        ({"memory.max": 500 * MB, "memory.current": 100 * MB}, 400 * MB),
        ({"memory.max": "max", "memory.current": 100 * MB}, 800 * MB),
        ({"memory.max": 100 * MB, "memory.current": 100 * MB}, 1),
        ({f"{V1}limit_in_bytes": 300 * MB, f"{V1}usage_in_bytes": 0}, 300 * MB),
        ({f"{V1}limit_in_bytes": 2**63 - 4096, f"{V1}usage_in_bytes": 0}, 800 * MB),
    ],
)  # fmt: skip
def test_the_smaller_of_machine_and_container_counts(
    tmp_path: Path, files: dict[str, object], free: int
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal: 2000000 kB\nMemAvailable: {800 * MB // 1024} kB\n"
    )
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert memory.available(tmp_path) == free


def test_a_system_without_such_files_says_nothing(tmp_path: Path) -> None:
    assert memory.available(tmp_path) == 0
