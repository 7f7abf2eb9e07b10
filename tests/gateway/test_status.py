"""`/status`: every failure that Label Studio hides, with what to do about it."""

import asyncio
import base64
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, click, jwt, key_point, recorded
from sam_gateway.history import MAX_PREDICTIONS
from sam_gateway.keys import WORKER_PROCESS

UPLOAD = "/data/upload/1/18d1a805-a.jpg"
SIZE = (1024, 683)
AGENT = {"User-Agent": "heartex/1.23.2"}
JSON = {"Accept": "application/json"}


def a_click(image=UPLOAD, **changes):
    return click(image, key_point(30, 50, size=SIZE, **changes))


async def report(client, **options):
    response = await client.get("/status.json", **options)
    assert response.status == 200
    return await response.json()


async def finding(client, subject):
    """The only finding about a subject: its level, its message and its remedy."""
    (found,) = [f for f in (await report(client))["findings"] if f["subject"] == subject]
    return found["level"], found["message"], found["remedy"]


async def levels(client):
    return {f["subject"]: f["level"] for f in (await report(client))["findings"]}


async def test_a_gateway_that_was_never_called_tells_the_private_address_switches(gateway):
    level, message, remedy = await finding(gateway, "calls")

    assert (level, message) == ("warn", "Label Studio has not called since the start")
    assert remedy.index("ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false") < 100
    assert await levels(gateway) == {
        "calls": "warn",
        "Label Studio": "ok",
        "token": "ok",
        "worker": "ok",
    }


async def test_calls_of_label_studio_are_told_from_others(gateway):
    await gateway.post("/setup", json=recorded("setup")["body"])
    assert "has not called" in (await finding(gateway, "calls"))[1]

    await gateway.post("/setup", json=recorded("setup")["body"], headers=AGENT)
    level, message, remedy = await finding(gateway, "calls")
    assert (level, message) == ("warn", "Label Studio is connected; no click came yet")
    assert "Interactive preannotations" in remedy

    await gateway.post("/predict", json=a_click(), headers=AGENT)
    assert (await finding(gateway, "calls"))[0] == "ok"


async def test_label_studio_without_the_password_is_told(open_gateway, worker_target):
    client = await open_gateway(worker=worker_target, basic_auth=("user", "password"))
    basic = {"Authorization": "Basic " + base64.b64encode(b"user:password").decode()}
    assert (await client.get("/status")).status == 401
    assert (await client.get("/status.json")).status == 401
    page = await (await client.get("/status", headers=basic)).text()
    assert "without the user and password" not in page  # a browser is not Label Studio

    await client.post("/setup", json={}, headers=AGENT)

    assert (
        "without the user and password" in await (await client.get("/status", headers=basic)).text()
    )
    await client.post("/setup", json={}, headers={**AGENT, **basic})
    assert "no click came yet" in await (await client.get("/status", headers=basic)).text()


async def test_the_page_is_html_or_json_as_asked(gateway):
    browser = await gateway.get("/status", headers={"Accept": "text/html,application/json;q=0.9"})
    program = await gateway.get("/status", headers=JSON)

    assert browser.content_type == "text/html"
    assert program.content_type == "application/json"
    assert (await program.json())["version"].startswith("samserve-")
    text = await browser.text()
    assert text.startswith("<!DOCTYPE html>")
    assert "<script" not in text
    assert "<link" not in text
    assert "default-src 'none'" in browser.headers["Content-Security-Policy"]
    assert "1 thing to look at" in text


async def test_the_page_is_below_the_path_prefix_too(open_gateway, worker_target):
    client = await open_gateway(worker=worker_target, path_prefix="/sam")

    assert (await client.get("/sam/status")).status == 200
    assert (await client.get("/sam/status.json")).status == 200


