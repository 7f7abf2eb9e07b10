"""What can go wrong in a call, read out of the gRPC status and its google.rpc details.

SamError
├── InvalidRequestError     the request can never work; `field` names the part at fault
├── ModelNotFoundError      no such model; `models` are those there are
├── EmbeddingNotFoundError  the worker does not hold the embedding; embed the image again
├── WorkerBusyError         the queue is full; try again after `retry_after_s`
├── WorkerUnavailableError  no worker there, or it is starting or stopping
└── DeadlineExceededError   no answer within `timeout_s`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_STATUS_DETAILS_KEY = "grpc-status-details-bin"

_Detail = TypeVar("_Detail", bound=Message)


class SamError(Exception):
    """A call failed. `str(error)` is the worker's message, `code` the gRPC status code."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        """Keep the worker's message and the status code."""
        super().__init__(message)
        self.code = code


class InvalidRequestError(SamError):
    """The worker refused the request, and will refuse it again."""

    def __init__(
        self, field: str, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
    ) -> None:
        """Keep the name of the field at fault, for example `prompts[1].points[0].x`."""
        super().__init__(message, code)
        self.field = field


class ModelNotFoundError(SamError):
    """The worker has no such model."""

    def __init__(self, models: tuple[str, ...], message: str) -> None:
        """Keep the names of the models that there are."""
        super().__init__(message, grpc.StatusCode.NOT_FOUND)
        self.models = models


class EmbeddingNotFoundError(SamError):
    """The worker does not hold the image's embedding: never embedded there, evicted, restarted."""


class WorkerBusyError(SamError):
    """The worker's queue is full."""

    def __init__(self, retry_after_s: float, message: str) -> None:
        """Keep the worker's advice on when to try again, in seconds."""
        super().__init__(message, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.retry_after_s = retry_after_s


class WorkerUnavailableError(SamError):
    """No worker answers at the target, or it is starting or stopping."""


class DeadlineExceededError(SamError):
    """The call took longer than its timeout."""


@contextmanager
def sam_errors() -> Iterator[None]:
    """Turn what a call of either channel fails with into the exception that says what it means."""
    try:
        yield
    except grpc.RpcError as error:
        raise _from_rpc_error(error) from error
    except grpc.aio.UsageError as error:  # of a closed channel for asyncio
        raise closed_client() from error


def closed_client() -> SamError:
    """Return the exception that says that the client was closed before the call."""
    return SamError("the client is closed", grpc.StatusCode.CANCELLED)


def _from_rpc_error(error: grpc.RpcError) -> SamError:
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    code = error.code()
    message = error.details() or code.name
    details = _status_details(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad_request = _find(details, error_details_pb2.BadRequest)
        violations = bad_request.field_violations if bad_request else ()
        return InvalidRequestError(violations[0].field if violations else "", message)
    if code is grpc.StatusCode.NOT_FOUND:
        info = _find(details, error_details_pb2.ErrorInfo)
        if info and info.reason == "MODEL_NOT_FOUND":
            models = info.metadata["models"].split(",") if info.metadata["models"] else ()
            return ModelNotFoundError(tuple(name.strip() for name in models), message)
        if info and info.reason == "EMBEDDING_NOT_FOUND":
            return EmbeddingNotFoundError(message, code)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry_info = _find(details, error_details_pb2.RetryInfo)
        if retry_info:
            return WorkerBusyError(retry_info.retry_delay.ToTimedelta().total_seconds(), message)
        # Without advice on when to retry it is not load: a message is larger than a side takes.
        return InvalidRequestError("", message + _limit_to_raise(message), code)
    if code is grpc.StatusCode.UNAVAILABLE:
        return WorkerUnavailableError(message, code)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(message, code)
    return SamError(f"{code.name}: {message}", code)


def _limit_to_raise(message: str) -> str:
    """Say which setting lets a message through, if gRPC said that it is too large, and for whom."""
    if "larger than" not in message:
        return ""
    if message.startswith("CLIENT"):
        return ": raise max_message_bytes of the client"
    return ": raise MAX_MESSAGE_MIB of the worker"


def _status_details(error: grpc.Call | grpc.aio.AioRpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:  # some proxy's own trailer; the code and message still stand
                return status_pb2.Status()
    return status


def _find(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    detail = kind()
    return detail if any(entry.Unpack(detail) for entry in status.details) else None
