"""Protobuf messages to the worker's own types and back, and nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from sam_api.v1 import segment_anything_pb2 as pb
from sam_core import MAX_SIDE, Mask, coco_counts, mask_from_counts, packed_bits
from sam_inference.embeddings import ImageEmbedding
from sam_inference.errors import InvalidArgumentError
from sam_inference.models import ModelSpec
from sam_inference.prompts import BACKGROUND, OBJECT, Prompt
from sam_inference.transforms import input_size_of

_LABELS = {
    pb.POINT_LABEL_UNSPECIFIED: OBJECT,
    pb.POINT_LABEL_POSITIVE: OBJECT,
    pb.POINT_LABEL_NEGATIVE: BACKGROUND,
}

_DTYPES: dict[int, DTypeLike] = {
    pb.TENSOR_TYPE_FLOAT16: np.dtype("<f2"),
    pb.TENSOR_TYPE_FLOAT32: np.dtype("<f4"),
}

# More than any tensor of a model has; a shape is checked before anything is worked out of it.
_MAX_DIMENSIONS = 8


def prompts_from_proto(
    prompts: Sequence[pb.Prompt], *, max_prompts: int, max_points: int
) -> list[Prompt]:
    """Read the prompts of a request; their geometry is checked by `prompts.check_prompt`.

    Raises:
        InvalidArgumentError: none, too many, too many points, an unknown label, or a mask
            input whose data does not fit its shape and type.
    """
    if not prompts:
        raise InvalidArgumentError("prompts", "is empty; at least one prompt was expected")
    if len(prompts) > max_prompts:
        raise InvalidArgumentError(
            "prompts", f"has {len(prompts)} entries; at most {max_prompts} are accepted"
        )
    return [
        _prompt_from_proto(prompt, f"prompts[{index}]", max_points)
        for index, prompt in enumerate(prompts)
    ]


def _prompt_from_proto(prompt: pb.Prompt, field: str, max_points: int) -> Prompt:
    if len(prompt.points) > max_points:
        raise InvalidArgumentError(
            f"{field}.points",
            f"has {len(prompt.points)} entries; at most {max_points} are accepted",
        )
    labels = []
    for index, point in enumerate(prompt.points):
        if point.label not in _LABELS:
            raise InvalidArgumentError(
                f"{field}.points[{index}].label",
                f"is {int(point.label)}; POINT_LABEL_POSITIVE or POINT_LABEL_NEGATIVE was expected",
            )
        labels.append(_LABELS[point.label])
    box = mask_input = None
    if prompt.HasField("box"):
        corners = prompt.box
        box = np.array([corners.x_min, corners.y_min, corners.x_max, corners.y_max], np.float32)
    if prompt.HasField("mask_input"):
        mask_input = _array_from_proto(prompt.mask_input, f"{field}.mask_input").astype(np.float32)
    return Prompt(
        point_coords=np.array([(p.x, p.y) for p in prompt.points], np.float32).reshape(-1, 2),
        point_labels=np.array(labels, np.float32),
        box=box,
        mask_input=mask_input,
    )


def embedding_from_proto(
    embedding: pb.Embedding, spec: ModelSpec, *, max_pixels: int
) -> ImageEmbedding:
    """Read an embedding that a caller kept.

    Raises:
        InvalidArgumentError: a size out of range, or tensors other than those of `spec`.
    """
    width, height = embedding.width, embedding.height
    if not 0 < width * height <= max_pixels or max(width, height) > MAX_SIDE:
        raise InvalidArgumentError(
            "embedding.width",
            f"is {width}, with a height of {height}; 1 to {max_pixels} pixels, and sides of at "
            f"most {MAX_SIDE}, were expected",
        )
    tensors = {}
    for index, tensor in enumerate(embedding.tensors):
        field = f"embedding.tensors[{index}]"
        shape = spec.embedding_shapes.get(tensor.name)
        if shape is None:
            raise InvalidArgumentError(
                f"{field}.name",
                f"is {tensor.name!r}; {spec.name} has {', '.join(spec.embedding_shapes)}",
            )
        array = _array_from_proto(tensor, field)
        if array.shape != shape:
            raise InvalidArgumentError(
                f"{field}.shape", f"is {array.shape}; {shape} was expected for {spec.name}"
            )
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            tensors[tensor.name] = array.astype(np.float16)
        if not np.isfinite(tensors[tensor.name]).all():
            raise InvalidArgumentError(
                f"{field}.data", "holds values that are not finite, or not within float16"
            )
    for name in spec.embedding_shapes:
        if name not in tensors:
            raise InvalidArgumentError("embedding.tensors", f"lacks {name!r} of {spec.name}")
    return ImageEmbedding(
        model=spec.name,
        original_size=(height, width),
        input_size=input_size_of((height, width), spec.input_size),
        tensors=tensors,
    )


def embedding_to_proto(embedding: ImageEmbedding) -> pb.Embedding:
    """Write an embedding for a caller to keep."""
    height, width = embedding.original_size
    return pb.Embedding(
        model=embedding.model,
        width=width,
        height=height,
        tensors=[
            pb.Tensor(
                name=name,
                shape=tensor.shape,
                type=pb.TENSOR_TYPE_FLOAT16,
                data=tensor.astype("<f2").tobytes(),
            )
            for name, tensor in embedding.tensors.items()
        ],
    )


def _array_from_proto(tensor: pb.Tensor, field: str) -> NDArray[np.floating]:
    """Return a tensor's elements; read-only, a view of the message."""
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise InvalidArgumentError(
            f"{field}.type", "TENSOR_TYPE_FLOAT16 or TENSOR_TYPE_FLOAT32 was expected"
        )
    if not 1 <= len(tensor.shape) <= _MAX_DIMENSIONS or 0 in tensor.shape:
        raise InvalidArgumentError(
            f"{field}.shape", f"1 to {_MAX_DIMENSIONS} dimensions, none of 0, were expected"
        )
    shape = tuple(tensor.shape)
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(tensor.data) != expected:
        raise InvalidArgumentError(
            f"{field}.data", f"has {len(tensor.data)} bytes; {expected} were expected for {shape}"
        )
    array: NDArray[np.floating] = np.frombuffer(tensor.data, dtype).reshape(shape)
    return array


