"""Masks as regions of Label Studio."""

import dataclasses

import numpy as np
import orjson
import pytest

import sam_core
from gateway_support import LABEL_CONFIG, recorded, region_mask
from sam_gateway.label_config import parse_label_config
from sam_gateway.prompts import PromptGroup
from sam_gateway.results import ObjectMask, regions
from sam_gateway.shapes import ShapeOptions

WIDTH, HEIGHT = 40, 30
GROUP = PromptGroup("image", None, ("Cat",), WIDTH, HEIGHT, ())
OUTPUTS = parse_label_config(LABEL_CONFIG).outputs("image", ("Cat",))
OPTIONS = ShapeOptions()


def a_mask(pixels=None, *, predicted_iou=0.75, prompt_id="first"):
    if pixels is None:
        pixels = np.zeros((HEIGHT, WIDTH), bool)
        pixels[5:20, 10:35] = True
        pixels[8:10, 12:14] = False
    height, width = pixels.shape
    return ObjectMask(prompt_id, sam_core.counts_from_mask(pixels), width, height, predicted_iou)


def written(outputs, group, mask, options=OPTIONS):
    """The regions as they are in the answer."""
    return orjson.loads(orjson.dumps(regions(outputs, group, mask, options)))


def test_a_brush_region_is_what_label_studio_takes():
    mask = a_mask()

    (region,) = written(OUTPUTS, GROUP, mask)

    pixels = sam_core.mask_from_counts(mask.counts, HEIGHT, WIDTH)
    np.testing.assert_array_equal(region_mask(region), pixels)
    value = region.pop("value")
    assert value["format"] == "rle"
    assert value["brushlabels"] == ["Cat"]
    assert region.pop("id").isalnum()
    assert region == {
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "score": 0.75,
    }


def test_the_page_of_a_multi_image_task_is_repeated():
    (region,) = written(OUTPUTS, dataclasses.replace(GROUP, item_index=3), a_mask())

    assert region["item_index"] == 3


def test_an_empty_mask_is_no_region():
    assert regions(OUTPUTS, GROUP, a_mask(np.zeros((HEIGHT, WIDTH), bool)), OPTIONS) == []


def test_a_full_mask_is_a_region():
    (region,) = written(OUTPUTS, GROUP, a_mask(np.ones((HEIGHT, WIDTH), bool)))

    assert region_mask(region).all()


@pytest.mark.parametrize(("predicted_iou", "score"), [(-0.2, 0), (1.07, 1), (0.5, 0.5)])
def test_the_score_is_the_predicted_iou_within_0_and_1(predicted_iou, score):
    (region,) = written(OUTPUTS, GROUP, a_mask(predicted_iou=predicted_iou))

    assert region["score"] == score


def test_brush_beside_labels_is_two_regions_with_one_id():
    config = parse_label_config(recorded("ui_labels_and_keypoint_tags")["body"]["label_config"])

    mask, labels = written(config.outputs("image", ("Cat",)), GROUP, a_mask())

    assert (mask["type"], mask["from_name"]) == ("brush", "brush")
    assert (labels["type"], labels["from_name"]) == ("labels", "labels")
    assert mask["id"] == labels["id"]
    assert set(mask["value"]) == {"format", "rle"}
    assert labels["value"] == {**mask["value"], "labels": ["Cat"]}


def test_a_brush_alone_is_one_region():
    config = '<View><Image name="image" value="$i"/><Brush name="b" toName="image"/></View>'

    (region,) = written(parse_label_config(config).outputs("image", ()), GROUP, a_mask())

    assert (region["type"], region["from_name"]) == ("brush", "b")


def test_the_id_stays_for_the_object_and_differs_for_others():
    (region,) = regions(OUTPUTS, GROUP, a_mask(), OPTIONS)
    (again,) = regions(
        OUTPUTS, GROUP, a_mask(np.ones((HEIGHT, WIDTH), bool), predicted_iou=0.1), OPTIONS
    )
    (other_prompt,) = regions(OUTPUTS, GROUP, a_mask(prompt_id="second"), OPTIONS)
    (other_label,) = regions(
        OUTPUTS, dataclasses.replace(GROUP, labels=("Dog",)), a_mask(), OPTIONS
    )

    assert region["id"] == again["id"]
    assert len({region["id"], other_prompt["id"], other_label["id"]}) == 3


