"""A network's run can be ended from another thread, and the next run is as good as ever."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from models_support import random_network, save_checkpoint
from sam_inference.engines import choose_engine, open_engine
from sam_inference.interrupt import Interrupt, InterruptedWorkError
from sam_inference.models.importing import import_checkpoint

# A run takes some hundred milliseconds; it may end before it is interrupted, but not each time.
TRIES = 20
DELAY_S = 0.05


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoint = folder / "mobile_sam.pt"
    save_checkpoint(random_network("mobile_sam"), "mobile_sam", checkpoint)
    return import_checkpoint(checkpoint, folder)


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def engine(request, spec):
    return open_engine(choose_engine(request.param, "float32", spec), spec, threads=1)


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((1, 3, 1024, 1024), np.float32)


def test_an_encoding_under_way_ends_and_the_next_one_is_whole(engine, image):
    whole = engine.encode(image, Interrupt())["image_embedding"]

    for _ in range(TRIES):
        interrupt = Interrupt()
        timer = threading.Timer(DELAY_S, interrupt.set)
        timer.start()
        try:
            engine.encode(image, interrupt)
        except InterruptedWorkError:
            break
        finally:
            timer.join()
    else:
        pytest.fail(f"none of {TRIES} encodings was interrupted")

    np.testing.assert_array_equal(engine.encode(image, Interrupt())["image_embedding"], whole)


def test_an_interrupt_between_the_preparation_and_the_start_is_not_lost(spec, image, monkeypatch):
    engine = open_engine(choose_engine("openvino", "float32", spec), spec, threads=1)
    interrupt = Interrupt()

    class Request:
        """A request before whose start the interrupt comes."""

        def __init__(self, request):
            self._request = request

        def __getattr__(self, name):
            return getattr(self._request, name)

        def start_async(self, inputs):
            interrupt.set()
            self._request.start_async(inputs)

    create = engine._encoder.create_infer_request
    monkeypatch.setattr(
        engine, "_encoder", SimpleNamespace(create_infer_request=lambda: Request(create()))
    )

    with pytest.raises(InterruptedWorkError):
        engine.encode(image, interrupt)


def test_an_encoding_interrupted_before_it_begins_does_nothing(engine, image):
    interrupt = Interrupt()
    interrupt.set()

    with pytest.raises(InterruptedWorkError):
        engine.encode(image, interrupt)
