"""Models on a Triton Inference Server: a real one (make triton), or none."""

import os
import socket
import subprocess
import sysconfig
from pathlib import Path

import grpc
import numpy as np
import pytest

from models_support import random_network, save_checkpoint
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.engines import EngineError, choose_engine, open_engine
from sam_inference.errors import UnavailableError
from sam_inference.interrupt import Interrupt
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
def triton(spec, tmp_path_factory):
    if not VENV.exists():
        pytest.fail("no tritonserver in .cache/triton: run make triton, which sets it up")
    folder = tmp_path_factory.mktemp("triton")
    for model in (spec, read_spec(BUNDLED / "quickstart")):
        export_triton(model, folder / "repository", "python")
    server = TritonServer(folder / "repository", folder)
    server.start()
    yield server
    server.stop()


@pytest.mark.triton
@pytest.mark.parametrize("name", ["mobile_sam", "quickstart"])
def test_triton_gives_what_the_local_engine_gives(triton, spec, name):
    spec = spec if name == spec.name else read_spec(BUNDLED / name)
    choice = choose_engine(f"triton:{triton.target}", "auto", spec)
    remote = open_engine(choice, spec, threads=2)
    local = open_engine(choose_engine("onnxruntime", "auto", spec), spec, threads=2)
    generator = np.random.default_rng(0)
    image = generator.standard_normal((1, 3, spec.input_size, spec.input_size), np.float32)

    embedding = remote.encode(image, Interrupt())
    answers = remote.decode(embedding, INPUTS)

    expected = local.encode(image, Interrupt())
    assert embedding.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        np.testing.assert_allclose(embedding[tensor_name], tensor, atol=1e-4)
    for ours, theirs in zip(answers, local.decode(embedding, INPUTS), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


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
        (after,) = stub.Decode(request, wait_for_ready=True)

    assert (model.engine, model.device) == ("triton", triton.target)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    assert f"Triton at {triton.target}" in refusal.value.details()
    assert after.mask == before.mask


@pytest.mark.triton
def test_a_model_that_the_server_lacks_is_named(triton, spec, tmp_path):
    copy = import_copy(spec, tmp_path)
    engine = open_engine(choose_engine(f"triton:{triton.target}", "auto", copy), copy, threads=2)

    with pytest.raises(UnavailableError, match=r"cannot run other_decoder: .*unknown model"):
        engine.decode({"image_embedding": np.zeros((1, 256, 64, 64), np.float32)}, INPUTS)


def import_copy(spec, folder):
    checkpoint = folder / "checkpoint.pt"
    save_checkpoint(random_network("mobile_sam"), "mobile_sam", checkpoint)
    return import_checkpoint(checkpoint, folder, name="other")


def test_a_server_that_is_not_there_is_told(spec):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    choice = choose_engine(f"triton:127.0.0.1:{port}", "auto", spec)
    engine = open_engine(choice, spec, threads=2)

    with pytest.raises(UnavailableError, match=f"Triton at 127.0.0.1:{port} cannot run"):
        engine.encode(np.zeros((1, 3, 1024, 1024), np.float32), Interrupt())


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