@pytest.mark.parametrize("size", [(20, 15), (80, 60), (41, 29), (1, 1), (40, 3000)])
def test_a_mask_of_another_size_is_scaled_to_that_of_the_request(size):
    width, height = size
    group = dataclasses.replace(GROUP, original_width=width, original_height=height)
    mask = a_mask()

    found = written(OUTPUTS, group, mask)

    pixels = sam_core.mask_from_counts(mask.counts, HEIGHT, WIDTH)
    rows = ((np.arange(height) + 0.5) * HEIGHT / height).astype(int)
    columns = ((np.arange(width) + 0.5) * WIDTH / width).astype(int)
    expected = pixels[rows][:, columns]
    if not found:
        assert not expected.any()
    else:
        np.testing.assert_array_equal(region_mask(found[0]), expected)


SHAPES_CONFIG = parse_label_config(
    """<View><Image name="image" value="$image"/>
    <BrushLabels name="b" toName="image"><Label value="Cat"/></BrushLabels>
    <PolygonLabels name="p" toName="image"><Label value="Cat"/></PolygonLabels>
    <Vector name="v" toName="image"/><Ellipse name="e" toName="image"/>
    <Labels name="l" toName="image"><Label value="Cat"/></Labels>
    <RectangleLabels name="r" toName="image"><Label value="Cat"/></RectangleLabels></View>"""
)


def test_an_object_is_written_as_each_shape_that_is_asked_for():
    outputs = SHAPES_CONFIG.outputs("image", ["Cat"], ("polygon", "brush", "rectangle"))

    found = written(outputs, GROUP, a_mask())

    assert [(region["type"], region["from_name"]) for region in found] == [
        ("polygonlabels", "p"),
        ("brushlabels", "b"),
        ("rectanglelabels", "r"),
    ]
    assert all(region["value"][region["type"]] == ["Cat"] for region in found)
    assert len({region["id"] for region in found}) == 3


def two_parts(second=True):
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[2:12, 2:12] = True
    pixels[20:28, 20:28] = second
    return a_mask(pixels)


def test_each_part_of_a_mask_is_a_polygon_with_an_id_of_its_own():
    outputs = SHAPES_CONFIG.outputs("image", ["Cat"], ("polygon",))

    large, small = written(outputs, GROUP, two_parts())
    (alone,) = written(outputs, GROUP, two_parts(second=False))

    assert large["id"] != small["id"]
    assert large["id"] == alone["id"], "a further click replaces the largest part"
    assert large["value"]["points"] == alone["value"]["points"]
    assert large["score"] == small["score"] == 0.75
    assert [region["id"] for region in (large, small)] == [
        region["id"] for region in written(outputs, GROUP, two_parts())
    ]


def test_plain_tags_beside_labels_are_two_regions_a_part():
    outputs = SHAPES_CONFIG.outputs("image", ["Cat"], ("vector", "ellipse"))

    found = written(outputs, GROUP, two_parts())

    assert [(region["type"], region["from_name"]) for region in found] == [
        *[("vector", "v"), ("labels", "l")] * 2,
        *[("ellipse", "e"), ("labels", "l")],
    ]
    for plain, labelled in zip(found[::2], found[1::2], strict=True):
        assert plain["id"] == labelled["id"]
        assert labelled["value"] == {**plain["value"], "labels": ["Cat"]}


def test_small_parts_are_left_out_of_every_shape():
    options = ShapeOptions(min_region_pixels=65)
    outputs = SHAPES_CONFIG.outputs("image", ["Cat"], ("brush", "polygon", "rectangle"))

    brush, polygon, rectangle = written(outputs, GROUP, two_parts(), options)

    assert region_mask(brush).sum() == 100
    assert len(polygon["value"]["points"]) >= 4
    assert rectangle["value"] == {
        "x": 5,
        "y": round(100 * 2 / HEIGHT, 6),
        "width": 25,
        "height": round(100 * 10 / HEIGHT, 6),
        "rotation": 0,
        "rectanglelabels": ["Cat"],
    }
