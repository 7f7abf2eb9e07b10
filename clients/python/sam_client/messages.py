"""Values to and from the messages of the contract, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sam_api.v1 import segment_anything_pb2 as pb
from sam_client.values import (
    OBJECT,
    DecodeTimings,
    EmbeddedImage,
    EmbedTimings,
    Limits,
    Model,
    Prompt,
    SegmentedMask,
    ServerInfo,
)

_DTYPES = {pb.TENSOR_TYPE_FLOAT16: "<f2", pb.TENSOR_TYPE_FLOAT32: "<f4"}


def decode_request(
    image_id: str,
    prompts: Sequence[Prompt],
    *,
    model: str,
    multimask_output: bool,
    return_low_res_logits: bool,
    background: bool,
) -> pb.DecodeRequest:
    """Return the request for masks as run lengths on an embedded image."""
    return pb.DecodeRequest(
        image_id=image_id,
        model=model,
        prompts=[_prompt_message(prompt) for prompt in prompts],
        multimask_output=multimask_output,
        mask_encoding=pb.MASK_ENCODING_RUN_LENGTHS,
        return_low_res_logits=return_low_res_logits,
        priority=priority(background=background),
    )


def priority(*, background: bool) -> pb.Priority.ValueType:
    """Return what a request says of who waits for it."""
    return pb.PRIORITY_BACKGROUND if background else pb.PRIORITY_INTERACTIVE


def decode_metadata(image_id: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a load balancer finds the worker that holds the embedding.

    Raises:
        ValueError: `image_id` cannot be an id that a worker gave.
    """
    if not (image_id.isascii() and image_id.isprintable()):
        raise ValueError(f"image_id: expected the id of an embedded image, got {image_id!r}")
    return (("x-image-id", image_id),)


def embedded_image(response: pb.EmbedResponse) -> EmbeddedImage:
    """Return the value of an embed response."""
    timings = response.timings
    return EmbeddedImage(
        image_id=response.image_id,
        width=response.width,
        height=response.height,
        model=response.model,
        cached=response.cached,
        timings=EmbedTimings(
            queue_ms=timings.queue_ms,
            image_decode_ms=timings.image_decode_ms,
            preprocess_ms=timings.preprocess_ms,
            encoder_ms=timings.encoder_ms,
        ),
    )


def segmented_mask(response: pb.DecodeResponse) -> SegmentedMask:
    """Return the value of a decode response whose mask is written as run lengths."""
    counts = response.mask.run_lengths.counts
    timings = response.timings
    box = None
    if response.HasField("box"):
        edges = response.box
        box = (int(edges.x_min), int(edges.y_min), int(edges.x_max), int(edges.y_max))
    return SegmentedMask(
        prompt_index=response.prompt_index,
        mask_index=response.mask_index,
        width=response.mask.width,
        height=response.mask.height,
        counts=np.fromiter(counts, dtype=np.uint32, count=len(counts)),
        predicted_iou=response.predicted_iou,
        stability_score=response.stability_score,
        area=response.area_pixels,
        box=box,
        low_res_logits=(
            _array(response.low_res_logits) if response.HasField("low_res_logits") else None
        ),
        image_id=response.image_id,
        timings=DecodeTimings(
            queue_ms=timings.queue_ms,
            decoder_ms=timings.decoder_ms,
            postprocess_ms=timings.postprocess_ms,
        ),
    )


def server_info(response: pb.ListModelsResponse) -> ServerInfo:
    """Return the value of a list models response."""
    limits = response.limits
    return ServerInfo(
        models=tuple(
            Model(
                name=model.name,
                title=model.title,
                licence=model.licence,
                engine=model.engine,
                device=model.device,
                precision=model.precision,
                input_size=model.input_size,
                mask_size=model.mask_size,
                embedding_bytes=model.embedding_bytes,
            )
            for model in response.models
        ),
        default_model=response.default_model,
        limits=Limits(
            max_message_bytes=limits.max_message_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_prompts=limits.max_prompts,
            max_points=limits.max_points,
        ),
    )


def _prompt_message(prompt: Prompt) -> pb.Prompt:
    message = pb.Prompt(
        points=[
            pb.Point(
                x=x,
                y=y,
                label=pb.POINT_LABEL_POSITIVE if label == OBJECT else pb.POINT_LABEL_NEGATIVE,
            )
            for (x, y), label in zip(
                prompt.point_coords.tolist(), prompt.point_labels.tolist(), strict=True
            )
        ]
    )
    if prompt.box is not None:
        x_min, y_min, x_max, y_max = prompt.box
        message.box.CopyFrom(pb.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))
    if prompt.mask_input is not None:
        message.mask_input.CopyFrom(_tensor(prompt.mask_input))
    return message


def _tensor(array: NDArray[np.float32]) -> pb.Tensor:
    return pb.Tensor(
        shape=array.shape,
        type=pb.TENSOR_TYPE_FLOAT32,
        data=array.astype("<f4", copy=False).tobytes(),
    )


def _array(tensor: pb.Tensor) -> NDArray[np.float32]:
    """Return the tensor as float32, read-only where it shares the message's memory."""
    elements = np.frombuffer(tensor.data, dtype=_DTYPES[tensor.type])
    return elements.reshape(tuple(tensor.shape)).astype(np.float32, copy=False)
