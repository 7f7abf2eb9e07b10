"""`sam-gateway warm`: embeds a whole project in a running gateway."""

import asyncio
import io
import os
import re
import secrets
import signal
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, click, jpeg, key_point
from sam_gateway import warm
from sam_gateway.config import Config
from sam_gateway.gateway_client import configured_url

SIZE = (320, 214)
PHOTO = jpeg("truck.jpg", SIZE)


@pytest.fixture
def label_studio(label_studio):
    """A Label Studio with a project of five tasks, each another image."""
    label_studio.projects = [
        {"id": 7, "title": "Trucks", "label_config": LABEL_CONFIG, "task_number": 5}
    ]
    for number in range(1, 6):
        label_studio.files[f"{number}.jpg"] = PHOTO + secrets.token_bytes(8)  # of no other test
        data = {"image": f"/data/upload/1/{number}.jpg"}
        label_studio.tasks[number] = {"id": number, "project": 7, "data": data}
    return label_studio


@pytest.fixture
def run(capsys, gateway):
    """Run the command against the gateway of the test; return its status, output and errors."""

    async def run(*arguments, url=None, **settings):
        flags = ["--project", "7", "--url", str(url or gateway.make_url("/")), *arguments]
        status = await asyncio.to_thread(warm.main, flags, settings)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


async def embeds(client):
    text = await (await client.get("/metrics")).text()
    return int(float(re.search(r"^sam_gateway_embeds_total (\S+)$", text, re.MULTILINE)[1]))


async def test_all_images_are_embedded_and_the_first_click_embeds_nothing(
    run, gateway, label_studio, monkeypatch
):
    monkeypatch.setattr("sam_gateway.label_studio_api._PAGE_SIZE", 2)

    status, out, err = await run()

    assert (status, out) == (
        0,
        "5 of 5 tasks: 5 images embedded, 0 were there already, 0 failed\n",
    )
    assert "Trucks: 5 tasks" in err
    assert "MiB (EMBEDDING_CACHE_MIB" in err
    assert err.splitlines()[-1].startswith("100% 5/5")
    embedded, asked = await embeds(gateway), len(label_studio.requests)
    answer = await gateway.post(
        "/predict", json=click("/data/upload/1/3.jpg", key_point(50, 50, size=SIZE))
    )
    assert answer.status == 200
    assert await embeds(gateway) == embedded
    assert len(label_studio.requests) == asked


async def test_what_is_embedded_is_passed_over(run, gateway, label_studio):
    await run()
    embedded, asked = await embeds(gateway), len(label_studio.requests)

    status, out, _ = await run()

    assert (status, out) == (
        0,
        "5 of 5 tasks: 0 images embedded, 5 were there already, 0 failed\n",
    )
    assert await embeds(gateway) == embedded
    uploads = [path for path, _ in label_studio.requests[asked:] if "upload" in path]
    assert uploads == []


async def test_every_image_of_a_task_is_embedded(run, label_studio):
    label_studio.projects[0]["label_config"] = (
        '<View><Image name="a" valueList="$pages"/><Image name="b" value="$image"/></View>'
    )
    pages = [f"/data/upload/1/{number}.jpg" for number in (1, 2, 3)]
    label_studio.tasks = {
        9: {"id": 9, "project": 7, "data": {"pages": pages, "image": "/data/upload/1/5.jpg"}}
    }

    _, out, _ = await run()

    assert "4 images embedded" in out


async def test_failures_are_told_at_the_end(run, label_studio):
    label_studio.tasks[2]["data"] = {"text": "no image"}
    label_studio.tasks[4]["data"]["image"] = "ftp://elsewhere/a.jpg"

    status, out, err = await run()

    assert status == 1
    assert "3 images embedded, 0 were there already, 2 failed" in out
    assert "  task 2: invalid_request: task.data.image: expected the address of an image" in out
    assert "  task 4: image_refused: task.data.image: ftp://elsewhere/a.jpg cannot" in out
    assert "2 failed" in err


async def test_a_cache_that_is_too_small_is_told(
    open_gateway, start_worker, label_studio, capsys, monkeypatch
):
    """It holds two: after the fourth image the second is gone, and the fifth is not begun."""
    monkeypatch.setattr("sam_gateway.warming._PROBE_EVERY", 2)
    monkeypatch.setattr("sam_gateway.warming._AT_ONCE", 1)
    worker = start_worker("--embedding-cache-mib", "1")
    client = await open_gateway(
        worker=worker.target, label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN
    )
    flags = ["--project", "7", "--url", str(client.make_url("/"))]

    status = await asyncio.to_thread(warm.main, flags, {})

    out = capsys.readouterr().out
    assert status == 1
    assert "The worker's cache is full" in out
    assert "EMBEDDING_CACHE_MIB" in out
    assert await embeds(client) == 4


