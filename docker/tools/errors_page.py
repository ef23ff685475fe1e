"""Print docs/errors.md: each error that tasks/ can raise, with its advice, by exit code.

The texts are read from the code, without running it: `{name}` is where a value stands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docker.tools.context import Context
from tasks.fetch import errors

HEAD = """# Errors

Made from the code in tasks/ by `make fmt`. Each failure says what failed and why, and what to do,
in one line on standard error:

```text
lighterage: KIND: WHAT FAILED: WHY: WHAT TO DO
```

The exit code says of which kind it is. In the [JSON result](orchestrators.md) the text is `error`,
and what to do is `advice`. In the tables `{name}` stands for a value, such as a path.

Some errors have more than these texts: that of a missing path names what the nearest directory on
the host has, that of a full disk the free and the needed bytes, that of a denied login the methods
that the server offers and the keys that were tried, and that of a broken archive where the member
begins and how far the archive was read.
"""

_FACTORIES = {"error": 2, "broken": -1, "_exceeded": -1}
"""The methods of an archive's extraction that make its errors, and which argument is the advice."""
_ARCHIVES = Path("tasks/fetch/archives")
_VALUE = re.compile(r"\{[^}]*\}")
_WORD = re.compile(r"[a-z]{2}")
MAX_DEPTH = 4
"""Of texts within texts."""


@dataclass(frozen=True)
class Site:
    """A place in the code that makes an error.

    Attributes:
        place: `file:line`.
        kind: The error's class, or the class of this project that it extends.
        text: What failed and why; empty where the error of another place is passed on.
        advice: What to do; empty where it is the default of its kind.
    """

    place: str
    kind: type[errors.LighterageError]
    text: str
    advice: str


def errors_page(context: Context) -> int:  # noqa: ARG001 (each tool takes the context)
    """Print the page."""
    print(page(list(sites(Path()))))
    return 0


def page(found: list[Site]) -> str:
    """Return the page of some places in the code."""
    sections = [HEAD.rstrip()]
    for code in sorted({site.kind.exit_code for site in found}):
        of_code = [site for site in found if site.kind.exit_code == code]
        for kind in filter({site.kind for site in of_code}.__contains__, _declared().values()):
            rows = dict.fromkeys(
                f"| {_cell(site.text)} | {_cell(site.advice or kind.default_advice)} |"
                for site in of_code
                if site.kind is kind and site.text
            )
            if rows:
                about = (kind.__doc__ or "").partition("\n")[0]
                title = f"## Exit code {code}: {kind.kind}"
                if title in sections:
                    sections.append(about)
                else:
                    sections += [title, about]
                sections.append("\n".join(["| error | what to do |", "| --- | --- |", *rows]))
    return "\n\n".join(sections)


def _cell(text: str) -> str:
    for char in "\\|<*":
        text = text.replace(char, f"\\{char}")
    return text


def sites(root: Path) -> Iterator[Site]:
    """Yield the places in tasks/ that make an error, by file and line."""
    paths = sorted((root / "tasks").rglob("*.py"))
    trees = {path: ast.parse(path.read_bytes()) for path in paths}
    kinds = _kinds(trees.values())
    constants = {
        name: node.value
        for tree in trees.values()
        for node in tree.body
        for name, node in _assigned(node)
    }
    for path, tree in trees.items():
        if path.name == "errors.py" and path.parent.name == "fetch":
            continue
        for function, call in _calls(tree):
            name = getattr(call.func, "attr", "") or getattr(call.func, "id", "")
            kind, advice_at = kinds.get(name), -1
            if kind is None and name in _FACTORIES and path.is_relative_to(root / _ARCHIVES):
                kind, advice_at = errors.ArchiveError, _FACTORIES[name]
            if kind is None or not call.args or getattr(function, "name", "") in _FACTORIES:
                continue
            names = {**constants, **_locals(function, call.lineno)}
            advice = next((k.value for k in call.keywords if k.arg == "advice"), None)
            if advice is None and 0 < advice_at < len(call.args):
                advice = call.args[advice_at]
            place = f"{path.relative_to(root)}:{call.lineno}"
            text = _template(call.args[0], names)
            shown = _template(advice, names, 1) if advice else ""
            if name in _FACTORIES:
                text = f"{{archive}}: {'broken archive: ' if name == 'broken' else ''}{text}"
            if name == "_exceeded":
                setting = _template(call.args[1], names)
                text, shown = f"{text} ({setting})", f"if you trust the archive, raise {setting}"
            is_new = _WORD.search(_VALUE.sub("", text)) and not _passes_on(call.args[0])
            yield Site(place, kind, text if is_new else "", shown)