async def test_everything_shown_is_escaped(gateway):
    hostile = "<script>alert('\x00')</script>"
    config = LABEL_CONFIG.replace('"Cat"', '"&lt;script&gt;alert(1)&lt;/script&gt;"')
    body = a_click(type=hostile)
    body["tasks"][0]["id"] = "<img src=x onerror=alert(1)>"
    encoded = {**body, "label_config": config}

    assert (await gateway.post("/predict", json=encoded, headers=AGENT)).status == 400
    assert (await gateway.post("/setup", json={"schema": config}, headers=AGENT)).status == 200
    text = await (await gateway.get("/status")).text()

    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;img src=x" in text


async def test_nothing_secret_is_shown(gateway, label_studio):
    secrets = ["geheim1", "geheim2", LEGACY_TOKEN]
    await gateway.post("/predict", json=a_click("http://user:geheim1@localhost/a?key=geheim2#x"))
    await gateway.post("/predict", json=a_click(f"{label_studio.url}/data/upload/1/x?key=geheim2"))

    shown = await (await gateway.get("/status")).text()
    shown += await (await gateway.get("/status.json")).text()

    assert "image_refused" in shown
    assert "image_unavailable" in shown
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize(
    ("token", "level", "told", "remedy"),
    [
        (LEGACY_TOKEN, "ok", "(legacy token) is accepted", ""),
        ("0" * 40, "fail", "(legacy token) is refused (401): Invalid token.", "legacy tokens"),
        ("pasted-half", "fail", "(token of unknown form) is refused", "personal access token"),
        (jwt(token_type="access", exp=8e9), "fail", "(access token) is refused", "personal access"),
        (
            jwt(token_type="refresh", exp=1_600_000_000),
            "fail",
            "(personal access token) expired on 2020-09-13",
            "create a personal access token",
        ),
        (
            jwt(token_type="refresh", exp=8_000_000_000, jti="another"),
            "fail",
            "refuses LABEL_STUDIO_API_KEY (401)",
            "create a personal access token",
        ),
        ("", "warn", "none is set", "`LABEL_STUDIO_API_KEY`"),
    ],
)
async def test_tokens_are_tried(
    open_gateway, worker_target, label_studio, token, level, told, remedy
):
    client = await open_gateway(
        worker=worker_target, label_studio_url=label_studio.url, label_studio_token=token
    )

    found = await finding(client, "token")

    assert found[0] == level
    assert told in found[1]
    assert remedy in found[2]
    assert not token or token not in await (await client.get("/status")).text()


async def test_a_personal_access_token_is_tried(open_gateway, worker_target, label_studio):
    client = await open_gateway(
        worker=worker_target, label_studio_url=label_studio.url, label_studio_token=label_studio.pat
    )
    assert (await finding(client, "token"))[0] == "ok"

    label_studio.access_tokens.clear()  # as if the clocks disagreed: one more exchange

    level, message, _ = await finding(client, "token")
    assert (level, message) == ("ok", "LABEL_STUDIO_API_KEY (personal access token) is accepted")


async def test_the_token_of_setup_matters_only_without_a_better_one(
    open_gateway, worker_target, label_studio
):
    setup = {**recorded("setup")["body"], "hostname": str(label_studio.url)}
    client = await open_gateway(worker=worker_target)
    assert "is not known" in (await finding(client, "Label Studio"))[1]
    await client.post("/setup", json={**setup, "access_token": "f" * 40})
    assert "the token of /setup (legacy token) is refused" in (await finding(client, "token"))[1]
    assert "(from /setup)" in (await finding(client, "Label Studio"))[1]

    client = await open_gateway(
        worker=worker_target, label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN
    )
    await client.post("/setup", json={**setup, "access_token": "f" * 40})
    assert (await finding(client, "token"))[0] == "ok"


async def test_label_studio_that_is_not_there_is_told(open_gateway, worker_target, unused_tcp_port):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=URL(f"http://127.0.0.1:{unused_tcp_port}"),
        label_studio_token=LEGACY_TOKEN,
    )

    level, message, remedy = await finding(client, "Label Studio")

    assert level == "fail"
    assert "cannot be reached: no connection" in message
    assert "host.docker.internal" in remedy
    assert (await finding(client, "token"))[0] == "warn"


