"""The order of test files: workers take them one by one, so the longest come first."""

from __future__ import annotations

import pytest

LONGEST = (
    "test_swarm", "test_shards", "test_variants", "test_bucket", "test_soak", "test_plain_copy",
    "test_columns", "test_kubernetes", "test_service_state", "test_slurm",
    "test_services", "test_ship", "test_containers", "test_container_faults",
    "test_secrets", "test_base", "test_make", "test_make_engine", "test_faults",
    "test_fault_hosts", "test_object_faults", "test_sftp_session", "test_connections",
    "test_listing", "test_partial_downloads", "test_fetch", "test_host_keys", "test_audit",
    "test_progress",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, in the order of `LONGEST`."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
