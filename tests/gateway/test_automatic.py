"""Masks of everything: which are kept, and that they reach Label Studio."""

import threading

import numpy as np
import pytest

import sam_core
from gateway_support import LABEL_CONFIG, LEGACY_TOKEN, jpeg, region_mask
from sam_gateway.automatic import (
    AutomaticOptions,
    Candidate,
    best,
    candidate,
    point_grid,
    suppress_overlaps,
)
from sam_gateway.config import BatchOptions
from sam_gateway.shapes import Runs, ShapeOptions

SIZE = (320, 214)
PHOTO = jpeg("truck.jpg", SIZE)
# The bundled model expects little of its own masks.
OPTIONS = AutomaticOptions(points_per_side=4, min_predicted_iou=0.2, min_stability_score=0.2)


def runs(mask):
    return Runs(sam_core.counts_from_mask(mask), *mask.shape)


def box_mask(x_min, y_min, x_max, y_max, size=(40, 60)):
    mask = np.zeros(size, bool)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def found(name, box, predicted_iou):
    return Candidate(name, runs(box_mask(*box)), box, predicted_iou)


def looked_at(mask, predicted_iou=0.9, stability_score=0.96, **options):
    return candidate(
        "a",
        runs(mask),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        options=AutomaticOptions(),
        shape_options=ShapeOptions(**options),
    )


def test_points_are_in_the_middle_of_the_cells_of_a_grid():
    assert point_grid(2) == [(25, 25), (75, 25), (25, 75), (75, 75)]
    grid = np.array(point_grid(32))
    assert grid.shape == (1024, 2)
    # As segment_anything.utils.amg.build_point_grid has them.
    assert grid[:, 0].min() == pytest.approx(100 / 64)
    assert np.diff(grid[:32, 0]) == pytest.approx(100 / 32)


@pytest.mark.parametrize(
    ("predicted_iou", "stability_score", "kept"),
    [
        (0.9, 0.96, True),
        (0.88, 0.96, False),
        (0.881, 0.96, True),
        (0.9, 0.95, True),
        (0.9, 0.949, False),
        (1.2, 1.0, True),
    ],
)
def test_masks_are_kept_that_are_good_and_stable(predicted_iou, stability_score, kept):
    seen = looked_at(box_mask(3, 5, 20, 30), predicted_iou, stability_score)

    assert (seen is not None) is kept


def test_a_candidate_has_the_box_around_its_mask():
    seen = looked_at(box_mask(3, 5, 20, 30) | box_mask(50, 1, 60, 2))

    assert seen is not None
    assert seen.box == (3, 1, 60, 30)


def test_an_empty_mask_is_not_kept():
    assert looked_at(np.zeros((40, 60), bool)) is None


def test_specks_and_pinholes_are_cleaned_away_before_the_box_is_taken():
    mask = box_mask(3, 5, 20, 30) | box_mask(50, 1, 60, 2)
    mask[10, 10] = False

    seen = looked_at(mask, min_region_pixels=11, min_hole_pixels=2)

    assert seen is not None
    assert seen.box == (3, 5, 20, 30)
    restored = sam_core.mask_from_counts(seen.runs.counts, 40, 60)
    assert (restored == box_mask(3, 5, 20, 30)).all()


def test_a_mask_that_is_a_speck_is_not_kept():
    assert looked_at(box_mask(0, 0, 3, 3), min_region_pixels=10) is None
    assert looked_at(box_mask(0, 0, 3, 3), min_region_pixels=9) is not None


def test_of_masks_that_coincide_the_best_is_kept():
    candidates = [
        found("worse", (0, 0, 20, 20), 0.90),
        found("better", (1, 0, 20, 20), 0.95),
        found("beside", (30, 0, 50, 20), 0.89),
        found("inside", (2, 2, 8, 8), 0.99),
    ]

    chosen = best(candidates, AutomaticOptions())

    assert [item.name for item in chosen] == ["inside", "better", "beside"]


def test_the_best_are_kept_where_there_are_too_many():
    candidates = [found(str(i), (5 * i, 0, 5 * i + 5, 5), 0.9 + i / 100) for i in range(6)]

    chosen = best(candidates, AutomaticOptions(max_masks=2))

    assert [item.name for item in chosen] == ["5", "4"]


def test_of_none_none_are_chosen():
    assert best([], AutomaticOptions()) == []


@pytest.mark.parametrize(("shift", "kept"), [(17, [0]), (18, [0, 1])])
def test_boxes_overlap_from_an_iou_above_the_limit_on(shift, kept):
    # 100 x 10 and shifted: 83/117 = 0.709, 82/118 = 0.695.
    boxes = np.array([[0, 0, 100, 10], [shift, 0, 100 + shift, 10]], float)

    assert suppress_overlaps(boxes, np.array([1.0, 0.5]), 0.7, 2) == kept


def test_what_was_dropped_drops_nothing_itself():
    boxes = np.array([[0, 0, 100, 10], [15, 0, 115, 10], [30, 0, 130, 10]], float)

    assert suppress_overlaps(boxes, np.array([0.9, 0.8, 0.7]), 0.7, 3) == [0, 2]


