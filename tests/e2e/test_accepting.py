"""How suggestions become regions: by the bar, at once, on the canvas, or not at all."""

from __future__ import annotations

from e2e.editor import COLOURS
from e2e.fixtures import OpenTask
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import iou, region_mask, tinted
from sam_client import SamClient
from support import IMAGES

CORGI = IMAGES / "originals" / "corgi.jpg"
DOGS = IMAGES / "originals" / "dogs.jpg"


def test_without_auto_accept_prompts_add_up_until_they_are_accepted(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)
    assert not editor.auto_accept

    editor.click("Dog", 70, 57)
    answer = editor.click("Dog", 75, 55)
    assert len(answer.prompts) == 2
    editor.accept()
    editor.wait_for_regions(1)
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, CORGI, answer.prompts)
    assert iou(region_mask(stored), expected) == 1.0


def test_with_auto_accept_each_prompt_becomes_a_region_of_its_own(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)
    editor.switch_auto_accept_on()
    assert editor.auto_accept

    clicked = editor.click("Dog", 60, 60)
    editor.wait_for_regions(1)
    drawn = editor.drag("Thing", 42, 31, 55, 97)
    editor.wait_for_regions(2)
    editor.submit()

    assert len(clicked.prompts) == len(drawn.prompts) == 1
    [stored] = label_studio.annotations(editor.task_id)
    masks = {region["value"]["brushlabels"][0]: region_mask(region) for region in stored}
    expected = {
        "Dog": worker_masks(worker, DOGS, clicked.prompts)[0],
        "Thing": worker_masks(worker, DOGS, drawn.prompts)[0],
    }
    assert {label: iou(masks[label], mask) for label, mask in expected.items()} == {
        "Dog": 1.0,
        "Thing": 1.0,
    }


def test_click_left_by_accepting_on_the_canvas_does_not_join_the_next_object(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)
    first = editor.click("Dog", 70, 57)
    [dog] = first.regions
    editor.accept_on_canvas(dog)

    second = editor.click("Dog", 32, 20)
    assert [prompt["id"] for prompt in second.prompts[:-1]] == [first.prompts[0]["id"]]
    [tree] = second.regions
    editor.accept()
    editor.submit()

    [stored] = label_studio.annotations(editor.task_id)
    masks = {region["id"]: region_mask(region) for region in stored}
    assert set(masks) == {dog["id"], tree["id"]}
    assert iou(masks[dog["id"]], worker_masks(worker, CORGI, first.prompts)[0]) == 1.0
    assert iou(masks[tree["id"]], worker_masks(worker, CORGI, second.prompts[1:])[0]) == 1.0


def test_submitting_a_suggestion_saves_its_click_alone_and_the_next_brings_the_mask_back(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)
    before = editor.canvas()
    lost = editor.click("Dog", 70, 57)

    asked = editor.submit_suggestion()

    assert (asked.prompts, asked.regions) == ([], [])
    [[stored]] = label_studio.annotations(editor.task_id)
    assert stored["type"] == "keypointlabels"
    assert stored["id"] == lost.prompts[0]["id"]
    editor.wait_for_regions(1)
    tint = tinted(before, editor.canvas(), COLOURS["Dog"])
    assert tint.mean() < 0.001  # the dot, but no mask

    answer = editor.click("Dog", 75, 55)
    assert len(answer.prompts) == 2
    editor.accept()
    editor.update()

    [regions] = label_studio.annotations(editor.task_id)
    [mask] = [region_mask(region) for region in regions if region["type"] == "brushlabels"]
    assert iou(mask, worker_masks(worker, CORGI, answer.prompts)[0]) == 1.0
