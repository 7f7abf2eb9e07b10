"""The routes and what is around every request."""

import asyncio
import base64
import gzip
import logging
import re

import aiohttp
import orjson
import pytest
from aiohttp import web

from gateway_support import LEGACY_TOKEN, click, jpeg, key_point, recorded, region_mask

UPLOAD = "/data/upload/1/18d1a805-a.jpg"
SIZE = (1024, 683)


def a_click(**changes):
    return click(UPLOAD, key_point(30, 50, size=SIZE, **changes))


async def metric(client, name, **labels):
    text = await (await client.get("/metrics")).text()
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    pattern = rf"^{name}{re.escape('{' + wanted + '}') if labels else ''} (\S+)$"
    match = re.search(pattern, text, re.MULTILINE)
    return float(match[1]) if match else 0.0


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_health_needs_no_worker(open_gateway, unused_tcp_port, path):
    client = await open_gateway(worker=f"127.0.0.1:{unused_tcp_port}")

    response = await client.get(path)

    assert response.status == 200
    assert await response.json() == {"status": "UP", "model_class": "SegmentAnything"}


async def test_health_is_answered_while_images_and_masks_are_waited_for(gateway, label_studio):
    asked, released = asyncio.Event(), asyncio.Event()

    async def slow(request):
        del request
        asked.set()
        await released.wait()
        return web.Response(body=label_studio.files["18d1a805-a.jpg"])

    label_studio.answer = slow
    predicting = asyncio.create_task(gateway.post("/predict", json=a_click()))
    await asked.wait()

    assert (await gateway.get("/health")).status == 200
    assert (await gateway.post("/setup", json=recorded("setup")["body"])).status == 200
    assert not predicting.done()
    released.set()
    assert (await predicting).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/train", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/data/upload/../../etc/passwd", 404, "not_found"),
    ],
)
async def test_unknown_routes_are_told_in_json(gateway, method, path, status, reason):
    response = await gateway.request(method, path)

    assert response.status == status
    error = (await response.json())["error"]
    assert error["reason"] == reason
    assert error["request_id"] == response.headers["X-Request-Id"]
    assert ("Allow" in response.headers) is (status == 405)


async def test_a_request_keeps_the_id_it_comes_with(gateway, caplog):
    caplog.set_level(logging.INFO)

    response = await gateway.get("/versions", headers={"X-Request-Id": "abc-123"})
    forged = await gateway.get("/versions", headers={"X-Request-Id": "a b=c"})

    assert response.headers["X-Request-Id"] == "abc-123"
    assert forged.headers["X-Request-Id"] != "a b=c"
    assert "request id=abc-123 method=GET route=versions status=200 ms=" in caplog.text


async def test_a_failure_is_one_log_line_with_its_reason(gateway, caplog):
    caplog.set_level(logging.INFO, "sam_gateway")

    await gateway.post("/predict", data=b"{")

    (line,) = [record.getMessage() for record in caplog.records]
    assert "route=predict status=400" in line
    assert "reason=invalid_request field=body message=" in line
    assert await metric(gateway, "sam_gateway_failures_total", reason="invalid_request") == 1
    assert await metric(gateway, "sam_gateway_requests_total", route="predict", status="400") == 1


async def test_an_unexpected_failure_is_told_without_details(gateway, caplog, monkeypatch):
    async def broken(*_, **__):
        raise RuntimeError("a secret")

    monkeypatch.setattr("sam_gateway.interactive.predict", broken)

    response = await gateway.post("/predict", json=a_click())

    assert response.status == 500
    assert "secret" not in await response.text()
    assert "a secret" in caplog.text
    assert response.headers["X-Request-Id"] in caplog.text


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, deflate", "identity"])
async def test_a_long_answer_is_packed_if_the_caller_can_unpack_it(gateway, encoding):
    body = click(UPLOAD, key_point(30, 50, size=(4096, 2732)))
    plain = await (await gateway.post("/predict", json=body)).read()

    response = await gateway.post("/predict", json=body, headers={"Accept-Encoding": encoding})

    assert await response.read() == plain
    assert len(plain) > 4096
    assert ("Content-Encoding" in response.headers) is (encoding != "identity")


