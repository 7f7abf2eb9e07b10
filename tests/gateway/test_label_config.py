"""Labeling configs: which tag holds what."""

import pytest

from gateway_support import LABEL_CONFIG, recorded
from sam_gateway.errors import InvalidRequestError, NoOutputTagError
from sam_gateway.label_config import MAX_CONFIG_CHARACTERS, Output, parse_label_config


def config_of(name):
    return parse_label_config(recorded(name)["body"]["label_config"])


def names(output: Output):
    return output.control.name, output.labels_control and output.labels_control.name


@pytest.mark.parametrize(
    ("recording", "to_name", "labels", "expected"),
    [
        ("ui_click1_positive", "image", ("Cat",), ("brush", None)),
        ("ui_second_of_two_images", "img1", ("Cat",), ("brush", None)),
        ("ui_second_of_two_images", "img2", ("Cat",), ("brush2", None)),
        ("ui_label_alias", "image", ("c_alias",), ("brush", None)),
        ("ui_labels_and_keypoint_tags", "image", ("Dog",), ("brush", "labels")),
        ("ui_multi_image_page2", "image", ("Dog",), ("brush", None)),
    ],
)
def test_recorded_configs_have_an_output(recording, to_name, labels, expected):
    assert names(config_of(recording).output(to_name, labels)) == expected


def test_the_brush_with_the_label_wins():
    config = parse_label_config(
        """<View><Image name="i" value="$i"/>
        <BrushLabels name="animals" toName="i"><Label value="Cat"/></BrushLabels>
        <BrushLabels name="things" toName="i"><View><Label value="Car" alias="car"/></View>
        </BrushLabels>
        <Brush name="plain" toName="i"/><Labels name="l" toName="i"><Label value="Sky"/></Labels>
        </View>"""
    )

    assert names(config.output("i", ["car"])) == ("things", None)
    assert names(config.output("i", ["Cat"])) == ("animals", None)
    assert names(config.output("i", ["Sky"])) == ("plain", "l")
    assert names(config.output("i", ["Car"])) == ("animals", None)  # unknown: its alias counts
    assert names(config.output("i", [])) == ("animals", None)


def test_a_brush_alone_takes_masks_without_labels():
    config = parse_label_config(
        '<View><Image name="i" value="$i"/><Brush name="b" toName="i"/></View>'
    )

    assert names(config.output("i", [])) == ("b", None)


def test_tag_and_attribute_names_have_no_case():
    config = parse_label_config(
        '<view><image NAME="i" VALUE="$x"/><brushlabels name="b" toname="i, j">'
        '<label value="A"/></brushlabels></view>'
    )

    assert config.images["i"].key == "x"
    assert config.output("j", ["A"]).control.name == "b"


def test_an_image_list_has_its_key():
    assert config_of("ui_multi_image_page2").images["image"].key == "images"
    assert config_of("ui_second_of_two_images").images["img2"].key == "b"


@pytest.mark.parametrize(
    "config",
    [
        '<View><Image name="i" value="$i"/></View>',
        '<View><Image name="i" value="$i"/><PolygonLabels name="p" toName="i">'
        '<Label value="Cat"/></PolygonLabels></View>',
        '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="other">'
        '<Label value="Cat"/></BrushLabels></View>',
    ],
)
def test_a_config_without_a_place_for_masks_says_what_to_add(config):
    with pytest.raises(NoOutputTagError, match='<BrushLabels name="brush" toName="i">') as caught:
        parse_label_config(config).output("i", ("Cat",))

    assert caught.value.field == "label_config"


ENTITY_BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]><View>&c;</View>"""
EXTERNAL_ENTITY = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "View",
        "<View>",
        "<View></Image>",
        ENTITY_BOMB,
        EXTERNAL_ENTITY,
        "<View>\0</View>",
    ],
)
def test_what_is_no_config_is_refused(text):
    with pytest.raises(InvalidRequestError, match="not a labeling config") as caught:
        parse_label_config(text)

    assert caught.value.field == "label_config"


def test_a_config_that_is_too_large_is_refused():
    with pytest.raises(InvalidRequestError, match="characters"):
        parse_label_config("<View>" + " " * MAX_CONFIG_CHARACTERS + "</View>")


def test_a_deep_config_costs_no_more_than_a_long_one():
    depth = MAX_CONFIG_CHARACTERS // 30  # with a visit for each pair it would take minutes

    config = parse_label_config('<Labels toName="i">' * depth + "</Labels>" * depth)

    assert len(config.controls) == depth


def test_configs_are_read_once():
    assert parse_label_config(LABEL_CONFIG) is parse_label_config(LABEL_CONFIG)
