"""The worker's settings, from flags and the environment."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam_inference.engines import ENGINES, PRECISIONS, TRITON
from sam_inference.models import DEFAULT_MODEL, ModelSpec

MIB = 1 << 20

# gRPC keeps its limits in signed integers of 32 bits, and ListModels tells them in unsigned ones.
_MAX_MESSAGE_MIB = (1 << 31) // MIB - 1
_MAX_UINT32 = (1 << 32) - 1

# More than any machine's cores; engines make so many threads at once.
_MAX_THREADS = 4096

_MAX_PORT = 65535
_ENGINES = f"auto, {', '.join(ENGINES)} or {TRITON}host:port"


class SettingError(ValueError):
    """A setting cannot be used with the models that there are."""


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one worker; the README's table explains each."""

    listen: str
    model: str
    model_dir: Path
    engine: str
    precision: str
    threads: int
    embedding_cache_bytes: int
    max_loaded_bytes: int
    max_message_bytes: int
    max_image_pixels: int
    max_prompts: int
    max_points: int
    max_requests: int
    exit_with_parent: bool
    log_level: str


def parse_config(
    arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Return the settings of a command line; a flag wins over its environment variable.

    Raises:
        SystemExit: a flag or variable is not usable (status 2, with a message), or help
            was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="sam-worker",
        usage="sam-worker [SETTINGS] | sam-worker models ...",
        description="Serve Segment Anything models over gRPC.",
        epilog="`sam-worker models` lists, fetches, checks and imports models: see its --help.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(
        flag: str, variable: str, default: str, convert: Callable[[str], object], text: str
    ) -> None:
        def named(text: str) -> object:
            try:
                return convert(text)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"{error} [{variable}]") from None

        parser.add_argument(
            flag,
            default=environ.get(variable) or default,
            type=named,
            help=f"{text} [{variable}]",
            metavar=variable,
        )

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--listen", "SAM_LISTEN", "127.0.0.1:50051", _address, "host:port or unix:/path/of/socket")
    add("--model", "SAM_MODEL", DEFAULT_MODEL, str, "default model")
    add(
        "--model-dir",
        "MODEL_DIR",
        str(model_dir_of(environ)),
        Path,
        "folder with further models, one folder each",
    )
    add("--engine", "SAM_ENGINE", "auto", _engine, _ENGINES)
    add(
        "--precision",
        "SAM_PRECISION",
        "auto",
        _one_of(PRECISIONS),
        f"arithmetic of the image encoder: auto, {', '.join(PRECISIONS)}",
    )
    add(
        "--threads",
        "SAM_THREADS",
        str(cores or 1),
        _integer(_MAX_THREADS),
        "CPU threads a network may use",
    )
    add("--model-memory-mib", "MODEL_MEMORY_MIB", "4096", _integer(), "weights of loaded models")
    add("--embedding-cache-mib", "EMBEDDING_CACHE_MIB", "512", _integer(), "memory for embeddings")
    add(
        "--max-message-mib",
        "MAX_MESSAGE_MIB",
        "64",
        _integer(_MAX_MESSAGE_MIB),
        "largest message read",
    )
    add(
        "--max-image-pixels",
        "MAX_IMAGE_PIXELS",
        "100000000",
        _integer(_MAX_UINT32),
        "largest image",
    )
    add("--max-prompts", "MAX_PROMPTS", "256", _integer(_MAX_UINT32), "most prompts of a request")
    add("--max-points", "MAX_POINTS", "256", _integer(_MAX_UINT32), "most points of a prompt")
    add(
        "--max-requests",
        "MAX_REQUESTS",
        "64",
        _integer(),
        "requests of a kind held before refusing",
    )
    add("--log-level", "LOG_LEVEL", "INFO", _log_level, "DEBUG, INFO, WARNING or ERROR")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop when standard input is closed"
    )
    flags = parser.parse_args(arguments)
    return Config(
        listen=flags.listen,
        model=flags.model,
        model_dir=flags.model_dir,
        engine=flags.engine,
        precision=flags.precision,
        threads=flags.threads,
        max_loaded_bytes=flags.model_memory_mib * MIB,
        embedding_cache_bytes=flags.embedding_cache_mib * MIB,
        max_message_bytes=flags.max_message_mib * MIB,
        max_image_pixels=flags.max_image_pixels,
        max_prompts=flags.max_prompts,
        max_points=flags.max_points,
        max_requests=flags.max_requests,
        exit_with_parent=flags.exit_with_parent,
        log_level=flags.log_level,
    )


def model_dir_of(environ: Mapping[str, str]) -> Path:
    """Return where models are: MODEL_DIR, or a place in the user's data folder."""
    if environ.get("MODEL_DIR"):
        return Path(environ["MODEL_DIR"])
    data = environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "samserve" / "models"


def check_cache_holds(spec: ModelSpec, config: Config) -> None:
    """Check that an embedding of a model can be held.

    Raises:
        SettingError: it cannot: each Embed would be followed by an embedding not found.
    """
    if spec.embedding_bytes > config.embedding_cache_bytes:
        raise SettingError(
            f"EMBEDDING_CACHE_MIB is {config.embedding_cache_bytes // MIB}, but one embedding of "
            f"{spec.name} has {spec.embedding_bytes} bytes; set it to "
            f"{math.ceil(spec.embedding_bytes / MIB)} or more"
        )


def _integer(most: int | None = None) -> Callable[[str], int]:
    expected = "1 or more" if most is None else f"from 1 to {most}"

    def convert(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else 0
        if value < 1 or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {expected}")
        return value

    return convert


def _address(text: str) -> str:
    if re.fullmatch(r"unix(-abstract)?:.+", text) or _is_host_and_port(text):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is not host:port, with a port up to {_MAX_PORT}, or unix:/path/of/socket"
    )


def _is_host_and_port(text: str) -> bool:
    match = re.fullmatch(r".+:([0-9]{1,5})", text)
    return match is not None and int(match[1]) <= _MAX_PORT


def _engine(text: str) -> str:
    if text in ("auto", *ENGINES):
        return text
    if text.startswith(TRITON) and _is_host_and_port(text.removeprefix(TRITON)):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not {_ENGINES}")


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in ("auto", *names):
            raise argparse.ArgumentTypeError(f"{text!r} is not auto or one of {', '.join(names)}")
        return text

    return convert


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise argparse.ArgumentTypeError(f"{text!r} is not DEBUG, INFO, WARNING or ERROR")
    return level
