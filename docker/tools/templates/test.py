"""Task N: its settings are complete, and the CSVs of a source on a real SSH server land."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import CSVS, Client, tree
from tasks.resolve import resolve

TASK = "N"
CONFIG_FILE = Path(__file__).parents[2] / "config.yaml"


@pytest.mark.parametrize("variant", ["dev", "prod"])
def test_settings_are_complete(variant: str) -> None:
    environ = {
        "LIGHTERAGE_VARIANT": variant, "LIGHTERAGE_ENV_FILE": "", "REMOTE_HOST_ADDRESS": "host"
    }  # fmt: skip
    settings = resolve(TASK, {}, config_file=CONFIG_FILE, environ=environ).settings.require()
    assert settings.remote_file_path


@pytest.mark.sshd
def test_the_csvs_of_the_source_land(dataset_client: Client) -> None:
    """The server has the datasets of tests/support/client.py: csv.zip, csv.tar.gz and tree."""
    done = dataset_client.run(TASK, "SOURCE")
    assert done.code == 0, done.err
    assert set(tree(dataset_client.target).values()) == set(CSVS.values())
