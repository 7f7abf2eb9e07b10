"""Real and drawn things that scenes are made of: cut-outs, annotated photos, backgrounds.

The files lie in `objects/` beside this module; `objects/README.md` states where each comes from
and under which licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.uint8]  # (H, W), 1 inside and 0 outside

FOLDER = Path(__file__).parent / "objects"


@dataclass(frozen=True, slots=True)
class Cutout:
    """One thing: its colours (H, W, 3) RGB and where it is (H, W), cropped to its box."""

    image: Image
    mask: Mask


@dataclass(frozen=True, slots=True)
class Library:
    """Everything a scene can be made of.

    `annotated` are photos with the mask of one object, `cutouts` are those objects and drawings
    cut out of their surroundings, `photos` are backgrounds and sources of texture.
    """

    annotated: tuple[Cutout, ...]
    cutouts: tuple[Cutout, ...]
    drawings: tuple[Cutout, ...]
    photos: tuple[Image, ...]


def read_rgb(path: Path) -> Image:
    """Read a picture as uint8 (H, W, 3) RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path} cannot be read as an image")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def read_mask(path: Path) -> Mask:
    """Read a mask as uint8 (H, W), 1 inside and 0 outside."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise FileNotFoundError(f"{path} cannot be read as a mask")
    return (mask > 127).astype(np.uint8)


def read_drawing(path: Path) -> Cutout:
    """Read a picture with transparency; what is more than half opaque is the thing."""
    rgba = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if rgba is None or rgba.ndim != 3 or rgba.shape[2] != 4:
        raise FileNotFoundError(f"{path} cannot be read as an image with transparency")
    image = np.ascontiguousarray(rgba[:, :, 2::-1], dtype=np.uint8)
    return Cutout(image, (rgba[:, :, 3] > 127).astype(np.uint8))


def cut_out(photo: Cutout) -> Cutout:
    """Crop an annotated photo to the box of its object."""
    rows, columns = np.flatnonzero(photo.mask.any(axis=1)), np.flatnonzero(photo.mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cutout(photo.image[box], photo.mask[box])


@cache
def load_library(folder: Path = FOLDER) -> Library:
    """Load the library from a folder with `davis`, `clipart` and `photos`.

    Raises:
        FileNotFoundError: a file is missing or damaged.
    """
    annotated = tuple(
        Cutout(read_rgb(path), read_mask(path.with_suffix(".png")))
        for path in sorted((folder / "davis").glob("*.jpg"))
    )
    photos = tuple(read_rgb(path) for path in sorted((folder / "photos").glob("*.jpg")))
    drawings = tuple(read_drawing(path) for path in sorted((folder / "clipart").glob("*.png")))
    if not (annotated and photos and drawings):
        raise FileNotFoundError(f"{folder} must hold davis/*.jpg, photos/*.jpg and clipart/*.png")
    return Library(annotated, tuple(cut_out(photo) for photo in annotated), drawings, photos)
