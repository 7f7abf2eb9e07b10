"""`sam-gateway doctor`, as somebody runs it whose clicks do nothing."""

import asyncio
import dataclasses
import os
import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway_support import LABEL_CONFIG, LEGACY_TOKEN
from sam_gateway import doctor

CLEAN = LABEL_CONFIG.replace(' name="brush"', ' name="brush" smart="false"')


@dataclasses.dataclass(frozen=True)
class Outcome:
    status: int
    text: str

    @property
    def levels(self):
        """The levels told of each subject, in order."""
        found = {}
        for line in self.text.splitlines():
            level, _, rest = line.partition(" ")
            if level in ("ok", "warn", "fail"):
                found.setdefault(rest.strip().partition(":")[0], []).append(level)
        return found


@pytest.fixture
def examine(capsys, label_studio, worker_target):
    """Run the doctor beside the servers of the test, with settings from the environment."""

    async def run(*arguments, **settings):
        env = {
            "SAM_WORKER": worker_target,
            "LABEL_STUDIO_URL": str(label_studio.url),
            "LABEL_STUDIO_API_KEY": LEGACY_TOKEN,
            **settings,
        }
        status = await asyncio.to_thread(doctor.main, arguments, env)
        return Outcome(status, capsys.readouterr().out)

    return run


