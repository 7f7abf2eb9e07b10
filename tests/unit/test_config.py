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
        (["--threads", "0"], {}, "0 is not 1 or more"),
        (["--threads", "two"], {}, "two"),
        ([], {"SAM_ENGINE": "tensorflow"}, "'tensorflow' is not auto or one of"),
        ([], {"LOG_LEVEL": "LOUD"}, "'LOUD' is not DEBUG"),
    ],
)
def test_an_unusable_setting_ends_with_a_message(arguments, environ, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse_config(arguments, environ)

    assert end.value.code == 2
    assert message in capsys.readouterr().err
