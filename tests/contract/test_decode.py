import io

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image
from pycocotools import mask as coco

from grpc_details import details_of
from sam_api.v1 import segment_anything_pb2 as pb
from sam_core import mask_from_counts
from sam_inference.models import BUNDLED, read_spec

WIDTH, HEIGHT = 800, 534


def point(x, y, label=pb.POINT_LABEL_POSITIVE):
    return pb.Point(x=x, y=y, label=label)


CLICK = pb.Prompt(points=[point(400, 250)])


@pytest.fixture(scope="module")
def embedded(stub, dog):
    return stub.Embed(pb.EmbedRequest(image=dog, return_embedding=True))


@pytest.fixture(scope="module")
def decode(stub, embedded):
    def call(*prompts, **options):
        if not options.keys() & {"image_id", "image", "embedding"}:
            options["image_id"] = embedded.image_id
        return list(stub.Decode(pb.DecodeRequest(prompts=prompts, **options)))

    return call


def pixels(response):
    mask = response.mask
    return mask_from_counts(np.array(mask.run_lengths.counts, np.uint32), mask.height, mask.width)


def test_a_click_gives_one_mask_at_the_size_of_the_image(decode, embedded):
    (response,) = decode(CLICK)

    mask = pixels(response)
    assert mask.shape == (HEIGHT, WIDTH)
    assert (response.prompt_index, response.mask_index) == (0, 0)
    assert response.image_id == embedded.image_id
    assert response.area_pixels == mask.sum() > 0
    assert mask[250, 400]
    assert 0 <= response.stability_score <= 1
    rows, columns = np.nonzero(mask)
    assert response.box == pb.Box(
        x_min=columns.min(), y_min=rows.min(), x_max=columns.max() + 1, y_max=rows.max() + 1
    )
    assert response.timings.decoder_ms > 0
    assert not response.HasField("low_res_logits")


def test_three_candidates_come_best_first(decode):
    responses = decode(CLICK, multimask_output=True)

    scores = [response.predicted_iou for response in responses]
    assert scores == sorted(scores, reverse=True)
    assert sorted(response.mask_index for response in responses) == [0, 1, 2]


def test_prompts_of_one_request_are_told_apart_by_index(decode):
    prompts = [
        CLICK,
        pb.Prompt(box=pb.Box(x_min=200, y_min=50, x_max=600, y_max=500)),
        pb.Prompt(points=[point(50, 50)]),
    ]

    together = decode(*prompts, multimask_output=True)

    assert len(together) == 9
    order = [response.prompt_index for response in together]
    assert order[0::3] == order[1::3] == order[2::3]
    for index, prompt in enumerate(prompts):
        alone = decode(prompt, multimask_output=True)
        mine = [response for response in together if response.prompt_index == index]
        assert [r.mask.run_lengths for r in mine] == [r.mask.run_lengths for r in alone]


def test_points_a_box_and_a_mask_input_mix(decode):
    (first,) = decode(CLICK, return_low_res_logits=True)
    mixed = pb.Prompt(
        points=[point(400, 250), point(20, 20, pb.POINT_LABEL_NEGATIVE)],
        box=pb.Box(x_min=200, y_min=50, x_max=600, y_max=500),
        mask_input=first.low_res_logits,
    )

    (response,) = decode(mixed)

    mask = pixels(response)
    assert mask[250, 400]
    assert not mask[20, 20]
    assert response.mask != first.mask
    without = pb.Prompt(points=mixed.points, box=mixed.box)
    assert decode(without)[0].mask != response.mask


def test_low_res_logits_may_be_sent_as_half_precision(decode):
    (first,) = decode(CLICK, return_low_res_logits=True)
    logits = np.frombuffer(first.low_res_logits.data, "<f4")
    half = pb.Tensor(
        shape=first.low_res_logits.shape,
        type=pb.TENSOR_TYPE_FLOAT16,
        data=logits.astype("<f2").tobytes(),
    )

    (response,) = decode(pb.Prompt(mask_input=half))

    assert response.mask.width == WIDTH


