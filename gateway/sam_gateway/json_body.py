"""Request bodies as JSON, without holding up the event loop."""

import asyncio
import re

import orjson

from sam_gateway.errors import InvalidRequestError

# Parsed where it is; takes about a millisecond.
_SMALL_BYTES = 2**18

# Label Studio sends every mask of the task with every click. These lists of numbers are nearly
# all of a large body, and nothing here reads them.
_RLE = re.compile(rb'"rle"\s*:\s*\[[\d\s,]*\]')


async def parse_json(body: bytes) -> object:
    """Read a body; RLE lists in a large one are left empty.

    A parser holds the interpreter lock from end to end, in a thread as well: for the 256 MiB
    that a body may have, that is seconds in which nothing is served. Cutting the lists out is done
    one by one, and between them other threads run; what is left is small.

    Raises InvalidRequestError (field `body`) if it is not JSON.
    """
    if len(body) <= _SMALL_BYTES:
        return _parse(body)
    return await asyncio.to_thread(lambda: _parse(_without_rle(body)))


def _parse(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"not JSON: {error}", field="body") from None


def _without_rle(body: bytes) -> bytes:
    kept, end = [], 0
    for match in _RLE.finditer(body):
        kept += [body[end : match.start()], b'"rle":[]']
        end = match.end()
    return b"".join([*kept, body[end:]])