async def test_another_server_is_not_taken_for_label_studio(open_gateway, worker_target):
    async with TestServer(web.Application()) as other:
        client = await open_gateway(
            worker=worker_target,
            label_studio_url=URL(str(other.make_url(""))),
            label_studio_token=LEGACY_TOKEN,
        )

        assert "is not Label Studio (404)" in (await finding(client, "Label Studio"))[1]
        assert "answers 404" in (await finding(client, "token"))[1]


async def test_what_hangs_does_not_hold_up_the_page(open_gateway, monkeypatch):
    monkeypatch.setattr("sam_gateway.checks._TIMEOUT_S", 0.05)
    connections = []

    async def hear(reader, writer):
        connections.append(writer)
        await reader.read()

    silent = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with silent:
        host, port = silent.sockets[0].getsockname()
        client = await open_gateway(
            worker=f"{host}:{port}",
            label_studio_url=URL(f"http://{host}:{port}"),
            label_studio_token=LEGACY_TOKEN,
        )

        found = {f["subject"]: f for f in (await report(client))["findings"]}

        for subject in ("Label Studio", "token", "worker"):
            assert "no answer within 0.05 s" in found[subject]["message"]
        await client.close()
        for writer in connections:
            writer.close()
            await writer.wait_closed()


async def test_a_worker_that_is_gone_is_told(open_gateway, unused_tcp_port):
    client = await open_gateway(worker=f"127.0.0.1:{unused_tcp_port}")

    level, message, remedy = await finding(client, "worker")

    assert level == "fail"
    assert "it does not answer" in message
    assert "SAM_WORKER" in remedy
    assert (await report(client))["worker"] is None
    assert "It does not answer." in await (await client.get("/status")).text()


async def test_an_own_worker_that_cannot_start_is_told(open_gateway):
    client = await open_gateway(model="no_such_model")
    while client.app[WORKER_PROCESS].last_code is None:
        await finding(client, "worker")

    level, message, remedy = await finding(client, "worker")

    assert level == "fail"
    assert message.startswith("it does not answer: ")
    assert message.endswith("; the one before it ended with status 1")
    assert "the gateway's log" in remedy


async def test_a_model_that_the_worker_does_not_have_is_told(open_gateway, worker_target):
    client = await open_gateway(worker=worker_target, model="no_such_model")

    level, message, remedy = await finding(client, "worker")

    assert (level, message) == ("fail", "it has no model 'no_such_model', but quickstart")
    assert "SAM_MODEL" in remedy


async def test_models_and_limits_are_shown(gateway):
    worker = (await report(gateway))["worker"]
    text = await (await gateway.get("/status")).text()

    assert worker["default_model"] == "quickstart"
    assert worker["limits"]["max_prompts"] > 0
    assert "quickstart (default)" in text
    assert f"at most {worker['limits']['max_prompts']} objects at once" in text


CLEAN = LABEL_CONFIG.replace(' name="brush"', ' name="brush" smart="false"')


@pytest.mark.parametrize(
    ("config", "subject", "level", "message", "remedy"),
    [
        (CLEAN, "output", "ok", "masks of image with Cat go to brush (brushlabels)", ""),
        (CLEAN, "prompts", "ok", "kp (keypointlabels), rect (rectanglelabels)", ""),
        (
            LABEL_CONFIG,
            "smart brush",
            "warn",
            "brush (brushlabels) offers a smart brush, which sends nothing",
            '`smart="false"`',
        ),
        (
            '<View><Image name="image" value="$image"/>'
            '<KeyPointLabels name="kp" toName="image"><Label value="Cat"/></KeyPointLabels></View>',
            "output",
            "fail",
            "no tag holds a mask of image",
            "<BrushLabels",
        ),
        (
            CLEAN.replace('"Cat"/></K', '"Cat"/><Label value="Owl"/></K'),
            "output",
            "warn",
            "with Owl go to brush (brushlabels), which does not have these labels",
            "add the labels to brush",
        ),
        (
            CLEAN.replace('smart="true"', 'smart="false"'),
            "prompts",
            "fail",
            "no smart key point or rectangle tag for image",
            "<KeyPointLabels",
        ),
        (
            CLEAN.replace(' name="kp" ', " ").replace('smart="true"', 'smart="false"'),
            "prompts",
            "fail",
            "no smart key point or rectangle tag for image",
            "<KeyPointLabels",
        ),
        ("<View>", "labeling config", "fail", "not a labeling config", "correct it"),
        ("<View/>", "labeling config", "fail", "no <Image> with a task key", "<Image"),
    ],
)
async def test_the_labeling_config_is_looked_at(gateway, config, subject, level, message, remedy):
    await gateway.post("/setup", json={"schema": config}, headers=AGENT)

    found = [f for f in (await report(gateway))["findings"] if f["subject"] == subject]

    assert [f["level"] for f in found if message in f["message"] and remedy in f["remedy"]] == [
        level
    ]