def test_all_encodings_hold_the_same_pixels(decode):
    expected = pixels(decode(CLICK)[0])

    (as_coco,) = decode(CLICK, mask_encoding=pb.MASK_ENCODING_COCO_RLE)
    (as_bits,) = decode(CLICK, mask_encoding=pb.MASK_ENCODING_PACKED_BITS)
    (as_png,) = decode(CLICK, mask_encoding=pb.MASK_ENCODING_PNG)

    rle = {"size": [HEIGHT, WIDTH], "counts": as_coco.mask.coco_rle}
    assert np.array_equal(coco.decode(rle), expected)
    bits = np.unpackbits(np.frombuffer(as_bits.mask.packed_bits, np.uint8))
    assert np.array_equal(bits[: HEIGHT * WIDTH].reshape(HEIGHT, WIDTH), expected)
    with Image.open(io.BytesIO(as_png.mask.png)) as png:
        assert np.array_equal(np.asarray(png), expected)


def test_the_image_or_its_embedding_may_come_with_the_request(stub, decode, embedded, dog):
    expected = decode(CLICK)[0]

    (with_image,) = stub.Decode(pb.DecodeRequest(image=dog, prompts=[CLICK]))
    (with_embedding,) = stub.Decode(pb.DecodeRequest(embedding=embedded.embedding, prompts=[CLICK]))

    assert with_image.mask == with_embedding.mask == expected.mask
    assert with_image.image_id == embedded.image_id
    assert with_embedding.image_id == ""


def test_an_image_id_that_is_not_held_is_not_found(decode):
    with pytest.raises(grpc.RpcError) as refusal:
        decode(CLICK, image_id="quickstart:0123")

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    info = details_of(refusal.value, error_details_pb2.ErrorInfo)
    assert (info.reason, info.metadata["image_id"]) == ("EMBEDDING_NOT_FOUND", "quickstart:0123")


def test_an_evicted_image_is_not_found_and_comes_back(start_worker, fresh_image, dog):
    worker = start_worker("--embedding-cache-mib", "1")
    with grpc.insecure_channel(worker.target) as channel:
        from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc

        stub = pb_grpc.SegmentAnythingServiceStub(channel)
        held_at_once = (1 << 20) // stub.ListModels(pb.ListModelsRequest()).models[
            0
        ].embedding_bytes
        first = stub.Embed(pb.EmbedRequest(image=fresh_image))
        for index in range(held_at_once):
            stub.Embed(pb.EmbedRequest(image=_plain_image(index)))

        prompt = pb.Prompt(points=[point(10, 10)])
        request = pb.DecodeRequest(image_id=first.image_id, prompts=[prompt])
        with pytest.raises(grpc.RpcError) as refusal:
            list(stub.Decode(request))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        assert stub.Embed(pb.EmbedRequest(image=fresh_image)).cached is False
        assert len(list(stub.Decode(request))) == 1
    assert worker.stop() == 0


def _plain_image(level):
    file = io.BytesIO()
    Image.new("L", (32, 32), level).save(file, "PNG")
    return file.getvalue()


def tensor(shape=(1, 256, 256), kind=pb.TENSOR_TYPE_FLOAT32, size=None, value=0.0):
    data = np.full(shape, value, "<f4").tobytes() if size is None else bytes(size)
    return pb.Tensor(shape=shape, type=kind, data=data)


def large_embedding():
    (shape,) = read_spec(BUNDLED / "quickstart").embedding_shapes.values()
    large = tensor(shape, value=1e6)
    large.name = "image_embedding"
    return large


NAN = float("nan")


