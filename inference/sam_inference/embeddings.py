"""The store of image embeddings: bounded by bytes, one encoding an image."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sam_inference.errors import EmbeddingNotFoundError
from sam_inference.transforms import Size

Tensors = dict[str, NDArray[np.float16]]


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """An embedded image.

    Attributes:
        model: name of the model that made it.
        original_size: (height, width) of the upright image.
        input_size: (height, width) of the image within the model frame.
        tensors: the encoder's outputs by name, float16; not to be changed.
    """

    model: str
    original_size: Size
    input_size: Size
    tensors: Tensors

    @property
    def size_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def image_id_of(image: bytes, model: str) -> str:
    """Return the id of an encoded image under a model: the same on every worker."""
    return f"{model}:{hashlib.sha256(image).hexdigest()[:32]}"


@dataclass(eq=False)
class _Flight:
    """An encoding under way and the number of calls that wait for it."""

    task: asyncio.Task[ImageEmbedding]
    waiters: int = 0


@dataclass(eq=False)
class EmbeddingStore:
    """Least-recently-used store of embeddings, used from one event loop.

    An embedding larger than the whole store is handed out but not kept.

    Attributes:
        max_bytes: bound on the tensors held.
    """

    max_bytes: int
    _held: OrderedDict[str, ImageEmbedding] = field(default_factory=OrderedDict, init=False)
    _flights: dict[str, _Flight] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors held."""
        return self._bytes

    def __contains__(self, image_id: str) -> bool:
        """Whether an embedding is held."""
        return image_id in self._held

    def get(self, image_id: str) -> ImageEmbedding:
        """Return the embedding of `image_id` and mark it as used.

        Raises:
            EmbeddingNotFoundError: it is not held.
        """
        try:
            self._held.move_to_end(image_id)
        except KeyError:
            raise EmbeddingNotFoundError(image_id) from None
        return self._held[image_id]

    async def get_or_create(
        self, image_id: str, create: Callable[[], Awaitable[ImageEmbedding]]
    ) -> tuple[ImageEmbedding, bool]:
        """Return the embedding of `image_id`, made by `create` if it is not held.

        Calls for the same id at the same time share one `create`. It is cancelled only
        when the last of them is.

        Returns:
            The embedding, and whether it was held already.
        """
        if image_id in self._held:
            return self.get(image_id), True
        flight = self._flights.get(image_id)
        if flight is None:
            flight = _Flight(asyncio.ensure_future(self._create(image_id, create)))
            self._flights[image_id] = flight
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task), False
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                flight.task.cancel()
                # A later call must not join an encoding that is being cancelled.
                if self._flights.get(image_id) is flight:
                    del self._flights[image_id]

    async def _create(
        self, image_id: str, create: Callable[[], Awaitable[ImageEmbedding]]
    ) -> ImageEmbedding:
        task = asyncio.current_task()
        try:
            embedding = await create()
            self._put(image_id, embedding)
            return embedding
        finally:
            flight = self._flights.get(image_id)
            if flight is not None and flight.task is task:
                del self._flights[image_id]

    def _put(self, image_id: str, embedding: ImageEmbedding) -> None:
        if embedding.size_bytes > self.max_bytes:
            return
        previous = self._held.pop(image_id, None)
        if previous is not None:
            self._bytes -= previous.size_bytes
        self._held[image_id] = embedding
        self._bytes += embedding.size_bytes
        while self._bytes > self.max_bytes:
            _, evicted = self._held.popitem(last=False)
            self._bytes -= evicted.size_bytes
