"""Print the builds of all variants as a bake file: `make bake | docker buildx bake --file -`.

It builds for several architectures at once, and pushes with attestations of the provenance and of
the packages. The base images are the hub's: those of Debian packages have one architecture.
"""

from __future__ import annotations

import json
import tomllib

from docker.setup.bases import hub_references
from docker.setup.project import Failure
from docker.setup.venv import build_secrets
from docker.tools.context import Context, Variant

PLATFORMS = ("linux/amd64", "linux/arm64")
ATTESTATIONS = ("type=provenance,mode=max", "type=sbom")


def bake(context: Context, *variants: Variant) -> int:
    """Print the bake file of the named variants; of all by default.

    Raises:
        Failure: `BASE=debian`, or no registry is named.
    """
    if context.base == "debian":
        raise Failure("bake takes the hub's base images, and BASE is debian: leave it empty")
    registry = context.registry.rstrip("/")
    if not registry:
        raise Failure("bake needs a registry: make bake REGISTRY=registry.example/team")
    text = (context.root / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    bases, _ = hub_references(context)
    common = {
        "context": ".",
        "platforms": list(PLATFORMS),
        "attest": list(ATTESTATIONS),
        "secret": [f"id={name},src={path}" for name, path in build_secrets().items()],
        "args": {**bases, **({"EXTRAS": context.extras} if context.extras else {})},
    }
    targets = {
        variant.name: {
            "dockerfile": f"docker/{variant.name}/Dockerfile",
            "tags": [f"{registry}/{context.name}-{variant.name}:{version}"],
            **common,
        }
        for variant in variants or Variant.all(context)
    }
    print(
        json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets}, indent=2)
    )
    return 0
