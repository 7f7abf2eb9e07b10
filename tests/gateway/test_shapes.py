"""Masks as the shapes of Label Studio's tags, read back as an independent program reads them."""

import cv2
import numpy as np
import orjson
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sam_core
from gateway_support import region_mask
from sam_gateway.shapes import SHAPES, Runs, ShapeOptions, cleaned, outlines

EXACT = ShapeOptions(polygon_tolerance=0, min_region_pixels=1)


def runs_of(mask):
    return Runs(sam_core.counts_from_mask(mask), *mask.shape)


def values(shape, mask, **options):
    """The values as they are in the answer."""
    return orjson.loads(orjson.dumps(SHAPES[shape](runs_of(mask), ShapeOptions(**options))))


def filled(polygons, height, width):
    """The pixels whose centres are in one of the polygons, which may not cross each other."""
    whole = shapely.MultiPolygon(polygons)
    assert whole.is_valid, shapely.is_valid_reason(whole)
    y, x = np.mgrid[:height, :width] + 0.5
    shapely.prepare(whole)
    return shapely.contains_xy(whole, x, y)


def iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def blob(seed, height, width):
    """A round object with a wavy edge, and another beside it."""
    waves = np.random.default_rng(seed).normal(0, 1, (2, 8)) / np.arange(3, 11)
    y, x = np.mgrid[:height, :width] + 0.5
    dy, dx = (y / height - 0.5) * 2, (x / width - 0.4) * 2
    angle, radius = np.arctan2(dy, dx), np.hypot(dy, dx)
    edge = 0.6 + 0.3 * sum(
        a * np.sin(k * angle) + b * np.cos(k * angle) for k, (a, b) in enumerate(waves.T, 1)
    )
    return (radius < edge) | (np.hypot(dy, dx - 1.05) < 0.12)


