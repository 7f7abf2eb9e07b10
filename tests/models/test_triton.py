"""Models on a Triton Inference Server: a real one (make triton), or none."""

import gc
import os
import socket
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from models_support import random_network, save_checkpoint
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.engines import EngineError, choose_engine, open_engine, triton_memory
from sam_inference.engines import triton as engine_module
from sam_inference.engines.triton_memory import Regions
from sam_inference.errors import UnavailableError
from sam_inference.interrupt import Interrupt, InterruptedWorkError
from sam_inference.models import BUNDLED, ModelFileError, read_spec
from sam_inference.models.importing import import_checkpoint
from sam_inference.models.triton_repository import export_triton
from sam_inference.prompts import DecoderInputs
from support import IMAGES

VENV = Path(__file__).parents[2] / ".cache" / "triton"
INPUTS = DecoderInputs(
    point_coords=np.array([[[300, 400], [0, 0]], [[100, 900], [500, 20]]], np.float32),
    point_labels=np.array([[1, -1], [1, 0]], np.float32),
    mask_input=np.zeros((2, 1, 256, 256), np.float32),
    has_mask_input=np.zeros(2, np.float32),
)


class TritonServer:
    """A tritonserver from PyPI, which has the Python backend alone."""

    def __init__(self, repository, folder):
        (packages,) = VENV.glob("lib/python*/site-packages")
        home = packages / "pytriton" / "tritonserver"
        version = packages.parent.name.removeprefix("python")
        backend = folder / "backends" / "python"
        backend.mkdir(parents=True)
        for source in (home / "backends/python", home / "python_backend_stubs" / version):
            for path in source.iterdir():
                if path.is_file():
                    (backend / path.name).write_bytes(path.read_bytes())
                    (backend / path.name).chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._command = [
            str(home / "bin/tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backend.parent}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.port}",
            "--allow-http=false",
            "--allow-metrics=false",
        ]
        # The backend's stub would load another libpython that the system may have.
        libraries = [sysconfig.get_config_var("LIBDIR"), packages / "nvidia_pytriton.libs"]
        self._environment = {
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(packages),
        }
        self._log = folder / "triton.log"
        self._process = None

    def start(self):
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        channel = grpc.insecure_channel(self.target)
        try:
            # It listens when its models are loaded.
            grpc.channel_ready_future(channel).result(timeout=120)
        except grpc.FutureTimeoutError:
            pytest.fail(self._log.read_text())
        finally:
            channel.close()

    def stop(self):
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(random_network("mobile_sam"), "mobile_sam", folder / "checkpoint.pt")
    return import_checkpoint(folder / "checkpoint.pt", folder)


@pytest.fixture(scope="module")
def quickstart():
    return read_spec(BUNDLED / "quickstart")


@pytest.fixture(scope="module")
def slow(quickstart):
    """The quickstart model, whose networks answer on the server while their gates are open."""
    return replace(quickstart, name="slow")


@pytest.fixture
def gates(slow_gates):
    """Files, there while the gate is open, named by the network."""
    for part in ("encoder", "decoder"):
        (slow_gates / f"slow_{part}").touch()
    return slow_gates


@pytest.fixture(scope="module")
def slow_gates(tmp_path_factory):
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def triton(spec, quickstart, slow, slow_gates, tmp_path_factory):
    if not VENV.exists():
        pytest.fail("no tritonserver in .cache/triton: run make triton, which sets it up")
    folder = tmp_path_factory.mktemp("triton")
    for model in (spec, quickstart, slow):
        export_triton(model, folder / "repository", "python")
    for network in folder.glob("repository/slow_*"):
        model = network / "1/model.py"
        gate = str(slow_gates / network.name)
        waiting = f"while not Path({gate!r}).exists(): __import__('time').sleep(0.01)"
        method = "def execute(self, requests: list[Any]) -> list[Any]:"
        model.write_text(model.read_text().replace(method, f"{method}\n        {waiting}"))
    server = TritonServer(folder / "repository", folder)
    server.start()
    yield server
    server.stop()


def open_remote(triton, spec):
    return open_engine(choose_engine(f"triton:{triton.target}", "auto", spec), spec, threads=2)


def image_of(spec):
    shape = (1, 3, spec.input_size, spec.input_size)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def regions_of(triton):
    """Return the server's names of the shared memory that it maps."""
    with InferenceServerClient(triton.target) as client:
        return set(client.get_system_shared_memory_status().regions)


@pytest.fixture(params=["shared memory", "messages"])
def tensors_by(request, monkeypatch, tmp_path):
    """How tensors travel: the server looks for shared memory where the system keeps it."""
    if request.param == "messages":
        monkeypatch.setattr(triton_memory, "_FOLDER", tmp_path)
    yield request.param
    assert not list(tmp_path.iterdir())


@pytest.mark.triton
@pytest.mark.parametrize("name", ["mobile_sam", "quickstart"])
def test_triton_gives_what_the_local_engine_gives(triton, spec, quickstart, name, tensors_by):
    spec = spec if name == spec.name else quickstart
    remote = open_remote(triton, spec)
    local = open_engine(choose_engine("onnxruntime", "auto", spec), spec, threads=2)
    image = image_of(spec)

    embedding = remote.encode(image, Interrupt())
    answers = remote.decode(embedding, INPUTS)

    assert len(regions_of(triton)) == (2 if tensors_by == "shared memory" else 0)
    expected = local.encode(image, Interrupt())
    assert embedding.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        np.testing.assert_allclose(embedding[tensor_name], tensor, atol=1e-4)
    for ours, theirs in zip(answers, local.decode(embedding, INPUTS), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.triton
def test_requests_at_once_have_memory_of_their_own(triton, quickstart, tensors_by):
    remote = open_remote(triton, quickstart)
    embedding = remote.encode(image_of(quickstart), Interrupt())
    inputs = [
        replace(INPUTS, point_coords=INPUTS.point_coords + np.float32(10 * number))
        for number in range(8)
    ]

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda item: remote.decode(embedding, item), inputs * 4))

    for number, item in enumerate(inputs):
        expected, _ = remote.decode(embedding, item)
        for logits, _ in answers[number::8]:
            np.testing.assert_array_equal(logits, expected)


