"""Both Python clients against a real worker."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sam_core
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
)
from support import IMAGES

CLICK = Prompt([(450, 320)])
TURNED = "awkward/exif_orientation_6.jpg"  # stored 600x900, upright 900x600


class AwaitableSamClient:
    """The sync client, called in a thread, so that each test below can run with it too."""

    def __init__(self, target: str, **options: Any) -> None:
        self._client = SamClient(target, **options)

    async def __aenter__(self) -> AwaitableSamClient:
        self._client.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("decode", "segment"):
            return lambda *args, **options: self._stream(method(*args, **options))
        return lambda *args, **options: asyncio.to_thread(method, *args, **options)

    @staticmethod
    async def _stream(masks: Any) -> AsyncIterator[SegmentedMask]:
        try:
            while (mask := await asyncio.to_thread(next, masks, None)) is not None:
                yield mask
        finally:
            masks.close()


@pytest.fixture(params=[AsyncSamClient, AwaitableSamClient], ids=["async", "sync"])
def client_type(request) -> Any:
    return request.param


@pytest.fixture
async def client(client_type, worker_target) -> AsyncIterator[Any]:
    async with client_type(worker_target) as client:
        yield client


@pytest.fixture
def photo() -> bytes:
    return (IMAGES / TURNED).read_bytes()


async def test_embed_tells_the_upright_size_and_what_it_did(client, photo):
    first = await client.embed(photo)
    again = await client.embed(photo)

    assert (first.width, first.height) == (900, 600)
    assert again.image_id == first.image_id
    assert again.cached
    assert again.timings.encoder_ms == 0
    assert first.model == (await client.list_models()).default_model


async def test_mask_is_what_its_numbers_say(client, photo):
    embedded = await client.embed(photo)
    (mask,) = [mask async for mask in client.decode(embedded.image_id, [CLICK])]

    pixels = mask.to_array()

    assert pixels.shape == (mask.height, mask.width) == (600, 900)
    assert mask.area == pixels.sum() > 0
    rows, columns = pixels.nonzero()
    assert mask.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert sam_core.counts_from_mask(pixels).tolist() == mask.counts.tolist()
    assert 0 <= mask.stability_score <= 1
    assert (mask.prompt_index, mask.image_id) == (0, embedded.image_id)
    assert mask.low_res_logits is None
    assert mask.timings.decoder_ms > 0


async def test_prompts_of_every_kind_go_together(client, photo):
    image_id = (await client.embed(photo)).image_id
    (model, *_) = (await client.list_models()).models
    (earlier,) = [
        mask async for mask in client.decode(image_id, [CLICK], return_low_res_logits=True)
    ]
    assert earlier.low_res_logits.shape == (1, model.mask_size, model.mask_size)
    assert earlier.low_res_logits.dtype == np.float32

    box = (100, 100, 800, 500)
    prompts = [
        Prompt(box=box),
        Prompt([(450, 320), (10, 10)], [1, 0], mask_input=earlier.low_res_logits),
        Prompt([(450, 320), (10, 10)], [1, 0], box=box),
        Prompt(mask_input=earlier.low_res_logits),
    ]
    masks = [mask async for mask in client.decode(image_id, prompts, multimask_output=True)]

    assert len(masks) == 12
    for index in range(4):
        candidates = [mask for mask in masks if mask.prompt_index == index]
        assert sorted(mask.mask_index for mask in candidates) == [0, 1, 2]
        scores = [mask.predicted_iou for mask in candidates]
        assert scores == sorted(scores, reverse=True), "the best candidate comes first"


async def test_negative_point_reaches_the_model(client, photo):
    image_id = (await client.embed(photo)).image_id
    prompts = [Prompt([(450, 320)], [1]), Prompt([(450, 320)], [0])]

    masks = [mask async for mask in client.decode(image_id, prompts, return_low_res_logits=True)]

    positive, negative = sorted(masks, key=lambda mask: mask.prompt_index)
    assert (positive.low_res_logits != negative.low_res_logits).any()


async def test_segment_does_it_in_one_call(client):
    image = (IMAGES / "awkward/tiny_16x9.png").read_bytes()

    (mask,) = [mask async for mask in client.segment(image, [Prompt([(8, 4)])])]

    assert mask.to_array().shape == (9, 16)


async def test_image_over_grpcs_default_message_size(client):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    assert len(file.getvalue()) > 6_000_000

    embedded = await client.embed(file.getvalue())

    assert (embedded.width, embedded.height) == (1500, 1500)


async def test_evicted_embedding_is_made_again(client_type, start_worker, photo):
    worker = start_worker("--embedding-cache-mib", "1")
    try:
        async with client_type(worker.target) as client:
            image_id = (await client.embed(photo)).image_id
            for name in ("chelsea.png", "coffee.png", "camera.png"):
                await client.embed((IMAGES / "originals" / name).read_bytes())

            with pytest.raises(EmbeddingNotFoundError):
                _ = [mask async for mask in client.decode(image_id, [CLICK])]

            loads: list[bytes] = []

            def load_image() -> bytes:
                loads.append(photo)
                return photo

            decoded = client.decode(image_id, [CLICK], load_image=load_image)
            assert [mask.image_id async for mask in decoded] == [image_id]
            decoded = client.decode(image_id, [CLICK], load_image=load_image)
            assert [mask.image_id async for mask in decoded] == [image_id]
            assert len(loads) == 1
    finally:
        worker.stop()


async def test_list_models_tells_models_and_limits(client):
    info = await client.list_models()

    assert info.default_model == info.models[0].name
    for model in info.models:
        assert model.title
        assert model.licence
        assert model.engine
        assert model.device
        assert model.precision
        assert min(model.input_size, model.mask_size, model.embedding_bytes) > 0
    limits = info.limits
    assert limits.max_message_bytes == 64 * 1024 * 1024
    assert min(limits.max_image_pixels, limits.max_prompts, limits.max_points) > 0


async def test_unknown_model_is_refused_with_those_there_are(client, photo):
    with pytest.raises(ModelNotFoundError, match="nonesuch") as refusal:
        await client.embed(photo, model="nonesuch")

    models = (await client.list_models()).models
    assert refusal.value.models == tuple(model.name for model in models)


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        ([], "prompts"),
        ([CLICK, Prompt([(901, 1)])], "prompts[1].points[0].x"),
        ([Prompt([(1, 1), (1, -1)])], "prompts[0].points[1].y"),
        ([Prompt(box=(0, 0, 10, 601))], "prompts[0].box.y_max"),
        ([Prompt(mask_input=np.zeros((1, 2, 2)))], "prompts[0].mask_input.shape"),
    ],
)
async def test_refusal_names_the_field(client, photo, prompts, field):
    image_id = (await client.embed(photo)).image_id

    with pytest.raises(InvalidRequestError) as refusal:
        _ = [mask async for mask in client.decode(image_id, prompts)]

    assert refusal.value.field == field
    assert str(refusal.value)


@pytest.mark.parametrize("name", ["empty.jpg", "login_page.jpg", "bomb_30000x30000.png"])
async def test_what_is_no_usable_image_is_refused(client, name):
    with pytest.raises(InvalidRequestError) as refusal:
        await client.embed((IMAGES / "awkward" / name).read_bytes())

    assert refusal.value.field == "image"


async def test_message_over_a_limit_is_refused_with_the_setting_to_raise(
    client_type, worker_target
):
    image = bytes(65 * 1024 * 1024)
    for max_message_bytes, setting in (
        (64 * 1024 * 1024, "max_message_bytes of the client"),
        (66 * 1024 * 1024, "MAX_MESSAGE_MIB of the worker"),
    ):
        async with client_type(worker_target, max_message_bytes=max_message_bytes) as client:
            with pytest.raises(InvalidRequestError, match=f"larger than max.*: raise {setting}$"):
                await client.embed(image)


async def test_both_limits_can_be_raised(client_type, start_worker):
    worker = start_worker("--max-message-mib", "66")
    try:
        async with client_type(worker.target, max_message_bytes=66 * 1024 * 1024) as client:
            with pytest.raises(InvalidRequestError) as refusal:
                await client.embed(bytes(65 * 1024 * 1024))
            assert refusal.value.field == "image", "it arrived, and is no image"
    finally:
        worker.stop()


async def test_call_that_takes_too_long_ends(client_type, worker_target):
    async with client_type(worker_target, timeout_s=0.001) as client:
        with pytest.raises(DeadlineExceededError):
            await client.embed(bytes(40 * 1024 * 1024))  # no machine reads that in a millisecond


async def test_closed_client_says_so(client_type, worker_target, photo):
    async with client_type(worker_target) as client:
        image_id = (await client.embed(photo)).image_id

    for call in (
        lambda: client.embed(photo),
        lambda: anext(client.decode(image_id, [CLICK])),
        lambda: anext(client.segment(photo, [CLICK])),
        lambda: client.list_models(),
    ):
        with pytest.raises(SamError, match=r"^the client is closed$"):
            await call()


async def test_leaving_a_stream_stops_the_work(client_type, start_worker, photo):
    worker = start_worker()
    try:
        async with client_type(worker.target) as client:
            image_id = (await client.embed(photo)).image_id
            # So much to send that it cannot all be on its way when the first mask is here.
            masks = client.decode(
                image_id, [CLICK] * 256, multimask_output=True, return_low_res_logits=True
            )
            async with aclosing(masks):
                await anext(masks)
            await asyncio.to_thread(worker.wait_for_log, "rpc=(Decode) code=CANCELLED")
    finally:
        worker.stop()
