"""Small regions are removed and outlines are exact, by both implementations alike."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core_support import both_implementations, native_core, numpy_core, smooth_logits

SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 13))
MASKS = arrays(np.bool_, SHAPES)


def _mask(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows], np.bool_)


def _smooth_mask(seed, height, width):
    mask = native_core.mask_from_logits(
        smooth_logits(seed), frame_size=256, input_size=(256, 256), original_size=(height, width)
    )
    return native_core.mask_from_counts(mask.counts, height, width)


def _cleaned(core, mask, **limits):
    counts = core.remove_small_regions(core.counts_from_mask(mask), *mask.shape, **limits)
    return core.mask_from_counts(counts, *mask.shape)


def _cleaned_with_opencv(mask, max_speck_pixels, max_hole_pixels):
    """The same by pixels: holes are components of the padded background but for the outer one."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    small = [
        i
        for i in range(1, len(stats))
        if i != labels[0, 0] and stats[i, cv2.CC_STAT_AREA] <= max_hole_pixels
    ]
    filled = mask | np.isin(labels, small)[1:-1, 1:-1]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(filled.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if areas.size == 0:
        return [filled]
    kept = set(np.flatnonzero(areas > max_speck_pixels) + 1)
    # OpenCV does not number components in the order of their first pixels: any of the largest.
    return [
        np.isin(labels, list(kept | {largest + 1}))
        for largest in np.flatnonzero(areas == areas.max())
    ]


def _fill(rings, height, width):
    """The pixels whose centres have an odd number of vertical edges to their left."""
    crossings = np.zeros((height + 1, width + 1), np.int64)
    for ring in rings:
        x, y = ring.astype(np.int64).T
        next_x, next_y = np.roll(x, -1), np.roll(y, -1)
        assert ((x == next_x) != (y == next_y)).all(), "edges go along one axis"
        for column, top, bottom in zip(
            x, np.minimum(y, next_y), np.maximum(y, next_y), strict=True
        ):
            crossings[top:bottom, column] += 1
    return np.cumsum(crossings, axis=1)[:height, :width] % 2 == 1


def _outlines(core, mask):
    return core.polygons(core.counts_from_mask(mask), *mask.shape)


# ---- small regions ----


@both_implementations
def test_specks_and_holes_go_and_the_rest_stays(core):
    mask = _mask(
        "#.........",
        "..######..",
        "..#.##.#..",
        "..####.#..",
        "#.######.#",
        "#........#",
    )

    assert np.array_equal(_cleaned(core, mask), mask)
    assert np.array_equal(
        _cleaned(core, mask, max_speck_pixels=1, max_hole_pixels=1),
        _mask(
            "..........",
            "..######..",
            "..####.#..",
            "..####.#..",
            "#.######.#",
            "#........#",
        ),
    )
    assert np.array_equal(
        _cleaned(core, mask, max_speck_pixels=2, max_hole_pixels=2),
        _mask(
            "..........",
            "..######..",
            "..######..",
            "..######..",
            "..######..",
            "..........",
        ),
    )


@both_implementations
def test_parts_hang_together_by_corners_and_holes_do_not(core):
    line = _mask("#...", ".#..", "..#.", "...#")
    two_holes = _mask("####", "#.##", "##.#", "####")

    assert np.array_equal(_cleaned(core, line, max_speck_pixels=3), line)
    assert _cleaned(core, two_holes, max_hole_pixels=1).all()


@both_implementations
def test_background_at_the_border_is_no_hole(core):
    mask = _mask("#.#", "###", ".##", "##.")

    assert np.array_equal(_cleaned(core, mask, max_hole_pixels=99), mask)


@both_implementations
def test_what_lies_in_a_filled_hole_becomes_part_of_the_object(core):
    mask = _mask("#####", "#...#", "#.#.#", "#...#", "#####")

    assert _cleaned(core, mask, max_speck_pixels=1, max_hole_pixels=8).all()
    assert not _cleaned(core, mask, max_speck_pixels=1, max_hole_pixels=7)[2, 2]


@both_implementations
def test_the_largest_part_stays_however_small_it_is(core):
    mask = _mask("#..##", ".....", "##...")

    assert np.array_equal(
        _cleaned(core, mask, max_speck_pixels=99), _mask("...##", ".....", ".....")
    )
    assert not _cleaned(core, np.zeros((3, 4), np.bool_), max_speck_pixels=99).any()


@both_implementations
def test_a_part_reaches_from_the_end_of_a_row_to_the_next_only_by_pixels(core):
    mask = _mask("...##", "##...", "##...")

    assert np.array_equal(
        _cleaned(core, mask, max_speck_pixels=2), _mask(".....", "##...", "##...")
    )


@both_implementations
def test_limits_may_be_larger_than_any_mask(core):
    mask = _mask("###", "#.#", "###")

    assert _cleaned(core, mask, max_speck_pixels=2**80, max_hole_pixels=2**80).all()


@given(MASKS, st.integers(0, 9), st.integers(0, 9))
def test_small_regions_are_those_of_opencv(mask, max_speck_pixels, max_hole_pixels):
    limits = {"max_speck_pixels": max_speck_pixels, "max_hole_pixels": max_hole_pixels}

    native = _cleaned(native_core, mask, **limits)

    assert np.array_equal(native, _cleaned(numpy_core, mask, **limits))
    assert any(
        np.array_equal(native, wanted)
        for wanted in _cleaned_with_opencv(mask, max_speck_pixels, max_hole_pixels)
    )


# ---- outlines ----


@both_implementations
def test_the_outline_of_a_pixel_goes_round_it_clockwise(core):
    (polygon,) = _outlines(core, _mask("...", ".#."))

    assert polygon.exterior.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]
    assert polygon.exterior.dtype == np.float32
    assert polygon.holes == ()
    assert polygon.area == 1