@pytest.mark.triton
def test_memory_is_given_back_with_the_engine(triton, quickstart, monkeypatch):
    monkeypatch.setattr(triton_memory, "_STEP_BYTES", 64)
    remote = open_remote(triton, quickstart)
    embedding = remote.encode(image_of(quickstart), Interrupt())
    for points in (1, 9, 40):  # each more than the memory made for fewer holds
        coords, labels = np.zeros((1, points, 2), np.float32), np.ones((1, points), np.float32)
        mask_input, has_mask_input = INPUTS.mask_input[:1], INPUTS.has_mask_input[:1]
        remote.decode(embedding, DecoderInputs(coords, labels, mask_input, has_mask_input))

    assert regions_of(triton)
    assert not list(Path("/dev/shm").glob("samserve-*"))
    del remote
    assert not regions_of(triton)


def once_it_is_there(call, *arguments):
    """Return what `call` does: connections are made anew some seconds after a server is back."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call(*arguments)
        except UnavailableError as error:
            if "shared memory" in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.triton
def test_a_server_started_anew_is_used_as_before(triton, slow, gates, tensors_by):
    remote = open_remote(triton, slow)
    embedding = remote.encode(image_of(slow), Interrupt())
    gate = gates / "slow_decoder"
    gate.unlink()
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(remote.decode, embedding, INPUTS) for _ in range(3)]
        while tensors_by == "shared memory" and len(regions_of(triton)) < 1 + len(answers):
            time.sleep(0.01)
        gate.touch()
        logits, _ = answers[0].result()

    triton.stop()
    with pytest.raises(UnavailableError, match=f"Triton at {triton.target} cannot run"):
        remote.encode(image_of(slow), Interrupt())
    triton.start()
    logits_after, _ = once_it_is_there(remote.decode, embedding, INPUTS)

    np.testing.assert_array_equal(logits_after, logits)


@pytest.mark.triton
def test_a_slow_network_is_told_and_others_go_on(triton, slow, gates, monkeypatch, tensors_by):
    embedding = open_remote(triton, slow).encode(image_of(slow), Interrupt())
    monkeypatch.setattr(engine_module, "_ENCODER_TIMEOUT_S", 0.5)
    remote = open_remote(triton, slow)
    gate = gates / "slow_encoder"
    gate.unlink()

    with ThreadPoolExecutor(1) as thread:
        encoding = thread.submit(remote.encode, image_of(slow), Interrupt())
        logits, _ = remote.decode(embedding, INPUTS)
        with pytest.raises(UnavailableError, match=r"slow_encoder: no answer within 0.5 s; see"):
            encoding.result()
    gate.touch()
    again = once_it_is_there(remote.encode, image_of(slow), Interrupt())

    assert logits.shape == (2, 4, 256, 256)
    np.testing.assert_array_equal(again["image_embedding"], embedding["image_embedding"])
    # The memory of what was given up is forgotten when the server has done with it.
    while len(regions_of(triton)) > 2:
        once_it_is_there(remote.encode, image_of(slow), Interrupt())
    del remote, encoding  # whose error has frames of the engine
    gc.collect()
    assert not regions_of(triton)


@pytest.mark.triton
def test_an_encoding_is_interrupted(triton, slow, gates, tensors_by):
    remote = open_remote(triton, slow)
    gate = gates / "slow_encoder"
    gate.unlink()
    interrupt = Interrupt()

    with ThreadPoolExecutor(1) as thread:
        encoding = thread.submit(remote.encode, image_of(slow), interrupt)
        interrupt.set()
        with pytest.raises(InterruptedWorkError):
            encoding.result()
    gate.touch()

    assert remote.encode(image_of(slow), Interrupt()).keys() == slow.embedding_shapes.keys()


@pytest.mark.triton
def test_a_worker_outlives_a_server_that_goes_and_comes_back(triton, spec, start_worker):
    worker = start_worker(
        *("--engine", f"triton:{triton.target}", "--model-dir", str(spec.folder.parent))
    )
    image = (IMAGES / "originals/chelsea.png").read_bytes()
    request = pb.DecodeRequest(image=image, prompts=[pb.Prompt(points=[pb.Point(x=200, y=150)])])
    with grpc.insecure_channel(worker.target) as channel:
        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        model = stub.ListModels(pb.ListModelsRequest()).models[0]
        (before,) = stub.Decode(request)

        triton.stop()
        with pytest.raises(grpc.RpcError) as refusal:
            list(stub.Decode(request))
        triton.start()
        (after,) = answer_again(stub, request)

    assert (model.engine, model.device) == ("triton", triton.target)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    assert f"Triton at {triton.target}" in refusal.value.details()
    assert after.mask == before.mask
    assert regions_of(triton)
    worker.stop()
    assert not regions_of(triton)


def answer_again(stub, request):
    """Ask until the worker has found its server again, which takes seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return list(stub.Decode(request))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(0.1)
    pytest.fail("the worker does not find the server that is back")


