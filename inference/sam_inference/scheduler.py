"""Bounded lanes of work: nothing heavy runs on the event loop, no queue grows for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from sam_inference.errors import OverloadedError

P = ParamSpec("P")
T = TypeVar("T")

# What a caller is told to wait when a lane is full: about the time of a few jobs.
_RETRY_AFTER_MS = 500


class Lane:
    """A pool of threads for one kind of work, and the bound on requests that use it.

    A request is admitted once and then runs any number of jobs; a job whose caller has
    gone (deadline, cancellation) while it was queued is dropped before any work is done.
    """

    def __init__(self, name: str, *, threads: int, max_requests: int) -> None:
        """Start a lane.

        Args:
            name: for messages and thread names.
            threads: jobs that run at the same time.
            max_requests: requests, running and waiting, beyond which `admit` refuses; and as
                many of the background.
        """
        self.name = name
        self.threads = threads
        self.max_requests = max_requests
        self._admitted = {False: 0, True: 0}  # by whether they are of the background
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @contextmanager
    def admit(self, *, background: bool) -> Iterator[None]:
        """Hold a place in the lane. Background requests have places of their own.

        Raises:
            OverloadedError: all places are taken.
        """
        if self._admitted[background] >= self.max_requests:
            raise OverloadedError(self.name, self.max_requests, _RETRY_AFTER_MS)
        self._admitted[background] += 1
        try:
            yield
        finally:
            self._admitted[background] -= 1

    async def run(
        self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, float]:
        """Run `job` in a thread of the lane.

        Returns:
            Its result and the milliseconds that it waited for a thread.
        """
        queued = time.perf_counter()
        started = queued

        def timed() -> T:
            nonlocal started
            started = time.perf_counter()
            return job(*args, **kwargs)

        # Cancelling the wrapper cancels the job unless it runs already.
        result = await asyncio.wrap_future(self._executor.submit(timed))
        return result, (started - queued) * 1e3

    def close(self) -> None:
        """Drop queued jobs and wait for running ones."""
        self._executor.shutdown(wait=True, cancel_futures=True)
