"""What a click waits for: through gateway and worker, idle and beside other embeddings.

In each round some clicks are made while nothing else is asked, some while images are embedded
ahead of their first click, and some while just as many images are embedded for somebody who
waits, which is what background work would cost if it did not give way. A warm click is on an
image that was embedded before, a cold one on a new image. Beside them `/health` and `/setup` are
asked, which Label Studio gives 1 and 3 seconds; also while the worker loads models. Times are in
milliseconds, ratios against the idle service.

    python -m benchmarks.clicks [--architecture mobile_sam | --checkpoint FILE] [--rounds 5]
        [--clicks 12] [--threads 2]

Without a checkpoint the weights are random: times hold. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import aiohttp
import numpy as np
from benchmarks.engines import random_checkpoint
from PIL import Image

from sam_client import AsyncSamClient
from sam_inference.models import DEFAULT_MODEL
from sam_inference.models.importing import import_checkpoint

SIZE = (1024, 683)
LABEL_CONFIG = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="Dog"/></KeyPointLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Dog"/></BrushLabels></View>"""
SETUP = {"project": "1.1", "schema": LABEL_CONFIG, "hostname": "", "access_token": ""}
# Tasks that are told of at once; more of them are told of as long as clicks are made.
TASKS = 8

numbers = itertools.count(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="mobile_sam")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=12, help="of each kind in a round")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        checkpoint = arguments.checkpoint or random_checkpoint(arguments.architecture, Path(folder))
        spec = import_checkpoint(checkpoint, models)
        print(f"{spec.title}, {arguments.rounds} rounds of {arguments.clicks} clicks\n")
        target = f"unix:{folder}/worker.sock"
        worker = ["sam_inference", "--listen", target, "--model", spec.name, "--model-dir"]
        gateway = ["sam_gateway", "--port", "0", "--worker", target]
        with (
            process(" ready model=", *worker, str(models), "--threads", str(arguments.threads)),
            process(" listening url=", *gateway) as listening,
        ):
            url = next(word[4:] for word in listening.split() if word.startswith("url="))
            asyncio.run(measure(url, target, spec.name, arguments.rounds, arguments.clicks))


@contextmanager
def process(ready: str, *words: str) -> Iterator[str]:
    """Run a module until the block ends, and yield the line by which it says that it is ready."""
    running = subprocess.Popen(
        [sys.executable, "-m", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MODEL_MEMORY_MIB": "1"},  # one model at a time
    )
    assert running.stderr
    lines = []
    try:
        for line in running.stderr:
            lines.append(line)
            if ready in line:
                break
        else:
            raise SystemExit("".join(lines))
        # Nobody reads what it says from here on.
        with subprocess.Popen(["cat"], stdin=running.stderr, stdout=subprocess.DEVNULL):
            yield lines[-1]
            running.terminate()
    finally:
        running.terminate()
        running.wait()


async def measure(url: str, target: str, spec_name: str, rounds: int, clicks: int) -> None:
    """Make the clicks and print the table."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    async with aiohttp.ClientSession(url) as session, AsyncSamClient(target) as client:
        conditions: dict[str, AbstractAsyncContextManager[None]]
        warm = new_task()
        for number in range(rounds + 1):
            conditions = {
                "idle": idle(),
                "embedding ahead": ahead(session),
                "embedding for others": others(client, [""]),
                "loading models": others(client, [spec_name, DEFAULT_MODEL]),
            }
            for name, condition in conditions.items():
                await click(session, warm)  # loads the model again
                async with condition:
                    for _ in range(clicks):
                        asked: dict[str, Callable[[], Awaitable[None]]] = {
                            "/health": partial(ask, session, "GET", "/health"),
                            "/setup": partial(ask, session, "POST", "/setup", SETUP),
                        }
                        if name != "loading models":  # a click may need the one that was dropped
                            asked["warm click"] = partial(click, session, warm)
                            asked["cold click"] = partial(click, session, new_task())
                        for what, question in asked.items():
                            start = time.perf_counter()
                            await question()
                            if number:  # the first round is for warming up
                                times[what, name].append((time.perf_counter() - start) * 1e3)
                            await asyncio.sleep(0.1)  # an annotator looks at the answer
    print("| what | beside | median | p95 | most | ratio of p95 |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for (what, name), values in sorted(times.items(), reverse=True):
        p50, p95, most = np.percentile(values, [50, 95, 100])
        quiet = np.percentile(times[what, "idle"], 95)
        print(f"| {what} | {name} | {p50:.0f} | {p95:.0f} | {most:.0f} | {p95 / quiet:.2f} |")


@asynccontextmanager
async def idle() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def ahead(session: aiohttp.ClientSession) -> AsyncIterator[None]:
    """Tell of new tasks again and again; the gateway embeds their images, the newest first."""

    async def tell() -> None:
        while True:
            # In a thread, as elsewhere: what is timed runs in this one.
            tasks = await asyncio.to_thread(lambda: [new_task() for _ in range(TASKS)])
            project = {"id": 1, "label_config": LABEL_CONFIG}
            body = {"action": "TASKS_CREATED", "tasks": tasks, "project": project}
            await ask(session, "POST", "/webhook", body)
            await asyncio.sleep(1)

    async with running(tell()):
        yield


@asynccontextmanager
async def others(client: AsyncSamClient, models: Sequence[str]) -> AsyncIterator[None]:
    """Embed one new image after the other, by each of the models in turn."""

    async def embed() -> None:
        for model in itertools.cycle(models):
            await client.embed(await asyncio.to_thread(new_image), model=model)

    async with running(embed()):
        yield


@asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> None:
    async with session.request(method, path, json=body) as response:
        response.raise_for_status()
        await response.read()


async def click(session: aiohttp.ClientSession, task: dict[str, object]) -> None:
    point = {
        "id": f"prompt{next(numbers)}",
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "value": {"x": 40, "y": 50, "width": 0.3, "keypointlabels": ["Dog"]},
    }
    body = {
        "tasks": [task],
        "label_config": LABEL_CONFIG,
        "params": {"context": {"result": [point]}},
    }
    await ask(session, "POST", "/predict", body)


def new_task() -> dict[str, object]:
    image = base64.b64encode(new_image()).decode()
    return {"id": next(numbers), "data": {"image": f"data:image/jpeg;base64,{image}"}}


def new_image() -> bytes:
    """Return a JPEG of blurred noise that was not there before."""
    noise = np.random.default_rng(next(numbers)).integers(0, 255, (8, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(SIZE).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    main()
