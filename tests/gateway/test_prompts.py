"""Requests of Label Studio as objects to cut out."""

import copy
import math

import pytest

from gateway_support import click, key_point, recorded
from sam_gateway.errors import InvalidRequestError
from sam_gateway.prompts import (
    MAX_PROMPTS,
    Box,
    Point,
    Task,
    group_prompts,
    group_rectangles,
    parse_predict,
)

SIZE = (1024, 683)


def rectangle(x, y, width, height, **changes):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    value.update(changes.pop("value", {}))
    return key_point(
        0,
        0,
        size=SIZE,
        **{
            "type": "rectanglelabels",
            "from_name": "rect",
            "value": {**value, "rectanglelabels": ["Cat"]},
            **changes,
        },
    )


def groups_of(name):
    return group_prompts(parse_predict(recorded(name)["body"]).prompts)


@pytest.mark.parametrize(
    ("recording", "positives"),
    [
        ("ui_click1_positive", [True]),
        ("ui_click2_negative_alt", [True, False]),
        ("ui_click3_positive", [True, False, True]),
        ("ui_auto_accept_second_click", [True]),
        ("ui_exif_orientation", [True]),
        ("ui_label_alias", [True]),
        ("ui_labels_and_keypoint_tags", [True]),
        ("ui_moved_keypoint", [True]),
        ("ui_multi_image_page2", [True]),
        ("ui_open_prompts_after_region_accept", [True, True]),
        ("ui_other_label", [True]),
        ("ui_rotated_click", [True]),
        ("ui_second_of_two_images", [True]),
        ("predict_interactive_api", [True]),
    ],
)
def test_recorded_key_points_are_one_object(recording, positives):
    (group,) = groups_of(recording)
    (item,) = group.objects

    assert [point.positive for point in item.points] == positives
    assert item.box is None
    assert item.ambiguous is (len(positives) == 1)


@pytest.mark.parametrize(
    ("recording", "ids"),
    [
        ("ui_rectangle", ["UUsvB0GSmD"]),
        ("ui_alt_rectangle", ["h3ToeJ73tb"]),
        ("ui_rotated_rectangle", ["299TDRRK_1"]),
        ("ui_two_rectangles", ["noU3ORxFCs", "NR7Rr3ApvS"]),
    ],
)
def test_recorded_rectangles_are_an_object_each(recording, ids):
    (group,) = groups_of(recording)

    assert [item.prompt_id for item in group.objects] == ids
    assert all(item.box and not item.points and not item.ambiguous for item in group.objects)


@pytest.mark.parametrize("recording", ["ui_auto_accept_only_negative", "ui_submit_empty_context"])
def test_nothing_positive_is_no_object(recording):
    assert groups_of(recording) == []


def test_a_group_carries_what_the_answer_repeats():
    (group,) = groups_of("ui_multi_image_page2")
    assert (group.to_name, group.item_index, group.labels) == ("image", 1, ("Cat",))
    assert (group.original_width, group.original_height) == (600, 400)

    (group,) = groups_of("ui_label_alias")
    assert (group.item_index, group.labels) == (None, ("c_alias",))


def test_the_rotation_of_the_view_changes_nothing():
    turned = key_point(30, 48, size=SIZE, image_rotation=90)

    assert group_prompts([turned]) == group_prompts([key_point(30, 48, size=SIZE)])


def test_prompts_with_one_id_are_one_prompt():
    bare = key_point(30, 48, size=SIZE, type="keypoint", value={"x": 30, "y": 48, "width": 1})
    labels = {**bare, "type": "labels", "value": {"x": 30, "y": 48, "width": 1, "labels": ["Cat"]}}
    region_choice = {**bare, "type": "choices", "value": {"choices": ["Good"]}}

    for order in ([bare, labels], [labels, bare], [bare, region_choice, labels]):
        (group,) = group_prompts(order)
        assert group.labels == ("Cat",)
        assert group.objects[0].points == (Point(30.0, 48.0, positive=True),)


def test_labels_alone_tell_their_shape_by_their_value():
    point = key_point(1, 2, size=SIZE, type="labels", value={"x": 1, "y": 2, "labels": ["Cat"]})
    (group,) = group_prompts([point])
    assert group.objects[0].points

    box = rectangle(1, 2, 3, 4, type="labels", value={"labels": ["Cat"]})
    (group,) = group_prompts([box])
    assert group.objects[0].box == Box(1, 2, 4, 6)


