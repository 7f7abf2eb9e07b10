"""Access: the gateway's to the images of Label Studio, and Label Studio's to the gateway."""

from __future__ import annotations

import httpx
import pytest

from e2e.editor import Editor
from e2e.fixtures import OpenTask, StartGateway
from e2e.gateway import worker_masks
from e2e.label_studio import Backend, LabelStudio
from e2e.masks import iou, region_mask
from sam_client import SamClient
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"


def assert_masks_arrive(editor: Editor, label_studio: LabelStudio, worker: SamClient) -> None:
    """Cut an object out of DOGS, and find the worker's mask of it in the stored annotation."""
    answer = editor.drag("Dog", 54, 37, 72, 99)
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert iou(region_mask(stored), expected) == 1.0


def test_upload_is_fetched_with_a_personal_access_token(
    open_task: OpenTask,
    start_gateway: StartGateway,
    access_token: str,
    label_studio: LabelStudio,
    worker: SamClient,
) -> None:
    gateway = start_gateway(LABEL_STUDIO_API_KEY=access_token)

    assert_masks_arrive(open_task(DOGS, Backend(gateway.url)), label_studio, worker)

    assert access_token not in gateway.log


def test_upload_is_fetched_with_a_legacy_token(
    open_task: OpenTask, start_gateway: StartGateway, label_studio: LabelStudio, worker: SamClient
) -> None:
    with label_studio.legacy_token() as token:
        gateway = start_gateway(LABEL_STUDIO_API_KEY=token)

        assert_masks_arrive(open_task(DOGS, Backend(gateway.url)), label_studio, worker)

    assert token not in gateway.log


def test_gateway_with_basic_auth_lets_only_the_right_password_in(
    open_task: OpenTask,
    start_gateway: StartGateway,
    access_token: str,
    label_studio: LabelStudio,
    worker: SamClient,
) -> None:
    gateway = start_gateway(
        LABEL_STUDIO_API_KEY=access_token, BASIC_AUTH_USER="annotators", BASIC_AUTH_PASS="right"
    )

    for refused in (Backend(gateway.url), Backend(gateway.url, "annotators", "wrong")):
        with pytest.raises(httpx.HTTPStatusError):
            open_task(DOGS, refused)
    editor = open_task(DOGS, Backend(gateway.url, "annotators", "right"))
    assert_masks_arrive(editor, label_studio, worker)
