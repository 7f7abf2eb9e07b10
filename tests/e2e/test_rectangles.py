"""Rectangles: each cuts out one object."""

from __future__ import annotations

from e2e.editor import COLOURS, LABELING
from e2e.fixtures import OpenTask, Screenshot
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import assert_shows, iou, region_mask, tinted
from sam_client import SamClient
from support import IMAGES

CORGI = IMAGES / "originals" / "corgi.jpg"
DOGS = IMAGES / "originals" / "dogs.jpg"


def test_rectangle_cuts_out_what_is_in_it(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient, screenshot: Screenshot
) -> None:
    editor = open_task(CORGI)
    before = editor.canvas()

    answer = editor.drag("Dog", 38, 37, 88, 72)
    tint = tinted(before, editor.canvas(), COLOURS["Dog"])
    screenshot(editor.page, "rectangle", LABELING)
    editor.accept()
    editor.submit()

    [expected] = worker_masks(worker, CORGI, answer.prompts)
    [[stored]] = label_studio.annotations(editor.task_id)
    assert iou(region_mask(stored), expected) == 1.0
    assert_shows(tint, expected)


def test_two_rectangles_are_two_objects(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)
    editor.drag("Dog", 42, 31, 55, 97)
    answer = editor.drag("Dog", 57, 37, 72, 99)  # in the first one, it would move that
    assert len(answer.regions) == 2

    editor.accept()
    editor.submit()

    [[first, second]] = label_studio.annotations(editor.task_id)
    expected = worker_masks(worker, DOGS, answer.prompts)
    assert iou(region_mask(first), expected[0]) == 1.0
    assert iou(region_mask(second), expected[1]) == 1.0
    assert iou(*expected) < 0.5