def test_labels_images_and_pages_are_groups_of_their_own():
    groups = group_prompts(
        [
            key_point(1, 1, size=SIZE, id="a"),
            key_point(2, 2, size=SIZE, id="b", value={"x": 2, "y": 2, "keypointlabels": ["Dog"]}),
            key_point(3, 3, size=SIZE, id="c", to_name="other"),
            key_point(4, 4, size=SIZE, id="d", item_index=3),
            key_point(5, 5, size=SIZE, id="e"),
        ]
    )

    assert [[item.prompt_id for item in g.objects] for g in groups] == [["a"], ["b"], ["c"], ["d"]]
    assert len(groups[0].objects[0].points) == 2


def test_key_points_and_a_rectangle_are_one_object():
    (group,) = group_prompts(
        [
            rectangle(10, 10, 50, 50, id="box"),
            key_point(30, 30, size=SIZE, id="in"),
            key_point(90, 90, size=SIZE, id="out", is_positive=False),
        ]
    )
    (item,) = group.objects

    assert item.prompt_id == "box"
    assert item.box == Box(10, 10, 60, 60)
    assert [point.positive for point in item.points] == [True, False]


def test_key_points_beside_several_rectangles_are_an_object_of_their_own():
    (group,) = group_prompts(
        [
            rectangle(10, 10, 5, 5, id="one"),
            key_point(30, 30, size=SIZE, id="point"),
            rectangle(50, 50, 5, 5, id="two"),
        ]
    )

    assert [item.prompt_id for item in group.objects] == ["one", "two", "point"]


def test_a_negative_point_only_corrects_a_rectangle():
    (group,) = group_prompts(
        [rectangle(10, 10, 5, 5, id="b"), key_point(11, 11, size=SIZE, id="n", is_positive=False)]
    )

    assert group.objects[0].points == (Point(11, 11, positive=False),)


def test_coordinates_are_clamped_to_the_image():
    (group,) = group_prompts([key_point(-0.5, 100.7, size=SIZE)])
    assert group.objects[0].points == (Point(0, 100, positive=True),)

    (group,) = group_prompts([rectangle(-5, 90, 20, 30)])
    assert group.objects[0].box == Box(0, 90, 15, 100)


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        (0, (50, 50, 60, 70)),
        # 100x100 pixels wide and high, turned about the top left corner, clockwise.
        (90, (40, 50, 50, 70)),
        (180, (40, 30, 50, 50)),
        (270, (50, 30, 60, 50)),
        (45, (50 - 5 * math.sqrt(2), 50, 50 + 5 * math.sqrt(2), 50 + 20 * math.sqrt(2))),
    ],
)
def test_a_turned_rectangle_becomes_the_box_around_it(rotation, expected):
    prompt = rectangle(
        50, 50, 10, 20, value={"rotation": rotation}, original_width=1000, original_height=500
    )

    (group,) = group_prompts([prompt])

    box = group.objects[0].box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(expected)


def test_a_rectangle_drawn_backwards_is_the_same_rectangle():
    assert group_prompts([rectangle(60, 70, -50, -60)])[0].objects[0].box == Box(10, 10, 60, 70)


REMOVED = object()

WRONG_PROMPTS = [
    ("id", REMOVED),
    ("id", 7),
    ("id", ""),
    ("type", REMOVED),
    ("type", "brushlabels"),
    ("type", ["keypointlabels"]),
    ("to_name", None),
    ("original_width", 0),
    ("original_width", -5),
    ("original_width", 1024.0),
    ("original_width", True),
    ("original_width", 2**21),
    ("original_height", "683"),
    ("original_height", REMOVED),
    ("item_index", -1),
    ("item_index", "1"),
    ("is_positive", 1),
    ("is_positive", None),
    ("value", REMOVED),
    ("value", [1, 2]),
    ("value.x", REMOVED),
    ("value.x", "30"),
    ("value.x", True),
    ("value.x", math.nan),
    ("value.y", math.inf),
    ("value.y", 1e300),
    ("value.y", None),
    ("value.keypointlabels", "Cat"),
    ("value.keypointlabels[0]", 5),
]


