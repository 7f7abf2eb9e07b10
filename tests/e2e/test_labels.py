"""Labels: each object has its own, from a list a tool or from one for all tools."""

from __future__ import annotations

import re
from pathlib import Path

from e2e.fixtures import NewProject, OpenEditor, OpenTask
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import iou, region_mask
from sam_client import SamClient
from support import IMAGES

CORGI = IMAGES / "originals" / "corgi.jpg"
DOGS = IMAGES / "originals" / "dogs.jpg"

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "label-studio.md"


def test_prompts_of_two_labels_do_not_mix(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(CORGI)

    editor.click("Dog", 70, 57)
    tree = editor.click("Thing", 32, 20)
    assert len(tree.prompts) == 1
    dog = editor.click("Dog", 75, 55)
    assert len(dog.prompts) == 2
    editor.accept()
    tree = editor.click("Thing", 32, 20)
    assert len(tree.prompts) == 1
    editor.accept()
    editor.submit()

    [stored] = label_studio.annotations(editor.task_id)
    assert [region["value"]["brushlabels"] for region in stored] == [["Dog"], ["Thing"]]
    for region, answer in zip(stored, (dog, tree), strict=True):
        [expected] = worker_masks(worker, CORGI, answer.prompts)
        assert iou(region_mask(region), expected) == 1.0


def test_one_list_of_labels_for_all_tools_as_documented(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio, worker: SamClient
) -> None:
    configs = re.findall(r"```xml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    [config] = [config for config in configs if "<Labels " in config]
    project = new_project(config)
    editor = open_editor(project, project.upload_task(DOGS))

    clicked = editor.click("Dog", 47, 48)
    # Label Studio writes each prompt twice, for the tool and for the list of labels.
    assert [prompt["type"] for prompt in clicked.prompts] == ["keypoint", "labels"]
    editor.accept()
    drawn = editor.drag("Cat", 57, 37, 72, 99)
    assert [prompt["type"] for prompt in drawn.prompts] == ["rectangle", "labels"]
    editor.accept()
    editor.submit()

    [stored] = label_studio.annotations(editor.task_id)
    # So it does with masks.
    assert [region["type"] for region in stored] == ["brush", "labels"] * 2
    for answer, label, pieces in (
        (clicked, "Dog", stored[:2]),
        (drawn, "Cat", stored[2:]),
    ):
        [expected] = worker_masks(worker, DOGS, answer.prompts[:1])
        assert {piece["id"] for piece in pieces} == {answer.regions[0]["id"]}
        assert pieces[1]["value"]["labels"] == [label]
        assert [iou(region_mask(piece), expected) for piece in pieces] == [1.0, 1.0]
