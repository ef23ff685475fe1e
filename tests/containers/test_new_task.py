"""What `make new-task` writes passes all checks and its tests, and runs, without an edit."""

from __future__ import annotations

from pathlib import Path

from tree import NO_ENGINE, Tree


def test_new_tasks_pass_the_checks_and_their_tests_at_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "clone", env=NO_ENGINE)
    tree.ok("new-task", "NAME=940")
    tree.ok("new-task", "NAME=neworders", "KIND=tree")
    assert "NAME=" in tree.refused("new-task")
    assert "Tasks: 1 2 3 940 neworders" in tree.ok("help")
    rows = tree.ok("tasks")
    assert "task 940 " in rows
    assert "  Task neworders: a directory of CSVs and zips, nested." in rows
    for check in ("format", "lint", "types", "imports", "yaml", "generated", "env-examples"):
        tree.ok(f"check-{check}", timeout=600)
    files = "tests/faults/test_task_940.py tests/faults/test_task_neworders.py"
    tested = tree.ok("test", "SETUP=0", f"ARGS={files} -n 0", timeout=600)
    assert "failed" not in tested
    try:
        for variant in ("dev", "prod"):
            assert f"task 940 ({variant}): landed" in tree.ok("run", "TASK=940", f"ENV={variant}")
        assert "task neworders (dev): landed" in tree.ok("run", "TASK=neworders")
        assert tree.ok("tasks").count(" landed 20") == 2
    finally:
        for variant in ("dev", "prod"):
            tree.make("down", f"ENV={variant}")
