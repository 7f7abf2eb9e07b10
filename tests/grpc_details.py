"""Reads what travels beside a gRPC error."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

M = TypeVar("M", bound=Message)


def details_of(error: grpc.RpcError, kind: type[M]) -> M:
    """Return the one detail message of `error`, which must be of `kind`."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    (packed,) = status.details
    message = kind()
    assert packed.Unpack(message)
    return message
