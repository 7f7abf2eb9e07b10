"""Predictions of whole tasks: answered in time or stored later, each once."""

import asyncio

import pytest

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, click, jpeg, region_mask
from sam_gateway import batch
from sam_gateway.config import BatchOptions, Config

SIZE = (1024, 683)
PHOTO = jpeg("truck.jpg", SIZE, box=(36, 72, 1728, 1200))
VERSION = Config().model_version
BOXES = BatchOptions(mode="boxes")
AGENT = {"User-Agent": "heartex/1.23.2"}


def rectangle(**changes):
    """The rear wheel of the truck."""
    return {
        "id": "rectangle1",
        "type": "rectanglelabels",
        "from_name": "rect",
        "to_name": "image",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "value": {
            "x": 22,
            "y": 50,
            "width": 18,
            "height": 28,
            "rotation": 0,
            "rectanglelabels": ["Cat"],
        },
        **changes,
    }


def task(number, *rectangles, **changes):
    return {
        "id": number,
        "project": 7,
        "data": {"image": f"/data/upload/1/{number}.jpg"},
        "annotations": [{"id": 1, "result": list(rectangles), "was_cancelled": False}],
        "predictions": [],
        **changes,
    }


def asked(*tasks, label_config=LABEL_CONFIG):
    """What "Retrieve predictions" sends."""
    params = {"login": None, "password": None, "context": None}
    return {"tasks": list(tasks), "label_config": label_config, "params": params}


async def predict(client, *tasks, **options):
    response = await client.post("/predict", json=asked(*tasks, **options), headers=AGENT)
    assert response.status == 200, await response.text()
    return (await response.json())["results"]


async def progress(client):
    """How far the only project is."""
    (found,) = (await (await client.get("/status.json")).json())["batch"]
    return found


async def until(client, **expected):
    """Wait until the only project is so far."""

    async def wait():
        while not expected.items() <= (await progress(client)).items():
            pass

    await asyncio.wait_for(wait(), 60)


@pytest.fixture
def label_studio(label_studio):
    """A Label Studio with ten uploads, each another image."""
    for number in range(10):
        label_studio.files[f"{number}.jpg"] = PHOTO + bytes([number])
    return label_studio


@pytest.fixture
def settings(worker_target, label_studio):
    return {
        "worker": worker_target,
        "label_studio_url": label_studio.url,
        "label_studio_token": LEGACY_TOKEN,
        "batch": BOXES,
    }


@pytest.fixture
async def gateway(open_gateway, settings):
    """A gateway that predicts boxes as masks."""
    return await open_gateway(**settings)


@pytest.fixture
def no_time(monkeypatch):
    """Nothing is ready in time."""
    monkeypatch.setattr(batch, "ANSWER_WITHIN_S", 0)
    monkeypatch.setattr(batch, "ANSWER_ALONE_WITHIN_S", 0)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(batch, "_FIRST_PAUSE_S", 0)


async def test_a_rectangle_becomes_the_mask_that_it_gives_when_it_is_drawn(gateway):
    (entry,) = await predict(gateway, task(1, rectangle()))
    drawn = click("/data/upload/1/1.jpg", rectangle())
    answer = await (await gateway.post("/predict", json=drawn)).json()

    (region,) = entry["result"]
    (suggested,) = answer["results"][0]["result"]
    assert entry["model_version"] == VERSION
    assert entry["score"] == region["score"] == suggested["score"]
    assert (region["type"], region["from_name"]) == ("brushlabels", "brush")
    assert region["value"]["brushlabels"] == ["Cat"]
    assert "rle" in region["value"]  # who exports predictions knows no other form
    assert (region_mask(region) == region_mask(suggested)).all()
    assert region_mask(region).any()


async def test_what_is_answered_is_not_stored_as_well(gateway, label_studio):
    entries = await predict(gateway, task(1, rectangle()), task(2), task(3, rectangle()))

    assert [bool(entry) for entry in entries] == [True, False, True]
    assert (await progress(gateway)) == {
        "project": 7,
        "mode": "boxes",
        "done": 3,
        "waiting": 0,
        "kept": 0,
        "failed": 0,
        "failures": [],
    }
    assert label_studio.predictions == {}


async def test_what_is_not_ready_in_time_is_stored_later(gateway, label_studio, no_time):
    assert await predict(gateway, task(1, rectangle()), task(2, rectangle())) == [[], []]

    stored = [await asyncio.wait_for(label_studio.posted.get(), 60) for _ in range(2)]
    assert {prediction["task"] for prediction in stored} == {1, 2}
    assert {prediction["model_version"] for prediction in stored} == {VERSION}
    assert all(0 < prediction["score"] <= 1 for prediction in stored)
    assert all(region_mask(prediction["result"][0]).any() for prediction in stored)
    await until(gateway, done=2, waiting=0)
    assert ("/api/predictions/", f"Token {LEGACY_TOKEN}") in label_studio.requests
