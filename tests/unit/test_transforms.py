import numpy as np
import pytest
from PIL import Image

from sam_inference.transforms import input_size_of, resize_to, to_model_frame


@pytest.mark.parametrize(
    ("original_size", "expected"),
    [
        ((1200, 1800), (683, 1024)),
        ((1800, 1200), (1024, 683)),
        ((3000, 4000), (768, 1024)),
        ((1, 1), (1024, 1024)),
        ((9, 16), (576, 1024)),
        ((1, 5000), (1, 1024)),
    ],
)
def test_the_longest_side_fills_the_model_frame(original_size, expected):
    assert input_size_of(original_size, 1024) == expected


def test_resizing_gives_the_size_asked_for():
    image = Image.new("RGB", (5, 4))

    assert resize_to(image, (8, 3)).shape == (8, 3, 3)


def test_points_are_mapped_by_the_scale_of_each_axis():
    coords = np.array([[0, 0], [1800, 1200], [900, 600]], np.float32)

    mapped = to_model_frame(coords, (1200, 1800), (683, 1024))

    assert mapped.dtype == np.float32
    assert mapped == pytest.approx(np.array([[0, 0], [1024, 683], [512, 341.5]]))