@pytest.mark.parametrize(
    ("prompts", "options", "field"),
    [
        ([], {}, "prompts"),
        ([CLICK] * 257, {}, "prompts"),
        ([pb.Prompt()], {}, "prompts[0]"),
        ([CLICK, pb.Prompt(points=[point(NAN, 1)])], {}, "prompts[1].points[0].x"),
        ([pb.Prompt(points=[point(1, HEIGHT + 1)])], {}, "prompts[0].points[0].y"),
        ([pb.Prompt(points=[point(1, 1)] * 257)], {}, "prompts[0].points"),
        ([pb.Prompt(points=[pb.Point(x=1, y=1, label=9)])], {}, "prompts[0].points[0].label"),
        ([pb.Prompt(box=pb.Box(x_min=5, y_min=5, x_max=5, y_max=9))], {}, "prompts[0].box"),
        ([pb.Prompt(box=pb.Box(x_max=801, y_max=9))], {}, "prompts[0].box.x_max"),
        (
            [pb.Prompt(mask_input=tensor((1, 255, 256)))],
            {},
            "prompts[0].mask_input.shape",
        ),
        ([pb.Prompt(mask_input=tensor((1,) * 65, size=4))], {}, "prompts[0].mask_input.shape"),
        (
            [pb.Prompt(mask_input=tensor((127,) * 200_000, size=4))],
            {},
            "prompts[0].mask_input.shape",
        ),
        (
            [pb.Prompt(mask_input=tensor((1 << 31, 1 << 31, 0), size=0))],
            {},
            "prompts[0].mask_input.shape",
        ),
        ([pb.Prompt(mask_input=tensor(()))], {}, "prompts[0].mask_input.shape"),
        ([pb.Prompt(mask_input=tensor(kind=0))], {}, "prompts[0].mask_input.type"),
        ([pb.Prompt(mask_input=tensor(size=7))], {}, "prompts[0].mask_input.data"),
        ([pb.Prompt(mask_input=tensor(value=NAN))], {}, "prompts[0].mask_input.data"),
        ([CLICK], {"mask_encoding": 77}, "mask_encoding"),
        ([CLICK], {"image": b"not an image"}, "image"),
        ([CLICK], {"embedding": pb.Embedding(width=1, height=1)}, "embedding.tensors"),
        ([CLICK], {"embedding": pb.Embedding(width=1 << 31, height=1 << 31)}, "embedding.width"),
        ([CLICK], {"embedding": pb.Embedding(width=(1 << 20) + 1, height=1)}, "embedding.width"),
        (
            [CLICK],
            {"embedding": pb.Embedding(width=1, height=1, tensors=[pb.Tensor(name="x")])},
            "embedding.tensors[0].name",
        ),
        (
            [CLICK],
            {
                "embedding": pb.Embedding(
                    width=1,
                    height=1,
                    tensors=[
                        pb.Tensor(
                            name="image_embedding",
                            shape=[1],
                            type=pb.TENSOR_TYPE_FLOAT16,
                            data=b"ab",
                        )
                    ],
                )
            },
            "embedding.tensors[0].shape",
        ),
        (  # finite, but not in float16, in which embeddings are kept
            [CLICK],
            {"embedding": pb.Embedding(width=1, height=1, tensors=[large_embedding()])},
            "embedding.tensors[0].data",
        ),
    ],
)
def test_a_wrong_request_is_refused_by_field(decode, prompts, options, field):
    with pytest.raises(grpc.RpcError) as refusal:
        decode(*prompts, **options)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad_request = details_of(refusal.value, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad_request.field_violations] == [field]
    assert refusal.value.details().startswith(field)


def test_a_request_without_an_image_source_is_refused(stub):
    with pytest.raises(grpc.RpcError) as refusal:
        list(stub.Decode(pb.DecodeRequest(prompts=[CLICK])))

    bad_request = details_of(refusal.value, error_details_pb2.BadRequest)
    assert bad_request.field_violations[0].field == "image_source"


def test_a_call_that_is_cancelled_leaves_the_worker_working(stub, decode, embedded):
    request = pb.DecodeRequest(
        image_id=embedded.image_id, prompts=[CLICK] * 200, multimask_output=True
    )
    call = stub.Decode(request)
    next(iter(call))
    call.cancel()

    with pytest.raises(grpc.RpcError) as end:
        list(call)
    assert end.value.code() is grpc.StatusCode.CANCELLED
    assert len(decode(CLICK)) == 1


def test_a_deadline_ends_a_call(stub, embedded):
    request = pb.DecodeRequest(image_id=embedded.image_id, prompts=[CLICK] * 256)

    with pytest.raises(grpc.RpcError) as end:
        list(stub.Decode(request, timeout=0.02))

    assert end.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