@pytest.mark.parametrize(("path", "value"), WRONG_PROMPTS, ids=[str(w) for w in WRONG_PROMPTS])
def test_a_wrong_prompt_is_refused_by_the_name_of_its_field(path, value):
    prompt = key_point(30, 40, size=SIZE)
    target, key = (prompt, path) if "." not in path else (prompt["value"], path.partition(".")[2])
    if key.endswith("[0]"):
        target, key = target[key[:-3]], 0
    if value is REMOVED:
        del target[key]
    else:
        target[key] = value

    with pytest.raises(InvalidRequestError) as caught:
        group_prompts([key_point(1, 1, size=SIZE, id="fine"), prompt])

    assert caught.value.field == f"params.context.result[1].{path}"


@pytest.mark.parametrize(
    "value", [{"width": 0}, {"width": 1e-9}, {"x": 200}, {"y": -80, "height": 20}]
)
def test_a_rectangle_without_area_is_refused(value):
    with pytest.raises(InvalidRequestError, match="no area") as caught:
        group_prompts([rectangle(10, 10, 5, 5, value=value)])

    assert caught.value.field == "params.context.result[0].value"


def test_an_enormous_original_size_is_refused():
    with pytest.raises(InvalidRequestError, match="pixels") as caught:
        group_prompts([key_point(1, 1, size=(2**20, 2**20))])

    assert caught.value.field == "params.context.result[0].original_width"


@pytest.mark.parametrize("prompts", [[1], ["x"], [None], [[]]])
def test_a_prompt_is_an_object(prompts):
    with pytest.raises(InvalidRequestError) as caught:
        group_prompts(prompts)

    assert caught.value.field == "params.context.result[0]"


def test_too_many_prompts_are_refused():
    prompts = [key_point(1, 1, size=SIZE, id=f"prompt{i}") for i in range(MAX_PROMPTS + 1)]

    with pytest.raises(InvalidRequestError, match=f"at most {MAX_PROMPTS}") as caught:
        group_prompts(prompts)

    assert caught.value.field == "params.context.result"
    assert len(group_prompts(prompts[:-1])[0].objects[0].points) == MAX_PROMPTS


def test_rectangles_that_are_on_a_task_may_be_any_number():
    drawn = [rectangle(1, 2, 3, 4, id=f"rectangle{i}") for i in range(MAX_PROMPTS + 1)]
    drawn[5] = rectangle(1, 2, 0, 4, id="flat")

    (group,), (error,) = group_rectangles(Task(1, {}, "tasks[0]"), drawn)

    assert len(group.objects) == MAX_PROMPTS
    assert error.field == "tasks[0].rectangles[5].value"


WRONG_BODIES = [
    ((), [], "body"),
    (("tasks",), None, "tasks"),
    (("tasks",), {}, "tasks"),
    (("tasks",), [], "tasks"),
    (("tasks", 0), 1, "tasks[0]"),
    (("tasks", 0, "id"), None, "tasks[0].id"),
    (("tasks", 0, "id"), 1.5, "tasks[0].id"),
    (("tasks", 0, "id"), True, "tasks[0].id"),
    (("tasks", 0, "data"), "x", "tasks[0].data"),
    (("params",), [], "params"),
    (("params", "context"), [], "params.context"),
    (("params", "context"), {}, "params.context.result"),
    (("params", "context", "result"), {}, "params.context.result"),
    (("label_config",), None, "label_config"),
    (("label_config",), 7, "label_config"),
]


@pytest.mark.parametrize(("path", "value", "field"), WRONG_BODIES)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(path, value, field):
    body = {"": copy.deepcopy(click("/data/upload/1/a.jpg", key_point(1, 1, size=SIZE)))}
    *parents, last = ["", *path]
    target = body
    for key in parents:
        target = target[key]
    target[last] = value

    with pytest.raises(InvalidRequestError) as caught:
        parse_predict(body[""])

    assert caught.value.field == field


@pytest.mark.parametrize(
    "recording",
    [
        "predict_batch",
        "predict_batch_storage_uris",
        "predict_interactive_null_context",
        "predict_test",
    ],
)
def test_a_request_without_context_is_not_interactive(recording):
    body = recorded(recording)["body"]

    asked = parse_predict(body)

    assert asked.prompts is None
    assert [task.id for task in asked.tasks] == [task["id"] for task in body["tasks"]]


def test_params_may_be_missing():
    assert parse_predict({"tasks": [{"id": 1, "data": {}}]}).prompts is None
