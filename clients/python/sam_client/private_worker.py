"""A worker of one's own, for as long as a command runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sam_client.errors import SamError, WorkerUnavailableError
from sam_client.sync import SamClient

_START_TIMEOUT_S = 120.0  # a large checkpoint on a slow disk
_STOP_TIMEOUT_S = 10.0


def is_installed() -> bool:
    """Say whether a worker can be run in this environment."""
    # Its own package is in every installation; what it needs comes with the extra.
    return importlib.util.find_spec("grpc_health") is not None


@contextmanager
def private_worker() -> Iterator[str]:
    """Run a worker on a socket that nobody else knows, and yield its target once it serves.

    Raises:
        SamError: it ended, or did not serve within two minutes; with its last words.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sam-") as folder,
        (Path(folder) / "log").open("w+b") as log,
    ):
        target = f"unix:{folder}/worker.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "sam_inference", "--listen", target, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            _wait_until_it_serves(target, process, log)
            yield target
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait_until_it_serves(target: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    with SamClient(target) as client:
        while True:
            try:
                client.list_models()
            except WorkerUnavailableError as error:
                if process.poll() is None and time.monotonic() < give_up:
                    continue  # the call itself waits between its attempts
                log.seek(0)
                last_words = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise SamError(
                    f"the worker did not start: {last_words or error}", error.code
                ) from error
            else:
                return
