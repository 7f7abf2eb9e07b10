"""The status page: what Label Studio's screen does not tell of a click that failed."""

from __future__ import annotations

import base64

import pytest

from e2e.fixtures import NewProject, OpenEditor, OpenTask, Screenshot, StartGateway
from e2e.label_studio import Backend
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"


def test_click_that_failed_is_explained(
    new_project: NewProject,
    open_editor: OpenEditor,
    open_task: OpenTask,
    start_gateway: StartGateway,
    screenshot: Screenshot,
) -> None:
    backend = Backend(start_gateway().url)  # without a token for uploads
    project = new_project()
    photo = f"data:image/jpeg;base64,{base64.b64encode(DOGS.read_bytes()).decode()}"
    inline = open_editor(project, project.import_task({"image": photo}), backend)
    assert inline.drag("Dog", 54, 37, 72, 99).regions
    uploaded = open_task(DOGS, backend)
    with pytest.raises(AssertionError, match="Server Error"):
        uploaded.drag("Dog", 54, 37, 72, 99)

    page = uploaded.page
    page.set_viewport_size({"width": 1000, "height": 1450})
    page.goto(f"{backend.url}/status")

    failed = page.locator("li.fail", has_text="upload: ")
    assert "personal access token" in failed.locator(".remedy").inner_text()
    requests = page.locator("section", has_text="Last requests").locator("tbody tr")
    assert "label_studio_auth" in requests.first.inner_text()
    assert requests.filter(has_text="1 region").count() == 1
    screenshot(page, "status")