def _passes_on(text: ast.expr) -> bool:
    """Return whether a text contains that of another error."""
    return any(isinstance(node, ast.Attribute) and node.attr == "text" for node in ast.walk(text))


def _declared() -> dict[str, type[errors.LighterageError]]:
    """Return the kinds of errors by name, in the order of their declaration."""
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.LighterageError)
    }


def _kinds(trees: Iterable[ast.Module]) -> dict[str, type[errors.LighterageError]]:
    """Return each class of error by its name; those of other modules as what they extend."""
    known = _declared()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.bases:
                base = getattr(node.bases[0], "id", "")
                if base in known and node.name not in known:
                    known[node.name] = known[base]
    return known


def _calls(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Yield each call with the innermost function around it, by line."""
    found: dict[ast.Call, ast.AST] = {}
    for scope in ast.walk(tree):
        if isinstance(scope, ast.Module | ast.FunctionDef):
            found.update((node, scope) for node in ast.walk(scope) if isinstance(node, ast.Call))
    yield from ((found[call], call) for call in sorted(found, key=lambda call: call.lineno))


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.Assign | ast.AnnAssign]]:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        yield node.targets[0].id, node
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node


def _locals(function: ast.AST, line: int) -> Mapping[str, ast.expr]:
    """Return the texts that a function's names have at a line, as far as that is plain to see."""
    return {
        name: assignment.value
        for node in ast.walk(function)
        for name, assignment in _assigned(node)
        if assignment.lineno < line and assignment.value and _is_text(assignment.value)
    }


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _template(node: ast.expr, names: Mapping[str, ast.expr | None], depth: int = 0) -> str:
    """Return a text with `{name}` for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part, names, depth + 1) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, names, depth + 1)
    if isinstance(node, ast.BinOp) and _is_text(node):
        return _template(node.left, names, depth) + _template(node.right, names, depth)
    if isinstance(node, ast.IfExp) and depth:
        texts = [_template(part, names, depth) for part in (node.body, node.orelse)]
        return " / ".join(filter(None, texts))
    if isinstance(node, ast.Name):
        value = names.get(node.id)
        if value and (_is_text(value) or isinstance(value, ast.Constant)) and depth < MAX_DEPTH:
            return _template(value, names, depth + 1)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "did_you_mean":
        return " (did you mean {near}?)"
    return f"{{{_name(node)}}}"


def _name(node: ast.expr) -> str:
    """Return a name for the value of an expression."""
    match node:
        case (
            ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Name(id=name), args=[])
        ):
            return name.strip("_").lower()
        case ast.Call(func=ast.Name(id="len")):
            return "number"
        case ast.Call(func=ast.Name(id=name)) if name.startswith("_"):
            return name.strip("_")
        case ast.Call(func=ast.Attribute(attr="replace" | "lower" | "upper", value=inner)):
            return _name(inner)
        case ast.Call(args=[first, *_]) | ast.BoolOp(values=[first, *_]):
            return _name(first)
        case ast.Call(func=ast.Attribute(value=inner)) | ast.Subscript(value=inner):
            return _name(inner)
        case ast.BinOp(op=ast.Div(), right=inner) | ast.IfExp(body=inner):
            return _name(inner)
    return "..."
