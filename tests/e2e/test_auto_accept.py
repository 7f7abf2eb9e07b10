"""Auto-Accept Suggestions: each prompt becomes a region at once."""

from __future__ import annotations

from e2e.fixtures import OpenTask
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import iou, region_mask
from sam_client import SamClient
from support import IMAGES

DOGS = IMAGES / "originals" / "dogs.jpg"


def test_each_prompt_becomes_a_region_of_its_own(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)
    editor.switch_auto_accept_on()

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
