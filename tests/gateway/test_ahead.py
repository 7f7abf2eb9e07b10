"""Embedding before the first click, in the background."""

import asyncio
import re

import pytest
from aiohttp import web

from gateway_support import LEGACY_TOKEN, click, jpeg, key_point, recorded

SIZE = (1024, 683)
PHOTO = jpeg("truck.jpg", SIZE, box=(36, 72, 1728, 1200))


def upload(number):
    return f"/data/upload/1/{number}.jpg"


def a_click(number, **changes):
    body = click(upload(number), key_point(30, 50, size=SIZE, **changes))
    body["tasks"][0]["id"] = number
    return body


def opened(*numbers):
    """What opening tasks sends: no prompts."""
    body = a_click(1)
    body["params"]["context"] = None
    body["tasks"] = [{"id": number, "data": {"image": upload(number)}} for number in numbers]
    return body


@pytest.fixture
def label_studio(label_studio):
    """A Label Studio with twenty uploads, each another image."""
    for number in range(20):
        label_studio.files[f"{number}.jpg"] = PHOTO + bytes([number])
    return label_studio


async def embeds(client):
    text = await (await client.get("/metrics")).text()
    return int(float(re.search(r"^sam_gateway_embeds_total (\S+)$", text, re.MULTILINE)[1]))


async def embedded(client, count):
    async def wait():
        while await embeds(client) < count:
            pass

    await asyncio.wait_for(wait(), 60)


class Held:
    """Label Studio gives its uploads only when it is allowed to."""

    def __init__(self, label_studio):
        self.label_studio = label_studio
        self.asked = []
        self.released = asyncio.Event()
        self.came = asyncio.Condition()
        label_studio.answer = self.answer

    async def answer(self, request):
        await self.note(request.path)
        await self.released.wait()
        return web.Response(body=self.label_studio.files[request.match_info["file"]])

    async def note(self, path):
        async with self.came:
            self.asked.append(path)
            self.came.notify_all()

    async def wait_for(self, path):
        async with self.came:
            await asyncio.wait_for(self.came.wait_for(lambda: path in self.asked), 60)


async def test_the_first_click_after_a_task_was_opened_embeds_nothing(gateway, label_studio):
    response = await gateway.post("/predict", json=opened(1))

    assert await response.json() == {"results": [[]]}
    await embedded(gateway, 1)
    requests = len(label_studio.requests)
    clicked = await gateway.post("/predict", json=a_click(1))
    assert (await clicked.json())["results"][0]["result"]
    assert await embeds(gateway) == 1
    assert len(label_studio.requests) == requests


async def test_new_tasks_are_embedded(gateway, label_studio):
    body = recorded("webhook_tasks_created")["body"]
    body["tasks"][0]["data"]["image"] = upload(1)

    assert (await gateway.post("/webhook", json=body)).status == 200

    await embedded(gateway, 1)
    await gateway.post("/predict", json=a_click(1))
    assert await embeds(gateway) == 1


@pytest.mark.parametrize("changes", [{"tasks": "x"}, {"project": None}, {"tasks": [{"id": 1}]}])
async def test_news_of_tasks_that_cannot_be_read_are_told(gateway, changes):
    body = {**recorded("webhook_tasks_created")["body"], **changes}

    response = await gateway.post("/webhook", json=body)

    assert response.status == 400
    assert (await response.json())["error"]["field"].split(".")[0] in (
        "project",
        "tasks",
        "tasks[0]",
    )


async def test_opening_answers_without_waiting_for_the_image(gateway, label_studio):
    held = Held(label_studio)

    response = await gateway.post("/predict", json=opened(1, 2, 3))

    assert await response.json() == {"results": [[], [], []]}
    await held.wait_for(upload(1))
    assert await embeds(gateway) == 0
    held.released.set()


