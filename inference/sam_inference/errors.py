"""What the worker refuses, and why.

    WorkerError
    ├── InvalidArgumentError     the request is wrong, `field` says where
    ├── ModelNotFoundError       no such model
    ├── EmbeddingNotFoundError   the worker does not hold this image: embed it again
    ├── OverloadedError          the queue is full, try again later
    └── UnavailableError         starting or stopping

`status.py` is the one place where they become gRPC status codes.
"""

from __future__ import annotations

from collections.abc import Sequence


class WorkerError(Exception):
    """A refusal that the caller is told about."""


class InvalidArgumentError(WorkerError):
    """A request field holds something that cannot be used."""

    def __init__(self, field: str, problem: str) -> None:
        """`field` is the path in the request message, for example `prompts[0].box`."""
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ModelNotFoundError(WorkerError):
    """The named model is not among those that this worker offers."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        """`available` are the names that can be asked for."""
        super().__init__(f"no model named {name!r}; there are: {', '.join(available) or 'none'}")
        self.name = name
        self.available = tuple(available)


class EmbeddingNotFoundError(WorkerError):
    """The store does not hold the embedding of an image id."""

    def __init__(self, image_id: str) -> None:
        """`image_id` is what was asked for."""
        super().__init__(f"no embedding is held for image id {image_id!r}; call Embed again")
        self.image_id = image_id


class OverloadedError(WorkerError):
    """More requests wait than the queue may hold."""

    def __init__(self, queue: str, limit: int, retry_after_ms: int) -> None:
        """`limit` is the number of requests that may wait in `queue`."""
        super().__init__(f"the {queue} queue is full ({limit} requests); try again later")
        self.retry_after_ms = retry_after_ms


class UnavailableError(WorkerError):
    """The worker cannot answer now: models are loading, or it is stopping."""
