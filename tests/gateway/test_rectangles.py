"""Rectangles that are on a task already."""

import pytest

from sam_gateway.rectangles import rectangles


def rectangle(name, x=10, **changes):
    value = {"x": x, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["Cat"]}
    return {"id": name, "type": "rectanglelabels", "to_name": "image", "value": value, **changes}


def saved(*entries, **changes):
    return {"id": 1, "result": list(entries), **changes}


def ids(task):
    return [entry["id"] for entry in rectangles(task)]


def test_other_regions_are_passed_over():
    brush = {"id": "b", "type": "brushlabels", "value": {"format": "rle", "rle": [1]}}

    assert ids({"annotations": [saved(brush, rectangle("a"))]}) == ["a"]


def test_annotations_come_before_drafts_and_these_before_predictions():
    task = {
        "annotations": [saved(rectangle("a"))],
        "drafts": [saved(rectangle("d"))],
        "predictions": [saved(rectangle("p"))],
    }

    assert ids(task) == ["a"]
    assert ids({**task, "annotations": []}) == ["d"]
    assert ids({**task, "annotations": [saved()], "drafts": []}) == ["p"]


def test_rectangles_of_several_annotations_are_taken_once_each():
    first = saved(rectangle("a"), rectangle("b", x=20))
    second = saved(rectangle("a"), rectangle("copy"), rectangle("c", x=30))

    assert ids({"annotations": [first, second]}) == ["a", "b", "c"]


def test_skipped_annotations_do_not_count():
    assert ids({"annotations": [saved(rectangle("a"), was_cancelled=True)]}) == []


def test_a_rectangle_with_shared_labels_keeps_both_of_its_entries():
    box = rectangle("a", type="rectangle")
    label = {"id": "a", "type": "labels", "value": {"labels": ["Cat"]}}
    other = {"id": "b", "type": "labels", "value": {"labels": ["Cat"]}}

    found = rectangles({"annotations": [saved(box, label, other)]})

    assert found == (box, label)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"annotations": None},
        {"annotations": "x"},
        {"annotations": [None, 5, {"result": "x"}, {"result": [None, 5, {"type": []}]}]},
        {"annotations": [saved({"type": "rectanglelabels"}, {"id": 5, "type": "rectangle"})]},
        {"annotations": [saved(rectangle(""))]},
    ],
)
def test_what_cannot_be_read_is_passed_over(task):
    assert rectangles(task) == ()
