"""What is predicted for a task that nobody clicks in."""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter

import orjson

from sam_gateway import interactive
from sam_gateway.automatic import AutomaticOptions, Candidate, best, candidate, point_grid
from sam_gateway.config import MIB, BatchOptions
from sam_gateway.errors import GatewayError, InvalidRequestError, NoOutputTagError
from sam_gateway.images import ImageSource, image_source, item_indices
from sam_gateway.label_config import ImageTag, LabelConfig, Output, parse_label_config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.label_studio_api import LabelStudioApi
from sam_gateway.logs import event
from sam_gateway.prompts import ObjectPrompt, Point, PromptGroup, Task, group_rectangles
from sam_gateway.rectangles import rectangles
from sam_gateway.results import ObjectMask, Region, mean_score, regions
from sam_gateway.segmenter import Segmenter
from sam_gateway.shapes import Runs, ShapeOptions

# Label Studio loads all of it whenever somebody opens the task.
MAX_PREDICTION_BYTES = 16 * MIB

# As many as SAM's own generator has decoded at once.
_OBJECTS_AT_ONCE = 64

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PredictedTask:
    """The regions of a task, one or more, as JSON."""

    result: bytes
    regions: int
    score: float


class TaskPredictor:
    """Predicts tasks while the worker has nothing else to do."""

    def __init__(
        self,
        segmenter: Segmenter,
        label_studio: LabelStudio,
        api: LabelStudioApi,
        shape_options: ShapeOptions,
    ) -> None:
        """Write masks by `shape_options`."""
        self._segmenter = segmenter
        self._label_studio = label_studio
        self._api = api
        # No browser turns pictures into run lengths here.
        self._shape_options = dataclasses.replace(shape_options, stored=True)

    async def predict(
        self, task: Task, label_config: str, options: BatchOptions
    ) -> PredictedTask | None:
        """Return what is predicted for a task; None if that is nothing.

        Raises GatewayError.
        """
        if options.mode == "boxes":
            found = await self._boxes(task, label_config)
            written = await asyncio.to_thread(_written, found, cut=False)
        else:
            found = await self._everything(task, label_config, options.automatic)
            written = await asyncio.to_thread(_written, found, cut=True)
        return written

    async def _boxes(self, task: Task, label_config: str) -> list[Region]:
        """Give a mask for each rectangle; those that did not come along are asked for.

        Rectangles that cannot be read are left out, as long as others remain.
        """
        drawn = task.rectangles or rectangles(await self._api.task_results(task.id))
        groups, unreadable = group_rectangles(task, drawn)
        if unreadable and not groups:
            raise unreadable[0]
        if unreadable:
            _logger.warning(
                event(
                    "batch_rectangles_left_out",
                    project=task.project,
                    task=task.id,
                    rectangles=len(unreadable),
                    field=unreadable[0].field,
                    message=unreadable[0],
                )
            )
        return await interactive.predict(
            task,
            groups,
            label_config,
            segment=self._segment,
            label_studio=self._label_studio,
            shape_options=self._shape_options,
        )

    async def _segment(
        self, source: ImageSource, objects: Sequence[ObjectPrompt], prompt_ids: frozenset[str]
    ) -> list[ObjectMask]:
        del prompt_ids
        masks: dict[int, ObjectMask] = {}
        for first in range(0, len(objects), _OBJECTS_AT_ONCE):
            some = objects[first : first + _OBJECTS_AT_ONCE]
            found = self._segmenter.in_background(source, some, multimask_output=False)
            async with aclosing(found):
                async for mask in found:
                    name = some[mask.prompt_index].prompt_id
                    masks[first + mask.prompt_index] = ObjectMask(
                        name, mask.counts, mask.width, mask.height, mask.predicted_iou
                    )
        return [masks[i] for i in range(len(objects))]

    async def _everything(
        self, task: Task, label_config: str, options: AutomaticOptions
    ) -> list[Region]:
        """Give masks of everything in the images of a task, the best of each image first."""
        config = parse_label_config(label_config)
        found: list[Region] = []
        for tag, labels in _labelled_images(config, self._shape_options.kinds):
            outputs = config.outputs(tag.name, labels, self._shape_options.kinds)
            for index in item_indices(task, tag):
                source = await image_source(task, tag, index, self._label_studio)
                candidates = await self._candidates(source, options)
                for item in await asyncio.to_thread(best, candidates, options):
                    found += await asyncio.to_thread(
                        _item_regions, item, outputs, tag, index, labels, self._shape_options
                    )
        return found

    async def _candidates(self, source: ImageSource, options: AutomaticOptions) -> list[Candidate]:
        grid = point_grid(options.points_per_side)
        clicks = [ObjectPrompt(str(i), (Point(x, y, True),)) for i, (x, y) in enumerate(grid)]
        candidates = []
        for first in range(0, len(clicks), _OBJECTS_AT_ONCE):
            found = self._segmenter.in_background(
                source, clicks[first : first + _OBJECTS_AT_ONCE], multimask_output=True
            )
            async with aclosing(found):
                async for mask in found:
                    good = candidate(
                        f"{first + mask.prompt_index} {mask.mask_index}",
                        Runs(mask.counts, mask.height, mask.width),
                        predicted_iou=mask.predicted_iou,
                        stability_score=mask.stability_score,
                        options=options,
                        shape_options=self._shape_options,
                    )
                    candidates += [good] if good else []
        return candidates


def _labelled_images(
    config: LabelConfig, shapes: Sequence[str]
) -> list[tuple[ImageTag, tuple[str, ...]]]:
    """Return the image tags whose masks the config can hold, and what these are labelled with.

    That is the label if there is only one. Of several none is chosen: to label a region is less
    work than to correct it.

    Raises NoOutputTagError if no image has a tag for masks.
    """
    found: list[tuple[ImageTag, tuple[str, ...]]] = []
    failure: GatewayError = InvalidRequestError(
        "no <Image> with a task key such as $image", field="label_config"
    )
    for tag in config.images.values():
        try:
            output = config.outputs(tag.name, (), shapes)[0]
        except NoOutputTagError as error:
            failure = error
        else:
            labels = (output.labels_control or output.control).labels
            found.append((tag, tuple(labels) if len(labels) == 1 else ()))
    if not found:
        raise failure
    return found


def _item_regions(
    item: Candidate,
    outputs: Sequence[Output],
    tag: ImageTag,
    item_index: int | None,
    labels: tuple[str, ...],
    options: ShapeOptions,
) -> list[Region]:
    runs = item.runs
    group = PromptGroup(tag.name, item_index, labels, runs.width, runs.height, ())
    name = f"{tag.name} {item_index} {item.name}"
    mask = ObjectMask(name, runs.counts, runs.width, runs.height, item.predicted_iou)
    return regions(outputs, group, mask, options)


def _written(found: list[Region], *, cut: bool) -> PredictedTask | None:
    """Write regions as JSON; if they are too large, only the first of them, or none at all.

    Raises InvalidRequestError if they are too large and not to be cut.
    """
    size, kept = 0, []
    for _, same in itertools.groupby(found, itemgetter("id")):
        pieces = list(same)
        size += len(orjson.dumps(pieces))
        if size > MAX_PREDICTION_BYTES:
            if not cut:
                raise InvalidRequestError(
                    f"{len(found)} regions have more than {MAX_PREDICTION_BYTES // MIB} MiB: "
                    "polygons (OUTPUT) are smaller"
                )
            break
        kept += pieces
    if not kept:
        return None
    return PredictedTask(orjson.dumps(kept), len({r["id"] for r in kept}), mean_score(kept))