@pytest.mark.triton
def test_a_network_that_the_server_lacks_is_named(triton, quickstart):
    remote = open_remote(triton, replace(quickstart, name="other"))

    with pytest.raises(UnavailableError, match=r"cannot run other_encoder: .*unknown model"):
        remote.encode(image_of(quickstart), Interrupt())


@pytest.mark.triton
def test_a_network_of_another_shape_is_refused(triton, quickstart, tensors_by):
    shapes = {"image_embedding": (1, 256, 32, 128)}
    remote = open_remote(triton, replace(quickstart, embedding_shapes=shapes))

    with pytest.raises(UnavailableError, match=r"image_embedding has the shape .* export"):
        remote.encode(image_of(quickstart), Interrupt())


def test_a_server_that_is_not_there_is_told(spec):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    choice = choose_engine(f"triton:127.0.0.1:{port}", "auto", spec)
    engine = open_engine(choice, spec, threads=2)

    with pytest.raises(UnavailableError, match=f"Triton at 127.0.0.1:{port} cannot run"):
        engine.encode(np.zeros((1, 3, 1024, 1024), np.float32), Interrupt())


def test_memory_that_the_system_lacks_is_not_shared():
    regions = Regions(InferenceServerClient("127.0.0.1:1"), "127.0.0.1:1", timeout_s=1)

    with regions.lend([(1 << 40,)]) as region:  # 4 TiB
        assert region is None

    assert not list(Path("/dev/shm").glob("samserve-*"))


def test_bfloat16_is_not_asked_of_a_server(spec):
    with pytest.raises(EngineError, match="run in float32"):
        choose_engine("triton:127.0.0.1:8001", "bfloat16", spec)


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_an_exported_model_is_complete_and_never_overwritten(spec, tmp_path, backend):
    export_triton(spec, tmp_path, backend)

    for part in ("encoder", "decoder"):
        folder = tmp_path / f"mobile_sam_{part}"
        assert f'backend: "{backend}"' in (folder / "config.pbtxt").read_text()
        files = {"model.onnx", f"{part}.weights"} | ({"model.py"} if backend == "python" else set())
        assert {path.name for path in (folder / "1").iterdir()} == files
    with pytest.raises(ModelFileError, match="exists already"):
        export_triton(spec, tmp_path, backend)


# The server does not run here, but its reading of these files is known.
@pytest.mark.parametrize("name", ["mobile_sam", "quickstart"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_what_the_onnx_backend_is_told_is_what_the_graph_says(
    spec, quickstart, tmp_path, name, part
):
    export_triton(spec if name == spec.name else quickstart, tmp_path, "onnxruntime")

    folder = tmp_path / f"{name}_{part}"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    model = onnx.load(folder / "1/model.onnx")  # with its weights, from the file beside it

    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 0)
    for told, values in ((config.input, model.graph.input), (config.output, model.graph.output)):
        assert [tensor.name for tensor in told] == [value.name for value in values]
        for tensor, value in zip(told, values, strict=True):
            # Where the graph leaves a length open, it may be told.
            lengths = value.type.tensor_type.shape.dim
            assert list(tensor.dims) == [
                length.dim_value or dim for length, dim in zip(lengths, tensor.dims, strict=True)
            ]
            assert (tensor.data_type, value.type.tensor_type.elem_type) == (
                DataType.TYPE_FP32,
                onnx.TensorProto.FLOAT,
            )
