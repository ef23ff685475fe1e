"""Prove that each variant is what its contract says, and that they differ only where those say so.

A `docker/*/contract.yaml` has two documents: tests for container-structure-test, and `holds`, the
value of each row that `make diff` measures, and of those that running containers show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from docker.setup import envfiles, front, host, images, sample_host
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant
from docker.tools import isolation
from docker.tools.measure import (
    SECRET,
    Facts,
    Measured,
    Value,
    measure,
    mounted_env_file,
    probe,
    read_yaml,
    resolved,
    rows,
)

# The service's main process in the crash test. It can signal no process but itself, whatever it
# shares with the machine. `docker kill` is no crash: the engine takes it for a stop that the user
# wants, after which `unless-stopped` restarts nothing (moby, daemon/kill.go); and the pid that the
# engine reports is another process where the engine runs in a virtual machine.
CRASH = "import os, signal, time; time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
# moby waits 0.1 s before the first restart and doubles that each time, up to a minute
# (restartmanager/restartmanager.go): 1.6 s before the fifth. Where ten restarts show no such
# delay, it does not grow.
LONG_DELAY_S, RESTARTS, RESTART_SECONDS = 1.6, 10, 60.0
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def verify(project: Project, names: Sequence[str]) -> int:
    """Print what holds and what does not; exit 1 when something does not.

    Args:
        project: the clone and its knobs.
        names: the variants whose images and containers are looked at; all without any. They are
            compared with every other variant in any case.
    """
    engine = front.engine_for(project, "verify")
    variants = Variant.all(project)
    chosen = [Variant.named(project, name).name for name in names] or [v.name for v in variants]
    contracts = {variant.name: _holds(variant) for variant in variants}
    found = [measure(project, variant, engine) for variant in variants]
    at_rest = rows(found)
    for one in found:  # what only another variant has is none here
        one.facts.update({row: one.value(row) for row in at_rest})
    wrong = []
    for one in found:
        if one.variant.name in chosen:
            name = one.variant.name
            wrong += _tell(f"image of {name}", _structure(one.variant, engine))
            refused = isolation.reasons(resolved(one.variant, engine))
            if refused:
                wrong += _tell(f"containers of {name}: not started", refused)
            else:
                facts = running(project, one, engine)
                shown = _shown_secrets(one.variant, facts.pop("environment"))
                wrong += _tell(f"no secret in the environment of {name}", shown)
                one.facts.update(facts)
            wrong += _tell(f"contract of {name}", _kept(one, contracts[name], ran=not refused))
    for number, left in enumerate(found):
        for right in found[number + 1 :]:
            if {left.variant.name, right.variant.name} & set(chosen):
                title = f"differences of {left.variant.name} and {right.variant.name}"
                wrong += _tell(title, _undeclared(left, right, at_rest, contracts))
    if wrong:
        say(f"{len(wrong)} thing(s) are not as declared")
    return 1 if wrong else 0


def _tell(title: str, wrong: list[str]) -> list[str]:
    print(f"{'FAIL' if wrong else 'ok  '} {title}", flush=True)
    for line in wrong:
        print(f"     {line}", flush=True)
    return wrong


def _holds(variant: Variant) -> Mapping[str, Any]:
    """What a contract says of the rows.

    Raises:
        Failure: there is no contract, it has no second document with `holds`, or what it declares
            is of no form that `_same` knows.
    """
    path = variant.compose_file.with_name("contract.yaml")
    name = f"docker/{variant.name}/contract.yaml"
    if not path.exists():
        raise Failure(f"{name} is missing: what must hold for it?")
    documents = read_yaml(variant.project, path.read_text(encoding="utf-8"), name)
    second = documents[1] if len(documents) == 2 else None
    if not isinstance(second, dict) or not isinstance(second.get("holds"), dict):
        raise Failure(f"{name}: expected a second document, `holds:`")
    return {str(row): _texts(f"{name}: {row}", value) for row, value in second["holds"].items()}


def _texts(name: str, value: Any) -> Any:
    """A declaration with texts for whatever YAML made of them.

    Raises:
        Failure: it has none of the forms that `_same` knows.
    """
    if isinstance(value, dict) and list(value) == ["any of"] and isinstance(value["any of"], list):
        return {"any of": [_texts(name, one) for one in value["any of"]]}
    if isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in value):
        return [str(one) for one in value]
    if value is None or isinstance(value, (dict, list)):
        raise Failure(f"{name}: expected a text, a list of texts, or `any of` and a list of those")
    return str(value)


def _declared(holds: Mapping[str, Any], row: str) -> Any:
    """What is declared for a row: by its name, or by a pattern; None without."""
    if row in holds:
        return holds[row]
    return next((value for key, value in holds.items() if fnmatchcase(row, key)), None)


def _same(declared: Any, measured: Value) -> bool:
    """Whether a value is the declared one: a pattern, a list of patterns, or `any of` several."""
    if isinstance(declared, dict):
        return any(_same(one, measured) for one in declared["any of"])
    if declared == "*":
        return True
    wanted = sorted(declared) if isinstance(declared, list) else [declared]
    have = sorted(measured) if isinstance(measured, list) else [measured]
    return len(wanted) == len(have) and all(map(fnmatchcase, have, wanted))


def _kept(one: Measured, holds: Mapping[str, Any], *, ran: bool) -> list[str]:
    """Tell each row that is not as the variant's contract says, and each that nothing measures.

    Args:
        one: the variant.
        holds: its contract.
        ran: whether its containers were measured; without that, rows may be missing.
    """
    name, wrong = one.variant.name, []
    for row, value in one.facts.items():
        declared = _declared(holds, row)
        if declared is not None and not _same(declared, value):
            wrong.append(f"{row}: {_unlike(value, declared)}")
    for key in holds if ran else ():
        if not any(fnmatchcase(row, key) or row == key for row in one.facts):
            near = get_close_matches(key, one.facts, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            wrong.append(f"{key}: {name} declares it, and nothing measures it{hint}")
    return wrong


def _unlike(value: Value, declared: Any) -> str:
    """Say how a value is not the declared one: of lists, only what is too much or too little."""
    if not (isinstance(value, list) and isinstance(declared, list)):
        return f"{_text(value)}, where {_text(declared)} is declared"
    more = [item for item in value if not any(fnmatchcase(item, one) for one in declared)]
    less = [one for one in declared if not any(fnmatchcase(item, one) for item in value)]
    said = [f"has {' '.join(more)}, which is not declared"] if more else []
    return " and ".join([*said, *([f"lacks the declared {' '.join(less)}"] if less else [])])


def _undeclared(
    left: Measured,
    right: Measured,
    at_rest: Sequence[str],
    contracts: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Tell each row in which two variants differ and that not both contracts have.

    Rows of running containers count where both variants ran.
    """
    wrong = []
    ran = [row for row in left.facts if row in right.facts and not row.startswith("setting ")]
    for row in dict.fromkeys([*at_rest, *ran]):
        if left.facts[row] == right.facts[row]:
            continue
        lacking = [
            f"docker/{one.variant.name}/contract.yaml"
            for one in (left, right)
            if _declared(contracts[one.variant.name], row) is None
        ]
        if lacking:
            values = [f"{one.variant.name} {_text(one.facts[row])}" for one in (left, right)]
            wrong.append(f"{row}: {', '.join(values)}; not declared in {' and '.join(lacking)}")
    return wrong


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " or ".join(map(_text, value["any of"]))
    return " ".join(value) if isinstance(value, list) else str(value)


