"""From an image to its embedding and from prompts to masks, through the lanes and the store."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sam_core import Mask
from sam_inference.config import Config
from sam_inference.embeddings import EmbeddingStore, ImageEmbedding, image_id_of
from sam_inference.models import ModelSpec
from sam_inference.precedence import Precedence
from sam_inference.predictor import Candidate, EmbedDurations, Predictor
from sam_inference.prompts import Prompt
from sam_inference.registry import Registry
from sam_inference.scheduler import Lane

M = TypeVar("M")

# What requests wait for, other than the encoding of an image.
_DECODING = "decoding"
_BACKGROUND = "background"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedImage:
    """An image whose embedding is at hand.

    Attributes:
        image_id: its name in the store.
        embedding: the embedding.
        cached: whether it was held already.
        queue_ms: time waited for the encoder; 0 if cached.
        durations: time of the steps; None if cached.
    """

    image_id: str
    embedding: ImageEmbedding
    cached: bool
    queue_ms: float = 0.0
    durations: EmbedDurations | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMask(Generic[M]):
    """One mask of one prompt.

    Attributes:
        prompt_index: which prompt.
        mask_index: which of its candidates, as the model numbers them.
        predicted_iou: the model's estimate of the mask's quality.
        low_res_logits: float32 (mask_size, mask_size), in the model frame; None unless asked for.
        mask: the mask at the original size.
        written: the mask as the caller's writer wrote it.
        queue_ms: time waited for the decoder.
        decoder_ms: time of the decoder.
        postprocess_ms: time to upscale and write this mask.
    """

    prompt_index: int
    mask_index: int
    predicted_iou: float
    low_res_logits: NDArray[np.float32] | None
    mask: Mask
    written: M
    queue_ms: float
    decoder_ms: float
    postprocess_ms: float


class Pipeline:
    """Runs the heavy steps in bounded lanes and keeps embeddings."""

    def __init__(self, registry: Registry, config: Config) -> None:
        """Work with the models of `registry` within the limits of `config`."""
        self._registry = registry
        self._max_pixels = config.max_image_pixels
        self._store = EmbeddingStore(config.embedding_cache_bytes)
        self._precedence = Precedence()
        # One encoding at a time has all the threads. Decoder calls share them, and masks are
        # upscaled beside the next prompt's decoder.
        self._encode_lane = Lane("encode", threads=1, max_requests=config.max_requests)
        self._decode_lane = Lane("decode", threads=config.threads, max_requests=config.max_requests)
        # So few prompts of the background are in the lane that one who waits is next.
        self._background_prompts = asyncio.Semaphore(config.threads)

    def close(self) -> None:
        """Drop queued work and wait for running work."""
        self._encode_lane.close()
        self._decode_lane.close()

    def held(self, image_id: str) -> EmbeddedImage:
        """Return an image that was embedded before.

        Raises:
            EmbeddingNotFoundError: its embedding is not held.
        """
        return EmbeddedImage(image_id, self._store.get(image_id), cached=True)

    async def embed(
        self, image: bytes, spec: ModelSpec, *, background: bool = False
    ) -> EmbeddedImage:
        """Return an encoded image's embedding, made now if it is not held.

        Background encodings give way to every other request, and start again after it.

        Raises:
            InvalidArgumentError: the image cannot be used.
            OverloadedError: too many encodings wait.
        """
        image_id = await asyncio.to_thread(image_id_of, image, spec.name)
        if image_id in self._store:
            return self.held(image_id)
        queue_ms, durations = 0.0, None

        async def encode() -> ImageEmbedding:
            nonlocal queue_ms, durations
            predictor = await self._registry.predictor(spec)
            asked = time.perf_counter()
            (embedding, durations), _ = await self._precedence.run(
                image_id,
                lambda interrupt: self._encode_lane.run(
                    predictor.embed, image, interrupt, max_pixels=self._max_pixels
                ),
            )
            queue_ms = (time.perf_counter() - asked) * 1e3 - durations.total_ms
            return embedding

        with (
            self._encode_lane.admit(background=background),
            nullcontext() if background else self._precedence.interactive(image_id),
        ):
            embedding, cached = await self._store.get_or_create(image_id, encode)
        return EmbeddedImage(image_id, embedding, cached, queue_ms, durations)

    async def decode(
        self,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        *,
        multimask_output: bool,
        write: Callable[[Mask], M],
        keep_logits: bool = False,
        background: bool = False,
    ) -> AsyncGenerator[DecodedMask[M], None]:
        """Decode checked prompts and yield each mask as soon as it exists.

        The prompts are spread over the lane's threads and come in any order; the candidates
        of one prompt follow each other, best predicted IoU first. `write` runs in the lane,
        too. In the background, no prompt is begun while another request waits. Nobody is held
        up by a caller who takes the masks slowly: they are kept until then, and their low-res
        logits if `keep_logits`.

        Raises:
            OverloadedError: too many requests wait.
        """
        waiting = deque(enumerate(prompts))
        masks: asyncio.Queue[DecodedMask[M] | None] = asyncio.Queue()
        finishing = asyncio.Lock()

        async def decode_next(predictor: Predictor) -> None:
            index, prompt = waiting.popleft()
            (candidates, decoder_ms), queue_ms = await self._decode_lane.run(
                predictor.decode, embedding, prompt, multimask_output=multimask_output
            )
            # One prompt's masks follow each other; other prompts' decoders run meanwhile.
            async with finishing:
                for candidate in candidates:
                    (mask, written, postprocess_ms), _ = await self._decode_lane.run(
                        _finish, predictor, embedding, candidate, write
                    )
                    # A copy, for they are a part of all that the decoder gave.
                    logits = candidate.low_res_logits.copy() if keep_logits else None
                    masks.put_nowait(
                        DecodedMask(
                            prompt_index=index,
                            mask_index=candidate.mask_index,
                            predicted_iou=candidate.predicted_iou,
                            low_res_logits=logits,
                            mask=mask,
                            written=written,
                            queue_ms=queue_ms,
                            decoder_ms=decoder_ms,
                            postprocess_ms=postprocess_ms,
                        )
                    )

        async def decode_waiting(predictor: Predictor) -> None:
            while waiting:
                if not background:
                    await decode_next(predictor)
                    continue
                async with self._background_prompts:
                    await self._precedence.turn(_BACKGROUND)
                    if waiting:
                        await decode_next(predictor)

        async def decode_all(predictor: Predictor) -> None:
            tasks = [
                asyncio.create_task(decode_waiting(predictor))
                for _ in range(min(self._decode_lane.threads, len(prompts)))
            ]
            try:
                with nullcontext() if background else self._precedence.interactive(_DECODING):
                    await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                masks.put_nowait(None)

        with self._decode_lane.admit(background=background):
            predictor = await self._registry.predictor(self._registry.spec(embedding.model))
            decoding = asyncio.create_task(decode_all(predictor))
            try:
                while (mask := await masks.get()) is not None:
                    yield mask
                await decoding
            finally:
                decoding.cancel()


def _finish(
    predictor: Predictor,
    embedding: ImageEmbedding,
    candidate: Candidate,
    write: Callable[[Mask], M],
) -> tuple[Mask, M, float]:
    start = time.perf_counter()
    mask = predictor.mask(embedding, candidate)
    written = write(mask)
    return mask, written, (time.perf_counter() - start) * 1e3
