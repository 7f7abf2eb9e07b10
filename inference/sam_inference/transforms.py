"""Geometry between the original image and the model frame.

SAM scales an image so that its longest side fills the square model frame, pads it
at the right and the bottom, and maps prompts by the same scale
(segment_anything/utils/transforms.py, ResizeLongestSide).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""


def input_size_of(original_size: Size, frame_size: int) -> Size:
    """Return the (height, width) of an image after its longest side became `frame_size`.

    A side is never below 1, however thin the image.
    """
    height, width = original_size
    scale = frame_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_to(image: Image.Image, input_size: Size) -> NDArray[np.uint8]:
    """Return an RGB image in (height, width), as uint8 (height, width, 3).

    By Pillow's antialiased bilinear: the filter of the reference, so that embeddings agree.
    """
    height, width = input_size
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def to_model_frame(
    coords: NDArray[np.float32], original_size: Size, input_size: Size
) -> NDArray[np.float32]:
    """Map float32 (N, 2) points (x, y) from original pixels to model-frame pixels."""
    scale = np.array(
        [input_size[1] / original_size[1], input_size[0] / original_size[0]], np.float64
    )
    return (coords * scale).astype(np.float32)
