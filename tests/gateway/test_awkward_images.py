"""The awkward images through the gateway: answered in their upright size, or refused."""

import base64
from io import BytesIO

import orjson
import pytest

from gateway_support import click, key_point, region_mask
from support import IMAGES, expected_images

EXPECTED = expected_images()


def data_uri(name):
    return "data:image/jpeg;base64," + base64.b64encode((IMAGES / name).read_bytes()).decode()


async def post(client, body):
    return await client.post("/predict", data=BytesIO(orjson.dumps(body)))


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name]["accept"]])
async def test_an_image_is_answered_in_its_upright_size(gateway, name):
    width, height = EXPECTED[name]["width"], EXPECTED[name]["height"]
    # A rectangle around all of it: also the smallest images have something there.
    prompt = key_point(
        0,
        0,
        size=(width, height),
        type="rectanglelabels",
        value={"x": 0, "y": 0, "width": 100, "height": 100, "rectanglelabels": ["Cat"]},
    )

    response = await post(gateway, click(data_uri(name), prompt))

    assert response.status == 200, await response.text()
    (entry,) = (await response.json())["results"]
    for region in entry["result"] if entry else ():
        assert region_mask(region).shape == (height, width)


@pytest.mark.parametrize("name", [name for name in EXPECTED if not EXPECTED[name]["accept"]])
async def test_what_is_no_acceptable_image_is_refused(gateway, name):
    prompt = key_point(50, 50, size=(800, 534))

    response = await post(gateway, click(data_uri(name), prompt))

    assert response.status == 422
    error = (await response.json())["error"]
    assert error["reason"] == "image_refused"
    assert error["field"] == "tasks[0].data.image"
