"""The models of this worker: which there are, and those that are loaded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from sam_inference.engines import EngineChoice, open_engine
from sam_inference.errors import ModelNotFoundError
from sam_inference.models import ModelSpec
from sam_inference.predictor import Predictor

log = logging.getLogger(__name__)


class Registry:
    """Loads a model when it is first asked for, once."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], *, default: str, engine: EngineChoice, threads: int
    ) -> None:
        """Offer `specs`, run by `engine`.

        Raises:
            ModelNotFoundError: `default` is not among them.
        """
        self._specs = dict(specs)
        self.engine = engine
        self._threads = threads
        self._predictors: dict[str, Predictor] = {}
        self._loading = {name: asyncio.Lock() for name in specs}
        self.default = self.spec(default).name

    @property
    def specs(self) -> list[ModelSpec]:
        """All models, the default one first."""
        return sorted(self._specs.values(), key=lambda spec: spec.name != self.default)

    def spec(self, name: str) -> ModelSpec:
        """Return the spec of the model `name`; an empty name means the default.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        try:
            return self._specs[name or self.default]
        except KeyError:
            raise ModelNotFoundError(name, list(self._specs)) from None

    async def predictor(self, spec: ModelSpec) -> Predictor:
        """Return the loaded model of `spec`.

        Raises:
            EngineError: its files cannot be loaded.
        """
        async with self._loading[spec.name]:
            if spec.name not in self._predictors:
                start = time.perf_counter()
                engine = await asyncio.to_thread(
                    open_engine, self.engine, spec, threads=self._threads
                )
                self._predictors[spec.name] = Predictor(spec, engine)
                log.info(
                    "model loaded name=%s engine=%s device=%s precision=%s ms=%.0f",
                    spec.name,
                    self.engine.name,
                    self.engine.device,
                    self.engine.precision,
                    (time.perf_counter() - start) * 1e3,
                )
            return self._predictors[spec.name]
