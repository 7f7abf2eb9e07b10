"""Fixtures that the whole suite shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from support import WorkerProcess

# Time decides no test: the machine may be busy.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers with flags of the test's own; those left running are stopped at the end."""
    workers: list[WorkerProcess] = []

    def start(*flags: str) -> WorkerProcess:
        workers.append(WorkerProcess(*flags))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture(scope="session")
def worker_target(start_worker: Callable[..., WorkerProcess]) -> str:
    """The address of a worker with the bundled model that the whole suite shares."""
    return start_worker().target