async def test_predictions_are_shown_newest_first(gateway, caplog):
    caplog.set_level(logging.INFO)
    await gateway.post("/predict", json=a_click())
    await gateway.post("/predict", json=a_click("/data/upload/1/nix.jpg"))
    await gateway.post("/predict", json=a_click(to_name="other"))

    third, second, first = (await report(gateway))["predictions"]

    assert (first["task"], first["outcome"], first["reason"]) == ("1", "1 region", "")
    assert first["tags"] == ["brush (brushlabels)"]
    assert first["ms"] > 0
    assert (second["outcome"], second["reason"]) == ("failed", "image_unavailable")
    assert "nix.jpg answers 500" in second["message"]
    assert third["reason"] in ("no_output_tag", "invalid_request")
    # The log says the same.
    for failed in (second, third):
        assert f"reason={failed['reason']}" in caplog.text
        assert failed["message"].partition(": ")[2].replace('"', '\\"') in caplog.text
    level, message, remedy = await finding(gateway, "last request")
    assert level == "fail"
    assert third["message"] in message
    assert remedy


async def test_what_asks_for_nothing_is_told_from_what_finds_nothing(gateway):
    opened, lone = a_click(), a_click(is_positive=False)
    opened["params"]["context"] = None
    await gateway.post("/predict", json=opened)
    await gateway.post("/predict", json=lone)

    found, without = (await report(gateway))["predictions"]

    assert without["outcome"] == "no prompts"
    assert found["outcome"] == "0 regions"


async def test_only_the_last_predictions_are_kept(gateway):
    for _ in range(MAX_PREDICTIONS + 5):
        await gateway.post("/predict", data=b"{")

    assert len((await report(gateway))["predictions"]) == MAX_PREDICTIONS


async def test_images_of_each_kind_are_noted(gateway, label_studio):
    await gateway.post("/predict", json=a_click())
    await gateway.post("/predict", json=a_click("http://localhost/a.jpg"))
    await gateway.post("/predict", json=a_click("data:,no image"))
    first = await report(gateway)
    assert set(first["images"]) == {"upload", "absolute URL", "data URI"}
    assert first["images"]["upload"]["had_at"]
    assert first["images"]["absolute URL"]["reason"] == "image_refused"

    label_studio.legacy_tokens = False
    await gateway.post("/predict", json=a_click("/data/upload/1/6a1c4ca9-b.png"))

    upload = (await report(gateway))["images"]["upload"]
    assert upload["had_at"] < upload["failed_at"]
    assert upload["reason"] == "label_studio_auth"
    failed = [f for f in (await report(gateway))["findings"] if f["subject"] == "images"]
    assert any("upload" in f["message"] and f["level"] == "fail" for f in failed)


async def test_what_is_counted_is_shown(gateway):
    await gateway.post("/predict", json=a_click())
    await gateway.post("/predict", json=a_click())

    counters = (await report(gateway))["counters"]

    assert counters["embeds"] == 1
    assert counters["decodes"] == 2
    assert "embeds" in await (await gateway.get("/status")).text()
