"""Recorded clicks answered with other shapes, by the real gateway and a real worker."""

import numpy as np
import pytest
import shapely

from gateway_support import LEGACY_TOKEN, recorded, region_mask
from sam_gateway.shapes import ShapeOptions

RECORDINGS = ["ui_click1_positive", "ui_rectangle", "ui_exif_orientation", "ui_rotated_click"]

TAGS = {
    "bitmasklabels": "BitmaskLabels",
    "polygonlabels": "PolygonLabels",
    "vectorlabels": "VectorLabels",
    "ellipselabels": "EllipseLabels",
}


def with_tag(name, tag):
    """A recorded request of a project that has another tag instead of `<BrushLabels>`."""
    body = recorded(name)["body"]
    assert "<BrushLabels" in body["label_config"]
    body["label_config"] = body["label_config"].replace("BrushLabels", tag)
    return body


async def regions_for(client, body):
    response = await client.post("/predict", json=body)
    assert response.status == 200, await response.text()
    (entry,) = (await response.json())["results"]
    assert entry, "no mask was found"
    return entry["result"]


async def brush_mask(client, name):
    (region,) = await regions_for(client, recorded(name)["body"])
    return region_mask(region)


def ring_of(region):
    value = region["value"]
    points = value.get("points") or [[vertex["x"], vertex["y"]] for vertex in value["vertices"]]
    size = region["original_width"], region["original_height"]
    return np.array(points) * size / 100


def filled(rings, height, width):
    shape = shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings])
    assert shape.is_valid, shapely.is_valid_reason(shape)
    y, x = np.mgrid[:height, :width] + 0.5
    shapely.prepare(shape)
    return shapely.contains_xy(shape, x, y)


def iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


@pytest.mark.parametrize("tag", TAGS.values())
@pytest.mark.parametrize("name", RECORDINGS)
async def test_the_tag_of_the_config_is_what_is_answered(gateway, name, tag):
    prompt = recorded(name)["body"]["params"]["context"]["result"][0]

    regions = await regions_for(gateway, with_tag(name, tag))

    for region in regions:
        assert region["type"] == tag.lower()
        assert region["from_name"] == "brush"
        assert region["value"][tag.lower()] == prompt["value"][prompt["type"]]
        assert region["original_width"] == prompt["original_width"]
        assert region["original_height"] == prompt["original_height"]
        assert region["image_rotation"] == 0
    assert len({region["id"] for region in regions}) == len(regions)


@pytest.mark.parametrize("name", RECORDINGS)
async def test_bitmasks_are_the_mask_of_the_brush(gateway, name):
    (region,) = await regions_for(gateway, with_tag(name, "BitmaskLabels"))

    np.testing.assert_array_equal(region_mask(region), await brush_mask(gateway, name))


@pytest.mark.parametrize("tag", ["PolygonLabels", "VectorLabels"])
@pytest.mark.parametrize("name", RECORDINGS)
async def test_outlines_enclose_the_mask_of_the_brush(
    open_gateway, worker_target, label_studio, name, tag
):
    # Outlines have no holes and are no specks: the brush is compared without its own.
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        shape_options=ShapeOptions(min_region_pixels=200, min_hole_pixels=10**9),
    )
    mask = await brush_mask(client, name)

    regions = await regions_for(client, with_tag(name, tag))

    rings = [ring_of(region) for region in regions]
    assert iou(filled(rings, *mask.shape), mask) >= 0.97
    areas = [shapely.Polygon(ring).area for ring in rings]
    assert areas[0] == max(areas)


async def test_several_shapes_are_answered_if_they_are_asked_for(
    open_gateway, worker_target, label_studio
):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        shape_options=ShapeOptions(kinds=("rectangle", "brush")),
    )

    rectangle, brush = await regions_for(client, recorded("ui_click1_positive")["body"])

    mask = region_mask(brush)
    assert rectangle["type"] == "rectanglelabels"
    assert rectangle["value"]["x"] * mask.shape[1] / 100 == pytest.approx(
        np.flatnonzero(mask.any(axis=0))[0]
    )


async def test_without_a_tag_for_the_shape_the_reason_is_told(
    open_gateway, worker_target, label_studio
):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        shape_options=ShapeOptions(kinds=("polygon",)),
    )

    response = await client.post("/predict", json=recorded("ui_click1_positive")["body"])

    assert response.status == 422
    error = (await response.json())["error"]
    assert error["reason"] == "no_output_tag"
    assert "<PolygonLabels" in error["message"]
    assert label_studio.requests == []


async def test_a_mask_of_a_real_photo_is_sent_as_the_shorter_picture(gateway):
    (region,) = await regions_for(gateway, recorded("ui_click1_positive")["body"])

    assert set(region["value"]) == {"format", "maskDataURL", "brushlabels"}


async def test_a_brush_beside_labels_is_sent_as_run_lengths(gateway):
    regions = await regions_for(gateway, recorded("ui_labels_and_keypoint_tags")["body"])

    assert all("rle" in region["value"] for region in regions)
