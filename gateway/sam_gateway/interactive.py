"""One click: prompts of a task in, regions out."""

import asyncio
from collections.abc import Sequence

from yarl import URL

from sam_gateway.errors import InvalidRequestError
from sam_gateway.images import ImageSource, image_value, locate
from sam_gateway.label_config import LabelConfig, parse_label_config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.prompts import PromptGroup, Task, group_prompts
from sam_gateway.results import Region, regions
from sam_gateway.segmenter import Segmenter
from sam_gateway.shapes import ShapeOptions


async def predict(
    task: Task,
    prompts: Sequence[object],
    label_config: str,
    *,
    segmenter: Segmenter,
    label_studio: LabelStudio,
    shape_options: ShapeOptions,
) -> list[Region]:
    """Cut out what the open prompts of a task point at.

    Returns no regions where nothing positive is asked for, or nothing is found.
    Raises GatewayError.
    """
    groups = group_prompts(prompts, task.saved)
    if not groups:
        return []
    config = parse_label_config(label_config)
    found: list[Region] = []
    for group in groups:
        outputs = config.outputs(group.to_name, group.labels, shape_options.kinds)
        # In a thread: of a data URI of many megabytes a digest is made.
        source = await asyncio.to_thread(
            _image_source, task, group, config, await label_studio.find()
        )
        masks = await segmenter.segment(source, group.objects, group.prompt_ids)
        for mask in masks:
            found += await asyncio.to_thread(regions, outputs, group, mask, shape_options)
    return found


def _image_source(
    task: Task, group: PromptGroup, config: LabelConfig, label_studio_url: URL | None
) -> ImageSource:
    tag = config.images.get(group.to_name)
    if tag is None:
        raise InvalidRequestError(
            f"no <Image> named {group.to_name!r} with a task key such as $image",
            field="label_config",
        )
    value, field = image_value(task, tag, group.item_index)
    return locate(value, task, field, label_studio_url)
