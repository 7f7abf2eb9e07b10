"""Servers that the suite starts, and ends whatever happens."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


class ServerProcess:
    """A child process whose output goes to a log file."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, probe: Callable[[], _T | None], timeout_s: float) -> _T:
        """Ask `probe` until it has an answer.

        Raises RuntimeError with the log if the process ends or the time is over before that.
        """
        deadline = time.monotonic() + timeout_s
        while (answer := probe()) is None:
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self.stop()
                happened = f"no sign in {timeout_s:g} s" if status is None else f"status {status}"
                log = self.log.read_text()
                raise RuntimeError(f"{self._process.args!r} is not ready: {happened}\n{log}")
            time.sleep(0.1)
        return answer

    def stop(self) -> None:
        """Ask the process to end, and make it end if it does not within 20 s."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
