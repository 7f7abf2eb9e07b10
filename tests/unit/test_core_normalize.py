import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core_support import both_implementations, native_core, numpy_core

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@both_implementations
@pytest.mark.parametrize(
    ("size", "frame_size"),
    [((683, 1024), 1024), ((1024, 683), 1024), ((1, 1), 1), ((1, 64), 64), ((64, 64), 64)],
)
def test_channels_are_normalised_and_padded_as_pytorch_does_it(core, size, frame_size):
    image = _image(*size)

    frame = core.normalize_and_pad(image, MEAN, STD, frame_size)

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normalized = (torch.from_numpy(image).permute(2, 0, 1) - mean) / std
    padding = (0, frame_size - size[1], 0, frame_size - size[0])
    wanted = torch.nn.functional.pad(normalized, padding).numpy()
    assert frame.dtype == np.float32
    assert frame.flags.c_contiguous
    assert np.array_equal(frame, wanted)


@both_implementations
def test_views_give_what_their_copies_give(core):
    image = _image(20, 30)
    read_only = image.copy()
    read_only.flags.writeable = False

    wanted = core.normalize_and_pad(image, MEAN, STD, 32)

    for view in (read_only, np.repeat(image, 2, axis=1)[:, ::2], np.asfortranarray(image)):
        assert np.array_equal(core.normalize_and_pad(view, MEAN, STD, 32), wanted)
    reversed_channels = core.normalize_and_pad(image[:, :, ::-1], MEAN[::-1], STD[::-1], 32)
    assert np.array_equal(reversed_channels[::-1], wanted)


@both_implementations
def test_the_image_stays_as_it_is(core):
    image = _image(20, 30)
    before = image.copy()

    core.normalize_and_pad(image, np.array(MEAN, np.float32), list(STD), 32)

    assert np.array_equal(image, before)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.lists(st.floats(1 / 128, 255, width=32), min_size=6, max_size=6),
)
def test_both_implementations_give_the_same_bits(height, width, padding, statistics):
    image = _image(height, width, seed=height * width)
    arguments = image, statistics[:3], statistics[3:], max(height, width) + padding

    native = native_core.normalize_and_pad(*arguments)

    assert np.array_equal(native, numpy_core.normalize_and_pad(*arguments))
