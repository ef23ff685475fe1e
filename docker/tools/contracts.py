"""Contracts: what docker/*/contract.yaml declares, and how a measured value is compared with it.

A declaration is a text, a list of texts, or `any of` and a list of those; `*` stands for any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from docker.setup.project import Failure
from docker.tools.context import Variant, read_yaml
from docker.tools.rows import Facts, Value

Contract = Mapping[str, Any]


def contract_of(variant: Variant) -> Contract:
    """Return the declared value of each row.

    Raises:
        Failure: there is no contract, no second document with `holds`, or a value of another form.
    """
    path, name = variant.folder / "contract.yaml", f"docker/{variant.name}/contract.yaml"
    if not path.exists():
        raise Failure(f"{name} is missing: what must hold for it?")
    documents = read_yaml(path)
    second = documents[1] if len(documents) == 2 else None
    if not isinstance(second, dict) or not isinstance(second.get("holds"), dict):
        raise Failure(f"{name}: expected a second document, `holds:`")
    return {
        str(row): _declaration(f"{name}: {row}", value) for row, value in second["holds"].items()
    }


def _declaration(where: str, value: Any) -> Any:
    """Return a declaration, with texts for what YAML reads as numbers."""
    match value:
        case {"any of": list(choices)} if len(value) == 1:
            return {"any of": [_declaration(where, choice) for choice in choices]}
        case list() if not any(isinstance(item, (dict, list)) for item in value):
            return [str(item) for item in value]
        case None | list() | dict():
            raise Failure(
                f"{where}: expected a text, a list of texts, or `any of` and a list of those"
            )
    return str(value)


def declared(contract: Contract, row: str) -> Any:
    """Return what is declared for a row, by its name or by a pattern; None without."""
    if row in contract:
        return contract[row]
    return next((value for key, value in contract.items() if fnmatchcase(row, key)), None)


def matches(declaration: Any, value: Value) -> bool:
    """Return whether a value is as declared."""
    if isinstance(declaration, dict):
        return any(matches(choice, value) for choice in declaration["any of"])
    if declaration == "*":
        return True
    wanted = sorted(declaration) if isinstance(declaration, list) else [declaration]
    have = sorted(value) if isinstance(value, list) else [value]
    return len(wanted) == len(have) and all(map(fnmatchcase, have, wanted))


def violations(facts: Facts, contract: Contract, *, complete: bool = True) -> list[str]:
    """Return a line for each row that is not as declared, and each that is declared in vain.

    Args:
        facts: what was measured.
        contract: of the same variant.
        complete: whether its running containers were measured, too.
    """
    found = []
    for row, value in facts.items():
        declaration = declared(contract, row)
        if declaration is not None and not matches(declaration, value):
            found.append(f"{row}: {_difference(value, declaration)}")
    for key in contract if complete else ():
        if not any(row == key or fnmatchcase(row, key) for row in facts):
            near = get_close_matches(key, facts, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"{key}: is declared, and nothing measures it{hint}")
    return found


def _difference(value: Value, declaration: Any) -> str:
    """Return how a value differs; of lists, only the items that one side lacks."""
    if not (isinstance(value, list) and isinstance(declaration, list)):
        return f"{shown(value)}, where {shown(declaration)} is declared"
    extra = [item for item in value if not any(fnmatchcase(item, one) for one in declaration)]
    missing = [one for one in declaration if not any(fnmatchcase(item, one) for item in value)]
    parts = [f"has {' '.join(extra)}, which is not declared"] if extra else []
    return " and ".join([*parts, *([f"lacks the declared {' '.join(missing)}"] if missing else [])])


def undeclared(
    names: Sequence[str], facts: Sequence[Facts], contracts: Sequence[Contract]
) -> list[str]:
    """Return a line for each row in which two variants differ and that not both contracts have.

    Args:
        names: of the two variants.
        facts: of each.
        contracts: of each.
    """
    found = []
    for row in [row for row in facts[0] if row in facts[1] and facts[0][row] != facts[1][row]]:
        lacking = [
            f"docker/{name}/contract.yaml"
            for name, contract in zip(names, contracts, strict=True)
            if declared(contract, row) is None
        ]
        if lacking:
            values = [f"{n} {shown(f[row])}" for n, f in zip(names, facts, strict=True)]
            found.append(f"{row}: {', '.join(values)}; not declared in {' and '.join(lacking)}")
    return found


def shown(value: Any) -> str:
    """Return a value or a declaration as one text."""
    if isinstance(value, dict):
        return " or ".join(map(shown, value["any of"]))
    return " ".join(value) if isinstance(value, list) else str(value)
