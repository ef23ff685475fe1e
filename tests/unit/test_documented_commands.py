"""tests/documented_commands.yaml has each command that the pages print, and no other."""

from __future__ import annotations

import ast

import documented
from tree import REPOSITORY


def test_each_command_of_the_pages_has_one_entry_and_each_entry_a_page() -> None:
    entries = [command for part in documented.ENTRIES.values() for command in part]
    assert sorted(entries) == sorted(documented.commands())


def test_each_test_that_is_said_to_run_a_command_exists() -> None:
    for command, name in documented.ENTRIES["by_test"].items():
        file, _, function = name.partition("::")
        tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, f"{command}: {name}"


def test_a_command_that_no_test_runs_has_a_reason() -> None:
    assert all(len(reason) > 10 for reason in documented.ENTRIES["by_none"].values())
