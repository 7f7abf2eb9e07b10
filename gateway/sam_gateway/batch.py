"""Predictions of whole tasks: what is ready in time is answered, the rest is stored later.

Label Studio asks for all selected tasks in one request, and gives up on it after 100 seconds.
"""

import asyncio
import enum
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from sam_gateway.config import MIB, BatchOptions
from sam_gateway.errors import UNEXPECTED, GatewayError, ImageUnavailableError, LabelStudioAuthError
from sam_gateway.label_studio_api import LabelStudioApi
from sam_gateway.logs import event
from sam_gateway.predictor import PredictedTask
from sam_gateway.prompts import Task

# Tasks held at once, and the characters of the texts in their data, which may be images.
MAX_TASKS = 20_000
MAX_CHARACTERS = 2**28
# Predictions to be stored; no more are made until there is room.
MAX_PREDICTIONS_BYTES = 256 * MIB
# Label Studio opens no task before it has the answer.
ANSWER_WITHIN_S = 10.0
# Where nothing can be stored later: well before a proxy gives up, often after 60 s.
ANSWER_ALONE_WITHIN_S = 45.0
# Of one task, where a later one may succeed.
MAX_ATTEMPTS = 8

# While one image is fetched, another is worked on.
_AT_ONCE = 2
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_TOKEN_TIMEOUT_S = 5.0
_MAX_FAILURES_TOLD = 50

_logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """Predicts tasks; raises GatewayError."""

    async def predict(
        self, task: Task, label_config: str, options: BatchOptions
    ) -> PredictedTask | None:
        """Return what is predicted for a task; None if that is nothing."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no prediction."""

    task: int | str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the tasks of a project are, since the start of the gateway.

    Attributes:
        project: its number, if it is known.
        mode: what is predicted.
        done: tasks whose prediction Label Studio got, or that have nothing to predict.
        waiting: tasks to be predicted, and predictions to be stored.
        kept: predictions that Label Studio did not take; it gets them when it asks again.
        failed: tasks without a prediction.
        failures: the last of these.
    """

    project: int | None
    mode: str
    done: int
    waiting: int
    kept: int
    failed: int
    failures: list[Failure]


class _State(enum.Enum):
    WAITING = enum.auto()  # for being predicted or, if it is, for being stored
    BUSY = enum.auto()
    RESTING = enum.auto()  # after a failure of its own, until it is tried again
    READY = enum.auto()  # for those who ask
    KEPT = enum.auto()
    GONE = enum.auto()


@dataclass(eq=False, slots=True)
class _Job:
    task: Task
    label_config: str
    options: BatchOptions
    characters: int
    settled: asyncio.Future[None]  # done when it is predicted, or cannot be soon
    state: _State = _State.WAITING
    askers: int = 0
    attempts: int = 0
    prediction: PredictedTask | None = None

    @property
    def key(self) -> tuple[int | None, int | str]:
        return self.task.project, self.task.id

    def is_for(self, task: Task, label_config: str, options: BatchOptions) -> bool:
        same_task = self.task.data == task.data and self.task.rectangles == task.rectangles
        return same_task and self.label_config == label_config and self.options == options


@dataclass(slots=True)
class _Project:
    mode: str = ""
    done: int = 0
    failures: OrderedDict[int | str, Failure] = field(default_factory=OrderedDict)


class Batch:
    """Predicts tasks in the background: the last asked for first, each once at a time."""

    def __init__(self, predictor: Predictor, api: LabelStudioApi, model_version: str) -> None:
        """Begin with nothing; see `run`."""
        self._predictor = predictor
        self._api = api
        self._model_version = model_version
        self._jobs: dict[tuple[int | None, int | str], _Job] = {}
        self._waiting: OrderedDict[tuple[int | None, int | str], _Job] = OrderedDict()
        self._projects: dict[int | None, _Project] = {}
        self._changed = asyncio.Event()
        self._characters = 0
        self._predictions_bytes = 0
        self._pause_s = 0.0
        # Why Label Studio takes no predictions, as far as is known.
        self.refusal: GatewayError | None = None

    async def answer(
        self, tasks: Sequence[Task], label_config: str, options: BatchOptions
    ) -> list[object]:
        """Return an entry a task: its prediction, or an empty list if that is not ready in time."""
        # The last to be added is the first to be worked on.
        jobs = [self._job(task, label_config, options) for task in reversed(tasks)][::-1]
        asked = [job for job in jobs if job]
        for job in asked:
            job.askers += 1
        try:
            await self._settle(asked)
            return [self._take(job) if job else [] for job in jobs]
        finally:
            for job in asked:
                job.askers -= 1
                if job.state is _State.READY and not job.askers:
                    self._wait(job)  # for being stored: who asked has gone

    async def run(self) -> None:
        """Work on what is asked for, until cancelled."""
        await asyncio.gather(*(self._work() for _ in range(_AT_ONCE)))

    def progress(self) -> list[Progress]:
        """Tell how far all projects are."""
        held = Counter((job.task.project, job.state is _State.KEPT) for job in self._jobs.values())
        return [
            Progress(
                number,
                project.mode,
                project.done,
                waiting=held[number, False],
                kept=held[number, True],
                failed=len(project.failures),
                failures=list(project.failures.values())[-_MAX_FAILURES_TOLD:],
            )
            for number, project in self._projects.items()
        ]

    def _job(self, task: Task, label_config: str, options: BatchOptions) -> _Job | None:
        """Return the job for a task, the next one to be worked on; None if there is no room.

        It is made now unless there is one for the same.
        """
        project = self._projects.setdefault(task.project, _Project())
        project.mode = options.mode
        job = self._jobs.get((task.project, task.id))
        if job and not job.is_for(task, label_config, options):
            self._leave(job)
            job = None
        if job is None:
            characters = _characters(task.data)
            settled = asyncio.get_running_loop().create_future()
            job = _Job(task, label_config, options, characters, settled)
            if len(self._jobs) >= MAX_TASKS or self._characters + characters > MAX_CHARACTERS:
                self._failed(job, "batch_full", f"{len(self._jobs)} tasks wait already")
                return None
            self._jobs[job.key] = job
            self._characters += characters
            project.failures.pop(task.id, None)
        self._wake(job)
        if job.state is _State.WAITING:
            self._wait(job)
            self._waiting.move_to_end(job.key, last=False)
        return job

    async def _settle(self, jobs: Sequence[_Job]) -> None:
        """Wait until jobs are settled, or for as long as Label Studio can be made to wait."""
        waiting = [job.settled for job in jobs if not job.settled.done()]
        if waiting:
            _, left = await asyncio.wait(waiting, timeout=ANSWER_WITHIN_S)
            if left and not await self._can_store():
                await asyncio.wait(left, timeout=ANSWER_ALONE_WITHIN_S - ANSWER_WITHIN_S)

    async def _can_store(self) -> bool:
        try:
            await asyncio.wait_for(self._api.check_token(), _TOKEN_TIMEOUT_S)
            self.refusal = None
        except asyncio.TimeoutError:  # there it is, and may have more time later
            pass
        except GatewayError as error:
            self.refusal = error
            return False
        return True

    def _take(self, job: _Job) -> object:
        """Answer a prediction, unless it is not ready, or given to somebody else."""
        prediction = job.prediction
        if prediction is None or job.state in (_State.BUSY, _State.GONE):
            return []
        self._done(job, "answered")
        return self._entry(prediction)

    async def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            job.state = _State.BUSY
            try:
                await self._advance(job)
                self._pause_s = 0.0
            except GatewayError as error:
                self._failing(job, error)
                # What fails for every job; the images of others may be elsewhere.
                if error.temporary and not isinstance(error, ImageUnavailableError):
                    self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                    await asyncio.sleep(self._pause_s)
            except Exception:  # the next one may do
                _logger.exception(event("batch_failed", project=job.task.project, task=job.task.id))
                if job.state is not _State.GONE:
                    self._failed(job, GatewayError.reason, UNEXPECTED)

    def _next(self) -> _Job | None:
        """Take the first that waits or, without room for predictions, the first to be stored."""
        full = self._predictions_bytes >= MAX_PREDICTIONS_BYTES
        job = next((job for job in self._waiting.values() if job.prediction or not full), None)
        return self._waiting.pop(job.key) if job else None

    async def _advance(self, job: _Job) -> None:
        """Predict a job's task unless that is done, and store it unless somebody waits for it.

        Raises GatewayError.
        """
        if job.prediction is None:
            started = time.monotonic()
            prediction = await self._predictor.predict(job.task, job.label_config, job.options)
            if job.state is _State.GONE:  # another one is there in its place
                return
            if prediction is None:
                self._done(job, "nothing_found")
                return
            job.prediction = prediction
            self._predictions_bytes += len(prediction.result)
            job.settled.set_result(None)
            _logger.info(
                event(
                    "batch_predicted",
                    project=job.task.project,
                    task=job.task.id,
                    regions=prediction.regions,
                    ms=(time.monotonic() - started) * 1000,
                )
            )
        if job.askers:
            job.state = _State.READY
        else:
            self._done(job, await self._store(job.task, job.prediction))

    async def _store(self, task: Task, prediction: PredictedTask) -> str:
        """Store a prediction unless there is one of this version; return what came of it."""
        stored = await self._api.predictions(task.id)
        self.refusal = None
        if any(other.get("model_version") == self._model_version for other in stored):
            return "there_already"
        await self._api.add_prediction({"task": task.id, **self._entry(prediction)})
        return "stored"

    def _entry(self, prediction: PredictedTask) -> dict[str, object]:
        return {
            "result": orjson.Fragment(prediction.result),
            "score": prediction.score,
            "model_version": self._model_version,
        }

    def _failing(self, job: _Job, error: GatewayError) -> None:
        """Try a job again later, keep its prediction for who asks for it again, or give it up."""
        job.attempts += 1
        if job.state is _State.GONE:
            return
        if error.temporary and job.attempts < MAX_ATTEMPTS:
            if isinstance(error, ImageUnavailableError):
                self._rest(job)
            else:
                self._wait(job)
        elif job.prediction and (error.temporary or isinstance(error, LabelStudioAuthError)):
            job.state = _State.KEPT
            self.refusal = error
        else:
            self._failed(job, error.reason, str(error), error.field)
            return
        self._log(logging.WARNING, job, "later", error.reason, str(error))

    def _failed(self, job: _Job, reason: str, message: str, field: str | None = None) -> None:
        self._leave(job)
        failures = self._projects[job.task.project].failures
        failures[job.task.id] = Failure(job.task.id, reason, message)
        if len(failures) > MAX_TASKS:
            failures.popitem(last=False)
        self._log(logging.WARNING, job, "failed", reason, message, field)

    def _done(self, job: _Job, outcome: str) -> None:
        self._leave(job)
        self._projects[job.task.project].done += 1
        self._log(logging.INFO, job, outcome)

    def _wait(self, job: _Job) -> None:
        job.state = _State.WAITING
        self._waiting[job.key] = job
        self._changed.set()

    def _rest(self, job: _Job) -> None:
        """Try a job again after a pause, or when it is asked for; nobody waits for it so long."""
        job.state = _State.RESTING
        job.settled.set_result(None)
        pause_s = min(_FIRST_PAUSE_S * 2 ** (job.attempts - 1), _LONGEST_PAUSE_S)
        asyncio.get_running_loop().call_later(pause_s, self._wake, job)

    def _wake(self, job: _Job) -> None:
        if job.state is _State.RESTING:
            job.settled = asyncio.get_running_loop().create_future()
            self._wait(job)

    def _leave(self, job: _Job) -> None:
        job.state = _State.GONE
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
            self._waiting.pop(job.key, None)
            self._characters -= job.characters
            self._predictions_bytes -= len(job.prediction.result) if job.prediction else 0
        if not job.settled.done():
            job.settled.set_result(None)
        self._changed.set()

    def _log(
        self,
        level: int,
        job: _Job,
        outcome: str,
        reason: str | None = None,
        message: str | None = None,
        field: str | None = None,
    ) -> None:
        _logger.log(
            level,
            event(
                "batch_task",
                project=job.task.project,
                task=job.task.id,
                outcome=outcome,
                reason=reason,
                field=field,
                message=message,
                left=len(self._jobs),
            ),
        )


def _characters(data: object) -> int:
    """Count the characters of all texts in task data, such as those of a list of data URIs."""
    count, pending = 0, [data]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return count
