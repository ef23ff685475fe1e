"""A run of the prod image into a bucket, and where its secret key does not show."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

import object_server
from docker.tools.context import Context
from images import running, tree_in, wait_for
from tree import Tree

PROJECT = f"lighterage-bucket-{os.getpid()}"
KEY = f"canary{secrets.token_hex(8)}"
pytestmark = pytest.mark.container


@pytest.fixture
def tree(engine: Context, tmp_path: Path) -> Iterator[Tree]:
    """Give a tree whose prod image has obstore, and whose env file names a server in its network.

    The server is moto, in a container of the dev image; the environment has its address here.
    """
    with tree_in(tmp_path / "clone", engine, "dev", env={"EXTRAS": "s3"}) as tree:
        env_file, name = tree.folder / "envs/prod.env", f"{PROJECT}-s3"
        tree.ok("config", "ENV=prod")
        variables = object_server.variables(f"http://{name}:5000") | {"AWS_SECRET_ACCESS_KEY": KEY}
        with env_file.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())
        tree.ok("run", "ENV=prod", timeout=600)  # has the network made
        engine.must(
            "run", "--detach", f"--name={name}", f"--network={PROJECT}-prod-tasks",
            "--publish=127.0.0.1::5000", "--entrypoint=python", f"{PROJECT}-dev",
            "-m", "moto.server", "--host=0.0.0.0", "--port=5000",
        )  # fmt: skip
        try:
            wait_for(lambda: "Running on" in engine.ask("logs", name).stderr)
            yield tree
        finally:
            engine.ask("rm", "--force", name)


def test_task_lands_in_a_bucket_and_its_key_is_shown_nowhere(
    tree: Tree, engine: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = f"{PROJECT}-s3"
    address = engine.must("port", server, "5000").split()[0]
    for name, value in object_server.variables(f"http://{address}").items():
        monkeypatch.setenv(name, value)
    object_server.client().create_bucket(Bucket="landed")
    engine.must("kill", "--signal=STOP", server)  # holds the run, to look at it
    target = "--file-save-path=s3://landed/events --log-level=DEBUG --max-tries=9"
    run = tree.start("run", "TASK=2", "ENV=prod", f"ARGS={target}")
    container = running(engine, "-prod-run-")
    shown = engine.must("inspect", container)
    assert "s3://landed" in shown
    shown += engine.ask("logs", container).stderr
    engine.must("kill", "--signal=CONT", server)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "DEBUG" in err
    landed = object_server.published("s3://landed/events")
    assert landed
    assert {Path(name).suffix for name in landed} == {".csv"}
    images = engine.must("history", "--no-trunc", f"{PROJECT}-prod")
    images += engine.must("image", "inspect", f"{PROJECT}-prod")
    assert KEY not in shown + out + err + images
    assert not [key for key, content in object_server.objects("landed").items()
                if KEY.encode() in key.encode() + content]  # fmt: skip