async def test_a_short_answer_is_not_packed(gateway):
    response = await gateway.get("/health", headers={"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in response.headers


async def test_a_packed_request_is_read(gateway):
    body = gzip.compress(orjson.dumps(a_click()))

    response = await gateway.post(
        "/predict",
        data=body,
        headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
    )

    assert response.status == 200


async def test_a_body_beyond_the_limit_is_refused(open_gateway, worker_target):
    client = await open_gateway(worker=worker_target, max_body_bytes=1000)

    response = await client.post("/predict", data=b" " * 1001)

    assert response.status == 413
    assert (await response.json())["error"]["reason"] == "request_entity_too_large"


async def test_the_routes_are_below_the_path_prefix_too(open_gateway, worker_target, label_studio):
    client = await open_gateway(
        worker=worker_target,
        path_prefix="/prefix/sam",
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
    )

    for prefix in ("", "/prefix/sam"):
        assert (await client.get(f"{prefix}/")).status == 200
        assert (await client.get(f"{prefix}/health")).status == 200
        assert (await client.post(f"{prefix}/setup", json={})).status == 200
        assert (await client.post(f"{prefix}/predict", json=a_click())).status == 200
    assert await metric(client, "sam_gateway_requests_total", route="predict", status="200") == 2


BASIC = {"Authorization": "Basic " + base64.b64encode(b"user:password").decode()}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", {}, 200),
        ("GET", "/health", BASIC, 200),
        ("GET", "/health", {"Authorization": "Basic eDp5"}, 401),
        ("GET", "/", {}, 401),
        ("GET", "/metrics", {}, 401),
        ("GET", "/metrics", BASIC, 200),
        ("GET", "/versions", {}, 401),
        ("POST", "/setup", {}, 401),
        ("POST", "/setup", {"Authorization": "Bearer abc"}, 401),
        ("POST", "/setup", {"Authorization": "Basic ???"}, 401),
        ("POST", "/setup", {"Authorization": "Basic ä"}, 401),
        ("POST", "/setup", BASIC, 200),
        ("POST", "/predict", {}, 401),
        ("POST", "/webhook", {}, 200),
        ("POST", "/webhook", {"Authorization": "Basic eDp5"}, 200),
        ("GET", "/nothing", {}, 401),
    ],
)
async def test_basic_authentication(open_gateway, worker_target, method, path, headers, status):
    client = await open_gateway(worker=worker_target, basic_auth=("user", "password"))

    response = await client.request(
        method, path, headers=headers, data=b"{}" if method == "POST" else None
    )

    assert response.status == status
    assert ("WWW-Authenticate" in response.headers) is (status == 401)
    assert "password" not in (await response.text()).replace("user or password", "")


@pytest.mark.parametrize("body", [[], "x", 1, None])
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
async def test_a_body_is_an_object(gateway, path, body):
    response = await gateway.post(path, json=body)

    assert response.status == 400
    assert (await response.json())["error"]["field"] == "body"


async def test_setup_takes_what_it_understands(gateway, caplog):
    body = {"hostname": 5, "access_token": None, "schema": "<View", "project": []}

    response = await gateway.post("/setup", json=body)

    assert response.status == 200
    assert "label_config_unusable reason=invalid_request" in caplog.text


async def test_a_token_of_setup_that_cannot_be_sent_is_not_kept(
    open_gateway, worker_target, label_studio
):
    client = await open_gateway(worker=worker_target, label_studio_url=label_studio.url)

    await client.post("/setup", json={"access_token": "a\r\nX-Evil: 1"})
    response = await client.post("/predict", json=a_click())

    assert response.status == 502
    assert (await response.json())["error"]["reason"] == "label_studio_auth"
    assert label_studio.requests == [(UPLOAD, None)]


