from pathlib import Path

import pytest

from sam_inference.config import MIB, parse_config


def test_a_flag_wins_over_the_environment_and_that_over_the_default():
    environ = {"SAM_LISTEN": "127.0.0.1:1", "SAM_THREADS": "3", "MODEL_DIR": "models"}

    config = parse_config(["--listen", "unix:/tmp/s"], environ)

    assert config.listen == "unix:/tmp/s"
    assert config.threads == 3
    assert config.model_dir == Path("models")
    assert config.embedding_cache_bytes == 512 * MIB
    assert config.model == "quickstart"


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--threads", "0"], {}, "--threads: '0' is not a whole number, from 1 to 4096"),
        (["--threads", "two"], {}, "'two' is not a whole number"),
        ([], {"SAM_THREADS": "abc"}, "'abc' is not a whole number, from 1 to 4096 [SAM_THREADS]"),
        ([], {"MODEL_MEMORY_MIB": "-1"}, "'-1' is not a whole number, 1 or more"),
        ([], {"MAX_MESSAGE_MIB": "2048"}, "'2048' is not a whole number, from 1 to 2047"),
        ([], {"MAX_IMAGE_PIXELS": str(1 << 32)}, f"from 1 to {(1 << 32) - 1} [MAX_IMAGE_PIXELS]"),
        ([], {"MAX_PROMPTS": str(1 << 32)}, f"from 1 to {(1 << 32) - 1}"),
        ([], {"MAX_POINTS": str(1 << 32)}, f"from 1 to {(1 << 32) - 1}"),
        ([], {"SAM_ENGINE": "tensorflow"}, "'tensorflow' is not auto, openvino, "),
        ([], {"SAM_ENGINE": "triton:here"}, "'triton:here' is not auto, openvino, "),
        ([], {"SAM_ENGINE": "triton:here:65536"}, "or triton:host:port [SAM_ENGINE]"),
        (["--listen", "localhost"], {}, "'localhost' is not host:port, with a port up to 65535"),
        ([], {"SAM_LISTEN": "unix:"}, "'unix:' is not host:port"),
        ([], {"SAM_LISTEN": "[::]:65536"}, "'[::]:65536' is not host:port"),
        ([], {"LOG_LEVEL": "LOUD"}, "'LOUD' is not DEBUG"),
    ],
)
def test_an_unusable_setting_ends_with_a_message(arguments, environ, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(arguments, environ)

    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_help_tells_of_the_models_command(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"], {})

    assert "sam-worker models" in capsys.readouterr().out
