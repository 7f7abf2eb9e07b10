"""From what a task's data says to the encoded image."""

import asyncio
import base64
import binascii
import hashlib
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from sam_gateway.addresses import AddressPolicy, origin, public
from sam_gateway.config import MIB
from sam_gateway.errors import (
    ImageRefusedError,
    ImageUnavailableError,
    InvalidRequestError,
    TemporarilyUnavailableError,
)
from sam_gateway.label_config import ImageTag
from sam_gateway.label_studio import LabelStudio
from sam_gateway.local_files import read_below
from sam_gateway.prompts import Task
from sam_gateway.reading import cause, read_at_most

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*):")
# Schemes of Label Studio's cloud storages; it alone has what opens them.
_STORAGES = frozenset({"s3", "s3s", "gs", "gcswif", "azure-blob", "azure_spi"})
_LOCAL_FILES = "/data/local-files/"
# What a status of Label Studio means.
_HINTS = {
    403: ": the owner of the token may not see it",
    404: ": it does not exist, or no storage of the project covers it",
    500: " (as Label Studio does for an upload that does not exist)",
}


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where an image is: a URL, or a `data:` URI.

    `identity` is the same for the same image; `field` is the path of the value in the request;
    `local_file` is set for a file of the local-files storage: its path below the storages' root.
    """

    identity: str
    field: str
    url: URL | None = None
    data_uri: str = ""
    local_file: str = ""


def image_value(task: Task, tag: ImageTag, item_index: int | None) -> tuple[str, str]:
    """Return what the task's data holds for an image tag, and the path of that value.

    Raises InvalidRequestError naming the field.
    """
    field, value = f"{task.field}.data.{tag.key}", _held(task, tag)
    if isinstance(value, list):
        index = item_index or 0
        if index >= len(value):
            raise InvalidRequestError(
                f"item_index is {index}, but the list has {len(value)} images", field=field
            )
        field, value = f"{field}[{index}]", value[index]
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError("expected the address of an image", field=field)
    return value.strip(), field


def item_indices(task: Task, tag: ImageTag) -> Sequence[int | None]:
    """Return the `item_index` of each image of a tag; None is the only one."""
    value = _held(task, tag)
    return range(len(value)) if isinstance(value, list) else (None,)


def locate(value: str, task: Task, field: str, label_studio_url: URL | None) -> ImageSource:
    """Tell where the image is that a value of task data means.

    A path, such as that of an upload, belongs to Label Studio, and so does what is in a storage
    of the task's project.

    Raises ImageRefusedError for what is neither a path, nor in a storage, nor http, https or data.
    """
    scheme = _SCHEME.match(value)
    kind = scheme[1].lower() if scheme else ""
    if kind == "data":
        return ImageSource(
            "data:" + hashlib.sha256(value.encode(errors="replace")).hexdigest(),
            field,
            data_uri=value,
        )
    if kind in ("http", "https"):
        url = _url(value, field)
        return ImageSource(str(url), field, url, local_file=_local_file(url, label_studio_url))
    if kind and kind not in _STORAGES:
        raise ImageRefusedError(
            f"{public(value)} cannot be fetched; supported are uploads and other paths of Label "
            f"Studio, its storages ({', '.join(sorted(_STORAGES))}), http(s) addresses and data "
            "URIs",
            field=field,
        )
    if label_studio_url is None:
        raise ImageRefusedError(
            f"{public(value)} is to be had from Label Studio: set LABEL_STUDIO_URL", field=field
        )
    root = str(label_studio_url).rstrip("/")
    if kind:
        uri = base64.urlsafe_b64encode(value.encode(errors="replace")).decode()
        path = f"/tasks/{urllib.parse.quote(str(task.id), safe='')}/resolve/?fileuri={uri}"
        # Another project's storage may be another server with a bucket of the same name.
        return ImageSource(f"{value} {task.project}", field, _url(root + path, field))
    path = "/" + value.lstrip("/")
    prefix = label_studio_url.path.rstrip("/")
    if prefix and path.startswith(prefix + "/"):
        path = path.removeprefix(prefix)
    url = _url(root + path, field)
    return ImageSource(str(url), field, url, local_file=_local_file(url, label_studio_url))


async def image_source(
    task: Task, tag: ImageTag, item_index: int | None, label_studio: LabelStudio
) -> ImageSource:
    """Tell where the image of a tag is, for a task of Label Studio.

    Raises what `image_value` and `locate` raise.
    """
    value, field = image_value(task, tag, item_index)
    # In a thread: of a data URI of many megabytes a digest is made.
    return await asyncio.to_thread(locate, value, task, field, await label_studio.find())


def decode_data_uri(value: str, max_bytes: int) -> bytes:
    """Return what a `data:` URI holds.

    Raises ImageRefusedError if it is not well-formed or too large.
    """
    head, comma, payload = value.partition(",")
    if not comma:
        raise ImageRefusedError("not a data URI: expected data:image/…;base64,…")
    is_base64 = head.lower().endswith(";base64")
    if len(payload) > (max_bytes * 4 // 3 + 4 if is_base64 else 3 * max_bytes):
        raise _too_large(max_bytes)
    decoded = urllib.parse.unquote_to_bytes(payload)
    if is_base64:
        try:
            decoded = base64.b64decode(decoded, validate=True)
        except binascii.Error as error:
            raise ImageRefusedError(f"not a data URI: {error}") from None
    if len(decoded) > max_bytes:
        raise _too_large(max_bytes)
    return decoded


class ImageFetcher:
    """Reads images over HTTP, with the token at Label Studio and without it anywhere else.

    Files of the local-files storage are read directly where their folder is known.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        label_studio: LabelStudio,
        policy: AddressPolicy,
        *,
        max_bytes: int,
        timeout_s: float,
        local_files_root: Path | None = None,
        retry_delays_s: Sequence[float] = (0.2, 1.0),
    ) -> None:
        """Fetch within limits; a failure that may pass is tried again after each delay."""
        self._session = session
        self._label_studio = label_studio
        self._policy = policy
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._local_files_root = local_files_root
        self._retry_delays_s = retry_delays_s

    async def fetch(self, source: ImageSource) -> bytes:
        """Return the encoded image.

        Raises:
            ImageRefusedError: its address is not allowed, or it is too large.
            LabelStudioAuthError: Label Studio does not accept any token.
            ImageUnavailableError: it cannot be had, after some retries where they may help.
        """
        try:
            if source.url is None:
                return await asyncio.to_thread(decode_data_uri, source.data_uri, self._max_bytes)
            if source.local_file and self._local_files_root:
                image = await asyncio.to_thread(
                    read_below, self._local_files_root, source.local_file, self._max_bytes
                )
                if image is not None and len(image) > self._max_bytes:
                    raise _too_large(self._max_bytes)
                if image is not None:
                    return image
            return await asyncio.wait_for(self._fetch(source.url), self._timeout_s)
        except asyncio.TimeoutError:
            raise TemporarilyUnavailableError(
                f"{public(str(source.url))} took longer than {self._timeout_s:g} s "
                "(IMAGE_TIMEOUT_S)",
                field=source.field,
            ) from None
        except (ImageRefusedError, ImageUnavailableError) as error:
            error.field = source.field
            raise

    async def _fetch(self, url: URL) -> bytes:
        for delay_s in self._retry_delays_s:
            try:
                return await self._fetch_once(url)
            except TemporarilyUnavailableError:
                await asyncio.sleep(delay_s)
        return await self._fetch_once(url)

    async def _fetch_once(self, url: URL) -> bytes:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._policy.check_url(url)
                async with await self._get(url) as response:
                    location = response.headers.get("Location", "")
                    if response.status not in _REDIRECTS or not location:
                        return await self._read(url, response)
                    url = url.join(_url(location, ""))
                    if url.scheme not in ("http", "https"):
                        raise ImageRefusedError(f"redirected to {public(str(url))}")
        except aiohttp.InvalidURL:
            raise ImageRefusedError(f"{public(str(url))} is not an address") from None
        except aiohttp.ClientError as error:
            raise TemporarilyUnavailableError(f"{public(str(url))}: {cause(error)}") from error
        raise ImageUnavailableError(f"more than {MAX_REDIRECTS} redirects")

    async def _get(self, url: URL) -> aiohttp.ClientResponse:
        if self._label_studio.serves(url):
            return await self._label_studio.open("GET", url.with_user(None))
        return await self._session.get(url, allow_redirects=False)

    async def _read(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        status = response.status
        if status != 200:
            hint = _HINTS.get(status, "") if self._label_studio.serves(url) else ""
            kind = ImageUnavailableError
            if status == 429 or status >= 500:
                kind = TemporarilyUnavailableError
            raise kind(f"{public(str(url))} answers {status}{hint}")
        image = await read_at_most(response, self._max_bytes)
        if image is None:
            raise _too_large(self._max_bytes)
        return image


def _held(task: Task, tag: ImageTag) -> object:
    value: object = task.data
    for key in [tag.key] if tag.key in task.data else tag.key.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _too_large(max_bytes: int) -> ImageRefusedError:
    return ImageRefusedError(f"the image has more than {max_bytes / MIB:.4g} MiB (MAX_IMAGE_BYTES)")


def _local_file(url: URL, label_studio_url: URL | None) -> str:
    """Return the path that a URL of Label Studio's local-files storage names, else nothing."""
    if label_studio_url is None or origin(url) != origin(label_studio_url):
        return ""
    if url.path != label_studio_url.path.rstrip("/") + _LOCAL_FILES:
        return ""
    return url.query.get("d", "")


def _url(text: str, field: str) -> URL:
    # As it was written where it can be sent so: quoting again may break a signature.
    encoded = text.isascii() and not re.search(r"[\x00-\x20\x7f\"<>\\^`{|}]", text)
    try:
        url = URL(text, encoded=encoded)
        if url.scheme in ("http", "https") and not (url.host and url.port):
            raise ValueError("no host")
    except ValueError as error:
        raise ImageRefusedError(f"{public(text)} is not an address: {error}", field=field) from None
    return url