def logits_to_proto(low_res_logits: NDArray[np.float32]) -> pb.Tensor:
    """Write float32 (mask_size, mask_size) logits as a tensor for `Prompt.mask_input`."""
    return pb.Tensor(
        name="low_res_logits",
        shape=(1, *low_res_logits.shape),
        type=pb.TENSOR_TYPE_FLOAT32,
        data=low_res_logits.astype("<f4").tobytes(),
    )


def mask_writer(encoding: pb.MaskEncoding.ValueType) -> Callable[[Mask], pb.Mask]:
    """Return the function that writes masks in `encoding`.

    Raises:
        InvalidArgumentError: no such encoding.
    """
    try:
        return _MASK_WRITERS[encoding]
    except KeyError:
        raise InvalidArgumentError(
            "mask_encoding", f"is {int(encoding)}, which is not a value of MaskEncoding"
        ) from None


def _as_run_lengths(mask: Mask) -> pb.Mask:
    counts = pb.RunLengths(counts=mask.counts.tolist())
    return pb.Mask(width=mask.width, height=mask.height, run_lengths=counts)


def _as_coco_rle(mask: Mask) -> pb.Mask:
    counts = coco_counts(mask.counts, mask.height, mask.width)
    return pb.Mask(width=mask.width, height=mask.height, coco_rle=counts)


def _as_packed_bits(mask: Mask) -> pb.Mask:
    bits = packed_bits(mask.counts, mask.height, mask.width)
    return pb.Mask(width=mask.width, height=mask.height, packed_bits=bits)


def _as_png(mask: Mask) -> pb.Mask:
    pixels = mask_from_counts(mask.counts, mask.height, mask.width)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pb.Mask(width=mask.width, height=mask.height, png=file.getvalue())


_MASK_WRITERS: dict[int, Callable[[Mask], pb.Mask]] = {
    pb.MASK_ENCODING_UNSPECIFIED: _as_run_lengths,
    pb.MASK_ENCODING_RUN_LENGTHS: _as_run_lengths,
    pb.MASK_ENCODING_COCO_RLE: _as_coco_rle,
    pb.MASK_ENCODING_PACKED_BITS: _as_packed_bits,
    pb.MASK_ENCODING_PNG: _as_png,
}


def box_to_proto(mask: Mask) -> pb.Box | None:
    """Return the mask's box, or None if the mask is empty."""
    if not mask.area:
        return None
    x_min, y_min, x_max, y_max = mask.box
    return pb.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
