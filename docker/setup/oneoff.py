"""The container of `compose run`: made by compose, or created again as compose made it last time.

Compose 1.29 takes 0.8 s for what the engine does in 0.05 s. While compose's container runs, the
engine is asked what it is; that is kept, with all that compose read for it. While none of it
changes, the same specification goes to the engine again. In doubt compose runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.setup.engine import CLIENT_VARIABLES, Engine
from docker.setup.project import make_folder, write_atomic
from docker.setup.variants import Variant

# Keys of compose files that do more than describe the container, or that name a file to read.
BEYOND = re.compile(
    r"\b(configs|depends_on|deploy|develop|env_file|external_links|include|label_file|links|models"
    r"|post_start|pre_start|pre_stop|provider|volumes_from)\b[\"']?\s*:"
)
# An update of compose is noticed after a day at the latest.
KEPT_S = 24 * 3600
POLL_S = 0.03
# A container takes over its image's settings. Volumes have no id, and CreatedAt is no help: it is
# the time of the last change in their folder.
IDENTITY = {"image": ["Config"], "network": ["Id"], "volume": ["Driver", "Labels", "Options"]}
SLUG = "com.docker.compose.slug"


class OneOff:
    """A container that ends with its command.

    Args:
        engine: The one that runs it.
        variant: Whose image and compose file it has.
        words: The command up to the service, which decide what the container is.
        arguments: Those of the container's own command.
    """

    def __init__(
        self, engine: Engine, variant: Variant, words: Sequence[str], arguments: Sequence[str]
    ) -> None:
        self.name = f"{variant.prefix}-run-{os.getpid()}-{os.urandom(3).hex()}"
        self._engine = engine
        self._variant = variant
        self._words = list(words)
        self._arguments = list(arguments)
        key = hashlib.sha256(json.dumps([self._words, bool(arguments)]).encode()).hexdigest()
        self._file = f"{variant.prefix}-{key[:16]}.json"
        self._read: list[Any] = []

    @property
    def by_compose(self) -> list[str]:
        """The command with which compose makes and runs it."""
        at = self._words.index("run") + 1
        return [*self._words[:at], "--name", self.name, *self._words[at:], *self._arguments]

    @property
    def by_engine(self) -> list[str]:
        """The command that runs it once it is created: compose's own."""
        return [self._engine.client, "start", "--attach", "--interactive", self.name]

    def create(self) -> bool:
        """Create it as compose made the last one; return False where compose must do it."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._read = self._reading() if self._engine.socket else []
            read, parts, body = json.loads(self._path.read_text(encoding="utf-8"))
            if read != self._read or time.time() - self._path.stat().st_mtime > KEPT_S:
                return False
            if any(self._identity(*part) != was for *part, was in parts):
                return False
            if self._arguments:
                body["Cmd"] = self._arguments
            if SLUG in body["Labels"]:
                body["Labels"][SLUG] = os.urandom(32).hex()
            status, _ = self._engine.call("POST", f"/containers/create?name={self.name}", body)
            return status == 201
        return False

    def record(self, process: subprocess.Popen[bytes]) -> None:
        """Keep what compose made, once it runs."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts: dict[str, Any] = {}
            while not facts.get("State", {}).get("Running"):
                if not self._read or process.poll() is not None:
                    return
                time.sleep(POLL_S)
                facts = self._engine.inspect("container", self.name)
            body = specification(facts)
            if not body or (self._arguments and body["Cmd"] != self._arguments):
                return
            (network,) = body["NetworkingConfig"]["EndpointsConfig"]
            volumes = [mount["Name"] for mount in facts["Mounts"] if mount["Type"] == "volume"]
            parts = [("network", network), *(("volume", name) for name in volumes)]
            kept = [(*part, self._identity(*part)) for part in parts]
            kept.append(("image", body["Image"], self._identity("image", facts["Image"])))
            for path in self._path.parent.glob("*.json"):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
            if self._reading() == self._read:
                write_atomic(self._path, json.dumps([self._read, kept, body]).encode(), 0o600)

    @property
    def _path(self) -> Path:
        return make_folder(self._variant.project.state / "compose", 0o700) / self._file

    def _identity(self, kind: str, name: str) -> str:
        """Return what compose goes by of something that it finds or makes."""
        facts = self._engine.inspect(kind, name)
        return json.dumps([facts[key] for key in IDENTITY[kind]], sort_keys=True)

    def _reading(self) -> list[Any]:
        """Return all that compose and the engine go by; nothing where only they know it."""
        paths = sorted(self._variant.project.root.glob("docker/*/compose.yaml"))
        files = {f"../{path.parent.name}/{path.name}": path.read_text("utf-8") for path in paths}
        text = re.sub(r"(?m)^\s*#.*$", "", "".join(files.values()))
        others = set(re.findall(r"[^\s\"'{},\[\]]+\.ya?ml", text)) - files.keys()
        if others or BEYOND.search(text):
            return []
        env = self._variant.compose_file.with_name(".env").read_text("utf-8")
        names = {*re.findall(r"\$\{?(\w+)", text), *CLIENT_VARIABLES}
        values = {name: os.environ.get(name) for name in sorted(names)}
        # The engine makes this network when it starts, with the settings that it has then.
        started = self._engine.inspect("network", "bridge").get("Id")
        return [str(self._variant.compose_file), files, env, values, started]


def specification(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that creates a container like the one of these facts.

    Nothing where it depends on other containers, or is in more or fewer networks than one, which a
    single request cannot say to every engine.
    """
    host, networks = facts["HostConfig"], facts["NetworkSettings"]["Networks"]
    shared = [value for value in host.values() if str(value).startswith("container:")]
    shared += [host.get("VolumesFrom"), host.get("Links")]
    if any(shared) or [*networks] != [host["NetworkMode"]]:
        return {}
    ((network, endpoint),) = networks.items()
    own = {facts["Id"][:12], facts["Name"].lstrip("/")}
    chosen = {key: endpoint.get(key) for key in ("IPAMConfig", "DriverOpts")}
    chosen["Aliases"] = [name for name in endpoint.get("Aliases") or [] if name not in own]
    config = dict(facts["Config"])
    if config.get("Hostname") in own:
        del config["Hostname"]
    # As `--rm` does in newer versions of compose; 1.29 removes the container itself.
    config["HostConfig"] = {**host, "AutoRemove": True}
    config["NetworkingConfig"] = {"EndpointsConfig": {network: chosen}}
    return config
