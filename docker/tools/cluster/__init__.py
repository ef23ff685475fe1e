"""Clusters that run a task as shards: one module for each engine, named in `ENGINES`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from docker.setup.project import Failure

if TYPE_CHECKING:
    from docker.tools.cluster.job import Job
    from docker.tools.context import Context, Variant

ENGINES = {"k8s": "kubernetes", "swarm": "swarm"}
"""The module of each engine, by the verb that prints a job for it."""


class ClusterEngine(Protocol):
    """What is known of an engine: how to write a job for it, and what a written one means.

    A module with these three functions is one.
    """

    def image(self, context: Context, job: Job) -> str:
        """Return the reference by which the nodes find the image; refuse what they cannot run."""

    def render(self, job: Job) -> str:
        """Return the job as the engine's own client reads it."""

    def service(self, text: str, job: Job) -> Mapping[str, Any]:
        """Return what a rendered job says, in the words of a compose service."""


def engine(verb: str) -> ClusterEngine:
    """Return the engine of a verb."""
    return cast("ClusterEngine", importlib.import_module(f"{__name__}.{ENGINES[verb]}"))


def rendered(verb: str, job: Job) -> str:
    """Return a job as the engine's client reads it.

    Raises:
        Failure: The compose file has what no job can have, or lacks what it needs.
    """
    try:
        return engine(verb).render(job)
    except (LookupError, ValueError, TypeError) as error:
        raise Failure(
            f"the service of {job.prefix} cannot be a job for {verb} ({error}): its compose.yaml"
            " must have each limit and right of prod's, and named volumes only"
        ) from error


def print_job(verb: str, context: Context, variant: Variant) -> int:
    """Print TASK with SHARDS shards, as the engine's client reads it."""
    from docker.tools.cluster.job import job_of  # not at the top: doctor runs without yaml

    found, job = engine(verb), job_of(context, variant)
    print(rendered(verb, replace(job, image=found.image(context, job))), end="")
    return 0
