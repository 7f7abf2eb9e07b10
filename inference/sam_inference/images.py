"""Encoded image files to upright RGB pixels, or a refusal.

What the formats leave open is decided here: the first frame of an animation is
the image, transparency is put over white, 16-bit grey is scaled (not clipped) to
8 bits, and a truncated file is refused, so that nobody annotates half a photo.
"""

from __future__ import annotations

import io
import struct

import numpy as np
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


def decode_image(data: bytes, *, max_pixels: int, field: str = "image") -> Image.Image:
    """Decode an encoded image.

    Args:
        data: the bytes of a file in one of `FORMATS`.
        max_pixels: largest width times height, checked before pixels are decoded.
        field: what the request calls this image, for error messages.

    Returns:
        8-bit RGB, upright by EXIF.

    Raises:
        InvalidArgumentError: empty, not an image, truncated, too large, or of floating-point
            pixels.
    """
    if not data:
        raise InvalidArgumentError(field, "is empty; an encoded image was expected")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if max(width, height) > MAX_SIDE:
            raise InvalidArgumentError(
                field, f"is {width}x{height}; sides of at most {MAX_SIDE} are accepted"
            )
        if width * height > max_pixels:
            raise InvalidArgumentError(
                field, f"has {width}x{height} pixels; at most {max_pixels} are accepted"
            )
        if image.mode == "F":
            raise InvalidArgumentError(
                field,
                "has floating-point pixels, whose range is not known; 8 or 16 bits are accepted",
            )
        return _to_rgb(image)
    except InvalidArgumentError:
        raise
    except UnidentifiedImageError:
        raise InvalidArgumentError(
            field, f"is not an image in one of the formats {', '.join(FORMATS)}"
        ) from None
    except _DECODER_ERRORS as error:
        raise InvalidArgumentError(field, f"is damaged and cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Turn `image` upright, and return it as 8-bit RGB: itself, if it is that already.

    A large image has hundreds of megabytes, and a copy as many more.
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.float32) / _GREY16_TO_GREY8
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
