"""What the clients make of every status, of failures that pass, and of callers who leave.

They talk gRPC with a service that answers as each test says: a worker cannot be brought to
fail on demand.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1.segment_anything_pb2_grpc import (
    SegmentAnythingServiceServicer,
    add_SegmentAnythingServiceServicer_to_server,
)
from sam_client import (
    AsyncSamClient,
    DeadlineExceededError,
    EmbeddingNotFoundError,
    InvalidRequestError,
    ModelNotFoundError,
    Prompt,
    SamClient,
    SamError,
    SegmentedMask,
    WorkerBusyError,
    WorkerUnavailableError,
)

CLICK = Prompt([(1, 1)])
MASK = pb.DecodeResponse(mask=pb.Mask(width=2, height=1, run_lengths=pb.RunLengths(counts=[1, 1])))
WAIT_S = 30  # only ever reached when a test fails


class ScriptedService(SegmentAnythingServiceServicer):
    """Runs the next step of `script` for each call, whichever it is, and the last one for ever."""

    def __init__(self) -> None:
        self.script: list[Callable[[Any, grpc.ServicerContext], Any]] = []
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.cancelled = threading.Event()

    def _answer(self, rpc: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append((rpc, request, dict(context.invocation_metadata())))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return step(request, context)

    def Embed(self, request, context):  # noqa: N802 - gRPC's name
        return self._answer("Embed", request, context)

    def Decode(self, request, context):  # noqa: N802
        yield from self._answer("Decode", request, context)

    def ListModels(self, request, context):  # noqa: N802
        return self._answer("ListModels", request, context)


def refuse(code: grpc.StatusCode, *details: Message, message: str = "because") -> Callable:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    number, _ = code.value
    status = status_pb2.Status(code=number, message=message, details=packed)
    return refuse_with_trailer(code, status.SerializeToString(), message)


def refuse_with_trailer(code: grpc.StatusCode, trailer: bytes, message: str = "") -> Callable:
    def step(_request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", trailer),))
        context.abort(code, message)

    return step


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(
        reason=reason, domain="segment_anything.v1", metadata=metadata
    )


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def target(service) -> Iterator[str]:
    server = grpc.server(
        futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)]
    )
    add_SegmentAnythingServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


async def decode(
    kind: type, target: str, image_id: str = "an-image", **arguments: Any
) -> list[SegmentedMask]:
    """All masks of a decode call of either client."""
    if kind is AsyncSamClient:
        async with AsyncSamClient(target) as client:
            return [mask async for mask in client.decode(image_id, [CLICK], **arguments)]
    with SamClient(target) as client:
        return await asyncio.to_thread(lambda: list(client.decode(image_id, [CLICK], **arguments)))


async def embed(kind: type, target: str, image: bytes = b"image", timeout_s: float = 60.0) -> Any:
    if kind is AsyncSamClient:
        async with AsyncSamClient(target, timeout_s=timeout_s) as client:
            return await client.embed(image)
    with SamClient(target, timeout_s=timeout_s) as client:
        return await asyncio.to_thread(client.embed, image)


async def segment(kind: type, target: str, **arguments: Any) -> list[SegmentedMask]:
    if kind is AsyncSamClient:
        async with AsyncSamClient(target) as client:
            return [mask async for mask in client.segment(b"image", [CLICK], **arguments)]
    with SamClient(target) as client:
        return await asyncio.to_thread(lambda: list(client.segment(b"image", [CLICK], **arguments)))


both = pytest.mark.parametrize("kind", [AsyncSamClient, SamClient])


@both
@pytest.mark.parametrize(
    ("step", "error_type", "attributes"),
    [
        (
            refuse(
                grpc.StatusCode.INVALID_ARGUMENT,
                info("SOMETHING_NEW"),
                error_details_pb2.BadRequest(
                    field_violations=[
                        {"field": "prompts[1].box", "description": "has no area"},
                        {"field": "prompts[2]", "description": "is empty"},
                    ]
                ),
            ),
            InvalidRequestError,
            {"field": "prompts[1].box"},
        ),
        (refuse(grpc.StatusCode.INVALID_ARGUMENT), InvalidRequestError, {"field": ""}),
        (
            refuse(grpc.StatusCode.NOT_FOUND, info("MODEL_NOT_FOUND", models="a,b")),
            ModelNotFoundError,
            {"models": ("a", "b")},
        ),
        (
            refuse(grpc.StatusCode.NOT_FOUND, info("EMBEDDING_NOT_FOUND")),
            EmbeddingNotFoundError,
            {"code": grpc.StatusCode.NOT_FOUND},
        ),
        (refuse(grpc.StatusCode.NOT_FOUND), SamError, {"code": grpc.StatusCode.NOT_FOUND}),
        (
            refuse(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                error_details_pb2.RetryInfo(
                    retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)
                ),
            ),
            WorkerBusyError,
            {"retry_after_s": 1.5},
        ),
        (
            refuse(grpc.StatusCode.RESOURCE_EXHAUSTED),
            InvalidRequestError,
            {"field": "", "code": grpc.StatusCode.RESOURCE_EXHAUSTED},
        ),
        (
            refuse(grpc.StatusCode.UNAVAILABLE),
            WorkerUnavailableError,
            {"code": grpc.StatusCode.UNAVAILABLE},
        ),
        (refuse(grpc.StatusCode.INTERNAL), SamError, {"code": grpc.StatusCode.INTERNAL}),
        (
            refuse_with_trailer(grpc.StatusCode.INVALID_ARGUMENT, b"\xff", "because"),
            InvalidRequestError,
            {"field": ""},
        ),
    ],
)
async def test_status_becomes_an_exception(service, target, kind, step, error_type, attributes):
    service.script = [step]

    for call in (embed, decode):
        with pytest.raises(SamError, match="because") as failure:
            await call(kind, target)
        assert type(failure.value) is error_type
        assert {name: getattr(failure.value, name) for name in attributes} == attributes


@both
async def test_unavailable_is_tried_again_with_the_whole_image(service, target, kind):
    unavailable = refuse(grpc.StatusCode.UNAVAILABLE)
    service.script = [unavailable, unavailable, lambda *_: pb.EmbedResponse(image_id="an-image")]
    image = bytes(5 * 1024 * 1024)  # over the size that gRPC keeps for a retry by default

    embedded = await embed(kind, target, image)

    assert embedded.image_id == "an-image"
    assert [request.image == image for _, request, _ in service.calls] == [True] * 3


@both
async def test_decode_is_tried_again_until_its_first_mask(service, target, kind):
    def fail_after_a_mask(request, context):
        yield MASK
        refuse(grpc.StatusCode.UNAVAILABLE)(request, context)

    service.script = [refuse(grpc.StatusCode.UNAVAILABLE), lambda *_: iter([MASK])]
    (mask,) = await decode(kind, target)
    assert mask.to_array().tolist() == [[False, True]]
    assert len(service.calls) == 2

    service.calls.clear()
    service.script = [fail_after_a_mask]
    with pytest.raises(WorkerUnavailableError):
        await decode(kind, target)
    assert len(service.calls) == 1


@both
async def test_refusal_is_not_tried_again(service, target, kind):
    service.script = [refuse(grpc.StatusCode.INVALID_ARGUMENT)]

    with pytest.raises(InvalidRequestError):
        await embed(kind, target)

    assert len(service.calls) == 1


@both
async def test_decode_tells_balancers_which_image(service, target, kind):
    service.script = [lambda *_: iter([])]

    assert await decode(kind, target, model="m") == []

    ((_, request, metadata),) = service.calls
    assert metadata["x-image-id"] == "an-image"
    assert (request.image_id, request.model) == ("an-image", "m")


@both
async def test_lost_embedding_is_made_again_once(service, target, kind):
    lost = refuse(grpc.StatusCode.NOT_FOUND, info("EMBEDDING_NOT_FOUND"))
    service.script = [lost, lambda *_: pb.EmbedResponse(image_id="another-image"), lost]

    with pytest.raises(EmbeddingNotFoundError):
        await decode(kind, target, load_image=lambda: b"image", model="m")

    assert [rpc for rpc, _, _ in service.calls] == ["Decode", "Embed", "Decode"]
    _, embedded, decoded = (request for _, request, _ in service.calls)
    assert (embedded.image, embedded.model) == (b"image", "m")
    assert decoded.image_id == "another-image"
    assert service.calls[2][2]["x-image-id"] == "another-image"


async def test_loader_of_the_async_client_may_be_awaitable(service, target):
    lost = refuse(grpc.StatusCode.NOT_FOUND, info("EMBEDDING_NOT_FOUND"))
    embedded = pb.EmbedResponse(image_id="an-image")
    service.script = [lost, lambda *_: embedded, lambda *_: iter([MASK])]

    async def load() -> bytes:
        return b"image"

    assert len(await decode(AsyncSamClient, target, load_image=load)) == 1


@both
@pytest.mark.parametrize(
    ("background", "priority"),
    [(True, pb.PRIORITY_BACKGROUND), (False, pb.PRIORITY_INTERACTIVE)],
)
async def test_work_that_nobody_waits_for_says_so_and_has_no_deadline(
    service, target, kind, background, priority
):
    has_deadline: list[bool] = []

    def answer(response: Any) -> Callable:
        def step(_request: Any, context: grpc.ServicerContext) -> Any:
            has_deadline.append(context.time_remaining() < 3600)  # without one it is endless
            return response

        return step

    service.script = [answer(pb.EmbedResponse(image_id="an-image")), answer(iter([MASK]))]

    await segment(kind, target, background=background)

    assert [rpc for rpc, _, _ in service.calls] == ["Embed", "Decode"]
    assert [request.priority for _, request, _ in service.calls] == [priority] * 2
    assert has_deadline == [not background] * 2


@both
async def test_image_id_that_no_worker_gave_is_refused_here(service, target, kind):
    for image_id in ("ä", "a\nb"):
        with pytest.raises(ValueError, match=r"^image_id: expected the id of"):
            await decode(kind, target, image_id)
    assert service.calls == []


@both
async def test_longest_timeout_is_one(service, target, kind):
    service.script = [lambda *_: pb.EmbedResponse(image_id="an-image")]

    assert (await embed(kind, target, timeout_s=1e9)).image_id == "an-image"


@both
async def test_call_without_an_answer_ends_at_its_deadline(service, target, kind):
    released = threading.Event()
    service.script = [lambda *_: released.wait(WAIT_S)]

    with pytest.raises(DeadlineExceededError):
        await embed(kind, target, timeout_s=0.2)

    released.set()


@both
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_message_bytes", 0),
        ("max_message_bytes", 2**31),
        ("timeout_s", 0.0),
        ("timeout_s", -1.0),
        ("timeout_s", math.nan),
        ("timeout_s", math.inf),
    ],
)
async def test_option_that_grpc_cannot_count_is_refused(kind, option, value):
    with pytest.raises(ValueError, match=f"^{option}: expected .*, got {value}$"):
        kind("localhost:1", **{option: value})


@both
async def test_nobody_at_the_target(kind, tmp_path):
    with pytest.raises(WorkerUnavailableError):
        await embed(kind, f"unix:{tmp_path}/nobody.sock")


def one_mask_then_wait(service: ScriptedService) -> Callable:
    def step(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.DecodeResponse]:
        assert context.add_callback(service.cancelled.set)
        yield MASK
        service.cancelled.wait(WAIT_S)

    return step


async def test_leaving_the_async_iterator_cancels_the_call(service, target):
    service.script = [one_mask_then_wait(service)]

    async with AsyncSamClient(target) as client:
        async with aclosing(client.decode("an-image", [CLICK])) as masks:
            await anext(masks)

        assert await asyncio.to_thread(service.cancelled.wait, WAIT_S)


async def test_cancelling_the_task_cancels_the_call(service, target):
    service.script = [one_mask_then_wait(service)]
    got_one = asyncio.Event()

    async def use(client: AsyncSamClient) -> None:
        async for _ in client.decode("an-image", [CLICK]):
            got_one.set()

    async with AsyncSamClient(target) as client:
        task = asyncio.create_task(use(client))
        await got_one.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await asyncio.to_thread(service.cancelled.wait, WAIT_S)


def test_leaving_the_iterator_cancels_the_call(service, target):
    service.script = [one_mask_then_wait(service)]

    with SamClient(target) as client:
        masks = client.decode("an-image", [CLICK])
        next(masks)
        masks.close()

        assert service.cancelled.wait(WAIT_S)


async def test_closing_the_async_client_cancels_what_waits_for_it(service, target):
    service.script = [one_mask_then_wait(service)]
    client = AsyncSamClient(target)
    masks = client.decode("an-image", [CLICK])
    await anext(masks)

    await client.close()

    with pytest.raises(asyncio.CancelledError):
        await anext(masks)
    assert await asyncio.to_thread(service.cancelled.wait, WAIT_S)


def test_closing_the_client_fails_what_waits_for_it(service, target):
    service.script = [one_mask_then_wait(service)]
    client = SamClient(target)
    masks = client.decode("an-image", [CLICK])
    next(masks)

    client.close()

    with pytest.raises(SamError, match="CANCELLED"):
        next(masks)
    assert service.cancelled.wait(WAIT_S)
