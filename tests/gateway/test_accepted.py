"""Prompts of accepted regions, which Label Studio sends again with those of the next object."""

import copy
import io
import json

import pytest

from gateway_support import key_point, recorded, region_mask
from sam_gateway.accepted import region_id
from sam_gateway.prompts import group_prompts, parse_predict

SIZE = (1024, 683)


def dot(name, *, positive=True, label="Cat", x=10):
    value = {"x": x, "y": 20, "width": 0.3, "keypointlabels": [label]}
    return key_point(x, 20, size=SIZE, id=name, is_positive=positive, value=value)


def rectangle(name):
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["Cat"]}
    return key_point(0, 0, size=SIZE, id=name, type="rectanglelabels", value=value)


def region(prompt_id, *, control="brush", label="Cat", part=0):
    return {
        "id": region_id(prompt_id, control, [label], part),
        "type": "brushlabels",
        "from_name": control,
        "to_name": "image",
        "value": {"format": "rle", "rle": [], "brushlabels": [label]},
    }


def objects(prompts, *results, key="drafts"):
    task = {"id": 1, "data": {}, key: [{"id": 5, "result": result} for result in results]}
    request = parse_predict(
        {"tasks": [task], "label_config": "x", "params": {"context": {"result": prompts}}}
    )
    return [
        (item.prompt_id, len(item.points))
        for group in group_prompts(prompts, request.tasks[0].saved)
        for item in group.objects
    ]


A, B, C, D = (dot(name, x=10 * i) for i, name in enumerate("abcd"))
NOT_B = dot("b", positive=False)


@pytest.mark.parametrize("key", ["drafts", "annotations"])
@pytest.mark.parametrize(
    ("prompts", "draft", "expected"),
    [
        ([A, B], [], [("a", 2)]),
        ([A, B], [A, B], [("a", 2)]),
        ([A, B], [A, region("a"), B], [("b", 1)]),
        ([A, B], [A, region("a")], [("b", 1)]),
        ([A, B, C], [A, B, region("a"), C], [("c", 1)]),
        ([A, B, C], [A, region("a"), B, region("b"), C], [("c", 1)]),
        ([A, B, C, D], [A, region("a"), B, C, region("b"), D], [("d", 1)]),
        # A negative click alone is not a new object: the accepted one is refined.
        ([A, NOT_B], [A, region("a"), NOT_B], [("a", 2)]),
        ([A, NOT_B, C], [A, region("a"), NOT_B, C], [("b", 2)]),
        # A dot of the accepted region was moved.
        ([A], [A, region("a")], [("a", 1)]),
        # Regions of others, and what the annotator drew.
        ([A, B], [A, region("x"), B], [("a", 2)]),
        ([A, B], [A, region("a", label="Dog"), B], [("a", 2)]),
        ([A, B], [A, {**region("a"), "from_name": "kp"}, B], [("a", 2)]),
        ([A, B], [A, region("a", control="outline"), B], [("b", 1)]),
        # Rectangles are objects of their own.
        ([rectangle("a"), rectangle("b")], [region("a"), rectangle("b")], [("b", 0)]),
        ([rectangle("a"), rectangle("b")], [region("b")], [("a", 0)]),
        ([rectangle("a")], [rectangle("a"), region("a")], [("a", 0)]),
        ([rectangle("a"), B], [rectangle("a"), region("a"), B], [("b", 1)]),
    ],
)
def test_prompts_of_an_accepted_region_are_left_out(key, prompts, draft, expected):
    assert objects(prompts, draft, key=key) == expected


def test_the_draft_counts_beside_an_older_annotation():
    assert objects([A, B], [A], [A, region("a"), B]) == [("b", 1)]


@pytest.mark.parametrize(
    "drafts",
    [
        None,
        5,
        "x",
        [None],
        [{}],
        [{"result": None}],
        [{"result": [None, 5, {"id": 5}, {"id": "a"}]}],
    ],
)
def test_drafts_that_cannot_be_read_are_passed_over(drafts):
    body = {
        "tasks": [{"id": 1, "data": {}, "drafts": drafts, "annotations": drafts}],
        "label_config": "x",
        "params": {"context": {"result": [A]}},
    }

    (group,) = group_prompts([A], parse_predict(body).tasks[0].saved)

    assert len(group.objects) == 1


async def test_a_dot_left_over_in_the_recorded_draft_does_not_join(gateway):
    """The recording, with the accepted region as this gateway would have suggested it."""
    both = recorded("ui_open_prompts_after_region_accept")
    draft = both["body"]["tasks"][0]["drafts"][0]["result"]
    prompts = both["body"]["params"]["context"]["result"]
    first, second = copy.deepcopy(both["body"]), copy.deepcopy(both["body"])
    first["params"]["context"]["result"] = prompts[:1]
    second["params"]["context"]["result"] = prompts[1:]

    accepted = (await (await gateway.post("/predict", json=first)).json())["results"][0]["result"]
    draft[1] = accepted[0]
    (alone,) = (await (await gateway.post("/predict", json=second)).json())["results"][0]["result"]
    (found,) = (await (await gateway.post("/predict", json=both["body"])).json())["results"][0][
        "result"
    ]

    assert found["id"] == alone["id"] != accepted[0]["id"]
    assert (region_mask(found) == region_mask(alone)).all()


async def test_hundreds_of_masks_in_the_draft_change_nothing(gateway):
    body = recorded("ui_click1_positive")["body"]
    alone = await (await gateway.post("/predict", json=body)).json()
    mask = region("x")
    mask["value"]["rle"] = [0, 42, 176, 0, 57, 255] * 5000
    draft = [{**mask, "id": f"mask{i}"} for i in range(300)]
    body["tasks"][0]["drafts"] = [{"id": 1, "result": draft}]
    data = json.dumps(body).encode()
    assert len(data) > 30_000_000

    response = await gateway.post("/predict", data=io.BytesIO(data))

    assert await response.json() == alone
