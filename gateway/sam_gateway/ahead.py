"""Images that somebody is about to click on: their embeddings are made before the first click."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

from sam_gateway.errors import GatewayError
from sam_gateway.images import image_value, locate
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


class EmbedAhead:
    """Embeds images of tasks in the background: one at a time, the newest first.

    Of a task, that is the first image of each image tag. What waits longest is given up where
    too many wait.
    """

    def __init__(self, segmenter: Segmenter, label_studio: LabelStudio) -> None:
        """Begin with nothing; see `run`."""
        self._segmenter = segmenter
        self._label_studio = label_studio
        # By project, task and tag: the task with the tag, and how long the value is.
        self._waiting: OrderedDict[tuple[object, ...], tuple[Task, ImageTag, int]] = OrderedDict()
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
        for task in reversed(tasks[:MAX_WAITING]):
            for tag in reversed(tags):
                key = (task.project, task.id, tag.name)
                self._waiting.pop(key, None)
                try:
                    value, _ = image_value(task, tag, None)
                except GatewayError as error:
                    _skipped(task, error)
                else:
                    self._waiting[key] = (task, tag, len(value))
        while len(self._waiting) > MAX_WAITING or self._characters() > MAX_WAITING_CHARACTERS:
            self._waiting.popitem(last=False)
        if self._waiting:
            self._added.set()

    async def run(self) -> None:
        """Embed what was added, until cancelled."""
        while True:
            await self._added.wait()
            if self._waiting:
                _, (task, tag, _) = self._waiting.popitem()
                await self._embed(task, tag)
            else:
                self._added.clear()

    async def _embed(self, task: Task, tag: ImageTag) -> None:
        try:
            value, field = image_value(task, tag, None)
            # In a thread: of a data URI of many megabytes a digest is made.
            source = await asyncio.to_thread(
                locate, value, task, field, await self._label_studio.find()
            )
            await self._segmenter.embed_ahead(source)
        except GatewayError as error:
            _skipped(task, error)
        except Exception:  # the next one may do
            _logger.exception(event("embed_ahead_failed", task=task.id))

    def _characters(self) -> int:
        return sum(length for _, _, length in self._waiting.values())


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
