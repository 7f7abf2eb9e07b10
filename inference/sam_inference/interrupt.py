"""A way to end a network's run from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InterruptedWorkError(Exception):
    """Work was ended by its Interrupt."""


class Interrupt:
    """Ends one piece of work, if it can be ended. Safe to use from several threads."""

    def __init__(self) -> None:
        """Begin without being set."""
        self._lock = threading.Lock()
        self._is_set = False
        self._stop: Callable[[], object] | None = None

    def set(self) -> None:
        """End the work, now or as soon as it begins."""
        with self._lock:
            self._is_set = True
            if self._stop:
                self._stop()

    @property
    def is_set(self) -> bool:
        """Whether the work is to end."""
        return self._is_set

    def check(self) -> None:
        """Go on only if the work is not to end.

        Raises:
            InterruptedWorkError: it was set.
        """
        if self._is_set:
            raise InterruptedWorkError

    @contextmanager
    def ends(self, stop: Callable[[], object]) -> Iterator[None]:
        """Have `set` call `stop`, which makes the block raise an error of its own.

        Work that comes to its end all the same is not lost: nothing is raised then.

        Raises:
            InterruptedWorkError: it was set before, or the block failed since.
        """
        with self._lock:
            if self._is_set:
                raise InterruptedWorkError
            self._stop = stop
        try:
            yield
        except Exception as error:
            if self._is_set:
                raise InterruptedWorkError from error
            raise
        finally:
            with self._lock:
                self._stop = None
