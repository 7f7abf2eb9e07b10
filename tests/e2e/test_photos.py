"""Photos that are not stored as they are seen, or not where uploads are."""

from __future__ import annotations

from e2e.editor import COLOURS, LABEL_CONFIG
from e2e.fixtures import NewProject, OpenEditor, OpenTask
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import assert_shows, iou, region_mask, tinted
from sam_client import SamClient
from support import IMAGES

CORGI = IMAGES / "originals" / "corgi.jpg"
DOGS = IMAGES / "originals" / "dogs.jpg"


def test_photo_turned_by_exif_has_its_mask_where_it_is_seen(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    photo = IMAGES / "awkward" / "exif_orientation_6.jpg"  # stored 600x900, seen 900x600
    editor = open_task(photo)
    before = editor.canvas()

    answer = editor.drag("Thing", 6, 22, 97, 72)
    tint = tinted(before, editor.canvas(), COLOURS["Thing"])
    editor.accept()
    editor.submit()

    [expected] = worker_masks(worker, photo, answer.prompts)
    [[stored]] = label_studio.annotations(editor.task_id)
    assert (stored["original_width"], stored["original_height"]) == (900, 600)
    assert iou(region_mask(stored), expected) == 1.0
    assert_shows(tint, expected)


def test_turned_view_has_the_mask_where_it_is_seen(
    open_task: OpenTask, label_studio: LabelStudio, worker: SamClient
) -> None:
    editor = open_task(DOGS)
    editor.turn_right()
    before = editor.canvas()

    answer = editor.click("Dog", 47, 48)
    assert [prompt["image_rotation"] for prompt in answer.prompts] == [90]
    tint = tinted(before, editor.canvas(), COLOURS["Dog"])
    editor.accept()
    editor.submit()

    [expected] = worker_masks(worker, DOGS, answer.prompts)
    [[stored]] = label_studio.annotations(editor.task_id)
    assert iou(region_mask(stored), expected) == 1.0
    assert_shows(tint, expected)


def test_second_image_of_a_task_has_its_own_mask(
    new_project: NewProject, open_editor: OpenEditor, label_studio: LabelStudio, worker: SamClient
) -> None:
    project = new_project(LABEL_CONFIG.replace('value="$image"', 'valueList="$images"'))
    images = [project.upload(CORGI), project.upload(DOGS)]
    editor = open_editor(project, project.import_task({"images": images}))
    editor.turn_page()
    before = editor.canvas()

    answer = editor.click("Dog", 47, 48)
    tint = tinted(before, editor.canvas(), COLOURS["Dog"])
    editor.accept()
    editor.submit()

    [expected] = worker_masks(worker, DOGS, answer.prompts)
    [[stored]] = label_studio.annotations(editor.task_id)
    assert stored["item_index"] == 1
    assert iou(region_mask(stored), expected) == 1.0
    assert_shows(tint, expected)


def test_photo_of_a_local_files_storage(
    new_project: NewProject,
    open_editor: OpenEditor,
    label_studio: LabelStudio,
    worker: SamClient,
) -> None:
    project = new_project()
    project.add_local_files(DOGS.parent)
    task_id = project.import_task({"image": f"/data/local-files/?d={DOGS.relative_to(IMAGES)}"})
    editor = open_editor(project, task_id)

    answer = editor.click("Dog", 47, 48)
    editor.accept()
    editor.submit()

    [[stored]] = label_studio.annotations(editor.task_id)
    [expected] = worker_masks(worker, DOGS, answer.prompts)
    assert iou(region_mask(stored), expected) == 1.0
