"""Masks as regions of Label Studio. Pure: arrays in, dictionaries out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import sam_core
from sam_gateway.accepted import region_id
from sam_gateway.label_config import Output
from sam_gateway.prompts import PromptGroup
from sam_gateway.shapes import SHAPES, Runs, ShapeOptions, Value, cleaned

Region = dict[str, object]


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """The mask of one object: row-major run lengths (background first) of the upright image."""

    prompt_id: str
    counts: npt.NDArray[np.uint32]
    width: int
    height: int
    predicted_iou: float


def regions(
    outputs: Sequence[Output], group: PromptGroup, mask: ObjectMask, options: ShapeOptions
) -> list[Region]:
    """Write a mask as the regions that the output tags take; an empty mask as none.

    The mask is answered in the size of the request, whatever that of the image is. A region's
    id depends on the first prompt's id, the output tag and the labels, and on the part where a
    mask is written as several: further clicks on an object replace its regions, and another
    object gets others.
    """
    runs = _resized(mask, group.original_width, group.original_height)
    if len(runs.counts) < 2:
        return []
    runs = cleaned(runs, options)
    return [
        region
        for output in outputs
        for part, value in enumerate(_values(output, runs, options))
        for region in _part_regions(output, group, mask, part, value)
    ]


def mean_score(found: Sequence[Region]) -> float:
    """Return the mean of the scores of regions, one or more."""
    scores = [score for region in found if isinstance(score := region["score"], float)]
    return sum(scores) / len(scores)


def _values(output: Output, runs: Runs, options: ShapeOptions) -> list[Value]:
    if output.control.kind == "brush":
        # Its region comes in two pieces with the same value, and pictures are for one piece.
        options = dataclasses.replace(options, stored=True)
    return SHAPES[output.shape](runs, options)


def _part_regions(
    output: Output, group: PromptGroup, mask: ObjectMask, part: int, value: Value
) -> list[Region]:
    """Write one value as a region, or a plain tag and its `<Labels>` as two with one id."""
    control = output.control
    region: Region = {
        "id": region_id(mask.prompt_id, control.name, group.labels, part),
        "to_name": group.to_name,
        "original_width": group.original_width,
        "original_height": group.original_height,
        # The mask is that of the image as it is stored upright, however it is viewed.
        "image_rotation": 0,
        "score": min(max(mask.predicted_iou, 0.0), 1.0),
    }
    if group.item_index is not None:
        region["item_index"] = group.item_index
    if control.kind != output.shape:
        value = {**value, control.kind: group.labels}
    written = [{**region, "type": control.kind, "from_name": control.name, "value": value}]
    if output.labels_control and group.labels:
        name, labelled = output.labels_control.name, {**value, "labels": group.labels}
        written.append({**region, "type": "labels", "from_name": name, "value": labelled})
    return written


def _resized(mask: ObjectMask, width: int, height: int) -> Runs:
    """Scale a mask to another size, nearest neighbour."""
    if (mask.width, mask.height) == (width, height):
        return Runs(mask.counts, height, width)
    pixels = sam_core.mask_from_counts(mask.counts, mask.height, mask.width)
    rows = (2 * np.arange(height) + 1) * mask.height // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.width // (2 * width)
    return Runs(sam_core.counts_from_mask(pixels[rows[:, None], columns]), height, width)
