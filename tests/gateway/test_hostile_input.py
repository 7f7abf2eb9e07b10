"""Requests that nobody sends by mistake: each is refused at once, by the name of its field."""

import base64
import math
from io import BytesIO

import orjson
import pytest

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, click, key_point

SIZE = (1024, 683)
UPLOAD = "/data/upload/1/18d1a805-a.jpg"

BILLION_LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    + "]><View>&l9;</View>"
)
EXTERNAL_ENTITY = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'


def a_click(image=UPLOAD, label_config=LABEL_CONFIG, prompts=None, **changes):
    prompts = [key_point(30, 50, size=SIZE)] if prompts is None else prompts
    return {**click(image, *prompts), "label_config": label_config, **changes}


def prompt(**value):
    return [key_point(0, 0, size=SIZE, value={"x": 1, "y": 1, "keypointlabels": ["Cat"], **value})]


ROWS = {
    "nothing": (b"", "body"),
    "half an object": (b'{"tasks": [', "body"),
    "not UTF-8": (b'{"tasks": "\xff\xfe"}', "body"),
    "a lone surrogate": (b'{"tasks": "\\ud800"}', "body"),
    "NaN": (orjson.dumps(a_click()).replace(b'"x":30', b'"x":NaN'), "body"),
    "infinity": (orjson.dumps(a_click()).replace(b'"x":30', b'"x":1e999'), None),
    "very deep": (b"[" * 1_000_000, "body"),
    "no tasks": ({"params": {"context": {"result": []}}}, "tasks"),
    "task without data": (a_click(tasks=[{"id": 1}]), "tasks[0].data"),
    "task without the image": (a_click(tasks=[{"id": 1, "data": {}}]), "tasks[0].data.image"),
    "task number as a list": (a_click(tasks=[{"id": [], "data": {}}]), "tasks[0].id"),
    "no labeling config": (a_click(label_config=None), "label_config"),
    "billion laughs": (a_click(label_config=BILLION_LAUGHS), "label_config"),
    "external entity": (a_click(label_config=EXTERNAL_ENTITY), "label_config"),
    "huge labeling config": (a_click(label_config="<View>" * 10**6), "label_config"),
    "no output tag": (
        a_click(label_config='<View><Image name="image" value="$image"/></View>'),
        "label_config",
    ),
    "no image tag": (
        a_click(label_config=LABEL_CONFIG.replace('name="image" value', 'name="other" value')),
        "label_config",
    ),
    "image tag without a key": (
        a_click(label_config=LABEL_CONFIG.replace("$image", "https://example.org/a.jpg")),
        "label_config",
    ),
    "10 000 prompts": (
        a_click(prompts=[key_point(1, 1, size=SIZE, id=f"p{i}") for i in range(10_000)]),
        "params.context.result",
    ),
    "10 000 times the same prompt": (
        a_click(prompts=[key_point(1, 1, size=SIZE)] * 10_000),
        "params.context.result",
    ),
    "x is an object": (a_click(prompts=prompt(x={})), "params.context.result[0].value.x"),
    "x is huge": (a_click(prompts=prompt(x=10**18)), "params.context.result[0].value.x"),
    "labels are a text": (
        a_click(prompts=prompt(keypointlabels="Cat")),
        "params.context.result[0].value.keypointlabels",
    ),
    "enormous original size": (
        a_click(prompts=[key_point(1, 1, size=(2**19, 2**19))]),
        "params.context.result[0].original_width",
    ),
    "thin rectangle": (
        a_click(
            prompts=[
                key_point(
                    0,
                    0,
                    size=SIZE,
                    type="rectanglelabels",
                    value={"x": 50, "y": 50, "width": 1e-9, "height": 5},
                )
            ]
        ),
        "params.context.result[0].value",
    ),
    "ftp": (a_click("ftp://bucket/key?secret=1"), "tasks[0].data.image"),
    "file": (a_click("file:///etc/passwd"), "tasks[0].data.image"),
    "metadata service": (a_click("http://169.254.169.254/latest/"), "tasks[0].data.image"),
    "loopback": (a_click("http://localhost:22/"), "tasks[0].data.image"),
    "no host": (a_click("http:///x"), "tasks[0].data.image"),
    "control characters": (a_click("http://example.org\r\nX: y/"), "tasks[0].data.image"),
    "data URI without data": (a_click("data:image/png;base64,"), "tasks[0].data.image"),
    "data URI that is text": (a_click("data:,hello"), "tasks[0].data.image"),
    "data URI that is no base64": (a_click("data:a/b;base64,####"), "tasks[0].data.image"),
}


