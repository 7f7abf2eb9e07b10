"""Predictions of whole tasks, by Label Studio's own "Retrieve predictions"."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from e2e.fixtures import NewProject, StartGateway
from e2e.gateway import Gateway, worker_masks
from e2e.label_studio import LabelStudio, Project
from e2e.masks import iou, region_mask
from sam_client import SamClient
from support import IMAGES

PHOTOS = [IMAGES / "originals" / name for name in ("dogs.jpg", "dog.jpg", "coffee.png")]
LABELS = '<Label value="Dog"/><Label value="Cat"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image">{LABELS}</BrushLabels>
<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>
</View>"""


def rectangle(photo: Path) -> dict[str, Any]:
    """A rectangle on a photo, as the editor stores it."""
    with Image.open(photo) as image:
        width, height = image.size
    return {
        "id": "rectangle",
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "value": {"x": 54, "y": 37, "width": 18, "height": 62, "rectanglelabels": ["Dog"]},
    }


def connect(project: Project, server: LabelStudio, gateway: Gateway, **settings: object) -> None:
    """Connect a project with what is typed into the form's extra params."""
    backend = {"url": gateway.url, "project": project.id, "title": "sam", "extra_params": settings}
    assert server.call("POST", "/api/ml/", json=backend)["state"] == "CO"


def retrieve_predictions(server: LabelStudio, project: Project) -> None:
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project.id}"
    selected = {"selectedItems": {"all": True, "excluded": []}, "project": project.id}
    server.call("POST", path, json=selected)


def predictions(server: LabelStudio, task_id: int) -> list[dict[str, Any]]:
    """Return the predictions of a task, as soon as there are any of this gateway."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = server.call("GET", f"/api/predictions/?task={task_id}")
        if ours := [p for p in found if p["model_version"].startswith("samserve-")]:
            return ours
        time.sleep(1)
    raise AssertionError(f"task {task_id} has no prediction")


def test_rectangles_of_annotations_drafts_and_other_models_become_masks(
    new_project: NewProject, label_studio: LabelStudio, gateway: Gateway, worker: SamClient
) -> None:
    project = new_project(CONFIG)
    tasks = [project.upload_task(photo) for photo in PHOTOS]
    drawn = [rectangle(photo) for photo in PHOTOS]
    label_studio.call("POST", f"/api/tasks/{tasks[0]}/annotations/", json={"result": [drawn[0]]})
    label_studio.call("POST", f"/api/tasks/{tasks[1]}/drafts", json={"result": [drawn[1]]})
    detected = {"task": tasks[2], "model_version": "detector", "result": [drawn[2]]}
    label_studio.call("POST", "/api/predictions/", json=detected)
    connect(project, label_studio, gateway, BATCH="boxes")

    retrieve_predictions(label_studio, project)

    for task, photo, prompt in zip(tasks, PHOTOS, drawn, strict=True):
        [prediction] = predictions(label_studio, task)
        [region] = prediction["result"]
        assert region["value"]["brushlabels"] == ["Dog"]
        [expected] = worker_masks(worker, photo, [prompt])
        assert iou(region_mask(region), expected) == 1.0


def test_everything_is_predicted_in_the_background(
    new_project: NewProject,
    start_gateway: StartGateway,
    label_studio: LabelStudio,
    access_token: str,
) -> None:
    gateway = start_gateway(LABEL_STUDIO_API_KEY=access_token)
    project = new_project(CONFIG)
    tasks = [project.upload_task(photo) for photo in PHOTOS[1:]]
    connect(
        project,
        label_studio,
        gateway,
        BATCH="automatic",
        AUTOMATIC_POINTS_PER_SIDE=6,
        AUTOMATIC_MIN_IOU=0.2,
        AUTOMATIC_MIN_STABILITY=0.2,
    )

    retrieve_predictions(label_studio, project)
    retrieve_predictions(label_studio, project)

    for task in tasks:
        [prediction] = predictions(label_studio, task)
        assert len(prediction["result"]) > 1
        assert all(region_mask(region).any() for region in prediction["result"])
