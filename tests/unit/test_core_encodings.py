import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from pycocotools import mask as coco

from core_support import both_implementations, native_core, numpy_core, smooth_logits


def _smooth_mask(seed, height, width):
    mask = native_core.mask_from_logits(
        smooth_logits(seed), frame_size=256, input_size=(256, 256), original_size=(height, width)
    )
    return native_core.mask_from_counts(mask.counts, height, width)


def _masks():
    rng = np.random.default_rng(11)
    yield "one background pixel", np.zeros((1, 1), np.bool_)
    yield "one object pixel", np.ones((1, 1), np.bool_)
    for height, width in [(1, 9), (9, 1), (7, 5), (5, 7), (64, 64), (217, 333)]:
        yield f"{height} x {width} empty", np.zeros((height, width), np.bool_)
        yield f"{height} x {width} full", np.ones((height, width), np.bool_)
        yield f"{height} x {width} noise", rng.random((height, width)) < 0.5
        yield f"{height} x {width} specks", rng.random((height, width)) < 0.03
        yield f"{height} x {width} holes", rng.random((height, width)) < 0.97
    yield "checkerboard", np.indices((31, 40)).sum(axis=0) % 2 == 1
    yield "columns", np.indices((31, 40))[1] % 2 == 0
    yield "rows", np.indices((31, 40))[0] % 2 == 0
    yield "last pixel", np.arange(35).reshape(5, 7) == 34
    yield "all but the last pixel", np.arange(35).reshape(5, 7) < 34
    # Runs of exactly, one less and one more than a brush record holds: 65536 bytes.
    for pixels in (16383, 16384, 16385, 32768, 40000):
        yield f"run of {pixels}", np.arange(2 * pixels).reshape(2, pixels) < pixels
    yield "blob 1200 x 1800", _smooth_mask(4, 1200, 1800)
    yield "blob 3000 x 4000", _smooth_mask(6, 3000, 4000)


MASKS = dict(_masks())
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@both_implementations
@each_mask
def test_runs_alternate_from_background_and_give_the_mask_back(core, mask):
    counts = core.counts_from_mask(mask)

    assert counts.dtype == np.uint32
    assert (counts[1:] > 0).all()
    assert counts[0] == (0 if mask.flat[0] else counts[0])
    restored = core.mask_from_counts(counts, *mask.shape)
    assert restored.dtype == np.bool_
    assert np.array_equal(restored, mask)


@both_implementations
def test_runs_go_along_rows(core):
    mask = np.array([[0, 1, 1], [1, 0, 0]], np.bool_)

    assert core.counts_from_mask(mask).tolist() == [1, 3, 2]
    assert core.counts_from_mask(~mask).tolist() == [0, 1, 3, 2]


@both_implementations
def test_any_byte_but_0_is_the_object(core):
    mask = np.array([[0, 1, 255, 128, 2], [0, 0, 7, 0, 0]], np.uint8)

    assert core.counts_from_mask(mask).tolist() == [1, 4, 2, 1, 2]


@both_implementations
def test_views_of_masks_and_runs_give_what_their_copies_give(core):
    mask = _smooth_mask(1, 40, 61)
    counts = core.counts_from_mask(mask)

    assert np.array_equal(core.counts_from_mask(np.repeat(mask, 2, axis=1)[:, ::2]), counts)
    assert np.array_equal(core.counts_from_mask(np.asfortranarray(mask)), counts)
    assert np.array_equal(
        core.counts_from_mask(mask[::-1, ::-1]), core.counts_from_mask(mask[::-1, ::-1].copy())
    )
    strided = np.repeat(counts, 2)[::2]
    misaligned = np.frombuffer(b"x" + counts.tobytes(), np.uint32, offset=1)
    for view in (strided, misaligned):
        assert np.array_equal(core.mask_from_counts(view, 40, 61), mask)
        for encode in (core.brush_rle, core.brush_rle_json, core.coco_counts, core.packed_bits):
            assert encode(view, 40, 61) == encode(counts, 40, 61)


@both_implementations
def test_sizes_may_be_numpy_integers(core):
    counts = np.array([5_000_000], np.uint32)

    assert core.brush_rle(counts, np.int16(2000), np.int16(2500)) == core.brush_rle(
        counts, 2000, 2500
    )


@both_implementations
@pytest.mark.parametrize(
    ("mask", "rle"),
    [
        ([[0]], [0, 0, 0, 4, 57, 27, 252, 96, 0]),
        ([[1]], [0, 0, 0, 4, 57, 27, 252, 127, 224]),
        ([[1, 1]], [0, 0, 0, 8, 57, 27, 252, 255, 224]),
    ],
)
def test_brush_rle_of_single_pixels_is_known(core, mask, rle):
    mask = np.array(mask, np.uint8)

    assert list(core.brush_rle(core.counts_from_mask(mask), *mask.shape)) == rle


@both_implementations
@each_mask
def test_brush_rle_is_what_label_studio_writes(core, mask):
    counts = core.counts_from_mask(mask)

    rle = core.brush_rle(counts, *mask.shape)

    assert list(rle) == mask2rle(mask.astype(np.uint8) * 255)
    assert json.loads(core.brush_rle_json(counts, *mask.shape)) == list(rle)


@pytest.mark.parametrize(
    "name", [name for name, mask in MASKS.items() if mask.size < 100_000 or "4000" in name]
)
def test_brush_rle_is_read_by_label_studio(name):
    mask = MASKS[name]

    rle = native_core.brush_rle(native_core.counts_from_mask(mask), *mask.shape)

    pixels = decode_rle(list(rle)).reshape(*mask.shape, 4)
    assert (pixels == np.where(mask, 255, 0)[:, :, None]).all()


@both_implementations
def test_brush_json_is_compact(core):
    assert core.brush_rle_json(np.array([1], np.uint32), 1, 1) == b"[0,0,0,4,57,27,252,96,0]"


@both_implementations
@each_mask
def test_coco_counts_are_those_of_pycocotools(core, mask):
    counts = core.coco_counts(core.counts_from_mask(mask), *mask.shape)

    assert counts == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@both_implementations
@each_mask
def test_packed_bits_are_those_of_numpy(core, mask):
    bits = core.packed_bits(core.counts_from_mask(mask), *mask.shape)

    assert bits == np.packbits(mask).tobytes()


@given(
    arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.integers(1, 100),
)
def test_both_implementations_give_the_same_bytes(mask, stretch):
    mask = np.repeat(mask, stretch, axis=1)

    counts = native_core.counts_from_mask(mask)

    assert np.array_equal(counts, numpy_core.counts_from_mask(mask))
    for name in ("mask_from_counts", "brush_rle", "brush_rle_json", "coco_counts", "packed_bits"):
        native = getattr(native_core, name)(counts, *mask.shape)
        numpy = getattr(numpy_core, name)(counts, *mask.shape)
        assert np.array_equal(native, numpy) if name == "mask_from_counts" else native == numpy
    assert (
        native_core.coco_counts(counts, *mask.shape)
        == (coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])
    )