async def test_ten_tasks_opened_quickly_embed_each_image_once(gateway, label_studio):
    numbers = list(range(10))

    await asyncio.gather(*(gateway.post("/predict", json=opened(n)) for n in numbers * 3))

    await embedded(gateway, 10)
    await asyncio.gather(*(gateway.post("/predict", json=a_click(n)) for n in numbers))
    assert await embeds(gateway) == 10
    assert sorted(path for path, _ in label_studio.requests) == sorted(map(upload, numbers))


async def test_the_newest_task_comes_first_and_one_at_a_time(gateway, label_studio):
    held = Held(label_studio)

    await gateway.post("/predict", json=opened(0))
    await held.wait_for(upload(0))
    for number in (1, 2, 1):
        await gateway.post("/predict", json=opened(number))
    await gateway.post("/predict", json=opened(5, 6))
    assert held.asked == [upload(0)]
    held.released.set()

    await embedded(gateway, 5)
    assert held.asked == [upload(number) for number in (0, 5, 6, 1, 2)]


async def test_later_pages_come_after_the_first_images_of_all_tasks(gateway, label_studio):
    held = Held(label_studio)
    await gateway.post("/predict", json=opened(0))
    await held.wait_for(upload(0))

    body = opened(1, 2)
    body["label_config"] = body["label_config"].replace('value="$image"', 'valueList="$image"')
    body["tasks"][0]["data"]["image"] = [upload(number) for number in (1, 11, 12)]
    body["tasks"][1]["data"]["image"] = [upload(number) for number in (2, 13)]
    await gateway.post("/predict", json=body)
    held.released.set()

    await embedded(gateway, 6)
    assert held.asked == [upload(number) for number in (0, 1, 2, 11, 13, 12)]


async def test_what_waits_is_bounded(open_gateway, worker_target, label_studio, monkeypatch):
    monkeypatch.setattr("sam_gateway.ahead.MAX_WAITING", 2)
    client = await open_gateway(
        worker=worker_target, label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN
    )
    held = Held(label_studio)
    await client.post("/predict", json=opened(0))
    await held.wait_for(upload(0))

    for number in (1, 2, 3):
        await client.post("/predict", json=opened(number))
    await client.post("/predict", json=opened(4))
    held.released.set()

    await embedded(client, 3)
    assert held.asked == [upload(0), upload(4), upload(3)]


async def test_a_click_joins_the_embedding_of_its_image(gateway, label_studio):
    held = Held(label_studio)
    await gateway.post("/predict", json=opened(1))
    await held.wait_for(upload(1))

    clicking = asyncio.create_task(gateway.post("/predict", json=a_click(1)))
    other = asyncio.create_task(gateway.post("/predict", json=a_click(2)))
    await held.wait_for(upload(2))
    held.released.set()

    assert [(await task).status for task in (clicking, other)] == [200, 200]
    assert await embeds(gateway) == 2
    assert sorted(held.asked) == [upload(1), upload(2)]


async def test_a_failure_ahead_is_logged_and_the_next_image_embedded(gateway, label_studio, caplog):
    caplog.set_level("INFO")
    del label_studio.files["1.jpg"]

    async def absent(request):
        if request.match_info["file"] not in label_studio.files:
            return web.Response(status=404)
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = absent
    body = opened(1, 2)
    body["tasks"].insert(0, {"id": 9, "data": {"text": "no image"}})

    assert await (await gateway.post("/predict", json=body)).json() == {"results": [[], [], []]}

    await embedded(gateway, 1)
    assert "embed_ahead_skipped task=9 reason=invalid_request" in caplog.text
    assert "embed_ahead_skipped task=1 reason=image_unavailable" in caplog.text


async def test_a_config_that_cannot_be_read_does_not_matter_without_prompts(gateway, caplog):
    caplog.set_level("INFO")

    for label_config in ("<View", None, 5):
        response = await gateway.post("/predict", json={**opened(1), "label_config": label_config})
        assert await response.json() == {"results": [[]]}

    assert "embed_ahead_skipped reason=invalid_request" in caplog.text
