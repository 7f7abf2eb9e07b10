"""`sam-worker`: parse the settings, run the server, say how it ended."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import sam_core
from sam_inference.config import Config, SettingError, check_cache_holds, model_dir_of, parse_config
from sam_inference.engines import EngineError, choose_engine
from sam_inference.models import ModelFileError, ModelSpec, find_models
from sam_inference.models.catalogue import CATALOGUE
from sam_inference.models.command import models_main
from sam_inference.models.importing import has_other_graphs
from sam_inference.models.pulling import pull
from sam_inference.registry import OfferedModel, Registry
from sam_inference.server import serve, when_stdin_closes

log = logging.getLogger("sam_inference")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _find_or_fetch(config: Config) -> dict[str, ModelSpec]:
    """Return the models that are there, the default one among them.

    It is pulled if it is one of the catalogue and not there yet.

    Raises:
        ModelFileError: the default model cannot be had, or its files are not as they should be.
    """
    found = find_models(config.model_dir)
    for problem in found.problems.values():
        log.warning("not offered reason=%r", str(problem))
    for name, spec in found.specs.items():
        if has_other_graphs(spec):
            log.warning(
                "graphs of another version name=%s; `sam-worker models update %s` brings those "
                "of this one",
                name,
                name,
            )
    entry = CATALOGUE.get(config.model)
    if entry is None or entry.name in found.specs or found.problem(entry.name):
        return found.specs | {config.model: found.spec(config.model)}
    log.info("fetching model=%s url=%s bytes=%d", entry.name, entry.url, entry.size_bytes)
    return found.specs | {entry.name: pull(entry, config.model_dir)}


def _offered_models(config: Config, specs: Mapping[str, ModelSpec]) -> dict[str, OfferedModel]:
    """Return the models that the engine can run, and whose embeddings can be held.

    Raises:
        EngineError: the default model cannot be run.
        SettingError: its embeddings cannot be held.
    """
    models = {}
    for name, spec in specs.items():
        try:
            check_cache_holds(spec, config)
            engine = choose_engine(config.engine, config.precision, spec)
        except (EngineError, SettingError) as error:
            if name == config.model:
                raise
            log.warning("model not offered name=%s reason=%r", name, str(error))
        else:
            models[name] = OfferedModel(spec, engine)
    return models


async def _run(config: Config, specs: Mapping[str, ModelSpec]) -> None:
    models = _offered_models(config, specs)
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
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    await serve(registry, config, stop)
    # All is in order by now. A model may still be loading in a thread, which nothing can stop
    # and an ordinary end would wait for.
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker until it is told to stop, or `sam-worker models`; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    place = argparse.ArgumentParser(prog="sam-worker", add_help=False, allow_abbrev=False)
    place.add_argument("--model-dir", type=Path, default=model_dir_of(os.environ))
    flags, others = place.parse_known_args(words)
    if others[:1] == ["models"]:
        _end_on_signals(lambda number: 128 + number)
        return models_main(others[1:], flags.model_dir)
    config = parse_config(words)
    logging.basicConfig(
        level=config.log_level,
        stream=sys.stderr,
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
    )
    _end_on_signals(lambda number: 0)
    if config.exit_with_parent:
        when_stdin_closes(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        asyncio.run(_run(config, _find_or_fetch(config)))
    except (EngineError, ModelFileError, SettingError, OSError) as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - the message says it all
        return 2 if isinstance(error, SettingError) else 1
    return 0


def _end_on_signals(status: Callable[[int], int]) -> None:
    """End with `status` of a signal, by an exception, so that nothing unfinished is left.

    The signals would end the process by themselves, but leave its files, and be ignored by the
    first process of a container.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(status(number))

    for number in _STOP_SIGNALS:
        signal.signal(number, end)


if __name__ == "__main__":
    sys.exit(main())
