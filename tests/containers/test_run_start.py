"""`make run` starts containers without compose and without BuildKit, where both would do the same."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine
from docker.tools.context import Context
from images import VARIANTS, edited, running
from tree import Tree, on_terminal

PROJECT = f"lighterage-test-{os.getpid()}"
pytestmark = pytest.mark.container
BY_COMPOSE = "Creating "
"""What compose says when it makes a container."""
