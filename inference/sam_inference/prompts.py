"""Prompts: what a caller points at, its checks, and the decoder's inputs made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_inference.errors import InvalidArgumentError
from sam_inference.transforms import Size, to_model_frame

BACKGROUND, OBJECT = 0, 1
"""Point labels of a negative and a positive click."""

_BOX_TOP_LEFT, _BOX_BOTTOM_RIGHT, _PADDING = 2, 3, -1


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One object to cut out, in pixels of the upright original image.

    Attributes:
        point_coords: float32 (N, 2), (x, y); N may be 0.
        point_labels: float32 (N,), OBJECT or BACKGROUND.
        box: float32 (4,), XYXY, or None.
        mask_input: float32 (1, mask_size, mask_size) logits of an earlier answer, or None.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    box: NDArray[np.float32] | None
    mask_input: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class DecoderInputs:
    """A batch of prompts as the mask decoder takes them.

    Attributes:
        point_coords: float32 (B, N, 2), (x, y) in model-frame pixels.
        point_labels: float32 (B, N): 1 object, 0 background, 2 and 3 box corners, -1 padding.
        mask_input: float32 (B, 1, mask_size, mask_size).
        has_mask_input: float32 (B,), 1 where `mask_input` counts.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32]
    has_mask_input: NDArray[np.float32]


def check_prompt(prompt: Prompt, field: str, *, original_size: Size, mask_size: int) -> None:
    """Refuse a prompt that cannot be decoded on an image of `original_size`.

    Args:
        prompt: the prompt.
        field: its path in the request, for example `prompts[0]`.
        original_size: (height, width) of the upright image.
        mask_size: side of the model's low-res mask logits.

    Raises:
        InvalidArgumentError: nothing in it; a coordinate that is not finite or outside of
            the image; a box without area; mask logits of the wrong shape or not finite.
    """
    height, width = original_size
    if not len(prompt.point_coords) and prompt.box is None and prompt.mask_input is None:
        raise InvalidArgumentError(field, "is empty; points, a box or a mask input were expected")
    for index, (x, y) in enumerate(prompt.point_coords.tolist()):
        _check_coordinate(f"{field}.points[{index}].x", x, width, "width")
        _check_coordinate(f"{field}.points[{index}].y", y, height, "height")
    if prompt.box is not None:
        x_min, y_min, x_max, y_max = prompt.box.tolist()
        for name, value in (("x_min", x_min), ("x_max", x_max)):
            _check_coordinate(f"{field}.box.{name}", value, width, "width")
        for name, value in (("y_min", y_min), ("y_max", y_max)):
            _check_coordinate(f"{field}.box.{name}", value, height, "height")
        if not (x_min < x_max and y_min < y_max):
            raise InvalidArgumentError(
                f"{field}.box",
                f"({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g}) has no area; "
                "x_min < x_max and y_min < y_max were expected",
            )
    if prompt.mask_input is not None:
        if prompt.mask_input.shape != (1, mask_size, mask_size):
            raise InvalidArgumentError(
                f"{field}.mask_input.shape",
                f"is {prompt.mask_input.shape}; (1, {mask_size}, {mask_size}) was expected",
            )
        if not np.isfinite(prompt.mask_input).all():
            raise InvalidArgumentError(f"{field}.mask_input.data", "holds values not finite")


def _check_coordinate(field: str, value: float, limit: int, limit_name: str) -> None:
    # Written so that NaN fails, too.
    if not 0 <= value <= limit:
        raise InvalidArgumentError(
            field, f"is {value:g}; 0 to {limit} (the image's {limit_name}) was expected"
        )


def decoder_inputs(
    prompt: Prompt, *, original_size: Size, input_size: Size, mask_size: int
) -> DecoderInputs:
    """Return a checked prompt as a batch of one for the mask decoder.

    Box corners are points with labels 2 and 3; without a box SAM appends a padding point
    (segment_anything/modeling/prompt_encoder.py).
    """
    if prompt.box is None:
        corners = np.zeros((1, 2), np.float32)
        corner_labels = np.array([_PADDING], np.float32)
    else:
        corners = prompt.box.reshape(2, 2)
        corner_labels = np.array([_BOX_TOP_LEFT, _BOX_BOTTOM_RIGHT], np.float32)
    coords = np.concatenate([prompt.point_coords, corners])
    mask_input = prompt.mask_input
    if mask_input is None:
        mask_input = np.zeros((1, mask_size, mask_size), np.float32)
    return DecoderInputs(
        point_coords=to_model_frame(coords, original_size, input_size)[None],
        point_labels=np.concatenate([prompt.point_labels, corner_labels])[None],
        mask_input=mask_input[None],
        has_mask_input=np.array([prompt.mask_input is not None], np.float32),
    )
