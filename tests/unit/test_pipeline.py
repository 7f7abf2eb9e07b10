"""Who is served when, and what is held meanwhile; the networks are gates that tests open."""

import asyncio
import io
import threading
import weakref
from contextlib import aclosing

import numpy as np
import pytest
from PIL import Image

from sam_inference import predictor, registry
from sam_inference.config import parse_config
from sam_inference.embeddings import ImageEmbedding
from sam_inference.engines import EngineChoice, EngineError
from sam_inference.errors import OverloadedError
from sam_inference.interrupt import Interrupt
from sam_inference.models import BUNDLED, read_spec
from sam_inference.pipeline import Pipeline
from sam_inference.prompts import Prompt
from sam_inference.registry import OfferedModel, Registry
from sam_inference.transforms import input_size_of

SPEC = read_spec(BUNDLED / "quickstart")
SIZE = (64, 48)  # height and width
SCALE = SPEC.input_size // SIZE[0]
BACKGROUND_CALLS = 8


class Gate:
    """Holds threads until it is opened, and counts those that came."""

    def __init__(self):
        self.came = threading.Semaphore(0)
        self.open = threading.Event()
        self.passed = 0

    def enter(self):
        self.came.release()
        assert self.open.wait(timeout=30)
        self.passed += 1

    async def arrival(self):
        assert await asyncio.to_thread(self.came.acquire, timeout=30)


class GatedEngine:
    """An engine whose networks wait at a gate and then answer zeros; it notes what it was asked."""

    def __init__(self):
        self.gate = Gate()
        self.decoded = []

    def encode(self, image, interrupt):
        self.gate.enter()
        interrupt.check()
        return {name: np.zeros(shape, np.float32) for name, shape in SPEC.embedding_shapes.items()}

    def decode(self, embedding, inputs):
        self.decoded.append(round(float(inputs.point_coords[0, 0, 0])))
        self.gate.enter()
        return np.zeros((1, 4, 256, 256), np.float32), np.zeros((1, 4), np.float32)


@pytest.fixture
def engine():
    return GatedEngine()


@pytest.fixture
def loads(monkeypatch, engine):
    """The gate at which models are loaded; open."""
    gate = Gate()
    gate.open.set()

    def open_engine(choice, spec, *, threads):
        gate.enter()
        return engine

    monkeypatch.setattr(registry, "open_engine", open_engine)
    return gate


@pytest.fixture
def models(loads):
    offered = OfferedModel(SPEC, EngineChoice("openvino", "CPU", "float32", "for the test"))
    return Registry(
        {SPEC.name: offered}, default=SPEC.name, threads=1, max_loaded_bytes=SPEC.file_bytes
    )


@pytest.fixture
def pipeline(models, engine, loads):
    config = parse_config(["--threads", "1", "--max-requests", str(BACKGROUND_CALLS)], {})
    pipeline = Pipeline(models, config)
    yield pipeline
    loads.open.set()
    engine.gate.open.set()
    pipeline.close()


@pytest.fixture
def embedding():
    tensors = {name: np.zeros(shape, np.float16) for name, shape in SPEC.embedding_shapes.items()}
    return ImageEmbedding(SPEC.name, SIZE, input_size_of(SIZE, SPEC.input_size), tensors)


def image(number):
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


async def decode(pipeline, embedding, x, **options):
    click = Prompt(np.array([[x, 1]], np.float32), np.ones(1, np.float32), None, None)
    decoding = pipeline.decode(
        embedding, [click], multimask_output=False, write=lambda mask: mask.area, **options
    )
    async with aclosing(decoding) as masks:
        return [mask async for mask in masks]


async def settle():
    """Let tasks run until they wait for threads."""
    for _ in range(20):
        await asyncio.sleep(0)


async def admitted(pipeline, count, *, background):
    """Wait until so many embeds have come through the threads that work out their ids."""
    while pipeline._encode_lane._admitted[background] < count:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)
    await settle()


