"""Every recorded request of Label Studio, against the real gateway and a real worker."""

import base64
import copy

import numpy as np
import orjson
import pytest

from gateway_support import LEGACY_TOKEN, jpeg, recorded, region_mask
from support import DATA

RECORDINGS = sorted(path.stem for path in (DATA / "label-studio").glob("*.json"))
TO_LABEL_STUDIO = [name for name in RECORDINGS if name.startswith("ls_api_")]
PREDICT = [
    name
    for name in RECORDINGS
    if name not in TO_LABEL_STUDIO and recorded(name)["path"] == "/predict"
]
WEBHOOKS = [
    name
    for name in RECORDINGS
    if name not in TO_LABEL_STUDIO and recorded(name)["path"] == "/webhook"
]


def context_of(name):
    return recorded(name)["body"]["params"]["context"]


BATCH = [name for name in PREDICT if context_of(name) is None]
EMPTY = [
    name
    for name in PREDICT
    if context_of(name) is not None
    and not any(prompt.get("is_positive", True) for prompt in context_of(name)["result"])
]
INTERACTIVE = [name for name in PREDICT if name not in [*BATCH, *EMPTY]]


@pytest.fixture
def label_studio(label_studio, request):
    """A Label Studio whose photo has something in each of the recorded rectangles."""
    if "ui_two_rectangles" in request.node.name:
        label_studio.files["18d1a805-a.jpg"] = jpeg("groceries.jpg", (1024, 683))
    return label_studio


async def replay(client, request, **headers):
    # Nothing is fetched from other hosts, as is done ahead for a task without prompts.
    request = orjson.loads(
        orjson.dumps(request).replace(b"https://example.org", b"http://127.0.0.1:9")
    )
    return await client.request(
        request["method"],
        request["path"],
        json=request.get("body"),
        headers={"User-Agent": "heartex/1.23.2", "Accept-Encoding": "gzip, deflate", **headers},
    )


def test_there_are_recordings_of_each_kind():
    assert len(BATCH) == 4
    assert len(EMPTY) == 3
    assert len(INTERACTIVE) == 19
    assert len(WEBHOOKS) == 7


@pytest.mark.parametrize("name", ["health", "basic_auth_health"])
async def test_health(gateway, name):
    response = await replay(gateway, recorded(name))

    assert response.status == 200
    assert (await response.json())["status"] == "UP"


@pytest.mark.parametrize("name", ["setup", "setup_no_extra_params", "basic_auth_setup"])
async def test_setup(gateway, name):
    response = await replay(gateway, recorded(name))

    assert response.status == 200
    version = (await response.json())["model_version"]
    assert isinstance(version, str)
    assert version


async def test_versions(gateway):
    response = await replay(gateway, recorded("versions"))
    setup = await replay(gateway, recorded("setup"))

    assert (await response.json())["versions"] == [(await setup.json())["model_version"]]


@pytest.mark.parametrize("name", WEBHOOKS)
async def test_webhooks(gateway, name):
    response = await replay(gateway, recorded(name))

    assert response.status == 200
    assert isinstance(await response.json(), dict)


@pytest.mark.parametrize("name", [*BATCH, *EMPTY])
async def test_without_anything_positive_there_is_an_empty_list_a_task(gateway, label_studio, name):
    request = recorded(name)

    response = await replay(gateway, request)

    assert response.status == 200
    assert await response.json() == {"results": [[] for _ in request["body"]["tasks"]]}
    if name in EMPTY:
        assert label_studio.requests == []


@pytest.mark.parametrize("name", INTERACTIVE)
async def test_an_interactive_request_is_answered_with_masks(gateway, name):
    request = recorded(name)
    prompts = {prompt["id"]: prompt for prompt in context_of(name)["result"]}
    first = next(iter(prompts.values()))
    boxes = [prompt for prompt in prompts.values() if "height" in prompt["value"]]

    response = await replay(gateway, request)

    assert response.status == 200, await response.text()
    (entry,) = (await response.json())["results"]
    assert isinstance(entry["model_version"], str)
    assert 0 <= entry["score"] <= 1
    regions = entry["result"]
    assert regions, "no mask was found"
    assert len({region["id"] for region in regions}) == max(len(boxes), 1)
    for region in regions:
        pixels = region_mask(region)
        assert pixels.any()
        assert pixels.shape == (first["original_height"], first["original_width"])
        assert region["to_name"] == first["to_name"]
        assert region.get("item_index") == first.get("item_index")
        assert region["image_rotation"] == 0
        assert 0 <= region["score"] <= 1
        labels = first["value"].get("labels") or first["value"][first["type"]]
        if region["type"] != "brush":
            assert region["value"][region["type"]] == labels


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("ui_click1_positive", [("brushlabels", "brush")]),
        ("ui_second_of_two_images", [("brushlabels", "brush2")]),
        ("ui_label_alias", [("brushlabels", "brush")]),
        ("ui_labels_and_keypoint_tags", [("brush", "brush"), ("labels", "labels")]),
        ("ui_two_rectangles", [("brushlabels", "brush")] * 2),
    ],
)
async def test_the_regions_are_of_the_tags_of_the_config(gateway, name, tags):
    response = await replay(gateway, recorded(name))

    regions = (await response.json())["results"][0]["result"]
    assert [(region["type"], region["from_name"]) for region in regions] == tags


async def test_a_second_click_replaces_the_region_and_another_object_does_not(gateway):
    ids = {}
    for name in ("ui_click1_positive", "ui_click3_positive", "ui_other_label", "ui_rectangle"):
        response = await replay(gateway, recorded(name))
        ids[name] = (await response.json())["results"][0]["result"][0]["id"]

    assert ids["ui_click1_positive"] == ids["ui_click3_positive"]
    assert len(set(ids.values())) == 3


async def test_the_image_of_the_prompt_is_fetched(gateway, label_studio):
    await replay(gateway, recorded("ui_second_of_two_images"))
    await replay(gateway, recorded("ui_multi_image_page2"))

    assert label_studio.requests == [("/data/upload/1/6a1c4ca9-b.png", f"Token {LEGACY_TOKEN}")]


async def test_a_rotated_view_changes_nothing_about_the_mask(gateway):
    turned = recorded("ui_rotated_click")
    straight = copy.deepcopy(turned)
    straight["body"]["params"]["context"]["result"][0]["image_rotation"] = 0

    masks = [
        region_mask((await (await replay(gateway, request)).json())["results"][0]["result"][0])
        for request in (turned, straight)
    ]

    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("name", ["basic_auth_health", "basic_auth_setup", "basic_auth_predict"])
async def test_basic_credentials_open_the_gateway(open_gateway, worker_target, label_studio, name):
    client = await open_gateway(
        worker=worker_target,
        label_studio_url=label_studio.url,
        label_studio_token=LEGACY_TOKEN,
        basic_auth=("user", "pass:word ä"),
    )
    right = base64.b64encode("user:pass:word ä".encode()).decode()

    assert (await replay(client, recorded(name), Authorization=f"Basic {right}")).status == 200
    assert (await replay(client, recorded(name), Authorization="Basic eDp5")).status == 401


@pytest.mark.parametrize("name", WEBHOOKS)
async def test_webhooks_need_no_credentials(open_gateway, worker_target, name):
    client = await open_gateway(worker=worker_target, basic_auth=("user", "password"))

    assert (await replay(client, recorded(name))).status == 200
