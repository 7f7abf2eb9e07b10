"""The gateway's own worker: started, started again, and gone with the gateway."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import pytest

from gateway_support import LEGACY_TOKEN, click, key_point
from sam_gateway.keys import WORKER_PROCESS

UPLOAD = "/data/upload/1/18d1a805-a.jpg"
A_CLICK = click(UPLOAD, key_point(30, 50, size=(1024, 683)))


def is_running(pid):
    """Whether a process lives; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_worker_that_dies_is_started_again(open_gateway, label_studio, caplog):
    client = await open_gateway(label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN)
    assert (await client.post("/predict", json=A_CLICK)).status == 200
    worker = client.app[WORKER_PROCESS]
    first = worker.pid

    os.kill(first, signal.SIGKILL)
    response = await client.post("/predict", json=A_CLICK)

    assert response.status == 200
    assert worker.pid not in (None, first)
    assert f"worker_ended code=-{signal.SIGKILL.value}" in caplog.text
    assert (await client.get("/health")).status == 200
    second = worker.pid
    await client.close()
    assert not is_running(first)
    assert not is_running(second)


async def test_a_worker_that_does_not_stop_is_killed(open_gateway, monkeypatch, caplog):
    monkeypatch.setattr("sam_gateway.worker_process._STOP_S", 0.1)
    client = await open_gateway()
    body = click("data:,no image", key_point(1, 1, size=(9, 9)))
    assert (await client.post("/predict", json=body)).status == 422  # by the worker: it is up
    pid = client.app[WORKER_PROCESS].pid
    os.kill(pid, signal.SIGSTOP)  # it hears nothing any more

    await client.close()

    assert f"worker_killed pid={pid}" in caplog.text
    assert not is_running(pid)


async def test_a_worker_that_cannot_start_does_not_keep_the_gateway_down(
    open_gateway, monkeypatch, caplog
):
    monkeypatch.setattr("sam_gateway.worker_process._FIRST_PAUSE_S", 0.001)
    client = await open_gateway(model="no_such_model")

    async def ended_twice():
        while caplog.text.count("worker_ended") < 2:
            assert (await client.get("/health")).status == 200

    await asyncio.wait_for(ended_twice(), 60)
    assert "restart_in_s=" in caplog.text


async def test_a_worker_that_the_system_does_not_start_is_tried_again(
    open_gateway, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr("sam_gateway.worker_process._FIRST_PAUSE_S", 0.001)
    with monkeypatch.context() as missing:
        missing.setattr(sys, "executable", str(tmp_path / "python"))
        client = await open_gateway()

        async def failed_twice():
            while caplog.text.count('worker_ended message="not started: [Errno') < 2:
                assert (await client.get("/health")).status == 200

        await asyncio.wait_for(failed_twice(), 60)
    body = click("data:,no image", key_point(1, 1, size=(9, 9)))

    assert (await client.post("/predict", json=body)).status == 422  # by the worker: it is up


class Command:
    """A started `sam-gateway`, with its log."""

    def __init__(self, *flags, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sam_gateway", "--port", "0", *flags],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self.url = self.wait_for(r"listening url=(\S+)")
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))

    def wait_for(self, pattern):
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError("".join(self.log))


@pytest.fixture
def start_command():
    started = []

    def start(*flags, **environment):
        started.append(Command(*flags, **environment))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()
        command.process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_with_its_own_worker_and_stops_it(
    start_command, label_studio, number
):
    command = start_command(
        LABEL_STUDIO_URL=str(label_studio.url), LABEL_STUDIO_API_KEY=label_studio.pat
    )
    worker = int(command.wait_for(r"worker_started pid=(\d+)"))
    command.reader.start()

    async with aiohttp.ClientSession(command.url) as session:
        async with session.get("/health") as response:
            assert (await response.json())["status"] == "UP"
        async with session.post("/predict", json=A_CLICK) as response:
            assert response.status == 200
            assert len((await response.json())["results"]) == 1
    command.process.send_signal(number)

    assert await asyncio.to_thread(command.process.wait, 30) == 0
    assert not is_running(worker)
    command.reader.join()
    log = "".join(command.log)
    assert "ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false" in command.log[0]
    assert "Traceback" not in log
    assert "Fatal" not in log
    assert label_studio.pat not in log


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process not its own child")
def test_the_worker_ends_with_a_gateway_that_is_killed(start_command):
    command = start_command()
    worker = os.pidfd_open(int(command.wait_for(r"worker_started pid=(\d+)")))

    command.process.kill()
    command.process.wait()

    ended, _, _ = select.select([worker], [], [], 30)
    os.close(worker)
    assert ended


def run(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sam_gateway", *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_setting_ends_the_command():
    ended = run(PORT="http")

    assert ended.returncode == 1
    assert ended.stderr.startswith("sam-gateway: PORT: expected")


def test_a_setting_that_the_worker_refuses_ends_the_command():
    ended = run("--port", "0", SAM_THREADS="none")

    assert ended.returncode == 1
    assert ended.stderr.count("'none' is not a whole number") == 1
    assert "sam-gateway: its worker refuses its settings" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_the_command(start_command):
    command = start_command()

    ended = run("--port", command.url.rpartition(":")[2])

    assert ended.returncode == 1
    assert "sam-gateway: cannot listen on 127.0.0.1 port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_names_the_settings():
    ended = run("--help")

    assert ended.returncode == 0
    assert "LABEL_STUDIO_API_KEY" in ended.stdout
