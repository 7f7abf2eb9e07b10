"""Background work gives way, whoever began it."""

import asyncio

import pytest

from sam_inference.interrupt import Interrupt, InterruptedWorkError
from sam_inference.precedence import Precedence


class Encoding:
    """Work that ends when it is told to, or interrupted."""

    def __init__(self):
        self.began = 0
        self.finish = asyncio.Event()
        self.interrupted = asyncio.Event()

    async def __call__(self, interrupt):
        self.began += 1
        with interrupt.ends(self.interrupted.set):
            ends = [asyncio.create_task(e.wait()) for e in (self.finish, self.interrupted)]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            if not self.finish.is_set():
                self.interrupted.clear()
                raise RuntimeError("the network was stopped")
        return "embedding"


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def precedence():
    return Precedence()


@pytest.fixture
def encoding():
    return Encoding()


async def test_work_is_done_while_nobody_waits(precedence, encoding):
    encoding.finish.set()

    assert await precedence.run("a", encoding) == "embedding"
    assert encoding.began == 1


async def test_work_is_interrupted_by_a_request_and_begun_again_after_it(precedence, encoding):
    work = asyncio.create_task(precedence.run("a", encoding))
    await settle()

    with precedence.interactive("b"):
        await settle()
        assert encoding.began == 1
        encoding.finish.set()
        await settle()
        assert not work.done()

    assert await work == "embedding"
    assert encoding.began == 2


async def test_work_that_a_request_waits_for_is_not_interrupted(precedence, encoding):
    work = asyncio.create_task(precedence.run("a", encoding))
    await settle()

    with precedence.interactive("a"), precedence.interactive("b"):
        await settle()
        assert encoding.began == 1
        encoding.finish.set()
        assert await work == "embedding"
    assert encoding.began == 1


async def test_held_up_work_goes_on_when_a_request_waits_for_it(precedence, encoding):
    encoding.finish.set()
    with precedence.interactive("b"):
        work = asyncio.create_task(precedence.run("a", encoding))
        await settle()
        assert encoding.began == 0

        with precedence.interactive("a"):
            assert await work == "embedding"


async def test_work_is_interrupted_when_its_caller_goes(precedence):
    interrupts = []

    async def work(interrupt):
        interrupts.append(interrupt)
        await asyncio.Event().wait()

    running = asyncio.create_task(precedence.run("a", work))
    await settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    with pytest.raises(InterruptedWorkError), interrupts[0].ends(lambda: None):
        pass


def test_an_error_is_its_own_without_an_interrupt():
    with pytest.raises(ValueError, match="broken"), Interrupt().ends(lambda: None):
        raise ValueError("broken")
