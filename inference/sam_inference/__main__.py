"""`sam-worker`: parse the settings, run the server, say how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import sam_core
from sam_inference.config import Config, model_dir_of, parse_config
from sam_inference.engines import EngineError, choose_engine
from sam_inference.errors import ModelNotFoundError
from sam_inference.models import ModelFileError, find_models
from sam_inference.models.catalogue import CATALOGUE
from sam_inference.models.command import models_main
from sam_inference.models.pulling import pull
from sam_inference.registry import OfferedModel, Registry
from sam_inference.server import serve, when_stdin_closes

log = logging.getLogger("sam_inference")


def _offered_models(config: Config) -> dict[str, OfferedModel]:
    """Return the models that are there and that the engine can run.

    Raises:
        EngineError: the default model cannot be run.
        ModelFileError: a model's files are not as they should be.
    """
    models = {}
    for name, spec in find_models(config.model_dir).items():
        try:
            engine = choose_engine(config.engine, config.precision, spec)
        except EngineError as error:
            if name == config.model:
                raise
            log.warning("model not offered name=%s reason=%r", name, str(error))
        else:
            models[name] = OfferedModel(spec, engine)
    return models


async def _run(config: Config) -> None:
    models = _offered_models(config)
    registry = Registry(
        models,
        default=config.model,
        threads=config.threads,
        max_loaded_bytes=config.max_loaded_bytes,
    )
    engine = models[config.model].engine
    log.info(
        "engine=%s device=%s precision=%s threads=%d core=%s reason=%r",
        engine.name,
        engine.device,
        engine.precision,
        config.threads,
        sam_core.implementation,
        engine.reason,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if config.exit_with_parent:
        when_stdin_closes(lambda: loop.call_soon_threadsafe(stop.set))
    await serve(registry, config, stop)


def _fetch_if_missing(config: Config) -> None:
    """Pull the default model if it is one of the catalogue and not there yet."""
    entry = CATALOGUE.get(config.model)
    if entry is not None and entry.name not in find_models(config.model_dir):
        log.info("fetching model=%s url=%s bytes=%d", entry.name, entry.url, entry.size_bytes)
        pull(entry, config.model_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker until it is told to stop; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["models"]:
        return models_main(words[1:], model_dir_of(os.environ))
    config = parse_config(words)
    logging.basicConfig(
        level=config.log_level,
        stream=sys.stderr,
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
    )
    try:
        _fetch_if_missing(config)
        asyncio.run(_run(config))
    except (EngineError, ModelFileError, ModelNotFoundError, OSError) as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - the message says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
