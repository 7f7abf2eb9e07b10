import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_support import (
    both_implementations,
    native_core,
    numpy_core,
    smooth_logits,
    upscale_with_torch,
)

# Low-res size, frame, input size in the frame, original size.
SIZES = [
    ((256, 256), 1024, (683, 1024), (1200, 1800)),
    ((256, 256), 1024, (1024, 683), (1801, 1201)),
    ((256, 256), 1024, (768, 1024), (3000, 4000)),
    ((256, 256), 1024, (683, 1024), (683, 1024)),
    ((256, 256), 1024, (683, 1024), (67, 101)),
    ((256, 256), 1024, (683, 1024), (1, 1)),
    ((256, 256), 1024, (1, 1024), (3, 3001)),
    ((256, 256), 1024, (1024, 1), (3001, 3)),
    ((256, 256), 64, (43, 64), (333, 217)),
    ((64, 64), 256, (171, 256), (500, 750)),
    ((33, 70), 97, (61, 97), (123, 45)),
    ((2, 3), 5, (4, 5), (97, 89)),
    ((1, 1), 1, (1, 1), (1, 1)),
    ((1, 1), 7, (5, 3), (11, 13)),
    ((1, 64), 64, (64, 64), (64, 64)),
]


def _assert_mask_is_of(core, mask, logits, threshold, offset):
    """Compare with upscaled logits: pixels may differ only where rounding can tell."""
    pixels = core.mask_from_counts(mask.counts, mask.height, mask.width)
    differing = pixels != (logits > threshold)
    assert (np.abs(logits[differing] - threshold) < 1e-4).all()

    assert mask.area == pixels.sum()
    ys, xs = pixels.nonzero()
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if mask.area else (0, 0, 0, 0)
    assert mask.box == box

    least = (logits > threshold - offset + 1e-4).sum(), (logits > threshold + offset + 1e-4).sum()
    most = (logits > threshold - offset - 1e-4).sum(), (logits > threshold + offset - 1e-4).sum()
    assert least[1] / max(most[0], 1) <= mask.stability_score <= most[1] / max(least[0], 1)


@both_implementations
@pytest.mark.parametrize(("low_res", "frame_size", "input_size", "original_size"), SIZES)
def test_a_mask_is_what_pytorch_makes_of_the_logits(
    core, low_res, frame_size, input_size, original_size
):
    rng = np.random.default_rng(3)
    for logits in (smooth_logits(5, low_res), rng.normal(0, 5, low_res).astype(np.float32)):
        mask = core.mask_from_logits(
            logits, frame_size=frame_size, input_size=input_size, original_size=original_size
        )

        assert (mask.height, mask.width) == original_size
        upscaled = upscale_with_torch(logits, frame_size, input_size, original_size)
        _assert_mask_is_of(core, mask, upscaled, 0.0, 1.0)


@both_implementations
@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (2.5, 0.1), (-7, 3), (0.3, 0)])
def test_threshold_and_offset_are_the_callers(core, threshold, offset):
    logits = smooth_logits(8)

    mask = core.mask_from_logits(
        logits,
        frame_size=1024,
        input_size=(768, 1024),
        original_size=(300, 400),
        mask_threshold=threshold,
        stability_offset=offset,
    )

    upscaled = upscale_with_torch(logits, 1024, (768, 1024), (300, 400))
    _assert_mask_is_of(core, mask, upscaled, threshold, offset)
    assert (mask.stability_score == 1) == (offset == 0)


def _small_mask(core, logits, **options):
    return core.mask_from_logits(
        np.asarray(logits, np.float32),
        frame_size=8,
        input_size=(8, 8),
        original_size=(8, 8),
        **options,
    )


@both_implementations
@pytest.mark.parametrize("value", [0.0, -5.0, np.nan, -np.inf])
def test_nothing_above_the_threshold_is_an_empty_mask(core, value):
    mask = _small_mask(core, np.full((4, 4), value), stability_offset=0.0)

    assert mask.counts.tolist() == [64]
    assert (mask.area, mask.box, mask.stability_score) == (0, (0, 0, 0, 0), 0.0)


