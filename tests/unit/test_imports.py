"""The dependency rules of pyproject.toml hold, and a broken rule is reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import linter on the `tasks` package of a folder."""
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(program), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_imports_keep_the_dependency_rules() -> None:
    done = lint_imports(REPOSITORY)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("tasks/fetch/ssh/retry.py", "tasks.fetch.stores"),
        ("tasks/fetch/stores/__init__.py", "tasks.settings"),
        ("tasks/fetch/errors.py", "tasks.fetch.api"),
    ],
)
def test_an_import_against_the_rules_is_reported(
    tmp_path: Path, module: str, imported: str
) -> None:
    shutil.copytree(
        REPOSITORY / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\nimport {imported}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    importer = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert f"{importer} -> {imported}" in done.stdout
