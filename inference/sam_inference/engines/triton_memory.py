"""Memory that this process and a Triton server on the same machine both map.

Tensors then pass without being sent: an image in a message takes longer than a GPU's encoder.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sam_inference.engines import Array

log = logging.getLogger(__name__)

_FOLDER = Path("/dev/shm")  # where Linux keeps what POSIX names /NAME

_UNREGISTER_TIMEOUT_S = 1.0  # a server that hangs must not keep the worker from ending

# A server counts a region as in use for a moment after it has answered.
_RELEASE_TRIES = 10
_RELEASE_PAUSE_S = 0.02

_STEP_BYTES = 1 << 20  # regions are made in steps of this, so that most fit the next request

_TENSOR_BYTES = 64  # tensors begin at multiples of this, a cache line

_GONE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


class Region:
    """Memory for the tensors of one request at a time, filled from its beginning.

    Attributes:
        name: what the server knows it by.
        size_bytes: its length.
    """

    def __init__(self, name: str, memory: mmap.mmap) -> None:
        """Use the mapped `memory`."""
        self.name = name
        self.size_bytes = len(memory)
        self._memory = memory
        self._used_bytes = 0

    def clear(self) -> None:
        """Begin anew."""
        self._used_bytes = 0

    def tensor(self, shape: tuple[int, ...]) -> tuple[Array, int]:
        """Return room for a float32 tensor, and its offset in bytes."""
        offset = self._used_bytes
        array: Array = np.ndarray(shape, np.float32, self._memory, offset)
        self._used_bytes += _padded(array.nbytes, _TENSOR_BYTES)
        return array, offset


class Regions:
    """The regions of one network: made when they are needed, one for each request under way.

    The files of regions are removed as soon as the server has opened them; the memory lasts
    as long as it is mapped. When this process ends without notice, nothing is left but what
    the server maps, until the server ends.
    """

    def __init__(self, client: triton.InferenceServerClient, target: str, timeout_s: float) -> None:
        """Share memory with the server of `client`, which is at `target`.

        Args:
            client: of the server.
            target: where it is, for the log.
            timeout_s: how long the server may take to open a region.
        """
        self._client = client
        self._timeout_s = timeout_s
        self._target = target
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._given_up: set[str] = set()  # names that the server may still have
        self._refused = False
        weakref.finalize(self, _release, client, self._free, self._given_up)

    @contextmanager
    def lend(self, shapes: Sequence[tuple[int, ...]]) -> Iterator[Region | None]:
        """Have a region for float32 tensors of these shapes; None where none can be shared.

        A region in whose use anything went wrong is not lent again: the server may have lost
        it, or may yet write to it.

        Raises:
            InferenceServerException: the server does not answer.
        """
        size_bytes = sum(_padded(4 * math.prod(shape), _TENSOR_BYTES) for shape in shapes)
        region = self._take(size_bytes)
        try:
            yield region
        except BaseException:
            if region is not None:
                self._give_up(region)
            raise
        if region is not None:
            region.clear()
            with self._lock:
                self._free.append(region)

    def forget(self) -> None:
        """Lend no region again that was made until now and is free."""
        with self._lock:
            self._given_up |= {region.name for region in self._free}
            self._free.clear()

    def _take(self, size_bytes: int) -> Region | None:
        self._forget_given_up()
        with self._lock:
            region = self._free.pop() if self._free else None
        if region is not None and region.size_bytes < size_bytes:
            self._give_up(region)
            region = None
        if region is None and not self._refused:
            region = self._make(_padded(size_bytes, _STEP_BYTES))
        return region

    def _give_up(self, region: Region) -> None:
        with self._lock:
            self._given_up.add(region.name)

    def _make(self, size_bytes: int) -> Region | None:
        name = f"samserve-{uuid.uuid4().hex}"
        try:
            return Region(name, self._share(name, size_bytes))
        except InferenceServerException as error:
            if error.status() in _GONE:
                with self._lock:
                    self._given_up.add(name)  # which the server may open yet
                raise
            reason = error.message()
        except OSError as error:
            reason = str(error)
        self._refused = True
        log.info("triton at=%s shares no memory, tensors are sent: %s", self._target, reason)
        return None

    def _share(self, name: str, size_bytes: int) -> mmap.mmap:
        path = _FOLDER / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Taken now: memory that lacks when it is written to would end the process.
            os.posix_fallocate(file, 0, size_bytes)
            memory = mmap.mmap(file, size_bytes)
            self._client.register_system_shared_memory(
                name, f"/{name}", size_bytes, client_timeout=self._timeout_s
            )
            return memory
        finally:
            os.close(file)
            path.unlink()

    def _forget_given_up(self) -> None:
        """Have the server unmap regions that were given up, unless it still uses them."""
        with self._lock:
            names = list(self._given_up)
        forgotten = _unregister(self._client, names)
        with self._lock:
            self._given_up -= forgotten


def _release(client: triton.InferenceServerClient, free: list[Region], given_up: set[str]) -> None:
    names = given_up.union(region.name for region in free)
    for _ in range(_RELEASE_TRIES):
        names -= _unregister(client, names)
        if not names:
            break
        time.sleep(_RELEASE_PAUSE_S)


def _unregister(client: triton.InferenceServerClient, names: Iterable[str]) -> set[str]:
    """Have the server unmap regions, and return the names that it has no more."""
    forgotten = set()
    for name in names:
        try:
            client.unregister_system_shared_memory(name, client_timeout=_UNREGISTER_TIMEOUT_S)
        except InferenceServerException as error:
            if error.status() in _GONE:
                break
            # It is in use, by a request that was given up; later, then.
        else:
            forgotten.add(name)
    return forgotten


def _padded(length: int, step: int) -> int:
    return -(-length // step) * step
