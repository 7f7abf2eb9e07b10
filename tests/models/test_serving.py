"""A worker with several imported models: chosen by request, loaded and unloaded."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from models_support import random_network, save_checkpoint
from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.engines import PRECISIONS
from sam_inference.models.importing import import_checkpoint
from support import IMAGES

PROMPT = pb.Prompt(points=[pb.Point(x=200, y=150)])
# Two of the three models do not fit together: MobileSAM's files have 38 MiB.
MODEL_MEMORY_MIB = 60


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["mobile_sam", "cells"]):
        checkpoint = folder / f"{name}.pt"
        save_checkpoint(random_network("mobile_sam", seed), "mobile_sam", checkpoint)
        import_checkpoint(checkpoint, folder, name=name)
        checkpoint.unlink()
    return folder


@pytest.fixture(scope="module")
def worker(start_worker, model_dir):
    return start_worker(
        *("--model-dir", str(model_dir), "--model", "mobile_sam"),
        *("--model-memory-mib", str(MODEL_MEMORY_MIB)),
    )


@pytest.fixture(scope="module")
def stub(worker):
    with grpc.insecure_channel(worker.target) as channel:
        yield pb_grpc.SegmentAnythingServiceStub(channel)


@pytest.fixture(scope="module")
def image():
    return (IMAGES / "originals/chelsea.png").read_bytes()


def area(stub, image_id, **options):
    (response,) = stub.Decode(pb.DecodeRequest(image_id=image_id, prompts=[PROMPT], **options))
    return response.area_pixels


def test_all_models_are_listed_the_default_first(stub):
    response = stub.ListModels(pb.ListModelsRequest())

    assert response.default_model == "mobile_sam"
    assert [model.name for model in response.models] == ["mobile_sam", "quickstart", "cells"]
    assert {model.engine for model in response.models} == {"openvino"}
    assert response.models[1].precision == "float32"
    assert response.models[0].precision in PRECISIONS  # by whether this CPU has bfloat16
    assert response.models[0].embedding_bytes == 2 * 256 * 64 * 64


def test_models_are_chosen_by_request_and_unloaded_for_each_other(stub, worker, image):
    ids = {
        name: stub.Embed(pb.EmbedRequest(image=image, model=name)).image_id
        for name in ("mobile_sam", "cells", "quickstart")
    }
    first = {name: area(stub, image_id) for name, image_id in ids.items()}
    # Each answer needs a model that was unloaded meanwhile; the embeddings are still held.
    again = {name: area(stub, image_id) for name, image_id in ids.items()}

    assert first == again
    assert len(set(ids.values())) == len(set(first.values())) == 3
    worker.wait_for_log("model unloaded name=(mobile_sam)")
    worker.wait_for_log("model unloaded name=(cells)")


def test_requests_for_several_models_at_once_are_all_answered(stub, image):
    names = ["mobile_sam", "cells", "quickstart"]
    ids = {name: stub.Embed(pb.EmbedRequest(image=image, model=name)).image_id for name in names}
    expected = {name: area(stub, image_id) for name, image_id in ids.items()}

    with ThreadPoolExecutor(6) as threads:
        wanted = names * 4
        areas = list(threads.map(lambda name: area(stub, ids[name]), wanted))

    assert areas == [expected[name] for name in wanted]


def test_an_embedding_is_not_decoded_by_another_model(stub, image):
    embedded = stub.Embed(pb.EmbedRequest(image=image, model="cells", return_embedding=True))

    for source in ({"image_id": embedded.image_id}, {"embedding": embedded.embedding}):
        request = pb.DecodeRequest(prompts=[PROMPT], model="mobile_sam", **source)
        with pytest.raises(grpc.RpcError) as refusal:
            list(stub.Decode(request))
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "the embedding was made by 'cells'" in refusal.value.details()


@pytest.fixture
def damaged(model_dir, tmp_path):
    """A folder with a model whose graph is of the right length, and else wrong."""
    shutil.copytree(model_dir / "cells", tmp_path / "cells")
    graph = tmp_path / "cells" / "encoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    return tmp_path


def test_a_damaged_model_ends_its_calls_and_the_others_are_answered(start_worker, damaged, image):
    worker = start_worker("--model-dir", str(damaged))
    with grpc.insecure_channel(worker.target) as channel:
        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as failure:
                stub.Embed(pb.EmbedRequest(image=image, model="cells"))
            assert failure.value.code() == grpc.StatusCode.INTERNAL
            assert "the model cannot be loaded" in failure.value.details()

        assert stub.Embed(pb.EmbedRequest(image=image)).image_id
    worker.wait_for_log(r"rpc=Embed (OpenVINO cannot load \S+cells/encoder\.onnx)")
    assert "Traceback" not in "".join(worker.log)


def test_a_damaged_model_stops_the_worker_with_its_file(damaged):
    words = ["--listen", "127.0.0.1:0", "--model-dir", str(damaged), "--model", "cells"]
    worker = subprocess.run(
        [sys.executable, "-m", "sam_inference", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert worker.returncode == 1
    assert "encoder.onnx" in worker.stderr
    assert "Traceback" not in worker.stderr


def test_a_model_that_cannot_be_fetched_stops_the_worker_with_advice(tmp_path):
    worker = subprocess.run(
        [sys.executable, "-m", "sam_inference", "--model-dir", str(tmp_path)],
        env={"SAM_MODEL": "mobile_sam", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert worker.returncode == 1
    assert "sam-worker models pull mobile_sam --from FILE-OR-URL" in worker.stderr
    assert "Traceback" not in worker.stderr
