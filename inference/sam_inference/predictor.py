"""A model ready to use: image file in, embedding out; prompt in, masks out.

Everything here is synchronous and runs in the scheduler's threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_core import Mask, mask_from_logits, normalize_and_pad
from sam_inference.embeddings import ImageEmbedding
from sam_inference.engines import Engine
from sam_inference.images import decode_image
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import Prompt, decoder_inputs
from sam_inference.transforms import input_size_of, resize_to


@dataclass(frozen=True, slots=True)
class EmbedDurations:
    """Milliseconds of the steps of one embedding."""

    image_decode_ms: float
    preprocess_ms: float
    encoder_ms: float

    @property
    def total_ms(self) -> float:
        """All steps together."""
        return self.image_decode_ms + self.preprocess_ms + self.encoder_ms


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One mask of a prompt before it is upscaled.

    Attributes:
        mask_index: 0, or 0 to 2 of a multimask output.
        low_res_logits: float32 (mask_size, mask_size), in the model frame.
        predicted_iou: the model's estimate.
    """

    mask_index: int
    low_res_logits: NDArray[np.float32]
    predicted_iou: float


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A model and the engine that runs it."""

    spec: ModelSpec
    engine: Engine

    def embed(
        self, image: bytes, interrupt: Interrupt, *, max_pixels: int
    ) -> tuple[ImageEmbedding, EmbedDurations]:
        """Decode and encode an image file.

        Raises:
            InvalidArgumentError: as `decode_image`.
            InterruptedWorkError: it was interrupted.
        """
        interrupt.check()
        start = time.perf_counter()
        original = decode_image(image, max_pixels=max_pixels)
        decoded = time.perf_counter()
        interrupt.check()
        original_size = original.height, original.width
        input_size = input_size_of(original_size, self.spec.input_size)
        pixels = resize_to(original, input_size)
        del original  # not to be held while the encoder runs
        frame = normalize_and_pad(
            pixels,
            self.spec.pixel_mean,
            self.spec.pixel_std,
            self.spec.input_size,
        )
        preprocessed = time.perf_counter()
        tensors = self.engine.encode(frame[None], interrupt)
        encoded = time.perf_counter()
        embedding = ImageEmbedding(
            model=self.spec.name,
            original_size=original_size,
            input_size=input_size,
            tensors={name: tensor.astype(np.float16) for name, tensor in tensors.items()},
        )
        durations = EmbedDurations(
            image_decode_ms=(decoded - start) * 1e3,
            preprocess_ms=(preprocessed - decoded) * 1e3,
            encoder_ms=(encoded - preprocessed) * 1e3,
        )
        return embedding, durations

    def decode(
        self, embedding: ImageEmbedding, prompt: Prompt, *, multimask_output: bool
    ) -> tuple[list[Candidate], float]:
        """Decode a checked prompt.

        Returns:
            The candidates, best predicted IoU first, and the milliseconds it took.
        """
        start = time.perf_counter()
        inputs = decoder_inputs(
            prompt,
            original_size=embedding.original_size,
            input_size=embedding.input_size,
            mask_size=self.spec.mask_size,
        )
        tensors = {name: tensor.astype(np.float32) for name, tensor in embedding.tensors.items()}
        low_res_logits, predicted_iou = self.engine.decode(tensors, inputs)
        # Output 0 is for unambiguous prompts, 1 to 3 are the multimask candidates.
        chosen = slice(1, 4) if multimask_output else slice(0, 1)
        candidates = [
            Candidate(index, logits, float(iou))
            for index, (logits, iou) in enumerate(
                zip(low_res_logits[0, chosen], predicted_iou[0, chosen], strict=True)
            )
        ]
        candidates.sort(key=lambda candidate: candidate.predicted_iou, reverse=True)
        return candidates, (time.perf_counter() - start) * 1e3

    def mask(self, embedding: ImageEmbedding, candidate: Candidate) -> Mask:
        """Return a candidate's mask at the original size."""
        return mask_from_logits(
            candidate.low_res_logits,
            frame_size=self.spec.input_size,
            input_size=embedding.input_size,
            original_size=embedding.original_size,
            mask_threshold=self.spec.mask_threshold,
        )
