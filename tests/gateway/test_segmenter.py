"""The gateway and a worker that fails: a real gRPC server that answers as it is told."""

import asyncio
import base64

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from gateway_support import click, key_point, recorded
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_gateway.config import BatchOptions

IMAGE = "data:image/jpeg;base64," + base64.b64encode(b"some image").decode()
A_CLICK = click(IMAGE, key_point(50, 50, size=(4, 3)))


def failure(code, message, *details):
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, message, (("grpc-status-details-bin", status.SerializeToString()),)


def not_found(reason):
    return failure(
        grpc.StatusCode.NOT_FOUND, "not there", error_details_pb2.ErrorInfo(reason=reason)
    )


def invalid(field):
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="bad")
    return failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: bad",
        error_details_pb2.BadRequest(field_violations=[violation]),
    )


BUSY = failure(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "the queue is full",
    error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3)),
)


class Worker(pb_grpc.SegmentAnythingServiceServicer):
    """Embeds anything as 4x3 pixels; fails as often as there are failures."""

    def __init__(self):
        self.embed_failures = []
        self.decode_failures = []
        self.embeds = 0
        self.models = []
        self.priorities = []
        self.asked, self.released = asyncio.Event(), asyncio.Event()
        self.released.set()
        self.decodes = []
        self.hang = None

    async def Embed(self, request, context):  # noqa: N802 - as the contract has it
        self.embeds += 1
        self.models.append(request.model)
        self.priorities.append(request.priority)
        if request.priority == pb.PRIORITY_BACKGROUND:
            self.asked.set()
            await self.released.wait()
        if self.embed_failures:
            await context.abort(*self.embed_failures.pop(0))
        return pb.EmbedResponse(image_id="id", width=4, height=3, model=request.model or "m")

    async def Decode(self, request, context):  # noqa: N802 - as above
        self.decodes.append(request)
        if self.hang:
            self.hang.set()
            await asyncio.Event().wait()
        if self.decode_failures:
            await context.abort(*self.decode_failures.pop(0))
        for index, _ in enumerate(request.prompts):
            for rank in range(3 if request.multimask_output else 1):
                yield pb.DecodeResponse(
                    prompt_index=index,
                    mask_index=rank,
                    predicted_iou=0.9 - rank / 10,
                    mask=pb.Mask(
                        width=4, height=3, run_lengths=pb.RunLengths(counts=[rank, 5, 7 - rank])
                    ),
                    low_res_logits=self.logits(rank) if request.return_low_res_logits else None,
                )

    def logits(self, rank):
        """Tell which call they are from, and of which candidate."""
        values = np.array([[[len(self.decodes), rank]] * 2], np.float32)
        return pb.Tensor(shape=values.shape, type=pb.TENSOR_TYPE_FLOAT32, data=values.tobytes())

    def mask_inputs(self):
        """The logits that came with each call, as `logits` made them."""
        return [
            tuple(np.frombuffer(prompt.mask_input.data, np.float32)[:2].tolist())
            for request in self.decodes
            for prompt in request.prompts
        ]


@pytest.fixture
async def worker():
    servicer = Worker()
    server = grpc.aio.server()
    pb_grpc.add_SegmentAnythingServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(None)


@pytest.fixture
async def client(open_gateway, worker):
    return await open_gateway(worker=worker.target)


