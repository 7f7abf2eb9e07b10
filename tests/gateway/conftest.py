"""The real gateway on a real worker, and a Label Studio to fetch from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway_support import LEGACY_TOKEN, LabelStudio
from sam_gateway.app import create_app
from sam_gateway.config import Config

OpenGateway = Callable[..., Awaitable[TestClient]]


@pytest.fixture
async def label_studio() -> AsyncIterator[LabelStudio]:
    server = LabelStudio()
    async with server.server:
        yield server


@pytest.fixture
async def open_gateway() -> AsyncIterator[OpenGateway]:
    """Start a gateway with the given settings and return a client of it."""
    clients: list[TestClient] = []

    async def start(**settings: Any) -> TestClient:
        server = TestServer(create_app(Config(**settings)))
        await server.start_server()
        clients.append(TestClient(server))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def gateway(
    open_gateway: OpenGateway, worker_target: str, label_studio: LabelStudio
) -> TestClient:
    """A gateway with the shared worker, configured for the Label Studio of the test."""
    return await open_gateway(
        worker=worker_target, label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN
    )
