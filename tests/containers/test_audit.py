"""`make audit` against a local advisory service: vulnerabilities, none, and no answer."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tree import REPOSITORY, Tree

ADVISORY = {
    "id": "PYSEC-1",
    "aliases": ["CVE-1"],
    "summary": "bad",
    "affected": [
        {
            "package": {"name": "pygments", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Answers as OSV does: below /bad with an advisory for pygments, else with none."""

    asked: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        """Answer one query."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.add(query["package"]["name"])
        bad = self.path == "/bad" and query["package"]["name"] == "pygments"
        self.send_response(200 if self.path in ("/bad", "/good") else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"vulns": [ADVISORY]} if bad else {}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Give the address of an advisory service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Give a tree."""
    return Tree(tmp_path_factory.mktemp("audit") / "clone")


def test_an_advisory_is_named_with_its_fix(tree: Tree, service: str) -> None:
    done = tree.make("audit", f"ARGS=--osv-url {service}/bad")
    assert re.search(r"^pygments +[0-9.]+ +PYSEC-1 +9\.9 +CVE-1", done.stdout, re.MULTILINE)
    assert "1 known vulnerability" in done.stderr
    assert "Error 1" in done.stderr


def test_no_vulnerabilities_means_of_every_pinned_package(tree: Tree, service: str) -> None:
    Advisories.asked.clear()
    done = tree.make("audit", f"ARGS=--osv-url {service}/good")
    assert done.returncode == 0, done.stderr
    assert "No known vulnerabilities found" in done.stderr
    pins = (REPOSITORY / "requirements/dev.txt").read_text()
    everywhere = re.findall(r"^([A-Za-z0-9._-]+)==[^;\n]+\\$", pins, re.MULTILINE)
    assert set(everywhere) <= Advisories.asked


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "{service}/down"])
def test_no_answer_is_an_error(tree: Tree, service: str, address: str) -> None:
    done = tree.make("audit", f"ARGS=--osv-url {address.format(service=service)}")
    assert "the advisory service did not answer" in done.stderr
    assert "Error 5" in done.stderr
    assert done.stderr.count("\n") == 2, done.stderr


def test_a_package_unknown_to_the_service_is_an_error(tmp_path: Path) -> None:
    """As behind a mirror that serves packages and no advisories: pip-audit is strict there."""
    tree = Tree(tmp_path / "clone")
    place = tree.folder / ".venv"
    place.unlink()
    (place / "bin").mkdir(parents=True)
    pins = [(tree.folder / f"requirements/{name}.txt").read_bytes() for name in ("dev", "report")]
    stamp = " ".join(hashlib.sha256(text).hexdigest() for text in pins)
    (place / ".lighterage").write_text(stamp)
    scripts = {
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
        "pip-audit": 'case "$*" in *--strict*) echo "ERROR: a: 404" >&2; exit 1 ;; esac',
    }
    for name, command in scripts.items():
        (place / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (place / "bin" / name).chmod(0o755)
    error = tree.refused("audit")
    assert "the advisory service did not answer for all packages: ERROR: a: 404" in error
    assert "Error 5" in error


def test_a_wrong_option_is_usage(tree: Tree) -> None:
    error = tree.refused("audit", "ARGS=--nonsense")
    assert "unrecognized arguments: --nonsense" in error
    assert "Error 2" in error
