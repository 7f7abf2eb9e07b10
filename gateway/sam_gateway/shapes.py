"""Masks as the shapes that Label Studio's tags hold. Pure: run lengths in, values out.

A value is what a region has in `value`, without its labels. A mask that falls apart is one value
for tags that hold pixels, and one a part for tags that hold an outline. Coordinates are percent
of the image's width and height.
"""

import base64
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import shapely
from PIL import Image

import sam_core

Value = dict[str, object]

# Texts of run lengths up to this are answered as they are: as a PNG they are hardly shorter.
_PNG_FROM_BYTES = 1024

# Of the largest part: to delete the outline of a speck is more work than to draw it.
_SPECK_SHARE = 1 / 200

# A millionth of a percent: some hundredths of a pixel on the widest image.
_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOptions:
    """How masks become shapes.

    Attributes:
        kinds: which of SHAPES are written, each where the labeling config has a tag for it;
            empty: the first of SHAPES that it has a tag for.
        polygon_tolerance: pixels that an outline may leave that of the mask by, and half a pixel;
            0 keeps the edges of the pixels.
        min_region_pixels: smaller parts are dropped, but never the largest; if 0, of outlines those
            that are specks beside it.
        min_hole_pixels: smaller holes are filled.
        stored: whether what is written is stored without a browser seeing it first.
    """

    kinds: tuple[str, ...] = ()
    polygon_tolerance: float = 0.75
    min_region_pixels: int = 0
    min_hole_pixels: int = 0
    stored: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """A mask with at least one pixel of the object: row-major run lengths, background first."""

    counts: npt.NDArray[np.uint32]
    height: int
    width: int


def cleaned(runs: Runs, options: ShapeOptions) -> Runs:
    """Fill holes and drop parts that are too small."""
    if options.min_region_pixels <= 1 and options.min_hole_pixels <= 1:
        return runs
    return _without_small(runs, options.min_region_pixels, options.min_hole_pixels)


def bounds(runs: Runs) -> tuple[int, int, int, int]:
    """Give (x_min, y_min, x_max, y_max) around the mask in pixels, the maxima exclusive."""
    y, left, right = _pieces(runs)
    return int(left.min()), int(y.min()), int(right.max()), int(y.max()) + 1


def brush(runs: Runs, options: ShapeOptions) -> Value:
    """Give Label Studio's brush RLE or, for the browser and where that is shorter, a PNG.

    The browser turns the PNG into RLE when the annotator saves; who reads what is stored at once
    expects RLE.
    """
    # A list of many thousand numbers: C writes its text, and it goes into the answer as it is.
    text = sam_core.brush_rle_json(runs.counts, runs.height, runs.width)
    if len(text) > _PNG_FROM_BYTES and not options.stored:
        png = png_data_url(runs)
        if len(png) < len(text):
            return {"format": "rle", "maskDataURL": png}
    return {"format": "rle", "rle": orjson.Fragment(text)}


def bitmask(runs: Runs) -> Value:
    """Give the mask as a picture."""
    return {"imageDataURL": png_data_url(runs)}


def polygons(runs: Runs, options: ShapeOptions) -> list[Value]:
    """Give a polygon a part, largest first; a polygon of Label Studio has no holes."""
    return [{"points": ring.tolist(), "closed": True} for ring in _percent_outlines(runs, options)]


def vectors(runs: Runs, options: ShapeOptions) -> list[Value]:
    """Give a closed vector path a part, largest first."""
    values: list[Value] = []
    for part, ring in enumerate(_percent_outlines(runs, options)):
        ids = [f"{part}-{i}" for i in range(len(ring))]
        vertices = [
            {"id": name, "prevPointId": previous, "x": x, "y": y, "isBezier": False}
            for name, previous, (x, y) in zip(ids, [None, *ids], ring.tolist(), strict=False)
        ]
        values.append({"vertices": vertices, "closed": True})
    return values


def rectangle(runs: Runs) -> Value:
    """Give the rectangle around the mask."""
    x_min, y_min, x_max, y_max = bounds(runs)
    return {
        "x": _percent(x_min, runs.width),
        "y": _percent(y_min, runs.height),
        "width": _percent(x_max - x_min, runs.width),
        "height": _percent(y_max - y_min, runs.height),
        "rotation": 0,
    }


