"""Images that somebody is about to click on: their embeddings are made before the first click."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sam_gateway.errors import GatewayError
from sam_gateway.images import image_source, image_value, item_indices
from sam_gateway.label_config import ImageTag, parse_label_config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.logs import event
from sam_gateway.prompts import Task
from sam_gateway.segmenter import Segmenter

# A worker does not hold the embeddings of a whole project.
MAX_WAITING = 64
# Task data may hold the image itself.
MAX_WAITING_CHARACTERS = 2**28

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Image:
    task: Task
    tag: ImageTag
    item_index: int | None

    @property
    def key(self) -> tuple[object, ...]:
        return self.task.project, self.task.id, self.tag.name, self.item_index

    def value(self) -> tuple[str, str]:
        """Return what the task's data holds, and its path; raises InvalidRequestError."""
        return image_value(self.task, self.tag, self.item_index)


class EmbedAhead:
    """Embeds images of tasks in the background: one at a time, the newest first.

    Of a tag with several pages, the later ones come after the first images of all tags and tasks.
    What waits longest is given up where too many wait.
    """

    def __init__(self, segmenter: Segmenter, label_studio: LabelStudio) -> None:
        """Begin with nothing; see `run`."""
        self._segmenter = segmenter
        self._label_studio = label_studio
        self._waiting: OrderedDict[tuple[object, ...], _Image] = OrderedDict()
        self._added = asyncio.Event()

    def add(self, tasks: Sequence[Task], label_config: str) -> None:
        """Take note of tasks, the first of them most urgent; what cannot be embedded is skipped.

        Answers at once.
        """
        try:
            tags = list(parse_label_config(label_config).images.values())
        except GatewayError as error:
            _logger.info(event("embed_ahead_skipped", reason=error.reason, message=error))
            return
        images = [
            _Image(task, tag, index)
            for task in tasks[:MAX_WAITING]
            for tag in tags
            for index in item_indices(task, tag)[:MAX_WAITING]
        ]
        images.sort(key=lambda image: image.item_index or 0)
        for image in reversed(images[:MAX_WAITING]):
            self._waiting.pop(image.key, None)
            try:
                image.value()
            except GatewayError as error:
                _skipped(image.task, error)
            else:
                self._waiting[image.key] = image
        while len(self._waiting) > MAX_WAITING or self._characters() > MAX_WAITING_CHARACTERS:
            self._waiting.popitem(last=False)
        if self._waiting:
            self._added.set()

    async def run(self) -> None:
        """Embed what was added, until cancelled."""
        while True:
            await self._added.wait()
            if self._waiting:
                _, image = self._waiting.popitem()
                await self._embed(image)
            else:
                self._added.clear()

    async def _embed(self, image: _Image) -> None:
        try:
            source = await image_source(image.task, image.tag, image.item_index, self._label_studio)
            await self._segmenter.embed_ahead(source)
        except GatewayError as error:
            _skipped(image.task, error)
        except Exception:  # the next one may do
            _logger.exception(event("embed_ahead_failed", task=image.task.id))

    def _characters(self) -> int:
        return sum(len(image.value()[0]) for image in self._waiting.values())


def _skipped(task: Task, error: GatewayError) -> None:
    _logger.info(
        event(
            "embed_ahead_skipped",
            task=task.id,
            reason=error.reason,
            field=error.field,
            message=error,
        )
    )
