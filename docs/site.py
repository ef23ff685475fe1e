"""Pages of the website that lie outside docs/, for MkDocs: see .mkdocs.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md"} | {
    f"{name}.md": f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")
}


def on_files(files: Any, config: Any) -> Any:
    """Add README.md and others, with the paths of their links as seen from docs/."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](README.md", "](index.md")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead the links of a page in docs/ to these pages."""
    for name, source in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return markdown
