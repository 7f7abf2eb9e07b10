import io
import itertools

import grpc
import numpy as np
import pytest
from PIL import Image

from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from support import IMAGES

_seeds = itertools.count()


@pytest.fixture(scope="session")
def channel(worker_target):
    with grpc.insecure_channel(
        worker_target, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel):
    return pb_grpc.SegmentAnythingServiceStub(channel)


@pytest.fixture(scope="session")
def dog():
    """An 800x534 photo."""
    return (IMAGES / "originals/dog.jpg").read_bytes()


@pytest.fixture
def new_image():
    """Makes 96x64 images that no test has embedded before."""

    def make():
        noise = np.random.default_rng(next(_seeds)).integers(0, 255, (64, 96, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def fresh_image(new_image):
    """A 96x64 image that no test has embedded before."""
    return new_image()
