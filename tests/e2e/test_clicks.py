"""Clicks: a mask around what was clicked, and further clicks that correct it."""

from __future__ import annotations

import pytest

from e2e.editor import COLOURS, LABELING
from e2e.fixtures import OpenTask, Screenshot
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import assert_shows, contains, iou, region_mask, tinted
from sam_client import SamClient
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"
CORGI = IMAGES / "originals" / "corgi.jpg"


def test_click_draws_the_mask_in_the_labels_colour(
    open_task: OpenTask, screenshot: Screenshot
) -> None:
    editor = open_task(CORGI)
    before = editor.canvas()

    [region] = editor.click("Dog", 70, 57).regions

    mask = region_mask(region)
    tint = tinted(before, editor.canvas(), COLOURS["Dog"])
    assert_shows(tint, mask)
    assert contains(mask, 70, 57)
    screenshot(editor.page, "click", LABELING)


def test_alt_click_takes_away(open_task: OpenTask) -> None:
    editor = open_task(CORGI)
    [region] = editor.click("Dog", 75, 55).regions
    assert contains(region_mask(region), 60, 55)

    answer = editor.click("Dog", 60, 55, negative=True)

    assert [prompt["is_positive"] for prompt in answer.prompts] == [True, False]
    [region] = answer.regions
    assert contains(region_mask(region), 75, 55)
    assert not contains(region_mask(region), 60, 55)


def test_submitted_mask_is_the_workers(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)
    editor.click("Dog", 47, 48)
    editor.click("Dog", 48, 70)
    answer = editor.click("Dog", 60, 55, negative=True)
    assert len(answer.prompts) == 3
    [shown] = answer.regions

    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert stored["value"]["brushlabels"] == ["Dog"]
    assert stored["id"] == shown["id"]
    assert iou(region_mask(stored), expected) == 1.0


def test_moved_click_is_asked_for_again(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)
    placed = editor.click("Dog", 70, 57)

    moved = editor.move((70, 57), to=(32, 20))
    editor.accept()
    editor.submit()

    assert [prompt["id"] for prompt in moved.prompts] == [placed.prompts[0]["id"]]
    assert moved.prompts[0]["value"]["x"] == pytest.approx(32, abs=0.5)
    assert moved.prompts[0]["value"]["y"] == pytest.approx(20, abs=0.5)
    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, CORGI, moved.prompts)
    assert stored["id"] == placed.regions[0]["id"]
    assert iou(region_mask(stored), expected) == 1.0
    assert iou(expected, region_mask(placed.regions[0])) < 0.5


def test_negative_click_stays_negative_when_the_page_is_opened_anew(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)
    editor.click("Dog", 75, 55)
    before = editor.click("Dog", 60, 55, negative=True)
    label_studio.wait_for_draft(editor.task_id, before.prompts[1]["id"])

    editor.reopen()
    answer = editor.click("Dog", 72, 60)
    editor.accept()
    editor.submit()

    # Label Studio sends the old clicks again, without saying what they are.
    assert [prompt.get("is_positive") for prompt in answer.prompts] == [None, None, True]
    [stored] = label_studio.annotations(editor.task_id)
    [mask] = [region_mask(region) for region in stored if region["type"] == "brushlabels"]
    [expected] = worker_masks(worker, CORGI, [*before.prompts, answer.prompts[2]])
    assert iou(mask, expected) == 1.0
