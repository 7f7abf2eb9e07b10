"""Settings from flags and the environment."""

import ipaddress

import pytest
from yarl import URL

from sam_api.v1 import segment_anything_pb2 as pb
from sam_gateway.automatic import AutomaticOptions
from sam_gateway.config import BatchOptions, Config, ConfigError, parse_config
from sam_gateway.shapes import ShapeOptions


def test_without_settings_there_are_defaults():
    assert parse_config([], {}) == Config()
    assert parse_config([], {"PORT": " ", "LABEL_STUDIO_URL": ""}) == Config()


def test_the_names_of_the_example_backend_mean_the_same():
    config = parse_config(
        [],
        {
            "LABEL_STUDIO_HOST": "http://ls:8080/labelstudio/",
            "LABEL_STUDIO_ACCESS_TOKEN": "token",
            "BASIC_AUTH_USER": "user",
            "BASIC_AUTH_PASS": "password",
            "LOG_LEVEL": "debug",
            "HOST": "0.0.0.0",
            "PORT": "9191",
        },
    )

    assert config.label_studio_url == URL("http://ls:8080/labelstudio")
    assert config.label_studio_token == "token"
    assert config.basic_auth == ("user", "password")
    assert config.log_level == "DEBUG"
    assert (config.host, config.port) == ("0.0.0.0", 9191)


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({"SAM_CHOICE": "MobileSAM"}, "mobile_sam"),
        ({"SAM_CHOICE": "SAM"}, "sam_vit_h"),
        ({"SAM_CHOICE": "ONNX"}, "sam_vit_h"),
        ({"SAM_CHOICE": "SAM", "SAM_MODEL": "cells"}, "cells"),
    ],
)
def test_the_choice_of_the_example_backend_names_a_model(environment, model):
    assert parse_config([], environment).model == model


def test_the_newer_names_win():
    config = parse_config(
        [],
        {
            "LABEL_STUDIO_HOST": "http://old",
            "LABEL_STUDIO_URL": "https://new",
            "LABEL_STUDIO_ACCESS_TOKEN": "old",
            "LABEL_STUDIO_API_KEY": "new",
        },
    )

    assert config.label_studio_url == URL("https://new")
    assert config.label_studio_token == "new"


def test_a_flag_wins_over_the_environment():
    config = parse_config(
        [
            "--host",
            "::1",
            "--port",
            "0",
            "--worker",
            "w:1",
            "--model",
            "m",
            "--path-prefix",
            "a/b/",
        ],
        {"HOST": "h", "PORT": "1", "SAM_WORKER": "x:2", "SAM_MODEL": "n", "PATH_PREFIX": "/c"},
    )

    assert (config.host, config.port) == ("::1", 0)
    assert (config.worker, config.model, config.path_prefix) == ("w:1", "m", "/a/b")


def test_the_model_is_part_of_the_version():
    assert Config().model_version.startswith("samserve-")
    assert Config(model="mobile_sam").model_version.endswith("-mobile_sam")


def test_allowed_hosts_are_names_addresses_and_networks():
    allowed = parse_config(
        [], {"ALLOWED_IMAGE_HOSTS": "Images.local, 10.0.0.0/8 192.168.1.7,[::1]"}
    ).allowed_image_hosts

    assert allowed.names == {"images.local"}
    assert allowed.networks == tuple(
        map(ipaddress.ip_network, ("10.0.0.0/8", "192.168.1.7", "::1"))
    )


def test_shapes_are_names_in_the_order_of_writing():
    options = parse_config(
        [],
        {
            "OUTPUT": "Polygon, brush,,polygon",
            "POLYGON_TOLERANCE": "2.5",
            "MIN_REGION_PIXELS": "50",
            "MIN_HOLE_PIXELS": "0",
        },
    ).shape_options

    assert options == ShapeOptions(
        kinds=("polygon", "brush"), polygon_tolerance=2.5, min_region_pixels=50
    )


def test_what_is_predicted_for_whole_tasks_is_set():
    options = parse_config(
        [],
        {
            "BATCH": "Automatic",
            "AUTOMATIC_POINTS_PER_SIDE": "16",
            "AUTOMATIC_MIN_IOU": "0.4",
            "AUTOMATIC_MAX_MASKS": "7",
        },
    ).batch

    assert options == BatchOptions(
        mode="automatic",
        automatic=AutomaticOptions(points_per_side=16, min_predicted_iou=0.4, max_masks=7),
    )


@pytest.mark.parametrize("max_image_bytes", [1, 64 * 2**20, 100 * 2**20, 2**31 - 2**12 - 1])
def test_a_message_to_the_worker_holds_the_largest_image(max_image_bytes):
    config = parse_config([], {"MAX_IMAGE_BYTES": str(max_image_bytes)})

    embed = pb.EmbedRequest(model="m" * 100, priority=pb.PRIORITY_BACKGROUND)
    fields_bytes = embed.ByteSize() + 10  # tag and length of the image
    assert max_image_bytes + fields_bytes <= config.max_message_bytes < 2**31
    assert config.max_message_bytes >= 64 * 2**20, "answers need no less than before"


def test_secrets_are_not_shown():
    config = parse_config(
        [],
        {"LABEL_STUDIO_API_KEY": "hunter2", "BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": "hunter3"},
    )

    assert "hunter" not in repr(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAM_CHOICE", "mobile"),
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("SAM_WORKER", "worker"),
        ("SAM_WORKER", "worker:65536"),
        ("SAM_WORKER", "unix:"),
        ("LABEL_STUDIO_URL", "ftp://ls"),
        ("LABEL_STUDIO_URL", "http://"),
        ("LABEL_STUDIO_URL", "http://ls:port"),
        ("LABEL_STUDIO_URL", "http://user:hunter2@ls"),
        ("LABEL_STUDIO_API_KEY", "a b"),
        ("LABEL_STUDIO_API_KEY", "hunter2\nX: y"),
        ("BASIC_AUTH_USER", "user"),
        ("BASIC_AUTH_PASS", "hunter2"),
        ("MAX_IMAGE_BYTES", "64M"),
        ("MAX_IMAGE_BYTES", str(2**31)),
        ("MAX_BODY_BYTES", "0"),
        ("IMAGE_TIMEOUT_S", "0"),
        ("PREDICT_TIMEOUT_S", "nan"),
        ("ALLOWED_IMAGE_HOSTS", "http://x"),
        ("PATH_PREFIX", "/a?b"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_LEVEL", "CRITICAL"),  # the worker knows no such level
        ("OUTPUT", "brush,mask"),
        ("POLYGON_TOLERANCE", "-1"),
        ("POLYGON_TOLERANCE", "inf"),
        ("MIN_REGION_PIXELS", "1.5"),
        ("MIN_HOLE_PIXELS", "-1"),
        ("BATCH", "everything"),
        ("AUTOMATIC_POINTS_PER_SIDE", "0"),
        ("AUTOMATIC_POINTS_PER_SIDE", "65"),
        ("AUTOMATIC_MIN_IOU", "1.1"),
        ("AUTOMATIC_MIN_STABILITY", "-0.1"),
        ("AUTOMATIC_MAX_MASKS", "0"),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        parse_config([], {name: value})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("port", ["70000", "x"])
def test_a_wrong_flag_is_named_as_its_variable(port):
    with pytest.raises(ConfigError, match=f"PORT: expected .*'{port}'"):
        parse_config(["--port", port], {})


def test_an_unknown_flag_ends_the_command(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(["--nonsense"], {})

    assert caught.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
