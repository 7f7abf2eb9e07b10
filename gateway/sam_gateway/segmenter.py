"""The gateway's use of the worker: images become embeddings once, prompts become masks."""

import asyncio
import dataclasses
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import sam_client
from sam_gateway.errors import (
    ImageRefusedError,
    InvalidRequestError,
    WorkerBusyError,
    WorkerError,
    WorkerTimeoutError,
    WorkerUnavailableError,
)
from sam_gateway.images import ImageSource
from sam_gateway.metrics import Metrics
from sam_gateway.newest import NewestClicks
from sam_gateway.prompts import ObjectPrompt
from sam_gateway.refinement import Logits, Refinement
from sam_gateway.results import ObjectMask

_T = TypeVar("_T")

# Entries are some hundred bytes; the embeddings themselves are the worker's.
_MAX_KNOWN_IMAGES = 10_000
# An address outside of Label Studio may get another image.
_KNOWN_FOR_S = 3600.0
# A worker of one's own that starts, or starts again, is there within some seconds.
_PATIENCE_S = 20.0
_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class _KnownImage:
    embedded: sam_client.EmbeddedImage
    until: float  # time.monotonic()


class Fetcher(Protocol):
    """Reads images; ImageFetcher says what it raises."""

    async def fetch(self, source: ImageSource) -> bytes:
        """Return the encoded image."""