async def test_an_interactive_decode_is_next_after_the_background_prompts_that_run(
    pipeline, engine, embedding
):
    background = [
        asyncio.create_task(decode(pipeline, embedding, x, background=True))
        for x in range(BACKGROUND_CALLS)
    ]
    await engine.gate.arrival()
    await settle()
    click = asyncio.create_task(decode(pipeline, embedding, 40))
    await settle()

    engine.gate.open.set()
    await asyncio.gather(click, *background)

    assert engine.decoded[1] == 40 * SCALE
    assert sorted(engine.decoded) == [SCALE * x for x in (*range(BACKGROUND_CALLS), 40)]


async def test_background_embeds_in_the_queue_give_way_before_they_read_their_images(
    pipeline, engine, monkeypatch
):
    read = []
    decode_image = predictor.decode_image
    monkeypatch.setattr(
        predictor,
        "decode_image",
        lambda data, **rest: read.append(data) or decode_image(data, **rest),
    )
    background = [
        asyncio.create_task(pipeline.embed(image(number), SPEC, background=True))
        for number in range(BACKGROUND_CALLS)
    ]
    await engine.gate.arrival()
    await admitted(pipeline, BACKGROUND_CALLS, background=True)
    wanted = asyncio.create_task(pipeline.embed(image(99), SPEC))
    await admitted(pipeline, 1, background=False)

    engine.gate.open.set()
    await asyncio.gather(wanted, *background)

    assert read[1] == image(99)
    assert set(read) == {image(99), *map(image, range(BACKGROUND_CALLS))}


async def test_a_load_goes_on_when_its_caller_goes_and_serves_the_next(models, loads):
    loads.open.clear()
    for _ in range(3):
        caller = asyncio.create_task(models.predictor(SPEC))
        await settle()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    loads.open.set()
    loaded = await models.predictor(SPEC)

    assert await models.predictor(SPEC) is loaded
    assert loads.passed == 1


async def test_a_load_that_failed_is_tried_again(models, loads, monkeypatch):
    load = registry.open_engine

    def fail(*_, **__):
        raise EngineError("no memory")

    monkeypatch.setattr(registry, "open_engine", fail)
    with pytest.raises(EngineError, match="no memory"):
        await models.predictor(SPEC)

    monkeypatch.setattr(registry, "open_engine", load)
    assert (await models.predictor(SPEC)).spec is SPEC


async def test_a_closed_registry_lets_its_models_go_whatever_failed_on_them(models, monkeypatch):
    class Failing:
        def encode(self, image, interrupt):
            error = RuntimeError("the network failed")  # which its traceback holds in a cycle
            raise error

    monkeypatch.setattr(registry, "open_engine", lambda *_, **__: Failing())
    await models.load_default()
    engine = weakref.ref((await models.predictor(SPEC)).engine)
    with pytest.raises(RuntimeError):
        (await models.predictor(SPEC)).embed(image(1), Interrupt(), max_pixels=1 << 20)
    await settle()  # until then the loop holds what was awaited last

    models.close()

    assert engine() is None


async def test_requests_that_wait_for_a_model_are_counted(pipeline, loads, engine, embedding):
    loads.open.clear()
    waiting = [
        asyncio.create_task(pipeline.embed(image(number), SPEC))
        for number in range(BACKGROUND_CALLS)
    ]
    waiting += [
        asyncio.create_task(decode(pipeline, embedding, x)) for x in range(BACKGROUND_CALLS)
    ]
    await loads.arrival()
    await admitted(pipeline, BACKGROUND_CALLS, background=False)

    with pytest.raises(OverloadedError, match="encode"):
        await asyncio.wait_for(pipeline.embed(image(99), SPEC), timeout=30)
    with pytest.raises(OverloadedError, match="decode"):
        await asyncio.wait_for(decode(pipeline, embedding, 40), timeout=30)

    loads.open.set()
    engine.gate.open.set()
    await asyncio.gather(*waiting)


async def test_logits_are_kept_only_if_asked_for(pipeline, engine, embedding):
    engine.gate.open.set()

    (without,) = await decode(pipeline, embedding, 1)
    (with_logits,) = await decode(pipeline, embedding, 1, keep_logits=True)

    assert without.low_res_logits is None
    assert with_logits.low_res_logits.shape == (256, 256)
    assert with_logits.low_res_logits.base is None, "a part of a larger array was kept"