@pytest.mark.parametrize(
    ("embed_failures", "decode_failures", "status", "reason"),
    [
        ([invalid("image")], [], 422, "image_refused"),
        ([BUSY], [], 503, "worker_busy"),
        ([not_found("MODEL_NOT_FOUND")], [], 502, "worker_failed"),
        ([failure(grpc.StatusCode.INTERNAL, "oh")], [], 502, "worker_failed"),
        ([failure(grpc.StatusCode.DEADLINE_EXCEEDED, "late")], [], 504, "timeout"),
        ([], [invalid("prompts[0].points[0].x")], 400, "invalid_request"),
        ([], [BUSY], 503, "worker_busy"),
        ([], [not_found("EMBEDDING_NOT_FOUND")] * 2, 502, "worker_failed"),
    ],
)
async def test_a_failure_of_the_worker_has_a_status(
    client, worker, embed_failures, decode_failures, status, reason
):
    worker.embed_failures = [*embed_failures]
    worker.decode_failures = [*decode_failures]

    response = await client.post("/predict", json=A_CLICK)

    assert response.status == status
    error = (await response.json())["error"]
    assert error["reason"] == reason
    assert error.get("field") == {
        "image_refused": "tasks[0].data.image",
        "invalid_request": "params.context.result",
    }.get(reason)
    assert response.headers.get("Retry-After") == ("3" if reason == "worker_busy" else None)
    assert (await client.post("/predict", json=A_CLICK)).status == 200


async def test_a_lost_embedding_is_made_again(client, worker):
    await client.post("/predict", json=A_CLICK)
    worker.decode_failures = [not_found("EMBEDDING_NOT_FOUND")]

    response = await client.post("/predict", json=A_CLICK)

    assert response.status == 200
    assert worker.embeds == 2


async def test_a_worker_that_is_not_there_yet_is_waited_for(client, worker):
    unavailable = failure(grpc.StatusCode.UNAVAILABLE, "starting")
    worker.embed_failures = [unavailable] * 5

    response = await client.post("/predict", json=A_CLICK)

    assert response.status == 200
    assert worker.embeds == 6


async def test_a_worker_that_does_not_come_is_told(open_gateway, unused_tcp_port, monkeypatch):
    monkeypatch.setattr("sam_gateway.segmenter._PATIENCE_S", 0)
    client = await open_gateway(worker=f"127.0.0.1:{unused_tcp_port}")

    response = await client.post("/predict", json=A_CLICK)

    assert response.status == 503
    assert (await response.json())["error"]["reason"] == "worker_unavailable"


async def test_an_answer_that_takes_too_long_is_given_up(open_gateway, worker):
    worker.hang = asyncio.Event()
    client = await open_gateway(worker=worker.target, predict_timeout_s=0.3)

    response = await client.post("/predict", json=A_CLICK)

    assert response.status == 504
    assert (await response.json())["error"]["reason"] == "timeout"
    assert worker.hang.is_set()


async def test_only_a_single_click_gets_candidates_and_the_best_is_taken(client, worker):
    negative = key_point(10, 10, size=(4, 3), id="negative", is_positive=False)
    box = key_point(
        0,
        0,
        size=(4, 3),
        id="box",
        type="rectanglelabels",
        value={"x": 0, "y": 0, "width": 50, "height": 100, "rectanglelabels": ["Cat"]},
    )

    response = await client.post("/predict", json=A_CLICK)
    await client.post("/predict", json=click(IMAGE, key_point(50, 50, size=(4, 3)), negative))
    await client.post("/predict", json=click(IMAGE, box))

    assert [request.multimask_output for request in worker.decodes] == [True, False, False]
    (region,) = (await response.json())["results"][0]["result"]
    assert region["score"] == pytest.approx(0.9)
    point = worker.decodes[0].prompts[0].points[0]
    assert (point.x, point.y) == (2, 1.5)
    assert worker.decodes[2].prompts[0].box == pb.Box(x_min=0, y_min=0, x_max=2, y_max=3)


async def test_two_rectangles_are_two_prompts_and_two_regions(client, worker):
    body = recorded("ui_two_rectangles")["body"]
    body["tasks"][0]["data"]["image"] = IMAGE

    regions = (await (await client.post("/predict", json=body)).json())["results"][0]["result"]

    (request,) = worker.decodes
    assert [prompt.HasField("box") for prompt in request.prompts] == [True, True]
    assert len({region["id"] for region in regions}) == 2


