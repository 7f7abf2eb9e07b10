import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from grpc_details import details_of
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc

SERVICE = "segment_anything.v1.SegmentAnythingService"


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
    ("flags", "message"),
    [
        (["--listen", "256.0.0.1:1"], "cannot listen on 256.0.0.1:1"),
        (["--model", "nothing"], "no model named 'nothing'; there are: quickstart"),
    ],
)
def test_a_worker_that_cannot_start_says_why(flags, message):
    ended = subprocess.run(
        [sys.executable, "-m", "sam_inference", "--listen", "127.0.0.1:0", *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


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
