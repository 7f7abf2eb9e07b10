"""What tests of several folders use: the test images and workers of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

IMAGES = DATA / "images"
"""The folder with `originals/`, `awkward/` and `expected.json`."""


def expected_images() -> dict[str, dict[str, Any]]:
    """What MANIFEST.md promises of each test image, by path below `images`."""
    expectations: dict[str, dict[str, Any]] = json.loads((IMAGES / "expected.json").read_text())
    return expectations


class WorkerProcess:
    """A `sam-worker` of its own, ready to answer."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sam_inference", "--listen", "127.0.0.1:0", *flags],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._logged = threading.Condition()
        self._ended = False
        # Read for as long as the worker lives: a full pipe would stop it.
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.target = self.wait_for_log(r"listening target=(\S+)")
            self.wait_for_log(r"ready model=(\S+)")
        except BaseException:
            self.stop()
            raise

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._logged:
                self.log.append(line)
                self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    def wait_for_log(self, pattern: str, timeout_s: float = 60) -> str:
        """Wait for a log line that matches `pattern`; return its first group."""
        matches: list[re.Match[str]] = []

        def found() -> bool:
            matches[:] = [match for line in self.log if (match := re.search(pattern, line))]
            return bool(matches) or self._ended

        with self._logged:
            self._logged.wait_for(found, timeout_s)
        assert matches, f"no line matched {pattern!r}:\n" + "".join(self.log)
        return matches[0][1]

    def stop(self) -> int:
        """Ask it to stop, if it has not ended, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=30)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status
