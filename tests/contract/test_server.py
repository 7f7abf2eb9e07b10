import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from grpc_details import details_of
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.models import BUNDLED

SERVICE = "segment_anything.v1.SegmentAnythingService"


@pytest.fixture
def model_dir(tmp_path):
    """Two models, `wide` and `broken`.

    `wide` has embeddings as large as SAM's, and graphs of another version; `broken` lacks one.
    """
    for name in ("wide", "broken"):
        shutil.copytree(BUNDLED / "quickstart", tmp_path / name)
        path = tmp_path / name / "model.json"
        changes = {
            "name": name,
            "embedding": {"image_embedding": [1, 256, 64, 64]},
            "architecture": "mobile_sam",
            "files": {"encoder.onnx": "its digest"},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (tmp_path / "broken" / "decoder.onnx").unlink()
    return tmp_path


def run_worker(*words, env=None):
    """Run `sam-worker` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sam_inference", *words],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_models_are_listed_with_their_engine_and_the_limits(stub):
    response = stub.ListModels(pb.ListModelsRequest())

    model = response.models[0]
    assert model.name == response.default_model == "quickstart"
    assert (model.engine, model.device, model.precision) == ("openvino", "CPU", "float32")
    assert model.mask_size == 256
    assert model.licence == "Apache-2.0"
    assert response.limits == pb.Limits(
        max_message_bytes=64 << 20, max_image_pixels=100_000_000, max_prompts=256, max_points=256
    )


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_told_for_the_server_and_the_service(channel, service):
    response = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )

    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_names_the_service(channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    (response,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([request])
    )

    names = {service.name for service in response.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_calls_finish(start_worker, dog, number):
    worker = start_worker()
    with grpc.insecure_channel(worker.target) as channel:
        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        embedded = stub.Embed(pb.EmbedRequest(image=dog))
        prompts = [pb.Prompt(points=[pb.Point(x=400, y=250)])] * 20
        call = stub.Decode(pb.DecodeRequest(image_id=embedded.image_id, prompts=prompts))
        masks = [next(iter(call))]

        worker.process.send_signal(number)
        masks += call

    assert len(masks) == 20
    assert worker.process.wait(30) == 0


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_worker_stopped_as_soon_as_it_is_ready_leaves_no_process(start_worker, engine):
    worker = start_worker("--engine", engine)
    children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")

    assert children.read_text() == ""
    assert worker.stop() == 0


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_answer_alike(start_worker, stub, dog, engine):
    worker = start_worker("--engine", engine)
    prompt = pb.Prompt(points=[pb.Point(x=400, y=250)])
    request = pb.DecodeRequest(image=dog, prompts=[prompt], return_low_res_logits=True)

    with grpc.insecure_channel(worker.target) as channel:
        other = pb_grpc.SegmentAnythingServiceStub(channel)
        (theirs,) = other.Decode(request)
        assert other.ListModels(pb.ListModelsRequest()).models[0].engine == engine
    (ours,) = stub.Decode(request)

    assert theirs.predicted_iou == pytest.approx(ours.predicted_iou, abs=1e-2)
    smaller, larger = sorted([theirs.area_pixels, ours.area_pixels])
    assert smaller > 0.99 * larger
    assert worker.stop() == 0


def test_a_full_queue_refuses_and_says_when_to_try_again(start_worker, dog):
    worker = start_worker("--max-requests", "1")
    prompts = [pb.Prompt(points=[pb.Point(x=400, y=250)])] * 256
    with grpc.insecure_channel(worker.target) as channel:
        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        embedded = stub.Embed(pb.EmbedRequest(image=dog))
        busy = stub.Decode(pb.DecodeRequest(image_id=embedded.image_id, prompts=prompts))
        next(iter(busy))

        with pytest.raises(grpc.RpcError) as refusal:
            list(stub.Decode(pb.DecodeRequest(image_id=embedded.image_id, prompts=prompts[:1])))
        busy.cancel()

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = details_of(refusal.value, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() > 0
    assert worker.stop() == 0


def test_the_log_has_a_line_for_each_call_and_no_traceback(start_worker, dog):
    worker = start_worker()
    with grpc.insecure_channel(worker.target) as channel:
        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        stub.Embed(pb.EmbedRequest(image=dog))
        with pytest.raises(grpc.RpcError):
            stub.Embed(pb.EmbedRequest(image=b"no image"))
    assert worker.stop() == 0

    log = "".join(worker.log)
    assert "rpc=Embed code=OK model=quickstart width=800 height=534 cached=False" in log
    assert "rpc=Embed code=INVALID_ARGUMENT" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--listen", "256.0.0.1:1"], 1, "cannot listen on 256.0.0.1:1"),
        (
            ["--model", "mobilesam"],
            1,
            "no model named 'mobilesam'; there are: quickstart, wide; can be pulled: mobile_sam",
        ),
        (
            ["--model", "mobile_sam", "--model-dir", __file__],
            1,
            f"MODEL_DIR: {__file__}: Not a directory; a folder that can be read was expected",
        ),
        (["--model", "broken"], 1, "broken/decoder.onnx: no such file; remove the folder"),
        (
            ["--model", "wide", "--embedding-cache-mib", "1"],
            2,  # as for any setting that cannot be used
            "EMBEDDING_CACHE_MIB is 1, but one embedding of wide has 2097152 bytes; set it to 2",
        ),
    ],
)
def test_a_worker_that_cannot_start_says_why(model_dir, flags, status, message):
    ended = run_worker("--listen", "127.0.0.1:0", "--model-dir", str(model_dir), *flags)

    assert ended.returncode == status
    assert f"cannot start: {message}" in ended.stderr.replace(f"{model_dir}/", "")
    assert "Traceback" not in ended.stderr


def test_models_that_cannot_be_served_are_told_of_and_the_others_served(start_worker, model_dir):
    worker = start_worker("--model-dir", str(model_dir), "--embedding-cache-mib", "1")

    with grpc.insecure_channel(worker.target) as channel:
        response = pb_grpc.SegmentAnythingServiceStub(channel).ListModels(pb.ListModelsRequest())
    assert worker.stop() == 0

    assert [model.name for model in response.models] == ["quickstart"]
    log = "".join(worker.log)
    assert f"{model_dir}/broken/decoder.onnx: no such file" in log
    assert "graphs of another version name=wide; `sam-worker models update wide` brings" in log
    assert "not offered name=wide reason='EMBEDDING_CACHE_MIB is 1" in log


def test_the_largest_limits_are_kept_and_told(start_worker):
    limits = {
        "--max-message-mib": "2047",
        "--max-image-pixels": "4294967295",
        "--max-prompts": "4294967295",
        "--max-points": "4294967295",
    }
    worker = start_worker(*(word for limit in limits.items() for word in limit))

    with grpc.insecure_channel(worker.target) as channel:
        response = pb_grpc.SegmentAnythingServiceStub(channel).ListModels(pb.ListModelsRequest())
    assert worker.stop() == 0

    assert response.limits.max_message_bytes == 2047 << 20
    assert response.limits.max_image_pixels == response.limits.max_points == 4294967295


@pytest.mark.parametrize(
    "words",
    [
        ["models", "list"],
        ["--model-dir", "DIR", "models", "list"],
        ["models", "--model-dir", "DIR", "list"],
        ["models", "list", "--model-dir=DIR"],
    ],
)
def test_the_models_command_takes_the_folder_anywhere(model_dir, words):
    ended = run_worker(
        *(word.replace("DIR", str(model_dir)) for word in words),
        env={"MODEL_DIR": str(model_dir) if len(words) == 2 else "nowhere"},
    )

    assert ended.returncode == 0
    assert "wide " in ended.stdout
    assert "broken/decoder.onnx" in ended.stderr


@pytest.fixture
def silent_proxy():
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


@contextmanager
def running(*words, **options):
    """Run `sam-worker`, and kill it in the end if it runs still."""
    command = [sys.executable, "-m", "sam_inference", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def behind_proxy(silent_proxy, tmp_path):
    """The environment in which a model is fetched for ever."""
    proxy = f"http://127.0.0.1:{silent_proxy.getsockname()[1]}"
    return {"SAM_MODEL": "mobile_sam", "MODEL_DIR": str(tmp_path), "https_proxy": proxy}


@pytest.mark.parametrize("end", ["its parent", "a signal"])
def test_a_worker_can_be_stopped_while_it_fetches_its_model(
    tmp_path, silent_proxy, behind_proxy, end
):
    words = ["--exit-with-parent", "--listen", "127.0.0.1:0"]
    with running(*words, env=behind_proxy, stdin=subprocess.PIPE) as worker:
        connection, _ = silent_proxy.accept()
        with connection:
            if end == "its parent":
                worker.stdin.close()
            else:
                worker.terminate()

            assert worker.wait(30) == 0
        assert "Traceback" not in worker.stderr.read()
    assert not list(tmp_path.glob(".downloads/*"))


def test_a_socket_is_taken_from_the_dead_and_not_from_the_living(start_worker, tmp_path):
    target = f"unix:{tmp_path}/socket"
    start_worker("--listen", target).process.kill()  # and its socket stays

    worker = start_worker("--listen", target)
    ended = run_worker("--listen", target)

    assert ended.returncode == 1
    assert f"cannot listen on {target}: another program does" in ended.stderr
    with grpc.insecure_channel(target) as channel:
        assert pb_grpc.SegmentAnythingServiceStub(channel).ListModels(pb.ListModelsRequest()).models
    worker.stop()


def test_a_command_that_is_stopped_tells_the_signal(silent_proxy, behind_proxy):
    with running("models", "pull", "mobile_sam", env=behind_proxy) as command:
        connection, _ = silent_proxy.accept()
        with connection:
            command.send_signal(signal.SIGINT)

            assert command.wait(30) == 128 + signal.SIGINT
        assert command.stderr.read() == ""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_worker_can_be_stopped_while_it_loads_its_model(model_dir, engine):
    # A pipe that nobody writes to: loading it never ends.
    graph = model_dir / "wide" / "encoder.onnx"
    graph.unlink()
    os.mkfifo(graph)
    words = ["--model", "wide", "--model-dir", str(model_dir), "--engine", engine]
    with running("--listen", "127.0.0.1:0", *words) as worker:
        line = next(line for line in worker.stderr if "listening" in line)
        with grpc.insecure_channel(line.rpartition("target=")[2].strip()) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            response = health.Check(health_pb2.HealthCheckRequest())
            assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING

        worker.terminate()

        assert worker.wait(30) == 0


@pytest.mark.parametrize("end", ["its parent", "a signal"])
def test_a_worker_of_a_parent_ends_with_it_or_before_it(tmp_path, end):
    socket = tmp_path / "worker.sock"
    worker = subprocess.Popen(
        [sys.executable, "-m", "sam_inference", "--exit-with-parent", "--listen", f"unix:{socket}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with worker:
        assert any("ready model=" in line for line in worker.stderr)
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = pb_grpc.SegmentAnythingServiceStub(channel)
            assert stub.ListModels(pb.ListModelsRequest()).default_model

        if end == "its parent":
            worker.stdin.close()
        else:
            worker.terminate()

        assert worker.wait(30) == 0
