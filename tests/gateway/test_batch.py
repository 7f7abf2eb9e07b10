"""Predictions of whole tasks: answered in time or stored later, each once."""

import asyncio
import base64
import dataclasses
import json

import pytest
from aiohttp import web
from yarl import URL

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, click, jpeg, recorded, region_mask
from sam_gateway import batch
from sam_gateway.config import BatchOptions, Config
from sam_gateway.images import ImageFetcher
from sam_gateway.keys import BATCH

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
        while True:
            (found,) = client.server.app[BATCH].progress()
            if expected.items() <= dataclasses.asdict(found).items():
                break
            await asyncio.sleep(0.01)

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


async def test_a_task_that_has_a_prediction_of_this_version_gets_no_second_one(
    gateway, label_studio, no_time
):
    label_studio.predictions[1] = [{"model_version": "another"}, {"model_version": VERSION}]
    label_studio.predictions[2] = [{"model_version": "another"}]

    await predict(gateway, task(1, rectangle()), task(2, rectangle()))

    await until(gateway, done=2, waiting=0)
    assert (await label_studio.posted.get())["task"] == 2
    assert label_studio.posted.empty()


async def test_tasks_asked_for_again_while_they_wait_are_predicted_once(
    gateway, label_studio, no_time
):
    released = asyncio.Event()

    async def held(request):
        await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held
    tasks = [task(number, rectangle()) for number in range(5)]

    for _ in range(3):
        assert not any(await predict(gateway, *tasks))
    assert (await progress(gateway))["waiting"] == 5
    released.set()

    await until(gateway, done=5, waiting=0)
    assert sorted(label_studio.predictions) == list(range(5))
    assert all(len(predictions) == 1 for predictions in label_studio.predictions.values())


async def test_what_was_asked_for_last_comes_first(gateway, label_studio, no_time):
    asked_for, released = [], asyncio.Event()

    async def held(request):
        asked_for.append(request.match_info["file"])
        await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held
    await predict(gateway, *(task(number, rectangle()) for number in range(5)))
    await predict(gateway, task(8, rectangle()), task(9, rectangle()))
    await predict(gateway, task(4, rectangle()))
    released.set()

    await until(gateway, done=7, waiting=0)
    stored = [label_studio.posted.get_nowait()["task"] for _ in range(7)]
    assert sorted(stored[:2]) == [0, 1]  # under way when the others came
    assert set(stored[2:4]) <= {4, 8, 9}


async def test_one_task_with_changed_rectangles_is_predicted_anew(gateway, label_studio, no_time):
    released = asyncio.Event()

    async def held(request):
        await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held
    await predict(gateway, task(1, rectangle()))
    await predict(gateway, task(1, rectangle(id="another")))
    released.set()

    await until(gateway, done=1, waiting=0)
    (stored,) = label_studio.predictions[1]
    answered = await click_answer(gateway, rectangle(id="another"))
    assert [region["id"] for region in stored["result"]] == [region["id"] for region in answered]


