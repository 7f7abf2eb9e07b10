"""Request bodies, small and large."""

import asyncio

import orjson
import pytest

from gateway_support import click, key_point
from sam_gateway.errors import InvalidRequestError
from sam_gateway.json_body import parse_json


def with_drafts(masks, numbers):
    body = click("/data/upload/1/a.jpg", key_point(1, 2, size=(9, 9)))
    rle = {"format": "rle", "rle": [255] * numbers, "brushlabels": ["Cat"]}
    body["tasks"][0]["drafts"] = [{"result": [{"id": f"r{i}", "value": rle} for i in range(masks)]}]
    return body


async def test_a_small_body_is_read_as_it_is():
    body = with_drafts(2, 10)

    assert await parse_json(orjson.dumps(body)) == body


@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2])
async def test_of_a_large_body_only_the_masks_are_left_out(option):
    body = with_drafts(20, 20_000)
    text = '"rle":[1,2] and "rle": [3]'
    body["tasks"][0]["data"]["text"] = text

    read = await parse_json(orjson.dumps(body, option=option))

    assert read["tasks"][0]["data"]["text"] == text
    assert [region["value"]["rle"] for region in read["tasks"][0]["drafts"][0]["result"]] == [
        []
    ] * 20
    for region in body["tasks"][0]["drafts"][0]["result"]:
        region["value"]["rle"] = []
    assert read == body


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 5000, b'{"a":1}' * 50_000],
)
async def test_what_is_no_json_is_refused(body):
    with pytest.raises(InvalidRequestError, match="not JSON") as caught:
        await parse_json(body)

    assert caught.value.field == "body"


async def test_other_requests_are_served_while_a_huge_body_is_read():
    body = orjson.dumps(with_drafts(200, 100_000))  # 80 MB
    reading = asyncio.create_task(parse_json(body))
    turns = 0

    while not reading.done():
        await asyncio.sleep(0.001)
        turns += 1

    assert await reading
    assert turns > 10, "the loop stood still"
