"""Compare a job on each cluster engine with the service of the compose file that it is made of."""

from __future__ import annotations

from collections.abc import Mapping

from docker.setup.project import Failure
from docker.tools.cluster import ENGINES, engine, rendered
from docker.tools.cluster.job import Job
from docker.tools.contracts import violations
from docker.tools.rows import SERVICE_ROWS, Row, Sample, Value, expanded


def _differences(sample: Sample) -> Mapping[str, Value]:
    """Return, for each engine, the rows in which a shard differs from the service."""
    variant = sample.variant
    if variant.binds_tree:
        return {}
    own = sample.compose["services"][variant.service]
    prefix = f"lighterage-{variant.name}"
    job = Job(sample.compose, own, prefix, prefix, ["N"], 2, "run")
    declared = expanded(SERVICE_ROWS, own)
    found: dict[str, Value] = {}
    for verb in ENGINES:
        try:
            shard = expanded(SERVICE_ROWS, engine(verb).service(rendered(verb, job), job))
        except Failure as error:
            found[verb] = str(error)
            continue
        names = dict.fromkeys([*declared, *shard], "none")
        found[verb] = violations({**names, **shard}, {**names, **declared})
    return found


CLUSTER_ROWS: tuple[Row[Sample], ...] = (Row("a shard on *", _differences),)