async def test_a_click_beside_rectangles_is_answered_in_the_order_of_the_objects(client, worker):
    boxes = [
        key_point(
            0,
            0,
            size=(4, 3),
            id=name,
            type="rectanglelabels",
            value={"x": 0, "y": 0, "width": 50, "height": 100, "rectanglelabels": ["Cat"]},
        )
        for name in ("one", "two")
    ]

    response = await client.post(
        "/predict", json=click(IMAGE, boxes[0], key_point(50, 50, size=(4, 3)), boxes[1])
    )

    assert len((await response.json())["results"][0]["result"]) == 3
    assert sorted(len(request.prompts) for request in worker.decodes) == [1, 2]


async def test_the_model_of_the_settings_is_asked_for(open_gateway, worker):
    client = await open_gateway(worker=worker.target, model="mobile_sam")

    response = await client.post("/predict", json=A_CLICK)

    (entry,) = (await response.json())["results"]
    assert entry["model_version"].endswith("mobile_sam")


async def test_known_images_are_bounded(client, worker, monkeypatch):
    monkeypatch.setattr("sam_gateway.segmenter._MAX_KNOWN_IMAGES", 1)
    other = {**A_CLICK, "tasks": [{"id": 2, "data": {"image": "data:,other"}}]}

    for body in (A_CLICK, other, A_CLICK, A_CLICK):
        assert (await client.post("/predict", json=body)).status == 200

    assert worker.embeds == 3


async def test_known_images_age(client, worker, monkeypatch):
    monkeypatch.setattr("sam_gateway.segmenter._KNOWN_FOR_S", -1)

    for _ in range(2):
        await client.post("/predict", json=A_CLICK)

    assert worker.embeds == 2


async def first_of(client, worker, body):
    """Click, and wait until the worker is busy with it."""
    worker.hang = asyncio.Event()
    clicking = asyncio.create_task(client.post("/predict", json=body))
    await asyncio.wait_for(worker.hang.wait(), 60)
    worker.hang = None
    return clicking


@pytest.mark.parametrize(
    "newer",
    [
        [key_point(50, 50, size=(4, 3)), key_point(60, 60, size=(4, 3), id="second")],
        [key_point(75, 50, size=(4, 3))],  # the dot was moved
    ],
)
async def test_the_newest_of_overlapping_clicks_on_an_object_wins(client, worker, newer):
    older = await first_of(client, worker, A_CLICK)

    newest = await client.post("/predict", json=click(IMAGE, *newer))

    assert (await newest.json())["results"][0]["result"]
    assert await (await older).json() == {"results": [[]]}
    assert worker.embeds == 1
    text = await (await client.get("/metrics")).text()
    assert "sam_gateway_superseded_total 1.0" in text


async def test_clicks_on_other_objects_do_not_supersede(client, worker):
    body = click(IMAGE, key_point(50, 50, size=(4, 3)), key_point(60, 60, size=(4, 3), id="second"))
    older = await first_of(client, worker, body)

    for prompt in (key_point(50, 50, size=(4, 3)), key_point(50, 50, size=(4, 3), id="another")):
        response = await client.post("/predict", json=click(IMAGE, prompt))
        assert (await response.json())["results"][0]["result"]

    assert not older.done()
    older.cancel()


async def test_an_embedding_that_an_older_click_waits_for_is_kept(client, worker):
    """All clicks come while the image is being embedded."""
    clicks = [
        click(IMAGE, *(key_point(50, 50, size=(4, 3), id=f"prompt{i}") for i in range(count)))
        for count in (1, 2, 3)
    ]

    responses = await asyncio.gather(*(client.post("/predict", json=body) for body in clicks))

    assert [response.status for response in responses] == [200] * 3
    assert (await responses[-1].json())["results"][0]["result"]
    assert worker.embeds == 1


def opened(body):
    """What opening the task of a click sends: no prompts."""
    return {**body, "params": {**body["params"], "context": None}}


async def test_what_nobody_waits_for_is_asked_for_in_the_background(client, worker):
    await client.post("/predict", json=opened(A_CLICK))
    await asyncio.wait_for(worker.asked.wait(), 60)

    assert worker.priorities == [pb.PRIORITY_BACKGROUND]