def test_suppression_is_that_of_the_definition():
    generator = np.random.default_rng(5)
    low = generator.integers(0, 40, (200, 2))
    boxes = np.concatenate([low, low + generator.integers(1, 30, (200, 2))], axis=1).astype(float)
    scores = generator.permutation(200) / 200

    def iou(a, b):
        shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
        return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)

    expected = []
    for i in np.argsort(-scores):
        if all(iou(boxes[i], boxes[j]) <= 0.5 for j in expected):
            expected.append(int(i))
    assert suppress_overlaps(boxes, scores, 0.5, 200) == expected
    assert suppress_overlaps(boxes, scores, 0.5, 7) == expected[:7]


@pytest.fixture
def label_studio(label_studio):
    label_studio.files["truck.jpg"] = PHOTO
    return label_studio


@pytest.fixture
async def predict(open_gateway, worker_target, label_studio):
    """Ask for the automatic masks of one task; return the regions."""

    async def predict(label_config=LABEL_CONFIG, options=OPTIONS, data=None, **settings):
        client = await open_gateway(
            worker=worker_target,
            label_studio_url=label_studio.url,
            label_studio_token=LEGACY_TOKEN,
            batch=BatchOptions(mode="automatic", automatic=options),
            **settings,
        )
        task = {"id": 1, "project": 7, "data": data or {"image": "/data/upload/1/truck.jpg"}}
        body = {"tasks": [task], "label_config": label_config, "params": {"context": None}}
        (entry,) = (await (await client.post("/predict", json=body)).json())["results"]
        if not entry:  # the machine is busy
            entry = await label_studio.posted.get()
        return entry["result"]

    return predict


CONFIG = '<View><Image name="image" value="$image"/>{}</View>'
ONE_LABEL = CONFIG.format(
    '<BrushLabels name="mask" toName="image"><Label value="A"/></BrushLabels>'
)


async def test_everything_in_an_image_becomes_regions(predict):
    regions = await predict(ONE_LABEL)

    masks = [region_mask(region) for region in regions]
    assert len(masks) > 1
    assert all(mask.shape == SIZE[::-1] and mask.any() for mask in masks)
    assert all(region["value"]["brushlabels"] == ["A"] for region in regions)
    assert all(region["from_name"] == "mask" and "rle" in region["value"] for region in regions)
    scores = [region["score"] for region in regions]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > OPTIONS.min_predicted_iou
    assert len({region["id"] for region in regions}) == len(regions)
    boxes = np.array(
        [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in map(np.nonzero, masks)], float
    )
    assert len(suppress_overlaps(boxes, np.array(scores), 0.7, len(boxes))) == len(boxes)


async def test_a_project_with_several_labels_gets_regions_without_any(predict):
    regions = await predict(LABEL_CONFIG)

    assert all(region["value"]["brushlabels"] == [] for region in regions)


async def test_the_only_one_of_shared_labels_is_given(predict):
    labels = '<Labels name="l" toName="image"><Label value="A"/></Labels>'
    regions = await predict(CONFIG.format(labels + '<Brush name="mask" toName="image"/>'))

    first, second = regions[:2]
    assert (first["type"], first["from_name"]) == ("brush", "mask")
    assert (second["type"], second["from_name"]) == ("labels", "l")
    assert second["value"]["labels"] == ["A"]
    assert first["id"] == second["id"]


async def test_masks_are_written_as_the_config_holds_them(predict):
    polygon = '<PolygonLabels name="p" toName="image"><Label value="A"/></PolygonLabels>'

    regions = await predict(CONFIG.format(polygon))

    assert {region["type"] for region in regions} == {"polygonlabels"}


async def test_all_pages_are_predicted(predict):
    config = ONE_LABEL.replace('value="$image"', 'valueList="$pages"')
    pages = ["/data/upload/1/truck.jpg"] * 2

    regions = await predict(config, data={"pages": pages})

    assert {region["item_index"] for region in regions} == {0, 1}


async def test_too_many_masks_are_cut_to_the_best(predict):
    options = AutomaticOptions(
        points_per_side=4, min_predicted_iou=0.2, min_stability_score=0.2, max_masks=1
    )

    assert len(await predict(ONE_LABEL, options)) == 1


async def test_masks_are_chosen_beside_the_event_loop(predict, monkeypatch):
    """Of a fine grid there are thousands, and meanwhile clicks are to be answered."""
    threads = []

    def watched(*arguments):
        threads.append(threading.current_thread())
        return best(*arguments)

    monkeypatch.setattr("sam_gateway.predictor.best", watched)

    assert await predict(ONE_LABEL)
    assert threading.main_thread() not in threads


async def test_a_prediction_that_grows_too_large_is_cut_to_the_best(predict, monkeypatch):
    regions = await predict(ONE_LABEL)
    largest = len(str(regions[0]["value"]["rle"]))
    monkeypatch.setattr("sam_gateway.predictor.MAX_PREDICTION_BYTES", largest + 400)

    fewer = await predict(ONE_LABEL)

    assert 0 < len(fewer) < len(regions)
    assert fewer == regions[: len(fewer)]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CONFIG.format(""), "no tag for masks on image 'image'"),
        ("<View/>", "no <Image> with a task key such as $image"),
    ],
)
async def test_a_config_that_holds_no_masks_is_told(
    open_gateway, worker_target, config, told, caplog
):
    client = await open_gateway(worker=worker_target, batch=BatchOptions(mode="automatic"))
    task = {"id": 1, "project": 7, "data": {"image": "data:,"}}
    body = {"tasks": [task], "label_config": config, "params": {"context": None}}

    assert (await (await client.post("/predict", json=body)).json())["results"] == [[]]

    assert told in caplog.text