class Segmenter:
    """Cuts objects out of images, fetching and embedding each image once."""

    def __init__(
        self,
        client: sam_client.AsyncSamClient,
        fetcher: Fetcher,
        metrics: Metrics,
        *,
        model: str,
        timeout_s: float,
    ) -> None:
        """Ask for `model` (empty: the worker's default); give up on a task after `timeout_s`."""
        self._client = client
        self._fetcher = fetcher
        self._metrics = metrics
        self._model = model
        self._timeout_s = timeout_s
        self._known: OrderedDict[str, _KnownImage] = OrderedDict()
        self._images = _Shared[bytes]()
        # Those that a click waits for.
        self._embeds = _Shared[sam_client.EmbeddedImage]()
        self._newest = NewestClicks()
        self._refinement = Refinement()

    def forget_images(self) -> None:
        """Drop what is known about images, so that each is fetched again when next needed."""
        self._known.clear()

    async def segment(
        self,
        source: ImageSource,
        objects: Sequence[ObjectPrompt],
        prompt_ids: frozenset[str],
    ) -> list[ObjectMask]:
        """Return the best mask of each object, in the order of the objects.

        `prompt_ids` are all prompts of the click. None are returned if, meanwhile, a newer click
        with the same prompts, or more, has come as far.

        Raises GatewayError: what fetching the image may raise, ImageRefusedError if it is not an
        image, WorkerError and its kinds.
        """
        try:
            masks = await asyncio.wait_for(
                self._newest.run(prompt_ids, partial(self._segment, source, objects)),
                self._timeout_s,
            )
        except asyncio.TimeoutError:
            raise WorkerTimeoutError(
                f"no mask within {self._timeout_s:g} s (PREDICT_TIMEOUT_S)"
            ) from None
        if masks is None:
            self._metrics.superseded.inc()
        return masks or []

    async def embed_ahead(self, source: ImageSource) -> sam_client.EmbeddedImage:
        """Embed an image that nobody has clicked on yet, unless that was done already.

        The worker does it while it has no clicks to answer. A click on this image shares what
        was done for it so far.

        Raises GatewayError, as `segment` does.
        """
        if known := self._lookup(source):
            return known
        async with self._image(source) as image:
            if source.identity in self._embeds or self._lookup(source):
                return await self._embedded(source)
            return await self._embed(source, image, background=True)

    async def embedding_bytes(self) -> int:
        """Return what the worker holds of each image; raises GatewayError, as `segment` does."""
        with _worker_errors():
            info = await _patiently(self._client.list_models)
        sizes = {model.name: model.embedding_bytes for model in info.models}
        return sizes.get(self._model or info.default_model, 0)

    async def warm(self, source: ImageSource) -> sam_client.EmbeddedImage:
        """Have the worker hold an image, as `embed_ahead`; `cached` is whether it did before."""
        known = self._lookup(source)
        if known and await self.holds(known):
            return dataclasses.replace(known, cached=True)
        if known:
            self._forget(source, known)
        return await self.embed_ahead(source)

    async def holds(self, image: sam_client.EmbeddedImage) -> bool:
        """Whether the worker still holds an image.

        It is asked for a mask, which has it hold the image for longer.
        """
        middle = sam_client.Prompt([(image.width / 2, image.height / 2)], [1])
        try:
            with _worker_errors():
                masks = self._client.decode(image.image_id, [middle], background=True)
                async with aclosing(masks):
                    async for _ in masks:
                        return True
        except sam_client.EmbeddingNotFoundError:
            pass
        return False

    async def in_background(
        self, source: ImageSource, objects: Sequence[ObjectPrompt], *, multimask_output: bool
    ) -> AsyncGenerator[sam_client.SegmentedMask, None]:
        """Cut out objects while the worker has no clicks to answer; yield masks as they come.

        Raises GatewayError, as `segment` does, but does not wait for a worker that is not there.
        """
        for is_last_attempt in (False, True):
            embedded = await self.embed_ahead(source)
            try:
                with _worker_errors():
                    masks = self._client.decode(
                        embedded.image_id,
                        [_pixels(item, embedded.width, embedded.height) for item in objects],
                        multimask_output=multimask_output,
                        background=True,
                    )
                    async with aclosing(masks):
                        async for mask in masks:
                            yield mask
                break
            except sam_client.EmbeddingNotFoundError as error:  # comes before the first mask
                self._forget(source, embedded)
                if is_last_attempt:
                    raise _not_kept(error) from error
        self._metrics.decodes.inc(len(objects))

    async def _segment(
        self,
        source: ImageSource,
        objects: Sequence[ObjectPrompt],
        supersede_older: Callable[[], None],
    ) -> list[ObjectMask]:
        # Not before: they may be waiting for the same embedding, which is needed.
        embedded = await self._embedded(source)
        supersede_older()
        masks: dict[int, ObjectMask] = {}
        # A single click gets three candidates and the best is taken; the choice is per request.
        for ambiguous in (True, False):
            indices = [i for i, item in enumerate(objects) if item.ambiguous is ambiguous]
            if indices:
                chosen = [objects[i] for i in indices]
                decoded = await self._decode(source, embedded, chosen, ambiguous)
                masks.update(zip(indices, decoded, strict=True))
        return [masks[i] for i in range(len(objects))]

    async def _decode(
        self,
        source: ImageSource,
        embedded: sam_client.EmbeddedImage,
        objects: Sequence[ObjectPrompt],
        multimask_output: bool,
    ) -> list[ObjectMask]:
        try:
            return await self._decode_on(embedded, objects, multimask_output)
        except sam_client.EmbeddingNotFoundError:  # evicted, or the worker is a new one
            self._forget(source, embedded)
        embedded = await self._embedded(source)
        try:
            return await self._decode_on(embedded, objects, multimask_output)
        except sam_client.EmbeddingNotFoundError as error:
            raise _not_kept(error) from error

    async def _decode_on(
        self,
        embedded: sam_client.EmbeddedImage,
        objects: Sequence[ObjectPrompt],
        multimask_output: bool,
    ) -> list[ObjectMask]:
        image_id = embedded.image_id
        mask_inputs = [self._refinement.mask_input(image_id, item) for item in objects]
        prompts = [
            _pixels(item, embedded.width, embedded.height, mask_input)
            for item, mask_input in zip(objects, mask_inputs, strict=True)
        ]

        async def decode() -> list[sam_client.SegmentedMask]:
            best: dict[int, sam_client.SegmentedMask] = {}
            masks = self._client.decode(
                image_id,
                prompts,
                multimask_output=multimask_output,
                # Of several objects, none can be refined.
                return_low_res_logits=len(objects) == 1,
            )
            async with aclosing(masks):
                async for mask in masks:  # best candidate first
                    best.setdefault(mask.prompt_index, mask)
            self._metrics.decodes.inc(len(objects))
            return [best[i] for i in range(len(objects))]

        with _worker_errors():
            found = await _patiently(decode)
        for item, mask_input, mask in zip(objects, mask_inputs, found, strict=True):
            if mask.low_res_logits is not None:
                self._refinement.remember(image_id, item, mask_input, mask.low_res_logits)
        return [
            _object_mask(item.prompt_id, mask) for item, mask in zip(objects, found, strict=True)
        ]

    async def _embedded(self, source: ImageSource) -> sam_client.EmbeddedImage:
        if known := self._lookup(source):
            self._known.move_to_end(source.identity)
            return known
        async with self._embeds.use(
            source.identity, lambda: self._fetch_and_embed(source)
        ) as found:
            return found

    def _lookup(self, source: ImageSource) -> sam_client.EmbeddedImage | None:
        """Return what was embedded lately, whether the worker still holds it or not."""
        known = self._known.get(source.identity)
        return known.embedded if known and time.monotonic() < known.until else None

    def _forget(self, source: ImageSource, embedded: sam_client.EmbeddedImage) -> None:
        """Drop what the worker has dropped, unless it was embedded anew meanwhile."""
        if self._lookup(source) is embedded:
            del self._known[source.identity]

    def _image(self, source: ImageSource) -> AbstractAsyncContextManager[bytes]:
        return self._images.use(source.identity, lambda: self._fetch(source))

    async def _fetch(self, source: ImageSource) -> bytes:
        image = await self._fetcher.fetch(source)
        if not image:
            raise ImageRefusedError("the image is empty", field=source.field)
        self._metrics.image_bytes.inc(len(image))
        return image

    async def _fetch_and_embed(self, source: ImageSource) -> sam_client.EmbeddedImage:
        async with self._image(source) as image:
            return await self._embed(source, image, background=False)

    async def _embed(
        self, source: ImageSource, image: bytes, *, background: bool
    ) -> sam_client.EmbeddedImage:
        with _worker_errors(image_field=source.field):
            embedded = await _patiently(
                lambda: self._client.embed(image, model=self._model, background=background)
            )
        self._metrics.embeds.inc()
        self._known[source.identity] = _KnownImage(embedded, time.monotonic() + _KNOWN_FOR_S)
        self._known.move_to_end(source.identity)
        if len(self._known) > _MAX_KNOWN_IMAGES:
            self._known.popitem(last=False)
        return embedded


