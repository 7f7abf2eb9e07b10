"""Masks of the bundled model on photos: they hold what was clicked on and leave out the rest."""

import base64

import pytest
from PIL import Image

from gateway_support import click, key_point, recorded, region_mask
from support import IMAGES

RECORDED_CLICKS = [
    "ui_auto_accept_second_click",
    "ui_click1_positive",
    "ui_click2_negative_alt",
    "ui_click3_positive",
    "ui_exif_orientation",
    "ui_moved_keypoint",
    "ui_multi_image_page2",
    "ui_other_label",
    "ui_rotated_click",
    "ui_second_of_two_images",
]

# Photo; clicks on one thing and clicks beside it, in percent of width and height.
CLICKS = [
    ("dog.jpg", [(28, 75)], []),
    ("dog.jpg", [(28, 75), (36, 55)], [(60, 80), (70, 30)]),
    ("corgi.jpg", [(65, 55)], []),
    ("corgi.jpg", [(65, 55)], [(20, 30), (65, 85)]),
    ("bears.jpg", [(70, 50)], [(20, 40), (20, 85)]),
    ("groceries.jpg", [(70, 48)], []),
    ("truck.jpg", [(55, 50)], [(50, 85), (80, 10)]),
    ("coffee.png", [(45, 45)], []),
]


def inside(pixels, prompts):
    height, width = pixels.shape
    return [
        bool(pixels[min(int(y * height / 100), height - 1), min(int(x * width / 100), width - 1)])
        for x, y in prompts
    ]


async def mask_of(gateway, body):
    response = await gateway.post("/predict", json=body)
    assert response.status == 200, await response.text()
    (entry,) = (await response.json())["results"]
    assert entry, "no mask was found"
    (region,) = entry["result"]
    return region_mask(region)


@pytest.mark.parametrize("name", RECORDED_CLICKS)
async def test_recorded_clicks_are_inside_or_outside_as_they_say(gateway, name):
    body = recorded(name)["body"]
    prompts = body["params"]["context"]["result"]

    pixels = await mask_of(gateway, body)

    where = inside(pixels, [(prompt["value"]["x"], prompt["value"]["y"]) for prompt in prompts])
    assert where == [prompt["is_positive"] for prompt in prompts]


@pytest.mark.parametrize(("photo", "positive", "negative"), CLICKS)
async def test_clicks_on_photos_are_inside_or_outside_as_they_say(
    gateway, photo, positive, negative
):
    path = IMAGES / "originals" / photo
    image = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    with Image.open(path) as opened:
        size = opened.size
    prompts = [
        key_point(x, y, size=size, id=f"{x}-{y}", is_positive=(x, y) in positive)
        for x, y in [*positive, *negative]
    ]

    pixels = await mask_of(gateway, click(image, *prompts))

    assert inside(pixels, positive) == [True] * len(positive)
    assert inside(pixels, negative) == [False] * len(negative)
    assert pixels.mean() < 0.8


@pytest.mark.parametrize("name", ["ui_alt_rectangle", "ui_rectangle", "ui_rotated_rectangle"])
async def test_a_mask_stays_around_its_rectangle(gateway, name):
    body = recorded(name)["body"]
    (prompt,) = body["params"]["context"]["result"]
    value = prompt["value"]

    pixels = await mask_of(gateway, body)

    height, width = pixels.shape
    top, left = int(value["y"] * height / 100), int(value["x"] * width / 100)
    bottom = top + int(value["height"] * height / 100) + 1
    right = left + int(value["width"] * width / 100) + 1
    assert pixels[top:bottom, left:right].sum() > 0.8 * pixels.sum()
