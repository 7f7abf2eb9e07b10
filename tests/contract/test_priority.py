"""Background calls give way to the others, and are answered all the same."""

from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from sam_api.v1 import segment_anything_pb2 as pb

BACKGROUND_CALLS = 24
GRID = [
    pb.Prompt(points=[pb.Point(x=x + 0.5, y=y + 0.5)])
    for x in range(0, 800, 50)
    for y in range(0, 500, 50)
]


@pytest.fixture
def waiters():
    with ThreadPoolExecutor(BACKGROUND_CALLS + 1) as executor:
        yield executor


def test_an_interactive_embed_goes_before_the_background_ones(stub, new_image, waiters):
    calls = [
        waiters.submit(
            stub.Embed, pb.EmbedRequest(image=new_image(), priority=pb.PRIORITY_BACKGROUND)
        )
        for _ in range(BACKGROUND_CALLS)
    ]
    next(as_completed(calls))
    stub.Embed(pb.EmbedRequest(image=new_image()))
    waiting = sum(not call.done() for call in calls)

    # Their results come within milliseconds of each other, but a queue would have answered all.
    assert waiting > 0
    assert all(call.result().image_id for call in calls)


def test_an_interactive_decode_goes_before_a_background_one(stub, dog):
    image_id = stub.Embed(pb.EmbedRequest(image=dog)).image_id
    background = stub.Decode(
        pb.DecodeRequest(image_id=image_id, prompts=GRID, priority=pb.PRIORITY_BACKGROUND)
    )
    masks = [next(background)]

    (clicked,) = stub.Decode(pb.DecodeRequest(image_id=image_id, prompts=GRID[:1]))

    assert not background.done()
    masks += background
    assert sorted(mask.prompt_index for mask in masks) == list(range(len(GRID)))
    assert clicked.mask == next(mask.mask for mask in masks if mask.prompt_index == 0)


def test_a_background_embed_becomes_interactive_when_someone_waits_for_it(stub, new_image, waiters):
    image = new_image()
    calls = [
        waiters.submit(stub.Embed, pb.EmbedRequest(image=some, priority=pb.PRIORITY_BACKGROUND))
        for some in [*(new_image() for _ in range(BACKGROUND_CALLS - 1)), image]
    ]

    wanted = stub.Embed(pb.EmbedRequest(image=image))

    assert wanted.image_id == calls[-1].result().image_id
    assert all(call.result().image_id for call in calls)
