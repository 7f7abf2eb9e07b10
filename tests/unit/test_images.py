import io

import numpy as np
import pytest
from PIL import Image

from sam_core import MAX_SIDE
from sam_inference.errors import InvalidArgumentError
from sam_inference.images import decode_image
from support import IMAGES, expected_images

MAX_PIXELS = 100_000_000


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(("path", "expected"), expected_images().items())
def test_each_test_image_is_decoded_or_refused_as_its_manifest_says(path, expected):
    data = (IMAGES / path).read_bytes()

    if not expected["accept"]:
        with pytest.raises(InvalidArgumentError) as refusal:
            decode_image(data, max_pixels=MAX_PIXELS)
        assert refusal.value.field == "image"
        return

    pixels = np.asarray(decode_image(data, max_pixels=MAX_PIXELS))
    assert pixels.shape == (expected["height"], expected["width"], 3)
    if expected["mean_rgb"] is not None:
        assert pixels.mean(axis=(0, 1)) == pytest.approx(expected["mean_rgb"], abs=3)


def test_transparency_is_put_over_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))

    pixels = np.asarray(decode_image(encoded(image), max_pixels=MAX_PIXELS))

    assert pixels.tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_sixteen_bit_grey_is_scaled():
    grey = np.array([[0, 32768, 65535]], np.uint16)

    pixels = np.asarray(decode_image(encoded(Image.fromarray(grey)), max_pixels=MAX_PIXELS))

    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_the_pixel_limit_is_inclusive():
    data = encoded(Image.new("RGB", (20, 10)))

    assert decode_image(data, max_pixels=200).size == (20, 10)
    with pytest.raises(InvalidArgumentError, match="20x10 pixels; at most 199"):
        decode_image(data, max_pixels=199)


def test_sides_longer_than_masks_can_have_are_refused():
    with pytest.raises(InvalidArgumentError, match=f"sides of at most {MAX_SIDE}"):
        decode_image(encoded(Image.new("1", (MAX_SIDE + 1, 1))), max_pixels=2 * MAX_SIDE)

    assert decode_image(encoded(Image.new("1", (MAX_SIDE, 1))), max_pixels=2 * MAX_SIDE)


def test_floating_point_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")

    with pytest.raises(InvalidArgumentError, match="has floating-point pixels"):
        decode_image(data, max_pixels=MAX_PIXELS)


def test_other_formats_are_refused_even_if_pillow_reads_them():
    data = encoded(Image.new("RGB", (4, 4)), "PPM")

    with pytest.raises(InvalidArgumentError, match="JPEG, PNG"):
        decode_image(data, max_pixels=MAX_PIXELS)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # remarks on damaged metadata
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_or_changed_anywhere_is_decoded_or_refused(file_format):
    noise = np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    random = np.random.default_rng(2)

    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        damaged = damaged[: random.integers(len(damaged) + 1)]
        try:
            image = decode_image(bytes(damaged), max_pixels=10_000)
        except InvalidArgumentError:
            continue
        assert image.mode == "RGB"