async def test_setup_warns_of_a_config_without_a_place_for_masks(gateway, caplog):
    schema = '<View><Image name="i" value="$i"/></View>'

    assert (await gateway.post("/setup", json={"schema": schema})).status == 200
    assert "label_config_unusable reason=no_output_tag" in caplog.text


async def test_setup_is_enough_to_know_label_studio(open_gateway, worker_target, label_studio):
    client = await open_gateway(worker=worker_target)
    assert (await client.post("/predict", json=a_click())).status == 422

    setup = {**recorded("setup")["body"], "hostname": str(label_studio.url)}
    await client.post("/setup", json={**setup, "access_token": LEGACY_TOKEN})

    assert (await client.post("/predict", json=a_click())).status == 200


async def test_webhooks_accept_unknown_actions(gateway):
    for action in ("REVIEW_CREATED", None, 5, ["x"]):
        assert (await gateway.post("/webhook", json={"action": action})).status == 200


async def test_a_deleted_task_makes_images_be_fetched_again(gateway, label_studio):
    await gateway.post("/predict", json=a_click())
    await gateway.post("/predict", json=a_click())
    assert len(label_studio.requests) == 1

    await gateway.post("/webhook", json=recorded("webhook_project_updated")["body"])
    await gateway.post("/webhook", json=recorded("webhook_tasks_deleted")["body"])
    await gateway.post("/predict", json=a_click())

    assert len(label_studio.requests) == 2


async def test_two_clicks_at_once_fetch_and_embed_once(gateway, label_studio):
    responses = await asyncio.gather(
        *(gateway.post("/predict", json=a_click(id=f"prompt{i}")) for i in range(4))
    )

    assert [response.status for response in responses] == [200] * 4
    assert len(label_studio.requests) == 1
    assert await metric(gateway, "sam_gateway_embeds_total") == 1
    assert await metric(gateway, "sam_gateway_decodes_total") == 4


async def test_a_caller_that_goes_ends_the_work(gateway, label_studio):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def slow(request):
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return web.Response(text=str(request))

    label_studio.answer = slow
    predicting = asyncio.create_task(gateway.post("/predict", json=a_click()))
    await asked.wait()

    predicting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await predicting
    await asyncio.wait_for(gone.wait(), 30)


async def test_the_first_of_several_tasks_is_answered(gateway):
    body = a_click()
    body["tasks"].append({"id": 2, "data": {}})

    results = (await (await gateway.post("/predict", json=body)).json())["results"]

    assert results[0]["result"]
    assert results[1] == []


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [(404, "image_unavailable", "answers 404"), (403, "image_unavailable", "may not see")],
)
async def test_an_image_that_is_not_given_is_told(gateway, label_studio, status, reason, message):
    async def refuse(request):
        del request
        return web.Response(status=status)

    label_studio.answer = refuse

    response = await gateway.post("/predict", json=a_click())

    assert response.status == 502
    error = (await response.json())["error"]
    assert error["reason"] == reason
    assert error["field"] == "tasks[0].data.image"
    assert message in error["message"]


async def test_a_missing_token_is_told(open_gateway, worker_target, label_studio):
    client = await open_gateway(worker=worker_target, label_studio_url=label_studio.url)

    response = await client.post("/predict", json=a_click())

    assert response.status == 502
    assert (await response.json())["error"]["reason"] == "label_studio_auth"


async def test_a_mask_has_the_size_of_the_request_whatever_the_image_has(gateway, label_studio):
    label_studio.files["18d1a805-a.jpg"] = jpeg("dog.jpg", (512, 341))

    response = await gateway.post("/predict", json=a_click())

    (region,) = (await response.json())["results"][0]["result"]
    assert (region["original_width"], region["original_height"]) == SIZE
    assert region_mask(region).shape == SIZE[::-1]


async def test_connections_need_not_be_kept(gateway):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for _ in range(3):
            async with session.get(gateway.make_url("/health")) as response:
                assert response.status == 200
