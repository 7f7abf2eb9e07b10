"""Access: the gateway's to the images of Label Studio, and Label Studio's to the gateway."""

from __future__ import annotations

import httpx
import pytest

from e2e.fixtures import OpenTask, StartGateway
from e2e.label_studio import Backend, LabelStudio
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"


def test_upload_is_fetched_with_a_personal_access_token(
    open_task: OpenTask, start_gateway: StartGateway, access_token: str
) -> None:
    gateway = start_gateway(LABEL_STUDIO_API_KEY=access_token)
    editor = open_task(DOGS, Backend(gateway.url))

    assert editor.drag("Dog", 54, 37, 72, 99).regions
    assert access_token not in gateway.log


def test_upload_is_fetched_with_a_legacy_token(
    open_task: OpenTask, start_gateway: StartGateway, label_studio: LabelStudio
) -> None:
    with label_studio.legacy_token() as token:
        gateway = start_gateway(LABEL_STUDIO_API_KEY=token)
        editor = open_task(DOGS, Backend(gateway.url))

        assert editor.drag("Dog", 54, 37, 72, 99).regions
    assert token not in gateway.log


def test_upload_without_a_token_is_an_error_that_the_log_explains(
    open_task: OpenTask, start_gateway: StartGateway
) -> None:
    gateway = start_gateway()
    editor = open_task(DOGS, Backend(gateway.url))

    with pytest.raises(AssertionError, match="Server Error"):
        editor.drag("Dog", 54, 37, 72, 99)
    assert "LABEL_STUDIO_API_KEY" in gateway.log


def test_gateway_with_basic_auth_lets_only_the_right_password_in(
    open_task: OpenTask, start_gateway: StartGateway, access_token: str
) -> None:
    gateway = start_gateway(
        LABEL_STUDIO_API_KEY=access_token, BASIC_AUTH_USER="annotators", BASIC_AUTH_PASS="right"
    )

    for refused in (Backend(gateway.url), Backend(gateway.url, "annotators", "wrong")):
        with pytest.raises(httpx.HTTPStatusError):
            open_task(DOGS, refused)
    editor = open_task(DOGS, Backend(gateway.url, "annotators", "right"))
    assert editor.drag("Dog", 54, 37, 72, 99).regions