@both_implementations
def test_holes_go_the_other_way_round(core):
    (polygon,) = _outlines(core, _mask("####", "#..#", "####"))

    assert polygon.exterior.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert [ring.tolist() for ring in polygon.holes] == [[[1, 2], [3, 2], [3, 1], [1, 1]]]
    assert polygon.area == 10


@both_implementations
def test_the_largest_part_comes_first(core):
    polygons = _outlines(core, _mask("#.##.", "...#.", "##..."))

    assert [polygon.area for polygon in polygons] == [3, 2, 1]


@both_implementations
def test_pixels_that_touch_by_a_corner_are_two_parts(core):
    polygons = _outlines(core, _mask("#.", ".#"))

    assert [polygon.exterior.tolist() for polygon in polygons] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[1, 1], [2, 1], [2, 2], [1, 2]],
    ]


@both_implementations
def test_no_outline_touches_itself(core):
    """Round the centre the part closes by a corner: the pixel inside is a hole."""
    (polygon,) = _outlines(core, _mask("###", "#.#", "##."))

    assert polygon.exterior.tolist() == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    assert [ring.tolist() for ring in polygon.holes] == [[[1, 2], [2, 2], [2, 1], [1, 1]]]


@both_implementations
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 6)])
def test_nothing_has_no_outline_and_everything_one(core, size):
    height, width = size

    assert _outlines(core, np.zeros(size, np.bool_)) == []
    (polygon,) = _outlines(core, np.ones(size, np.bool_))
    assert polygon.exterior.tolist() == [[0, 0], [width, 0], [width, height], [0, height]]
    assert polygon.area == height * width


@both_implementations
def test_rings_cannot_be_written_to(core):
    (polygon,) = _outlines(core, _mask("###", "#.#", "###"))

    for ring in (polygon.exterior, *polygon.holes):
        assert not ring.flags.writeable


@given(MASKS)
def test_outlines_are_exact_and_valid_and_the_same_in_both(mask):
    polygons = _outlines(native_core, mask)

    twins = _outlines(numpy_core, mask)
    assert len(twins) == len(polygons)
    for polygon, twin in zip(polygons, twins, strict=True):
        assert polygon.area == twin.area
        assert np.array_equal(polygon.exterior, twin.exterior)
        assert all(map(np.array_equal, polygon.holes, twin.holes))

    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    assert np.array_equal(_fill(rings, *mask.shape), mask)
    whole = shapely.MultiPolygon([(polygon.exterior, polygon.holes) for polygon in polygons])
    assert whole.is_valid, shapely.is_valid_reason(whole)
    for polygon, part in zip(polygons, whole.geoms, strict=True):
        assert part.is_valid
        assert part.area == polygon.area
        assert shapely.LinearRing(polygon.exterior).is_simple
        # Clockwise on screen is counter-clockwise where y goes up.
        assert shapely.LinearRing(polygon.exterior).is_ccw
        assert not any(shapely.LinearRing(ring).is_ccw for ring in polygon.holes)
    number, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = sorted(stats[1:, cv2.CC_STAT_AREA], reverse=True)
    assert [polygon.area for polygon in polygons] == areas
    assert len(polygons) == number - 1


@pytest.mark.parametrize(("seed", "size"), [(1, (600, 900)), (2, (1200, 800)), (3, (3000, 4000))])
def test_outlines_of_large_masks_are_exact(seed, size):
    mask = _smooth_mask(seed, *size)

    polygons = _outlines(native_core, mask)

    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    assert np.array_equal(_fill(rings, *size), mask)


@pytest.mark.parametrize("density", [0.02, 0.4, 0.6, 0.98])
def test_both_implementations_agree_on_noise(density):
    mask = np.random.default_rng(5).random((97, 203)) < density
    counts = native_core.counts_from_mask(mask)

    for core in (native_core, numpy_core):
        limits = {"max_speck_pixels": 3, "max_hole_pixels": 4}
        assert np.array_equal(
            core.remove_small_regions(counts, *mask.shape, **limits),
            native_core.remove_small_regions(counts, *mask.shape, **limits),
        )
    native, numpy = (core.polygons(counts, *mask.shape) for core in (native_core, numpy_core))
    assert [polygon.area for polygon in native] == [polygon.area for polygon in numpy]
    for a, b in zip(native, numpy, strict=True):
        assert np.array_equal(a.exterior, b.exterior)
        assert all(map(np.array_equal, a.holes, b.holes))
