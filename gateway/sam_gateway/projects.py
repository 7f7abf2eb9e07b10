"""The projects of Label Studio and the ML backends they are connected to."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from sam_gateway.addresses import AddressPolicy
from sam_gateway.config import Config
from sam_gateway.errors import GatewayError
from sam_gateway.label_studio import LabelStudio
from sam_gateway.tokens import Credential

_PAGE_SIZE = 100
# For the list of a project's backends Label Studio calls each of them, some seconds if it is dead.
_TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True, slots=True)
class Project:
    """A project: its id, its title and its labeling config."""

    id: int
    title: str
    label_config: str


@dataclass(frozen=True, slots=True)
class Backend:
    """An ML backend of a project: `state` is `Connected`, or what else Label Studio shows."""

    url: URL
    is_interactive: bool
    state: str
    error: str


async def list_projects(config: Config) -> AsyncIterator[tuple[Project, list[Backend]]]:
    """Yield every project that the token's owner sees, and its backends in their order.

    The address and the token have to be configured.

    Raises GatewayError, aiohttp.ClientError, asyncio.TimeoutError.
    """
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        policy = AddressPolicy(config.allowed_image_hosts)
        (credential,) = LabelStudio(config, session, policy).credentials()
        api = _Api(session, config.label_studio_url or URL(), credential)
        page, more = 1, True
        while more:
            listed = await api.get("projects/", page=page, page_size=_PAGE_SIZE)
            for entry in listed["results"]:
                project = Project(entry["id"], entry["title"] or "", entry["label_config"] or "")
                yield project, [_backend(b) for b in await api.get("ml/", project=project.id)]
            page, more = page + 1, bool(listed["next"])


def _backend(entry: dict[str, object]) -> Backend:
    return Backend(
        URL(str(entry["url"])).with_user(None),
        bool(entry["is_interactive"]),
        str(entry["readable_state"]),
        str(entry["error_message"] or ""),
    )


class _Api:
    """Label Studio's API for reading."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, credential: Credential) -> None:
        self._session = session
        self._root = f"{str(url).rstrip('/')}/api/"
        self._credential = credential

    async def get(self, path: str, **query: int) -> Any:
        header = await self._credential.authorization()
        async with self._session.get(
            self._root + path,
            params=query,
            headers={"Authorization": header},
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise GatewayError(f"Label Studio answers {response.status} to {path}")
            return await response.json()
