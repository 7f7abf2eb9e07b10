"""Worker errors as gRPC status codes with `google.rpc` details.

The one place where the two meet. Details travel in the standard trailer
`grpc-status-details-bin` as a serialised `google.rpc.Status`.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sam_inference.errors import (
    EmbeddingNotFoundError,
    InvalidArgumentError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
    WorkerError,
)

ERROR_DOMAIN = "segment_anything.v1"
STATUS_TRAILER = "grpc-status-details-bin"


def status_of(error: WorkerError) -> tuple[grpc.StatusCode, Message | None]:
    """Return the status code of `error` and its detail message."""
    if isinstance(error, InvalidArgumentError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.problem
        )
        details = error_details_pb2.BadRequest(field_violations=[violation])
        return grpc.StatusCode.INVALID_ARGUMENT, details
    if isinstance(error, ModelNotFoundError):
        metadata = {"model": error.name, "models": ",".join(error.available)}
        return grpc.StatusCode.NOT_FOUND, _error_info("MODEL_NOT_FOUND", metadata)
    if isinstance(error, EmbeddingNotFoundError):
        metadata = {"image_id": error.image_id}
        return grpc.StatusCode.NOT_FOUND, _error_info("EMBEDDING_NOT_FOUND", metadata)
    if isinstance(error, OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        return grpc.StatusCode.RESOURCE_EXHAUSTED, error_details_pb2.RetryInfo(retry_delay=delay)
    if isinstance(error, UnavailableError):
        return grpc.StatusCode.UNAVAILABLE, None
    raise AssertionError(f"no status for {type(error).__name__}")


def trailers_of(
    code: grpc.StatusCode, message: str, details: Message | None
) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that carries `details`; empty without any."""
    if details is None:
        return ()
    packed = any_pb2.Any()
    packed.Pack(details)
    number, _ = code.value
    status = status_pb2.Status(code=number, message=message, details=[packed])
    return ((STATUS_TRAILER, status.SerializeToString()),)


def _error_info(reason: str, metadata: dict[str, str]) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)
