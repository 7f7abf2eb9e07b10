"""Encoded image files to upright RGB pixels, or a refusal.

What the formats leave open is decided here: the first frame of an animation is
the image, transparency is put over white, 16-bit grey is scaled (not clipped) to
8 bits, and a truncated file is refused, so that nobody annotates half a photo.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sam_core import MAX_SIDE
from sam_inference.errors import InvalidArgumentError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow's own limit is a process-wide setting that warns in one range and raises
# in another. Ours is checked against the header of every image instead.
Image.MAX_IMAGE_PIXELS = None

# What Pillow's decoders raise on damaged files, as far as it is documented or
# seen; all of it is the file's fault.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError)

# 16-bit to 8-bit: 65535 / 255.
_GREY16_TO_GREY8 = 257.0


def decode_image(data: bytes, *, max_pixels: int, field: str = "image") -> NDArray[np.uint8]:
    """Decode an encoded image.

    Args:
        data: the bytes of a file in one of `FORMATS`.
        max_pixels: largest width times height, checked before pixels are decoded.
        field: what the request calls this image, for error messages.

    Returns:
        uint8 (height, width, 3), RGB, upright by EXIF, writable by nobody.

    Raises:
        InvalidArgumentError: empty, not an image, truncated or too large.
    """
    if not data:
        raise InvalidArgumentError(field, "is empty; an encoded image was expected")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if max(width, height) > MAX_SIDE:
                raise InvalidArgumentError(
                    field, f"is {width}x{height}; sides of at most {MAX_SIDE} are accepted"
                )
            if width * height > max_pixels:
                raise InvalidArgumentError(
                    field, f"has {width}x{height} pixels; at most {max_pixels} are accepted"
                )
            return np.asarray(_to_rgb(image))
    except InvalidArgumentError:
        raise
    except UnidentifiedImageError:
        raise InvalidArgumentError(
            field, f"is not an image in one of the formats {', '.join(FORMATS)}"
        ) from None
    except _DECODER_ERRORS as error:
        raise InvalidArgumentError(field, f"is damaged and cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` upright, as 8-bit RGB."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if upright.mode.startswith("I"):
        grey = np.asarray(upright, np.float32) / _GREY16_TO_GREY8
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")