def test_the_command_ends_quietly_when_nobody_reads_on():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        ended = subprocess.run(
            [sys.executable, "-m", "sam_gateway", "doctor"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            env={**os.environ, "SAM_WORKER": "127.0.0.1:1", "LABEL_STUDIO_URL": "ftp://nowhere"},
            text=True,
        )

    assert (ended.returncode, ended.stderr) == (1, "")


async def test_the_command_examines_a_gateway_with_its_own_worker(label_studio):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sam_gateway", "doctor"),
        env={
            **os.environ,
            "LABEL_STUDIO_URL": str(label_studio.url),
            "LABEL_STUDIO_API_KEY": label_studio.pat,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, log = await process.communicate()

    outcome = Outcome(process.returncode, output.decode())
    assert outcome.status == 0, outcome.text + log.decode()
    assert outcome.levels == {
        "click": ["ok"],
        "Label Studio": ["ok"],
        "token": ["ok"],
        "worker": ["ok"],
    }
    assert "becomes a mask" in outcome.text
    assert outcome.text.endswith("everything works\n")
    assert label_studio.pat not in outcome.text


async def test_a_setting_that_cannot_be_is_a_finding(examine):
    outcome = await examine(PORT="many")

    assert outcome.status == 1
    assert "fail  settings: PORT: expected a port number" in outcome.text


@pytest.mark.parametrize("shape", ["brush", "polygon", "bitmask", "rectangle"])
async def test_the_click_is_answered_in_every_shape(examine, shape):
    assert (await examine(OUTPUT=shape)).levels["click"] == ["ok"]


async def test_a_wrong_token_is_a_failure(examine):
    outcome = await examine(LABEL_STUDIO_API_KEY="0" * 40)

    assert outcome.status == 1
    assert outcome.levels["token"] == ["fail"]
    assert outcome.levels["projects"] == ["warn"]
    assert "-> create a personal access token" in outcome.text
    assert "1 of 5 checks failed" in outcome.text


async def test_label_studio_that_is_not_there_is_a_failure(examine, unused_tcp_port):
    outcome = await examine(LABEL_STUDIO_URL=f"http://127.0.0.1:{unused_tcp_port}")

    assert outcome.status == 1
    assert outcome.levels["Label Studio"] == ["fail"]
    assert outcome.levels["projects"] == ["warn"]


async def test_a_worker_that_is_gone_is_a_failure(examine, unused_tcp_port, monkeypatch):
    monkeypatch.setattr("sam_gateway.segmenter._PATIENCE_S", 0)

    outcome = await examine(SAM_WORKER=f"127.0.0.1:{unused_tcp_port}")

    assert outcome.status == 1
    assert outcome.levels["click"] == ["fail"]
    assert outcome.levels["worker"] == ["fail"]
    assert "worker_unavailable: the worker cannot be reached" in outcome.text


async def test_without_label_studio_the_rest_is_examined(examine):
    outcome = await examine(LABEL_STUDIO_URL="", LABEL_STUDIO_API_KEY="")

    assert outcome.status == 0
    assert outcome.levels == {"click": ["ok"], "Label Studio": ["warn"], "worker": ["ok"]}


async def test_a_running_gateway_is_asked(examine, gateway):
    outcome = await examine("--url", str(gateway.make_url("")))

    assert outcome.status == 0
    assert outcome.levels == {
        "calls": ["warn"],
        "Label Studio": ["ok"],
        "token": ["ok"],
        "worker": ["ok"],
        "click": ["ok"],
    }
    assert "ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false" in outcome.text
    report = await (await gateway.get("/status.json")).json()
    assert {prediction["task"] for prediction in report["predictions"]} == {"doctor"}


async def test_a_running_gateway_wants_its_password(examine, open_gateway, worker_target):
    client = await open_gateway(
        worker=worker_target, basic_auth=("user", "password"), path_prefix="/sam"
    )
    url = str(client.make_url("/sam"))

    refused = await examine("--url", url)
    accepted = await examine("--url", url, BASIC_AUTH_USER="user", BASIC_AUTH_PASS="password")

    assert refused.levels["gateway"] == ["fail"]
    assert "BASIC_AUTH_USER" in refused.text
    assert refused.status == 1
    assert accepted.levels["click"] == ["ok"]
    assert accepted.status == 0


async def test_no_gateway_is_a_failure(examine, unused_tcp_port):
    outcome = await examine("--url", f"127.0.0.1:{unused_tcp_port}")

    assert outcome.status == 1
    assert "no gateway at" in outcome.text


async def test_another_server_is_no_gateway(examine, label_studio):
    async with TestServer(web.Application()) as other:
        outcome = await examine("--url", str(other.make_url("")))

    assert outcome.status == 1
    assert outcome.levels["gateway"] == ["fail"]


@pytest.mark.parametrize("url", ["ftp://x", "http://localhost:port", "http://[::1"])
async def test_an_address_is_wanted(examine, url):
    assert "fail  settings: --url: expected an address" in (await examine("--url", url)).text


def backend(url, **changes):
    return {
        "url": url,
        "is_interactive": True,
        "readable_state": "Connected",
        "error_message": None,
        **changes,
    }


HERE = "http://user:secret@host.docker.internal:9090/"


@pytest.mark.parametrize(
    ("backends", "config", "level", "told"),
    [
        ([backend(HERE)], CLEAN, "ok", "is connected to http://host.docker.internal:9090/"),
        (
            [backend(HERE, readable_state="Disconnected", error_message="refused")],
            CLEAN,
            "fail",
            "as Disconnected: refused",
        ),
        ([backend(HERE, is_interactive=False)], CLEAN, "fail", "interactive preannotations are of"),
        (
            [backend("http://old:9091"), backend(HERE)],
            CLEAN,
            "fail",
            "clicks go to http://old:9091",
        ),
        ([backend("http://old:9091")], CLEAN, "ok", "has other backends only: http://old:9091"),
        ([], CLEAN, "ok", "projects: 1 without an ML backend"),
        ([backend(HERE)], LABEL_CONFIG, "warn", "smart brush: brush (brushlabels) offers a smart"),
        (
            [backend(HERE)],
            '<View><Image name="image" value="$image"/></View>',
            "fail",
            "output: no tag holds a mask",
        ),
    ],
)
async def test_projects_are_examined(examine, label_studio, backends, config, level, told):
    label_studio.projects = [{"id": 7, "title": "Cats", "label_config": config}]
    label_studio.backends = {7: backends}

    outcome = await examine()

    (line,) = [line for line in outcome.text.splitlines() if told in line]
    assert line.startswith(level)
    assert outcome.status == (1 if level == "fail" else 0)
    assert "secret" not in outcome.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(text="<html>Log in</html>"), "the answer to GET /api/projects/"),
        (lambda: web.json_response([]), "the answer to GET /api/projects/"),
        (lambda: web.json_response({}), "an answer without 'results'"),
    ],
)
async def test_what_is_not_label_studio_is_told(examine, answer, told):
    async def anything(request):
        del request
        return answer()

    app = web.Application()
    app.router.add_get("/{path:.*}", anything)
    async with TestServer(app) as proxy:
        outcome = await examine(LABEL_STUDIO_URL=str(proxy.make_url("/")))

    assert outcome.levels["projects"] == ["warn"]
    assert f"could not be listed: {told} is not what Label Studio gives" in outcome.text


async def test_all_pages_of_projects_are_read(examine, label_studio, monkeypatch):
    monkeypatch.setattr("sam_gateway.label_studio_api._PAGE_SIZE", 2)
    label_studio.projects = [
        {"id": i, "title": None, "label_config": "<View/>"} for i in range(1, 6)
    ]

    assert "5 without an ML backend" in (await examine()).text
