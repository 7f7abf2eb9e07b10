"""What the gateway saw lately, for those who ask it why nothing happens."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from sam_gateway.errors import UNEXPECTED, GatewayError
from sam_gateway.images import ImageSource
from sam_gateway.label_config import MAX_CONFIG_CHARACTERS
from sam_gateway.label_studio import LabelStudio
from sam_gateway.prompts import PredictRequest
from sam_gateway.results import Region
from sam_gateway.segmenter import Fetcher

MAX_PREDICTIONS = 50

# What callers send is kept only so far.
_MAX_TEXT = 500

# How Label Studio introduces itself to its backends.
_LABEL_STUDIO_AGENT = "heartex/"


@dataclass(slots=True)
class Prediction:
    """One `POST /predict`; `reason` and `message` are set if it failed."""

    at: datetime
    task: str = ""
    prompts: int = 0
    tags: list[str] = field(default_factory=list)  # `name (type)` of the regions answered
    outcome: str = ""
    ms: float = 0.0
    reason: str = ""
    message: str = ""

    def asked(self, request: PredictRequest) -> None:
        """Note what is asked for."""
        ids = [str(task.id) for task in request.tasks]
        self.task = _shortened(ids[0]) if len(ids) == 1 else f"{len(ids)} tasks"
        self.prompts = len(request.prompts or ())

    def answered(self, found: list[Region]) -> None:
        """Note what is answered."""
        tags = dict.fromkeys(f"{r['from_name']} ({r['type']})" for r in found)
        self.tags = [_shortened(tag) for tag in tags]
        regions = len({region["id"] for region in found})
        self.outcome = f"{regions} region{'s' * (regions != 1)}"

    def predicted(self, tasks: int) -> None:
        """Note how many tasks are answered that nobody clicked in."""
        self.outcome = f"{tasks} predicted at once"


@dataclass(slots=True)
class ImageOutcomes:
    """When images of one kind of address were last had, and last not had."""

    had_at: datetime | None = None
    failed_at: datetime | None = None
    reason: str = ""
    message: str = ""

    @property
    def failing(self) -> bool:
        """Whether the last one was not had."""
        return self.failed_at is not None and (self.had_at is None or self.had_at < self.failed_at)


class History:
    """The last predictions, images and calls, in bounded memory."""

    def __init__(self) -> None:
        """Begin now, with nothing seen."""
        self.started = now()
        self.predictions: deque[Prediction] = deque(maxlen=MAX_PREDICTIONS)
        self.images: dict[str, ImageOutcomes] = {}
        self.label_config = ""
        # Label Studio's last call of each route.
        self.label_studio_calls: dict[str, datetime] = {}
        # Whether the last call that needs Basic credentials came without the right ones.
        self.label_studio_refused = False

    def saw_label_config(self, text: object, user_agent: str) -> None:
        """Note a labeling config that comes from Label Studio."""
        if isinstance(text, str) and text and user_agent.startswith(_LABEL_STUDIO_AGENT):
            self.label_config = text[: MAX_CONFIG_CHARACTERS + 1]  # one more than can be read

    def called(self, route: str, user_agent: str, status: int) -> None:
        """Note a request."""
        if user_agent.startswith(_LABEL_STUDIO_AGENT):
            self.label_studio_calls[route] = now()
            if status == 401 or route in ("setup", "predict"):
                self.label_studio_refused = status == 401

    @contextmanager
    def predicting(self) -> Iterator[Prediction]:
        """Note a prediction, however it ends."""
        prediction = Prediction(now())
        self.predictions.append(prediction)
        started = time.monotonic()
        try:
            yield prediction
            if not prediction.outcome:
                prediction.outcome = "nothing found" if prediction.prompts else "no prompts"
        except asyncio.CancelledError:
            prediction.outcome = "caller gone"
            raise
        except Exception as error:
            prediction.outcome = "failed"
            prediction.reason, prediction.message = _told(error)
            raise
        finally:
            prediction.ms = (time.monotonic() - started) * 1000

    @contextmanager
    def fetching(self, kind: str) -> Iterator[None]:
        """Note whether an image is had."""
        outcomes = self.images.setdefault(kind, ImageOutcomes())
        try:
            yield
            outcomes.had_at = now()
        except Exception as error:
            outcomes.failed_at = now()
            outcomes.reason, outcomes.message = _told(error)
            raise


class WatchedFetcher:
    """Notes for each kind of address whether images can be had."""

    def __init__(self, fetcher: Fetcher, history: History, label_studio: LabelStudio) -> None:
        """Fetch by `fetcher`, and note it in `history`."""
        self._fetcher = fetcher
        self._history = history
        self._label_studio = label_studio

    async def fetch(self, source: ImageSource) -> bytes:
        """Return the encoded image."""
        with self._history.fetching(image_kind(source, self._label_studio)):
            return await self._fetcher.fetch(source)


def image_kind(source: ImageSource, label_studio: LabelStudio) -> str:
    """Name the kind of an image's address."""
    if source.url is None:
        return "data URI"
    if not label_studio.serves(source.url):
        return "absolute URL"
    path = source.url.path
    for part, kind in (
        ("/data/upload/", "upload"),
        ("/data/local-files/", "local files"),
        ("/resolve/", "cloud storage"),
        ("/presign/", "cloud storage"),
    ):
        if part in path:
            return kind
    return "other path of Label Studio"


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(timezone.utc)


def _told(error: Exception) -> tuple[str, str]:
    if isinstance(error, GatewayError):
        return error.reason, _shortened(f"{error.field}: {error}" if error.field else str(error))
    return GatewayError.reason, UNEXPECTED


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
