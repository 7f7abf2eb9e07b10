"""The Label Studio that the gateway works for: where it is, and what opens it."""

import asyncio
import functools
import logging

import aiohttp
import orjson
from yarl import URL

from sam_gateway.addresses import AddressPolicy, origin
from sam_gateway.config import Config, ConfigError, parse_label_studio_url
from sam_gateway.errors import LabelStudioAuthError, TemporarilyUnavailableError
from sam_gateway.logs import event
from sam_gateway.reading import read_at_most
from sam_gateway.tokens import Credential, credential, is_token

TOKEN_SETTING = "LABEL_STUDIO_API_KEY"

_MAX_ANSWER_BYTES = 2**16

_logger = logging.getLogger(__name__)


class LabelStudio:
    """Address and credentials of Label Studio: as configured, else as `POST /setup` said.

    A token belongs to one address and is never sent elsewhere. The configured one belongs to the
    configured address or, if there is none, to that of the first `/setup`.
    """

    def __init__(
        self, config: Config, session: aiohttp.ClientSession, policy: AddressPolicy
    ) -> None:
        """Begin with what is configured; `policy` is told where Label Studio is."""
        self._configured_url = config.label_studio_url
        self._token = config.label_studio_token
        self._session = session
        self._policy = policy
        self._url: URL | None = None
        # The configured credential and the one of /setup, each with its address.
        self._own: tuple[URL, Credential] | None = None
        self._given: tuple[URL, str, Credential] | None = None
        if self._configured_url:
            self._move_to(self._configured_url)

    @property
    def url(self) -> URL | None:
        """The address, which may end in a path; None before the first `/setup`."""
        return self._url

    def remember_setup(self, hostname: str, token: str) -> None:
        """Keep what Label Studio says of itself, for what is not configured."""
        if self._configured_url is None and hostname:
            try:
                self._move_to(parse_label_studio_url(hostname))
            except ConfigError:
                _logger.warning(event("setup_hostname_ignored", hostname=hostname))
        known = self._given and self._given[:2]
        if self._url and is_token(token) and known != (self._url, token):
            self._given = (self._url, token, self._credential("the token of /setup", token))

    def serves(self, url: URL) -> bool:
        """Whether a URL has the scheme, host and port of Label Studio."""
        return self._url is not None and origin(url) == origin(self._url)

    def credentials(self) -> list[Credential]:
        """Return what may be tried at the present address, in this order."""
        bound = [self._own, self._given and (self._given[0], self._given[2])]
        return [entry[1] for entry in bound if entry and self.serves(entry[0])]

    @property
    def url_source(self) -> str:
        """Which setting or call the address is from."""
        return "LABEL_STUDIO_URL" if self._configured_url else "/setup"

    async def ask(self, path: str, authorization: str = "") -> tuple[int, object]:
        """GET a path of Label Studio; return the status, and the JSON or None if it is none.

        Raises aiohttp.ClientError, asyncio.TimeoutError.
        """
        assert self._url
        async with self._session.get(
            self._url.with_path(self._url.path.rstrip("/") + path),
            headers={"Authorization": authorization} if authorization else {},
            allow_redirects=False,
        ) as response:
            body = await read_at_most(response, _MAX_ANSWER_BYTES) or b""
        try:
            return response.status, orjson.loads(body)
        except orjson.JSONDecodeError:
            return response.status, None

    def _move_to(self, url: URL) -> None:
        self._url = url
        self._policy.label_studio = origin(url)[1:]
        if self._token and self._own is None:
            self._own = (url, self._credential(TOKEN_SETTING, self._token))

    def _credential(self, name: str, token: str) -> Credential:
        assert self._url
        return credential(name, token, functools.partial(self._exchange, self._url, name))

    async def _exchange(self, url: URL, name: str, token: str) -> str:
        """Exchange a personal access token for an access token, at the address it belongs to."""
        try:
            async with self._session.post(
                url.with_path(f"{url.path.rstrip('/')}/api/token/refresh/"),
                json={"refresh": token},
                allow_redirects=False,
            ) as response:
                body = await read_at_most(response, _MAX_ANSWER_BYTES) or b""
                status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise TemporarilyUnavailableError(
                f"Label Studio at {url} does not answer ({type(error).__name__}): check "
                "LABEL_STUDIO_URL, as seen from the gateway"
            ) from error
        if status == 200:
            try:
                access = orjson.loads(body)["access"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                access = None
            if isinstance(access, str) and access.isascii() and access.isprintable():
                return access
        if status >= 500:
            raise TemporarilyUnavailableError(f"Label Studio at {url} answers {status}")
        raise LabelStudioAuthError(
            f"Label Studio at {url} refuses {name} ({status}): create a new personal access token "
            f"in Label Studio (Account & Settings) and set {TOKEN_SETTING} to it"
        )
