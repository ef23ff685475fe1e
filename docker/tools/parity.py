"""Check the env examples: one set of keys, which are all that code and compose files read.

A line `#KEY=value` mentions a key as well as `KEY=value` does. Where the examples of two variants
differ, `env example` in the `holds` of their contracts lists the keys of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from docker.setup.envfiles import setting_names
from docker.setup.variants import EXAMPLE_LINE
from docker.tools.context import Context

# Set by make, by the Dockerfiles and by compose, never by a user.
OWN = ("LIGHTERAGE_", "COMPOSE_")
# Of the user's terminal; `make run` passes them on.
OF_TERMINAL = {"NO_COLOR", "TERM"}
# How files read a variable.
READ = {
    "docker/*/compose.yaml": re.compile(r"\$\{([A-Z_]+)"),
    "tasks/**/*.py": re.compile(r"""\b(?:getenv\(|environ(?:\.get\(|\[))["'](\w+)"""),
}


def parity(context: Context) -> int:
    """Print each fault of the examples; exit 1 with one."""
    found = faults(context.root)
    for line in found:
        print(line)
    return 1 if found else 0


def faults(root: Path) -> list[str]:
    """Return a line for each fault of the examples of the tree at `root`."""
    examples = {path: set(example_keys(path)) for path in sorted(root.glob("envs/*.env.example"))}
    read = {
        key: where
        for key, where in _read_by_code(root)
        if not key.startswith(OWN) and key not in OF_TERMINAL
    }
    mentioned = set().union(*examples.values())
    found = [
        f"{read[key]} reads {key}, and no envs/*.env.example mentions it"
        for key in sorted(read.keys() - mentioned)
    ]
    for path, keys in examples.items():
        found += [
            f"envs/{path.name} has {key}, which nothing reads" for key in sorted(keys - read.keys())
        ]
        name = path.name.removesuffix(".env.example")
        if any(keys != other for other in examples.values()) and _declared(root, name) != keys:
            lacking = ", ".join(sorted(mentioned - keys)) or "none"
            found.append(
                f"envs/{path.name} lacks {lacking}, which another example has; or list its keys as"
                f" `env example` in docker/{name}/contract.yaml"
            )
    return found


def example_keys(example: Path) -> list[str]:
    """Return the keys that an env example mentions."""
    return sorted(EXAMPLE_LINE.findall(example.read_text(encoding="utf-8")))


def _declared(root: Path, name: str) -> set[str]:
    """Return the keys that a variant's contract declares for its example."""
    contract = root / "docker" / name / "contract.yaml"
    documents = list(yaml.safe_load_all(contract.read_text(encoding="utf-8")))
    return set(documents[-1]["holds"].get("env example") or ())


def _read_by_code(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each variable that a setting, a task or a compose file reads, and where."""
    for key in setting_names(root)[0]:
        yield key, "tasks/settings.py"
    for pattern, read in READ.items():
        for path in sorted(root.glob(pattern)):
            for key in read.findall(path.read_text(encoding="utf-8")):
                yield key, str(path.relative_to(root))
