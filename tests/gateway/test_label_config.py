"""Labeling configs: which tag holds what."""

import pytest

from gateway_support import LABEL_CONFIG, recorded
from sam_gateway.errors import InvalidRequestError, NoOutputTagError
from sam_gateway.label_config import MAX_CONFIG_CHARACTERS, Output, parse_label_config


def config_of(name):
    return parse_label_config(recorded(name)["body"]["label_config"])


def names(outputs: list[Output]):
    (output,) = outputs
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
    assert names(config_of(recording).outputs(to_name, labels)) == expected


def test_the_brush_with_the_label_wins():
    config = parse_label_config(
        """<View><Image name="i" value="$i"/>
        <BrushLabels name="animals" toName="i"><Label value="Cat"/></BrushLabels>
        <BrushLabels name="things" toName="i"><View><Label value="Car" alias="car"/></View>
        </BrushLabels>
        <Brush name="plain" toName="i"/><Labels name="l" toName="i"><Label value="Sky"/></Labels>
        </View>"""
    )

    assert names(config.outputs("i", ["car"])) == ("things", None)
    assert names(config.outputs("i", ["Cat"])) == ("animals", None)
    assert names(config.outputs("i", ["Sky"])) == ("plain", "l")
    assert names(config.outputs("i", ["Car"])) == ("animals", None)  # unknown: its alias counts
    assert names(config.outputs("i", [])) == ("animals", None)


def test_a_brush_alone_takes_masks_without_labels():
    config = parse_label_config(
        '<View><Image name="i" value="$i"/><Brush name="b" toName="i"/></View>'
    )

    assert names(config.outputs("i", [])) == ("b", None)


def test_tag_and_attribute_names_have_no_case():
    config = parse_label_config(
        '<view><image NAME="i" VALUE="$x"/><brushlabels name="b" toname="i, j">'
        '<label value="A"/></brushlabels></view>'
    )

    assert config.images["i"].key == "x"
    assert names(config.outputs("j", ["A"])) == ("b", None)


def test_an_image_list_has_its_key():
    assert config_of("ui_multi_image_page2").images["image"].key == "images"
    assert config_of("ui_second_of_two_images").images["img2"].key == "b"


@pytest.mark.parametrize(
    "config",
    [
        '<View><Image name="i" value="$i"/></View>',
        '<View><Image name="i" value="$i"/><KeyPointLabels name="p" toName="i">'
        '<Label value="Cat"/></KeyPointLabels></View>',
        '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="other">'
        '<Label value="Cat"/></BrushLabels></View>',
    ],
)
def test_a_config_without_a_place_for_masks_says_what_to_add(config):
    with pytest.raises(NoOutputTagError, match='<BrushLabels name="brush" toName="i">') as caught:
        parse_label_config(config).outputs("i", ("Cat",))

    assert caught.value.field == "label_config"


ALL_SHAPES = parse_label_config(
    """<View><Image name="i" value="$i"/>
    <RectangleLabels name="r" toName="i"><Label value="Cat"/></RectangleLabels>
    <EllipseLabels name="e" toName="i"><Label value="Cat"/></EllipseLabels>
    <VectorLabels name="v" toName="i"><Label value="Cat"/></VectorLabels>
    <PolygonLabels name="p" toName="i"><Label value="Dog"/></PolygonLabels>
    <BitmaskLabels name="m" toName="i"><Label value="Cow"/></BitmaskLabels>
    <BrushLabels name="b" toName="i"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
    <Polygon name="plain" toName="i"/><Labels name="l" toName="i"><Label value="Cat"/></Labels>
    </View>"""
)


@pytest.mark.parametrize(
    ("label", "shapes", "expected"),
    [
        ("Cat", (), ["b"]),
        ("Cow", (), ["m"]),
        ("Cat", ("polygon",), ["plain"]),
        ("Dog", ("polygon",), ["p"]),
        ("Cat", ("rectangle", "brush", "ellipse", "vector"), ["r", "b", "e", "v"]),
        ("Cow", ("brush", "bitmask", "rectangle"), ["m"]),
        ("Cow", ("brush", "rectangle"), ["b", "r"]),  # none has it: the labels may be others
    ],
)
def test_an_object_goes_where_its_label_is(label, shapes, expected):
    outputs = ALL_SHAPES.outputs("i", [label], shapes)

    assert [output.control.name for output in outputs] == expected


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [
        ("Rectangle Ellipse Vector Polygon Bitmask Brush", "brush"),
        ("Rectangle Ellipse Vector Polygon Bitmask", "bitmask"),
        ("Rectangle Ellipse Vector Polygon", "polygon"),
        ("Rectangle Ellipse Vector", "vector"),
        ("Rectangle Ellipse", "ellipse"),
        ("Rectangle", "rectangle"),
    ],
)
def test_the_most_exact_shape_is_chosen(kinds, chosen):
    tags = "".join(
        f'<{kind}Labels name="{kind}" toName="i"><Label value="Cat"/></{kind}Labels>'
        for kind in kinds.split()
    )
    config = parse_label_config(f'<View><Image name="i" value="$i"/>{tags}</View>')

    (output,) = config.outputs("i", ["Cat"])

    assert output.shape == chosen


def test_labels_from_the_task_data_hold_any_label():
    config = parse_label_config(
        """<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i" value="$labels"/>
        <RectangleLabels name="r" toName="i"><Label value="Cat"/></RectangleLabels></View>"""
    )

    assert names(config.outputs("i", ["Cat"])) == ("b", None)


def test_a_shape_that_is_asked_for_and_missing_is_named():
    with pytest.raises(
        NoOutputTagError, match=r'polygon or vector \(OUTPUT\).*<PolygonLabels name="polygon"'
    ):
        parse_label_config(LABEL_CONFIG).outputs("image", ["Cat"], ("polygon", "vector"))


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


@pytest.mark.parametrize(
    ("attributes", "smart"),
    [
        ("", True),
        ('smart="true"', True),
        ('smart="False"', False),
        ('smart="false" smartOnly="true"', True),
    ],
)
def test_a_tool_is_smart_unless_the_config_denies_it(attributes, smart):
    config = parse_label_config(f'<View><KeyPoint toName="image" {attributes}/></View>')

    assert config.controls[0].smart is smart


def test_configs_are_read_once():
    assert parse_label_config(LABEL_CONFIG) is parse_label_config(LABEL_CONFIG)
