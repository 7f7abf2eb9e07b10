"""Surfaces for scenes: painted patterns and pieces of photos."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .objects import Image, Library

Field = NDArray[np.float32]  # (H, W) or (H, W, 3), 0..1


def paint(rng: np.random.Generator, library: Library, height: int, width: int) -> Field:
    """Paint float32 (height, width, 3) in 0..1 with a pattern or a piece of a photo."""
    if rng.random() < 0.4:
        return photo_piece(rng, library, height, width)
    field = _pattern(rng, height, width)[:, :, None]
    low, high = _palette(rng)
    surface = low + (high - low) * field
    if rng.random() < 0.5:
        third = _palette(rng)[1]
        amount = _noise(rng, height, width, cells=int(rng.integers(2, 12)))[:, :, None]
        surface = surface + (third - surface) * amount * rng.uniform(0.1, 0.7)
    grain = rng.uniform(0, 0.08)
    surface = surface + grain * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(np.clip(surface, 0, 1), np.float32)


def photo_piece(rng: np.random.Generator, library: Library, height: int, width: int) -> Field:
    """Cut a piece of a photo, scaled and turned about its axes, as float32 (height, width, 3)."""
    photo = library.photos[rng.integers(len(library.photos))]
    if rng.random() < 0.4:
        photo = library.annotated[rng.integers(len(library.annotated))].image
    rows, columns = photo.shape[:2]
    share = rng.uniform(0.15, 1.0)
    scale = min(rows / height, columns / width) * share
    h, w = max(2, round(height * scale)), max(2, round(width * scale))
    top, left = rng.integers(rows - h + 1), rng.integers(columns - w + 1)
    piece = _turn(rng, photo[top : top + h, left : left + w])
    resized = cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR)
    return jitter(rng, as_field(resized))


def as_field(pixels: NDArray[Any]) -> Field:
    """Return pixels 0..255 as float32 in 0..1."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def jitter(rng: np.random.Generator, image: Field) -> Field:
    """Change brightness, contrast, saturation and the tint of float32 (H, W, 3) in 0..1."""
    mean = np.float32(image.mean())
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.3, 1.5))
    image = mean + (image - mean) * np.float32(rng.uniform(0.6, 1.3))
    tint = rng.uniform(0.85, 1.15, 3).astype(np.float32) * np.float32(rng.uniform(0.65, 1.3))
    return np.clip(image * tint, 0, 1)


def _turn(rng: np.random.Generator, image: Image) -> Image:
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.2:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _palette(rng: np.random.Generator) -> tuple[Field, Field]:
    """Two colours: alike, of one hue, or unrelated."""
    first = rng.random(3)
    if rng.random() < 0.5:  # earthy and grey tones, as most of the world is
        first = first.mean() + (first - first.mean()) * 0.35
    kind = rng.random()
    if kind < 0.35:
        second = first + rng.normal(0, 0.06, 3)
    elif kind < 0.7:
        second = first * rng.uniform(0.4, 1.6)
    else:
        second = rng.random(3)
    return np.clip(first, 0, 1).astype(np.float32), np.clip(second, 0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise 0..1 with about `cells` features along each side."""
    coarse = rng.random((cells + 1, cells + 1), dtype=np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine, 0, 1)


def _pattern(rng: np.random.Generator, height: int, width: int) -> Field:
    """One scalar pattern (height, width), 0..1."""
    kind = rng.integers(8)
    if kind == 0:
        return np.zeros((height, width), np.float32)
    if kind <= 2:  # octaves of noise
        field = np.zeros((height, width), np.float32)
        cells, weight = int(rng.integers(1, 6)), 0.5
        for _ in range(4):
            field += weight * _noise(rng, height, width, min(cells, 64))
            cells, weight = cells * 2, weight * rng.uniform(0.4, 0.9)
        return np.clip(field, 0, 1)
    angle = rng.uniform(0, np.pi)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    across = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
    if kind == 3:
        span = along.max() - along.min() + 1
        return np.asarray((along - along.min()) / span, np.float32)
    if kind == 4:
        middle_y, middle_x = rng.uniform(0, height), rng.uniform(0, width)
        away = np.hypot(y - middle_y, x - middle_x) / np.hypot(height, width)
        return np.asarray(np.clip(away, 0, 1), np.float32)
    period = np.float32(rng.uniform(3, max(5, min(height, width) / 2)))
    if kind == 5:
        return _steps(rng, np.sin(2 * np.pi * along / period))
    if kind == 6:
        return _steps(rng, np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period))
    field = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(5, 40))):
        place = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(field, place, int(rng.integers(1, max(2, int(period / 2)) + 1)), 1.0, -1)
    return field


def _steps(rng: np.random.Generator, wave: Field) -> Field:
    """A wave -1..1 as soft or as hard bands 0..1."""
    hardness = rng.choice([0.5, 1.0, 6.0])
    return np.asarray(np.clip(0.5 + hardness * wave, 0, 1), np.float32)
