"""The models of this worker: which there are, and those that are loaded."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from sam_inference.engines import EngineChoice, open_engine
from sam_inference.errors import ModelNotFoundError
from sam_inference.models import ModelSpec
from sam_inference.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model that can be asked for, and how it is run."""

    spec: ModelSpec
    engine: EngineChoice


class Registry:
    """Loads models when they are first asked for, and unloads those not asked for lately."""

    def __init__(
        self,
        models: Mapping[str, OfferedModel],
        *,
        default: str,
        threads: int,
        max_loaded_bytes: int,
    ) -> None:
        """Offer `models`.

        Args:
            models: by name.
            default: the name meant by an empty one.
            threads: CPU threads that one network may use.
            max_loaded_bytes: bound on the files of the loaded models together; a model that
                exceeds it is loaded alone.

        Raises:
            ModelNotFoundError: `default` is not among them.
        """
        self._models = dict(models)
        self._threads = threads
        self._max_loaded_bytes = max_loaded_bytes
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._loads: dict[str, asyncio.Task[Predictor]] = {}
        # One load at a time: it takes all cores, and room is made for one.
        self._loading = asyncio.Lock()
        self.default = default
        self.spec(default)

    @property
    def models(self) -> list[OfferedModel]:
        """All models, the default one first."""
        return sorted(self._models.values(), key=lambda model: model.spec.name != self.default)

    def spec(self, name: str) -> ModelSpec:
        """Return the spec of the model `name`; an empty name means the default.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        try:
            return self._models[name or self.default].spec
        except KeyError:
            raise ModelNotFoundError(name, list(self._models)) from None

    async def predictor(self, spec: ModelSpec) -> Predictor:
        """Return the loaded model of `spec`.

        Raises:
            EngineError: its files cannot be loaded.
        """
        if spec.name in self._loaded:
            self._loaded.move_to_end(spec.name)
            return self._loaded[spec.name]
        if spec.name not in self._loads:
            load = asyncio.create_task(self._load(self._models[spec.name]))
            # Its error is for those who wait, and they may all have gone.
            load.add_done_callback(lambda load: load.cancelled() or load.exception())
            self._loads[spec.name] = load
        # A load goes on when the caller goes: its thread cannot be stopped, and the next caller
        # would begin another beside it.
        return await asyncio.shield(self._loads[spec.name])

    async def load_default(self) -> None:
        """Load the default model, and hold it no longer than others.

        Raises:
            EngineError: its files cannot be loaded.
        """
        await self.predictor(self.spec(""))

    def close(self) -> None:
        """Unload all models, so that what they hold elsewhere is given back."""
        self._loaded.clear()
        gc.collect()  # of what the tracebacks of failed calls hold in cycles

    async def _load(self, model: OfferedModel) -> Predictor:
        spec, choice = model.spec, model.engine
        try:
            async with self._loading:
                start = time.perf_counter()
                self._make_room(spec.file_bytes)
                engine = await asyncio.to_thread(open_engine, choice, spec, threads=self._threads)
                self._loaded[spec.name] = Predictor(spec, engine)
        finally:
            del self._loads[spec.name]
        log.info(
            "model loaded name=%s engine=%s device=%s precision=%s ms=%.0f",
            spec.name,
            choice.name,
            choice.device,
            choice.precision,
            (time.perf_counter() - start) * 1e3,
        )
        return self._loaded[spec.name]

    def _make_room(self, needed_bytes: int) -> None:
        """Unload what was not used for longest; work that runs on it keeps it until its end."""
        held_bytes = sum(predictor.spec.file_bytes for predictor in self._loaded.values())
        while self._loaded and held_bytes + needed_bytes > self._max_loaded_bytes:
            name, predictor = self._loaded.popitem(last=False)
            held_bytes -= predictor.spec.file_bytes
            log.info("model unloaded name=%s", name)
