"""Draw masks and prompts over a photo."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from sam_client.values import OBJECT, Prompt

# Told apart by most colour-blind eyes (Okabe and Ito); repeated if there are more masks.
_MASK_COLOURS = ((0, 114, 178), (230, 159, 0), (204, 121, 167), (0, 158, 115), (240, 228, 66))
_FILL_OPACITY = 0.45
_POSITIVE, _NEGATIVE, _RIM = (0, 200, 83), (229, 57, 53), (255, 255, 255)


def upright_rgb(image_bytes: bytes) -> Image.Image:
    """Return an encoded image as the worker sees it: upright, RGB, transparency over white.

    Raises:
        OSError: the bytes are no image.
    """
    image = Image.open(io.BytesIO(image_bytes))
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def draw_overlay(
    image: Image.Image, masks: Sequence[NDArray[np.bool_]], prompt: Prompt
) -> Image.Image:
    """Return the photo with the masks filled and outlined, and the prompt on top.

    Args:
        image: RGB, of the masks' size; it is left as it is.
        masks: each bool (height, width); the first is drawn last.
        prompt: its points become discs, green on the object and red on the background, its box a
            rectangle.
    """
    stroke = max(1, max(image.size) // 400)
    result = image.copy()
    for index in reversed(range(len(masks))):
        colour = _MASK_COLOURS[index % len(_MASK_COLOURS)]
        fill = Image.fromarray(masks[index].astype(np.uint8) * 255)
        core = fill.filter(ImageFilter.MinFilter(2 * stroke + 1))
        outline = Image.fromarray(np.asarray(fill) - np.asarray(core))
        result.paste(colour, mask=fill.point(lambda value: round(value * _FILL_OPACITY)))
        result.paste(colour, mask=outline)
    _draw_prompt(ImageDraw.Draw(result), prompt, stroke)
    return result


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: Prompt, stroke: int) -> None:
    if prompt.box is not None:
        draw.rectangle(prompt.box, outline=_RIM, width=stroke)
    radius = 4 * stroke
    for (x, y), label in zip(prompt.point_coords.tolist(), prompt.point_labels, strict=True):
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=_POSITIVE if label == OBJECT else _NEGATIVE,
            outline=_RIM,
            width=stroke,
        )
