"""The projects of Label Studio and the ML backends they are connected to."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from yarl import URL

from sam_gateway.addresses import AddressPolicy
from sam_gateway.config import Config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.label_studio_api import LabelStudioApi

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

    Raises GatewayError.
    """
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        policy = AddressPolicy(config.allowed_image_hosts)
        api = LabelStudioApi(LabelStudio(config, session, policy))
        async for entry in api.projects():
            project = Project(entry["id"], entry["title"] or "", entry["label_config"] or "")
            yield project, [_backend(backend) for backend in await api.backends(project.id)]


def _backend(entry: dict[str, object]) -> Backend:
    return Backend(
        URL(str(entry["url"])).with_user(None),
        bool(entry["is_interactive"]),
        str(entry["readable_state"]),
        str(entry["error_message"] or ""),
    )
