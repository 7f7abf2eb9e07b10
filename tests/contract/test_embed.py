import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from grpc_details import details_of
from sam_api.v1 import segment_anything_pb2 as pb
from support import IMAGES, expected_images


@pytest.mark.parametrize(("path", "expected"), expected_images().items())
def test_each_test_image_is_embedded_or_refused_as_its_manifest_says(stub, path, expected):
    request = pb.EmbedRequest(image=(IMAGES / path).read_bytes())

    if expected["accept"]:
        response = stub.Embed(request)
        assert (response.width, response.height) == (expected["width"], expected["height"])
        assert response.image_id
        return

    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(request)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad_request = details_of(refusal.value, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad_request.field_violations] == ["image"]


def test_the_same_image_is_encoded_once(stub, fresh_image):
    first = stub.Embed(pb.EmbedRequest(image=fresh_image))
    second = stub.Embed(pb.EmbedRequest(image=fresh_image, model=first.model))

    assert (first.cached, second.cached) == (False, True)
    assert first.image_id == second.image_id
    assert first.timings.encoder_ms > 0
    assert second.timings == pb.EmbedTimings()


def test_calls_at_the_same_time_share_one_encoding(stub, fresh_image):
    calls = [stub.Embed.future(pb.EmbedRequest(image=fresh_image)) for _ in range(8)]

    responses = [call.result() for call in calls]

    assert len({response.image_id for response in responses}) == 1
    encodings = {
        response.timings.encoder_ms for response in responses if response.timings.encoder_ms
    }
    assert len(encodings) <= 1


def test_the_embedding_is_returned_when_asked_for(stub, dog):
    response = stub.Embed(pb.EmbedRequest(image=dog, return_embedding=True))

    models = stub.ListModels(pb.ListModelsRequest()).models
    total = 0
    for tensor in response.embedding.tensors:
        values = np.frombuffer(tensor.data, np.float16).reshape(tuple(tensor.shape))
        assert tensor.type == pb.TENSOR_TYPE_FLOAT16
        assert np.isfinite(values).all()
        total += values.nbytes
    assert total == models[0].embedding_bytes
    assert not stub.Embed(pb.EmbedRequest(image=dog)).HasField("embedding")


def test_an_unknown_model_is_not_found_and_the_others_are_listed(stub, dog):
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(pb.EmbedRequest(image=dog, model="sam_vit_z"))

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    info = details_of(refusal.value, error_details_pb2.ErrorInfo)
    assert info.reason == "MODEL_NOT_FOUND"
    assert "quickstart" in info.metadata["models"].split(",")


def test_a_message_over_the_limit_is_refused_and_the_connection_lives_on(stub, dog):
    limit = stub.ListModels(pb.ListModelsRequest()).limits.max_message_bytes

    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(pb.EmbedRequest(image=bytes(limit + 1)))

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Embed(pb.EmbedRequest(image=dog)).width == 800
