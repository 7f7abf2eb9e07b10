"""Settings that a project of Label Studio has for itself.

They come with `/setup` as the extra parameters of the ML backend (Settings > Model), which Label
Studio sends before every batch: an object with the names of environment variables.
"""

import logging
from collections.abc import Mapping

import orjson

from sam_gateway.config import BATCH_SETTINGS, BatchOptions, ConfigError, parse_batch_options
from sam_gateway.logs import event

_logger = logging.getLogger(__name__)


class ProjectSettings:
    """What is predicted in each project: as it says itself, else as the gateway is set."""

    def __init__(self, default: BatchOptions) -> None:
        """Begin with no project known."""
        self._default = default
        self._batch: dict[int, BatchOptions] = {}
        # Why the extra parameters of a project cannot be used.
        self.mistakes: dict[int, str] = {}

    def remember_setup(self, project: object, extra_params: object) -> None:
        """Keep what `/setup` says; if any of it is no setting, it is noted why."""
        number = _number(project)
        if number is None:
            return
        self.mistakes.pop(number, None)
        self._batch.pop(number, None)
        try:
            settings = _settings(extra_params)
            self._batch[number] = parse_batch_options(settings, self._default)
        except ConfigError as error:
            self.mistakes[number] = f"extra params: {error}"
            _logger.warning(event("extra_params_unusable", project=number, message=error))

    def batch(self, project: int | None) -> BatchOptions:
        """Return what is predicted in a project: nothing if its own settings cannot be used."""
        if project is None:
            return self._default
        if project in self.mistakes:
            return BatchOptions()
        return self._batch.get(project, self._default)


def _number(project: object) -> int | None:
    """Read what Label Studio calls a project: `<id>.<time of creation>`."""
    head = str(project).partition(".")[0] if isinstance(project, str | int) else ""
    return int(head) if head.isascii() and head.isdigit() and len(head) < 16 else None


def _settings(extra_params: object) -> Mapping[str, str]:
    # Label Studio's form sends what is typed there as a text.
    if isinstance(extra_params, str):
        try:
            extra_params = orjson.loads(extra_params or "{}")
        except orjson.JSONDecodeError:
            raise ConfigError('expected JSON such as {"BATCH": "boxes"}') from None
    if not extra_params:
        return {}
    if not isinstance(extra_params, dict):
        raise ConfigError('expected an object such as {"BATCH": "boxes"}')
    settings = {str(name).upper(): str(value) for name, value in extra_params.items()}
    if unknown := settings.keys() - BATCH_SETTINGS:
        raise ConfigError(
            f"{min(unknown)} is no setting of a project; expected one of "
            f"{', '.join(BATCH_SETTINGS)}"
        )
    return settings