async def test_images_that_the_gateway_has_forgotten_are_still_the_workers(
    run, gateway, monkeypatch
):
    """As after an hour, or when tasks are deleted meanwhile: that is no sign of a full cache."""
    monkeypatch.setattr("sam_gateway.segmenter._KNOWN_FOR_S", -1)
    monkeypatch.setattr("sam_gateway.warming._PROBE_EVERY", 2)

    status, out, _ = await run()

    assert (status, out) == (
        0,
        "5 of 5 tasks: 5 images embedded, 0 were there already, 0 failed\n",
    )
    assert await embeds(gateway) == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"projects": []}, "Label Studio answers 404 to GET /api/projects/7/"),
        ({"legacy_tokens": False}, "LABEL_STUDIO_API_KEY is refused (401)"),
    ],
)
async def test_a_project_that_cannot_be_read_is_told(run, label_studio, change, told):
    for name, value in change.items():
        setattr(label_studio, name, value)

    status, _, err = await run()

    assert status == 1
    assert told in err


async def test_tasks_that_cannot_be_listed_any_more_end_it(run, label_studio, monkeypatch):
    monkeypatch.setattr("sam_gateway.label_studio_api._PAGE_SIZE", 2)
    label_studio.last_page = 1

    status, _, err = await run()

    assert status == 1
    assert "Label Studio answers 404 to GET /api/tasks" in err
    assert re.search(r"[12] of 5 tasks", err)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(text="<html>Log in</html>"), "the answer to GET /api/tasks"),
        (lambda: web.json_response({}), "an answer without 'tasks'"),
    ],
)
async def test_a_list_of_tasks_that_is_none_is_told(
    run, open_gateway, worker_target, label_studio, answer, told
):
    async def project(request):
        del request
        return web.json_response(label_studio.projects[0])

    async def tasks(request):
        del request
        return answer()

    app = web.Application()
    app.router.add_get("/api/projects/7/", project)
    app.router.add_get("/api/tasks", tasks)
    async with TestServer(app) as proxy:
        client = await open_gateway(
            worker=worker_target,
            label_studio_url=URL(str(proxy.make_url("/"))),
            label_studio_token=LEGACY_TOKEN,
        )
        status, _, err = await run(url=client.make_url("/"))

    assert status == 1
    assert f"{told} is not what Label Studio gives" in err


async def test_a_failure_of_the_gateway_itself_ends_it(run, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("sam_gateway.warming.parse_task", broken)

    status, _, err = await asyncio.wait_for(run(), 60)

    assert status == 1
    assert "the gateway failed; its log has more. 0 of 5 tasks" in err
    assert "a mistake" in caplog.text


async def test_a_gateway_that_is_not_there_is_told(run, unused_tcp_port):
    status, _, err = await run(url=f"http://127.0.0.1:{unused_tcp_port}")

    assert status == 1
    assert "does not answer" in err
    assert "start `sam-gateway` and leave it running" in err


async def test_another_server_is_told(run, label_studio):
    status, _, err = await run(url=label_studio.url)

    assert (status, "is no sam-gateway (404)" in err) == (1, True)


async def test_the_password_of_the_gateway_is_given(run, open_gateway, worker_target, label_studio):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        basic_auth=("user", "secret"),
    )
    url = client.make_url("/")

    assert (await run(url=url))[0] == 1
    status, out, _ = await run(url=url, BASIC_AUTH_USER="user", BASIC_AUTH_PASS="secret")

    assert (status, "5 of 5 tasks" in out) == (0, True)


@pytest.mark.parametrize("body", [{}, {"project": "7"}, {"project": True}, []])
async def test_a_request_without_a_project_is_refused(gateway, body):
    response = await gateway.post("/warm", json=body)

    assert response.status == 400
    assert (await response.json())["error"]["field"] in ("project", "body")


@pytest.mark.parametrize("url", ["ftp://gateway", "http://gateway:port"])
def test_settings_that_cannot_be_are_told(capsys, url):
    assert warm.main(["--project", "7", "--url", url], {}) == 1
    assert "--url: expected an address" in capsys.readouterr().err


async def test_it_goes_on_where_it_was_interrupted(gateway, label_studio, run):
    """The command of a terminal, ended by Ctrl-C while the third image is fetched."""
    third, released = asyncio.Event(), asyncio.Event()

    async def held(request):
        if request.match_info["file"] == "3.jpg":
            third.set()
            await released.wait()
        return web.Response(body=label_studio.files[request.match_info["file"]])

    label_studio.answer = held
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sam_gateway", "warm", "--project", "7"),
        *("--url", str(gateway.make_url("/"))),
        env=os.environ,
        stderr=asyncio.subprocess.PIPE,
        # As in a terminal: what a script runs in the background starts with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    await asyncio.wait_for(third.wait(), 60)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"run it again to go on" in err
    assert b"Traceback" not in err
    released.set()

    status, out, _ = await run()

    assert status == 0
    assert "5 of 5 tasks" in out


def test_on_a_terminal_there_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    show = warm._Display(stream)
    show.show(warm._Tally(tasks=4, done=1, failures=["task 1: no image"]))
    show.show(warm._Tally(tasks=4, done=4))
    show.end()

    assert "███████·" in stream.getvalue()
    assert " 25% 1/4" in stream.getvalue()
    assert "1 failed" in stream.getvalue()
    assert stream.getvalue().endswith("100% 4/4 \n")


def test_the_gateway_is_looked_for_where_it_listens():
    assert str(configured_url(Config(port=9999, path_prefix="/sam"))) == "http://127.0.0.1:9999/sam"