@dataclass(slots=True)
class _Flight(Generic[_T]):
    task: asyncio.Future[_T]
    users: int = 0


class _Shared(Generic[_T]):
    """Makes one thing a key at a time, and shares it between those who use it meanwhile.

    It is dropped, and its making cancelled, when all of them have gone.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[_T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    @asynccontextmanager
    async def use(self, key: str, make: Callable[[], Awaitable[_T]]) -> AsyncIterator[_T]:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(make()))
        flight.users += 1
        try:
            yield await asyncio.shield(flight.task)
        finally:
            flight.users -= 1
            if flight.users == 0:
                flight.task.cancel()
                del self._flights[key]


def _pixels(
    item: ObjectPrompt, width: int, height: int, mask_input: Logits | None = None
) -> sam_client.Prompt:
    x, y = width / 100, height / 100
    box = item.box
    return sam_client.Prompt(
        point_coords=[(point.x * x, point.y * y) for point in item.points],
        point_labels=[int(point.positive) for point in item.points],
        box=(box.x_min * x, box.y_min * y, box.x_max * x, box.y_max * y) if box else None,
        mask_input=mask_input,
    )


def _object_mask(prompt_id: str, mask: sam_client.SegmentedMask) -> ObjectMask:
    return ObjectMask(prompt_id, mask.counts, mask.width, mask.height, mask.predicted_iou)


def _not_kept(error: sam_client.EmbeddingNotFoundError) -> WorkerError:
    return WorkerError(f"the worker does not keep the embedding from one call to the next: {error}")


async def _patiently(call: Callable[[], Awaitable[_T]]) -> _T:
    """Call the worker; if it is not there, go on trying for a while."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await call()
        except sam_client.WorkerUnavailableError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


@contextmanager
def _worker_errors(image_field: str | None = None) -> Iterator[None]:
    """Turn the client's errors into the gateway's, but for EmbeddingNotFoundError."""
    try:
        yield
    except sam_client.EmbeddingNotFoundError:
        raise
    except sam_client.InvalidRequestError as error:
        if image_field:
            raise ImageRefusedError(str(error), field=image_field) from error
        raise InvalidRequestError(
            f"{error.field}: {error}", field="params.context.result"
        ) from error
    except sam_client.ModelNotFoundError as error:
        raise WorkerError(f"SAM_MODEL: {error}") from error
    except sam_client.WorkerBusyError as error:
        raise WorkerBusyError(str(error), retry_after_s=error.retry_after_s) from error
    except sam_client.WorkerUnavailableError as error:
        raise WorkerUnavailableError(f"the worker cannot be reached: {error}") from error
    except sam_client.DeadlineExceededError as error:
        raise WorkerTimeoutError(f"the worker took too long: {error}") from error
    except sam_client.SamError as error:
        raise WorkerError(str(error)) from error