def ellipse(runs: Runs) -> Value:
    """Give the ellipse with the centre and the second moments of the mask.

    The semi-axes of a filled ellipse are twice the standard deviations along its axes.
    """
    y, left, right = (piece.astype(np.float64) for piece in _pieces(runs))
    pixels = right - left
    area = pixels.sum()
    center_x = (right**2 - left**2).sum() / (2 * area)
    center_y = ((y + 0.5) * pixels).sum() / area
    left, right, y = left - center_x, right - center_x, y + 0.5 - center_y
    xx = ((right**3 - left**3) / 3).sum() / area
    yy = ((y**2 + 1 / 12) * pixels).sum() / area  # a pixel is a unit square
    xy = (y * (right**2 - left**2) / 2).sum() / area
    variances, axes = np.linalg.eigh([[xx, xy], [xy, yy]])
    minor, major = 2 * np.sqrt(variances)
    rotation = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))) % 180
    return {
        "x": _percent(center_x, runs.width),
        "y": _percent(center_y, runs.height),
        "radiusX": _percent(major, runs.width),
        "radiusY": _percent(minor, runs.height),
        "rotation": round(rotation, _DECIMALS),
    }


def png_data_url(runs: Runs) -> str:
    """Give a PNG of one bit a pixel, white on transparent, as a data URL.

    Label Studio takes what is not transparent, and for brushes what is red, for the object.
    """
    mask = sam_core.mask_from_counts(runs.counts, runs.height, runs.width)
    image = Image.frombytes("P", (runs.width, runs.height), mask.tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    # Masks are long runs of equal bytes: this is a quarter shorter than the default, and faster.
    image.save(buffer, "PNG", bits=1, transparency=0, compress_type=zlib.Z_RLE)
    return "data:image/png;base64," + base64.b64encode(buffer.getbuffer()).decode()


# What can hold an object, the most exact first: a kind of tag, and how its values are written.
SHAPES: dict[str, Callable[[Runs, ShapeOptions], list[Value]]] = {
    "brush": lambda runs, options: [brush(runs, options)],
    "bitmask": lambda runs, options: [bitmask(runs)],
    "polygon": polygons,
    "vector": vectors,
    "ellipse": lambda runs, options: [ellipse(runs)],
    "rectangle": lambda runs, options: [rectangle(runs)],
}


def outlines(runs: Runs, options: ShapeOptions) -> list[npt.NDArray[np.float64]]:
    """Give a ring (N, 2) of (x, y) in pixels a part, the largest part first.

    Rings are simple and do not cross each other. Holes are filled, and what lies in them is part
    of what is around it.
    """
    filled = _without_small(runs, options.min_region_pixels, runs.height * runs.width)
    parts = sam_core.polygons(filled.counts, filled.height, filled.width)
    least = options.min_region_pixels or parts[0].area * _SPECK_SHARE
    kept = parts[:1] + [part for part in parts[1:] if part.area >= least]
    tolerance = options.polygon_tolerance
    rings = [part.exterior.astype(np.float64) for part in kept]
    if tolerance == 0:
        return rings
    shape = shapely.MultiPolygon([shapely.Polygon(_chamfered(ring)) for ring in rings])
    simplified = shapely.simplify(shape, tolerance, preserve_topology=True)
    return [shapely.get_coordinates(part.exterior)[:-1] for part in shapely.get_parts(simplified)]


def _chamfered(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cut the corners of pixels off: what is left of a staircase is nearly a straight line.

    Half an edge goes at each corner: steps of one pixel become a line through their middles, and
    what is cut off at one corner never meets what is at another.
    """
    half = np.sign(np.roll(ring, -1, axis=0) - ring) / 2
    points = np.stack([ring - np.roll(half, 1, axis=0), ring + half], axis=1).reshape(-1, 2)
    repeated: npt.NDArray[np.bool_] = (points == np.roll(points, 1, axis=0)).all(axis=1)
    return points[~repeated]


def _percent_outlines(runs: Runs, options: ShapeOptions) -> list[npt.NDArray[np.float64]]:
    scale = 100 / np.array([runs.width, runs.height])
    return [np.round(ring * scale, _DECIMALS) for ring in outlines(runs, options)]


def _percent(pixels: float, side: int) -> float:
    return round(float(pixels) * 100 / side, _DECIMALS)


def _without_small(runs: Runs, min_region_pixels: int, min_hole_pixels: int) -> Runs:
    counts = sam_core.remove_small_regions(
        runs.counts,
        runs.height,
        runs.width,
        max_speck_pixels=max(min_region_pixels - 1, 0),
        max_hole_pixels=max(min_hole_pixels - 1, 0),
    )
    return Runs(counts, runs.height, runs.width)


def _pieces(runs: Runs) -> tuple[npt.NDArray[np.int64], ...]:
    """Give the object's runs, cut at the ends of rows: y, first column, last column + 1."""
    ends = np.cumsum(runs.counts, dtype=np.int64)
    begins, ends = ends[:-1:2], ends[1::2]
    top = begins // runs.width
    rows = (ends - 1) // runs.width - top + 1
    run = np.repeat(np.arange(rows.size), rows)
    y = top[run] + np.arange(run.size) - (np.cumsum(rows) - rows)[run]
    left = np.maximum(begins[run] - y * runs.width, 0)
    right = np.minimum(ends[run] - y * runs.width, runs.width)
    return y, left, right
