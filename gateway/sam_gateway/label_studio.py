"""The Label Studio that the gateway works for: where it is, and what opens it."""

import asyncio
import functools
import logging

import aiohttp
import orjson
from yarl import URL

from sam_gateway.addresses import AddressPolicy, origin, public
from sam_gateway.config import Config, ConfigError, parse_label_studio_url
from sam_gateway.errors import ImageRefusedError, LabelStudioAuthError, TemporarilyUnavailableError
from sam_gateway.logs import event
from sam_gateway.reading import read_at_most
from sam_gateway.tokens import Credential, credential, headers, is_token

TOKEN_SETTING = "LABEL_STUDIO_API_KEY"

_MAX_ANSWER_BYTES = 2**16
# What containers call the machine that they run on, where Docker or their network says so.
_DOCKER_HOST = "host.docker.internal"
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)

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
        # Where it may be according to /setup, until one of them has answered.
        self._candidates: tuple[URL, ...] = ()
        self._hostname = ""
        self._search = asyncio.Lock()
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
        if self._configured_url is None and hostname and hostname != self._hostname:
            try:
                url = parse_label_studio_url(hostname)
            except ConfigError:
                _logger.warning(event("setup_hostname_ignored", hostname=hostname))
            else:
                self._hostname = hostname
                self._move_to(url)
                self._candidates = _candidates(url)
                self._policy.label_studio = frozenset(origin(u)[1:] for u in self._candidates)
        known = self._given and self._given[:2]
        if self._url and is_token(token) and known != (self._url, token):
            self._given = (self._url, token, self._credential("the token of /setup", token))

    async def find(self) -> URL | None:
        """Return the address, after having looked for it where `/setup` may be mistaken.

        Label Studio on the same machine calls itself localhost, which from within a container
        is another machine.
        """
        async with self._search:
            candidates = self._candidates
            for url in candidates if len(candidates) > 1 else ():
                result = await self._probe(url)
                _logger.info(event("label_studio_tried", url=url, result=result))
                if result == "found" and candidates is self._candidates:
                    self._stay_at(url)
                    break
        return self._url

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

    async def open(
        self, method: str, url: URL, *, content: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request to a URL that it serves, with one token after the other until one opens.

        `content` is JSON. Redirects are not followed.

        Raises LabelStudioAuthError if no token is accepted, aiohttp.ClientError,
        asyncio.TimeoutError, and what exchanging a token raises.
        """
        refused = []
        for tried in self.credentials():
            try:
                return await self._open_as(tried, method, url, content)
            except LabelStudioAuthError as error:
                refused.append(str(error))
        if not refused:
            response = await self._send(method, url, content)
            if response.status != 401:
                return response
            response.release()
        raise LabelStudioAuthError(
            f"Label Studio does not open {public(str(url))}: {'; '.join(refused) or 'no token'}. "
            f"Set {TOKEN_SETTING} to a personal access token (Account & Settings), or to a legacy "
            "token if the organisation allows them"
        )

    async def _open_as(
        self, credential: Credential, method: str, url: URL, content: bytes | None
    ) -> aiohttp.ClientResponse:
        async for header in headers(credential):
            response = await self._send(method, url, content, header)
            if response.status != 401:
                return response
            response.release()
        raise LabelStudioAuthError(f"{credential.name} is refused (401)")

    async def _send(
        self, method: str, url: URL, content: bytes | None, authorization: str = ""
    ) -> aiohttp.ClientResponse:
        headers = {"Authorization": authorization} if authorization else {}
        if content is not None:
            headers["Content-Type"] = "application/json"
        return await self._session.request(
            method, url, data=content, headers=headers, allow_redirects=False
        )

    def _move_to(self, url: URL) -> None:
        self._url = url
        self._policy.label_studio = frozenset([origin(url)[1:]])
        if self._token and self._own is None:
            self._own = (url, self._credential(TOKEN_SETTING, self._token))

    def _stay_at(self, url: URL) -> None:
        """Take one of the candidates as the address, and the tokens of the first with it."""
        first, self._candidates = self._candidates[0], ()
        self._move_to(url)
        if self._own and self._own[0] == first:
            self._own = (url, self._credential(TOKEN_SETTING, self._token))
        if self._given and self._given[0] == first:
            token = self._given[1]
            self._given = (url, token, self._credential(self._given[2].name, token))

    async def _probe(self, url: URL) -> str:
        try:
            async with self._session.get(
                url.with_path(f"{url.path.rstrip('/')}/api/version/"),
                allow_redirects=False,
                timeout=_PROBE_TIMEOUT,
            ) as response:
                body = await read_at_most(response, _MAX_ANSWER_BYTES) or b""
            return "found" if "release" in orjson.loads(body) else "not Label Studio"
        except (orjson.JSONDecodeError, TypeError):
            return "not Label Studio"
        except (aiohttp.ClientError, asyncio.TimeoutError, ImageRefusedError) as error:
            return f"no answer ({type(error).__name__})"

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


def _candidates(url: URL) -> tuple[URL, ...]:
    loopback = url.host == "localhost" or (url.host or "").startswith("127.") or url.host == "::1"
    return (url, url.with_host(_DOCKER_HOST)) if loopback else (url,)
