"""Of clicks that overlap, the newest counts: Label Studio shows no other answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Click:
    prompt_ids: frozenset[str]
    superseded: bool = False
    cancel: Callable[[], object] = lambda: None


class NewestClicks:
    """Ends the work for clicks that newer ones have made useless.

    Every click on an object comes with all of its earlier prompts. So a newer click makes an
    older one useless if it has all of its prompts; another object, or another annotator on the
    same image, has others.
    """

    def __init__(self) -> None:
        """Begin with no clicks."""
        self._running: list[_Click] = []

    async def run(
        self, prompt_ids: frozenset[str], work: Callable[[Callable[[], None]], Awaitable[_T]]
    ) -> _T | None:
        """Do the work for a click; None if a newer one superseded it.

        `work` gets a function, and calls it when it has come as far as the older ones.
        """
        click = _Click(prompt_ids)
        task = asyncio.ensure_future(work(lambda: self._supersede(click)))
        click.cancel = task.cancel
        self._running.append(click)
        try:
            return await task
        except asyncio.CancelledError:
            if click.superseded:
                return None
            raise
        finally:
            self._running.remove(click)

    def _supersede(self, newer: _Click) -> None:
        for older in self._running[: self._running.index(newer)]:
            if older.prompt_ids <= newer.prompt_ids:
                older.superseded = True
                older.cancel()