@pytest.mark.parametrize("name", ROWS)
async def test_it_is_refused(gateway, caplog, name):
    body, field = ROWS[name]

    response = await gateway.post(
        "/predict", data=BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
    )

    assert 400 <= response.status < 500
    error = (await response.json())["error"]
    assert field is None or error["field"] == field
    assert len(error["message"]) < 500
    assert "Traceback" not in caplog.text
    assert "secret" not in caplog.text + error["message"]
    assert (await gateway.get("/health")).status == 200


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_numbers_that_json_does_not_have_are_refused(gateway, value):
    response = await gateway.post("/predict", json=a_click(prompts=prompt(x=value)))

    assert response.status == 400


async def test_a_huge_data_uri_is_refused(open_gateway, worker_target):
    client = await open_gateway(worker=worker_target, max_image_bytes=2**20)
    image = "data:image/png;base64," + base64.b64encode(bytes(30 * 2**20)).decode()

    response = await client.post("/predict", data=BytesIO(orjson.dumps(a_click(image))))

    assert response.status == 422
    error = (await response.json())["error"]
    assert error["field"] == "tasks[0].data.image"
    assert "MAX_IMAGE_BYTES" in error["message"]
    assert len(error["message"]) < 200


async def test_an_upload_that_is_too_large_is_refused(open_gateway, worker_target, label_studio):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        max_image_bytes=1000,
    )

    response = await client.post("/predict", json=a_click())

    assert response.status == 422
    assert (await response.json())["error"]["field"] == "tasks[0].data.image"


async def test_an_image_beyond_the_largest_message_is_told_by_its_field(gateway, label_studio):
    label_studio.files["18d1a805-a.jpg"] = bytes(64 * 2**20 - 4096)

    response = await gateway.post("/predict", json=a_click())

    assert response.status == 422
    assert (await response.json())["error"]["field"] == "tasks[0].data.image"


@pytest.mark.parametrize(
    ("max_message_mib", "message"),
    [("64", "raise MAX_MESSAGE_MIB of the worker"), ("66", "not an image")],
)
async def test_a_larger_image_is_the_workers_to_judge(
    open_gateway, start_worker, label_studio, max_message_mib, message
):
    label_studio.files["18d1a805-a.jpg"] = bytes(65 * 2**20)
    worker = start_worker("--max-message-mib", max_message_mib)
    client = await open_gateway(
        worker=worker.target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        max_image_bytes=65 * 2**20,
    )

    response = await client.post("/predict", json=a_click())
    worker.stop()

    assert response.status == 422
    error = (await response.json())["error"]
    assert error["field"] == "tasks[0].data.image"
    assert message in error["message"]


async def test_secrets_stay_out_of_logs_and_answers(gateway, caplog, label_studio):
    caplog.set_level("DEBUG", "sam_gateway")
    token = "c0ffee" * 6

    await gateway.post("/setup", json={"hostname": str(label_studio.url), "access_token": token})
    answers = [
        await (await gateway.post("/predict", json=a_click(image))).text()
        for image in (
            "http://me:hunter2@localhost:1/a.jpg?X-Amz-Signature=abcdef",
            "gs://bucket/a?X-Goog-Signature=abcdef",
            str(label_studio.server.make_url("/data/upload/1/none.jpg?sig=abcdef")),
        )
    ]

    for text in [caplog.text, *answers]:
        for secret in (token, LEGACY_TOKEN, "hunter2", "abcdef"):
            assert secret not in text
