"""The last run and the last success of each task, in the text format of Prometheus.

A file of gauges takes little more than the escapes of a label, so that the image needs no
prometheus_client; its parser checks the text in tests/unit/test_metrics.py.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.history import Run

START = b"# HELP lighterage_"
"""How each file of metrics starts."""
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_LAST_RUN = "lighterage_last_run_"
_GAUGES = {
    f"{_LAST_RUN}timestamp_seconds": "When the last run ended, in seconds since 1970.",
    f"{_LAST_RUN}duration_seconds": "How long the last run took.",
    f"{_LAST_RUN}exit_code": "The exit code of the last run; below 0 of a signal.",
    f"{_LAST_RUN}fetched_bytes": "How many bytes the last run downloaded.",
    f"{_LAST_RUN}retries": "How often the last run tried something again.",
    "lighterage_last_success_timestamp_seconds": "When the last successful run ended.",
    "lighterage_target_files": "How many files the target had after the last success.",
    "lighterage_target_bytes": "How many bytes these files have.",
}


def text(histories: Iterable[Sequence[Run]]) -> str:
    """Return the metrics of tasks; each history has the runs of one, the oldest first."""
    samples: dict[str, list[str]] = {name: [] for name in _GAUGES}
    for runs in histories:
        success = next((run for run in reversed(runs) if run.is_success), None)
        for run, values in ((runs[-1] if runs else None, _of_run), (success, _of_success)):
            if run:
                labels = ",".join(
                    f'{name}="{value.translate(_ESCAPES)}"'
                    for name, value in (("task", run.task), ("variant", run.variant))
                )
                for name, value in values(run).items():
                    samples[name].append(f"{name}{{{labels}}} {value}\n")
    return "".join(
        f"# HELP {name} {about}\n# TYPE {name} gauge\n{''.join(samples[name])}"
        for name, about in _GAUGES.items()
    )


def _of_run(run: Run) -> dict[str, float]:
    return {
        f"{_LAST_RUN}timestamp_seconds": run.finished.timestamp(),
        f"{_LAST_RUN}duration_seconds": run.seconds,
        f"{_LAST_RUN}exit_code": run.exit_code,
        f"{_LAST_RUN}fetched_bytes": run.fetched_bytes,
        f"{_LAST_RUN}retries": run.retries,
    }


def _of_success(run: Run) -> dict[str, float]:
    return {
        "lighterage_last_success_timestamp_seconds": run.finished.timestamp(),
        "lighterage_target_files": run.files,
        "lighterage_target_bytes": run.bytes,
    }
