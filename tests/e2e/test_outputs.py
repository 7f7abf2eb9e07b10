"""Each tag that can hold an object: what Label Studio shows of it, takes and exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely

import sam_core
from e2e.editor import LABEL_CONFIG, Editor
from e2e.fixtures import NewProject, OpenEditor
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import Mask, iou, region_mask
from sam_client import SamClient
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"


def open_with(tag: str, new_project: NewProject, open_editor: OpenEditor) -> Editor:
    """Open a task of a project that has another tag instead of `<BrushLabels>`."""
    config = LABEL_CONFIG.replace("BrushLabels", tag)
    # Of the other tags, only this one has paths that are open unless it is told otherwise.
    project = new_project(config.replace("<VectorLabels ", '<VectorLabels closable="true" '))
    return open_editor(project, project.upload_task(DOGS))


def filled(regions: list[dict[str, Any]]) -> Mask:
    """The pixels whose centres are within the rings of polygon or vector regions."""
    width, height = regions[0]["original_width"], regions[0]["original_height"]
    rings = []
    for region in regions:
        value = region["value"]
        points = value.get("points") or [(vertex["x"], vertex["y"]) for vertex in value["vertices"]]
        rings.append(shapely.Polygon(np.array(points) * (width, height) / 100))
    shape = shapely.MultiPolygon(rings)
    assert shape.is_valid, shapely.is_valid_reason(shape)
    shapely.prepare(shape)
    y, x = np.mgrid[:height, :width] + 0.5
    inside: Mask = shapely.contains_xy(shape, x, y)
    return inside


def without_specks(mask: Mask) -> Mask:
    """Fill the holes, which outlines cannot have, and drop what is no part of its own."""
    height, width = mask.shape
    counts = sam_core.counts_from_mask(mask)
    largest = max(part.area for part in sam_core.polygons(counts, height, width))
    cleaned = sam_core.remove_small_regions(
        counts, height, width, max_speck_pixels=largest // 200, max_hole_pixels=height * width
    )
    return sam_core.mask_from_counts(cleaned, height, width)


def test_bitmask_is_the_workers(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_with("BitmaskLabels", new_project, open_editor)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert stored["type"] == "bitmasklabels"
    assert stored["value"]["bitmasklabels"] == ["Dog"]
    assert iou(region_mask(stored), expected) == 1.0


@pytest.mark.parametrize("tag", ["PolygonLabels", "VectorLabels"])
def test_outlines_enclose_the_workers_mask(
    tag: str,
    new_project: NewProject,
    open_editor: OpenEditor,
    label_studio: LabelStudio,
    worker: SamClient,
) -> None:
    editor = open_with(tag, new_project, open_editor)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [stored] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert [region["id"] for region in stored] == [region["id"] for region in answer.regions]
    for region in stored:
        assert region["type"] == tag.lower()
        assert region["value"][tag.lower()] == ["Dog"]
        assert region["value"]["closed"] is True
    assert iou(filled(stored), without_specks(expected)) >= 0.97


def test_ellipse_is_stored_as_it_was_suggested(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio
) -> None:
    editor = open_with("EllipseLabels", new_project, open_editor)

    [shown] = editor.click("Dog", 47, 48).regions
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    assert stored["type"] == "ellipselabels"
    assert stored["value"] == {
        key: pytest.approx(value) if isinstance(value, float) else value
        for key, value in shown["value"].items()
    }
