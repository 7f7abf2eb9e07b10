"""Answers of other servers, up to a limit, and why there is none."""

import aiohttp

_CHUNK_BYTES = 2**18


async def read_at_most(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Read a body; None if it has more bytes, which are then not read."""
    if (response.content_length or 0) > max_bytes:
        return None
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


def cause(error: aiohttp.ClientError) -> str:
    """Say why a server gave no answer."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or type(error.os_error).__name__})"
    return f"the connection failed ({type(error).__name__})"
