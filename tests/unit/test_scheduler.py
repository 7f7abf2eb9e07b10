import asyncio
import threading

import pytest

from sam_inference.errors import OverloadedError
from sam_inference.scheduler import Lane


@pytest.fixture
def lane():
    lane = Lane("test", threads=1, max_requests=2)
    yield lane
    lane.close()


async def test_a_job_runs_in_a_thread_and_returns_its_result(lane):
    (name, thread), queue_ms = await lane.run(
        lambda name: (name, threading.current_thread()), "job"
    )

    assert name == "job"
    assert thread is not threading.current_thread()
    assert queue_ms >= 0


async def test_a_full_lane_refuses_and_frees_its_places(lane):
    with lane.admit(background=False), lane.admit(background=False):
        with (
            pytest.raises(OverloadedError, match="2 requests") as refusal,
            lane.admit(background=False),
        ):
            pass
        assert refusal.value.retry_after_ms > 0

    with lane.admit(background=False):
        pass


async def test_a_queued_job_is_dropped_when_its_caller_goes(lane):
    started, release, ran = threading.Event(), threading.Event(), []

    def hold():
        started.set()
        release.wait()

    running = asyncio.create_task(lane.run(hold))
    await asyncio.to_thread(started.wait)
    queued = asyncio.create_task(lane.run(ran.append, "dropped"))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    release.set()
    await running
    await lane.run(ran.append, "next")

    assert ran == ["next"]


async def test_an_exception_reaches_the_caller(lane):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await lane.run(fail)
