"""Who goes first: background work is done while nobody waits, and gives way to who does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sam_inference.interrupt import Interrupt, InterruptedWorkError

T = TypeVar("T")


class Precedence:
    """Keeps background work out of the way of interactive requests. Used from one event loop.

    A request names what it waits for. Work on just that is not background work any more,
    whoever began it.
    """

    def __init__(self) -> None:
        """Begin with nobody who waits."""
        self._awaited: Counter[str] = Counter()
        self._running: dict[Interrupt, str] = {}
        self._changed = asyncio.Event()

    @contextmanager
    def interactive(self, name: str) -> Iterator[None]:
        """Hold up and interrupt all work but that on `name`."""
        self._awaited[name] += 1
        self._tell()
        for interrupt, other in self._running.items():
            if other not in self._awaited:
                interrupt.set()
        try:
            yield
        finally:
            self._awaited[name] -= 1
            self._awaited += Counter()  # drops what is zero
            self._tell()

    async def turn(self, name: str) -> None:
        """Wait until somebody waits for `name`, or nobody for anything."""
        while self._awaited and name not in self._awaited:
            await self._changed.wait()

    async def run(self, name: str, work: Callable[[Interrupt], Awaitable[T]]) -> T:
        """Do work on `name` when it is its turn, again from its beginning if it was interrupted.

        If the caller is cancelled, so is the work.
        """
        while True:
            await self.turn(name)
            interrupt = Interrupt()
            self._running[interrupt] = name
            try:
                return await work(interrupt)
            except InterruptedWorkError:
                continue
            except asyncio.CancelledError:
                interrupt.set()
                raise
            finally:
                del self._running[interrupt]

    def _tell(self) -> None:
        self._changed.set()
        self._changed.clear()
