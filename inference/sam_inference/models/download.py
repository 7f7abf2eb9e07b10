"""Fetch a file of known length and digest over HTTP, in as many goes as it takes."""

from __future__ import annotations

import fcntl
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sam_inference.models import ModelFileError
from sam_inference.models.digests import file_digest

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS_WITHOUT_PROGRESS = 3
_CONTENT_RANGE = re.compile(r"bytes (\d+)-")

Progress = Callable[[int, int], object]
"""Called with the bytes that are there and the bytes there will be."""


class DownloadError(ModelFileError):
    """A file cannot be fetched, or is not the one that was wanted."""


def download(
    url: str,
    path: Path,
    *,
    size_bytes: int,
    sha256: str,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch `url` to `path`, going on from what an earlier call left there.

    Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).

    Raises:
        DownloadError: it cannot be fetched (what came so far stays, for the next call), or
            its content is another (nothing stays).
        OSError: the file cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: a URL with http:// or https:// was expected")
    with path.open("ab") as file:
        _lock(file, path)
        try:
            if file.tell() > size_bytes:
                _clear(file)  # not a part of the wanted file
            _fetch(url, file, size_bytes, progress)
        except BaseException:
            if not file.tell():
                path.unlink()
            raise
    digest = file_digest(path)
    if digest != sha256:
        path.unlink()
        raise DownloadError(f"{url}: its SHA-256 is {digest}, but {sha256} was expected")


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadError(f"{path} is being fetched by another process") from None


def _fetch(url: str, file: BinaryIO, size_bytes: int, progress: Progress) -> None:
    """Append to `file` until it has `size_bytes`."""
    failures = 0
    while file.tell() < size_bytes:
        before = file.tell()
        try:
            _receive(url, file, size_bytes, progress)
            problem = f"the connection ended after {file.tell()} of {size_bytes} bytes"
        except urllib.error.HTTPError as error:
            error.close()
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            problem = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = str(error) or type(error).__name__
        failures = 0 if file.tell() > before else failures + 1
        if failures == _ATTEMPTS_WITHOUT_PROGRESS:
            raise DownloadError(f"{url}: {problem}")


def _receive(url: str, file: BinaryIO, size_bytes: int, progress: Progress) -> None:
    """Append what one request brings."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    opener = urllib.request.build_opener()  # with the proxies of the environment as it is now
    with opener.open(request, timeout=_TIMEOUT_S) as response:
        if start and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            resumed = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if not resumed or int(resumed[1]) != start:
                raise DownloadError(f"{url}: the server answered with another range")
        else:
            _clear(file)  # the server has no ranges, so that this is the whole file
        while chunk := response.read(_CHUNK_BYTES):
            if file.tell() + len(chunk) > size_bytes:
                _clear(file)
                raise DownloadError(f"{url}: has more than the {size_bytes} bytes expected")
            file.write(chunk)
            progress(file.tell(), size_bytes)
        file.flush()


def _clear(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