@both_implementations
@pytest.mark.parametrize("value", [1e-30, 5.0, 3e38, np.inf])
def test_everything_above_the_threshold_is_a_full_mask(core, value):
    mask = _small_mask(core, np.full((4, 4), value), stability_offset=0.0)

    assert mask.counts.tolist() == [0, 64]
    assert (mask.area, mask.box, mask.stability_score) == (64, (0, 0, 8, 8), 1.0)


@both_implementations
def test_a_logit_at_the_threshold_is_background(core):
    assert _small_mask(core, np.full((4, 4), 0.1), mask_threshold=np.float32(0.1)).area == 0


@both_implementations
def test_not_a_number_is_background_and_spreads_no_further_than_interpolation(core):
    logits = np.full((4, 4), 5.0)
    logits[0, 0] = np.nan

    mask = _small_mask(core, logits)

    pixels = core.mask_from_counts(mask.counts, 8, 8)
    assert not pixels[:3, :3].any()
    assert pixels[3:].all()
    assert pixels[:, 3:].all()


@both_implementations
def test_infinities_of_both_signs_meet_without_becoming_undefined(core):
    logits = np.full((4, 4), -np.inf)
    logits[:, 2:] = np.inf

    mask = _small_mask(core, logits)

    assert mask.counts.tolist() == [4] * 16
    assert mask.stability_score == 1.0


@both_implementations
def test_views_give_what_their_copies_give(core):
    logits = smooth_logits(2)
    wanted = core.mask_from_logits(
        logits, frame_size=256, input_size=(200, 256), original_size=(99, 133)
    )

    read_only = logits.copy()
    read_only.flags.writeable = False
    strided = np.repeat(logits, 2, axis=1)[:, ::2]
    misaligned = np.frombuffer(b"x" + logits.tobytes(), np.float32, offset=1).reshape(256, 256)

    for view in (read_only, strided, np.asfortranarray(logits), misaligned):
        mask = core.mask_from_logits(
            view, frame_size=256, input_size=(200, 256), original_size=(99, 133)
        )
        assert np.array_equal(mask.counts, wanted.counts)
        assert mask.stability_score == wanted.stability_score


@both_implementations
def test_a_mask_cannot_be_changed(core):
    mask = _small_mask(core, np.ones((4, 4)))

    assert mask.counts.dtype == np.uint32
    with pytest.raises(ValueError, match="read-only"):
        mask.counts[0] = 1
    with pytest.raises(AttributeError):
        mask.area = 1


@st.composite
def _cases(draw):
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    frame_size = draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(draw(st.sampled_from([0, 0, 1, -1])), 1, (rows, columns))
    logits *= draw(st.sampled_from([1e-40, 0.01, 1, 30, 1e38]))
    if draw(st.booleans()):  # values on the very threshold, plateaus
        logits = logits.round()
    for special in draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 3e38]), max_size=2)):
        logits[rng.random(logits.shape) < 0.1] = special
    with np.errstate(over="ignore"):
        logits = logits.astype(np.float32)
    return logits, {
        "frame_size": frame_size,
        "input_size": (draw(st.integers(1, frame_size)), draw(st.integers(1, frame_size))),
        "original_size": (draw(st.integers(1, 150)), draw(st.integers(1, 150))),
        "mask_threshold": draw(st.sampled_from([0.0, 0.3, -0.7, 5.0])),
        "stability_offset": draw(st.sampled_from([0.0, 0.1, 1.0])),
    }


@given(_cases())
def test_both_implementations_give_the_same_bits(case):
    logits, options = case

    native = native_core.mask_from_logits(logits, **options)
    numpy = numpy_core.mask_from_logits(logits, **options)

    assert native.counts.tolist() == numpy.counts.tolist()
    assert (native.area, native.box) == (numpy.area, numpy.box)
    assert native.stability_score == numpy.stability_score


@pytest.mark.parametrize("seed", range(4))
def test_both_implementations_agree_at_full_size(seed):
    options = {"frame_size": 1024, "input_size": (768, 1024), "original_size": (1500, 2000)}
    for logits in (
        smooth_logits(seed),
        np.random.default_rng(seed).normal(0, 3, (256, 256)).astype(np.float32),
    ):
        native = native_core.mask_from_logits(logits, **options)
        numpy = numpy_core.mask_from_logits(logits, **options)

        assert np.array_equal(native.counts, numpy.counts)
        assert native.stability_score == numpy.stability_score