async def test_a_click_does_not_wait_for_the_background(client, worker):
    """A click on an image that is being embedded ahead tells the worker that somebody waits."""
    worker.released.clear()
    await client.post("/predict", json=opened(A_CLICK))
    await asyncio.wait_for(worker.asked.wait(), 60)

    response = await client.post("/predict", json=A_CLICK)

    assert (await response.json())["results"][0]["result"]
    assert worker.priorities == [pb.PRIORITY_BACKGROUND, pb.PRIORITY_INTERACTIVE]
    worker.released.set()


@pytest.fixture
async def predict_box(open_gateway, worker):
    """Ask for the mask of a rectangle that is on a task already."""
    client = await open_gateway(worker=worker.target, batch=BatchOptions(mode="boxes"))
    drawn = key_point(
        0,
        0,
        size=(4, 3),
        type="rectanglelabels",
        value={"x": 0, "y": 0, "width": 50, "height": 100, "rectanglelabels": ["Cat"]},
    )
    body = opened(A_CLICK)
    body["tasks"] = [{**body["tasks"][0], "annotations": [{"id": 1, "result": [drawn]}]}]

    async def predict_box():
        return (await (await client.post("/predict", json=body)).json())["results"][0]

    return predict_box


async def test_an_image_that_the_worker_lost_is_embedded_anew_for_a_batch(predict_box, worker):
    """With the model of the settings: a worker that was started anew may have another default."""
    assert await predict_box()
    worker.decode_failures = [not_found("EMBEDDING_NOT_FOUND")]

    worker.models.clear()

    assert (await predict_box())["result"]

    assert set(worker.models) == {""}


async def test_a_worker_that_keeps_no_embedding_fails_a_batch(predict_box, worker, caplog):
    worker.decode_failures = [not_found("EMBEDDING_NOT_FOUND")] * 2

    assert await predict_box() == []

    assert "reason=worker_failed" in caplog.text
    assert "does not keep the embedding" in caplog.text


def dots(*places, image=IMAGE):
    """Clicks on one object, each with its own id; of a place with three values it is negative."""
    prompts = [
        key_point(*place[:2], size=(4, 3), id=f"prompt{i}", is_positive=len(place) == 2)
        for i, place in enumerate(places)
    ]
    return click(image, *prompts)


A, B, NOT_C = (50, 50), (60, 60), (80, 80, "negative")


@pytest.mark.parametrize(
    ("clicks", "mask_inputs"),
    [
        # Each further click goes on from the answer before.
        ([[A], [A, B], [A, B, NOT_C]], [(), (1, 0), (2, 0)]),
        # The same prompts again are the same question.
        ([[A], [A, B], [A, B]], [(), (1, 0), (1, 0)]),
        # A click that was moved or taken back began another question.
        ([[A], [B], [B, NOT_C]], [(), (), (2, 0)]),
        ([[A, B], [A], [A, NOT_C]], [(), (), (2, 0)]),
    ],
)
async def test_a_further_click_goes_on_from_the_answer_before(client, worker, clicks, mask_inputs):
    for places in clicks:
        response = await client.post("/predict", json=dots(*places))
        assert (await response.json())["results"][0]["result"]

    assert worker.mask_inputs() == mask_inputs


async def test_what_a_click_goes_on_from_is_that_of_its_image_and_object(client, worker):
    other_object = click(IMAGE, *(key_point(*at, size=(4, 3), id=f"x{at}") for at in (A, B)))

    for body in (dots(A), other_object):
        await client.post("/predict", json=body)

    assert worker.mask_inputs() == [(), ()]


async def test_answers_to_go_on_from_are_bounded(client, worker, monkeypatch):
    monkeypatch.setattr("sam_gateway.refinement.MAX_ANSWERS", 1)
    other = click(IMAGE, key_point(10, 10, size=(4, 3), id="other"))

    for body in (dots(A), other, dots(A, B)):
        await client.post("/predict", json=body)

    assert worker.mask_inputs() == [(), (), ()]
