"""Prompts of a task in, regions out."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from sam_gateway.errors import InvalidRequestError
from sam_gateway.images import ImageSource, image_source
from sam_gateway.label_config import ImageTag, LabelConfig, parse_label_config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.prompts import ObjectPrompt, PromptGroup, Task
from sam_gateway.results import ObjectMask, Region, regions
from sam_gateway.shapes import ShapeOptions


class Segment(Protocol):
    """Cuts objects out of an image; raises GatewayError."""

    async def __call__(
        self, source: ImageSource, objects: Sequence[ObjectPrompt], prompt_ids: frozenset[str], /
    ) -> list[ObjectMask]:
        """Return masks of the objects, in their order; `prompt_ids` are all prompts of these.

        None are returned if they are not wanted any more.
        """


async def predict(
    task: Task,
    groups: Sequence[PromptGroup],
    label_config: str,
    *,
    segment: Segment,
    label_studio: LabelStudio,
    shape_options: ShapeOptions,
) -> list[Region]:
    """Cut out what the prompts of a task point at.

    Returns no regions where nothing is found. Raises GatewayError.
    """
    if not groups:
        return []
    config = parse_label_config(label_config)
    found: list[Region] = []
    for group in groups:
        outputs = config.outputs(group.to_name, group.labels, shape_options.kinds)
        source = await image_source(
            task, _image_tag(config, group.to_name), group.item_index, label_studio
        )
        for mask in await segment(source, group.objects, group.prompt_ids):
            found += await asyncio.to_thread(regions, outputs, group, mask, shape_options)
    return found


def _image_tag(config: LabelConfig, name: str) -> ImageTag:
    tag = config.images.get(name)
    if tag is None:
        raise InvalidRequestError(
            f"no <Image> named {name!r} with a task key such as $image", field="label_config"
        )
    return tag