async def click_answer(client, prompt, number=1):
    response = await client.post("/predict", json=click(f"/data/upload/1/{number}.jpg", prompt))
    return (await response.json())["results"][0]["result"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_label_studio_that_fails_for_a_while_is_tried_again(
    gateway, label_studio, no_time, no_pause, status
):
    answers = [web.Response(status=status) for _ in range(3)]
    label_studio.refuse = lambda: answers.pop() if answers else None

    await predict(gateway, task(1, rectangle()))

    assert (await asyncio.wait_for(label_studio.posted.get(), 60))["task"] == 1
    await until(gateway, done=1, failed=0, kept=0)


async def test_a_prediction_that_is_never_stored_is_answered_when_asked_for_again(
    gateway, label_studio, no_time, no_pause
):
    label_studio.refuse = lambda: web.Response(status=500)
    await predict(gateway, task(1, rectangle()))
    await until(gateway, kept=1, waiting=0, done=0)
    report = await (await gateway.get("/status.json")).json()
    (finding,) = [f for f in report["findings"] if f["subject"] == "batch"]
    assert finding["level"] == "fail"
    assert "Label Studio answers 500 to POST /api/predictions/" in finding["message"]
    assert "Retrieve Predictions" in finding["remedy"]

    (entry,) = await predict(gateway, task(1, rectangle()))

    assert region_mask(entry["result"][0]).any()
    assert (await progress(gateway))["done"] == 1
    assert (await progress(gateway))["kept"] == 0


async def test_without_a_token_that_can_store_all_is_answered_that_can_be(
    open_gateway, settings, label_studio, monkeypatch
):
    """The time that a proxy leaves is used up, and the rest is answered when asked for again."""
    label_studio.files = {"0.jpg": PHOTO}
    client = await open_gateway(**{**settings, "label_studio_token": ""})
    monkeypatch.setattr(batch, "ANSWER_WITHIN_S", 0)
    image = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
    body = task(1, rectangle(), data={"image": image})

    (entry,) = await predict(client, body)

    assert region_mask(entry["result"][0]).any()
    monkeypatch.setattr(batch, "ANSWER_ALONE_WITHIN_S", 0)
    assert await predict(client, {**body, "id": 2}) == [[]]
    await until(client, kept=1)
    page = await (await client.get("/status")).text()
    assert "Label Studio takes none" in page
    assert "LABEL_STUDIO_API_KEY" in page
    (entry,) = await predict(client, {**body, "id": 2})
    assert region_mask(entry["result"][0]).any()


async def test_a_task_that_fails_does_not_keep_the_others(gateway, label_studio, caplog):
    entries = await predict(
        gateway,
        task(1, rectangle()),
        task(2, rectangle(value={"x": 200, "y": 0, "width": 1, "height": 1})),
        task(3, rectangle(), data={"image": "ftp://elsewhere/a.jpg"}),
        task(4, rectangle(), data={"text": "no image"}),
        task(5, rectangle()),
    )

    assert [bool(entry) for entry in entries] == [True, False, False, False, True]
    found = await progress(gateway)
    assert (found["done"], found["failed"], found["waiting"]) == (2, 3, 0)
    reasons = {failure["task"]: failure["reason"] for failure in found["failures"]}
    assert reasons == {2: "invalid_request", 3: "image_refused", 4: "invalid_request"}
    assert "batch_task project=7 task=3 outcome=failed reason=image_refused" in caplog.text
    page = await (await gateway.get("/status")).text()
    assert "3 tasks have no prediction" in page
    assert "task 3: image_refused" in page
    assert not label_studio.predictions


async def test_a_rectangle_that_cannot_be_read_does_not_keep_the_others(gateway, caplog):
    imported = rectangle(id="imported", value={**rectangle()["value"], "x": 50})
    del imported["original_width"]
    flat = rectangle(id="flat", value={**rectangle()["value"], "height": 0})

    (entry,) = await predict(gateway, task(1, imported, flat, rectangle()))

    (region,) = entry["result"]
    assert region_mask(region).any()
    (line,) = [text for text in caplog.messages if text.startswith("batch_rectangles_left_out")]
    assert "project=7 task=1 rectangles=2 field=tasks[0].rectangles[0].original_width" in line


async def test_rectangles_that_can_none_be_read_are_a_failure(gateway):
    flat = rectangle(value={**rectangle()["value"], "height": 0})

    assert await predict(gateway, task(1, flat)) == [[]]

    (failure,) = (await progress(gateway))["failures"]
    assert (failure["reason"], "no area" in failure["message"]) == ("invalid_request", True)


async def test_a_task_that_failed_can_be_asked_for_again(gateway, label_studio):
    async def gone(request):
        del request
        return web.Response(status=404)

    label_studio.answer = gone
    assert await predict(gateway, task(1, rectangle())) == [[]]
    assert (await progress(gateway))["failed"] == 1
    label_studio.answer = None

    (entry,) = await predict(gateway, task(1, rectangle()))

    assert entry["result"]
    assert (await progress(gateway))["failed"] == 0


@pytest.fixture
def overloaded(label_studio, monkeypatch):
    """The numbers of the images that Label Studio has no time for; they are asked for at once."""
    monkeypatch.setitem(ImageFetcher.__init__.__kwdefaults__, "retry_delays_s", (0, 0))
    numbers = set()

    async def answer(request):
        name = request.match_info["file"]
        if int(name.removesuffix(".jpg")) in numbers:
            return web.Response(status=503)
        return web.Response(body=label_studio.files[name])

    label_studio.answer = answer
    return numbers


async def test_an_image_that_is_not_had_for_a_while_is_tried_again(
    overloaded, gateway, label_studio, monkeypatch
):
    monkeypatch.setattr(batch, "_FIRST_PAUSE_S", 0.001)
    overloaded.add(1)

    assert await predict(gateway, task(1, rectangle())) == [[]]
    assert (await progress(gateway))["failed"] == 0
    overloaded.clear()

    assert (await asyncio.wait_for(label_studio.posted.get(), 60))["task"] == 1
    await until(gateway, done=1, failed=0)


async def test_an_image_that_is_never_had_is_a_failure_in_the_end(overloaded, gateway, no_pause):
    overloaded.add(1)

    assert await predict(gateway, task(1, rectangle())) == [[]]

    await until(gateway, failed=1, waiting=0)
    (failure,) = (await progress(gateway))["failures"]
    assert failure["reason"] == "image_unavailable"


async def test_a_task_whose_image_is_not_had_keeps_nobody_waiting(
    open_gateway, settings, overloaded, monkeypatch
):
    """It rests for longer than the test lasts, and is tried again when it is asked for."""
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S", "ANSWER_WITHIN_S"):
        monkeypatch.setattr(batch, name, 3600)
    monkeypatch.setattr(batch, "_AT_ONCE", 1)
    client = await open_gateway(**settings)
    overloaded.add(1)

    entries = await predict(client, task(1, rectangle()), task(2, rectangle()))

    assert [bool(entry) for entry in entries] == [False, True]
    assert (await progress(client))["waiting"] == 1
    overloaded.clear()
    (entry,) = await predict(client, task(1, rectangle()))
    assert region_mask(entry["result"][0]).any()


async def test_a_failure_of_the_gateway_itself_is_one_of_the_task(gateway, caplog, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("sam_gateway.predictor.group_rectangles", broken)

    assert await predict(gateway, task(1, rectangle())) == [[]]

    (failure,) = (await progress(gateway))["failures"]
    assert failure["reason"] == "internal"
    assert "a mistake" not in failure["message"]
    assert "a mistake" in caplog.text


async def test_a_prediction_whose_caller_has_gone_is_stored(gateway, label_studio):
    came, released = asyncio.Event(), asyncio.Event()

    async def held(request):
        came.set()
        await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held
    asking = asyncio.create_task(predict(gateway, task(1, rectangle())))
    await asyncio.wait_for(came.wait(), 60)
    asking.cancel()
    await asyncio.wait([asking])
    released.set()

    assert (await asyncio.wait_for(label_studio.posted.get(), 60))["task"] == 1


async def test_what_waits_is_bounded(gateway, label_studio, no_time, monkeypatch):
    monkeypatch.setattr(batch, "MAX_TASKS", 2)
    released = asyncio.Event()

    async def held(request):
        await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held

    await predict(gateway, *(task(number, rectangle()) for number in range(4)))

    found = await progress(gateway)
    assert (found["waiting"], found["failed"]) == (2, 2)
    assert {failure["reason"] for failure in found["failures"]} == {"batch_full"}
    released.set()


@pytest.mark.parametrize("data", [{"image": "{}"}, {"pages": ["{}"]}, {"a": {"b": [["{}"]]}}])
async def test_images_that_tasks_hold_are_bounded(
    gateway, label_studio, no_time, monkeypatch, data
):
    monkeypatch.setattr(batch, "MAX_CHARACTERS", 100)
    data = json.loads(json.dumps(data).replace("{}", "data:," + "x" * 100))

    await predict(gateway, task(1, rectangle(), data=data))

    (failure,) = (await progress(gateway))["failures"]
    assert failure["reason"] == "batch_full"


async def test_no_more_is_predicted_than_there_is_room_for(
    open_gateway, settings, label_studio, no_time, no_pause, monkeypatch
):
    monkeypatch.setattr(batch, "MAX_PREDICTIONS_BYTES", 1)
    monkeypatch.setattr(batch, "_AT_ONCE", 1)
    client = await open_gateway(**settings)
    label_studio.refuse = lambda: web.Response(status=500)

    await predict(client, *(task(number, rectangle()) for number in (2, 3)))

    await until(client, kept=1, waiting=1)
    label_studio.refuse = lambda: None
    assert [bool(entry) for entry in await predict(client, task(2, rectangle()))] == [True]
    await until(client, done=2, waiting=0, kept=0)
    assert list(label_studio.predictions) == [3]


async def test_a_prediction_that_label_studio_refuses_is_not_kept(gateway, label_studio, no_time):
    label_studio.refuse = lambda: web.json_response({"detail": "no such task"}, status=400)

    await predict(gateway, task(1, rectangle()))

    await until(gateway, failed=1, kept=0, waiting=0)
    (failure,) = (await progress(gateway))["failures"]
    assert "no such task" in failure["message"]


async def test_rectangles_that_do_not_come_along_are_asked_for(gateway, label_studio):
    label_studio.annotations[1] = [{"id": 5, "result": [rectangle()]}]

    (entry,) = await predict(gateway, task(1))

    assert region_mask(entry["result"][0]).any()
    assert ("/api/tasks/1/annotations/", f"Token {LEGACY_TOKEN}") in label_studio.requests


@pytest.mark.parametrize(
    "extra_params",
    [{"BATCH": "boxes"}, {"batch": "Boxes"}, '{"BATCH": "boxes", "AUTOMATIC_MAX_MASKS": 5}'],
)
async def test_a_project_chooses_for_itself(open_gateway, settings, extra_params):
    client = await open_gateway(**{**settings, "batch": BatchOptions()})
    setup = {**recorded("setup")["body"], "project": "7.1795333489"}
    assert await predict(client, task(1, rectangle())) == [[]]

    await client.post("/setup", json={**setup, "extra_params": extra_params})

    assert (await predict(client, task(1, rectangle())))[0]["result"]
    assert await predict(client, task(2, rectangle(), project=8)) == [[]]
    await client.post("/setup", json={**setup, "extra_params": None})
    assert await predict(client, task(3, rectangle())) == [[]]


@pytest.mark.parametrize(
    ("extra_params", "told"),
    [
        ({"BATCH": "all"}, "BATCH: expected one of off, boxes, automatic, got 'all'"),
        ({"AUTOMATIC_MIN_IOU": 7}, "AUTOMATIC_MIN_IOU: expected a number from 0 to 1, got '7'"),
        ("BATCH=boxes", "expected JSON such as"),
        (["boxes"], "expected an object such as"),
        ({"BATCH": ["boxes"]}, "BATCH: expected one of off, boxes, automatic, got"),
        ({"BATCH": "boxes", "OUTPUT": "polygon"}, "OUTPUT is no setting of a project"),
        ({"BACTH": "boxes"}, "BACTH is no setting of a project; expected one of BATCH, AUTOMA"),
    ],
)
async def test_a_project_with_a_mistake_predicts_nothing_and_is_told(gateway, extra_params, told):
    setup = {**recorded("setup")["body"], "project": "7.1795333489", "extra_params": extra_params}

    assert (await gateway.post("/setup", json=setup)).status == 200

    assert await predict(gateway, task(1, rectangle())) == [[]]
    report = await (await gateway.get("/status.json")).json()
    (finding,) = [f for f in report["findings"] if f["subject"] == "batch"]
    assert finding["level"] == "fail"
    assert told in finding["message"]
    assert "extra params" in finding["remedy"]


async def test_clicks_are_answered_while_a_batch_waits(gateway, label_studio, no_time):
    await predict(gateway, *(task(number, rectangle()) for number in range(10)))

    assert await click_answer(gateway, rectangle(), number=9)

    await until(gateway, done=10)


async def test_masks_that_are_too_large_together_are_told(gateway, monkeypatch):
    monkeypatch.setattr("sam_gateway.predictor.MAX_PREDICTION_BYTES", 100)

    assert await predict(gateway, task(1, rectangle())) == [[]]

    (failure,) = (await progress(gateway))["failures"]
    assert failure["reason"] == "invalid_request"
    assert "polygons (OUTPUT) are smaller" in failure["message"]


async def test_label_studio_that_is_not_there_is_told_and_nothing_is_lost(
    open_gateway, settings, unused_tcp_port, no_time, no_pause
):
    nowhere = URL(f"http://127.0.0.1:{unused_tcp_port}")
    client = await open_gateway(**{**settings, "label_studio_url": nowhere})
    image = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
    body = task(1, rectangle(), data={"image": image})

    assert await predict(client, body) == [[]]

    await until(client, kept=1, waiting=0)
    assert "cannot be reached" in await (await client.get("/status")).text()
    (entry,) = await predict(client, body)
    assert region_mask(entry["result"][0]).any()
