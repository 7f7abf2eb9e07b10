"""Embedding all images of a project, so that no first click has to wait."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from sam_client import EmbeddedImage
from sam_gateway.errors import GatewayError
from sam_gateway.images import image_source, item_indices
from sam_gateway.label_config import ImageTag, parse_label_config
from sam_gateway.label_studio import LabelStudio
from sam_gateway.label_studio_api import LabelStudioApi
from sam_gateway.prompts import parse_task
from sam_gateway.segmenter import Segmenter

# While one image is fetched, another is embedded.
_AT_ONCE = 2
# After so many tasks it is looked whether the worker still holds what came first.
_PROBE_EVERY = 16


@dataclass(frozen=True, slots=True)
class Project:
    """What is to be done, and what an embedding takes of the worker's memory."""

    title: str
    tasks: int
    embedding_bytes: int


@dataclass(slots=True)
class WarmedTask:
    """What came of a task: images embedded now, images held before, and why others failed."""

    task: int | str
    embedded: int = 0
    held: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CacheFull:
    """The worker drops the first images for the last ones: it makes no sense to go on."""

    images: int


class Warming:
    """Embeds the images of projects while the worker has no clicks to answer."""

    def __init__(
        self, segmenter: Segmenter, label_studio: LabelStudio, api: LabelStudioApi
    ) -> None:
        """Find tasks by `api` and embed their images by `segmenter`."""
        self._segmenter = segmenter
        self._label_studio = label_studio
        self._api = api

    async def warm(self, project_id: int) -> AsyncGenerator[Project | WarmedTask | CacheFull, None]:
        """Embed what the worker does not hold yet; tell of the project, then of each task.

        Raises GatewayError if the tasks cannot be listed.
        """
        project = await self._api.project(project_id)
        tags = list(parse_label_config(project["label_config"]).images.values())
        yield Project(
            str(project["title"]),
            int(project["task_number"]),
            await self._segmenter.embedding_bytes(),
        )
        images: list[EmbeddedImage] = []
        probed = done = 0
        async for warmed in self._each(project_id, tags, images):
            yield warmed
            done += 1
            if done % _PROBE_EVERY == 0 and probed < len(images):
                # The longest untouched; to look at it is to touch it, hence another each time.
                if not await self._segmenter.holds(images[probed]):
                    break
                probed += 1
        if probed < len(images) and not await self._segmenter.holds(images[probed]):
            yield CacheFull(len(images))

    async def _each(
        self, project_id: int, tags: list[ImageTag], images: list[EmbeddedImage]
    ) -> AsyncIterator[WarmedTask]:
        running: set[asyncio.Task[WarmedTask]] = set()
        try:
            async for entry in self._api.tasks(project_id):
                running.add(asyncio.create_task(self._task(entry, tags, images)))
                if len(running) >= _AT_ONCE:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
            for task in running:
                yield await task
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _task(
        self, entry: object, tags: list[ImageTag], images: list[EmbeddedImage]
    ) -> WarmedTask:
        warmed = WarmedTask("?")
        try:
            task = parse_task(entry, "task")
        except GatewayError as error:
            warmed.failures.append(_told(error))
            return warmed
        warmed.task = task.id
        for tag in tags:
            for index in item_indices(task, tag):
                try:
                    source = await image_source(task, tag, index, self._label_studio)
                    image = await self._segmenter.warm(source)
                    warmed.held += image.cached
                    warmed.embedded += not image.cached
                    images.append(image)
                except GatewayError as error:
                    warmed.failures.append(_told(error))
        return warmed


def _told(error: GatewayError) -> str:
    return f"{error.reason}: {error.field}: {error}" if error.field else f"{error.reason}: {error}"
