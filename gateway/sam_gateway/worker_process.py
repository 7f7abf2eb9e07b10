"""A worker of the gateway's own: a child process on a private socket."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import Counter

from sam_gateway.logs import event

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# One that ran this long did not fail at its start.
_STEADY_S = 60.0
_STOP_S = 10.0
# What `sam-worker` ends with where a setting is wrong by itself, whatever is installed and there.
_REFUSED = 2

_logger = logging.getLogger(__name__)


class WorkerProcess:
    """Starts a worker, starts it again when it ends, and stops it with the gateway.

    One that refuses its settings is not started again: they are the gateway's environment.

    It listens on a Unix socket in a folder that only this user can enter. It ends by itself if
    the gateway is killed: it watches its standard input, which the gateway holds.
    """

    def __init__(self, arguments: Sequence[str], starts: Counter) -> None:
        """`arguments` are flags of `sam-worker`; `starts` counts."""
        self._arguments = arguments
        self._starts = starts
        self._folder = tempfile.TemporaryDirectory(prefix="sam-gateway-")
        self._socket = Path(self._folder.name) / "worker.sock"
        self._supervision: asyncio.Task[None] | None = None
        self.pid: int | None = None
        self.refused = asyncio.Event()
        """Set when the worker has refused its settings; it has said why."""
        self.last_code: int | None = None
        """What the last worker that ended did end with, negative for a signal."""

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"unix:{self._socket}"

    async def start(self) -> None:
        """Start the worker and watch over it; it may not be ready yet."""
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Stop the worker, gently first, and wait for its end."""
        if self._supervision:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        self._folder.cleanup()

    async def _supervise(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            try:
                code, message = await self._run(), None
            except OSError as error:  # such as no memory or no file handle left for a process
                code, message = None, f"not started: {error}"
            self.last_code = code
            if code == _REFUSED:
                self.refused.set()
                return
            if time.monotonic() - started > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            _logger.error(event("worker_ended", code=code, message=message, restart_in_s=pause_s))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run(self) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sam_inference", "--listen", self.target, "--exit-with-parent"),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            # Signals of the terminal are for the gateway, which then stops the worker.
            start_new_session=True,
        )
        self.pid = process.pid
        self._starts.inc()
        _logger.info(event("worker_started", pid=process.pid))
        try:
            return await process.wait()
        finally:
            self.pid = None
            if process.returncode is None:
                await _end(process)
            # Whatever it started is in its process group, which has its number.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin
    process.stdin.close()  # the worker's watch on its parent ends as well
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except asyncio.TimeoutError:
        _logger.warning(event("worker_killed", pid=process.pid))
        process.kill()
        await process.wait()
