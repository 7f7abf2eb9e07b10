"""Photos that are not stored as they are seen."""

from __future__ import annotations

from e2e.editor import COLOURS, OpenTask
from e2e.gateway import worker_masks
from e2e.label_studio import LabelStudio
from e2e.masks import iou, region_mask, resized, tinted
from sam_client import SamClient
from support import IMAGES


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
    agreement = iou(tint, resized(expected, like=tint))
    assert agreement > 0.9
