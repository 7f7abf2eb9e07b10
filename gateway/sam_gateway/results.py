"""Masks as regions of Label Studio. Pure: arrays in, dictionaries out."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

import sam_core
from sam_gateway.label_config import Output
from sam_gateway.prompts import PromptGroup

Region = dict[str, object]


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """The mask of one object: row-major run lengths (background first) of the upright image."""

    prompt_id: str
    counts: npt.NDArray[np.uint32]
    width: int
    height: int
    predicted_iou: float


def regions(output: Output, group: PromptGroup, mask: ObjectMask) -> list[Region]:
    """Write a mask as the regions that the output tag takes; an empty mask as none.

    The mask is answered in the size of the request, whatever that of the image is. The region's
    id depends on the first prompt's id, the output tag and the labels: further clicks on an
    object replace its region, and another object gets another one.
    """
    counts = _resized(mask, group.original_width, group.original_height)
    if len(counts) < 2:
        return []
    digest = hashlib.sha256(
        "\0".join([mask.prompt_id, output.control.name, *group.labels]).encode()
    )
    region: Region = {
        "id": digest.hexdigest()[:10],
        "to_name": group.to_name,
        "original_width": group.original_width,
        "original_height": group.original_height,
        # The mask is that of the image as it is stored upright, however it is viewed.
        "image_rotation": 0,
        "score": min(max(mask.predicted_iou, 0.0), 1.0),
    }
    if group.item_index is not None:
        region["item_index"] = group.item_index
    return _WRITERS[output.control.kind](output, group, region, counts)


def _brush_labels(
    output: Output, group: PromptGroup, region: Region, counts: npt.NDArray[np.uint32]
) -> list[Region]:
    value = {**_rle(group, counts), "brushlabels": group.labels}
    return [{**region, "type": "brushlabels", "from_name": output.control.name, "value": value}]


def _brush(
    output: Output, group: PromptGroup, region: Region, counts: npt.NDArray[np.uint32]
) -> list[Region]:
    """`<Brush>` beside `<Labels>`: the mask and its label are two regions with one id."""
    value = _rle(group, counts)
    written = [{**region, "type": "brush", "from_name": output.control.name, "value": value}]
    if output.labels_control and group.labels:
        name, labelled = output.labels_control.name, {**value, "labels": group.labels}
        written.append({**region, "type": "labels", "from_name": name, "value": labelled})
    return written


# By the kind of the output tag, see LabelConfig.output.
_WRITERS: dict[
    str, Callable[[Output, PromptGroup, Region, npt.NDArray[np.uint32]], list[Region]]
] = {"brushlabels": _brush_labels, "brush": _brush}


def _rle(group: PromptGroup, counts: npt.NDArray[np.uint32]) -> Region:
    # A list of many thousand numbers: C writes its text, and it goes into the answer as it is.
    text = sam_core.brush_rle_json(counts, group.original_height, group.original_width)
    return {"format": "rle", "rle": orjson.Fragment(text)}


def _resized(mask: ObjectMask, width: int, height: int) -> npt.NDArray[np.uint32]:
    """Scale a mask's run lengths to another size, nearest neighbour."""
    if (mask.width, mask.height) == (width, height):
        return mask.counts
    pixels = sam_core.mask_from_counts(mask.counts, mask.height, mask.width)
    rows = (2 * np.arange(height) + 1) * mask.height // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.width // (2 * width)
    return sam_core.counts_from_mask(pixels[rows[:, None], columns])