def fill_holes(mask):
    """Set what cannot be reached from the border by steps up, down, left and right."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


# ---- outlines ----

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


@given(MASKS)
def test_without_tolerance_outlines_are_the_edges_of_the_pixels(mask):
    rings = outlines(runs_of(mask), EXACT)

    assert np.array_equal(
        filled([shapely.Polygon(ring) for ring in rings], *mask.shape), fill_holes(mask)
    )


@given(MASKS, st.floats(0.1, 5))
def test_outlines_never_touch_themselves_nor_cross_each_other(mask, tolerance):
    rings = outlines(runs_of(mask), ShapeOptions(polygon_tolerance=tolerance))

    assert rings
    for ring in rings:
        assert shapely.LinearRing(ring).is_simple
    whole = shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings])
    assert whole.is_valid, shapely.is_valid_reason(whole)


@pytest.mark.parametrize("tolerance", [0.5, 0.75, 2, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_outlines_stay_within_the_tolerance(seed, tolerance):
    runs = runs_of(blob(seed, 400, 600))

    exact = outlines(runs, EXACT)
    rings = outlines(runs, ShapeOptions(polygon_tolerance=tolerance))

    assert len(rings) == len(exact)
    for ring, wanted in zip(rings, exact, strict=True):
        around = shapely.LinearRing(ring).buffer(tolerance + 0.5)
        assert around.covers(shapely.LinearRing(wanted))
        assert len(ring) < len(wanted) / 2


@pytest.mark.parametrize("size", [(60, 80), (200, 300), (683, 1024), (2000, 1500)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_at_the_default_tolerance_smooth_masks_keep_their_pixels(seed, size):
    mask = blob(seed, *size)

    rings = outlines(runs_of(mask), ShapeOptions())

    again = filled([shapely.Polygon(ring) for ring in rings], *size)
    assert iou(again, fill_holes(mask)) >= 0.97


def test_specks_beside_an_object_have_no_outline_unless_that_is_asked_for():
    mask = np.zeros((60, 80), np.bool_)
    mask[10:40, 10:40] = True
    mask[40, 40] = mask[5, 60] = True
    mask[20:30, 50:60] = True

    assert len(outlines(runs_of(mask), ShapeOptions())) == 2
    assert len(outlines(runs_of(mask), ShapeOptions(min_region_pixels=1))) == 4
    assert len(outlines(runs_of(mask), ShapeOptions(min_region_pixels=101))) == 1


def test_the_largest_part_has_an_outline_however_small_it_is():
    mask = np.zeros((60, 80), np.bool_)
    mask[7, 9] = True

    options = ShapeOptions(polygon_tolerance=9, min_region_pixels=50)
    (ring,) = outlines(runs_of(mask), options)

    assert shapely.Polygon(ring).is_valid
    assert shapely.Polygon(ring).distance(shapely.Point(9.5, 7.5)) == 0


def test_a_hole_is_covered_with_what_lies_in_it():
    mask = np.zeros((60, 80), np.bool_)
    mask[10:50, 10:70] = True
    mask[15:45, 15:65] = False
    mask[25:35, 30:50] = True

    (polygon,) = values("polygon", mask, polygon_tolerance=0)

    assert sorted(polygon["points"]) == sorted(
        [[100 * x / 80, round(100 * y / 60, 6)] for x in (10, 70) for y in (10, 50)]
    )


# ---- values ----


def test_polygons_are_closed_and_in_percent_the_largest_first():
    mask = blob(1, 300, 400)

    large, small = values("polygon", mask)

    assert set(large) == {"points", "closed"}
    assert large["closed"] is True
    shapes = [shapely.Polygon(np.array(polygon["points"]) * [4, 3]) for polygon in (large, small)]
    assert shapes[0].area > shapes[1].area
    assert iou(filled(shapes, *mask.shape), mask) >= 0.97


def test_vectors_are_chains_of_the_points_of_polygons():
    mask = blob(1, 300, 400)

    vectors, polygons = values("vector", mask), values("polygon", mask)

    for vector, polygon in zip(vectors, polygons, strict=True):
        assert vector["closed"] is True
        vertices = vector["vertices"]
        assert [[vertex["x"], vertex["y"]] for vertex in vertices] == polygon["points"]
        ids = [vertex["id"] for vertex in vertices]
        assert len(set(ids)) == len(ids)
        assert [vertex["prevPointId"] for vertex in vertices] == [None, *ids[:-1]]
        assert not any(vertex["isBezier"] for vertex in vertices)


@given(MASKS)
def test_rectangles_hold_all_of_the_mask_and_no_more(mask):
    (value,) = values("rectangle", mask)

    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert value["rotation"] == 0
    assert value["x"] * width / 100 == pytest.approx(columns[0], abs=1e-6)
    assert value["y"] * height / 100 == pytest.approx(rows[0], abs=1e-6)
    assert value["width"] * width / 100 == pytest.approx(np.ptp(columns) + 1, abs=1e-6)
    assert value["height"] * height / 100 == pytest.approx(np.ptp(rows) + 1, abs=1e-6)


def inside_ellipse(value, height, width):
    """The pixels whose centres are in an ellipse of Label Studio, turned clockwise on screen."""
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = x - value["x"] * width / 100, y - value["y"] * height / 100
    angle = np.radians(value["rotation"])
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return (along / (value["radiusX"] * width / 100)) ** 2 + (
        across / (value["radiusY"] * height / 100)
    ) ** 2 <= 1


@pytest.mark.parametrize("rotation", [0, 30, 90, 135, 179])
def test_the_ellipse_of_an_ellipse_is_itself(rotation):
    height, width = 300, 500
    wanted = {"x": 45, "y": 55, "radiusX": 20, "radiusY": 15, "rotation": rotation}
    mask = inside_ellipse(wanted, height, width)

    (value,) = values("ellipse", mask)

    assert value == pytest.approx(wanted, abs=0.3) or rotation in (0, 179)
    assert iou(inside_ellipse(value, height, width), mask) > 0.99


@given(MASKS)
def test_ellipses_have_the_moments_of_the_pixels(mask):
    (value,) = values("ellipse", mask)

    height, width = mask.shape
    y, x = np.nonzero(mask)
    assert value["x"] * width / 100 == pytest.approx(x.mean() + 0.5, abs=1e-6)
    assert value["y"] * height / 100 == pytest.approx(y.mean() + 0.5, abs=1e-6)
    # Each pixel is a unit square, with a variance of its own.
    covariance = np.cov([x, y], bias=True).reshape(2, 2) + np.eye(2) / 12
    radii = value["radiusX"] * width / 100, value["radiusY"] * height / 100
    assert sorted(np.square(radii)) == pytest.approx(4 * np.linalg.eigvalsh(covariance), abs=1e-4)


# ---- pixels ----


@pytest.mark.parametrize("shape", ["brush", "bitmask"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (33, 47), (683, 1024)])
def test_pixels_are_kept(shape, size):
    mask = blob(1, *size) if min(size) > 1 else np.ones(size, np.bool_)

    (value,) = values(shape, mask)

    height, width = size
    region = {"value": value, "original_width": width, "original_height": height}
    assert np.array_equal(region_mask(region), mask)


def test_a_brush_is_a_picture_where_that_is_shorter():
    small, large = blob(1, 20, 30), blob(1, 683, 1024)

    assert set(values("brush", small)[0]) == {"format", "rle"}
    (picture,) = values("brush", large)
    assert set(picture) == {"format", "maskDataURL"}
    (stored,) = values("brush", large, stored=True)
    assert set(stored) == {"format", "rle"}
    assert len(orjson.dumps(picture)) < len(orjson.dumps(stored))


def test_specks_and_pinholes_go_where_that_is_asked_for():
    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 5:20] = True
    mask[10, 10] = False
    mask[25, 30:33] = True
    runs = runs_of(mask)

    def pixels(**options):
        found = cleaned(runs, ShapeOptions(**options))
        return np.count_nonzero(sam_core.mask_from_counts(found.counts, 30, 40))

    assert cleaned(runs, ShapeOptions()) is runs
    assert pixels(min_region_pixels=3) == 227
    assert pixels(min_region_pixels=4) == 224
    assert pixels(min_hole_pixels=1) == 227
    assert pixels(min_hole_pixels=2) == 228
    assert pixels(min_region_pixels=999) == 224
