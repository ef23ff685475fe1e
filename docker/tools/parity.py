"""Check the env examples: one set of keys, which are all that code and compose files read.

Run by the environment's Python, in the project's folder. A line `#KEY=value` mentions a key as well
as `KEY=value` does. Where the examples of two variants differ, `env example` in the `holds` of
their contracts lists the keys of each.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from docker.setup.variants import EXAMPLE_LINE

# Set by make, by the Dockerfiles and by compose, never by a user.
OWN = ("LIGHTERAGE_", "COMPOSE_")


def faults(root: Path) -> list[str]:
    """Tell each fault of the examples of the tree at `root`, as lines that name file and key."""
    examples = {path: _keys(path) for path in sorted(root.glob("envs/*.env.example"))}
    read = dict(_read_by_code(root))
    return [*_different(root, examples), *_unmentioned(root, examples, read)]


def _keys(example: Path) -> set[str]:
    return set(EXAMPLE_LINE.findall(example.read_text(encoding="utf-8")))


def _different(root: Path, examples: dict[Path, set[str]]) -> Iterator[str]:
    everything = set().union(*examples.values())
    if all(keys == everything for keys in examples.values()):
        return
    for path, keys in examples.items():
        name = path.name.removesuffix(".env.example")
        contract = root / "docker" / name / "contract.yaml"
        documents = list(yaml.safe_load_all(contract.read_text(encoding="utf-8")))
        declared = documents[-1]["holds"].get("env example")
        if declared is None or set(declared) != keys:
            lacking = ", ".join(sorted(everything - keys)) or "none"
            yield (
                f"envs/{path.name} lacks {lacking}, which another example has; or list its keys as"
                f" `env example` in docker/{name}/contract.yaml"
            )


def _unmentioned(root: Path, examples: dict[Path, set[str]], read: dict[str, str]) -> Iterator[str]:
    mentioned = set().union(*examples.values())
    for key in sorted(set(read) - mentioned):
        yield f"{read[key]} reads {key}, and no envs/*.env.example mentions it"
    for path, keys in examples.items():
        for key in sorted(keys - set(read)):
            yield f"{path.relative_to(root)} has {key}, which nothing reads"


def _read_by_code(root: Path) -> Iterator[tuple[str, str]]:
    """Give each variable that the tasks or a compose file read, and where."""
    for path in sorted(root.glob("docker/*/compose.yaml")):
        for key in re.findall(r"\$\{([A-Z_]+)", path.read_text(encoding="utf-8")):
            if not key.startswith(OWN):
                yield key, str(path.relative_to(root))
    for path in sorted(root.glob("tasks/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for key in _variables(node):
                if not key.startswith(OWN):
                    yield key, f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"


def _variables(node: ast.AST) -> list[str]:
    """The variables that a piece of code reads: of the environment, or as a setting's field."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=words)):
            return [name.upper()] if any(_is_env(word) for word in words) else []
        case ast.Call(func=ast.Attribute(value=place), args=[ast.Constant(value=str(key)), *_]):
            return [key] if _is_environment(place) or ast.unparse(node.func) == "os.getenv" else []
        case ast.Subscript(value=place, slice=ast.Constant(value=str(key))):
            return [key] if _is_environment(place) else []
    return []


def _is_env(word: ast.keyword) -> bool:
    return word.arg == "env" and isinstance(word.value, ast.Constant) and word.value.value is True


def _is_environment(place: ast.expr) -> bool:
    return ast.unparse(place) in {"os.environ", "environ"}


if __name__ == "__main__":
    found = faults(Path.cwd())
    print("\n".join(found))
    sys.exit(1 if found else 0)
