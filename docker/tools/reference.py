"""Print docs/reference.md: the settings as tasks/settings.py declares them."""

from __future__ import annotations

from docker.tools.context import Context
from tasks import settings as declared
from tasks.setting_types import expected

HEAD = """# Reference of settings

Made from tasks/settings.py by `make fmt`; [settings.md](settings.md) explains them. `where` is
where a setting can stand: `yaml` in config.yaml, `env` in the env file, in upper case, `option` on
the command line.

| setting | accepts | default | where | meaning |
| --- | --- | --- | --- | --- |
"""


def reference(context: Context) -> int:  # noqa: ARG001 (each tool takes the context)
    """Print the page."""
    print(HEAD + "\n".join(_row(name) for name in sorted(declared.FIELDS) if name != "variant"))
    return 0


def _row(name: str) -> str:
    about = declared.FIELDS[name]
    least = about.metadata.get("least")
    accepts = expected(declared.TYPES[name]).partition(" (")[0]
    accepts += f", at least {least:g}" if least else ""
    default = about.default
    shown = str(default).lower() if isinstance(default, bool) else str(default or "")
    if isinstance(default, float | int) and not isinstance(default, bool):
        shown = f"{default:g}" if default < 1e6 else f"{default:.0e}".replace("e+", "e")
    where = [
        *(["yaml"] if name in declared.CONFIGURABLE else []),
        *(["env"] if about.metadata["env"] else []),
        *(["option"] if about.metadata.get("cli") is not False else []),
    ]
    meaning = about.metadata["help"].replace("%%", "%")
    cells = [f"`{name}`", accepts, f"`{shown}`" if shown else "", ", ".join(where), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"
