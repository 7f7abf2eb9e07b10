"""Each tag that can hold an object: what Label Studio shows of it, takes and exports."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import shapely

import sam_core
from e2e.editor import LABEL_CONFIG, Editor
from e2e.fixtures import NewProject, OpenEditor, OpenTask
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


def test_brush_comes_as_a_picture_and_is_stored_as_run_lengths(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [shown] = answer.regions
    [[stored]] = label_studio.annotations(editor.task_id)
    assert set(shown["value"]) == {"format", "maskDataURL", "brushlabels"}
    assert set(stored["value"]) == {"format", "rle", "brushlabels"}
    run_lengths = json.dumps(stored["value"]["rle"], separators=(",", ":"))
    assert len(shown["value"]["maskDataURL"]) < len(run_lengths)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert iou(region_mask(shown), expected) == 1.0
    assert iou(region_mask(stored), expected) == 1.0


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


def test_rectangle_encloses_the_workers_mask(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_with("RectangleLabels", new_project, open_editor)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    height, width = expected.shape
    value = stored["value"]
    rows, columns = np.nonzero(expected)
    assert stored["type"] == "rectanglelabels"
    assert value["rectanglelabels"] == ["Dog"]
    assert value["rotation"] == 0
    assert [value["x"] * width, value["y"] * height] == pytest.approx(
        [columns.min() * 100, rows.min() * 100]
    )
    assert [value["width"] * width, value["height"] * height] == pytest.approx(
        [np.ptp(columns) * 100 + 100, np.ptp(rows) * 100 + 100]
    )


def test_ellipse_has_the_moments_of_the_workers_mask(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_with("EllipseLabels", new_project, open_editor)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    size = np.array(expected.shape[::-1]) / 100
    value = stored["value"]
    angle = np.radians(value["rotation"])
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # A semi-axis of a filled ellipse is twice the standard deviation along it.
    deviations = axes * size * (value["radiusX"], value["radiusY"]) / 2
    points = np.argwhere(expected)[:, ::-1] + 0.5  # x, y
    assert stored["type"] == "ellipselabels"
    assert value["ellipselabels"] == ["Dog"]
    assert size * (value["x"], value["y"]) == pytest.approx(points.mean(axis=0), abs=0.01)
    assert deviations @ deviations.T == pytest.approx(np.cov(points.T), rel=0.01, abs=1)