def _structure(variant: Variant, engine: Engine) -> list[str]:
    """Run container-structure-test on the image; tell what failed."""
    if engine.kind != "docker":
        say("container-structure-test drives docker only: the images' own tests are left out")
        return []
    program = host.environment(variant.project).with_name("container-structure-test")
    tag = images.tag_of(variant.project, variant.name)
    contract = variant.compose_file.with_name("contract.yaml")
    done = subprocess.run(
        [str(program), "test", "--image", tag, "--config", str(contract), "--output", "json"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        results = json.loads(done.stdout)["Results"] or []
    except (ValueError, KeyError):
        return [f"container-structure-test: {(done.stderr or done.stdout).strip()[-300:]}"]
    return [
        f"{result['Name']}: {'; '.join(result.get('Errors') or ['failed'])}"
        for result in results
        if not result["Pass"]
    ]


def running(project: Project, one: Measured, engine: Engine) -> Facts:
    """Measure in running containers, beside those of the user: other names, networks, volumes."""
    variant = Variant(dataclasses.replace(project, name=f"{project.name}-verify"), one.variant.name)
    with (
        project.lock(),
        _surroundings(project, variant, engine) as env,
        mounted_env_file(variant.example) as options,
    ):
        command, _ = engine.compose_command(
            variant.compose_file, "run", "--rm", "-T", *options,
            "--entrypoint", "python -", variant.service, "running", project.task,
        )  # fmt: skip
        facts: Facts = probe(engine, command, env)
        facts.update(_service(variant, one, engine, env))
        # Of the one container that ran, and of those of the services.
        return {**facts, "environment": [*facts["environment"], *_environment(variant, engine)]}


def _environment(variant: Variant, engine: Engine) -> list[str]:
    """The variables that the engine shows of the variant's containers, as `NAME=value`."""
    label = f"label=com.docker.compose.project={variant.prefix}"
    containers = engine.must("ps", "--all", "--quiet", "--filter", label).split()
    return [line for name in containers for line in _state(engine, name)["Config"]["Env"]]


def _shown_secrets(variant: Variant, environment: Iterable[str]) -> list[str]:
    """Name each variable of a container that is a secret by its name, or has one's value.

    Args:
        variant: Whose env file and envs/secrets hold the secrets.
        environment: `NAME=value` lines, which the engine shows to everybody.
    """
    values = [*envfiles.read(variant.env_file).items(), *envfiles.read(variant.example).items()]
    secrets = {value for key, value in values if _is_secret(key)}
    for name in envfiles.SECRETS:
        path = variant.env_file.parent / "secrets" / name
        secrets.add(path.read_text(encoding="utf-8", errors="replace").strip())
    found = {}
    for key, _, value in (line.partition("=") for line in environment):
        # A short one may be part of anything.
        has_value = any(len(secret) >= 8 and secret in value for secret in secrets)
        if has_value or (_is_secret(key) and value):
            found[key] = f"{key} is shown by `inspect` of a container: deliver it as a file"
    return list(found.values())


def _is_secret(key: str) -> bool:
    return bool(SECRET.search(key)) and not key.endswith("_FILE")


@contextlib.contextmanager
def _surroundings(
    project: Project, variant: Variant, engine: Engine
) -> Iterator[Mapping[str, str]]:
    """Give the environment for compose in which all is this check's own, with a sample host."""
    names = {"LIGHTERAGE_PROJECT": variant.project.name, "COMPOSE_PROJECT_NAME": variant.prefix}
    command, env = engine.compose_command(variant.compose_file, "down", "--volumes")
    env.update(names)
    own = images.tag_of(variant.project, variant.name)
    images.up_to_date(project, engine, "sample-host")
    engine.must("tag", images.tag_of(project, variant.name), own)
    try:
        # Its image and key are the user's, so that nothing in envs/known_hosts changes.
        sample_host.up(project, variant, engine, [variant.service])
        yield env
    finally:
        sample_host.down(variant, engine)
        subprocess.run(command, env=env, capture_output=True, check=False)
        engine.ask("network", "rm", variant.network(variant.service))
        engine.ask("image", "rm", own)
        (project.state / f"{variant.prefix}-sample-host.trusted").unlink(missing_ok=True)


def _service(
    variant: Variant, one: Measured, engine: Engine, env: Mapping[str, str]
) -> dict[str, Value]:
    """Whether the service listens, and comes back after a crash; one that runs once does not."""
    stays = one.facts["restart"] != "no"
    name = _start(variant, engine, env, "--detach" if stays else "--no-start")
    facts = _state(engine, name)
    found: dict[str, Value] = {"log files in force": _logging(facts["HostConfig"]["LogConfig"])}
    if not stays:
        policy = facts["HostConfig"]["RestartPolicy"]["Name"]
        return {**found, "restart in force": policy or "no", "restart delay": "none"}
    inside = [engine.client, "exec", "--interactive", name, "python", "-"]
    found.update(probe(engine, [*inside, "listening"], os.environ))
    return {**found, **_crash(variant, engine, env)}


def _start(variant: Variant, engine: Engine, env: Mapping[str, str], how: str, *more: str) -> str:
    """Start the variant's service by compose; returns its container."""
    command, _ = engine.compose_command(variant.compose_file, *more, "up", how, variant.service)
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{variant.name} did not start: {done.stderr.strip()[-300:]}", 1)
    listed, _ = engine.compose_command(variant.compose_file, "ps", "--all", "-q", variant.service)
    return subprocess.run(
        listed, env=dict(env), capture_output=True, text=True, check=True
    ).stdout.split()[0]  # fmt: skip


def _crash(variant: Variant, engine: Engine, env: Mapping[str, str]) -> dict[str, Value]:
    """Measure whether the engine restarts a service that crashes, and whether the delay grows."""
    override = {"services": {variant.service: {"entrypoint": ["python", "-c", CRASH]}}}
    state = variant.project.state
    with tempfile.NamedTemporaryFile("w", dir=state, suffix=".yaml", encoding="utf-8") as file:
        json.dump(override, file)  # JSON is YAML
        file.flush()
        name = _start(variant, engine, env, "--detach", "-f", file.name)
    deadline, count, grows = time.monotonic() + RESTART_SECONDS, 0, False
    while count < RESTARTS and not grows and time.monotonic() < deadline:
        time.sleep(0.1)
        facts = _state(engine, name)
        count = facts["RestartCount"]
        # While it waits for its restart, the start is the one before: the difference is negative.
        delay = _moment(facts["State"]["StartedAt"]) - _moment(facts["State"]["FinishedAt"])
        grows = count > 0 and delay >= LONG_DELAY_S
    unlike = "none (podman)" if engine.kind == "podman" else "does not grow"
    return {
        "restart in force": "yes" if count else "no",
        "restart delay": "grows" if grows else unlike,
    }


def _moment(text: str) -> float:
    """The seconds since 1970 of a time as engines write it, with nanoseconds."""
    found = re.fullmatch(r"(.{19})(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise Failure(f"the engine gives a time that is none: {text}", 1)
    whole, fraction, zone = found.groups()
    at = datetime.fromisoformat(f"{whole}{zone.replace('Z', '+00:00')}")
    return (at - EPOCH).total_seconds() + float(fraction or 0)


def _logging(config: Mapping[str, Any]) -> list[str]:
    """The engine's log driver of a container, and its options."""
    options = sorted((config.get("Config") or {}).items())
    return [str(config.get("Type")), *(f"{key} {value}" for key, value in options)]


def _state(engine: Engine, container: str) -> Any:
    return json.loads(engine.must("container", "inspect", container))[0]
