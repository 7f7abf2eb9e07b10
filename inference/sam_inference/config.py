"""The worker's settings, from flags and the environment."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam_inference.engines import ENGINES, PRECISIONS, TRITON
from sam_inference.models import DEFAULT_MODEL

MIB = 1 << 20


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
        description="Serve Segment Anything models over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(
        flag: str, variable: str, default: str, convert: Callable[[str], object], text: str
    ) -> None:
        parser.add_argument(
            flag,
            default=environ.get(variable) or default,
            type=convert,
            help=f"{text} [{variable}]",
            metavar=variable,
        )

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--listen", "SAM_LISTEN", "127.0.0.1:50051", str, "host:port or unix:/path/of/socket")
    add("--model", "SAM_MODEL", DEFAULT_MODEL, str, "default model")
    add(
        "--model-dir",
        "MODEL_DIR",
        str(model_dir_of(environ)),
        Path,
        "folder with further models, one folder each",
    )
    engines = f"auto, {', '.join(ENGINES)} or {TRITON}host:port"
    add("--engine", "SAM_ENGINE", "auto", _engine, engines)
    add(
        "--precision",
        "SAM_PRECISION",
        "auto",
        _one_of(PRECISIONS),
        f"arithmetic of the image encoder: auto, {', '.join(PRECISIONS)}",
    )
    add("--threads", "SAM_THREADS", str(cores or 1), _positive, "CPU threads a network may use")
    add("--model-memory-mib", "MODEL_MEMORY_MIB", "4096", _positive, "weights of loaded models")
    add("--embedding-cache-mib", "EMBEDDING_CACHE_MIB", "512", _positive, "memory for embeddings")
    add("--max-message-mib", "MAX_MESSAGE_MIB", "64", _positive, "largest message read")
    add("--max-image-pixels", "MAX_IMAGE_PIXELS", "100000000", _positive, "largest image")
    add("--max-prompts", "MAX_PROMPTS", "256", _positive, "most prompts of a request")
    add("--max-points", "MAX_POINTS", "256", _positive, "most points of a prompt")
    add(
        "--max-requests", "MAX_REQUESTS", "64", _positive, "requests of a kind held before refusing"
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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _engine(text: str) -> str:
    if text.startswith(TRITON) and re.fullmatch(r".+:\d+", text.removeprefix(TRITON)):
        return text
    return _one_of(ENGINES)(text)


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
