"""`sam-gateway warm`: has a running gateway embed all images of a project.

The embeddings are the worker's, and a worker of the gateway's own lives as long as the gateway:
hence this asks the gateway that will answer the clicks.
"""

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

import aiohttp
import orjson
from yarl import URL

from sam_gateway.config import MIB, ConfigError, parse_config, parse_http_url
from sam_gateway.gateway_client import basic_headers, configured_url, route

# Waiting for an image is waiting for clicks to be answered.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
# The line of a task with many images that all fail.
_MAX_LINE_BYTES = MIB
_BAR_WIDTH = 30
# Without a terminal: a line every so many percent.
_PERCENT_A_LINE = 5


class _WarmError(Exception):
    """Why nothing, or nothing more, can be embedded."""


@dataclasses.dataclass(slots=True)
class _Tally:
    tasks: int = 0
    done: int = 0
    embedded: int = 0
    held: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    full_after: int | None = None


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Show the progress; return 1 if an image could not be embedded or is not kept, else 0."""
    parser = argparse.ArgumentParser(
        prog="sam-gateway warm",
        description="Embed all images of a project of Label Studio, so that no first click waits. "
        "A running gateway does it, while it has no clicks to answer; what is embedded already is "
        "passed over, so that it can be stopped and run again at any time.",
        epilog="Takes the flags and environment variables of sam-gateway, for its address and "
        "its user and password.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--project", type=int, required=True, help="number of the project, as in its address"
    )
    parser.add_argument("--url", help="address of the gateway (http://HOST:PORT of its settings)")
    options, others = parser.parse_known_args(arguments)
    tally = _Tally()
    try:
        config = parse_config(others, environment)
        url = parse_http_url("--url", options.url, 9090) if options.url else configured_url(config)
        asyncio.run(_warm(url, basic_headers(config), options.project, tally))
    except (ConfigError, _WarmError) as error:
        print(f"sam-gateway warm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; run it again to go on. {_summary(tally)}", file=sys.stderr)
        return 130
    print(_summary(tally))
    for failure in tally.failures:
        print(f"  {failure}")
    if tally.full_after is not None:
        print(
            f"The worker's cache is full: of {tally.full_after} images, it has dropped the first "
            "for the last. Start it with a larger EMBEDDING_CACHE_MIB, and run this again."
        )
    return 1 if tally.failures or tally.full_after is not None else 0


async def _warm(url: URL, headers: Mapping[str, str], project: int, tally: _Tally) -> None:
    try:
        async with (
            aiohttp.ClientSession(
                headers=headers, timeout=_TIMEOUT, read_bufsize=_MAX_LINE_BYTES
            ) as session,
            session.post(route(url, "warm"), json={"project": project}) as response,
        ):
            if response.status != 200:
                raise _WarmError(_refusal(url, response.status, await response.read()))
            show = _Display(sys.stderr)
            async for line in response.content:
                _count(orjson.loads(line), tally)
                show.show(tally)
            show.end()
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
        raise _WarmError(
            f"the gateway at {url} {'stopped' if tally.tasks else 'does not answer'} "
            f"({type(error).__name__}): start `sam-gateway` and leave it running, for its worker "
            "keeps what is embedded; --url names another gateway"
        ) from error


def _count(told: dict[str, object], tally: _Tally) -> None:
    match told:
        case {"title": title, "tasks": int(tasks), "embedding_bytes": int(size)}:
            tally.tasks = tasks
            print(
                f"{title}: {tasks} tasks. For one image each the worker needs "
                f"{-(-tasks * size // MIB)} MiB (EMBEDDING_CACHE_MIB, 512 if not set).",
                file=sys.stderr,
            )
        case {"task": task, "embedded": int(embedded), "held": int(held), "failures": list(why)}:
            tally.done += 1
            tally.embedded += embedded
            tally.held += held
            tally.failures += [f"task {task}: {failure}" for failure in why]
        case {"images": int(images)}:
            tally.full_after = images
        case {"error": {"message": message}}:
            raise _WarmError(f"{message}. {_summary(tally)}")


def _refusal(url: URL, status: int, body: bytes) -> str:
    try:
        return f"{url}: {orjson.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"what answers at {url} is no sam-gateway ({status})"


def _summary(tally: _Tally) -> str:
    return (
        f"{tally.done} of {tally.tasks} tasks: {tally.embedded} images embedded, {tally.held} "
        f"were there already, {len(tally.failures)} failed"
    )


class _Display:
    """A bar on a terminal, lines elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._started = time.monotonic()
        self._shown = -1

    def show(self, tally: _Tally) -> None:
        share = min(tally.done / tally.tasks, 1.0) if tally.tasks else 1.0
        text = f"{share:4.0%} {tally.done}/{tally.tasks} {self._left(share)}"
        text += f" {len(tally.failures)} failed" if tally.failures else ""
        if self._is_terminal:
            bar = ("█" * int(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, "·")
            self._stream.write(f"\r\x1b[K{bar} {text}")
        elif int(share * 100) // _PERCENT_A_LINE != self._shown:
            self._shown = int(share * 100) // _PERCENT_A_LINE
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        self._stream.write("\n" if self._is_terminal else "")

    def _left(self, share: float) -> str:
        if not 0 < share < 1:
            return ""
        seconds = round((time.monotonic() - self._started) * (1 - share) / share)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
